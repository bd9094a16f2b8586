"""lsr.index.storage: the files of an index. They are complete, have checksums, and are replaced atomically."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.index.storage")
