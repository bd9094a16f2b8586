"""lsr.index.sharding: a folder of shards as one index in this process, and indexes in object storage."""
