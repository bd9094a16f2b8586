"""Query weights without a model: a table of term weights, and sampling of a batch's terms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class QueryTable(nn.Module):
    """A table of query term weights.

    With embeddings E, the weights are q_j = log1p(relu(v . E_j + b)). Only v and b are learned, so rare terms learn
    from similar terms (Li-LSR, Nardini et al., SIGIR 2025). Initially all weights are 1.

    Args:
        start: (n_terms,) float32, initial weights; negative weights count as zero.
        learned: Whether the weights are trained.
        lexical: Initial weight of BM25's score, which is trained together with the table.
        embeddings: (n_terms, hidden) float32, or None. With embeddings, `start` only marks terms whose weight stays 0.
    """

    def __init__(self, start: Tensor, *, learned: bool, lexical: float = 0.0, embeddings: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone(), requires_grad=learned and embeddings is None)
        self.lexical = nn.Parameter(torch.tensor([lexical]), requires_grad=learned and lexical > 0)
        self.register_buffer("embeddings", embeddings, persistent=False)
        if embeddings is not None:
            self.direction = nn.Parameter(torch.zeros(embeddings.shape[1]), requires_grad=learned)
            self.offset = nn.Parameter(torch.tensor([math.e - 1]), requires_grad=learned)

    def weights(self, terms: Tensor | slice = slice(None)) -> Tensor:
        """Weights of some terms or all, (n,) float32."""
        if self.embeddings is None:
            return torch.relu(self.weight[terms])
        found = torch.log1p(torch.relu(self.embeddings[terms] @ self.direction + self.offset))
        return found * (self.weight[terms] > 0)

    def look_up(self, queries: Sequence[Sequence[int]], terms: Tensor) -> Tensor:
        """Weights of queries.

        Args:
            queries: Token ids; repeated tokens count once.
            terms: (n,) int64, the terms of the result's columns.

        Returns:
            (n_queries, n) float32.
        """
        place = {int(term): i for i, term in enumerate(terms.tolist())}
        there = torch.zeros(len(queries), len(terms))
        for row, ids in enumerate(queries):
            there[row, [place[i] for i in ids if i in place]] = 1
        return there.to(self.weight.device) * self.weights(terms)


def inverse_frequencies(rows: Iterable[Sequence[int]], n_terms: int) -> tuple[Tensor, float]:
    """IDF over documents, ln(1 + (N - df + 0.5) / (df + 0.5)).

    Args:
        rows: Token ids of the documents.
        n_terms: Size of the vocabulary.

    Returns:
        (n_terms,) float32 IDF, and its mean over the terms that occur; the mean is 1 if no term occurs.
    """
    df, n_docs = np.zeros(n_terms), 0
    for row in rows:
        df[np.unique(np.array(row, dtype=np.int64))] += 1
        n_docs += 1
    idf = np.log1p((n_docs - df + 0.5) / (df + 0.5))
    seen = idf[df > 0]
    return torch.from_numpy(idf).float(), max(float(seen.mean()), 1e-9) if len(seen) else 1.0


class TermSampler:
    """Draws the terms of a batch: the terms of its queries, and a sample that stands for the whole vocabulary.

    Args:
        n_terms: Size of the vocabulary.
        absent: Terms that no query may have.
        sample: Number of terms to draw; 0 for all.
    """

    def __init__(self, n_terms: int, absent: Iterable[int], sample: int) -> None:
        self._n_terms, self._sample = n_terms, sample
        self._absent = np.array(sorted(absent), dtype=np.int64)

    def draw(
        self, queries: Sequence[Sequence[int]], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n_asked,) the terms of the queries, ascending, and (n_sample,) the sampled terms; both int64.

        The sample is drawn from all terms, including the terms of the queries, so that its mean is unbiased.
        """
        asked = np.unique(np.concatenate([np.array(row, dtype=np.int64) for row in queries]))
        drawn = np.arange(self._n_terms)
        if self._sample:
            drawn = rng.choice(drawn, min(self._sample, self._n_terms), replace=False)
        return asked[~np.isin(asked, self._absent)], drawn
