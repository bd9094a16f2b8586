"""Compile all kernels by running them on a toy index.

This takes half a minute on a new machine; later, the kernels are read from a cache.
"""

from __future__ import annotations

import tempfile
from functools import cache
from typing import get_args

import numpy as np

from lsr.console import progress_to
from lsr.index.index import Index
from lsr.index.kernels.edit_distance import edit_distances
from lsr.index.kernels.inner_product import inner_products
from lsr.index.search.settings import Algorithm
from lsr.sparse import SparseMatrix


@cache
def compile_kernels() -> None:
    """Compile the kernels for building, searching, deleting and merging, or load them from the cache."""
    with progress_to(lambda *_: None):  # no progress bar for the toy index
        _compile()


def _compile() -> None:
    edit_distances(np.zeros(1, np.int32), np.array([0, 1]), np.zeros(1, np.int32), 1, np.zeros(1, np.uint8))
    inner_products(np.ones((1, 8), np.int8), np.ones(8, np.int16), np.zeros(1, np.int32))
    toy = SparseMatrix.from_dicts([{i % 100: 1.0, i % 99 + 100: 0.5} for i in range(400)], 200)
    with tempfile.TemporaryDirectory() as folder:
        for impacts in ("uint8", "float32"):
            quantized = impacts == "uint8"
            index = Index.build(f"{folder}/{impacts}", toy, impacts=impacts, order="bisection", clusters=quantized)
            for algorithm in get_args(Algorithm):
                if quantized or algorithm != "clusters":
                    index.search(toy[0], algorithm=algorithm)
            index.duplicates(0.9)
            index.delete("0")
            index.merge()
