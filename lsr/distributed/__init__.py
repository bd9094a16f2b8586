"""lsr.distributed: the same work on many jobs, in this process or on a Ray cluster."""
