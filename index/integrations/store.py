"""Functions that the adapters share: open an index by path; list, write and delete its documents.

Every change is committed before the function returns, or rolled back if it fails. Adapters search the latest commit
(`current`); for this, they also refresh an index object that was passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from lsr.errors import OutputExists
from lsr.index.index import Index
from lsr.index.search.options import split_options
from lsr.index.segment.parse_filters import as_filter
from lsr.index.sharding.manifest import is_sharded
from lsr.index.storage.manifest import MANIFEST
from lsr.index.write.update_batch import Change
from lsr.io.document import Document
from lsr.io.object_store import is_remote

Existing = Literal["replace", "refuse", "skip"]


def opened(index: Index | str | PathLike[str]) -> Index:
    """Return an index that is already open, or open the index in a folder.

    Raises:
        IndexFormatError: Not an index.
    """
    return index if isinstance(index, Index) else Index.open(index)


def opened_or_created(path: str | PathLike[str], encoder: str) -> Index:
    """Open the index in a folder, or create an empty one.

    Args:
        path: The folder, or the URI of an existing index.
        encoder: Encoder of a new index.
    """
    if is_remote(path) or is_sharded(path) or (Path(path) / MANIFEST).is_file():
        return Index.open(path)
    try:
        return Index.build(path, [], encoder=encoder)
    except OutputExists:  # if another process has created the index, open it; else `open` says what the folder is
        return Index.open(path)


def current(index: Index) -> Index:
    """Return the index, refreshed to the latest commit of any process. Only a file's date is checked.

    An index in object storage isn't refreshed; call `Index.refresh`.
    """
    if not index.uri and index.stale:
        index.refresh()
    return index


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Validate keyword arguments of `Index.search` now rather than at the first query.

    Raises:
        TypeError: An unknown setting.
        ValueError: A value is out of range.
        DataError: `where` isn't a filter.
    """
    how = dict(settings)
    where = how.pop("where", None)
    if where is not None:
        as_filter(where)
    split_options(how)
    return dict(settings)


def put(
    index: Index, documents: Iterable[Mapping[str, Any]] | Iterable[Document], existing: Existing = "replace"
) -> Change:
    """Add documents ({"_id", "text", ...}) and commit; return the change.

    Args:
        index: The index.
        documents: The documents.
        existing: What to do if an id exists at the latest commit: replace the existing document, refuse all documents,
            or skip the new document.

    Raises:
        DoubledId: An id exists, and `existing` is "refuse".
        DataError: A bad document.
    """
    with _committed(index):
        if existing == "replace":
            return index.update(documents)
        if existing == "refuse":
            return index.add(documents)
        given: Iterable[Mapping[str, Any] | Document] = documents
        checked = [
            one if isinstance(one, Document) else Document.from_mapping(one, f"document {n}")
            for n, one in enumerate(given, start=1)
        ]
        return index.add(checked, skip_bad=True)


def remove(index: Index, ids: Sequence[str]) -> None:
    """Delete documents and commit; unknown ids are ignored."""
    with _committed(index):
        index.delete(ids)


def stored(index: Index) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield id, title, text and metadata of every document (or passage), in the order in which they were added."""
    documents = index.documents
    for doc in documents.numbers():
        yield (documents.id(doc), *documents.fields(doc))


@contextmanager
def _committed(index: Index) -> Iterator[None]:
    """Commit on exit. On failure, roll back, unless changes were pending before the block."""
    had = index.pending
    try:
        yield
        index.commit()
    except BaseException:
        if not had:
            index.rollback()
        raise
