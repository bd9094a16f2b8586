"""lsr.index.segment: the parts of a segment: postings, documents, columns, clusters."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.index.segment")
