"""Re-rankers: rescore the best documents of a search from the query and their texts.

index.search("a question", k=10, rerank=CrossEncoderReranker("cross-encoder/ms-marco-MiniLM-L6-v2"), depth=100)
index.search("a question", rerank=lambda query, texts: [len(text) for text in texts])
index.search("a question", rerank=PairwiseReranker(prefers), depth=20)
index.search("a question", rerank=ListwiseReranker(order), rerank_unit="sentence")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from lsr.encode.model_files import without_scores
from lsr.encode.passages import SENTENCE
from lsr.errors import LsrError, MissingExtra, RerankerError
from lsr.io.document import Document
from lsr.pairwise import AGGREGATORS, SAMPLERS, all_pairs, compared


@runtime_checkable
class Reranker(Protocol):
    """Scores texts for a query, either each text alone or by comparing texts."""

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return one finite number for each text; higher is better.

        Args:
            query: The query.
            texts: Title and text of each document, or of its best passage.
        """
        ...


ScoreFunction = Callable[[str, list[str]], Any]
AnyReranker = Reranker | ScoreFunction
Unit = Literal["text", "sentence"]


@dataclass(frozen=True)
class Moved:
    """How a re-ranker moved a document.

    Attributes:
        first_rank: The document's rank before re-ranking, from 1.
        first_score: The document's score before re-ranking.
        rank: The document's rank after re-ranking.
        score: The re-ranker's score.
        sentence: If sentences were scored, the sentence with this score; else empty.
    """

    first_rank: int
    first_score: float
    rank: int
    score: float
    sentence: str = ""

    def __str__(self) -> str:
        of = f' of "{self.sentence}"' if self.sentence else ""
        return (
            f"re-ranked from {self.first_rank} (score {self.first_score:.4f}) to {self.rank} "
            f"(the re-ranker's score{of} {self.score:.4f})"
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
            if Path(model).is_dir() and (kind := without_scores(Path(model))) is not None:
                raise RerankerError(f"the re-ranker {model} is a {kind}, not a cross-encoder, so it gives no scores")
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


class PairwiseReranker:
    """Compares pairs of texts (duoT5; Pradeep, Nogueira, Lin 2021).

    By default, a text's score is the mean probability, 0 to 1, that it is better than another text. Each pair is
    compared in both orders, because models tend to prefer one position. So n texts take n * (n - 1) comparisons: keep
    `depth` small, or compare only a `share` of the pairs (arXiv 2207.04470); a third of them is nearly as good as all.

    Args:
        prefers: A function of the query and a list of pairs of texts. For each pair, it returns the probability, 0 to
            1, that the first text is better.
        share: Share of the pairs to compare, above 0 and at most 1.
        sampler: How to choose the pairs, one of `lsr.pairwise.SAMPLERS`.
        aggregator: How comparisons become scores, one of `lsr.pairwise.AGGREGATORS`. "greedy" and "bradley-terry" are
            better than the default "mean" if few pairs are compared.

    Raises:
        ValueError: `share` is out of range, or the sampler or aggregator is unknown.
    """

    def __init__(
        self,
        prefers: Callable[[str, list[tuple[str, str]]], Any],
        *,
        share: float = 1.0,
        sampler: str = "skipping windows",
        aggregator: str = "mean",
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        for name, known in ((sampler, [*SAMPLERS]), (aggregator, [*AGGREGATORS])):
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(known)}")
        self._prefers, self._share, self._sampler, self._aggregator = prefers, share, sampler, aggregator

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return a score for each text; a single text scores 1."""
        n = len(texts)
        pairs = all_pairs(n) if self._share == 1 else SAMPLERS[self._sampler](n, self._share)
        if not pairs:
            return [1.0] * n
        chances = [float(chance) for chance in self._prefers(query, [(texts[i], texts[j]) for i, j in pairs])]
        if len(chances) != len(pairs):
            raise RerankerError(f"the re-ranker {self!r} gave {len(chances)} chances for {len(pairs)} pairs of texts")
        for chance in chances:
            if not 0 <= chance <= 1:  # also NaN
                raise RerankerError(f"the re-ranker {self!r} gave {chance} for a pair of texts; chances are 0 to 1")
        found: list[float] = AGGREGATORS[self._aggregator](compared(n, pairs, chances)).tolist()
        return found

    def __repr__(self) -> str:
        return f"PairwiseReranker({_name(self._prefers)})"


class ListwiseReranker:
    """Orders lists of texts, for instance with a language model.

    Longer lists are ordered window by window, from the end to the beginning, so that a good text can rise from the end
    to the top (RankGPT; Sun et al. 2023).

    Args:
        order: A function of the query and a list of texts. It returns the texts' positions from 0, best first, such as
            [2, 0, 1].
        window: Maximum number of texts in a call.
        step: Number of places that the window moves, at least 1 and below `window`.

    Raises:
        ValueError: `step` is out of range.
    """

    def __init__(self, order: Callable[[str, list[str]], Any], *, window: int = 20, step: int = 10) -> None:
        if not 1 <= step < window:
            raise ValueError(f"step must be at least 1 and below window, got step {step} and window {window}")
        self._order, self._window, self._step = order, window, step

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return n for the best of n texts, down to 1 for the last."""
        n = len(texts)
        ranked, end = list(range(n)), n
        while ranked:
            start = max(0, end - self._window)
            ranked[start:end] = self._ordered(query, texts, ranked[start:end])
            if start == 0:
                break
            end -= self._step
        scores = [0.0] * n
        for rank, place in enumerate(ranked):
            scores[place] = float(n - rank)
        return scores

    def _ordered(self, query: str, texts: Sequence[str], places: list[int]) -> list[int]:
        order = [int(one) for one in self._order(query, [texts[place] for place in places])]
        if sorted(order) != list(range(len(places))):
            raise RerankerError(
                f"the re-ranker {self!r} gave the order {order[:50]} of {len(places)} texts; it has to name each of "
                f"the places 0 to {len(places) - 1} once"
            )
        return [places[one] for one in order]

    def __repr__(self) -> str:
        return f"ListwiseReranker({_name(self._order)})"


def as_reranker(given: Any) -> Reranker:
    """Wrap a re-ranker in any supported form.

    Raises:
        TypeError: `given` isn't a re-ranker.
    """
    if isinstance(given, Reranker):
        return given
    if callable(getattr(given, "predict", None)):
        return CrossEncoderReranker(given)
    if callable(given):
        return _Function(given)
    if given is True:
        raise TypeError("rerank=True is for a Client, whose server has a re-ranker: pass a re-ranker here")
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
        return _name(self._function)


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)


def rerank(
    given: AnyReranker, query: Any, texts: Sequence[tuple[str, str]], unit: Unit = "text"
) -> tuple[list[float], list[str]]:
    """Score documents with a re-ranker, and validate the scores.

    Args:
        given: The re-ranker.
        query: The query.
        texts: Title and text of each document.
        unit: "text" scores title and text; "sentence" scores the title with each sentence, and a document gets the
            score of its best sentence.

    Returns:
        The score of each document; and with "sentence", the sentence with this score, else an empty list.

    Raises:
        RerankerError: The re-ranker fails, or doesn't return a finite number for each text.
    """
    if unit == "text":
        return _checked_scores(given, query, [Document("", text, title).content for title, text in texts]), []
    parts = [_sentences(text) for _, text in texts]
    units = [Document("", one, title).content for (title, _), own in zip(texts, parts, strict=True) for one in own]
    scores, found, best = iter(_checked_scores(given, query, units)), list[float](), list[str]()
    for own in parts:
        score, place = max((next(scores), -i) for i in range(len(own)))
        found.append(score)
        best.append(own[-place])
    return found, best


def _sentences(text: str) -> list[str]:
    """Split a text into sentences, at least one."""
    return [one for part in SENTENCE.split(text) if (one := part.strip())] or [text]


def _checked_scores(given: AnyReranker, query: Any, texts: Sequence[str]) -> list[float]:
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
