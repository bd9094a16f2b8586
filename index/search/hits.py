"""Hit: a document found, whose text is read when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any, Protocol

from lsr.errors import LsrError, MissingExtra
from lsr.index.search.explain import Explanation
from lsr.index.search.rerank import Moved

_SHOWN = 300  # characters of a text in a notebook


class Described(Protocol):
    """What knows documents by their numbers."""

    def id(self, doc: int) -> str: ...

    def parent(self, doc: int) -> str | None: ...

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]: ...


class ShownDocuments:
    """Documents of which some fields are shown.

    Args:
        documents: The documents.
        shown: The fields, as of `Options.shown`.
    """

    def __init__(self, documents: Described, shown: Sequence[str]) -> None:
        self._documents, self._shown = documents, shown
        self.id, self.parent = documents.id, documents.parent

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Title, text and metadata; empty if they aren't shown."""
        return shown_fields(self._documents.fields(doc), self._shown)


def shown_fields(
    fields: tuple[str, str, dict[str, Any]], shown: Sequence[str] | None
) -> tuple[str, str, dict[str, Any]]:
    """Title, text and metadata without what isn't shown; None shows everything."""
    if shown is None:
        return fields
    title, text, metadata = fields
    kept = metadata if "metadata" in shown else _columns(metadata, shown)
    return title if "title" in shown else "", text if "text" in shown else "", kept


def _columns(metadata: Mapping[str, Any], names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Metadata without other columns; a column of objects has all of their keys."""
    kept: dict[str, Any] = {}
    for key, value in metadata.items():
        name = f"{prefix}{key}"
        if name in names:
            kept[key] = value
        elif isinstance(value, Mapping) and (inner := _columns(value, names, f"{name}.")):
            kept[key] = inner
    return kept


class Hit:
    """A document found.

    Attributes:
        score: Its score.
        doc: Its number within the index as it was when it was searched.
        moved: What a re-ranker did to it; None if there was none.
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
        """Its id; for a passage, the id of the document that it was cut from."""
        return self._documents.parent(self.doc) or self.passage

    @property
    def passage(self) -> str:
        """The id of what matched: the document itself, or the best of its passages."""
        return self._documents.id(self.doc)

    @property
    def title(self) -> str:
        """Its title, empty if none is stored."""
        return self._documents.fields(self.doc)[0]

    @property
    def text(self) -> str:
        """Its text, of a passage the passage's, empty if none is stored."""
        return self._documents.fields(self.doc)[1]

    @property
    def metadata(self) -> dict[str, Any]:
        """Its metadata, empty if none is stored."""
        return self._documents.fields(self.doc)[2]

    def explain(self, *, origins: bool = True) -> Explanation:
        """Why it has its score, term by term; as `Index.explain`."""
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
        """Title and text with the words marked that count, or the best part of them; as `Explanation.highlight`."""
        return self.explain().highlight(
            length, before=before, after=after, expansion=expansion, between=between, html=html
        )

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Hit reads its text and explanation from an index that is open here: send what you need of it to the "
            "other process, such as hit.to_dict()"
        )

    def __eq__(self, other: object) -> bool:
        """The same document, or passage, with the same score; whichever index found it."""
        if not isinstance(other, Hit):
            return NotImplemented
        return (self.id, self.passage, self.score) == (other.id, other.passage, other.score)

    def __hash__(self) -> int:
        return hash((self.passage, self.score))

    def to_dict(self) -> dict[str, Any]:
        """Id, passage, score, title, text and metadata, as JSON can hold them; it can go to another process."""
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
        """The title, and the best part of the text with the words marked that count."""
        title, text, _ = self._documents.fields(self.doc)
        shown = escape(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")
        with suppress(LsrError):  # without an encoder the text is shown as it begins
            shown = self.explain(origins=False).highlight(_SHOWN, html=True) or shown
        return f"<p><b>{escape(title or self.passage)}</b> {self.score:.4f}<br>{shown}</p>"


class Hits(list[Hit]):
    """The hits of a search, best first, and what else it was asked for.

    Attributes:
        facets: Of each column {value: how many of all documents that match have it}, the most frequent first; empty
            unless the search was asked for them.
        total: How many documents match; None unless the search was asked for it, or for facets.
        missing: Of a search over shards {shard: why it is missing}; empty where all answered.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        *,
        facets: Mapping[str, Mapping[Any, int]] | None = None,
        total: int | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(hits)
        self.facets = {name: dict(counts) for name, counts in (facets or {}).items()}
        self.total, self.missing = total, dict(missing or {})

    def rows(self) -> list[dict[str, Any]]:
        """Of each hit rank, id, passage, score, title, text and metadata."""
        return [{"rank": rank, **hit.to_dict()} for rank, hit in enumerate(self, start=1)]

    def _repr_html_(self) -> str:
        return "<ol>" + "".join(f"<li>{hit._repr_html_()}</li>" for hit in self) + "</ol>"

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it: "hits", and "facets" and "total" where the search was asked for them."""
        found: dict[str, Any] = {"hits": self.rows()}
        if self.total is not None:
            found |= {"total": self.total, "facets": facet_rows(self.facets)}
        return found

    def to_arrow(self) -> Any:
        """A pyarrow.Table with a row for each hit: rank (int64), id, passage (string), score (float64), title, text
        (string), and metadata, as JSON (string).
        """
        import pyarrow as pa

        names = ("rank", "id", "passage", "score", "title", "text", "metadata")
        types = (pa.int64(), pa.string(), pa.string(), pa.float64(), pa.string(), pa.string(), pa.string())
        rows = [row | {"metadata": json.dumps(row["metadata"], ensure_ascii=False)} for row in self.rows()]
        return pa.Table.from_pylist(rows, pa.schema(list(zip(names, types, strict=True))))

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for each hit: rank, id, passage, score, title, text, and a column for each key
        of the metadata; one that has the name of another column begins with "metadata.".

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


def facet_rows(facets: Mapping[str, Mapping[Any, int]]) -> dict[str, list[dict[str, Any]]]:
    """Facets as JSON can hold them: of each column a list of {"value": ..., "count": ...}."""
    return {
        name: [{"value": value, "count": count} for value, count in counts.items()] for name, counts in facets.items()
    }
