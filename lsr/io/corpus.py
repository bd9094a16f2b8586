"""Texts to encode, from wherever they come: a BEIR folder, JSON, TSV, CSV, Parquet, a data frame, standard input, an
ir-datasets name.

A `Corpus` can be read any number of times and hands out `Document`s one by one, so memory stays bounded. Every bad
line is named with its file and number. Queries are read by the same code: a query is a document with an id and text.
Vectors that are encoded already are `lsr.io.vectors`' business, judgments those of `lsr.io.runs`.
"""

from __future__ import annotations

import atexit
import copy
import gzip
import hashlib
import io
import json
import sys
import tempfile
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple, cast
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lsr.console import counted
from lsr.durable import take_name
from lsr.errors import DataError, DoubledId, MissingExtra, OutputError
from lsr.forks import here_only
from lsr.io.metadata import checked_metadata, is_absent, metadata_text
from lsr.io.object_store import is_remote
from lsr.io.rows import TableRows, batch_rows, csv_rows, is_table, json_array

# How documents travel beside their vectors, column by column. `metadata` is a JSON object.
DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("parent", pa.string()),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("metadata", pa.string()),
    ]
)
_ID_KEYS = ("_id", "id", "doc_id", "docid", "docno", "query_id", "qid")
_TEXT_KEYS = ("text", "contents", "content", "query")
_KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".tsv": "tsv", ".csv": "csv", ".parquet": "parquet"}
# Documents whose ids are compared with all earlier ones in one go; long ones fewer.
_CHECKED_TOGETHER, _CHARACTERS_TOGETHER = 1024, 4 << 20


class Block(NamedTuple):
    """A paragraph, list item, code block or the like of a document's text, which passages are made of.

    Attributes:
        start: Where it starts in the text, in characters; it ends where the next one starts.
        headings: The headings that it stands under, the highest first.
        anchor: What a link to its section has behind the "#"; empty if nothing.
        line: The line of its source where it starts, from 1; 0 where there are no lines.
        end_line: The line where it ends.
        page: Its page, from 1; 0 where there are no pages.
    """

    start: int
    headings: tuple[str, ...] = ()
    anchor: str = ""
    line: int = 0
    end_line: int = 0
    page: int = 0

    @classmethod
    def of(cls, values: Iterable[Any]) -> Block:
        """The block that JSON holds as a list."""
        start, headings, *rest = values
        return cls(start, tuple(headings), *rest)


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an id.

    Attributes:
        id: The user's own id, unique in a corpus.
        text: The text; may be empty.
        title: Put in front of the text when it is encoded.
        metadata: Anything else that JSON can hold.
        parent: For a passage, the id of the document it was cut from.
        where: File and line it came from, for messages.
        blocks: What the text is made of, in its order, if that is known: passages follow it.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] | None = None
    parent: str | None = None
    where: str = ""
    blocks: tuple[Block, ...] = ()

    @property
    def content(self) -> str:
        """What encoders read: title and text, joined by a space."""
        return f"{self.title} {self.text}" if self.title and self.text else self.title or self.text

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "") -> Document:
        """Build from a decoded line: an id, a text, perhaps a title; all other keys become metadata.

        Raises:
            DataError: No id, no text, or one that is not a string.
        """
        if not isinstance(values, Mapping):
            raise DataError(f"expected an object with an id and a text, got {short(values)}", where)
        id_key = _first(values, _ID_KEYS)
        if id_key is None:
            raise DataError(f'no id: a document needs "_id" (keys here: {short(list(values))})', where)
        doc_id = id_text(values[id_key])
        if not doc_id:
            raise DataError(f'"{id_key}" must be a string that is not empty, got {short(values[id_key])}', where)
        text_key = _first(values, _TEXT_KEYS) or ("title" if values.get("title") else None)
        if text_key is None:
            raise DataError(f'document {doc_id!r} has no text: it needs "text" (keys: {short(list(values))})', where)
        texts = {text_key: "", "title": ""}
        for key in texts:
            if is_absent(value := values.get(key)):
                continue
            if not isinstance(value, str):
                raise DataError(f'document {doc_id!r}: "{key}" must be a string, got {short(value)}', where)
            if not value.isascii():
                require_encodable(value, f'document {doc_id!r}: "{key}"', where)
            texts[key] = value
        if not doc_id.isascii():
            require_encodable(doc_id, f'"{id_key}"', where)
        rest = {k: v for k, v in values.items() if k not in (id_key, text_key, "title", "parent")}
        nested = rest.pop("metadata", None)
        if nested is not None and not isinstance(nested, Mapping):
            raise DataError(f'document {doc_id!r}: "metadata" must be an object, got {short(nested)}', where)
        given = {**rest, **(nested or {})}
        metadata = (checked_metadata(given, doc_id, where) or None) if given else None
        parent = values.get("parent")
        if is_absent(parent):
            parent = None
        elif not (parent := id_text(parent)):
            raise DataError(f'document {doc_id!r}: "parent" must be an id, got {short(values["parent"])}', where)
        if parent is not None:
            require_encodable(parent, f'document {doc_id!r}: "parent"', where)
        return cls(doc_id, "" if text_key == "title" else texts[text_key], texts["title"], metadata, parent, where)


def _first(values: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of some keys that has a value; if none has, the first that is there."""
    there = [key for key in keys if key in values]
    return next((key for key in there if not is_absent(values[key])), there[0] if there else None)


def id_text(value: Any) -> str | None:
    """An id as text: whole numbers, numpy's too, and UUIDs are ids as well; None for what is none."""
    if isinstance(value, int | np.integer | UUID) and not isinstance(value, bool):
        return str(value)
    return str(value) if isinstance(value, str) else None


def require_id(value: Any) -> str:
    """An id as text.

    Raises:
        DataError: It can't be one.
    """
    text = id_text(value)
    if text is None:
        raise DataError(f"an id is a text or a whole number, got {short(value)}")
    return text


def require_encodable(value: str, what: str, where: str) -> None:
    """Refuse half of a surrogate pair: JSON may escape one, but it is no character and can't be stored as UTF-8.

    Raises:
        DataError: There is one; the message names `what`.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} holds an unpaired surrogate at character {error.start}", where) from None


def short(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Corpus:
    """Documents that can be read again and again.

    Args:
        name: What messages call it, mostly its path.
        read: Gives a fresh iterator over (decoded line, document or error; where) pairs.
        skip_bad: Count bad documents in `bad` and go on, instead of stopping at the first.
        identity: A text that changes when the source does; tells whether work that was cut off can be continued.
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
        self.bad: list[str] = []  # messages about what was skipped, of the latest pass
        self.tells_bad = False  # whether a pass ends with a warning of it
        self._read = read
        self._count = count
        self._doubled: Corpus | None = None  # what this is a copy of, with doubled ids
        # A program's own documents have no command line whose options could help.
        self._hint = " (--skip-bad counts bad lines and goes on)" if identity else ""

    def count(self) -> int | None:
        """About how many documents there are, for progress bars; None where that can't be told cheaply."""
        return self._count()

    def with_doubled(self) -> Corpus:
        """The same, but documents whose ids have occurred come too, instead of being refused."""
        other = copy.copy(self)
        other._doubled = self  # which owns what is read
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
    """Cut a stream of documents: `most` of them at a time, fewer as soon as their texts have so many characters."""
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
    """Which ids have occurred, in 8 bytes an id: sorted runs of 64-bit hashes, merged as they grow.

    Two different ids of a corpus share a hash with a chance of n^2 / 2^65: 2 in a million for 9 million documents.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def add(self, ids: list[str]) -> NDArray[np.bool_]:
        """(n,) bool, whether each id occurred before, in an earlier call or earlier in this one."""
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
        skip_bad: Count bad documents and go on.

    Raises:
        DataError: There is nothing of that path or name, or it has an unknown form.
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
    """Wrap documents that a program holds, as mappings ({"_id", "text", ...}) or Document objects, or as a table.

    Args:
        documents: Any iterable of them, an Arrow table, or a data frame.
        replay: They'll be read more than once; what may be there only once is kept in a temporary file.
        skip_bad: Count bad documents and go on.
    """
    documents = given_rows(documents)
    if replay and not isinstance(documents, Collection | TableRows):
        bad: dict[int, DataError] = {}  # whose lines are empty
        spool = _spool(_json_lines(documents, bad))

        def reread() -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
            spool.seek(0)
            for number, line in enumerate(spool, start=1):
                yield bad[number] if number in bad else json.loads(line), f"document {number}"

        corpus = Corpus("the documents", reread, skip_bad=skip_bad)
        weakref.finalize(corpus, here_only(_end_spool), spool)
        return corpus

    def read() -> Iterator[tuple[Mapping[str, Any] | Document | DataError, str]]:
        for number, document in enumerate(documents, start=1):
            blocks = isinstance(document, Document) and document.blocks  # of a file: read with care already
            yield document if blocks else _as_mapping(document), f"document {number}"

    return Corpus("the documents", read, skip_bad=skip_bad)


def given_rows(documents: Any) -> Iterable[Any]:
    """What a program gives as documents, as an iterable of them: the rows of a table or a data frame.

    Raises:
        DataError: A mapping, whose keys are no documents.
    """
    if isinstance(documents, Mapping):
        names = ", ".join(map(str, islice(documents, 5)))
        raise DataError(f"a list of documents is wanted, not a mapping of {names}; of splits, give one")
    if isinstance(documents, pa.RecordBatchReader):  # which can be read once
        return iter(TableRows(documents))
    return TableRows(documents) if is_table(documents) else documents


def _as_mapping(document: Mapping[str, Any] | Document) -> Mapping[str, Any]:
    if isinstance(document, Document):
        keys = ("text", "title", "metadata", "parent")
        return {"_id": document.id} | {key: getattr(document, key) for key in keys}
    return document


def beir_file(folder: Path, kind: str) -> Path:
    """The file of a BEIR folder that holds its "corpus" or "queries".

    Raises:
        DataError: The folder has none.
    """
    names = beir_names(kind)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no {names[0]}, {names[1]} or the like in this folder", str(folder))


def beir_names(kind: str) -> list[str]:
    """How the file of a BEIR folder may be called that holds its "corpus" or "queries"."""
    return [kind + suffix for suffix in (".jsonl", ".jsonl.gz", ".parquet", ".tsv", ".tsv.gz", ".json", ".csv")]


def _json_lines(documents: Iterable[Mapping[str, Any] | Document], bad: dict[int, DataError]) -> Iterator[bytes]:
    for number, document in enumerate(documents, start=1):
        try:
            where = f"document {number}"
            yield json.dumps(_as_mapping(Document.from_mapping(_as_mapping(document), where))).encode() + b"\n"
        except DataError as error:
            bad[number] = error
            yield b"\n"


def _spool(chunks: Iterable[bytes]) -> Any:
    """A temporary file of some bytes: encoders that are fitted read their corpus twice."""
    file = tempfile.NamedTemporaryFile(prefix="lsr-", suffix=".jsonl", delete=False)  # noqa: SIM115 - as the corpus
    try:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
    except BaseException:
        _end_spool(file)
        raise
    return file


def _end_spool(file: Any) -> None:
    file.close()
    Path(file.name).unlink(missing_ok=True)


# Streams that were read, by name: whether they hold vectors is asked before they are opened.
_streams: dict[str, tuple[Any, str]] = {}


def is_stream(source: str | PathLike[str]) -> bool:
    """Whether a source can be read once only: "-", which is standard input, or a pipe such as /dev/stdin."""
    name = str(source)
    if name in ("-", "/dev/stdin") or name.startswith("/dev/fd/"):
        return True
    return not is_remote(name) and (Path(name).is_fifo() or Path(name).is_char_device())


def stream_name(source: str | PathLike[str]) -> str:
    """What messages call a stream."""
    return "<stdin>" if str(source) == "-" else str(source)


def peek_stream(source: str | PathLike[str]) -> tuple[Path, str]:
    """What a stream holds, in a temporary file, and a digest of it; `take_stream` gives the same file."""
    name = str(source)
    if name not in _streams:
        state = hashlib.sha256()

        def chunks(stream: IO[bytes]) -> Iterator[bytes]:
            while chunk := stream.read(1 << 20):
                state.update(chunk)
                yield chunk

        if name in ("-", "/dev/stdin"):
            file = _spool(chunks(sys.stdin.buffer))
        else:
            with open_bytes(Path(name)) as stream:
                file = _spool(chunks(stream))
        atexit.register(here_only(_end_spool), file)  # should nobody take it
        _streams[name] = file, state.hexdigest()
    file, digest = _streams[name]
    return Path(file.name), digest


def take_stream(source: str | PathLike[str], owner: object) -> None:
    """Have the file of `peek_stream` removed when its reader is gone; the stream's next part is another file."""
    file, _ = _streams.pop(str(source))
    weakref.finalize(owner, here_only(_end_spool), file)


def _stream_corpus(source: str | PathLike[str], skip_bad: bool) -> Corpus:
    (path, digest), name = peek_stream(source), stream_name(source)
    corpus = _file_corpus(path, skip_bad, name=name)
    corpus.identity = f"{name} {digest}"  # the same bytes again go on after a kill
    take_stream(source, corpus)
    return corpus


def _file_corpus(path: Path, skip_bad: bool, name: str = "") -> Corpus:
    shown = name or str(path)
    if file_kind(path) == "parquet":
        open_parquet(path).close()  # a broken file is refused now, not when it is read
    return Corpus(
        shown,
        lambda: read_rows(path, shown),
        skip_bad=skip_bad,
        identity=file_identity(path),
        count=lambda: _count_rows(path),
    )


def read_rows(path: Path, name: str = "") -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """Rows of a file that `file_kind` knows, with their "file:number"; a bad one comes as an error.

    Columns of a Parquet file that are null in a row are left out of it, the text apart.

    Raises:
        DataError: The name has another ending, or the file can't be read.
    """
    kind = file_kind(path)
    if kind == "parquet":
        yield from _read_parquet(path)
    elif kind == "jsonl":
        yield from read_json(path, name)
    elif kind == "csv":
        shown = name or str(path)
        with _read_errors(shown):
            for row, where in csv_rows(lambda: open_bytes(path), shown, (*_ID_KEYS, *_TEXT_KEYS, "title", "parent")):
                yield row if isinstance(row, DataError) else _without_nulls(row), where
    else:
        yield from _read_tsv(path, name)


def read_json(
    path: Path, name: str = "", *, unique_keys: bool = False
) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """The objects of JSON, one a line or all in one array, with their "file:line"; a bad one comes as an error.

    Args:
        path: The file.
        name: What messages call it.
        unique_keys: Refuse objects that have a key twice.

    Raises:
        DataError: The file can't be read, or its array is broken.
    """
    shown = name or str(path)
    with _read_errors(shown):
        if _begins_with(path, b"["):
            with open_bytes(path) as file:
                yield from json_array(file, shown, _UNIQUE_KEYS if unique_keys else json.JSONDecoder())
            return
    for line, where in read_lines(path, name):
        try:
            yield (line if isinstance(line, DataError) else _parse_json(line, where, unique_keys)), where
        except DataError as error:
            yield error, where


def _begins_with(path: Path, what: bytes) -> bool:
    """Whether that is the first of a file but for white space."""
    with open_bytes(path) as file:
        first = file.read(3)
        first = b"" if first == b"\xef\xbb\xbf" else first
        while not first.strip() and (more := file.read(4096)):
            first = more
    return first.strip().startswith(what)


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None or key in _TEXT_KEYS}


@contextmanager
def _read_errors(shown: str) -> Iterator[None]:
    """A file that can't be read, or a .gz that ends early, as a DataError."""
    try:
        yield
    except EOFError:
        raise DataError("the compressed file ends early; it is cut off", shown) from None
    except (OSError, zlib.error) as error:
        raise DataError(f"can't be read: {error}", shown) from None


def file_identity(path: Path) -> str:
    """A text that changes when a file does: where it lies, how large it is, when it was changed."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def file_kind(path: Path) -> str:
    """ "jsonl" (also for an array), "tsv", "csv" or "parquet", by the file's name.

    Raises:
        DataError: Any other ending.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    kind = _KINDS.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise DataError("the name must end in .jsonl, .json, .tsv, .csv (all also .gz) or .parquet", str(path))
    return kind


def is_packed(path: Path) -> bool:
    """Whether a file's name says that it is packed by gzip."""
    return path.suffix.lower() == ".gz"


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacking .gz."""
    try:
        return cast("IO[bytes]", gzip.open(path, "rb")) if is_packed(path) else path.open("rb")
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror}", str(path)) from None


def unfinished(path: Path) -> Path:
    """The name under which a file is written until it is whole."""
    # Not ".partial": `lsr.encode.corpus` has its parts in a folder of that name when it writes `path`.
    return path.with_name(path.name + ".unfinished")


@contextmanager
def new_text(path: Path) -> Iterator[IO[str]]:
    """A text file to write, packed if its name ends in .gz; it takes its name only when it is whole, on the disk."""
    with new_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="\n") as text:
        yield text


@contextmanager
def new_bytes(path: Path) -> Iterator[IO[bytes]]:
    """As `new_text`, for bytes.

    Raises:
        OutputError: There is no such folder.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}")
    partial = unfinished(path)
    try:
        with gzip.open(partial, "wb") if is_packed(path) else partial.open("wb") as file:
            yield cast("IO[bytes]", file)
        take_name(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_lines(path: Path, name: str = "") -> Iterator[tuple[str | DataError, str]]:
    """Lines of a text file with their "file:number"; a line that is not UTF-8 comes as an error in its place.

    Raises:
        DataError: The file can't be read or a .gz ends early.
    """
    shown = name or str(path)
    number = 0
    try:
        with open_bytes(path) as file:
            for number, raw in enumerate(file, start=1):
                where = f"{shown}:{number}"
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    yield (
                        DataError(
                            f"not UTF-8: byte 0x{error.object[error.start]:02x} at column {error.start + 1}", where
                        ),
                        where,
                    )
                    continue
                if line.strip():
                    yield line, where
    except EOFError:
        raise DataError("the compressed file ends early; it is cut off", f"{shown}:{number + 1}") from None
    except (OSError, zlib.error) as error:
        raise DataError(f"can't be read: {error}", f"{shown}:{number + 1}") from None


def parse_json_line(line: str, where: str, *, unique_keys: bool = False) -> Any:
    """Decode one line of JSON.

    Raises:
        DataError: It is not JSON, or with `unique_keys` an object has a key twice.
    """
    try:
        line = line.rstrip("\r\n")  # else an early end is told as column 1 of the next line
        return _UNIQUE_KEYS.decode(line) if unique_keys else json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at column {error.colno}", where) from None
    except ValueError as error:  # a number of thousands of digits, or a key that occurs twice
        raise DataError(f"not JSON that can be read: {error}", where) from None
    except RecursionError:
        raise DataError("not JSON that can be read: nested too deeply", where) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} occurs twice")
    return values


_UNIQUE_KEYS = json.JSONDecoder(object_pairs_hook=_unique)


def _parse_json(line: str, where: str, unique_keys: bool) -> Mapping[str, Any]:
    values = parse_json_line(line, where, unique_keys=unique_keys)
    if not isinstance(values, dict):
        raise DataError(f"expected a JSON object, got {short(values)}", where)
    return values


def _read_tsv(path: Path, name: str) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """Lines of a TSV file: by the names of its first line, if these are some, else id and text, or id, title, text."""
    names: list[str] | None = None
    for number, (line, where) in enumerate(read_lines(path, name)):
        if isinstance(line, DataError):
            yield line, where
            continue
        fields = line.rstrip("\r\n").split("\t")
        if number == 0 and _is_header(fields):
            names = fields
            continue
        columns = names or {2: ["_id", "text"], 3: ["_id", "title", "text"]}.get(len(fields), [])
        if len(columns) == len(fields):
            yield dict(zip(columns, fields, strict=True)), where
        else:
            wanted = f"{len(names)} columns" if names else "id<TAB>text or id<TAB>title<TAB>text"
            yield DataError(f"expected {wanted}, got {len(fields)} columns", where), where


def _is_header(fields: list[str]) -> bool:
    """Whether these are the names of columns: one of an id, one of a text."""
    there = set(fields)
    return len(there) == len(fields) and bool(there & set(_ID_KEYS)) and bool(there & {*_TEXT_KEYS, "title"})


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        DataError: It is cut short, or no Parquet at all.
    """
    try:
        # Read in small pieces and not ahead: reading ahead keeps the whole file in memory until its end.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a whole Parquet file: {error}", str(path)) from None


def _read_parquet(path: Path) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    number = 0
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch_rows(batch, f"{path}:{number + 1}"):
                    number += 1
                    yield _without_nulls(row), f"{path}:{number}"
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't be read: {error}", f"{path}:{number + 1}") from None


def _count_rows(path: Path) -> int | None:
    try:
        if file_kind(path) == "parquet":
            with open_parquet(path) as file:
                return int(file.metadata.num_rows)
        with open_bytes(path) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except (EOFError, OSError, zlib.error, DataError):
        return None  # reading it for real says what is wrong


def load_ir_dataset(name: str) -> Any:
    """The ir-datasets dataset of a name.

    Raises:
        MissingExtra: ir-datasets is not installed.
        DataError: Neither a path nor a dataset has that name.
    """
    plain = name.removeprefix("irds:")
    try:
        import ir_datasets
    except ImportError:
        if name.startswith("irds:"):
            raise MissingExtra("ir-datasets", "eval", f"reading {name}") from None
        raise DataError('no such file or folder; datasets by name need pip install "lsr-search[eval]"', name) from None
    try:
        return ir_datasets.load(plain)
    except KeyError:
        raise DataError("no such file or folder, and no dataset of ir-datasets has this name", name) from None


def ir_items(name: str, items: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """What a dataset of ir-datasets yields.

    Raises:
        DataError: It can't be downloaded or read.
    """
    try:
        yield from items()
    except Exception as error:  # downloads and parsers of a hundred datasets: anything can come
        raise DataError(f"ir-datasets can't read it: {type(error).__name__}: {error}", name) from error


def _ir_dataset(name: str, queries: bool, skip_bad: bool) -> Corpus:
    dataset = load_ir_dataset(name)
    has, what = (dataset.has_queries, "queries") if queries else (dataset.has_docs, "documents")
    if not has():
        raise DataError(f"this dataset has no {what}", name)

    def read() -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
        items = ir_items(name, dataset.queries_iter if queries else dataset.docs_iter)
        for number, item in enumerate(items, start=1):
            values = item._asdict()
            # What a dataset calls its text differs; default_text() is its own choice, title included.
            if "text" not in values:
                values = {"_id": item[0], "text": item.default_text()}
            yield values, f"{name}:{number}"

    count = getattr(dataset, "queries_count" if queries else "docs_count", lambda: None)  # not all can tell
    return Corpus(name, read, skip_bad=skip_bad, identity=name, count=count)


def document_batch(documents: list[Document], *, with_text: bool = True) -> pa.RecordBatch:
    """Documents as an Arrow record batch of DOCUMENT_SCHEMA; without text only ids and parents are kept."""
    columns = {
        "id": [d.id for d in documents],
        "parent": [d.parent for d in documents],
        "title": [(d.title or None) if with_text else None for d in documents],
        "text": [d.text if with_text else None for d in documents],
        "metadata": [metadata_text(d.metadata, d.id, d.where) if with_text and d.metadata else None for d in documents],
    }
    return pa.RecordBatch.from_pydict(columns, schema=DOCUMENT_SCHEMA)


def require_metadata(text: str, doc_id: str, where: str) -> None:
    """Refuse metadata of a file that are no JSON object.

    Raises:
        DataError: What is wrong, with the document.
    """
    try:
        values = json.loads(text)
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"document {doc_id!r}: metadata is not JSON: {error}", where) from None
    if not isinstance(values, dict):
        raise DataError(f'document {doc_id!r}: "metadata" must be an object, got {short(values)}', where)
