"""lsr.eval.experiment: systems compared on collections."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.eval.experiment")
