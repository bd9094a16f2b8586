"""Latent Terms (arXiv 2605.29384): BM25 over the latents of an auto-encoder that reads a dense model's token states.

    tf_l   = sqrt(sum_t z_tl)                       z_t: the top k latents of the state of token t
    weight = tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))         in documents; length: sum of tf
    weight = idf tf                                                           in queries

`fit` learns the auto-encoder from texts without labels, counts the latents in them, and names each latent by the words
that activate it most.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.encode import portable
from lsr.encode.autoencoder import CodeSettings, train_codes
from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes, write_files
from lsr.encode.codes import CODES_FILE, Codes, frequent_words
from lsr.encode.hybrid import with_states
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tower import ModelOptions
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

States = Callable[[list[str]], Sequence[ArrayLike]]  # texts to the (n_tokens, width) states of each
SETTINGS = CodeSettings(latents=4096, top_k=16, steps=200, batch=512, rate=2e-3, wider=0, contrast=0)
_FITTED = 20_000  # texts in which `fit` counts latents, at most
_TRAINED = 2_000  # texts among them whose states train the auto-encoder
_STATES = 50  # states per text in training, at most
_AT_ONCE = 64  # texts encoded per batch
_WORDS = 1000  # frequent words that may name a latent
_NAMES = 3  # words per name


class LatentTermsEncoder(Encoder):
    """BM25 over latents of token states. `load_encoder("latent:lsr-mini")` uses lsr-mini.

    Args:
        model: An encoder with dense vectors, or a function from a list of texts to the (n_tokens, width) states of
            each. `save` doesn't store a function: pass it again when you open the encoder.
        codes: The auto-encoder; None to learn it with `fit`.
        counts: (latents,) int64, number of documents with each latent.
        n_docs: Number of documents that were counted.
        mean_length: Mean length of these documents.
        settings: How the auto-encoder is trained.
        top_k: Latents kept per token.
        k1: Saturation of the frequency.
        b: Strength of the length normalisation, 0 to 1.
        queries: The function for queries, if it differs from the function for documents.

    Raises:
        EncoderError: The encoder has no dense vectors, or a value is out of range.
    """

    type = "latent-terms"

    def __init__(
        self,
        model: Encoder | States,
        codes: Codes | None = None,
        *,
        counts: ArrayLike = (),
        n_docs: int = 0,
        mean_length: float = 1.0,
        settings: CodeSettings = SETTINGS,
        top_k: int = 8,
        k1: float = 1.5,
        b: float = 0.75,
        queries: States | None = None,
    ) -> None:
        model = with_states(model) if isinstance(model, Encoder) else model
        if top_k < 1 or not 0 <= k1 < np.inf or not 0 <= b <= 1 or not mean_length > 0:
            raise EncoderError(
                "top_k must be at least 1, k1 at least 0, b from 0 to 1 and mean_length above 0, got "
                f"{top_k}, {k1}, {b}, {mean_length}"
            )
        self.model, self.codes, self.settings, self.queries = model, codes, settings, queries
        self.top_k, self.k1, self.b = int(top_k), float(k1), float(b)
        self.counts, self.n_docs, self.mean_length = np.asarray(counts, np.int64), int(n_docs), float(mean_length)
        if codes is not None and self.counts.shape != codes.bias.shape:
            raise EncoderError(f"{len(self.counts)} counts for an auto-encoder with {len(codes.bias)} latents")
        self._known: dict[str, tuple[Any, Any]] = {}  # latents of `fit`'s texts, which are usually encoded next

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.model, SpladeEncoder):
            return self._reduced(device=self.model.device, batch_tokens=self.model.batch_tokens)
        state = {name: getattr(self, name) for name in (*_NUMBERS, "counts", "settings", "queries")}
        return _over_function, (self.model, self.codes, state)

    # --- learning -----------------------------------------------------------------------------------------------------

    @property
    def needs_fit(self) -> bool:  # type: ignore[override]
        """True until there is an auto-encoder."""
        return self.codes is None

    def fit(self, texts: Iterable[str]) -> None:
        """Learn the auto-encoder, and count its latents.

        Args:
            texts: The collection. The latents are counted in the first 20,000 texts, and 2,000 of these, chosen at
                random, train the auto-encoder.

        Raises:
            EncoderError: The texts have fewer than two token states.
            MissingExtra: torch isn't installed.
        """
        some = list(islice(iter(texts), _FITTED))
        rng = np.random.default_rng(self.settings.seed)
        sampled = []
        for i in rng.permutation(len(some))[:_TRAINED].tolist():
            (states,) = self._states([some[i]])
            sampled.append(states[rng.permutation(len(states))[:_STATES]])
        trained = train_codes(np.concatenate(sampled) if sampled else np.zeros((0, 1), np.float32), self.settings)
        names = ("",) * len(trained.bias)
        self.codes = Codes(trained.weight, trained.bias, trained.bias, names)
        self._known = {}
        frequencies = self._frequencies(some)
        self.counts = np.bincount(frequencies.indices, minlength=len(names)).astype(np.int64)
        self.n_docs, self.mean_length = len(some), max(float(frequencies.data.sum()) / len(some), 1e-6)
        self._known = dict(zip(some, frequencies.rows(), strict=True))
        self._name([word for word, _ in frequent_words(some).most_common(_WORDS)])

    def _name(self, words: list[str]) -> None:
        codes = self._codes
        activity = np.zeros((len(words), len(codes.bias)), np.float32)
        for row, states in zip(activity, self._states(words), strict=True):
            row[:] = codes.activations(states).max(0, initial=0)
        best = np.argsort(-activity, axis=0, kind="stable")[:_NAMES].T
        names = (", ".join(words[w] for w in row if activity[w, latent] > 0) for latent, row in enumerate(best))
        self.codes = replace(codes, names=tuple(names))

    # --- encoding -----------------------------------------------------------------------------------------------------

    @property
    def _codes(self) -> Codes:
        if self.codes is None:
            raise EncoderError("this encoder has no latents yet: call fit(texts)")
        return self.codes

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """See `Encoder`; the weights are tf times IDF."""
        found = self._frequencies(as_texts(texts), queries=True)
        weights = found.data * self.query_factors(found.indices).astype(np.float32)
        return SparseMatrix(found.indptr, found.indices, weights, found.shape)

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """See `Encoder`; the weights are BM25's saturated tf."""
        found = self._frequencies(as_texts(texts))
        lengths = np.bincount(found.row_numbers(), weights=found.data, minlength=len(found))
        norm = self.k1 * (1 - self.b + self.b * lengths / self.mean_length)
        weights = found.data * (self.k1 + 1) / (found.data + norm[found.row_numbers()])
        return SparseMatrix(found.indptr, found.indices, weights, found.shape)

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) float64, the IDF of each of (n,) terms."""
        df = self.counts[np.asarray(terms, np.int64)]
        return np.asarray(np.log1p((self.n_docs - df + 0.5) / (df + 0.5)), np.float64)

    def _frequencies(self, texts: list[str], *, queries: bool = False) -> SparseMatrix:
        """(n, latents), the square root of each latent's summed activations."""
        codes, rows = self._codes, list[tuple[Any, Any]]()
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            if not queries and all(text in self._known for text in some):
                rows += [self._known[text] for text in some]
                continue
            for states in self._states(some, queries=queries):
                active = codes.activations(states)
                if self.top_k < active.shape[1] and len(active):
                    best = np.argpartition(-active, self.top_k - 1, axis=1)[:, : self.top_k]
                else:
                    best = np.broadcast_to(np.arange(active.shape[1]), active.shape)
                sums = np.bincount(
                    best.reshape(-1), weights=np.take_along_axis(active, best, 1).reshape(-1), minlength=len(codes.bias)
                )
                terms = np.flatnonzero(sums)
                rows.append((terms, np.sqrt(sums[terms]).astype(np.float32)))
        return SparseMatrix.from_rows(rows, len(codes.bias))

    def _states(self, texts: list[str], *, queries: bool = False) -> list[NDArray[np.float32]]:
        width = self.codes.weight.shape[1] if self.codes is not None else None
        return states_of(self.model, self.queries, width)(texts, queries)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The latents, such as "latent:7 (wing, flow, lift)"; empty before `fit`."""
        names = self.codes.names if self.codes is not None else ()
        return [f"latent:{i} ({name})" if name else f"latent:{i}" for i, name in enumerate(names)]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Empty: a latent belongs to many tokens, not to one span."""
        return []

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """The model's tokens; words if the model is a function."""
        if isinstance(self.model, SpladeEncoder):
            return self.model.tokens(text)
        places, found = 0, []
        for word in text.split():
            places = text.index(word, places)
            found.append((-1, places, places + len(word)))
            places += len(word)
        return found

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """Provided by the model; see `Encoder`."""
        return self.model.room(texts) if isinstance(self.model, SpladeEncoder) else None

    def check(self) -> None:
        """Check all files without running a model.

        Raises:
            EncoderError: A file is missing.
        """
        if isinstance(self.model, SpladeEncoder):
            self.model.check()

    @property
    def fingerprint(self) -> Fingerprint:
        """Identifies the auto-encoder, the counts and the model."""
        model = self.model.fingerprint if isinstance(self.model, SpladeEncoder) else Fingerprint(model="a function")
        state = [
            json.dumps([str(model.weights), asdict(self.settings), self._numbers()]).encode(),
            self.counts.tobytes(),
        ]
        if self.codes is not None:
            state += [self.codes.weight.tobytes(), self.codes.bias.tobytes()]
        return Fingerprint(
            model=f"latent terms of {model.model}",
            weights=digest(state),
            tokenizer=model.tokenizer or digest([b"a function"]),
            vocabulary_size=None if self.codes is None else self.n_terms,
            max_length=model.max_length,
            max_weight=self.k1 + 1,
        )

    # --- on disk ------------------------------------------------------------------------------------------------------

    def _numbers(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in _NUMBERS}

    def query_files(self) -> dict[str, bytes]:
        """The auto-encoder with its counts, and the model's files for queries."""
        return self._with_latents(self.model.query_files() if isinstance(self.model, SpladeEncoder) else {})

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the auto-encoder, and the model unless it is a function."""
        folder = Path(folder)
        written = portable.save_model(self.model, folder) if isinstance(self.model, SpladeEncoder) else {}
        write_files(folder, self._with_latents(written))

    def _with_latents(self, written: Mapping[str, bytes]) -> dict[str, bytes]:
        model = json.loads(written[CONFIG_FILE]) if written else None
        how = {"settings": asdict(self.settings), "counts": self.counts.tolist(), **self._numbers()}
        files = {**written, CONFIG_FILE: config_bytes(self.type, model=model, **how)}
        return files | ({} if self.codes is None else {CODES_FILE: self.codes.to_bytes()})

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], **settings: Unpack[ModelOptions]) -> LatentTermsEncoder:
        """Open the files of `save` or `query_files`.

        Args:
            folder: The folder of the files.
            config: Content of `encoder.json`.
            settings: Settings of the model.

        Raises:
            EncoderError: A file is missing or damaged, or the model is a function.
        """
        try:
            how = {name: config[name] for name in (*_NUMBERS, "counts")}
            how["settings"], model = CodeSettings(**config["settings"]), dict(config["model"] or {})
            codes = Codes.read(folder / CODES_FILE) if (folder / CODES_FILE).is_file() else None
            if model:
                return cls(SpladeEncoder.load(folder, model, **settings), codes, **how)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise EncoderError(f"{folder}: not a complete encoder of latent terms: {error!r}") from None
        raise EncoderError(
            f"{folder}: these latent terms were made with a function, which isn't stored: open the index with the "
            "encoder itself"
        )


def states_of(
    model: Encoder | States, queries: States | None = None, width: int | None = None
) -> Callable[[list[str], bool], list[NDArray[np.float32]]]:
    """Return a function that takes texts, and whether they are queries, and gives the (n_tokens, width) float32 states
    of each text.

    Args:
        model: An encoder with dense vectors, or a function.
        queries: The function for queries, if it differs from the function for documents.
        width: Dimensions of a state; None if unknown.

    Raises:
        EncoderError: The encoder has no token states. The returned function also raises this, for states of another
            shape.
    """
    reads: Any = with_states(model) if isinstance(model, Encoder) else model

    def states(texts: list[str], asking: bool) -> list[NDArray[np.float32]]:
        if not texts:
            return []
        if isinstance(reads, SpladeEncoder):
            return reads.dense_states(texts, queries=asking)
        function: Any = queries if asking and queries is not None else reads
        found = [np.asarray(one, np.float32) for one in function(texts)]
        wrong = [one.shape for one in found if one.ndim != 2 or width not in (None, one.shape[1])]
        if len(found) != len(texts) or wrong or not all(np.isfinite(one).all() for one in found):
            raise EncoderError(
                f"the model gave states of {len(found)} texts for {len(texts)}: it must give an array (tokens, width) "
                f"of finite numbers for each text, with the width of `fit`; wrong shapes: {wrong[:3]}"
            )
        return found

    return states


_NUMBERS = ("n_docs", "mean_length", "top_k", "k1", "b")


def _over_function(model: Any, codes: Any, state: dict[str, Any]) -> LatentTermsEncoder:
    return LatentTermsEncoder(model, codes, **state)
