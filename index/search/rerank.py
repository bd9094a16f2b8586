"""Re-rankers: rescore the best documents of a search from the query and their texts.

index.search("a question", k=10, rerank=CrossEncoderReranker("cross-encoder/ms-marco-MiniLM-L6-v2"), depth=100)
index.search("a question", rerank=lambda query, texts: [len(text) for text in texts])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lsr.errors import LsrError, MissingExtra, RerankerError


@runtime_checkable
class Reranker(Protocol):
    """Scores texts for a query."""

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return one finite number for each text; higher is better.

        Args:
            query: The query.
            texts: Title and text of each document, or of its best passage.
        """
        ...


ScoreFunction = Callable[[str, list[str]], Any]
AnyReranker = Reranker | ScoreFunction


@dataclass(frozen=True)
class Moved:
    """How a re-ranker moved a document.

    Attributes:
        first_rank: Its rank before, from 1.
        first_score: Its score before.
        rank: Its rank after.
        score: The re-ranker's score.
    """

    first_rank: int
    first_score: float
    rank: int
    score: float

    def __str__(self) -> str:
        return (
            f"re-ranked from {self.first_rank} (score {self.first_score:.4f}) to {self.rank} "
            f"(the re-ranker's score {self.score:.4f})"
        )


class CrossEncoderReranker:
    """A CrossEncoder of sentence-transformers as a re-ranker.

    Args:
        model: The model, or its name or folder.
        batch_size: Number of (query, text) pairs in a batch.

    Raises:
        MissingExtra: A name is given, but sentence-transformers isn't installed.
        RerankerError: The model can't be loaded.
    """

    def __init__(self, model: Any, *, batch_size: int = 32) -> None:
        if isinstance(model, str):
            try:
                from sentence_transformers import CrossEncoder
            except ImportError:
                raise MissingExtra(
                    "sentence-transformers", "sentence-transformers", f"re-ranking with {model}"
                ) from None
            try:
                model = CrossEncoder(model)
            except Exception as error:
                raise RerankerError(f"the re-ranker {model} can't be loaded: {error}") from error
        self._model, self._batch_size = model, batch_size

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return the model's score for each text."""
        found: Sequence[float] = self._model.predict(
            [(query, text) for text in texts], batch_size=self._batch_size, show_progress_bar=False
        )
        return found

    def __repr__(self) -> str:
        return f"CrossEncoderReranker({self._model!r})"


def as_reranker(given: Any) -> Reranker:
    """Wrap a re-ranker in any supported form.

    Raises:
        TypeError: It isn't a re-ranker.
    """
    if isinstance(given, Reranker):
        return given
    if callable(getattr(given, "predict", None)):
        return CrossEncoderReranker(given)
    if callable(given):
        return _Function(given)
    raise TypeError(
        f"rerank takes a Reranker, a CrossEncoder or a function of (query, texts), got {type(given).__name__}"
    )


class _Function:
    """Wraps a function of (query, texts)."""

    def __init__(self, function: ScoreFunction) -> None:
        self._function = function

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        found: Sequence[float] = self._function(query, list(texts))
        return found

    def __repr__(self) -> str:
        return getattr(self._function, "__name__", repr(self._function))


def rerank_scores(given: AnyReranker, query: Any, texts: Sequence[str]) -> list[float]:
    """Return a re-ranker's scores, validated.

    Raises:
        RerankerError: The re-ranker fails, or doesn't return a finite number for each text.
    """
    reranker = as_reranker(given)
    name = repr(reranker) if isinstance(reranker, _Function) else type(reranker).__name__
    if not isinstance(query, str):
        raise RerankerError(f"the re-ranker {name} needs a query that is a text")
    if not any(texts):
        raise RerankerError(f"the re-ranker {name} needs texts, and the index stores none: build it with store_text")
    try:
        found = [float(score) for score in reranker.scores(query, texts)]
    except LsrError:
        raise
    except Exception as error:  # user code may raise anything
        raise RerankerError(
            f"the re-ranker {name} failed on {len(texts)} texts: {type(error).__name__}: {error}; it has to return a "
            "number for each text"
        ) from error
    if len(found) != len(texts):
        raise RerankerError(
            f"the re-ranker {name} returned {len(found)} scores for {len(texts)} texts; it has to return one for each"
        )
    for number, score in enumerate(found):
        if not math.isfinite(score):
            raise RerankerError(
                f"the re-ranker {name} returned {score} for the text {texts[number][:60]!r}; scores have to be finite"
            )
    return found
