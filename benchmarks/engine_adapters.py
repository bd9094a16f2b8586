"""Adapters of the engines: engines.py copies this file into its copy of the peer harness as adapters.py.

Every engine's virtual environment imports this file, so functions import lsr only when they use it. engines.json in the
same folder lists the engines to run; harness.py has the harness's own adapters.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from harness import ADAPTERS, Adapter, Data, requantise

__all__ = ["ADAPTERS", "Data", "requantise"]


class Toy(Data):
    """5,000 documents of the same 20 terms, to compile kernels on."""

    def __init__(self) -> None:
        self.n_docs, self.vocab, self.value_kind, self._f = 5000, 30522, "u8", None
        self.indptr = np.arange(0, self.n_docs * 20 + 1, 20)
        self.indices = np.tile(np.arange(20, dtype=np.int32), self.n_docs)
        self.u8 = (1 + np.arange(self.n_docs * 20) % 255).astype(np.uint8)


class Lsr(Adapter):
    """lsr, run by the interpreter that runs the benchmark."""

    venv = sys.prefix
    # Without NUMBA_CACHE_DIR, lsr uses its own cache folder, in which it detects changed kernels; Numba may miss them.
    env: ClassVar[dict[str, str]] = {"NUMBA_CACHE_DIR": ""}
    settings: ClassVar[dict[str, Any]] = {}

    def build(self, data: Data, tmp: str) -> Any:
        """Index all documents."""
        from lsr import Index, SparseMatrix

        vectors = SparseMatrix(data.indptr, data.indices, data.values, (data.n_docs, data.vocab))
        return Index.build(Path(tmp) / "index", vectors, overwrite=True, **self.settings)

    def compile(self, folder: str) -> None:
        """Compile all kernels: build a toy index and search it with every variant."""
        from lsr import Index, SparseMatrix
        from lsr.index.search.settings import SearchSettings

        toy = Toy()
        vectors = SparseMatrix(toy.indptr, toy.indices, toy.values, (toy.n_docs, toy.vocab))
        index = Index.build(Path(folder) / "toy", vectors, order="bisection", **self.settings)
        for algorithm in ("clusters",) if self.settings.get("clusters") else ("exhaustive", "blocks"):
            index.searcher.search(*vectors.row(0), 10, SearchSettings(algorithm))

    def prepare(self, index: Any, terms: Any, weights: Any, k: int, **settings: Any) -> Any:
        """Convert a query to the engine's own form: ascending terms, weights and search settings."""
        from lsr.index.search.settings import SearchSettings

        order = np.argsort(terms)
        return terms[order].astype(np.uint32), weights[order].astype(np.float32), SearchSettings(**settings)

    def search(self, index: Any, query: Any, k: int, **settings: Any) -> Any:
        """Return documents and scores."""
        terms, weights, how = query
        return index.searcher.search(terms, weights, k, how)


def runnable(engine: dict[str, Any]) -> type[Adapter]:
    """Make the adapter of an engine of engines.py."""
    base = Lsr if engine["adapter"] == "lsr" else ADAPTERS[engine["adapter"]]

    class Runnable(base):
        venv = sys.prefix if base.venv == "base" else base.venv
        variants = engine["exact"] | engine["approximate"]
        settings = engine["build"]

        def __init__(self) -> None:
            if engine["compiles"]:
                with tempfile.TemporaryDirectory() as folder:
                    self.compile(folder)

        def compile(self, folder: str) -> None:
            if base is Lsr:
                super().compile(folder)
            else:
                self.build(Toy(), folder)

        @property
        def note(self) -> str:
            return version(engine["package"])

    return Runnable


_engines = json.loads(Path(__file__).with_name("engines.json").read_text())
ADAPTERS.update({name: runnable(engine) for name, engine in _engines.items()})
