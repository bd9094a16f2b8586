"""lsr.eval.experiment: compare systems on collections."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.eval.experiment")
