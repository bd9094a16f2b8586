"""Files and folders of files as a corpus: one document for each file, or for each row of a table.

    Index.build("idx", read_documents("docs/"))

A file's id is its path within the folder. Files that can't be read are left out, with a warning.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from lsr.console import counted, warn
from lsr.errors import DataError, GuessedEncoding, LeftOut, LsrError, MissingExtra
from lsr.files.decode import decoded
from lsr.files.html import read_html
from lsr.files.markdown import read_markdown
from lsr.files.notebook import read_notebook
from lsr.files.office import read_docx, read_epub, read_pdf
from lsr.files.parsed import Parsed
from lsr.files.plain import read_code, read_python, read_text
from lsr.files.rows import ROWS, row_documents
from lsr.files.rst import read_rst
from lsr.files.walk import Found, PassedOver, is_made, some, walk
from lsr.io.corpus import Corpus, beir_names, open_corpus
from lsr.io.document import Document
from lsr.io.metadata import plain_metadata
from lsr.io.object_store import is_remote
from lsr.io.open_vectors import holds_vectors
from lsr.io.streams import is_stream

SOURCE, DIGEST = "source", "digest"  # metadata of every document: the file, and a digest of its content
_READERS = 2  # increase this when a reader's output changes, so that `sync` reads all files again
_LARGEST_TEXT = 1 << 28  # bytes: larger files that must be read as a whole are refused
_LISTED = 10  # at most this many messages about files that are left out
_JUST_NOW = 2_000_000_000  # nanoseconds in which a file may change twice without a new date
_MOST_BAD_ROWS = 3  # bad rows of a file that are listed

_CODE = """
    .bash .c .cc .cfg .clj .cmake .conf .cpp .cs .cxx .dart .el .erl .ex .exs .f90 .fs .go .gradle .graphql .groovy
    .h .hh .hpp .hs .hxx .ini .java .jl .js .json .jsx .kt .kts .lisp .lua .m .mjs .ml .mm .nim .pas .php .pl .pm .proto
    .ps1 .pxd .pyx .r .rb .rkt .rs .scala .scm .sh .sol .sql .swift .tcl .tf .toml .ts .tsx .vb .vim .vue
    .yaml .yml .zig .zsh
"""
_TEXT: dict[str, Callable[[str], Parsed]] = {
    **dict.fromkeys(_CODE.split(), read_code),
    **dict.fromkeys((".py", ".pyi", ".pyw"), read_python),
    **dict.fromkeys((".md", ".markdown", ".mdx", ".qmd", ".rmd"), read_markdown),
    **dict.fromkeys((".rst", ".rest"), read_rst),
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
    **dict.fromkeys((".txt", ".text", ".adoc", ".log", ".org", ".tex"), read_text),
    ".ipynb": read_notebook,
    "": read_text,  # README, LICENSE
}
_PACKED: dict[str, Callable[[Path], Parsed]] = {".pdf": read_pdf, ".docx": read_docx, ".epub": read_epub}
ENDINGS = frozenset(_TEXT) | frozenset(_PACKED) | frozenset(ROWS)


def read_documents(source: str | PathLike[str], *, url: str = "") -> FileCorpus:
    """Read files as documents: Markdown, reStructuredText, HTML, text, PDF, DOCX, EPUB, notebooks and source code; and
    the rows of CSV, TSV, JSON, JSONL and Parquet.

    A document's id is its file's path within the folder; for a row of a table, the row's id is appended. A document's
    metadata are "source", the file; "digest", a digest of the content for `Index.sync`; "url"; and the file's own
    metadata, such as front matter. Passages also have "line" and "end_line", or "page", and an "anchor" such as
    "#install", which is also appended to "url".

    Hidden files and files that git ignores are left out, and symbolic links aren't followed. Files that can't be read
    are left out with a `LeftOut` warning; the warning and the corpus have a list `bad`, with a message about each. A
    `GuessedEncoding` warning names texts that aren't UTF-8 and don't declare their encoding.

    Args:
        source: A folder, or a file.
        url: Where the files are on the web: a prefix of their paths, or a pattern with {path} or {stem} (the path
            without its suffix), such as "https://example.org/docs/{stem}.html".

    Raises:
        DataError: There is no such file or folder.
    """
    return FileCorpus(Path(source), url)


def open_texts(
    source: str | PathLike[str], *, queries: bool = False, skip_bad: bool = False, url: str = ""
) -> Corpus | None:
    """Open texts with `open_corpus` or `read_documents`; None for vectors.

    `open_corpus` opens BEIR folders and single tables, whose rows keep their own ids.

    Args:
        source: As for `open_corpus`, or a folder of files, or one file.
        queries: As for `open_corpus`.
        skip_bad: As for `open_corpus`.
        url: As for `read_documents`.

    Raises:
        DataError: As for both functions; or `url` is given for something other than files.
    """
    if not str(source):
        raise DataError("name a file, a folder or a dataset; the source is an empty text")
    if not (queries or is_remote(source) or is_stream(source)) and _is_files(Path(source)):
        return read_documents(source, url=url)
    if url:
        raise DataError("a url is for a folder of files, or for a single file", str(source))
    return None if holds_vectors(source) else open_corpus(source, queries=queries, skip_bad=skip_bad)


def _is_files(path: Path) -> bool:
    """Whether a path is a folder or file for `read_documents`."""
    if path.is_dir():
        is_corpus = any((path / name).is_file() for name in (*beir_names("corpus"), *beir_names("queries")))
        return not is_corpus and not holds_vectors(path)
    ending = path.suffix.lower()
    return path.is_file() and ending != ".json" and (ending in _TEXT or ending in _PACKED)


class FileCorpus(Corpus):
    """The corpus of `read_documents`. Each pass reads the files as they are at that time.

    Args:
        root: A folder, or a file.
        url: As for `read_documents`.

    Raises:
        DataError: There is no such file or folder, it is an index or a virtual environment, or `url` has an unknown
            placeholder.
    """

    def __init__(self, root: Path, url: str = "") -> None:
        if unknown := set(re.findall(r"{\w*}", url)) - {"{path}", "{stem}"}:
            raise DataError(f"a url has {{path}} or {{stem}}, not {', '.join(sorted(unknown))}", url)
        if not root.exists():
            raise DataError("no such file or folder", str(root))
        if root.is_dir() and is_made({path.name for path in root.iterdir()}):
            raise DataError("this is an index, or a virtual environment, not a folder of documents", str(root))
        self.root, self.url = root, url
        self._left_out = LeftOutFiles()  # in the latest pass
        self._guessed: dict[str, str] = {}  # {file: encoding}
        self._digests: dict[str, tuple[tuple[int, int], str]] = {}  # {file: ((size, date), digest)}
        state, n_files, rows = hashlib.sha256(f"{root.absolute()} {url}".encode()), 0, False
        for found in self.files():
            state.update(f"{found.name} {found.size} {found.changed}\n".encode())
            n_files, rows = n_files + 1, rows or found.path.suffix.lower() in ROWS
        count = None if rows else n_files  # the number of rows is unknown
        super().__init__(str(root), self._all, skip_bad=True, identity=state.hexdigest(), count=lambda: count)
        self._hint, self.tells_bad = "", True

    def __iter__(self) -> Iterator[Document]:
        n = 0
        for document in super().__iter__():
            n += 1
            yield document
        if not n:
            raise DataError(
                "\n  ".join(["there is nothing to read here", *self._left_out.summary(self.bad)]), self.name
            )
        self.tell(self.bad, self._left_out)

    def tell(self, bad: list[str], left_out: LeftOutFiles) -> None:
        """Warn about files that were left out, and about files whose encoding was guessed.

        Args:
            bad: Messages about all files that were left out; those from `left_out.each` come last.
            left_out: The files that the warning counts by kind.
        """
        if bad:
            warn(LeftOut("\n  ".join([f"{self.name}: left out:", *left_out.summary(bad)]), bad), LeftOut)
        if self._guessed:
            files = some([f"{name} ({encoding})" for name, encoding in self._guessed.items()])
            n = counted(len(self._guessed), "file")
            warn(f"{self.name}: {n} not in UTF-8, whose encoding was guessed: {files}", GuessedEncoding)
            self._guessed = {}

    def files(self, passed_over: PassedOver | None = None) -> Iterator[Found]:
        """The files to read.

        Args:
            passed_over: Skipped files are added to it.
        """
        passed_over = PassedOver() if passed_over is None else passed_over
        if self.root.is_file():
            status = self.root.stat()
            yield Found(self.root, self.root.name, status.st_size, status.st_mtime_ns)
            return
        for found in walk(self.root, passed_over):
            ending = found.path.suffix.lower()
            if ending in ENDINGS:
                yield found
            else:
                passed_over.unsupported.append(found.name)

    def digest(self, found: Found) -> str:
        """A digest of a file and of the settings for reading it, 16 hexadecimal digits.

        Raises:
            DataError: The file can't be read.
        """
        looked_at = (found.size, found.changed)
        if (known := self._digests.get(found.name)) is not None and known[0] == looked_at:
            return known[1]
        state, now = hashlib.sha256(f"{_READERS} {self.url}\n".encode()), time.time_ns()
        try:
            with found.path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    state.update(chunk)
        except OSError as error:
            raise DataError(f"can't be read: {error.strerror}", found.name) from None
        digest = state.hexdigest()[:16]
        if found.changed < now - _JUST_NOW:
            self._digests[found.name] = looked_at, digest
        return digest

    def read(self, found: Found, digest: str) -> Iterator[Document | DataError]:
        """The documents of a file, and errors for its bad rows; nothing if it has no text.

        Raises:
            DataError: The file can't be read.
            MissingExtra: A library is missing.
        """
        ending = found.path.suffix.lower()
        metadata: dict[str, Any] = {SOURCE: found.name, DIGEST: digest}
        if url := self._url(found.name):
            metadata["url"] = url
        if ending in ROWS or (ending == ".json" and _is_array(found.path)):
            yield from row_documents(found.path, found.name, metadata)
            return
        parsed, guessed = _parsed(found, ending)
        if not parsed.text.strip():
            return
        if guessed:
            self._guessed[found.name] = guessed
        own = plain_metadata(parsed.metadata, found.name, found.name)
        metadata |= {key: value for key, value in own.items() if key not in metadata and value not in ("", None)}
        title = parsed.title or PurePosixPath(found.name).name
        yield Document(found.name, parsed.text, title, metadata, None, found.name, tuple(parsed.blocks))

    def _url(self, name: str) -> str:
        if not self.url:
            return ""
        path, stem = quote(name), quote(name.removesuffix(PurePosixPath(name).suffix))
        if "{path}" in self.url or "{stem}" in self.url:
            return self.url.replace("{path}", path).replace("{stem}", stem)
        return f"{self.url.rstrip('/')}/{path}"

    def _all(self) -> Iterator[tuple[Mapping[str, Any] | Document | DataError, str]]:
        left_out = self._left_out
        left_out.clear()
        for found in self.files(left_out.passed_over):
            n_bad = 0
            for document in left_out.tried(self, found):
                if isinstance(document, DataError):
                    n_bad += 1
                    if n_bad > _MOST_BAD_ROWS:
                        continue
                yield document, found.name
            if n_bad > _MOST_BAD_ROWS:
                yield DataError(f"{n_bad - _MOST_BAD_ROWS:,} more rows can't be read", found.name), found.name
        for error in left_out.each():
            yield error, self.name


class LeftOutFiles:
    """Reads files, and records those that warnings count by kind: files that are empty, skipped, or need a missing
    library.

    Attributes:
        failed: Whether a part of the latest file couldn't be read.
        passed_over: Skipped files; filled in by the code that looks for files.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all files."""
        self.failed, self.passed_over = False, PassedOver()
        self._empty: list[str] = []
        self._missing: dict[str, list[str]] = {}  # {message: files}

    def tried(self, corpus: FileCorpus, found: Found, digest: str = "") -> Iterator[Document | DataError]:
        """The documents of a file, or an error if it can't be read."""
        n, self.failed = 0, False
        try:
            for document in corpus.read(found, digest or corpus.digest(found)):
                n += 1
                self.failed = self.failed or isinstance(document, DataError)
                yield document
            if not n:
                self._empty.append(found.name)
        except MissingExtra as error:
            self.failed = True
            self._missing.setdefault(str(error), []).append(found.name)
        except DataError as error:
            self.failed = True
            yield error if error.where else DataError(error.problem, found.name)
        except OSError as error:
            self.failed = True
            yield DataError(f"can't be read: {error.strerror}", found.name)

    def each(self) -> list[DataError]:
        """An error for each recorded file."""
        missing = [DataError(message, name) for message, names in self._missing.items() for name in names]
        return [*missing, *(DataError("no text", name) for name in self._empty), *self.passed_over.each()]

    def summary(self, bad: Sequence[str]) -> list[str]:
        """Messages about everything that was left out: first messages about single files, then one for each kind. If
        some files aren't named, the last message says how to list all of them.

        Args:
            bad: All messages; those from `each` come last.
        """
        each = self.each()
        n_others = len(bad) - len(each)
        said = list(bad[: min(n_others, _LISTED)])
        said += [f"and {n_others - _LISTED:,} more"] if n_others > _LISTED else []
        said += [
            f"{message} ({counted(len(names), 'file')}: {some(names)})" for message, names in self._missing.items()
        ]
        said += [f"files without text: {len(self._empty):,} ({some(self._empty)})"] if self._empty else []
        said += self.passed_over.messages()
        if n_others > _LISTED or _unnamed(each, "\n".join(said)):
            said.append(f"to list all {len(bad):,}: --left-out FILE, or in Python `bad` of the warning or the corpus")
        return said


def _unnamed(errors: Sequence[DataError], text: str) -> bool:
    """Whether at least one error is about a file that a text doesn't name."""
    return any(error.where not in text for error in errors)


def _parsed(found: Found, ending: str) -> tuple[Parsed, str]:
    """The parsed content of a file, and its encoding if that was guessed ("" otherwise)."""
    if ending in _PACKED:
        return _PACKED[ending](found.path), ""
    if found.size > _LARGEST_TEXT:
        raise DataError(f"{found.size >> 20:,} MB is too much for one document: split it", found.name)
    text, guessed = decoded(found.path.read_bytes(), markup=ending in (".html", ".htm", ".xhtml"))
    try:
        return _TEXT[ending](text), guessed
    except LsrError:
        raise
    except Exception as error:  # hostile files are nested a thousand deep, or worse
        raise DataError(f"can't be read: {type(error).__name__}: {error}", found.name) from None


def _is_array(path: Path) -> bool:
    """Whether a file of JSON holds an array of objects."""
    with path.open("rb") as file:
        return re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", file.read(4096)) is not None
