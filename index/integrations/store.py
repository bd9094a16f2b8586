"""What the adapters share: an index by its path, its documents listed, written and deleted.

Every change is committed before the function returns, or taken back where it fails. What an adapter searches is what
was committed last (`current`), also where it was given an index that was open: that one moves on with it.
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
    """An index that is open already, or the one in this folder.

    Raises:
        IndexFormatError: Not an index.
    """
    return index if isinstance(index, Index) else Index.open(index)


def opened_or_created(path: str | PathLike[str], encoder: str) -> Index:
    """The index in this folder; an empty one is made where there is none.

    Args:
        path: The folder, or a URI where there is an index.
        encoder: What a new index encodes with.
    """
    if is_remote(path) or is_sharded(path) or (Path(path) / MANIFEST).is_file():
        return Index.open(path)
    try:
        return Index.build(path, [], encoder=encoder)
    except OutputExists:  # somebody else was faster, or it's something else, as opening it says
        return Index.open(path)


def current(index: Index) -> Index:
    """The same index, moved on to what was committed last, by whichever process; that costs a look at a file's date.

    One in object storage stays what it is until `Index.refresh`.
    """
    if not index.uri and index.stale:
        index.refresh()
    return index


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and options of `Index.search`, looked at now and not at the first query.

    Raises:
        TypeError: There is no such setting.
        ValueError: A value out of range.
        DataError: `where` is no filter.
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
    """Add documents ({"_id", "text", ...}) and commit; gives what that changed.

    Args:
        index: Where to.
        documents: What to add.
        existing: What becomes of one whose id is there already, as it was committed last: it takes that one's place,
            or refuses all of them, or is left out.

    Raises:
        DoubledId: To be refused.
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
    """Delete documents; ids that no document has are passed over."""
    with _committed(index):
        index.delete(ids)


def stored(index: Index) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Id, title, text and metadata of every document, in the order of addition; of passages, each passage's."""
    documents = index.documents
    for doc in documents.numbers():
        yield (documents.id(doc), *documents.fields(doc))


@contextmanager
def _committed(index: Index) -> Iterator[None]:
    """Commit; what can't be is forgotten, but not what was pending before."""
    had = index.pending
    try:
        yield
        index.commit()
    except BaseException:
        if not had:
            index.rollback()
        raise
