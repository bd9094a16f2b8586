"""lsr.index.hybrid: several rankings of the same documents made into one; dense vectors beside an index."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.index.hybrid")
