"""lsr.index.distributed: shards built and searched by many processes or machines."""
