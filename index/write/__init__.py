"""lsr.index.write: buffer documents, write segments, merge and commit them."""
