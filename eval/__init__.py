"""lsr.eval: how good and how fast an index is."""
