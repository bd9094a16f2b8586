"""Forward and backward pass of a batch: ranking losses, imitation of teachers' vectors and regularizers; or
pre-training with masked tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.tokenizer import TextTokenizer
from lsr.errors import TrainingError
from lsr.sparse import SparseMatrix
from lsr.train.bank import NegativeBank
from lsr.train.batches import Batch, draw_batch
from lsr.train.data import Example
from lsr.train.losses import keep_heaviest, term_recall
from lsr.train.network import Ids, Network
from lsr.train.objective import Penalty, ranking_loss
from lsr.train.pretrain import mask_tokens, masked_step
from lsr.train.processes import Processes, SharedTeacher, shared
from lsr.train.query_table import TermSampler
from lsr.train.settings import ModelSettings, QuerySettings, TrainSettings
from lsr.train.student import Student
from lsr.train.teachers import SparseTeacher, Teacher


@dataclass(frozen=True)
class _Columns:
    """The terms for which a batch's vectors are computed: all terms, or the queries' terms followed by a sample.

    Attributes:
        terms: (n,) int64 on the device; None for all terms.
        asked: The columns of the terms that occur in the queries or the teachers' vectors.
        sample: The columns of the sample, which stands for the whole vocabulary.
    """

    terms: Tensor | None
    asked: slice
    sample: slice

    def of(self, part: slice) -> Tensor | None:
        return None if self.terms is None else self.terms[part]


class BatchLoss:
    """Computes the losses of batches and accumulates their gradients.

    Args:
        settings: Settings of the run.
        student: The model to train.
        processes: Processes of the run; each encodes its share of the texts.
        teachers: Models to imitate.
        lexical: BM25, whose scores are added to the student's scores.
        bank: Frozen negatives for `LossSettings.bank`.

    Attributes:
        penalties: The regularizers of "documents" and "queries".
    """

    def __init__(
        self,
        settings: TrainSettings,
        student: Student,
        processes: Processes,
        teachers: Sequence[Teacher],
        lexical: Teacher | None,
        bank: NegativeBank | None = None,
    ) -> None:
        self._settings, self._student, self._processes, self._bank = settings, student, processes, bank
        self._models = [
            teacher
            for teacher in teachers
            if isinstance(teacher, SparseTeacher) and not isinstance(teacher.encoder, BM25Encoder)
        ]
        self._teachers = list(teachers)
        if processes.count > 1:
            self._teachers = [shared(teacher, processes) for teacher in teachers]
        self._lexical = None if lexical is None else SharedTeacher(lexical, processes)
        self._sampler = TermSampler(student.model.n_terms, student.absent, settings.sample_terms)
        view = "query" if settings.queries.kind in ("encoded", "tokens") else "document"
        self.penalties = {
            "documents": Penalty(settings.documents_regularizer, student.idf, view),
            "queries": Penalty(settings.queries_regularizer, student.idf, view),
        }

    def rank(self, examples: list[Example], rng: np.random.Generator, step: int, parts: int) -> dict[str, float]:
        """Losses of a batch of queries and documents.

        Args:
            examples: The examples of all processes.
            rng: Generator that draws negatives and terms; in the same state in every process.
            step: Number of the update, from 0; some weights depend on it.
            parts: Number of batches in the update; gradients are divided by it.

        Returns:
            Unweighted losses by name, and their weighted sum, "loss".
        """
        settings = self._settings
        batch = draw_batch(examples, settings.data.negatives, rng)
        taught = self._taught_vectors(batch.documents) if settings.losses.vectors else None
        queries: Ids = []
        columns = _Columns(None, slice(None), slice(None))
        if settings.queries.kind != "encoded":
            queries = self._student.tokenizer.ids(batch.queries, settings.queries.max_length, special=False)
            columns = self._draw_columns(queries, taught, batch, rng)
        student = self._student
        documents, finish = self._run(batch.documents, student.tokenizer, student.network, settings.model, columns)
        sides = {"documents": documents[:, columns.sample]}
        finishers = [finish]
        if columns.terms is None:
            tokenizer, network = student.query_tokenizer, student.query_network
            query_vectors, finish = self._run(batch.queries, tokenizer, network, settings.queries, columns)
            sides["queries"] = query_vectors
            finishers.append(finish)
        else:
            query_vectors = self._student.table.look_up(queries, columns.terms[columns.asked])
        asked = documents[:, columns.asked]
        raw, loss = self._ranking(query_vectors @ asked.T, batch)
        # A query has no terms outside these columns, so this is the "FLOPS" of the papers, estimated from one batch.
        raw["flops"] = (_shares(query_vectors) * _shares(asked)).sum()
        if taught is not None:
            raw["vectors"] = self._vector_loss(asked, taught, columns)
            loss = loss + settings.losses.vectors * (1 - step / settings.optimizer.steps) * raw["vectors"]
        if settings.losses.term_recall:
            raw["term_recall"] = self._term_recall(asked, batch, columns)
            loss = loss + settings.losses.term_recall * raw["term_recall"]
        if self._bank is not None:
            own = (query_vectors * asked[batch.columns[:, 0].to(asked.device)]).sum(1)
            known = [list(example.documents[: example.n_positives]) for example in examples]
            raw["bank"] = self._bank.loss(query_vectors, columns.of(columns.asked), own, known)
            loss = loss + settings.losses.bank * raw["bank"]
        for name, weights in sides.items():
            values, cost = self.penalties[name](weights, columns.of(columns.sample), step)
            raw |= {f"{name}_{key}": value for key, value in values.items()}
            loss = loss + cost
        (loss / parts).backward()
        for finish in finishers:
            finish()
        return {name: float(value.detach()) for name, value in raw.items()} | {"loss": float(loss.detach())}

    def guess_masked(self, examples: list[Example], rng: np.random.Generator, parts: int) -> dict[str, float]:
        """The loss of pre-training, on one positive of each example; otherwise like `rank`."""
        pretrain = self._settings.pretrain
        assert pretrain is not None
        student = self._student
        texts = [example.documents[int(rng.integers(example.n_positives))] for example in examples]
        ids = student.tokenizer.ids(texts, self._settings.model.max_length, special=True)
        masked = mask_tokens(ids, student.tokenizer, student.model.n_terms, pretrain.mask_share, rng)
        batches = self._settings.optimizer.accumulate // parts
        raw = masked_step(student.network, ids, masked, pretrain.flops, self._processes, batches, 1 / parts)
        values = {name: float(value) for name, value in raw.items()}
        return values | {"loss": values["masked_lm"] + pretrain.flops * values["documents_flops"]}

    def _draw_columns(
        self, queries: Ids, taught: SparseMatrix | None, batch: Batch, rng: np.random.Generator
    ) -> _Columns:
        wanted, drawn = self._sampler.draw(queries, rng)
        if self._settings.losses.term_recall:
            wanted = np.union1d(wanted, np.concatenate([np.array(row, np.int64) for row in self._positives(batch)]))
        if taught is not None:
            wanted = np.union1d(wanted, taught.indices.astype(np.int64))
        terms = torch.from_numpy(np.concatenate([wanted, drawn])).to(self._student.network.device)
        return _Columns(terms, slice(len(wanted)), slice(len(wanted), None))

    def _run(
        self,
        texts: Sequence[str],
        tokenizer: TextTokenizer,
        network: Network,
        how: ModelSettings | QuerySettings,
        columns: _Columns,
    ) -> tuple[Tensor, Callable[[], None]]:
        """Encode texts, each process its share; returns the vectors of all texts and the function that `Network.run`
        returns.
        """
        own_texts = [how.prompt + text for text in texts[self._processes.share(len(texts))]]
        own, finish = network.run(tokenizer.ids(own_texts, how.max_length, special=True), columns.terms)
        vectors = self._processes.gather(own, len(texts))
        return (keep_heaviest(vectors, how.top_k, columns.sample) if how.top_k else vectors), finish

    def _ranking(self, scores: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Ranking losses of (n_queries, n_documents) scores; BM25's scores are added to these if the run has BM25."""
        losses = self._settings.losses
        brought = any(teacher.examples for teacher in self._settings.teachers)
        raw: dict[str, Tensor] = {}
        loss = scores.new_zeros(())
        if self._settings.lexical:
            if losses.alone:
                values, cost = ranking_loss(scores, batch, losses, self._teachers, brought)
                raw = {f"alone_{key}": value for key, value in values.items()}
                loss = losses.alone * cost
            assert self._lexical is not None
            known = torch.from_numpy(self._lexical.scores(batch.queries, batch.documents)).to(scores.device)
            scores = scores + self._student.table.lexical * known
        values, cost = ranking_loss(scores, batch, losses, self._teachers, brought)
        return raw | values, loss + cost

    def _term_recall(self, vectors: Tensor, batch: Batch, columns: _Columns) -> Tensor:
        """`losses.term_recall` of each query's positive, over the positive's own words that are among the `asked`
        columns.
        """
        student, settings = self._student, self._settings
        terms = columns.of(columns.asked)
        width = student.model.n_terms if terms is None else len(terms)
        place = range(width) if terms is None else {term: i for i, term in enumerate(terms.tolist())}
        queries = student.tokenizer.ids(batch.queries, settings.queries.max_length, special=False)
        there = torch.zeros(2, len(queries), width, dtype=torch.bool)
        for side, rows in enumerate((queries, self._positives(batch))):
            for row, ids in enumerate(rows):
                there[side, row, [place[term] for term in ids if term in place]] = True
        asked, own = there.to(vectors.device)
        return term_recall(vectors[batch.columns[:, 0].to(vectors.device)], asked, own)

    def _positives(self, batch: Batch) -> Ids:
        """The words of each query's positive; a word is given as the token id of its first piece."""
        student, length = self._student, self._settings.model.max_length
        rows = student.tokenizer.ids([batch.documents[i] for i in batch.columns[:, 0]], length, special=False)
        return [[term for term in row if not student.vocabulary[term].startswith("##")] for row in rows]

    def _taught_vectors(self, documents: Sequence[str]) -> SparseMatrix:
        """For each document, the mean of its vectors from the teachers that are sparse models."""
        vocabulary = self._student.vocabulary
        if not self._models or any(list(model.encoder.vocabulary) != vocabulary for model in self._models):
            raise TrainingError("losses.vectors needs a teacher that is a sparse model of the same vocabulary")
        total = self._models[0].vectors(documents).to_scipy()
        for model in self._models[1:]:
            total = total + model.vectors(documents).to_scipy()
        return SparseMatrix.from_scipy(total / len(self._models))

    def _vector_loss(self, vectors: Tensor, taught: SparseMatrix, columns: _Columns) -> Tensor:
        """Mean squared distance to the teachers' vectors."""
        terms = columns.of(columns.asked)
        wanted = np.arange(self._student.model.n_terms) if terms is None else terms.cpu().numpy()
        target = torch.from_numpy(taught.to_scipy()[:, wanted].toarray()).to(vectors.device)
        return (vectors - target).square().sum(1).mean()


def _shares(vectors: Tensor) -> Tensor:
    """(n,), the share of (n_texts, n) vectors in which each term occurs."""
    return (vectors.detach() > 0).float().mean(0)
