"""BM25 with query expansion by a linear model, solved in closed form (EASE, arXiv 1905.03375).

    B = I - P / diag(P),  P = (X^T X + penalty I)^-1      X: documents x frequent terms, TF-IDF rows of length 1

Column j of B holds how strongly the other terms of a document predict term j. A query with term j is expanded by the
terms with the largest positive values in that column:

    query = q + weight * top(B q)

Document vectors are those of BM25. Vocabulary and matrix are fixed by `fit`; unlike the vocabulary of "bm25", they
don't grow with an index.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes, write_files
from lsr.encode.bm25 import BM25Encoder
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

TABLE_FILE = "expansions.arrow"
_FITTED = 50_000  # documents of X
_FREQUENT = 2000  # terms of X
_COMMON = 0.3  # terms in more than this share of the documents predict nothing
_STORED = 32  # predictors stored per term
_ROWS = 1024  # documents multiplied per batch
_SCHEMA = pa.schema([("term", pa.uint32()), ("other", pa.uint32()), ("weight", pa.float32())])


class EaseEncoder(Encoder):
    """BM25 whose queries are expanded by a term-term matrix; `load_encoder("ease")`.

    Args:
        bm25: The BM25 encoder; it must be fitted if `table` is given.
        table: (n_terms, n_terms), row j with the terms that predict term j and their weights; None to learn it with
            `fit`.
        weight: Weight of the expansion; 0 turns it off.
        expansions: Maximum number of terms added to a query.
        penalty: The penalty of the linear model.

    Raises:
        EncoderError: A value is out of range.
    """

    type = "ease"

    def __init__(
        self,
        bm25: BM25Encoder | None = None,
        table: SparseMatrix | None = None,
        *,
        weight: float = 0.3,
        expansions: int = 16,
        penalty: float = 1.0,
    ) -> None:
        if not 0 <= weight < math.inf or expansions < 1 or not 0 < penalty < math.inf:
            raise EncoderError(
                "ease needs weight >= 0, expansions >= 1 and penalty > 0, got "
                f"weight={weight}, expansions={expansions}, penalty={penalty}"
            )
        self.bm25, self.table = bm25 or BM25Encoder(), table
        self.weight, self.expansions, self.penalty = float(weight), int(expansions), float(penalty)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced()

    @property
    def needs_fit(self) -> bool:  # type: ignore[override]
        """True until `fit` has seen a corpus."""
        return self.table is None

    def fit(self, texts: Iterable[str]) -> None:
        """Count all terms; solve the model for the 2,000 most frequent terms of the first 50,000 documents."""
        some: list[str] = []

        def kept() -> Iterator[str]:
            for text in texts:
                if len(some) < _FITTED:
                    some.append(text)
                yield text

        self.bm25.fit(kept())
        self.table = self._solved(self.bm25.encode_document(some))

    def _solved(self, documents: SparseMatrix) -> SparseMatrix:
        n_terms = documents.shape[1]
        counts = np.bincount(documents.indices, minlength=n_terms)
        counts[counts > _COMMON * len(documents)] = 0
        terms = np.sort(np.argsort(-counts, kind="stable")[:_FREQUENT])
        terms = terms[counts[terms] > 1]
        place = np.full(n_terms, -1, np.int64)
        place[terms] = np.arange(len(terms))
        factors = self.bm25.query_factors(terms)
        gram = np.diag(np.full(len(terms), self.penalty))
        for first in range(0, len(documents), _ROWS):
            rows = documents[first : first + _ROWS]
            at = place[rows.indices]
            x = np.zeros((len(rows), len(terms)), np.float32)
            x[rows.row_numbers()[at >= 0], at[at >= 0]] = rows.data[at >= 0]
            x *= factors
            x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))
            gram += x.T @ x
        inverse = np.linalg.inv(gram)
        b = -inverse / np.diag(inverse)
        np.fill_diagonal(b, 0)
        found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = [(np.zeros(0, np.int64), np.zeros(0))] * n_terms
        for j, term in enumerate(terms.tolist()):
            best = np.sort(np.argsort(-b[:, j], kind="stable")[:_STORED])
            best = best[b[best, j] > 0]
            found[term] = terms[best], b[best, j]
        return SparseMatrix.from_rows(found, n_terms)

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Encode queries with BM25 and add the terms that predict the query's terms."""
        if self.table is None:
            raise EncoderError("this ease encoder has seen no corpus yet: call fit(texts)")
        rows = []
        for terms, weights in self.bm25.encode_query(texts).rows():
            near = self.table[terms.astype(np.int64)]
            others, at = np.unique(near.indices, return_inverse=True)
            more = np.bincount(at, weights=near.data * np.repeat(weights, near.lengths()), minlength=len(others))
            best = np.argsort(-more, kind="stable")[: self.expansions] if self.weight else np.zeros(0, np.int64)
            both, at = np.unique(np.concatenate((terms, others[best])), return_inverse=True)
            rows.append((both, np.bincount(at, weights=np.concatenate((weights, self.weight * more[best])))))
        return SparseMatrix.from_rows(rows, self.n_terms)

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """BM25's vectors of documents."""
        return self.bm25.encode_document(as_texts(texts))

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """BM25's IDF."""
        return self.bm25.query_factors(terms)

    @property
    def vocabulary(self) -> Sequence[str]:
        """BM25's terms."""
        return self.bm25.vocabulary

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary."""
        return self.bm25.n_terms

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Provided by BM25; see `Encoder`."""
        return self.bm25.spans(text)

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """Provided by BM25; see `Encoder`."""
        return self.bm25.fillers(text)

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Provided by BM25; see `Encoder`."""
        return self.bm25.tokens(text)

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of BM25, the settings and the matrix."""
        bm25 = self.bm25.fingerprint
        state = [json.dumps([bm25.weights, self._settings()]).encode()]
        if self.table is not None:
            state += [json.dumps(self.vocabulary).encode(), self.table.indices.tobytes(), self.table.data.tobytes()]
        return Fingerprint(
            model=f"ease of {bm25.model}",
            weights=digest(state),
            tokenizer=bm25.tokenizer,
            vocabulary_size=None if self.table is None else self.n_terms,
            max_weight=bm25.max_weight,
        )

    # --- on disk ------------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, float]:
        return {"weight": self.weight, "expansions": self.expansions, "penalty": self.penalty}

    def query_files(self) -> dict[str, bytes]:
        """The whole encoder."""
        files = self.bm25.query_files()
        config = config_bytes(self.type, bm25=json.loads(files[CONFIG_FILE]), **self._settings())
        return files | {CONFIG_FILE: config} | ({} if self.table is None else {TABLE_FILE: _table_bytes(self.table)})

    def save(self, folder: str | PathLike[str]) -> None:
        """Write settings, terms, counts and the matrix."""
        write_files(folder, self.query_files())

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> EaseEncoder:
        """Open a saved encoder.

        Raises:
            EncoderError: A file is missing or damaged.
        """
        try:
            bm25 = BM25Encoder.load(folder, config["bm25"])
            if not isinstance(bm25, BM25Encoder):
                raise ValueError("BM25 of an earlier version")
            how = {name: config[name] for name in ("weight", "expansions", "penalty")}
            table = _read_table(folder / TABLE_FILE, bm25.n_terms) if (folder / TABLE_FILE).is_file() else None
            return cls(bm25, table, **how)
        except (KeyError, TypeError, ValueError) as error:
            raise EncoderError(f"{folder}: not a whole ease encoder: {error!r}") from None


def _table_bytes(table: SparseMatrix) -> bytes:
    columns = [pa.array(table.row_numbers().astype(np.uint32)), pa.array(table.indices), pa.array(table.data)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
    return bytes(sink.getvalue())


def _read_table(path: Path, n_terms: int) -> SparseMatrix:
    try:
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        table.validate(full=True)  # a damaged file must not cause reads out of bounds
        if table.schema != _SCHEMA or any(column.null_count for column in table.columns):
            raise ValueError(f"columns {table.schema}")
        rows, others, weights = (column.to_numpy() for column in table.columns)
        if len(rows) and (rows.max() >= n_terms or (np.diff(rows.astype(np.int64)) < 0).any()):
            raise ValueError("terms that are not in the vocabulary, or out of order")
        indptr = np.searchsorted(rows, np.arange(n_terms + 1))
        return SparseMatrix(indptr, others, weights, (n_terms, n_terms))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise EncoderError(f"{path}: not a table of expansions: {error}") from None
