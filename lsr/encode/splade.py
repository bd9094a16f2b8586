"""SPLADE: a masked-LM checkpoint whose logits, pooled over the text, are the weights of the vocabulary's terms.

This encoder opens any checkpoint with a masked-LM head, with a common tower for queries and documents or one tower for
each (SPLADE, SPLADE v2/++/v3, arXiv 2107.05720, 2109.10086, 2205.04733; log1p_log1p from 2504.14839). torch and
transformers are imported when the first text is encoded; vocabulary, spans and fingerprint don't need them. See
`pooling` for the pooling, `model_files` for files, and `load` for layouts of other libraries.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from lsr.encode import model_files as files
from lsr.encode import portable
from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes
from lsr.encode.onnx_runner import OnnxRunner
from lsr.encode.tokenizer import TOKENIZER_FILE, TextTokenizer
from lsr.encode.torch_runner import BATCH_BYTES, TorchRunner, usable_device
from lsr.encode.tower import ModelOptions, Tower
from lsr.errors import EncoderError, EncoderMismatch
from lsr.fingerprint import Fingerprint, digest, digest_files
from lsr.forks import cached_property, in_child
from lsr.sparse import SparseMatrix

_COPIED = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "model.safetensors.index.json")
# Tokens of a batch: few on a CPU, so that a batch fits its caches and has texts of similar length. Many on other
# devices, and for ONNX graphs, where each core takes one text at a time.
_BATCH_TOKENS, _LARGE_BATCH_TOKENS = 1024, 65536
_KEPT_IDS = 1 << 20  # tokens whose ids are kept


class SpladeEncoder(Encoder):
    """Encodes queries and documents with masked-LM checkpoints.

    Args:
        document: The documents' tower, or the folder or name of a plain checkpoint.
        query: The queries' tower; None to use the documents' tower.
        top_k: Number of a document's heaviest terms to keep; None for all.
        max_ratio: Keep only weights that are at least this fraction of the document's largest weight; None for all.
        device: Where the model runs; None for "cuda" where there is one, otherwise "cpu".
        batch_tokens: Tokens that go through the model at a time, padding included; None for 1,024 on a CPU
            and 65,536 elsewhere.
        tokenizer: The documents' tokenizer; None to read it from the checkpoint.
        fingerprint: The fingerprint of the saved encoder; if the weights don't match it, loading them fails.

    Raises:
        EncoderError: A setting is out of range, or there is no such checkpoint.
    """

    type = "splade"

    def __init__(
        self,
        document: Tower | str | PathLike[str],
        query: Tower | str | PathLike[str] | None = None,
        *,
        top_k: int | None = None,
        max_ratio: float | None = None,
        device: str | None = None,
        batch_tokens: int | None = None,
        tokenizer: TextTokenizer | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        if top_k is not None and top_k < 1:
            raise EncoderError(f"top_k must be at least 1, got {top_k}")
        if max_ratio is not None and not 0 <= max_ratio <= 1:
            raise EncoderError(f"max_ratio must lie between 0 and 1, got {max_ratio}")
        if batch_tokens is not None and batch_tokens < 1:
            raise EncoderError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self.document = document if isinstance(document, Tower) else Tower.open(document)
        query = self.document if query is None else query
        self.query = query if isinstance(query, Tower) else Tower.open(query)
        self.top_k, self.max_ratio = top_k, max_ratio
        self.device, self.batch_tokens = device, batch_tokens
        self._stored = self._fingerprint = fingerprint
        self._vocabulary: list[str] | None = None
        self._n_terms: int | None = None
        self._tokenizers = {} if tokenizer is None else {self.document.place: tokenizer}
        self._models: dict[tuple[Any, ...], TorchRunner | OnnxRunner] = {}
        self._last_ids: tuple[Any, dict[str, list[int]]] = None, {}  # place of a tower, and {text: ids}
        self._loading = threading.Lock()  # a server's first queries may come together: load the model only once
        in_child(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced(device=self.device, batch_tokens=self.batch_tokens)

    def after_fork(self) -> None:
        """See `lsr.forks`."""
        self._loading = threading.Lock()

    # --- encoding -------------------------------------------------------------------------------------------

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Encode queries with their tower."""
        return self._encode(self.query, as_texts(texts), lambda weights: weights)

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """Encode documents with their tower, then apply `top_k` and `max_ratio`."""
        return self._encode(self.document, as_texts(texts), self._pruned)

    def _pruned(self, weights: SparseMatrix) -> SparseMatrix:
        if self.max_ratio is not None:
            weights = weights.prune(self.max_ratio)
        return weights if self.top_k is None else weights.top_k(self.top_k)

    @property
    def dense_width(self) -> int:
        """See `Encoder`; only exported models that include the layers of a dense model have dense vectors."""
        return int(self._dense_settings.get("width", 0))

    @cached_property
    def _dense_settings(self) -> Mapping[str, Any]:
        found = files.model_config(self.document.folder()).get(files.DENSE)
        return found if isinstance(found, Mapping) and self.document.head == "onnx" else {}

    def encode_dense(self, texts: Texts, *, queries: bool = False) -> NDArray[np.float32]:
        """Provided by the documents' model, also for queries; see `Encoder`."""
        prompt = str(self._dense_settings.get("query_prompt", "")) if queries else self.document.prompt
        model, done = self._dense_model(), [np.zeros((1, self.dense_width), np.float32)]
        ids, order = self._in_order(self.document, [prompt + text for text in as_texts(texts)])
        done += [model.dense([ids[i] for i in order[batch]]) for batch in self._batches(ids, order, True)]
        return np.asarray(np.concatenate(done)[_back(order, len(ids))])

    def encode_both(self, texts: Texts) -> tuple[SparseMatrix, NDArray[np.float32]]:
        """See `Encoder`."""
        tower, model = self.document, self._dense_model()
        ids, order = self._in_order(tower, [tower.prompt + text for text in as_texts(texts)])
        done, dense = [self._nothing()], [np.zeros((1, self.dense_width), np.float32)]
        for batch in self._batches(ids, order, True):
            weights, vectors = model.weights_and_dense([ids[i] for i in order[batch]])
            done.append(self._pruned(weights if tower.top_k is None else weights.top_k(tower.top_k)))
            dense.append(vectors)
        rows = _back(order, len(ids))
        return SparseMatrix.vstack(done)[rows], np.asarray(np.concatenate(dense)[rows])

    def _dense_model(self) -> OnnxRunner:
        model = self._model(self.document) if self.dense_width else None
        if not isinstance(model, OnnxRunner):
            raise EncoderError(f"{self.document.name} has no dense vectors")
        return model

    def dense_states(self, texts: Texts, *, queries: bool = False) -> list[NDArray[np.float32]]:
        """The dense model's last states of each text's tokens, (n_tokens, dense_width) float32.

        Args:
            texts: See `as_texts`.
            queries: Read as queries, with the model's query prompt, instead of as documents.

        Raises:
            EncoderError: This encoder has no dense vectors.
        """
        prompt = str(self._dense_settings.get("query_prompt", "")) if queries else self.document.prompt
        model, tower = self._dense_model(), self.document
        nothing = np.zeros((0, self.dense_width), np.float32)
        ids = self._ids(tower, [prompt + text for text in as_texts(texts)], tower.max_length)
        return [model.dense_states(row) if row else nothing for row in ids]

    def token_weights(self, texts: Texts, top_k: int, *, queries: bool = False) -> list[SparseMatrix]:
        """The term weights of each token before pooling; a text's weights are their maximum over the tokens.

        Args:
            texts: See `as_texts`.
            top_k: Terms kept per token, the heaviest ones.
            queries: Read as queries instead of documents.

        Returns:
            For each text a matrix with a row for each token, special tokens left out.

        Raises:
            EncoderError: The model gives no weights of tokens, or pools them by sum.
        """
        tower = self.query if queries else self.document
        if tower.pooling != "max":
            raise EncoderError(f"{tower.name}: weights of tokens need max pooling, it has {tower.pooling}")
        special = np.array(sorted(self._tokenizer(tower).special), np.int64)
        model, found = self._model(tower), []
        for row in self._ids(tower, [tower.prompt + text for text in as_texts(texts)], tower.max_length):
            own = np.flatnonzero(~np.isin(np.array(row, np.int64), special))
            if not len(own):
                found.append(SparseMatrix.empty(self.n_terms))
                continue
            terms, weights, logits = model.by_token(row)
            # Logits are known up to a constant for each term. The term's weight comes from its largest logit, so the
            # weight determines the constant.
            at_best = np.expm1(weights) if tower.saturation == "log1p" else np.expm1(np.expm1(weights))
            values = np.log1p(np.maximum(at_best + logits - logits.max(0, initial=-np.inf), 0))[own]
            values = values if tower.saturation == "log1p" else np.log1p(values)
            rows, at = np.nonzero(values)
            indptr = np.searchsorted(rows, np.arange(len(own) + 1))
            shape = (len(own), self.n_terms)
            found.append(SparseMatrix(indptr, terms[at], values[rows, at], shape).top_k(top_k))
        return found

    def _encode(self, tower: Tower, texts: list[str], prune: Callable[[SparseMatrix], SparseMatrix]) -> SparseMatrix:
        ids, order = self._in_order(tower, [tower.prompt + text for text in texts])
        done = [self._nothing()]
        for batch in self._batches(ids, order, tower.head == "onnx"):
            weights = self._model(tower).weights([ids[i] for i in order[batch]])
            done.append(prune(weights if tower.top_k is None else weights.top_k(tower.top_k)))
        return SparseMatrix.vstack(done)[_back(order, len(texts))]

    def _nothing(self) -> SparseMatrix:
        """The vector of a text without tokens."""
        return SparseMatrix([0, 0], [], [], (1, self.n_terms))

    def _in_order(self, tower: Tower, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        """Token ids of texts, and the numbers of the non-empty texts, longest first. So texts of similar length are
        encoded together, and the largest batch comes first.
        """
        ids = self._ids(tower, texts, tower.max_length)
        return ids, sorted((i for i, row in enumerate(ids) if row), key=lambda i: -len(ids[i]))

    def _batches(self, ids: list[list[int]], order: list[int], one_by_one: bool) -> Iterator[slice]:
        """Cut texts, ordered longest first, into batches by number of tokens and size of their dense weights."""
        small = not one_by_one and usable_device(self.device) == "cpu"
        budget = self.batch_tokens or (_BATCH_TOKENS if small else _LARGE_BATCH_TOKENS)
        most = max(1, BATCH_BYTES // (4 * self.n_terms))
        start = 0
        while start < len(order):
            size = max(1, min(budget // len(ids[order[start]]), most))
            yield slice(start, start + size)
            start += size

    def _model(self, tower: Tower) -> TorchRunner | OnnxRunner:
        how = (tower.place, tower.head, tower.pooling, tower.saturation)
        with self._loading:
            if how not in self._models:
                if self._stored is not None:
                    if changed := self._stored.differences(self._compute_fingerprint()):
                        raise EncoderMismatch(
                            f"{tower.checkpoint} is no longer the model that made these vectors "
                            f"({', '.join(changed)}): vectors of the two can't be compared. Build the index "
                            "again from its documents, or restore the former model (for a built-in one, the "
                            "former version of lsr)"
                        )
                    self._stored = None
                tower.check()
                self._models[how] = self._open_model(tower)
            return self._models[how]

    def network(self, *, queries: bool = False) -> Any:
        """The documents' or queries' model, a `lsr.encode.model.SparseModel`; loads it if needed.

        Raises:
            EncoderError: The model is not a torch model.
        """
        tower = self.query if queries else self.document
        model = self._model(tower)
        if isinstance(model, OnnxRunner):
            raise EncoderError(f"{tower.name} is an ONNX graph already")
        return model.model

    def _open_model(self, tower: Tower) -> TorchRunner | OnnxRunner:
        if tower.head != "onnx":
            return TorchRunner(tower, self.n_terms, usable_device(self.device))
        self._check_device(tower)
        return OnnxRunner(tower.folder(), self.n_terms)

    def _check_device(self, tower: Tower) -> None:
        """Refuse a device other than the CPU for a graph; torch checks devices when a model is loaded."""
        if tower.head == "onnx" and self.device not in (None, "cpu"):
            raise EncoderError(f"{tower.name}: this model runs on the CPU, not on {self.device!r}: leave --device out")

    def _tokenizer(self, tower: Tower) -> TextTokenizer:
        if tower.place not in self._tokenizers:
            self._tokenizers[tower.place] = TextTokenizer.open(tower.folder(), tower.lower_case, tower.tokenizer)
        return self._tokenizers[tower.place]

    # --- text -----------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Sequence[str]:
        """The tokenizer's tokens, padded to the model's number of outputs."""
        if self._vocabulary is None:
            self._vocabulary = self._tokenizer(self.document).vocabulary(self.n_terms)
        return self._vocabulary

    @property
    def n_terms(self) -> int:
        """Number of the model's outputs."""
        if self._n_terms is None:
            stored = None if self._stored is None else self._stored.vocabulary_size
            self._n_terms = stored or int(files.model_config(self.document.folder())["vocab_size"])
        return self._n_terms

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Positions of the documents' tokens in a text."""
        n_terms = self.n_terms
        return [span for span in self._tokenizer(self.document).spans(text) if span[0] < n_terms]

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """See `Encoder`; tokens of unknown words are included."""
        return self._tokenizer(self.document).tokens(text)

    def offsets(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int]]]:
        """See `Encoder`."""
        return self._tokenizer(self.document).offsets(texts)

    def origins(self, text: str, terms: Sequence[int]) -> dict[int, tuple[int, int]]:
        """See `Encoder`. With max pooling, the token of a term's weight is exact; with sum pooling, it is the token
        with the largest share.

        Raises:
            EncoderError: The model's files are there, but the model can't be run.
        """
        tower = self.document
        wanted = [term for term in terms if 0 <= term < self.n_terms]
        if not wanted or not files.is_here(tower.checkpoint, tower.subfolder):
            return {}
        ids, words = self._tokenizer(tower).words(text, tower.max_length, tower.prompt)
        if not ids:
            return {}
        places = self._model(tower).origins(ids, wanted)
        found = {term: words[place] for term, place in zip(wanted, places, strict=True) if place >= 0}
        return {term: word for term, word in found.items() if word is not None}

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int]:
        """See `Encoder`."""
        tower = self.query if queries else self.document
        ids = self._ids(tower, [tower.prompt + text for text in texts], None)
        return [tower.max_length - len(row) for row in ids]

    def _ids(self, tower: Tower, texts: list[str], max_length: int | None) -> list[list[int]]:
        """Token ids of texts. The results of the last call are kept, since texts are first counted, then encoded."""
        place, last = self._last_ids
        known = last if place == tower.place else {}
        most = math.inf if max_length is None else max_length
        new = [text for text in texts if text not in known or len(known[text]) > most]
        rows = dict(zip(new, self._tokenizer(tower).ids(new, max_length, special=True), strict=True))
        found = [rows[text] if text in rows else known[text] for text in texts]
        keep = sum(map(len, found)) <= _KEPT_IDS
        # A row of the maximum length may have been cut, so it isn't kept.
        rows = {text: row for text, row in zip(texts, found, strict=True) if keep and len(row) < most}
        self._last_ids = tower.place, rows
        return found

    # --- identity and files ---------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> Fingerprint:
        """Digests of weight files and tokenizer; independent of the checkpoint's path."""
        if self._fingerprint is None:
            self._fingerprint = self._compute_fingerprint()
        return self._fingerprint

    def _compute_fingerprint(self) -> Fingerprint:
        document, query = self.document, self.query
        tokenizer = TextTokenizer.open(document.folder(), document.lower_case, document.tokenizer)
        weights = digest_files(files.weight_files(document.folder()))
        name = document.name
        if query != document or document.prompt:
            queries = digest_files(files.weight_files(query.folder()))
            how = [query.pooling, query.saturation, query.max_length, query.prompt, document.prompt]
            weights = digest([json.dumps([weights, queries, *how]).encode()])
        if query.checkpoint != document.checkpoint:
            name = f"{name} + {query.name}"
        return Fingerprint(
            model=name,
            weights=weights,
            tokenizer=tokenizer.digest,
            vocabulary_size=int(files.model_config(document.folder())["vocab_size"]),
            pooling=document.pooling,
            saturation=document.saturation,
            max_length=document.max_length,
        )

    def check(self) -> None:
        """Check all files without running a model.

        Raises:
            EncoderError: A file is missing, or the two towers have different vocabularies.
        """
        for tower in (self.document, self.query):
            tower.check()
            self._check_device(tower)
        if self.query.place != self.document.place:
            size = int(files.model_config(self.query.folder())["vocab_size"])
            if size != self.n_terms or self._tokenizer(self.query).vocabulary(size) != self.vocabulary:
                raise EncoderError(
                    f"the query model {self.query.name} has another vocabulary than the document model "
                    f"{self.document.name}; their vectors have no terms in common"
                )
        self._tokenizer(self.document)

    def config(self, places: Mapping[tuple[str, str], str] | None = None) -> dict[str, Any]:
        """The description for `from_config`.

        Args:
            places: Subfolders of the towers' files; None for references to their current folders.
        """

        def tower(t: Tower) -> dict[str, Any]:
            return asdict(t) if places is None else asdict(t) | {"checkpoint": None, "subfolder": places[t.place]}

        return {
            "document": tower(self.document),
            "query": None if self.query == self.document else tower(self.query),
            "top_k": self.top_k,
            "max_ratio": self.max_ratio,
            "fingerprint": asdict(self.fingerprint),
        }

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], **settings: Unpack[ModelOptions]) -> SpladeEncoder:
        """Open the files of `save` or `query_files`; arguments and errors are those of `from_config`."""
        return cls.from_config(config, folder, TextTokenizer.open(folder, settings={}), **settings)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], folder: Path, tokenizer: TextTokenizer | None, **settings: Unpack[ModelOptions]
    ) -> SpladeEncoder:
        """Open an encoder from the description of `config`.

        Args:
            config: The description.
            folder: The folder of towers without a checkpoint path.
            tokenizer: The documents' tokenizer; None to read it from the checkpoint.
            settings: `pooling`, `saturation`, `max_length`, `top_k` and `max_ratio`, which replace the stored values;
                `device` and `batch_tokens`.

        Raises:
            EncoderError: The description is damaged.
        """
        where = str(folder / CONFIG_FILE)
        try:
            document = Tower.from_config(config["document"], folder)
            query = document if config["query"] is None else Tower.from_config(config["query"], folder)
            fingerprint = Fingerprint.from_json(json.dumps(config["fingerprint"]), where)
            kept = {name: config[name] for name in ("top_k", "max_ratio")}
        except (KeyError, TypeError) as error:
            raise EncoderError(f"{where}: not a whole encoder: {error!r}") from None
        given: dict[str, Any] = {**settings}
        reading = {name: given.pop(name, None) for name in ("pooling", "saturation", "max_length")}
        how = {name: value for name, value in reading.items() if value is not None}
        if how:
            fixed = {"pooling", "saturation"} & how.keys()
            if fixed and document.head in files.OWN_HEADS:
                raise EncoderError(f"{where}: {min(fixed)} is part of this model and can't be changed")
            same = query == document
            document = replace(document, **how)
            query = document if same else query
            fingerprint = replace(
                fingerprint,
                pooling=document.pooling,
                saturation=document.saturation,
                max_length=document.max_length,
            )
        return cls(document, query, tokenizer=tokenizer, fingerprint=fingerprint, **kept | given)

    def query_files(self) -> dict[str, bytes]:
        """The tokenizer, and a reference to the checkpoint."""
        content = self._tokenizer(self.document).content
        return {CONFIG_FILE: config_bytes(self.type, **self.config()), TOKENIZER_FILE: content}

    def save(self, folder: str | PathLike[str]) -> None:
        """Copy the checkpoints, and write `encoder.json` and the files for other libraries (`portable`)."""
        folder = Path(folder)
        places = self.copy_towers(folder, "")
        (folder / CONFIG_FILE).write_bytes(config_bytes(self.type, **self.config(places)))
        about = self.about()
        if known := portable.is_portable(self.document, self.query):
            about += portable.describe(folder, self.document, self.query, places)
        else:
            portable.refuse(folder)
        portable.write_card(folder, about, portable=known, base=self.document.hub_name)

    def about(self) -> list[str]:
        """Lines for the model card about the documents' side."""
        tower = self.document
        lines = [
            f"{self.n_terms:,} terms; documents are read up to {tower.max_length} tokens",
            f"head {tower.head}, pooling {tower.pooling}, saturation {tower.saturation}",
        ]
        if self.query != tower:
            lines.append(f"queries are read up to {self.query.max_length} tokens")
        if tower.top_k is not None:
            lines.append(f"lsr keeps the {tower.top_k:,} heaviest terms of a document")
        if self.query.top_k is not None and self.query != tower:
            lines.append(f"lsr keeps the {self.query.top_k:,} heaviest terms of a query")
        if self.top_k is not None or self.max_ratio is not None:
            pruned = {"the heaviest terms": self.top_k, "the share of the heaviest weight": self.max_ratio}
            said = ", ".join(f"{name}: {value}" for name, value in pruned.items() if value is not None)
            lines.append(f"lsr prunes documents ({said}); other libraries don't")
        return lines

    def copy_towers(self, folder: Path, at: str) -> dict[tuple[str, str], str]:
        """Copy the towers' files, each checkpoint once.

        Args:
            folder: The folder to copy into.
            at: Subfolder of the documents' tower; a separate queries' tower goes to "query".

        Returns:
            The subfolders of the towers, for `config`.
        """
        places = {self.query.place: "query"} | {self.document.place: at}
        for tower in (self.document, self.query):
            _copy(tower.folder(), folder / places[tower.place], self._tokenizer(tower))
        return places


def _back(order: list[int], n: int) -> NDArray[np.int64]:
    """The row of each of n texts, where row 0 belongs to texts without tokens and the other rows are in the given
    order.
    """
    rows = np.zeros(n, dtype=np.int64)
    rows[order] = np.arange(1, len(order) + 1)
    return rows


def _copy(source: Path, target: Path, tokenizer: TextTokenizer) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in [*files.weight_files(source), *(source / name for name in _COPIED)]:
        if path.is_file() and path.resolve() != (target / path.name).resolve():
            if path.suffix == ".safetensors":
                files.require_whole(path)
            shutil.copyfile(path, target / path.name)
    (target / TOKENIZER_FILE).write_bytes(tokenizer.content)
