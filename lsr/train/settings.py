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
        head: The head, which turns states into weights (see `lsr.encode.model`), or one of another package (see
            `lsr.plugins`).
        pooling: How the logits of a text's tokens are pooled.
        saturation: Function from logits to weights.
        max_length: Number of tokens read from a document.
        freeze: Number of frozen layers, counted from the embeddings, which are then frozen, too. The states of frozen
            layers are computed once for each text and cached. Only for the heads "expansion", "lexical" and "deepct".
        lora: Rank of low-rank adapters, which are trained instead of the backbone; 0 for none. Needs the package peft.
        dropout: Dropout probability; None for that of the checkpoint. Without dropout, a step on a CPU takes two thirds
            of the time.
        prompt: Text before every document.
        top_k: Number of a document's heaviest terms to keep, both in training and in the encoder; 0 for all.
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
    """Settings for queries.

    Attributes:
        kind: "encoded": a model encodes queries, either the documents' model or a model of their own. With the other
            kinds, the query's tokens get weights without a model, and the encoder stores these as a table: "idf" with
            the training documents' IDF; "table" with learned weights that start at the IDF, scaled to a mean of 1;
            "projected" with a learned function of the input embeddings; "tokens" with 1 for all.
        max_length: Number of tokens read from a query.
        weights: A JSON file {token: weight}, such as OpenSearch's idf.json, used instead of the IDF. The scale of the
            table matters for the regularizer: if the table is multiplied by c, training divides the documents' weights
            by c, and the regularizer's weight no longer fits.
        checkpoint: The checkpoint from which the queries' own model starts. It may have any size, but needs the same
            vocabulary; None to use the documents' model. Head, pooling, saturation, adapters and dropout are as for
            documents.
        prompt: Text before every query.
        top_k: Number of a query's heaviest terms to keep, both in training and in the encoder; 0 for all.
    """

    kind: Literal["encoded", "table", "projected", "idf", "tokens"] = "encoded"
    max_length: int = field(default=64, metadata=within(at_least=3))
    weights: str | None = None
    checkpoint: str | None = None
    prompt: str = ""
    top_k: int = field(default=0, metadata=within(at_least=0))

    def conflicts(self) -> list[str]:
        """Some settings are only for some kinds."""
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
        queries: Queries per batch and process; losses see the queries of all processes.
        negatives: Negatives per query, drawn from its candidates.
        mixed: Whether a batch may mix queries of several sources. If not, each batch is from one source, drawn by the
            sources' weights; with gradient_cache, all batches of an update (`optimizer.accumulate`) count as one batch.
        bank: Number of documents in the bank of frozen negatives (see `LossSettings.bank`): the first positives of the
            sources.
        refresh_every: Interval in steps at which the sources' collections are searched with the current encoder; the
            results become the candidates (ANCE, arXiv 2007.00808); 0 for never. Only for sources with document ids.
        refresh_count: Number of candidates to keep per query.
        refresh_share: Drop candidates that score above this share of the positive's score (arXiv 2407.15831); None
            keeps all candidates that aren't judged relevant.
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
    """A teacher, whose scores are imitated. Set exactly one attribute.

    Attributes:
        encoder: "bm25", or a sparse encoder as for `--encoder`; it scores all pairs of a batch.
        dense: A dense checkpoint, with the pooling, prompts and similarity of its own files; it scores all pairs.
        cross_encoder: A CrossEncoder of sentence-transformers with one output. It scores only a query's own documents,
            so kl is computed over these. Needs the package sentence-transformers.
        examples: Use the scores in the examples, for example from `lsr score`. They exist only for a query's own
            documents, so kl is computed over these. If no teachers are set, these scores are used.
    """

    encoder: str | None = None
    dense: str | None = None
    cross_encoder: str | None = None
    examples: bool = False

    @property
    def of_own(self) -> bool:
        """Whether the teacher scores only a query's own documents."""
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
        kl: KL divergence from the teachers, over all documents of the batch if the teachers score all pairs, else over
            the query's own documents.
        margin_mse: Squared error of score differences, with the teachers' unscaled scores.
        term_recall: Squared error of a positive's weights for its own words, where the target is 1 for words of the
            query and 0 for other words (DeepCT, arXiv 1910.10687). Over many queries, a word's weight approaches the
            share of the document's queries that contain it.
        vectors: Squared distance between the model's vectors of documents and the mean vectors of the teachers that are
            sparse models; these need the same vocabulary. The weight falls to 0 by the last step.
        bank: InfoNCE of the positives against a bank of frozen negatives (`lsr.train.bank`), without BM25's scores. For
            runs that start from a trained sparse model.
        alone: With `TrainSettings.lexical`: weight of the same ranking losses on the model's scores without BM25's
            scores, so that the learned part also ranks well by itself.
        temperature: Divides scores in info_nce and bank.
        teacher_scores: How kl scales each teacher's scores for a query. "min-max" scales to 0..1 and "standard" to mean
            0 and standard deviation 1, so that teachers with different scales count equally. "raw" doesn't scale; it is
            for a single cross-encoder.
        scale: Factor by which kl multiplies the teachers' mean scaled score; 0 for the default: 30 for "min-max", else
            1.
        margin_pairs: The pairs that margin_mse compares: "positive", a query's positive with each negative; or "all",
            all of the query's documents with each other, as in naver/splade's trainer of SPLADE-v3.
        plugins: {name: weight} of losses from other packages, see `lsr.plugins`.
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
        kind: One of `lsr.train.regularizers`, or one of another package (see `lsr.plugins`).
        weight: Weight in the loss, after the ramp.
        ramp: Steps over which the weight grows.
        schedule: How the weight grows.
        threshold: For "l0_flops", the number of terms that a vector may have without penalty. For "group", the number
            of vocabulary terms without penalty: the terms with the highest document frequencies.
        anti_zero: Weight of the penalty for empty vectors.
        target: Mean number of terms that vectors should have; 0 for none. After the ramp, the weight is raised while
            vectors have more terms, and lowered while they have fewer.
    """

    kind: str = field(default="flops", metadata=allowed(plugins.Names(plugins.REGULARIZERS, REGULARIZERS)))
    weight: float = field(default=0.0, metadata=within(at_least=0))
    ramp: int = field(default=0, metadata=within(at_least=0))
    schedule: Literal["quadratic", "linear", "constant"] = "quadratic"
    threshold: int = field(default=150, metadata=within(at_least=0))
    anti_zero: float = field(default=0.0, metadata=within(at_least=0))
    target: float = field(default=0.0, metadata=within(at_least=0))

    def conflicts(self) -> list[str]:
        """A target adapts the weight, so it needs a weight to start from."""
        return ["target needs a weight to start from"] if self.target and not self.weight else []


@dataclass(frozen=True)
class PretrainSettings(Settings):
    """A first stage of masked language modelling on the sources' documents (as in arXiv 2207.03834).

    A batch has one positive from each of `data.queries` examples and goes through the model as a whole. After this
    stage, learning rates, warm-up and decay start again.

    Attributes:
        steps: Number of updates, in addition to the optimizer's steps.
        mask_share: Share of tokens to predict. Of these tokens, 80 % are masked, 10 % replaced and 10 % unchanged.
        flops: Weight of the FLOPS of the texts' term weights.
    """

    steps: int = field(metadata=within(at_least=1))
    mask_share: float = field(default=0.15, metadata=within(above=0, below=1))
    flops: float = field(default=0.0, metadata=within(at_least=0))


@dataclass(frozen=True)
class OptimizerSettings(Settings):
    """AdamW.

    Attributes:
        steps: Number of updates.
        lr: Learning rate of the backbone.
        head_lr: Learning rate of the head's matrices; None for `lr`.
        term_lr: Learning rate of parameters with one number for each term, such as biases and the query table; None
            for `head_lr`.
        weight_decay: Weight decay of matrices.
        warmup: Steps over which the rates grow.
        decay: How the rates fall afterwards.
        clip: Largest norm of the gradient.
        accumulate: Batches per update. With gradient_cache, losses and regularizers treat them as one large batch, like
            the batches of several processes. Without gradient_cache, each batch is treated separately: InfoNCE has
            fewer negatives, and FLOPS is larger, because it is computed over fewer documents.
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
        measure: The measure whose mean over the sets decides which encoder is the best. Encoders are eligible only
            after the regularizers' ramps, because vectors aren't sparse before that. The last encoder is always
            eligible.
        max_terms: Largest mean number of terms per document that the best encoder may have; 0 for no limit.
        patience: Stop after this many eligible validations without improvement; 0 never stops.
        documents: Maximum number of documents per set: the judged documents, and other documents up to this number; 0
            for all.
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
        queries: Settings for queries.
        teachers: Teachers for kl and margin_mse; without teachers, the scores in the examples are used.
        lexical: Weight of BM25's score, which is added to the model's score so that the model learns what BM25 lacks.
            BM25 is fitted to the training documents, and the saved encoder combines both (`lsr.encode.hybrid`). If
            query weights are learned, so is this weight.
        documents_regularizer: Sparsity penalty of documents.
        queries_regularizer: Sparsity penalty of queries.
        sample_terms: Compute weights only for the terms of the batch's queries and for this many random terms, which
            represent all terms in the regularizer; 0 for all terms. Only for queries without a model.
        pretrain: A stage before the training itself; None to skip it. Only for the heads "masked-lm" and "gated".
        validation: Validation at intervals; None for no validation.
        precision: "bfloat16" uses mixed precision where the device supports it.
        gradient_cache: Run the model twice, so that a large batch needs only the memory of a small one.
        batch_tokens: Number of tokens that go through the model at a time.
        checkpoint_every: Interval of checkpoints, in steps.
        soup: At the end, the weights of this many latest checkpoints are averaged, and the result is saved as the
            encoder `soup` and validated; 0 for none. These checkpoints are kept.
        seed: Seed of all random draws.
        device: The device; None for "cuda" if there is a GPU, else "cpu".
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
