"""lsr.distributed: run many jobs of one kind, in this process or on a Ray cluster."""
