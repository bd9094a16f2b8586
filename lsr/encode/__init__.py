"""Encoders: text in, sparse vectors out. Names are filled in on first use; none of them brings in torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "BM25Encoder": "lsr.encode.bm25",
    "Encoder": "lsr.encode.base",
    "HybridEncoder": "lsr.encode.hybrid",
    "InferenceFreeEncoder": "lsr.encode.inference_free",
    "SpladeEncoder": "lsr.encode.splade",
    "load_encoder": "lsr.encode.load",
}

if TYPE_CHECKING:
    from lsr.encode.base import Encoder as Encoder
    from lsr.encode.bm25 import BM25Encoder as BM25Encoder
    from lsr.encode.hybrid import HybridEncoder as HybridEncoder
    from lsr.encode.inference_free import InferenceFreeEncoder as InferenceFreeEncoder
    from lsr.encode.load import load_encoder as load_encoder
    from lsr.encode.splade import SpladeEncoder as SpladeEncoder

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lsr.encode' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
