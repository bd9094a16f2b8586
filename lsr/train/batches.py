"""Batches: queries, their documents, and what is known about the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsr.train.data import Example


@dataclass(frozen=True)
class Batch:
    """A batch.

    Attributes:
        queries: Texts of the queries.
        documents: Texts of the documents, each once.
        columns: (n_queries, n_candidates) int64, columns of each query's own documents, positive first; -1 where a
            query has fewer documents.
        positives: (n_queries, n_documents) bool, documents known to be relevant, including those from other examples of
            the batch with the same query.
        scores: (n_teachers, n_queries, n_candidates) float32, teachers' scores of the examples, NaN if missing; or
            None.
        weights: (n_queries, n_documents) float32, weights of the pairs in info_nce, 1 where an example has none; or
            None.
    """

    queries: list[str]
    documents: list[str]
    columns: Tensor
    positives: Tensor
    scores: Tensor | None
    weights: Tensor | None = None


def draw_batch(examples: Sequence[Example], n_negatives: int, rng: np.random.Generator) -> Batch:
    """Draw a positive and negatives for each query, and record which documents are relevant to which queries.

    Args:
        examples: The queries with their candidates.
        n_negatives: Largest number of negatives of a query.
        rng: Random generator.
    """
    chosen: list[list[int]] = []
    place: dict[tuple[str, str], int] = {}  # {(collection, id): column}; ids are unique only within a collection
    # {text: column}: a collection may have a text twice, and its second copy could become a false negative.
    documents: dict[str, int] = {}
    for example in examples:
        others = np.arange(example.n_positives, len(example.doc_ids))
        positive = int(rng.integers(example.n_positives))
        drawn = rng.choice(others, min(n_negatives, len(others)), replace=False)
        own: dict[int, int] = {}  # {column: number among the example's documents}
        for i in (positive, *map(int, drawn)):
            if (name := (example.collection, example.doc_ids[i])) not in place:
                place[name] = documents.setdefault(example.documents[i], len(documents))
            own.setdefault(place[name], i)
        chosen.append(list(own.values()))
    relevant: dict[str, set[tuple[str, str]]] = {}  # a query may be in several lines, each with one positive
    for example in examples:
        names = ((example.collection, doc_id) for doc_id in example.doc_ids[: example.n_positives])
        relevant.setdefault(example.query, set()).update(names)
    width = max(map(len, chosen))
    columns = torch.full((len(examples), width), -1, dtype=torch.int64)
    positives = torch.zeros(len(examples), len(documents), dtype=torch.bool)
    n_teachers = {0 if example.scores is None else len(example.scores) for example in examples}
    scores = None
    if len(n_teachers) == 1 and 0 not in n_teachers:
        scores = torch.full((n_teachers.pop(), len(examples), width), torch.nan)
    weights = None if all(example.weights is None for example in examples) else torch.ones(positives.shape)
    for row, (example, picks) in enumerate(zip(examples, chosen, strict=True)):
        columns[row, : len(picks)] = torch.tensor([place[example.collection, example.doc_ids[i]] for i in picks])
        for name in relevant[example.query] & place.keys():
            positives[row, place[name]] = True
        if scores is not None:
            scores[:, row, : len(picks)] = torch.from_numpy(np.asarray(example.scores)[:, picks])
        if weights is not None and example.weights is not None:
            weights[row, columns[row, : len(picks)]] = torch.from_numpy(example.weights[picks])
    return Batch([example.query for example in examples], list(documents), columns, positives, scores, weights)
