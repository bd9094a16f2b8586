"""lsr: learned sparse retrieval. Encode text into sparse vectors, index and search them exactly, and measure the
results.

    from lsr import Index, load_encoder

The names below are imported on first use, so that `import lsr` is quick and brings in neither torch nor numba.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lsr import _moved
from lsr._lazy import lazy_names
from lsr._version import __version__

# In a source checkout, index/ and eval/ are next to lsr/; an installed lsr contains them.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "index" / "kernels").is_dir() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

_moved.install()

_HOMES = {
    "CheckpointWarning": "lsr.errors",
    "Client": "lsr.index.serve.client",
    "ClusterError": "lsr.errors",
    "Corpus": "lsr.io.corpus",
    "CorruptIndex": "lsr.errors",
    "CutTexts": "lsr.errors",
    "DataError": "lsr.errors",
    "Document": "lsr.io.document",
    "DoubledId": "lsr.errors",
    "Encoder": "lsr.encode.base",
    "EncoderError": "lsr.errors",
    "EncoderMismatch": "lsr.errors",
    "GuessedEncoding": "lsr.errors",
    "Hit": "lsr.index.search.hits",
    "Hybrid": "lsr.index.hybrid.hybrid",
    "Index": "lsr.index.index",
    "IndexFormatError": "lsr.errors",
    "IndexLocked": "lsr.errors",
    "LeftOut": "lsr.errors",
    "LsrError": "lsr.errors",
    "LsrWarning": "lsr.errors",
    "MissingExtra": "lsr.errors",
    "NoTerms": "lsr.errors",
    "OutputError": "lsr.errors",
    "OutputExists": "lsr.errors",
    "Passages": "lsr.encode.passages",
    "RerankerError": "lsr.errors",
    "SearchSettings": "lsr.index.search.settings",
    "ServerError": "lsr.errors",
    "SparseMatrix": "lsr.sparse",
    "StorageError": "lsr.errors",
    "TrainingError": "lsr.errors",
    "UncommittedChanges": "lsr.errors",
    "VectorBatch": "lsr.io.vectors",
    "Vectors": "lsr.io.vectors",
    "load_encoder": "lsr.encode.load",
    "load_matrix": "lsr.io.open_vectors",
    "open_corpus": "lsr.io.corpus",
    "read_documents": "lsr.files.documents",
    "read_vectors": "lsr.io.open_vectors",
    "save_matrix": "lsr.io.vectors_parquet",
}

if TYPE_CHECKING:
    from lsr.encode.base import Encoder as Encoder
    from lsr.encode.load import load_encoder as load_encoder
    from lsr.encode.passages import Passages as Passages
    from lsr.errors import CheckpointWarning as CheckpointWarning
    from lsr.errors import ClusterError as ClusterError
    from lsr.errors import CorruptIndex as CorruptIndex
    from lsr.errors import CutTexts as CutTexts
    from lsr.errors import DataError as DataError
    from lsr.errors import DoubledId as DoubledId
    from lsr.errors import EncoderError as EncoderError
    from lsr.errors import EncoderMismatch as EncoderMismatch
    from lsr.errors import GuessedEncoding as GuessedEncoding
    from lsr.errors import IndexFormatError as IndexFormatError
    from lsr.errors import IndexLocked as IndexLocked
    from lsr.errors import LeftOut as LeftOut
    from lsr.errors import LsrError as LsrError
    from lsr.errors import LsrWarning as LsrWarning
    from lsr.errors import MissingExtra as MissingExtra
    from lsr.errors import NoTerms as NoTerms
    from lsr.errors import OutputError as OutputError
    from lsr.errors import OutputExists as OutputExists
    from lsr.errors import RerankerError as RerankerError
    from lsr.errors import ServerError as ServerError
    from lsr.errors import StorageError as StorageError
    from lsr.errors import TrainingError as TrainingError
    from lsr.errors import UncommittedChanges as UncommittedChanges
    from lsr.files.documents import read_documents as read_documents
    from lsr.index.hybrid.hybrid import Hybrid as Hybrid
    from lsr.index.index import Index as Index
    from lsr.index.search.hits import Hit as Hit
    from lsr.index.search.settings import SearchSettings as SearchSettings
    from lsr.index.serve.client import Client as Client
    from lsr.io.corpus import Corpus as Corpus
    from lsr.io.corpus import open_corpus as open_corpus
    from lsr.io.document import Document as Document
    from lsr.io.open_vectors import load_matrix as load_matrix
    from lsr.io.open_vectors import read_vectors as read_vectors
    from lsr.io.vectors import VectorBatch as VectorBatch
    from lsr.io.vectors import Vectors as Vectors
    from lsr.io.vectors_parquet import save_matrix as save_matrix
    from lsr.sparse import SparseMatrix as SparseMatrix

__all__ = ["__version__", *_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
