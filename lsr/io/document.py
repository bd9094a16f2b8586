"""Document: a text with an id and metadata, alone or in Arrow record batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pyarrow as pa

from lsr.errors import DataError
from lsr.io.metadata import checked_metadata, is_absent, metadata_text

# Columns of documents, stored with their vectors. `metadata` is a JSON object.
DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("parent", pa.string()),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("metadata", pa.string()),
    ]
)
ID_KEYS = ("_id", "id", "doc_id", "docid", "docno", "query_id", "qid")
TEXT_KEYS = ("text", "contents", "content", "query")


class Block(NamedTuple):
    """A part of a document, such as a paragraph, list item or code block; passages consist of blocks.

    Attributes:
        start: The first character in the text; a block ends where the next one starts.
        headings: The headings above the block, highest first.
        anchor: Fragment of a link to the block's section, without the "#"; may be empty.
        line: The first line in the source, from 1; 0 if the source has no lines.
        end_line: The last line in the source.
        page: The page, from 1; 0 if the source has no pages.
    """

    start: int
    headings: tuple[str, ...] = ()
    anchor: str = ""
    line: int = 0
    end_line: int = 0
    page: int = 0

    @classmethod
    def of(cls, values: Iterable[Any]) -> Block:
        """A block from a JSON list."""
        start, headings, *rest = values
        return cls(start, tuple(headings), *rest)


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an id.

    Attributes:
        id: The user's own id, unique in a corpus.
        text: The text; may be empty.
        title: The title, which is encoded before the text.
        metadata: Anything that JSON can hold.
        parent: For a passage, the id of the document it was cut from.
        where: File and line of the document, for messages.
        blocks: The blocks of the text in order, if known; passages follow their borders.
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
        """The text for encoders: title and text, joined by a space."""
        return f"{self.title} {self.text}" if self.title and self.text else self.title or self.text

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "") -> Document:
        """Make a document from a mapping with an id, a text and perhaps a title; other keys become metadata.

        Raises:
            DataError: Id or text is missing or not a string.
        """
        if not isinstance(values, Mapping):
            raise DataError(f"expected an object with an id and a text, got {short(values)}", where)
        id_key = _first(values, ID_KEYS)
        if id_key is None:
            raise DataError(f'no id: a document needs "_id" (keys here: {short(list(values))})', where)
        doc_id = id_text(values[id_key])
        if not doc_id:
            raise DataError(f'"{id_key}" must be a string that is not empty, got {short(values[id_key])}', where)
        text_key = _first(values, TEXT_KEYS) or ("title" if values.get("title") else None)
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
    """The first of some keys that has a value; else the first key that exists."""
    there = [key for key in keys if key in values]
    return next((key for key in there if not is_absent(values[key])), there[0] if there else None)


def id_text(value: Any) -> str | None:
    """Convert an id to text: a string, a whole number, a numpy integer or a UUID. None if the value can't be an id."""
    if isinstance(value, int | np.integer | UUID) and not isinstance(value, bool):
        return str(value)
    return str(value) if isinstance(value, str) else None


def require_id(value: Any) -> str:
    """An id as text.

    Raises:
        DataError: The value can't be an id.
    """
    text = id_text(value)
    if text is None:
        raise DataError(f"an id is a text or a whole number, got {short(value)}")
    return text


def as_ids(ids: Any) -> list[str]:
    """One id, or an iterable of ids, as a list of texts.

    Raises:
        DataError: A value can't be an id, or `ids` is a mapping.
    """
    if isinstance(ids, Mapping):
        raise DataError(f"expected ids, got a mapping of {short(list(ids))}; pass a filter as where=")
    many = isinstance(ids, Iterable) and not isinstance(ids, str | bytes | bytearray)
    return [require_id(one) for one in (ids if many else [ids])]


def require_encodable(value: str, what: str, where: str) -> None:
    """Refuse unpaired surrogates, which JSON can escape but UTF-8 can't store.

    Raises:
        DataError: The text has an unpaired surrogate; the message names `what`.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        half = "an unpaired surrogate"
        if 0xDC80 <= code <= 0xDCFF:  # how Python represents an undecodable byte of the command line
            half = f"a byte that isn't UTF-8, 0x{code - 0xDC00:02x},"
        raise DataError(f"{what} holds {half} at character {error.start}", where) from None


def short(value: Any) -> str:
    """A value in short form, for messages."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def document_batch(documents: list[Document], *, with_text: bool = True) -> pa.RecordBatch:
    """Documents as an Arrow record batch of DOCUMENT_SCHEMA; without text, only ids and parents are filled in."""
    columns = {
        "id": [d.id for d in documents],
        "parent": [d.parent for d in documents],
        "title": [(d.title or None) if with_text else None for d in documents],
        "text": [d.text if with_text else None for d in documents],
        "metadata": [metadata_text(d.metadata, d.id, d.where) if with_text and d.metadata else None for d in documents],
    }
    return pa.RecordBatch.from_pydict(columns, schema=DOCUMENT_SCHEMA)


def require_metadata(text: str, doc_id: str, where: str) -> None:
    """Check that metadata is a JSON object.

    Raises:
        DataError: The metadata isn't a JSON object; the message names the document.
    """
    try:
        values = json.loads(text)
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"document {doc_id!r}: metadata is not JSON: {error}", where) from None
    if not isinstance(values, dict):
        raise DataError(f'document {doc_id!r}: "metadata" must be an object, got {short(values)}', where)
