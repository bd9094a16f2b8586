"""lsr: learned sparse retrieval. Encode text into sparse vectors, index them, search them exactly, measure both.

    from lsr import Index, load_encoder

The names below are filled in on first use, so that `import lsr` is quick and brings in neither torch nor numba.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsr import _moved

__version__ = "0.1.0"

# In a source checkout index/ and eval/ stand beside lsr/; an installed lsr contains them.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "index" / "kernels").is_dir() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

_moved.install()

_HOME = {
    "Document": "lsr.io.corpus",
    "Encoder": "lsr.encode.base",
    "Hit": "lsr.index.index",
    "Index": "lsr.index.index",
    "LsrError": "lsr.errors",
    "SparseMatrix": "lsr.sparse",
    "load_encoder": "lsr.encode.load",
    "read_documents": "lsr.files.documents",
    "read_vectors": "lsr.io.vectors",
}

if TYPE_CHECKING:
    from lsr.encode.base import Encoder as Encoder
    from lsr.encode.load import load_encoder as load_encoder
    from lsr.errors import LsrError as LsrError
    from lsr.files.documents import read_documents as read_documents
    from lsr.index.index import Hit as Hit
    from lsr.index.index import Index as Index
    from lsr.io.corpus import Document as Document
    from lsr.io.vectors import read_vectors as read_vectors
    from lsr.sparse import SparseMatrix as SparseMatrix

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
