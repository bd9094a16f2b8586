"""lsr.eval.report: the results of an experiment as a page and as Markdown."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.eval.report")
