"""lsr.index.search: search and explain one snapshot of an index."""
