"""lsr.index: the inverted index, its kernels, and search over it."""
