"""lsr.index.hybrid: fusion of several rankings of the same documents, and dense vectors stored next to an index."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.index.hybrid")
