"""What a training run is made of, as `configs/train/*.yaml` says it. Checked as it is read; imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from lsr.train.sources import TrainingSource

Head = Literal["masked-lm", "causal-lm", "gated", "expansion", "lexical"]


@dataclass(frozen=True)
class ModelSettings:
    """The documents' model.

    Attributes:
        checkpoint: A folder or hub name to start from.
        head: What makes weights of its states, see `lsr.encode.model`.
        pooling, saturation: From logits to weights.
        max_length: Tokens of a document that are read.
        freeze: So many layers stay as they are, from the embeddings on; their states are kept in the run's cache, so
            that they are computed once for each text. Of the heads "expansion" and "lexical".
        lora: Rank of low-rank adapters that are trained in place of the backbone; 0 for none. Needs the package peft.
    """

    checkpoint: str
    head: Head = "masked-lm"
    pooling: Literal["max", "sum"] = "max"
    saturation: Literal["log1p", "log1p_log1p"] = "log1p"
    max_length: int = 256
    freeze: int = 0
    lora: int = 0

    def __post_init__(self) -> None:
        if self.freeze and self.head not in ("expansion", "lexical"):
            raise ValueError(f"freeze works with the heads expansion and lexical, not {self.head}")
        _positive(max_length=self.max_length)


@dataclass(frozen=True)
class QuerySettings:
    """The queries' side.

    Attributes:
        kind: "encoded" by the documents' model; or their own tokens without a model: with weights that are learned,
            one by one from the training documents' IDF on ("table") or as a function of the tokens' input embeddings
            ("projected"), with that IDF as it is ("idf"), or all 1 ("tokens"). All of these are saved as a table.
        max_length: Tokens of a query that are read.
    """

    kind: Literal["encoded", "table", "projected", "idf", "tokens"] = "encoded"
    max_length: int = 64

    def __post_init__(self) -> None:
        _positive(max_length=self.max_length)


@dataclass(frozen=True)
class DataSettings:
    """Examples and batches.

    Attributes:
        sources: Where they come from, see `lsr.train.sources`.
        queries: Queries of a batch.
        negatives: Documents beside the positive one, for each query, drawn from its candidates.
        refresh_every: After so many steps, and again and again, the sources' collections are searched with the encoder
            as it is then, and what is found becomes the candidates (ANCE, arXiv 2007.00808); 0 for never. Of sources
            whose documents are named by id.
        refresh_count: Candidates of a query that are kept.
        refresh_share: Leave out what scores above this share of the positive's score (arXiv 2407.15831); None keeps all
            that isn't known to be relevant.
    """

    sources: tuple[TrainingSource, ...]
    queries: int = 32
    negatives: int = 1
    refresh_every: int = 0
    refresh_count: int = 30
    refresh_share: float | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: name at least one")
        _positive(queries=self.queries, refresh_count=self.refresh_count)
        if self.refresh_share is not None and not 0 < self.refresh_share <= 1:
            raise ValueError(f"refresh_share must be above 0 and at most 1, got {self.refresh_share}")


@dataclass(frozen=True)
class TeacherSettings:
    """Whose scores are imitated: a model's, or those that the examples bring. One of these.

    Attributes:
        encoder: "bm25", or a sparse encoder as `--encoder` takes it; it scores all pairs of a batch.
        dense: A checkpoint of one vector for a text, pooled, prompted and compared as its own files say; likewise.
        examples: The scores that the examples bring, a cross-encoder's from a file say, beside models; they are of a
            query's own documents, so kl is then over these. Without any teachers they are taken anyhow.
    """

    encoder: str | None = None
    dense: str | None = None
    examples: bool = False

    def __post_init__(self) -> None:
        if (self.encoder is not None) + (self.dense is not None) + self.examples != 1:
            raise ValueError("name one of encoder, dense and examples")


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses; those at 0 are left out.

    Attributes:
        info_nce: Of the positives against every other document of the batch.
        kl: Against the teachers, over every document of the batch if they score all pairs, else over the query's own.
        margin_mse: Against the teachers' scores as they are.
        vectors: Against the documents' vectors of those teachers that are sparse models of the same vocabulary; squared
            differences, summed over the terms. It fades: its weight falls to nothing by the last step.
        temperature: Scores are divided by it in info_nce.
        scale: The teachers' scores, brought to 0..1 for each query and averaged, are multiplied by it for kl.
    """

    info_nce: float = 0.0
    kl: float = 0.0
    margin_mse: float = 0.0
    temperature: float = 1.0
    scale: float = 30.0

    def __post_init__(self) -> None:
        if not (self.info_nce or self.kl or self.margin_mse):
            raise ValueError("give at least one of info_nce, kl and margin_mse a weight")


@dataclass(frozen=True)
class RegularizerSettings:
    """What keeps vectors sparse.

    Attributes:
        kind: See `lsr.train.regularizers`.
        weight: In the loss, once the ramp is over.
        ramp: Steps over which the weight grows.
        schedule: How.
        threshold: Terms below which "l0_flops" leaves a vector alone.
        anti_zero: Weight of the term that keeps vectors from becoming empty.
    """

    kind: Literal["flops", "l1", "idf_flops", "df_flops", "l0_flops"] = "flops"
    weight: float = 0.0
    ramp: int = 0
    schedule: Literal["quadratic", "linear", "constant"] = "quadratic"
    threshold: int = 150
    anti_zero: float = 0.0


@dataclass(frozen=True)
class PretrainSettings:
    """Masked-language-model training on the sources' documents, before anything else (as in arXiv 2207.03834).

    A batch is a positive of each of `data.queries` examples, and goes through the model as a whole; the optimizer's
    rates, warm-up and decay hold for this stage anew.

    Attributes:
        steps: Updates, besides the optimizer's.
        mask_share: Of a text's tokens, those that are to be guessed: 8 of 10 masked, 1 replaced, 1 as it is.
        flops: Weight of the FLOPS of the texts' term weights.
    """

    steps: int
    mask_share: float = 0.15
    flops: float = 0.0

    def __post_init__(self) -> None:
        _positive(steps=self.steps)
        if not 0 < self.mask_share < 1:
            raise ValueError(f"mask_share must lie between 0 and 1, got {self.mask_share}")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW.

    Attributes:
        steps: Updates.
        lr: Of the backbone.
        head_lr: Of the head's matrices, where the head has its own; None for `lr`.
        term_lr: Of what there is one number of for each term: biases, the queries' table; None for `lr`.
        weight_decay: Of matrices.
        warmup: Steps over which the rates grow.
        decay: How they fall afterwards.
        clip: The gradient's norm at most.
        accumulate: Batches of an update.
    """

    steps: int
    lr: float = 2e-5
    head_lr: float | None = None
    term_lr: float | None = None
    weight_decay: float = 0.01
    warmup: int = 0
    decay: Literal["linear", "cosine", "constant"] = "linear"
    clip: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        _positive(steps=self.steps, accumulate=self.accumulate)


@dataclass(frozen=True)
class ValidationSettings:
    """A search over held-out data, every so often.

    Attributes:
        sets: BEIR folders or ir-datasets names, "FOLDER" or "FOLDER:split".
        every: Steps.
        measure: Its mean over the sets decides which checkpoint is the best.
        patience: Stop after so many validations without a better one; 0 never.
        documents: Documents of a set at most: those judged, and as many others; 0 for all.
    """

    sets: tuple[str, ...]
    every: int = 1000
    measure: str = "nDCG@10"
    patience: int = 0
    documents: int = 0

    def __post_init__(self) -> None:
        _positive(every=self.every)


@dataclass(frozen=True)
class TrainSettings:
    """A training run.

    Attributes:
        model, queries, data, losses, optimizer: As their classes say.
        teachers: For kl and margin_mse; without any, the scores that the examples bring.
        lexical: Weight of BM25's score, fitted to the training documents, that is added to the model's, which then
            learns what BM25 lacks; the encoder is a `lsr.encode.hybrid` of both. Learned if the queries' weights are.
        documents_regularizer, queries_regularizer: For the two sides.
        sample_terms: Weights are made for the terms of the batch's queries and so many others, drawn at random, which
            stand for all in the regularizer; 0 for all terms. For queries without a model.
        pretrain: A stage before the training itself; None for none. Of the heads "masked-lm" and "gated".
        validation: None for none.
        precision: "bfloat16" runs the model in it where it can.
        gradient_cache: Run the model twice, so that a large batch needs the memory of a small one.
        batch_tokens: Tokens that go through the model at a time.
        checkpoint_every: Steps.
        seed: Of everything that is drawn.
        device: None for "cuda" where there is one.
    """

    model: ModelSettings
    data: DataSettings
    losses: LossSettings
    optimizer: OptimizerSettings
    queries: QuerySettings = field(default_factory=QuerySettings)
    teachers: tuple[TeacherSettings, ...] = ()
    lexical: float = 0.0
    documents_regularizer: RegularizerSettings = field(default_factory=RegularizerSettings)
    queries_regularizer: RegularizerSettings = field(default_factory=RegularizerSettings)
    sample_terms: int = 0
    pretrain: PretrainSettings | None = None
    validation: ValidationSettings | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_cache: bool = False
    batch_tokens: int = 16384
    checkpoint_every: int = 500
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        _positive(batch_tokens=self.batch_tokens, checkpoint_every=self.checkpoint_every)
        if not 0 <= self.lexical < math.inf:
            raise ValueError(f"lexical must be a number that is not negative, got {self.lexical}")
        if self.sample_terms and self.queries.kind == "encoded":
            raise ValueError(
                "sample_terms needs queries without a model (queries.kind: table, projected, idf or tokens)"
            )
        if self.pretrain and self.model.head not in ("masked-lm", "gated"):
            raise ValueError(f"pretrain works with the heads masked-lm and gated, not {self.model.head}")


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
