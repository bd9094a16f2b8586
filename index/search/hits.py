"""Hit: one search result, whose text is read on access. Hits: all results of a search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from operator import getitem
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.errors import DataError, LsrError, MissingExtra
from lsr.index.search.explain import Explanation
from lsr.index.search.rerank import Moved

if TYPE_CHECKING:
    from lsr.encode.phrases import Answer, PhraseReader

_SHOWN = 300  # characters of a text in a notebook


class Described(Protocol):
    """Looks documents up by number."""

    def id(self, doc: int) -> str: ...

    def parent(self, doc: int) -> str | None: ...

    def ids_of(self, docs: Sequence[int], *, parents: bool = False) -> list[str]: ...

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]: ...


class ShownDocuments:
    """Documents of which only some fields are shown.

    Args:
        documents: The documents.
        shown: The fields, as in `Options.shown`.
    """

    def __init__(self, documents: Described, shown: Sequence[str]) -> None:
        self._documents, self._shown = documents, shown
        self.id, self.parent, self.ids_of = documents.id, documents.parent, documents.ids_of

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Return title, text and metadata; fields that aren't shown are empty."""
        return shown_fields(self._documents.fields(doc), self._shown)


def shown_fields(
    fields: tuple[str, str, dict[str, Any]], shown: Sequence[str] | None
) -> tuple[str, str, dict[str, Any]]:
    """Return title, text and metadata; fields that aren't in `shown` are empty. None shows all fields."""
    if shown is None:
        return fields
    title, text, metadata = fields
    kept = metadata if "metadata" in shown else _columns(metadata, shown)
    return title if "title" in shown else "", text if "text" in shown else "", kept


def _columns(metadata: Mapping[str, Any], names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Return only the named columns of metadata; the name of an object stands for all of its keys."""
    kept: dict[str, Any] = {}
    for key, value in metadata.items():
        name = f"{prefix}{key}"
        if name in names:
            kept[key] = value
        elif isinstance(value, Mapping) and (inner := _columns(value, names, f"{name}.")):
            kept[key] = inner
    return kept


class Hit:
    """A search result.

    Attributes:
        score: The document's score.
        doc: The document's number in the snapshot that was searched.
        moved: How a re-ranker moved the document; None without a re-ranker.
    """

    __slots__ = ("_documents", "_explain", "doc", "moved", "score")

    def __init__(
        self,
        documents: Described,
        doc: int,
        score: float,
        explain: Callable[..., Explanation],
        moved: Moved | None = None,
    ) -> None:
        self._documents = documents
        self._explain = explain
        self.doc = doc
        self.score = score
        self.moved = moved

    @property
    def id(self) -> str:
        """The document's id. For a passage, the id of the document that it was cut from."""
        return self._documents.parent(self.doc) or self.passage

    @property
    def passage(self) -> str:
        """The id of the best passage, or of the document if documents aren't cut."""
        return self._documents.id(self.doc)

    @property
    def title(self) -> str:
        """The title; empty if none is stored."""
        return self._documents.fields(self.doc)[0]

    @property
    def text(self) -> str:
        """The text, or the passage's text; empty if none is stored."""
        return self._documents.fields(self.doc)[1]

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata; empty if none is stored."""
        return self._documents.fields(self.doc)[2]

    def explain(self, *, origins: bool = True) -> Explanation:
        """Explain the score term by term; see `Index.explain`."""
        return self._explain(self.doc, origins=origins)

    def highlight(
        self,
        length: int | None = None,
        *,
        before: str | None = None,
        after: str | None = None,
        expansion: tuple[str, str] | None = None,
        between: str = "\n",
        html: bool = False,
    ) -> str:
        """Return title and text, or the best part of them, with matching words marked; see `Explanation.highlight`."""
        return self.explain().highlight(
            length, before=before, after=after, expansion=expansion, between=between, html=html
        )

    def answer(self, question: str, reader: PhraseReader) -> Answer:
        """Return the span of the text that best answers a question."""
        return reader.answers(question, [self.text])[0]

    def __reduce__(self) -> Any:
        moved = {self.doc: self.moved} if self.moved is not None else None
        return getitem, (Hits(self._documents, [self.doc], [self.score], self._explain, moved=moved), 0)

    def __eq__(self, other: object) -> bool:
        """Compare the ids of document and passage, and the score; the index doesn't matter."""
        if not isinstance(other, Hit):
            return NotImplemented
        return (self.id, self.passage, self.score) == (other.id, other.passage, other.score)

    def __hash__(self) -> int:
        return hash((self.passage, self.score))

    def to_dict(self) -> dict[str, Any]:
        """Return id, passage, score, title, text and metadata as a JSON-serializable dict."""
        title, text, metadata = self._documents.fields(self.doc)
        return {
            "id": self.id,
            "passage": self.passage,
            "score": self.score,
            "title": title,
            "text": text,
            "metadata": metadata,
        }

    def __repr__(self) -> str:
        return f"Hit(id={self.id!r}, score={self.score:.4f})"

    def _repr_html_(self) -> str:
        """Return the title, and the best part of the text with matching words marked, as HTML."""
        title, text, _ = self._documents.fields(self.doc)
        shown = escape(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")
        with suppress(LsrError):  # without an encoder, show the beginning of the text
            shown = self.explain(origins=False).highlight(_SHOWN, html=True) or shown
        return f"<p><b>{escape(title or self.passage)}</b> {self.score:.4f}<br>{shown}</p>"


class Hits(Sequence[Hit]):
    """The hits of a search, best first, with counts if they were requested; immutable.

    Each `Hit` is made on access. Pickled hits contain their texts, but can't be explained.

    Attributes:
        docs: (n,) int64, the documents' numbers in the snapshot that was searched.
        scores: (n,) float64, the documents' scores.
        facets: {column: {value: number of matching documents}}, most frequent values first; empty unless requested.
        total: Number of matching documents; None unless `total` or `facets` was requested.
        missing: For a search over shards, {shard: why it is missing}; empty if all shards answered.
        moved: {document number: how a re-ranker moved the document}; empty without a re-ranker.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        documents: Described,
        docs: ArrayLike,
        scores: ArrayLike,
        explain: Callable[..., Explanation],
        *,
        facets: Mapping[str, Mapping[Any, int]] | None = None,
        total: int | None = None,
        missing: Mapping[str, str] | None = None,
        moved: Mapping[int, Moved] | None = None,
    ) -> None:
        self._documents, self._explain = documents, explain
        self.docs: NDArray[np.int64] = np.asarray(docs, np.int64)
        self.scores: NDArray[np.float64] = np.asarray(scores, np.float64)
        self.facets = {name: dict(counts) for name, counts in (facets or {}).items()}
        self.total, self.missing, self.moved = total, dict(missing or {}), dict(moved or {})

    @property
    def _also(self) -> dict[str, Any]:
        return {"facets": self.facets, "total": self.total, "missing": self.missing, "moved": self.moved}

    @property
    def ids(self) -> list[str]:
        """The documents' ids; see `Hit.id`."""
        return self._documents.ids_of(self.docs.tolist(), parents=True)

    @property
    def passages(self) -> list[str]:
        """The ids of the best passages or documents; see `Hit.passage`."""
        return self._documents.ids_of(self.docs.tolist())

    def __len__(self) -> int:
        return len(self.docs)

    @overload
    def __getitem__(self, at: int) -> Hit: ...

    @overload
    def __getitem__(self, at: slice) -> Hits: ...

    def __getitem__(self, at: int | slice) -> Hit | Hits:
        """Return a hit; for a slice, hits with the facets and total of the whole search."""
        if isinstance(at, slice):
            docs, scores = self.docs[at], self.scores[at]
            return Hits(self._documents, docs, scores, self._explain, **self._also)
        doc = int(self.docs[at])
        return Hit(self._documents, doc, float(self.scores[at]), self._explain, self.moved.get(doc))

    def __iter__(self) -> Iterator[Hit]:
        for doc, score in zip(self.docs.tolist(), self.scores.tolist(), strict=True):
            yield Hit(self._documents, doc, score, self._explain, self.moved.get(doc))

    def __eq__(self, other: object) -> bool:
        """Compare with other `Hits`, or with a list of hits; the order counts."""
        if isinstance(other, Hits):
            same = len(self) == len(other) and bool((self.scores == other.scores).all())
            return same and (self.ids, self.passages) == (other.ids, other.passages)
        return list(self) == other if isinstance(other, list) else NotImplemented

    def __repr__(self) -> str:
        return repr(list(self))

    def __reduce__(self) -> Any:
        return _sent, (self.docs, self.scores, self.rows(), self._also)

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Return title, text and metadata of a document, by its number."""
        return self._documents.fields(doc)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each hit: rank, id, passage, score, title, text and metadata."""
        names = ("rank", "id", "passage", "score", "title", "text", "metadata")
        known = zip(self.ids, self.passages, self.scores.tolist(), self.docs.tolist(), strict=True)
        return [
            dict(zip(names, (rank, *keys, *self._documents.fields(doc)), strict=True))
            for rank, (*keys, doc) in enumerate(known, start=1)
        ]

    def _repr_html_(self) -> str:
        return "<ol>" + "".join(f"<li>{hit._repr_html_()}</li>" for hit in self) + "</ol>"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serializable dict: "hits", and "total" and "facets" if they were requested."""
        found: dict[str, Any] = {"hits": self.rows()}
        if self.total is not None:
            found |= {"total": self.total, "facets": facet_rows(self.facets)}
        return found

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table with a row for each hit.

        Columns: rank (int64), id, passage (string), score (float64), title, text (string), metadata (JSON string).
        """
        import pyarrow as pa

        names = ("rank", "id", "passage", "score", "title", "text", "metadata")
        types = (pa.int64(), pa.string(), pa.string(), pa.float64(), pa.string(), pa.string(), pa.string())
        rows = [row | {"metadata": json.dumps(row["metadata"], ensure_ascii=False)} for row in self.rows()]
        return pa.Table.from_pylist(rows, pa.schema(list(zip(names, types, strict=True))))

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with a row for each hit.

        Columns: rank, id, passage, score, title, text, and one for each metadata key. A key with the name of
        another column is prefixed with "metadata.".

        Raises:
            MissingExtra: pandas isn't installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtra("pandas", "pandas", "Hits.to_pandas") from None
        rows = []
        for row in self.rows():
            metadata = row.pop("metadata")
            rows.append(row | {f"metadata.{key}" if key in row else key: value for key, value in metadata.items()})
        return pd.DataFrame(rows, columns=None if rows else ["rank", "id", "passage", "score", "title", "text"])


class _SentDocuments:
    """The documents of unpickled hits, from their `Hits.rows`."""

    def __init__(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        self._rows = rows

    def id(self, doc: int) -> str:
        return str(self._rows[doc]["passage"])

    def parent(self, doc: int) -> str | None:
        return str(self._rows[doc]["id"])

    def ids_of(self, docs: Sequence[int], *, parents: bool = False) -> list[str]:
        return [str(self._rows[doc]["id" if parents else "passage"]) for doc in docs]

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        row = self._rows[doc]
        return row["title"], row["text"], row["metadata"]


def _sent(
    docs: NDArray[np.int64],
    scores: NDArray[np.float64],
    rows: Sequence[Mapping[str, Any]],
    also: Mapping[str, Any],
) -> Hits:
    """Rebuild pickled hits."""
    return Hits(_SentDocuments(dict(zip(docs.tolist(), rows, strict=True))), docs, scores, _unexplained, **also)


def _unexplained(doc: int, *, origins: bool = True) -> Explanation:
    raise DataError("pickled hits can't be explained: explain them before pickling, or call Index.explain")


def facet_rows(facets: Mapping[str, Mapping[Any, int]]) -> dict[str, list[dict[str, Any]]]:
    """Convert facets to JSON: {column: [{"value": ..., "count": ...}, ...]}."""
    return {
        name: [{"value": value, "count": count} for value, count in counts.items()] for name, counts in facets.items()
    }
