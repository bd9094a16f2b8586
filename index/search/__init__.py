"""lsr.index.search: one snapshot of an index, searched and explained."""
