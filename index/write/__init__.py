"""lsr.index.write: documents gathered, written as segments, merged, committed."""
