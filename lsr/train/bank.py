"""A bank of frozen negatives: documents that are encoded once, by the model that a run starts from (after arXiv
2404.11317).

Scoring a query against thousands of stored vectors is cheap compared with encoding a batch, so a run that starts from a
trained model can use all of them as negatives. Only the vectors of queries and positives get gradients.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lsr.sparse import SparseMatrix
from lsr.train.losses import info_nce
from lsr.train.settings import TrainSettings
from lsr.train.student import Student

_AT_ONCE = 32  # texts encoded per batch


class NegativeBank:
    """Frozen vectors of documents.

    Args:
        student: The model, before its first update.
        settings: Settings of the run.
        texts: The documents.
    """

    def __init__(self, student: Student, settings: TrainSettings, texts: list[str]) -> None:
        self._places = {text: i for i, text in enumerate(texts)}
        self._temperature = settings.losses.temperature
        how, rows = settings.model, [SparseMatrix.empty(student.model.n_terms)]
        training = student.model.training
        student.model.eval()
        with torch.no_grad():
            for i in range(0, len(texts), _AT_ONCE):
                some = [how.prompt + text for text in texts[i : i + _AT_ONCE]]
                weights, _ = student.network.run(student.tokenizer.ids(some, how.max_length, special=True), None)
                found = SparseMatrix.from_dense(weights.cpu().numpy())
                rows.append(found.top_k(how.top_k) if how.top_k else found)
        student.model.train(training)
        self._columns = SparseMatrix.vstack(rows).to_scipy().tocsc()

    def __len__(self) -> int:
        return int(self._columns.shape[0])

    def loss(self, queries: Tensor, terms: Tensor | None, positives: Tensor, known: list[list[str]]) -> Tensor:
        """InfoNCE of each query's positive against the whole bank.

        Args:
            queries: (n_queries, n) float32, the queries' weights.
            terms: (n,) int64, the terms of the columns; None for all.
            positives: (n_queries,) float32, scores of the queries' positives.
            known: For each query, the texts known to be relevant, which aren't used as negatives.
        """
        used = (queries.detach() != 0).any(0).nonzero()[:, 0]  # other terms contribute nothing and get no gradient
        wanted = (used if terms is None else terms[used]).cpu().numpy()
        stored = torch.from_numpy(self._columns[:, wanted].toarray().astype(np.float32)).to(queries.device)
        scores = torch.cat([positives[:, None], queries[:, used] @ stored.T], 1)
        for row, texts in enumerate(known):
            scores[row, [1 + self._places[text] for text in texts if text in self._places]] = -torch.inf
        first = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        first[:, 0] = True
        return info_nce(scores, first, self._temperature)
