"""lsr.index.storage: the index's files: written whole, checksummed, replaced atomically."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.index.storage")
