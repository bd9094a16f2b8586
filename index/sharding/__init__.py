"""lsr.index.sharding: a folder of shards opened as one index in this process, and indexes in object storage."""
