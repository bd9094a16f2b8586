"""lsr.eval.training: training with validation by search."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.eval.training")
