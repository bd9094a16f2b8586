"""lsr.index.serve: indexes over HTTP, and a client with the interface of an index."""
