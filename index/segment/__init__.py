"""lsr.index.segment: what a segment holds: postings, documents, columns, clusters."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.index.segment")
