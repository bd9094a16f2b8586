"""CIFF, the Common Index File Format (arXiv 2003.08276, github.com/osirrc/ciff): an index as one file, plain or .gz,
that PISA, BMP, JASS, Terrier and others read. It has a Header, a PostingsList for each term and a DocRecord for each
document, each a Protocol Buffers message preceded by its length.

Term frequencies hold integer impacts. The weight of an impact of 1 is at the end of the header's description, so that
lsr can turn the impacts in its own files back into weights. The format has no titles, texts, metadata or encoder. Lists
are ordered by the bytes of their tokens; a list has the number of its first document, then gaps.
"""

from __future__ import annotations

import re
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr._version import __version__
from lsr.errors import DataError
from lsr.io.document import DOCUMENT_SCHEMA, Document, document_batch
from lsr.io.external_sort import Regrouping
from lsr.io.protobuf import field, put_varints, read_field, read_fields, read_varint, read_varints, varint, varint_sizes
from lsr.io.text_files import is_packed, new_bytes, open_bytes
from lsr.io.vectors import VectorBatch, Vectors
from lsr.sparse import SparseMatrix

if TYPE_CHECKING:
    from typing import Self

LEVELS = 255  # default largest impact for weights that aren't whole numbers: fits engines with 8-bit impacts
_WHOLE = 2**16  # whole weights below this are kept exactly
_LARGEST = 2**31  # term frequencies, document lengths and numbers of documents are int32
_SCALE = re.compile(r"weight = tf \* (\S+)")
_BATCH = 4096  # rows per batch
_WINDOW = 1 << 17  # bytes of a posting list parsed at a time
_LARGEST_FIELD = 1 << 16  # bytes of a field that isn't a list
_PACKED = 1032  # best compression ratio of .gz
_POSTING = 0x22  # tag of a posting; 0x08 and 0x10 are the tags of its document and frequency


# --- writing ------------------------------------------------------------------------------------------------------


def write_ciff(
    path: Path,
    batches: Iterable[VectorBatch],
    vocabulary: Sequence[str],
    *,
    step: float | None = None,
    levels: int | None = None,
) -> None:
    """Write vectors as CIFF, in bounded memory.

    Args:
        path: The file, compressed if its name ends in .gz; it gets its name when it is complete.
        batches: Batches of vectors.
        vocabulary: Token of each term; complete after the last batch.
        step: Every weight is a multiple of this number; weight / step becomes the impact. Without it, whole weights
            below 65,536 become impacts as they are.
        levels: The largest impact; if an impact would be larger, all are scaled down. By default 255 for weights that
            have no step and aren't whole numbers below 65,536.

    Raises:
        DataError: The impacts of a document add up to 2^31 or more.
    """
    with Regrouping() as regrouping, tempfile.TemporaryFile() as spool:
        ids = pa.ipc.new_stream(spool, pa.schema([DOCUMENT_SCHEMA.field("id")]))
        n_docs, largest, whole = 0, 0.0, True
        for batch in batches:
            vectors = batch.vectors
            regrouping.add(vectors.indices, vectors.row_numbers() + n_docs, vectors.data)
            ids.write_batch(batch.documents.select(["id"]))
            n_docs += len(vectors)
            largest = max(largest, float(vectors.data.max(initial=0)))
            whole = whole and bool((vectors.data == np.rint(vectors.data)).all())
        scale = step or (1.0 if whole and largest < _WHOLE else largest / (levels or LEVELS))
        if round(largest / scale) > (levels or _LARGEST - 1):
            scale = largest / (levels or LEVELS)
        lengths = np.zeros(n_docs, np.int64)
        for entries in regrouping.added():
            lengths += np.bincount(entries["other"], _impacts(entries["weight"], scale), n_docs).astype(np.int64)
        if lengths.max(initial=0) >= _LARGEST:
            raise DataError(
                f"document {int(lengths.argmax()) + 1} is too long for CIFF; --levels 255 rounds", str(path)
            )
        counts = regrouping.counts(len(vocabulary))
        order = np.array(sorted(np.flatnonzero(counts).tolist(), key=lambda term: vocabulary[term]), np.int64)
        with new_bytes(path) as file:
            file.write(_delimited(_header(len(order), lengths, scale)))
            for first, indptr, docs, weights in regrouping.groups(order, counts):
                tokens = [vocabulary[term] for term in order[first : first + len(indptr) - 1].tolist()]
                for message in _lists(tokens, indptr, docs, _impacts(weights, scale)):
                    file.write(_delimited(message))
            ids.close()
            spool.seek(0)
            all_ids = (doc_id for batch in pa.ipc.open_stream(spool) for doc_id in batch.column(0).to_pylist())
            for doc, (doc_id, length) in enumerate(zip(all_ids, lengths.tolist(), strict=True)):
                file.write(_delimited(field(1, doc) + field(2, doc_id) + field(3, length)))


def _impacts(weights: NDArray[np.float32], scale: float) -> NDArray[np.int64]:
    # No term may disappear from a document.
    return np.maximum(np.rint(weights.astype(np.float64) / scale), 1).astype(np.int64)


def _delimited(message: bytes) -> bytes:
    return varint(len(message)) + message


def _header(n_lists: int, lengths: NDArray[np.int64], scale: float) -> bytes:
    n_docs, total = len(lengths), int(lengths.sum())
    numbers = (1, n_lists, n_docs, n_lists, n_docs, total)
    average = b"\x39" + struct.pack("<d", total / n_docs) if total else b""
    description = f"Written by lsr {__version__}; weight = tf * {scale!r}"
    return b"".join(field(i, n) for i, n in enumerate(numbers, start=1)) + average + field(8, description)


def _lists(
    tokens: list[str], indptr: NDArray[np.int64], docs: NDArray[np.uint32], impacts: NDArray[np.int64]
) -> Iterator[bytes]:
    """Yield the PostingsList of each term; every term must have documents."""
    gaps = docs.astype(np.int64)
    gaps[1:] -= docs[:-1]
    gaps[indptr[:-1]] = docs[indptr[:-1]]
    has_gap = gaps > 0  # if the first document's number is 0, proto3 leaves it out
    gap_sizes, impact_sizes = np.where(has_gap, varint_sizes(gaps), 0), varint_sizes(impacts)
    sizes = has_gap + gap_sizes + 1 + impact_sizes
    ends = np.cumsum(sizes + 2)
    begins = ends - sizes - 2
    buffer = np.empty(int(ends[-1]), np.uint8)
    buffer[begins], buffer[begins + 1] = _POSTING, sizes
    buffer[begins[has_gap] + 2] = 0x08
    put_varints(buffer, begins + 3, gaps, gap_sizes)
    buffer[ends - impact_sizes - 1] = 0x10
    put_varints(buffer, ends - impact_sizes, impacts, impact_sizes)
    totals = np.add.reduceat(impacts, indptr[:-1]).tolist()
    for i, (token, total) in enumerate(zip(tokens, totals, strict=True)):
        begin, end = indptr[i], indptr[i + 1]
        head = field(1, token) + field(2, int(end - begin)) + field(3, total)
        yield head + buffer[begins[begin] : ends[end - 1]].tobytes()


# --- reading ------------------------------------------------------------------------------------------------------


class _Header(NamedTuple):
    n_lists: int
    n_docs: int
    scale: float  # weight of a term frequency of 1


def open_ciff(path: Path, vocabulary: list[str]) -> Vectors:
    """Open a CIFF file. Each pass over the vectors inverts the file again, in bounded memory.

    Args:
        path: The file.
        vocabulary: Tokens whose term ids are fixed; other tokens are appended.

    Raises:
        DataError: The file isn't CIFF.
    """
    with _Input(path) as source:
        header = source.header()
    return Vectors(
        str(path), lambda v: _read_ciff(path, v), vocabulary=vocabulary, count=header.n_docs, step=header.scale
    )


def _read_ciff(path: Path, vectors: Vectors) -> Iterator[VectorBatch]:
    assert vectors.vocabulary is not None
    term_of = {token: term for term, token in enumerate(vectors.vocabulary)}
    with _Input(path) as source, Regrouping() as regrouping:
        n_lists, n_docs, scale = source.header()
        terms: dict[int, None] = {}  # terms of the lists, in order
        for number in range(n_lists):
            at = source.at
            token = source.postings(number, n_docs, scale, regrouping)
            term = term_of.setdefault(token, len(term_of))
            if term in terms:
                raise source.error(f"a second postings list of {token!r}", at)
            terms[term] = None
            if term == len(vectors.vocabulary):
                vectors.vocabulary.append(token)
        term_of_list, n_terms = np.array(list(terms), np.uint32), max(len(vectors.vocabulary), 1)
        counts = regrouping.counts(n_docs)
        for first, indptr, lists, weights in regrouping.groups(np.arange(n_docs), counts):
            for start in range(0, len(indptr) - 1, _BATCH):
                ptr = indptr[start : start + _BATCH + 1]
                documents = [Document(source.record(first + start + i), "") for i in range(len(ptr) - 1)]
                inside = slice(int(ptr[0]), int(ptr[-1]))
                try:
                    matrix = SparseMatrix(
                        ptr - ptr[0], term_of_list[lists[inside]], weights[inside], (len(documents), n_terms)
                    )
                except ValueError as error:  # a weight beyond float32
                    raise DataError(str(error), str(path)) from None
                yield VectorBatch(document_batch(documents, with_text=False), matrix)
        source.end()


class _Input:
    """A CIFF file, read front to back; errors name the byte."""

    def __init__(self, path: Path) -> None:
        self.at = 0
        self._name = str(path)
        self._packed = is_packed(path)
        self._size = path.stat().st_size * (_PACKED if self._packed else 1)  # upper bound, to check counts against
        self._file = open_bytes(path)

    def error(self, problem: str, at: int | None = None) -> DataError:
        return DataError(problem, f"{self._name}: byte {self.at if at is None else at}")

    def header(self) -> _Header:
        values = self._message("header")
        if (version := self._number(values, 1)) != 1:
            raise self.error(f"CIFF version {version}, only 1 is supported; is this a CIFF file?", 0)
        n_lists, n_docs = self._number(values, 2), self._number(values, 3)
        for count, what, least in ((n_lists, "postings lists", 2), (n_docs, "documents", 4)):
            if count * least > self._size:
                raise self.error(f"it declares {count} {what}, but the file is too short for them", 0)
        scale = 1.0
        if ours := _SCALE.search(self._text(values, 8)):
            try:
                scale = float(ours[1])
            except ValueError:
                scale = 0.0
            if not 0 < scale < float("inf"):
                raise self.error(f"the description has {ours[0]!r}; a weight is a number above 0", 0)
        return _Header(n_lists, n_docs, scale)

    def postings(self, number: int, n_docs: int, scale: float, regrouping: Regrouping) -> str:
        """Add a postings list to the external sort; returns its token."""
        begin, others = self.at, []
        last, n_postings = -1, 0
        for value in self._list_fields():
            if isinstance(value[0], int):
                others.append(value)
                continue
            gaps, impacts = value
            docs = np.cumsum(gaps) + max(last, 0)
            if (gaps[0 if n_postings else 1 :] < 1).any() or docs[-1] >= n_docs:
                raise self.error(f"documents must ascend and be below {n_docs}, the number of documents", begin)
            last, n_postings = int(docs[-1]), n_postings + len(docs)
            with np.errstate(over="ignore"):  # a weight beyond float32 is refused when its document is made
                regrouping.add(docs, number, (impacts * scale).astype(np.float32))
        token = self._text(others, 1)
        if (df := self._number(others, 2)) != n_postings:
            raise self.error(f"the list of {token!r} has {n_postings} postings, but a df of {df}", begin)
        return token

    def record(self, doc: int) -> str:
        """The id of the next document."""
        begin = self.at
        values = self._message("document record")
        if (found := self._number(values, 1)) != doc:
            raise self.error(f"expected the record of document {doc}, found that of {found}", begin)
        if not (doc_id := self._text(values, 2)):
            raise self.error(f"document {doc} has no id", begin)
        return doc_id

    def end(self) -> None:
        """Check that the file ends here."""
        if self._file.read(1):
            raise self.error("the file goes on after the last document record")

    def _list_fields(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[int, int | bytes]]:
        """Yield a list's postings as arrays of gaps and frequencies, and its other fields as number and value."""
        left = self._message_size("postings list")
        buffer, at, patience = b"", 0, 1
        while left or at < len(buffer):
            if left and len(buffer) - at < _LARGEST_FIELD:
                more = self._read(min(_WINDOW, left), "postings list")
                buffer, at, left = buffer[at:] + more, 0, left - len(more)
            gaps, impacts, size = _usual_postings(buffer, at)
            if size:
                at += size
                yield gaps, impacts
            # Postings in another encoding are read field by field, in runs that double until the usual encoding
            # returns.
            patience = 1 if size else 2 * patience
            for _ in range(patience):
                if at == len(buffer) or (left and len(buffer) - at < _LARGEST_FIELD):
                    break
                number, value, at = self._field(buffer, at)
                if number == _POSTING >> 3 and isinstance(value, bytes):
                    posting = self._fields(value)
                    yield np.array([self._number(posting, 1)]), np.array([self._number(posting, 2)])
                else:
                    yield number, value

    def _message(self, what: str) -> list[tuple[int, int | bytes]]:
        size = self._message_size(what)
        if size > _LARGEST_FIELD:
            raise self.error(f"a {what} of {size} bytes; is this a CIFF file?")
        return self._fields(self._read(size, what))

    def _message_size(self, what: str) -> int:
        begin, prefix = self.at, b""
        while not prefix or (prefix[-1] > 0x7F and len(prefix) < 10):
            prefix += self._read(1, what)
        try:
            size = read_varint(prefix, 0)[0]
        except ValueError:
            size = _LARGEST**2
        if self.at + size > self._size:
            raise self.error(f"a {what} of {size} bytes should be here, but the file is shorter", begin)
        return size

    def _read(self, size: int, what: str) -> bytes:
        try:
            data = self._file.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise self.error(f"can't be read: {error}") from None
        if len(data) < size:
            self.at += len(data)
            raise self.error(f"the file ends within a {what}; it is cut off")
        self.at += size
        return data

    def _field(self, data: bytes, at: int) -> tuple[int, int | bytes, int]:
        try:
            return read_field(data, at)
        except ValueError as error:
            raise self.error(f"the postings list that is read here {error}") from None

    def _fields(self, data: bytes) -> list[tuple[int, int | bytes]]:
        try:
            return read_fields(data)
        except ValueError as error:
            raise self.error(f"the message that ends here {error}; is this a CIFF file?") from None

    def _number(self, values: list[tuple[int, int | bytes]], number: int) -> int:
        """An int32 field; 0 if it is absent."""
        value = dict(values).get(number, 0)
        if not isinstance(value, int) or value >= _LARGEST:
            raise self.error(f"field {number} of the message that ends here is not a whole number from 0 to 2^31 - 1")
        return value

    def _text(self, values: list[tuple[int, int | bytes]], number: int) -> str:
        value = dict(values).get(number, b"")
        try:
            if isinstance(value, bytes):
                return value.decode()
        except UnicodeDecodeError:
            pass
        raise self.error(f"field {number} of the message that ends here is not text in UTF-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _usual_postings(buffer: bytes, at: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Parse the postings at an offset, as long as they are encoded as tag, size, 0x08, gap, 0x10, frequency.

    Returns:
        (n,) gaps, (n,) frequencies, and the number of bytes that they take.
    """
    if buffer[at : at + 1] != bytes([_POSTING]):
        return np.empty(0, np.int64), np.empty(0, np.int64), 0
    values, ends = read_varints(np.frombuffer(buffer, np.uint8, offset=at))
    n = len(values) // 6
    values, ends = values[: 6 * n].reshape(n, 6), ends[: 6 * n]
    sizes = np.diff(ends, prepend=0).reshape(n, 6)
    usual = (values[:, [0, 2, 4]] == (_POSTING, 0x08, 0x10)).all(axis=1) & (values[:, 1] == sizes[:, 2:].sum(axis=1))
    usual &= (sizes <= 5).all(axis=1) & (values < _LARGEST).all(axis=1)
    n = n if usual.all() else int(np.argmin(usual))
    return values[:n, 3], values[:n, 5], int(ends[6 * n - 1]) if n else 0
