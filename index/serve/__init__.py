"""lsr.index.serve: indexes over HTTP, and the client that has an index' face."""
