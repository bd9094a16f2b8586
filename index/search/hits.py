"""Hit: a document found, whose text is read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from lsr.index.search.explain import Explanation


class Described(Protocol):
    """What knows documents by their numbers."""

    def id(self, doc: int) -> str: ...

    def parent(self, doc: int) -> str | None: ...

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]: ...


class Hit:
    """A document found.

    Attributes:
        score: Its score.
        doc: Its number within the index as it was when it was searched.
    """

    __slots__ = ("_documents", "_explain", "doc", "score")

    def __init__(self, documents: Described, doc: int, score: float, explain: Callable[..., Explanation]) -> None:
        self._documents = documents
        self._explain = explain
        self.doc = doc
        self.score = score

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

    def highlight(self, length: int | None = None, **marks: Any) -> str:
        """Title and text with the words marked that count, or the best part of them; as `Explanation.highlight`."""
        return self.explain().highlight(length, **marks)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Hit reads its text and explanation from an index that is open here: send what you need of it to the "
            "other process, such as (hit.id, hit.score, hit.text)"
        )

    def __repr__(self) -> str:
        return f"Hit(id={self.id!r}, score={self.score:.4f})"
