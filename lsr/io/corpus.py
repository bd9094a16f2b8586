"""Texts to encode: a BEIR folder, JSON, TSV, CSV, Parquet, a data frame, standard input, or an ir-datasets name.

A `Corpus` can be read any number of times and yields `Document`s one by one, so memory is bounded. Errors name the file
and the line. Queries are read by the same code: a query is a document with an id and a text. For encoded vectors see
`lsr.io.vectors`, for judgments `lsr.io.runs`.
"""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.console import counted
from lsr.errors import DataError, DoubledId
from lsr.forks import here_only
from lsr.io.document import Document
from lsr.io.ir_datasets import ir_items, load_ir_dataset
from lsr.io.object_store import is_remote
from lsr.io.rows import TableRows, given_rows
from lsr.io.streams import end_spool, is_stream, peek_stream, spool, stream_name, take_stream
from lsr.io.text_files import count_rows, file_identity, file_kind, open_parquet, read_rows

# Number of documents whose ids are compared with all earlier ids at once. The limit on characters keeps progress bars
# moving when documents are long.
_CHECKED_TOGETHER, _CHARACTERS_TOGETHER = 1024, 1 << 18


class Corpus:
    """Documents that can be read several times.

    Args:
        name: Name in messages, usually the path.
        read: Returns a new iterator over pairs: a mapping, document or error, and its "file:line".
        skip_bad: Collect messages about bad documents in `bad` and continue, instead of stopping at the first one.
        identity: A text that changes with the source; unfinished work is resumed only for the same identity.
        count: Returns about how many documents there are; None if unknown.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterator[tuple[Mapping[str, Any] | Document | DataError, str]]],
        *,
        skip_bad: bool = False,
        identity: str = "",
        count: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.name = name
        self.identity = identity or name
        self.skip_bad = skip_bad
        self.bad: list[str] = []  # messages about documents that the latest pass skipped
        self.tells_bad = False  # whether a pass ends with a warning about bad documents
        self._read = read
        self._count = count
        self._doubled: Corpus | None = None  # the original, if this is a copy that allows doubled ids
        # The hint names an option of the command line, so it is left out for documents from Python.
        self._hint = " (--skip-bad counts bad lines and continues)" if identity else ""

    def count(self) -> int | None:
        """About how many documents there are, for progress bars; None if counting is expensive."""
        return self._count()

    def with_doubled(self) -> Corpus:
        """A copy that yields documents with doubled ids instead of refusing them."""
        other = copy.copy(self)
        other._doubled = self  # keeps temporary files alive
        return other

    def __iter__(self) -> Iterator[Document]:
        self.bad = []
        kept = 0
        for document in self._unique() if self._doubled is None else self._parsed():
            kept += 1
            yield document
        if self.bad and not kept and self._hint:
            none = f"none of {counted(len(self.bad), 'document')} can be read"
            raise DataError(f"{none}; the first: {self.bad[0]}", self.name)

    def _unique(self) -> Iterator[Document]:
        seen = _SeenIds()
        for chunk in chunks(self._parsed(), _CHECKED_TOGETHER, _CHARACTERS_TOGETHER):
            doubled = seen.add([document.id for document in chunk])
            for document, again in zip(chunk, doubled, strict=True):
                if not again:
                    yield document
                else:
                    self._refuse(DoubledId(f"the id {document.id!r} occurs twice", document.where))

    def _parsed(self) -> Iterator[Document]:
        for values, where in self._read():
            try:
                if isinstance(values, DataError):
                    raise values
                yield values if isinstance(values, Document) else Document.from_mapping(values, where)
            except DataError as error:
                self._refuse(error)

    def _refuse(self, error: DataError) -> None:
        if not self.skip_bad:
            raise type(error)(error.problem + self._hint, error.where) from None
        self.bad.append(str(error))


def chunks(documents: Iterable[Document], most: int, characters: int) -> Iterator[list[Document]]:
    """Cut a stream of documents into lists of `most` documents, or of fewer if these have `characters` in total."""
    chunk: list[Document] = []
    room = characters
    for document in documents:
        chunk.append(document)
        room -= len(document.text)
        if len(chunk) == most or room <= 0:
            yield chunk
            chunk, room = [], characters
    if chunk:
        yield chunk


class _SeenIds:
    """The set of ids seen so far, in 8 bytes per id: sorted runs of 64-bit hashes, merged as they grow.

    The probability that two of n ids share a hash is n^2 / 2^65: 2 in a million for 9 million documents.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def add(self, ids: list[str]) -> NDArray[np.bool_]:
        """Add ids; returns (n,) bool, whether each occurred before, in an earlier call or in this one."""
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        unique, first = np.unique(hashes, return_index=True)
        again = np.ones(len(ids), bool)
        again[first] = False
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            again |= run[at] == hashes
        self._runs.append(unique)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.unique(np.concatenate((self._runs[-1], last)))
        return again


# --- opening ------------------------------------------------------------------------------------------------------


def open_corpus(source: str | PathLike[str], *, queries: bool = False, skip_bad: bool = False) -> Corpus:
    """Open texts by path or name.

    Args:
        source: A BEIR folder, a .jsonl, .json, .tsv or .csv file (all also .gz), a .parquet file, "-" or a pipe of
            JSON, or an ir-datasets name ("beir/scifact/test", with or without "irds:" before it). Files and folders may
            be URIs (s3://bucket/docs.jsonl), which are copied to this machine.
        queries: Read the queries of a folder or dataset instead of its documents.
        skip_bad: Skip and count bad documents.

    Raises:
        DataError: There is no such file or dataset, or its format is unknown.
    """
    name = str(source)
    if is_stream(source):
        return _stream_corpus(source, skip_bad)
    kind = "queries" if queries else "corpus"
    if is_remote(name):
        from lsr.io.remote_files import fetched_file, file_in

        uri = file_in(name, beir_names(kind))
        copy, identity = fetched_file(uri)
        corpus = _file_corpus(copy, skip_bad, name=uri)
        corpus.identity = identity
        return corpus
    path = Path(source)
    if path.is_dir():
        return _file_corpus(beir_file(path, kind), skip_bad)
    if path.is_file():
        return _file_corpus(path, skip_bad)
    return _ir_dataset(name, queries, skip_bad)


def documents_corpus(
    documents: Iterable[Mapping[str, Any] | Document] | Any, *, replay: bool = False, skip_bad: bool = False
) -> Corpus:
    """Make a corpus of documents in memory: mappings ({"_id", "text", ...}), `Document` objects, or a table.

    Args:
        documents: Any iterable of documents, an Arrow table, or a data frame.
        replay: Whether they are read more than once; if so, one-time iterators are kept in a temporary file.
        skip_bad: Skip and count bad documents.
    """
    documents = given_rows(documents)
    if replay and not isinstance(documents, Collection | TableRows):
        bad: dict[int, DataError] = {}  # bad documents by number; their lines in the file are empty
        file = spool(_json_lines(documents, bad))

        def reread() -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
            file.seek(0)
            for number, line in enumerate(file, start=1):
                yield bad[number] if number in bad else json.loads(line), f"document {number}"

        corpus = Corpus("the documents", reread, skip_bad=skip_bad)
        weakref.finalize(corpus, here_only(end_spool), file)
        return corpus

    def read() -> Iterator[tuple[Mapping[str, Any] | Document | DataError, str]]:
        for number, document in enumerate(documents, start=1):
            blocks = isinstance(document, Document) and document.blocks  # checked when it was read
            yield document if blocks else _as_mapping(document), f"document {number}"

    return Corpus("the documents", read, skip_bad=skip_bad)


def _as_mapping(document: Mapping[str, Any] | Document) -> Mapping[str, Any]:
    if isinstance(document, Document):
        keys = ("text", "title", "metadata", "parent")
        return {"_id": document.id} | {key: getattr(document, key) for key in keys}
    return document


def beir_file(folder: Path, kind: str) -> Path:
    """The file of a BEIR folder that holds its "corpus" or "queries".

    Raises:
        DataError: The folder has no such file.
    """
    names = beir_names(kind)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no {names[0]}, {names[1]} or the like in this folder", str(folder))


def beir_names(kind: str) -> list[str]:
    """Possible names of a BEIR folder's "corpus" or "queries"."""
    return [kind + suffix for suffix in (".jsonl", ".jsonl.gz", ".parquet", ".tsv", ".tsv.gz", ".json", ".csv")]


def _json_lines(documents: Iterable[Mapping[str, Any] | Document], bad: dict[int, DataError]) -> Iterator[bytes]:
    for number, document in enumerate(documents, start=1):
        try:
            where = f"document {number}"
            yield json.dumps(_as_mapping(Document.from_mapping(_as_mapping(document), where))).encode() + b"\n"
        except DataError as error:
            bad[number] = error
            yield b"\n"


def _stream_corpus(source: str | PathLike[str], skip_bad: bool) -> Corpus:
    (path, digest), name = peek_stream(source), stream_name(source)
    corpus = _file_corpus(path, skip_bad, name=name)
    corpus.identity = f"{name} {digest}"  # unfinished work resumes if the content is the same
    take_stream(source, corpus)
    return corpus


def _file_corpus(path: Path, skip_bad: bool, name: str = "") -> Corpus:
    shown = name or str(path)
    if file_kind(path) == "parquet":
        open_parquet(path).close()  # refuse a broken file at once, not only when it is read
    return Corpus(
        shown,
        lambda: read_rows(path, shown),
        skip_bad=skip_bad,
        identity=file_identity(path),
        count=lambda: count_rows(path),
    )


def _ir_dataset(name: str, queries: bool, skip_bad: bool) -> Corpus:
    dataset = load_ir_dataset(name)
    has, what = (dataset.has_queries, "queries") if queries else (dataset.has_docs, "documents")
    if not has():
        raise DataError(f"this dataset has no {what}", name)

    def read() -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
        items = ir_items(name, dataset.queries_iter if queries else dataset.docs_iter)
        for number, item in enumerate(items, start=1):
            values = item._asdict()
            # Datasets have different fields for texts; default_text() is the text that the dataset itself defines, with
            # the title.
            if "text" not in values:
                values = {"_id": item[0], "text": item.default_text()}
            yield values, f"{name}:{number}"

    count = getattr(dataset, "queries_count" if queries else "docs_count", lambda: None)  # not all datasets can tell
    return Corpus(name, read, skip_bad=skip_bad, identity=name, count=count)
