"""lsr.index.cli: the commands that build, change, search and export an index."""
