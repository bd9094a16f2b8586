"""lsr.index.distributed: build and search shards with many processes or machines."""
