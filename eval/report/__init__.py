"""lsr.eval.report: an experiment's results as an HTML page and as Markdown."""

from lsr._moved import names_of

__getattr__ = names_of("lsr.eval.report")
