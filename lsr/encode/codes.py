"""Sparse codes of dense vectors: an inverted index over any dense model, with latents as terms.

    weight = z / |z|,  z = top_k(relu(W x + b))      x: the dense vector; the inner product is the cosine of two codes

`fit` learns W and b from texts without labels (`lsr.encode.autoencoder`), and names each latent by the words that
activate it most. The dense model also runs for each query.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from lsr.encode import portable
from lsr.encode.autoencoder import CodeSettings, TrainedCodes, train_codes
from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes, write_files
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tower import ModelOptions
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

CODES_FILE = "codes.arrow"
Embed = Callable[[list[str]], ArrayLike]  # texts to (n, width) numbers
_FITTED = 20_000  # texts that `fit` learns from, at most
_AT_ONCE = 512  # texts embedded per batch
_WORDS = 2000  # frequent words that may name a latent
_NAMES = 3  # words per name
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Codes:
    """The linear map from dense vectors to codes.

    Attributes:
        weight: (latents, width) float32.
        bias: (latents,) float32.
        query_bias: (latents,) float32, the bias for queries.
        names: The words that name each latent; "" for a latent without a name.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    query_bias: NDArray[np.float32]
    names: tuple[str, ...]

    def activations(self, vectors: NDArray[np.float32], *, queries: bool = False) -> NDArray[np.float32]:
        """(n, latents) non-negative float32 activations of (n, width) vectors."""
        bias = self.query_bias if queries else self.bias
        return np.asarray(np.maximum(vectors @ self.weight.T + bias, 0), np.float32)

    def encode(self, vectors: NDArray[np.float32], top_k: int, *, queries: bool = False) -> SparseMatrix:
        """The codes of (n, width) vectors; every code has norm 1. Of latents with equal activations, the first are
        kept.
        """
        rows: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        for first in range(0, len(vectors), _AT_ONCE):
            for row in self.activations(vectors[first : first + _AT_ONCE], queries=queries):
                terms = np.flatnonzero(row)
                if len(terms) > top_k:
                    terms = np.sort(terms[np.argsort(-row[terms], kind="stable")[:top_k]])
                rows.append((terms, row[terms] / max(float(np.linalg.norm(row[terms])), 1e-12)))
        return SparseMatrix.from_rows(rows, len(self.weight))

    def to_bytes(self) -> bytes:
        """Serialize to an Arrow file."""
        width = pa.list_(pa.field("item", pa.float32(), nullable=False), self.weight.shape[1])
        rows = pa.FixedSizeListArray.from_arrays(pa.array(self.weight.reshape(-1)), type=width)
        columns = {"weight": rows, "bias": pa.array(self.bias), "query_bias": pa.array(self.query_bias)}
        batch = pa.record_batch(columns | {"name": pa.array(self.names, pa.string())})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())

    @classmethod
    def read(cls, path: Path) -> Codes:
        """Read a file written from `to_bytes`.

        Raises:
            EncoderError: The file can't be read, or is another kind of file.
        """
        try:
            table = pa.ipc.open_file(path.read_bytes()).read_all().combine_chunks()
            table.validate(full=True)  # a damaged file must not cause reads out of bounds
            width = table.schema.field("weight").type.list_size
            flat = table["weight"].combine_chunks().flatten().to_numpy()
            weight = np.array(flat).reshape(len(table), width)
            biases = [np.array(table[name].to_numpy()) for name in ("bias", "query_bias")]
            names = tuple(table["name"].to_pylist())
        except (OSError, pa.ArrowException, KeyError, ValueError, AttributeError) as error:
            raise EncoderError(f"{path}: not the codes of an encoder: {error}") from None
        kinds = {values.dtype for values in (weight, *biases)}
        if kinds != {np.dtype(np.float32)} or not all(isinstance(name, str) for name in names):
            raise EncoderError(f"{path}: not the codes of an encoder: {table.schema}")
        if not all(np.isfinite(values).all() for values in (weight, *biases)):
            raise EncoderError(f"{path}: weights that are not numbers")
        return cls(weight, biases[0], biases[1], names)


class CsrEncoder(Encoder):
    """Sparse codes over a dense model (arXiv 2503.01776). `load_encoder("csr:lsr-mini")` uses lsr-mini.

    Args:
        dense: An encoder with dense vectors, or a function from a list of texts to (n, width) numbers. `save` doesn't
            store a function: pass it again when you open the codes, `CsrEncoder(function, codes)`.
        codes: Codes; None to learn them with `fit`.
        settings: Settings of `fit`; `top_k` is also the number of latents per text.
        queries: The function for queries, if it differs from the function for documents.

    Raises:
        EncoderError: The encoder has no dense vectors, or the codes have another width.
    """

    type = "csr"

    def __init__(
        self,
        dense: Encoder | Embed,
        codes: Codes | None = None,
        *,
        settings: CodeSettings | None = None,
        queries: Embed | None = None,
    ) -> None:
        self.dense = dense.learned if isinstance(dense, HybridEncoder) else dense
        self.codes, self.settings, self.queries = codes, settings or CodeSettings(), queries
        self._known: dict[str, NDArray[np.float32]] = {}  # vectors of `fit`'s texts, which are encoded next
        if isinstance(self.dense, Encoder):
            if not self.dense.dense_width:
                raise EncoderError(f"{self.dense.fingerprint.model} has no dense vectors; lsr-mini has them")
            if codes is not None and codes.weight.shape[1] != self.dense.dense_width:
                raise EncoderError(
                    f"the codes are of {codes.weight.shape[1]} dimensions, {self.dense.fingerprint.model} has "
                    f"{self.dense.dense_width}"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.dense, Encoder):
            return _over_function, (self.dense, self.codes, self.settings, self.queries)
        model = self.dense.document if isinstance(self.dense, InferenceFreeEncoder) else self.dense
        assert isinstance(model, SpladeEncoder)
        return self._reduced(device=model.device, batch_tokens=model.batch_tokens)

    # --- learning -----------------------------------------------------------------------------------------------------

    @property
    def needs_fit(self) -> bool:  # type: ignore[override]
        """True until there are codes."""
        return self.codes is None

    def fit(self, texts: Iterable[str]) -> None:
        """Learn codes from the first 20,000 texts; a random sentence of each serves as its query.

        Raises:
            EncoderError: There are fewer than two texts.
            MissingExtra: torch isn't installed.
        """
        some = list(islice(iter(texts), _FITTED))
        if len(some) < 2:
            raise EncoderError(f"codes are learned from at least two texts, got {len(some)}")
        rng = np.random.default_rng(self.settings.seed)
        sentences = [random_sentence(text, rng) for text in some]
        vectors = self._embedded(some)
        self.learn(vectors, self._embedded(sentences, queries=True))
        self._known = dict(zip(some, vectors, strict=True))
        self.name_latents([word for word, _ in frequent_words(some).most_common(_WORDS)])

    def learn(
        self,
        vectors: NDArray[np.float32],
        queries: NDArray[np.float32] | None = None,
        positives: NDArray[np.int64] | None = None,
    ) -> TrainedCodes:
        """Learn codes from existing dense vectors.

        Args:
            vectors: (n, width) float32.
            queries: (m, width) float32, vectors of queries for the contrastive loss.
            positives: (m,) int, the row of `vectors` relevant to each query; by default, row i for query i.

        Returns:
            The codes with their decoder and the losses.
        """
        if queries is not None and positives is None:
            positives = np.arange(len(queries))
        trained = train_codes(vectors, self.settings, queries=queries, positives=positives)
        self.codes = Codes(trained.weight, trained.bias, trained.query_bias, ("",) * len(trained.weight))
        return trained

    def name_latents(self, words: Sequence[str]) -> None:
        """Name each latent by the three words that activate it most.

        Args:
            words: Words to choose from, such as the most frequent ones of a collection.
        """
        codes = self._codes
        activity = codes.activations(self._embedded(list(words))) if words else np.zeros((0, len(codes.weight)))
        best = np.argsort(-activity, axis=0, kind="stable")[:_NAMES].T
        names = (", ".join(words[w] for w in row if activity[w, latent] > 0) for latent, row in enumerate(best))
        self.codes = replace(codes, names=tuple(names))

    def steer(self, vectors: SparseMatrix, changes: Mapping[int, float]) -> SparseMatrix:
        """Turn some latents of queries up or down.

        Args:
            vectors: Codes of queries.
            changes: {latent: amount added to its weight}; weights don't fall below 0.

        Raises:
            EncoderError: There is no such latent.
        """
        if wrong := [latent for latent in changes if not 0 <= latent < self.n_terms]:
            raise EncoderError(f"there is no latent {wrong[0]}; they are numbered 0 to {self.n_terms - 1}")
        rows = []
        for terms, weights in vectors.rows():
            row = dict(zip(terms.tolist(), weights.tolist(), strict=True))
            row |= {latent: row.get(latent, 0.0) + more for latent, more in changes.items()}
            rows.append({latent: weight for latent, weight in row.items() if weight > 0})
        return SparseMatrix.from_dicts(rows, self.n_terms)

    # --- encoding -----------------------------------------------------------------------------------------------------

    @property
    def _codes(self) -> Codes:
        if self.codes is None:
            raise EncoderError("this encoder has no codes yet: call fit(texts)")
        return self.codes

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """See `Encoder`. This runs the dense model."""
        vectors = self._embedded(as_texts(texts), queries=True)
        return self._codes.encode(vectors, self.settings.top_k, queries=True)

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """See `Encoder`."""
        return self._codes.encode(self._embedded(as_texts(texts)), self.settings.top_k)

    def _embedded(self, texts: list[str], *, queries: bool = False) -> NDArray[np.float32]:
        if not queries and self._known and all(text in self._known for text in texts):
            return np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, self._width), np.float32)
        return np.concatenate(list(self._parts(texts, queries))) if texts else np.zeros((0, self._width), np.float32)

    def _parts(self, texts: list[str], queries: bool) -> Iterator[NDArray[np.float32]]:
        embed = self.queries if queries and self.queries is not None else self.dense
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            if isinstance(embed, Encoder):
                found = embed.encode_dense(some, queries=queries)
            else:
                found = np.asarray(embed(some), np.float32)
            if found.ndim != 2 or len(found) != len(some) or not np.isfinite(found).all():
                raise EncoderError(
                    f"the dense model gave numbers of shape {found.shape} for {len(some)} texts; it has to give a row "
                    "of finite numbers for each"
                )
            if self.codes is not None and found.shape[1] != self._width:
                raise EncoderError(f"the codes are of {self._width} dimensions, the dense model gave {found.shape[1]}")
            yield found

    @property
    def _width(self) -> int:
        if self.codes is not None:
            return int(self.codes.weight.shape[1])
        return self.dense.dense_width if isinstance(self.dense, Encoder) else 0

    @property
    def dense_width(self) -> int:
        """Provided by the dense model; see `Encoder`."""
        return self.dense.dense_width if isinstance(self.dense, Encoder) else self._width

    def encode_dense(self, texts: Texts, *, queries: bool = False) -> NDArray[np.float32]:
        """Provided by the dense model; see `Encoder`."""
        found = self._embedded(as_texts(texts), queries=queries)
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12), np.float32)

    def encode_both(self, texts: Texts) -> tuple[SparseMatrix, NDArray[np.float32]]:
        """See `Encoder`."""
        found = self._embedded(as_texts(texts))
        length = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return self._codes.encode(found, self.settings.top_k), np.asarray(found / length, np.float32)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The latents, such as "latent:7 (wing, flow, lift)"; empty until there are codes."""
        names = self.codes.names if self.codes is not None else ()
        return [f"latent:{i} ({name})" if name else f"latent:{i}" for i, name in enumerate(names)]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Empty: a latent belongs to the whole text, not to a span."""
        return []

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """The dense model's tokens; words if the model is a function."""
        if isinstance(self.dense, Encoder):
            return self.dense.tokens(text)
        return [(-1, match.start(), match.end()) for match in re.finditer(r"\w+", text)]

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """Provided by the dense model, which reads as many tokens of a query as of a document; see `Encoder`."""
        return self.dense.room(texts) if isinstance(self.dense, Encoder) else None

    def check(self) -> None:
        """Check all files without running a model.

        Raises:
            EncoderError: A file is missing.
        """
        if isinstance(self.dense, SpladeEncoder | InferenceFreeEncoder):
            self.dense.check()

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the codes and the dense model."""
        dense = self.dense.fingerprint if isinstance(self.dense, Encoder) else Fingerprint(model="a function")
        state = [json.dumps([str(dense.weights), asdict(self.settings)]).encode()]
        if self.codes is not None:
            state += [one.tobytes() for one in (self.codes.weight, self.codes.bias, self.codes.query_bias)]
        return Fingerprint(
            model=f"{self.settings.objective}({self.settings.top_k} latents) of {dense.model}",
            weights=digest(state),
            tokenizer=dense.tokenizer or digest([b"a function"]),
            vocabulary_size=None if self.codes is None else self.n_terms,
            max_length=dense.max_length,
            max_weight=float(np.nextafter(np.float32(1), np.float32(2))),
        )

    # --- on disk ------------------------------------------------------------------------------------------------------

    def query_files(self) -> dict[str, bytes]:
        """The codes, and the dense model's files for queries."""
        return self._with_codes(self.dense.query_files() if isinstance(self.dense, Encoder) else {})

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the codes, and the dense model unless it is a function."""
        folder = Path(folder)
        written = portable.save_model(self.dense, folder) if isinstance(self.dense, Encoder) else {}
        write_files(folder, self._with_codes(written))

    def _with_codes(self, written: Mapping[str, bytes]) -> dict[str, bytes]:
        dense = json.loads(written[CONFIG_FILE]) if written else None
        files = {**written, CONFIG_FILE: config_bytes(self.type, dense=dense, settings=asdict(self.settings))}
        return files | ({} if self.codes is None else {CODES_FILE: self.codes.to_bytes()})

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], **settings: Unpack[ModelOptions]) -> CsrEncoder:
        """Open the files of `save` or `query_files`.

        Args:
            folder: The folder of the files.
            config: Content of `encoder.json`.
            settings: `top_k`, the number of latents per text; other settings are passed to the dense model.

        Raises:
            EncoderError: A file is missing or damaged, or the dense model is a function.
        """
        given: dict[str, Any] = {**settings}
        try:
            how = CodeSettings(**config["settings"])
            dense = dict(config["dense"] or {})
        except (KeyError, TypeError, ValueError) as error:
            raise EncoderError(f"{folder}: not a whole encoder of codes: {error!r}") from None
        if top_k := given.pop("top_k", None):
            how = replace(how, top_k=top_k)
        codes = Codes.read(folder / CODES_FILE) if (folder / CODES_FILE).is_file() else None
        if not dense:
            raise EncoderError(
                f"{folder}: these are codes over a function, which isn't stored: open them with "
                f"CsrEncoder(function, Codes.read(Path(FOLDER) / {CODES_FILE!r})), and pass this encoder to the index"
            )
        kind = InferenceFreeEncoder if dense.get("type") == InferenceFreeEncoder.type else SpladeEncoder
        return cls(kind.load(folder, dense, **given), codes, settings=how)


def _over_function(dense: Any, codes: Any, settings: Any, queries: Any) -> CsrEncoder:
    return CsrEncoder(dense, codes, settings=settings, queries=queries)


def random_sentence(text: str, rng: np.random.Generator) -> str:
    """Return a random sentence of at least 20 characters; the whole text if there is none."""
    found = [one for one in re.split(r"(?<=[.!?])\s+", text) if len(one) >= 20]
    return found[int(rng.integers(len(found)))] if found else text


def frequent_words(texts: Iterable[str]) -> Counter[str]:
    """The number of texts with each word, without words that at least half of the texts have."""
    counts: Counter[str] = Counter()
    n = 0
    for text in texts:
        counts.update({word.lower() for word in _WORD.findall(text)})
        n += 1
    return Counter({word: count for word, count in counts.items() if 2 * count < n})
