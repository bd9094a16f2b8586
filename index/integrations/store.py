"""What the adapters share: an index by its path, its documents listed, written and deleted.

Every change is committed before the function returns, or taken back where it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from lsr.index.index import Index
from lsr.index.shards import is_sharded
from lsr.index.storage import MANIFEST
from lsr.places import is_remote


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
    return Index.build(path, [], encoder=encoder)


def has(index: Index, doc_id: str) -> bool:
    """Whether a document has this id."""
    return index.documents.find(f"{doc_id}#0" if index.has_passages else doc_id) is not None


def put(index: Index, documents: Iterable[Mapping[str, Any]]) -> None:
    """Add documents ({"_id", "text", ...}); one whose id is there already takes that one's place."""
    with _committed(index):
        index.update(documents)


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
    try:
        yield
    except BaseException:
        index.rollback()
        raise
    index.commit()
