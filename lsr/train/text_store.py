"""TextStore: the texts of a collection by id, memory-mapped, so that millions of passages need no memory.

texts.arrow    id, text           in the order of the corpus; the column `text` holds a document's title and text,
                                  joined as encoders read them
order.arrow    digest, row        64-bit digests of the ids, ascending, and their rows: 12 bytes per document

An id is looked up by its digest and then compared, so digest collisions do no harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.io.corpus import Corpus, open_corpus
from lsr.train.dataset_cache import made_once
from lsr.train.problems import Problems

_FORMAT = 1
_TEXT_SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("text", pa.string(), nullable=False)])
_ORDER_SCHEMA = pa.schema(
    [pa.field("digest", pa.uint64(), nullable=False), pa.field("row", pa.uint32(), nullable=False)]
)
_BATCH_DOCS = 8192
_BATCH_CHARACTERS = 16 << 20


class TextStore:
    """Documents, or queries, by row number and by id. Open one with `open_texts`.

    Args:
        folder: A folder from `write_texts`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._batches = ArrowBatches(folder / "texts.arrow")
        order = pa.ipc.open_file(pa.memory_map(str(folder / "order.arrow"))).get_batch(0)
        self._digests: NDArray[np.uint64] = order.column("digest").to_numpy()
        self._rows: NDArray[np.uint32] = order.column("row").to_numpy()

    def __len__(self) -> int:
        return len(self._rows)

    def id(self, row: int) -> str:
        """The id of a row."""
        batch, i = self._batches.at(row)
        return str(batch.column(0)[i].as_py())

    def text(self, row: int) -> str:
        """The text of a row."""
        batch, i = self._batches.at(row)
        return str(batch.column(1)[i].as_py())

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """(n_ids,) int64, the row of each id; -1 for unknown ids."""
        wanted = np.fromiter(map(_digest, ids), np.uint64, len(ids))
        first = np.searchsorted(self._digests, wanted)
        last = np.searchsorted(self._digests, wanted, side="right")
        rows = np.full(len(ids), -1, np.int64)
        for i in np.flatnonzero(first < last).tolist():
            for row in self._rows[first[i] : last[i]].tolist():
                if self.id(row) == ids[i]:
                    rows[i] = row
        return rows


class Looked(Sequence[str]):
    """Texts or ids of some rows, read on access.

    Args:
        get: Function that returns the text or id of a row.
        rows: (n,) row numbers.
    """

    __slots__ = ("_get", "_rows")

    def __init__(self, get: Callable[[int], str], rows: NDArray[np.uint32]) -> None:
        self._get = get
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[str]: ...
    def __getitem__(self, key: int | slice) -> str | Sequence[str]:
        if isinstance(key, slice):
            return Looked(self._get, self._rows[key])
        return self._get(int(self._rows[key]))

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class ArrowBatches:
    """The record batches of a memory-mapped Arrow IPC file, by row number.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def nulls(self, column: int) -> int:
        """Number of null rows of a column."""
        return sum(int(batch.column(column).null_count) for batch in self._batches)

    def at(self, row: int) -> tuple[pa.RecordBatch, int]:
        """The batch of a row, and the row's number within it.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        i = int(np.searchsorted(self._ends, row, side="right"))
        batch = self._batches[i]
        return batch, row - int(self._ends[i]) + batch.num_rows


def open_texts(source: str, cache: Path, *, queries: bool = False) -> TextStore:
    """The texts of a corpus. On the first call they are copied into a text store.

    Args:
        source: Path or name.
        cache: Folder for text stores.
        queries: Open the queries of a folder or dataset instead of its documents.

    Raises:
        DataError: The source can't be opened, contains no text, or has bad lines; the message lists the bad lines, up
            to a limit.
    """
    corpus = open_corpus(source, queries=queries, skip_bad=True)
    # A dataset's queries and documents can have the same identity.
    key = f"{_FORMAT} {'queries' if queries else 'documents'} {corpus.identity}"
    return TextStore(made_once(cache, "texts", key, lambda folder: write_texts(corpus, folder)))


def write_texts(corpus: Corpus, folder: Path) -> None:
    """Write a corpus as a text store.

    Args:
        corpus: The corpus. Any bad document is an error. If the corpus was opened with `skip_bad`, the message lists
            the bad documents, up to a limit; otherwise it has only the first.
        folder: An empty folder.

    Raises:
        DataError: There are bad documents, or no documents.
    """
    digests = []
    problems = Problems(corpus.name, "texts")
    with pa.OSFile(str(folder / "texts.arrow"), "wb") as file, pa.ipc.new_file(file, _TEXT_SCHEMA) as writer:
        for ids, texts in _batched(corpus):
            problems.replace(corpus.bad)
            digests.append(np.fromiter(map(_digest, ids), np.uint64, len(ids)))
            writer.write_batch(pa.record_batch([ids, texts], schema=_TEXT_SCHEMA))
    problems.replace(corpus.bad)
    problems.settle(sum(map(len, digests)))
    together = np.concatenate(digests)
    order = np.argsort(together, kind="stable").astype(np.uint32)
    with pa.OSFile(str(folder / "order.arrow"), "wb") as file, pa.ipc.new_file(file, _ORDER_SCHEMA) as writer:
        writer.write_batch(pa.record_batch([together[order], order], schema=_ORDER_SCHEMA))


def _batched(corpus: Corpus) -> Iterator[tuple[list[str], list[str]]]:
    ids: list[str] = []
    texts: list[str] = []
    characters = 0
    for document in corpus:
        ids.append(document.id)
        texts.append(document.content)
        characters += len(document.text)
        if len(ids) == _BATCH_DOCS or characters >= _BATCH_CHARACTERS:
            yield ids, texts
            ids, texts, characters = [], [], 0
    if ids:
        yield ids, texts


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
