"""What a training run is made of, as `configs/train/*.yaml` says it. Checked as it is read; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lsr.config import Settings, within
from lsr.train.sources import TrainingSource

Head = Literal["masked-lm", "causal-lm", "gated", "expansion", "lexical"]


@dataclass(frozen=True)
class ModelSettings(Settings):
    """The documents' model.

    Attributes:
        checkpoint: A folder or hub name to start from.
        head: What makes weights of its states, see `lsr.encode.model`.
        pooling: How the logits of a text's tokens become one: the largest, or the sum.
        saturation: From logits to weights.
        max_length: Tokens of a document that are read.
        freeze: So many layers stay as they are, from the embeddings on; their states are kept in the run's cache, so
            that they are computed once for each text. Of the heads "expansion" and "lexical".
        lora: Rank of low-rank adapters that are trained in place of the backbone; 0 for none. Needs the package peft.
        dropout: Share of the activations that are dropped; None for what the checkpoint says. Without any, a step on a
            CPU takes two thirds of the time.
    """

    checkpoint: str
    head: Head = "masked-lm"
    pooling: Literal["max", "sum"] = "max"
    saturation: Literal["log1p", "log1p_log1p"] = "log1p"
    max_length: int = field(default=256, metadata=within(at_least=3))
    freeze: int = field(default=0, metadata=within(at_least=0))
    lora: int = field(default=0, metadata=within(at_least=0))
    dropout: float | None = field(default=None, metadata=within(at_least=0, below=1))

    def conflicts(self) -> list[str]:
        """Layers are frozen only of some heads."""
        if self.freeze and self.head not in ("expansion", "lexical"):
            return [f"freeze works with the heads expansion and lexical, not {self.head}"]
        return []


@dataclass(frozen=True)
class QuerySettings(Settings):
    """The queries' side.

    Attributes:
        kind: "encoded" by the documents' model; or their own tokens without a model: with the training documents' IDF
            as it is ("idf"), with weights that are learned, one by one from that IDF on, brought to a mean of 1
            ("table"), or as a function of the tokens' input embeddings ("projected"), or all 1 ("tokens"). All of
            these are saved as a table.
        max_length: Tokens of a query that are read.
        weights: A JSON file of weights by token, as OpenSearch's idf.json, instead of that IDF. A regularizer's weight
            that was found beside a table goes with it: with the table times c, documents need weights of 1 / c.
    """

    kind: Literal["encoded", "table", "projected", "idf", "tokens"] = "encoded"
    max_length: int = field(default=64, metadata=within(at_least=3))
    weights: str | None = None

    def conflicts(self) -> list[str]:
        """A table of one's own needs a table."""
        if self.weights is not None and self.kind not in ("table", "idf"):
            return [f"weights is for the kinds table and idf, not {self.kind}"]
        return []


@dataclass(frozen=True)
class DataSettings(Settings):
    """Examples and batches.

    Attributes:
        sources: Where they come from, see `lsr.train.sources`.
        queries: Queries of a batch; of several processes each brings as many, and losses see them all.
        negatives: Documents beside the positive one, for each query, drawn from its candidates.
        refresh_every: After so many steps, and again and again, the sources' collections are searched with the encoder
            as it is then, and what is found becomes the candidates (ANCE, arXiv 2007.00808); 0 for never. Of sources
            whose documents are named by id.
        refresh_count: Candidates of a query that are kept.
        refresh_share: Leave out what scores above this share of the positive's score (arXiv 2407.15831); None keeps all
            that isn't known to be relevant.
    """

    sources: tuple[TrainingSource, ...]
    queries: int = field(default=32, metadata=within(at_least=1))
    negatives: int = field(default=1, metadata=within(at_least=0))
    refresh_every: int = field(default=0, metadata=within(at_least=0))
    refresh_count: int = field(default=30, metadata=within(at_least=1))
    refresh_share: float | None = field(default=None, metadata=within(above=0, at_most=1))

    def conflicts(self) -> list[str]:
        """There is something to learn from."""
        return [] if self.sources else ["sources: name at least one"]


@dataclass(frozen=True)
class TeacherSettings(Settings):
    """Whose scores are imitated: a model's, or those that the examples bring. One of these.

    Attributes:
        encoder: "bm25", or a sparse encoder as `--encoder` takes it; it scores all pairs of a batch.
        dense: A checkpoint of one vector for a text, pooled, prompted and compared as its own files say; likewise.
        cross_encoder: A CrossEncoder of sentence-transformers with one output. It scores a query's own documents only,
            so kl is then over these. Needs the package sentence-transformers.
        examples: The scores that the examples bring, of `lsr score` say, beside models; they are of a query's own
            documents, so kl is then over these. Without any teachers they are taken anyhow.
    """

    encoder: str | None = None
    dense: str | None = None
    cross_encoder: str | None = None
    examples: bool = False

    @property
    def of_own(self) -> bool:
        """Whether it has scores of a query's own documents only."""
        return self.examples or self.cross_encoder is not None

    def conflicts(self) -> list[str]:
        """One teacher has one name."""
        named = sum(name is not None for name in (self.encoder, self.dense, self.cross_encoder))
        return [] if named + self.examples == 1 else ["name one of encoder, dense, cross_encoder and examples"]


@dataclass(frozen=True)
class LossSettings(Settings):
    """Weights of the losses; those at 0 are left out.

    Attributes:
        info_nce: Of the positives against every other document of the batch.
        kl: Against the teachers, over every document of the batch if they score all pairs, else over the query's own.
        margin_mse: Against the teachers' scores as they are.
        vectors: Against the documents' vectors of those teachers that are sparse models of the same vocabulary; squared
            differences, summed over the terms. It fades: its weight falls to nothing by the last step.
        alone: Beside `TrainSettings.lexical`: all of these losses once more, of the model's scores without BM25's, and
            their weight. The whole then ranks well, and so does what is learned by itself.
        temperature: Scores are divided by it in info_nce.
        teacher_scores: How kl takes each teacher's: for each query brought to 0..1 ("min-max") or to mean 0 and
            standard deviation 1 ("standard"), so that unlike teachers count alike, or as they are ("raw"), as of one
            cross-encoder.
        scale: Their mean is multiplied by it for kl; 0 for 30 of what lies in 0..1, and 1 of the others.
        margin_pairs: Whether margin_mse compares a query's positive with its negatives ("positive"), or all of its
            documents with each other ("all"), as naver/splade's trainer of SPLADE-v3 does.
    """

    info_nce: float = field(default=0.0, metadata=within(at_least=0))
    kl: float = field(default=0.0, metadata=within(at_least=0))
    margin_mse: float = field(default=0.0, metadata=within(at_least=0))
    alone: float = field(default=0.0, metadata=within(at_least=0))
    temperature: float = field(default=1.0, metadata=within(above=0))
    teacher_scores: Literal["min-max", "standard", "raw"] = "min-max"
    scale: float = field(default=0.0, metadata=within(at_least=0))
    margin_pairs: Literal["positive", "all"] = "positive"
    vectors: float = field(default=0.0, metadata=within(at_least=0))

    def __post_init__(self) -> None:
        """Fill in the scale."""
        if not self.scale:
            object.__setattr__(self, "scale", 30.0 if self.teacher_scores == "min-max" else 1.0)
        super().__post_init__()

    def conflicts(self) -> list[str]:
        """There is something to minimise."""
        if not (self.info_nce or self.kl or self.margin_mse):
            return ["give at least one of info_nce, kl and margin_mse a weight"]
        return []


@dataclass(frozen=True)
class RegularizerSettings(Settings):
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
    weight: float = field(default=0.0, metadata=within(at_least=0))
    ramp: int = field(default=0, metadata=within(at_least=0))
    schedule: Literal["quadratic", "linear", "constant"] = "quadratic"
    threshold: int = field(default=150, metadata=within(at_least=0))
    anti_zero: float = field(default=0.0, metadata=within(at_least=0))


@dataclass(frozen=True)
class PretrainSettings(Settings):
    """Masked-language-model training on the sources' documents, before anything else (as in arXiv 2207.03834).

    A batch is a positive of each of `data.queries` examples, and goes through the model as a whole; the optimizer's
    rates, warm-up and decay hold for this stage anew.

    Attributes:
        steps: Updates, besides the optimizer's.
        mask_share: Of a text's tokens, those that are to be guessed: 8 of 10 masked, 1 replaced, 1 as it is.
        flops: Weight of the FLOPS of the texts' term weights.
    """

    steps: int = field(metadata=within(at_least=1))
    mask_share: float = field(default=0.15, metadata=within(above=0, below=1))
    flops: float = field(default=0.0, metadata=within(at_least=0))


@dataclass(frozen=True)
class OptimizerSettings(Settings):
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
        accumulate: Batches of an update. With gradient_cache losses and regularizers see them as one, as they see the
            batches of several processes; without it each batch is by itself: InfoNCE has fewer negatives, and FLOPS of
            few documents is larger than that of many.
    """

    steps: int = field(metadata=within(at_least=1))
    lr: float = field(default=2e-5, metadata=within(above=0))
    head_lr: float | None = field(default=None, metadata=within(above=0))
    term_lr: float | None = field(default=None, metadata=within(above=0))
    weight_decay: float = field(default=0.01, metadata=within(at_least=0))
    warmup: int = field(default=0, metadata=within(at_least=0))
    decay: Literal["linear", "cosine", "constant"] = "linear"
    clip: float = field(default=1.0, metadata=within(above=0))
    accumulate: int = field(default=1, metadata=within(at_least=1))


@dataclass(frozen=True)
class ValidationSettings(Settings):
    """A search over held-out data, every so often.

    Attributes:
        sets: BEIR folders or ir-datasets names, "FOLDER" or "FOLDER:split".
        every: Steps.
        measure: Its mean over the sets decides which checkpoint is the best: of those after the regularizers' ramps, as
            before that vectors are not sparse yet, and the last one.
        max_terms: Terms that a document of the best may have on average; 0 for any number.
        patience: Stop after so many validations that could be the best without a better one; 0 never.
        documents: Documents of a set at most: those judged, and as many others; 0 for all.
    """

    sets: tuple[str, ...]
    every: int = field(default=1000, metadata=within(at_least=1))
    measure: str = "nDCG@10"
    max_terms: float = field(default=0.0, metadata=within(at_least=0))
    patience: int = field(default=0, metadata=within(at_least=0))
    documents: int = field(default=0, metadata=within(at_least=0))

    def conflicts(self) -> list[str]:
        """There is something to search."""
        return [] if self.sets else ["sets: name at least one"]


@dataclass(frozen=True)
class TrainSettings(Settings):
    """A training run.

    Attributes:
        model: The documents' model.
        data: Examples and batches.
        losses: Weights of the losses.
        optimizer: Steps and rates.
        queries: The queries' side.
        teachers: For kl and margin_mse; without any, the scores that the examples bring.
        lexical: Weight of BM25's score, fitted to the training documents, that is added to the model's, which then
            learns what BM25 lacks; the encoder is a `lsr.encode.hybrid` of both. Learned if the queries' weights are.
        documents_regularizer: What keeps documents sparse.
        queries_regularizer: What keeps queries sparse.
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
    lexical: float = field(default=0.0, metadata=within(at_least=0))
    documents_regularizer: RegularizerSettings = field(default_factory=RegularizerSettings)
    queries_regularizer: RegularizerSettings = field(default_factory=RegularizerSettings)
    sample_terms: int = field(default=0, metadata=within(at_least=0))
    pretrain: PretrainSettings | None = None
    validation: ValidationSettings | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_cache: bool = False
    batch_tokens: int = field(default=16384, metadata=within(at_least=1))
    checkpoint_every: int = field(default=500, metadata=within(at_least=1))
    seed: int = field(default=0, metadata=within(at_least=0, below=2**63))
    device: str | None = None

    def conflicts(self) -> list[str]:
        """Parts that don't go together."""
        found = []
        if self.sample_terms and self.queries.kind == "encoded":
            found.append("sample_terms needs queries without a model (queries.kind: table, projected, idf or tokens)")
        if self.pretrain and self.model.head not in ("masked-lm", "gated"):
            found.append(f"pretrain works with the heads masked-lm and gated, not {self.model.head}")
        return found
