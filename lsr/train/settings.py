"""Settings of a training run, read from YAML (`configs/train/*.yaml`) and checked. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from lsr import plugins
from lsr.config import Settings, allowed, within
from lsr.train.sources import TrainingSource

HEADS = ("masked-lm", "causal-lm", "gated", "expansion", "lexical", "epic", "sparta", "deepct", "tilde")
REGULARIZERS = ("flops", "l1", "idf_flops", "df_flops", "l0_flops", "group")
_FREEZABLE = ("expansion", "lexical", "deepct")


@dataclass(frozen=True)
class ModelSettings(Settings):
    """The documents' model.

    Attributes:
        checkpoint: A folder or hub name to start from.
        head: Turns states into weights, see `lsr.encode.model`; or that of another package, see `lsr.plugins`.
        pooling: How the logits of a text's tokens are combined: the largest, or the sum.
        saturation: Function from logits to weights.
        max_length: Tokens of a document that are read.
        freeze: Number of frozen layers, from the embeddings on. Their states are computed once for each text and kept
            in the run's cache. For the heads "expansion", "lexical" and "deepct".
        lora: Rank of low-rank adapters that are trained instead of the backbone; 0 for none. Needs the package peft.
        dropout: Dropout probability; None for the checkpoint's. Without dropout a step on a CPU takes two thirds of the
            time.
        prompt: Text before every document.
        top_k: Keep this many of a document's heaviest terms, while training and in the encoder; 0 for all.
    """

    checkpoint: str
    head: str = field(default="masked-lm", metadata=allowed(plugins.Names(plugins.HEADS, HEADS)))
    pooling: Literal["max", "sum"] = "max"
    saturation: Literal["log1p", "log1p_log1p"] = "log1p"
    max_length: int = field(default=256, metadata=within(at_least=3))
    freeze: int = field(default=0, metadata=within(at_least=0))
    lora: int = field(default=0, metadata=within(at_least=0))
    dropout: float | None = field(default=None, metadata=within(at_least=0, below=1))
    prompt: str = ""
    top_k: int = field(default=0, metadata=within(at_least=0))

    def conflicts(self) -> list[str]:
        """Only some heads allow frozen layers."""
        if self.freeze and self.head not in _FREEZABLE:
            return [f"freeze works with the heads {', '.join(_FREEZABLE)}, not {self.head}"]
        return []


@dataclass(frozen=True)
class QuerySettings(Settings):
    """The queries' side.

    Attributes:
        kind: "encoded": by the documents' model, or one of their own. All others weigh the query's tokens without a
            model and are saved as a table: "idf": by the training documents' IDF; "table": by learned weights that
            start at the IDF, scaled to a mean of 1; "projected": by a learned function of the input embeddings;
            "tokens": all 1.
        max_length: Tokens of a query that are read.
        weights: A JSON file of weights by token, such as OpenSearch's idf.json, instead of the IDF. A regularizer's
            weight fits one scale of the table: if the table is multiplied by c, documents' weights shrink by 1 / c.
        checkpoint: Where the queries' own model starts, of any size, with the same vocabulary; None for the documents'
            model. Head, pooling, saturation, adapters and dropout are as for documents.
        prompt: Text before every query.
        top_k: Keep this many of a query's heaviest terms, while training and in the encoder; 0 for all.
    """

    kind: Literal["encoded", "table", "projected", "idf", "tokens"] = "encoded"
    max_length: int = field(default=64, metadata=within(at_least=3))
    weights: str | None = None
    checkpoint: str | None = None
    prompt: str = ""
    top_k: int = field(default=0, metadata=within(at_least=0))

    def conflicts(self) -> list[str]:
        """What only some kinds have."""
        found = []
        if self.weights is not None and self.kind not in ("table", "idf"):
            found.append(f"weights is for the kinds table and idf, not {self.kind}")
        if self.kind != "encoded":
            given = [name for name in ("checkpoint", "prompt", "top_k") if getattr(self, name)]
            found += [f"{name} is for queries of the kind encoded, not {self.kind}" for name in given]
        return found


@dataclass(frozen=True)
class DataSettings(Settings):
    """Examples and batches.

    Attributes:
        sources: Sources of examples, see `lsr.train.sources`.
        queries: Queries of a batch, for each process; losses see the queries of all processes.
        negatives: Negatives of each query in a batch, drawn from its candidates.
        mixed: Whether a batch has queries of several sources. If not, it is of one source, drawn by the weights; with
            gradient_cache the batches of `optimizer.accumulate` count as one.
        bank: Documents of the bank of frozen negatives, the first positives of the sources; see `LossSettings.bank`.
        refresh_every: Interval in steps at which the sources' collections are searched with the present encoder; the
            results become the candidates (ANCE, arXiv 2007.00808). 0 for never. For sources with document ids.
        refresh_count: Candidates to keep for each query.
        refresh_share: Leave out candidates above this share of the positive's score (arXiv 2407.15831); None keeps all
            that aren't judged relevant.
    """

    sources: tuple[TrainingSource, ...]
    queries: int = field(default=32, metadata=within(at_least=1))
    negatives: int = field(default=1, metadata=within(at_least=0))
    mixed: bool = True
    bank: int = field(default=10_000, metadata=within(at_least=1))
    refresh_every: int = field(default=0, metadata=within(at_least=0))
    refresh_count: int = field(default=30, metadata=within(at_least=1))
    refresh_share: float | None = field(default=None, metadata=within(above=0, at_most=1))

    def conflicts(self) -> list[str]:
        """At least one source is needed."""
        return [] if self.sources else ["sources: name at least one"]


@dataclass(frozen=True)
class TeacherSettings(Settings):
    """A teacher, whose scores are imitated. Set exactly one of these.

    Attributes:
        encoder: "bm25", or a sparse encoder as for `--encoder`; it scores all pairs of a batch.
        dense: A dense checkpoint, with the pooling, prompts and similarity of its own files; it scores all pairs.
        cross_encoder: A CrossEncoder of sentence-transformers with one output. It scores only a query's own documents,
            so kl is then over these. Needs the package sentence-transformers.
        examples: The scores in the examples, for example from `lsr score`, beside models. They are only for a query's
            own documents, so kl is then over these. Without any teachers they are used by default.
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
        """Exactly one of the four is needed."""
        named = sum(name is not None for name in (self.encoder, self.dense, self.cross_encoder))
        return [] if named + self.examples == 1 else ["name one of encoder, dense, cross_encoder and examples"]


@dataclass(frozen=True)
class LossSettings(Settings):
    """Weights of the losses; a loss with weight 0 isn't computed.

    Attributes:
        info_nce: Contrastive loss of the positives against all other documents of the batch.
        kl: KL divergence from the teachers, over all documents of the batch if they score all pairs, else over the
            query's own.
        margin_mse: Squared error of score differences, with the teachers' unscaled scores.
        term_recall: Squared differences between a positive's weights of its own words and 1 for those that are in the
            query, 0 for others (DeepCT, arXiv 1910.10687). Over many queries a word's weight becomes the share of the
            document's queries that have it.
        vectors: Squared differences from the documents' vectors of those teachers that are sparse models of the same
            vocabulary, summed over terms. The weight falls to 0 by the last step.
        bank: InfoNCE of the positives against a bank of frozen negatives (`lsr.train.bank`), without BM25's scores. For
            a run that starts from a trained sparse model.
        alone: With `TrainSettings.lexical`: weight of all these losses for the model's scores without BM25's, so that
            the learned part also ranks well by itself.
        temperature: Divides scores in info_nce and bank.
        teacher_scores: How kl scales each teacher's scores for a query: to 0..1 ("min-max") or to mean 0 and standard
            deviation 1 ("standard"), so that teachers of different scales count equally, or not at all ("raw"), for a
            single cross-encoder.
        scale: Factor of their mean for kl; 0 for the default: 30 for "min-max", 1 for the others.
        margin_pairs: Whether margin_mse compares a query's positive with its negatives ("positive"), or all of its
            documents with each other ("all"), as naver/splade's trainer of SPLADE-v3 does.
        plugins: Weights of losses of other packages by name, see `lsr.plugins`.
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
    term_recall: float = field(default=0.0, metadata=within(at_least=0))
    bank: float = field(default=0.0, metadata=within(at_least=0))
    plugins: dict[str, float] = field(default_factory=dict, metadata=allowed(plugins.Names(plugins.LOSSES)))

    def __post_init__(self) -> None:
        """Fill in the scale."""
        if not self.scale:
            object.__setattr__(self, "scale", 30.0 if self.teacher_scores == "min-max" else 1.0)
        super().__post_init__()

    def conflicts(self) -> list[str]:
        """At least one ranking loss is needed."""
        found = [f"plugins.{name} must be above 0, got {w}" for name, w in self.plugins.items() if not 0 < w < math.inf]
        if not (self.info_nce or self.kl or self.margin_mse or self.term_recall or self.bank or self.plugins):
            found.append("give at least one of info_nce, kl, margin_mse, term_recall, bank and plugins a weight")
        return found


@dataclass(frozen=True)
class RegularizerSettings(Settings):
    """The sparsity penalty of one side.

    Attributes:
        kind: See `lsr.train.regularizers`; or that of another package, see `lsr.plugins`.
        weight: Weight in the loss, after the ramp.
        ramp: Steps over which the weight grows.
        schedule: How it grows.
        threshold: Number of terms of a vector up to which "l0_flops" has no penalty; for "group" the number of most
            used terms of the vocabulary, which have no penalty.
        anti_zero: Weight of the penalty for empty vectors.
        target: Mean number of terms that vectors should have; 0 for none. After the ramp the weight is raised while
            they have more, and lowered while they have fewer.
    """

    kind: str = field(default="flops", metadata=allowed(plugins.Names(plugins.REGULARIZERS, REGULARIZERS)))
    weight: float = field(default=0.0, metadata=within(at_least=0))
    ramp: int = field(default=0, metadata=within(at_least=0))
    schedule: Literal["quadratic", "linear", "constant"] = "quadratic"
    threshold: int = field(default=150, metadata=within(at_least=0))
    anti_zero: float = field(default=0.0, metadata=within(at_least=0))
    target: float = field(default=0.0, metadata=within(at_least=0))

    def conflicts(self) -> list[str]:
        """A target changes a weight, so there must be one."""
        return ["target needs a weight to start from"] if self.target and not self.weight else []


@dataclass(frozen=True)
class PretrainSettings(Settings):
    """A first stage of masked language modelling on the sources' documents (as in arXiv 2207.03834).

    A batch has a positive of each of `data.queries` examples and goes through the model as a whole. The optimizer's
    rates, warm-up and decay start again after this stage.

    Attributes:
        steps: Updates, in addition to the optimizer's.
        mask_share: Share of tokens to predict; of these 8 of 10 are masked, 1 replaced, 1 unchanged.
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
        lr: Learning rate of the backbone.
        head_lr: Learning rate of the head's matrices, if it has any; None for `lr`.
        term_lr: Learning rate of parameters with one number for each term, such as biases and the query table; None
            for `head_lr`.
        weight_decay: Weight decay of matrices.
        warmup: Steps over which the rates grow.
        decay: How they fall afterwards.
        clip: Largest norm of the gradient.
        accumulate: Batches of an update. With gradient_cache, losses and regularizers see them as one batch, like the
            batches of several processes. Without it, each batch counts by itself: InfoNCE has fewer negatives, and the
            FLOPS of few documents is larger than that of many.
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
    """Validation by searching held-out data at intervals.

    Attributes:
        sets: BEIR folders or ir-datasets names, "FOLDER" or "FOLDER:split".
        every: Interval in steps.
        measure: Its mean over the sets decides which encoder is the best. Encoders are eligible only after the
            regularizers' ramps, because vectors aren't sparse before; the last encoder always is.
        max_terms: The best encoder's documents may have this many terms on average; 0 for no limit.
        patience: Stop after this many eligible validations without improvement; 0 never stops.
        documents: Largest number of documents of a set: the judged ones and as many others as fit; 0 for all.
    """

    sets: tuple[str, ...]
    every: int = field(default=1000, metadata=within(at_least=1))
    measure: str = "nDCG@10"
    max_terms: float = field(default=0.0, metadata=within(at_least=0))
    patience: int = field(default=0, metadata=within(at_least=0))
    documents: int = field(default=0, metadata=within(at_least=0))

    def conflicts(self) -> list[str]:
        """At least one set is needed."""
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
        teachers: Teachers for kl and margin_mse; without any, the scores in the examples.
        lexical: Weight of BM25's score, which is added to the model's, so that the model learns what BM25 lacks. BM25
            is fitted to the training documents; the encoder is a `lsr.encode.hybrid` of both. The weight is learned
            if the queries' weights are.
        documents_regularizer: Sparsity penalty of documents.
        queries_regularizer: Sparsity penalty of queries.
        sample_terms: Compute weights only for the terms of the batch's queries and this many random ones, which stand
            for all terms in the regularizer; 0 for all terms. For queries without a model.
        pretrain: A stage before the training itself; None for none. For the heads "masked-lm" and "gated".
        validation: None for none.
        precision: "bfloat16" uses mixed precision where the device supports it.
        gradient_cache: Run the model twice, so that a large batch needs the memory of a small one.
        batch_tokens: Tokens that go through the model at a time.
        checkpoint_every: Interval in steps.
        soup: At the end, the mean of the weights of this many last checkpoints is saved as the encoder `soup`, and
            validated; 0 for none. These checkpoints are kept.
        seed: Seed of all random draws.
        device: None for "cuda" if there is a GPU, else "cpu".
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
    soup: int = field(default=0, metadata=within(at_least=0))
    seed: int = field(default=0, metadata=within(at_least=0, below=2**63))
    device: str | None = None

    def conflicts(self) -> list[str]:
        """Settings of different sections that exclude each other."""
        found = []
        if self.sample_terms and self.queries.kind == "encoded":
            found.append("sample_terms needs queries without a model (queries.kind: table, projected, idf or tokens)")
        if self.pretrain and self.model.head not in ("masked-lm", "gated"):
            found.append(f"pretrain works with the heads masked-lm and gated, not {self.model.head}")
        if self.losses.bank and self.pretrain:
            found.append(
                "losses.bank can't be combined with pretrain: its vectors are those of the model before the first step"
            )
        if self.sample_terms and self.model.top_k:
            found.append("sample_terms can't be combined with model.top_k, which needs the weights of all terms")
        if self.soup == 1:
            found.append("soup averages at least two checkpoints; one alone is the encoder `last`")
        return found
