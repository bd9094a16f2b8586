"""Teachers: models that score every query of a batch with every document of the batch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsr.encode import model_files as files
from lsr.encode.base import Encoder
from lsr.encode.model import load_backbone
from lsr.encode.tokenizer import TextTokenizer
from lsr.errors import EncoderError, TrainingError
from lsr.fingerprint import digest, digest_files
from lsr.sparse import SparseMatrix
from lsr.train.state_cache import RowCache


class Teacher(ABC):
    """Base of all teachers."""

    @abstractmethod
    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """Scores of every query with every document, (n_queries, n_documents) float32."""


class PairTeacher(Teacher):
    """A teacher that reads a query and a document together. In training it scores only each query's own documents."""

    @abstractmethod
    def pair_scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(n,) float32, scores of n pairs of query and document."""

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """See `Teacher`."""
        pairs = [(query, document) for query in queries for document in documents]
        return self.pair_scores(pairs).reshape(len(queries), len(documents))


class SparseTeacher(Teacher):
    """A sparse encoder as a teacher; may be BM25.

    Args:
        encoder: The encoder.
        texts: Documents to which the encoder is fitted, if needed.
        cache: Folder for the model's vectors; None for no cache.
    """

    def __init__(self, encoder: Encoder, texts: Iterable[str] = (), cache: Path | None = None) -> None:
        self.encoder = encoder
        self._caches: list[RowCache] | None = None
        if encoder.needs_fit:
            encoder.fit(texts)
        elif cache is not None:
            print_of = encoder.fingerprint
            made_by = f"{print_of.weights} {print_of.tokenizer} {print_of.max_length}"
            asks = encoder.query_fingerprint
            by_side = {"documents": made_by, "queries": made_by if asks is None else f"{made_by} {asks.weights}"}
            names = [f"sparse-{side}-{digest([by.encode()])}" for side, by in by_side.items()]
            self._caches = [RowCache(cache / name, 3) for name in names]

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """See `Teacher`."""
        found = self.vectors(documents).dot(self.vectors(queries, queries=True))
        return found.T.astype(np.float32)

    def vectors(self, texts: Sequence[str], *, queries: bool = False) -> SparseMatrix:
        """Vectors of documents or queries."""
        encode = self.encoder.encode_query if queries else self.encoder.encode_document
        if self._caches is None:
            return encode(list(texts))
        cache = self._caches[queries]
        keys = [cache.key(np.frombuffer(text.encode("utf-8", "replace"), np.uint8)) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in cache}
        if new:
            found = encode(list(new.values()))
            cache.put((key, _as_rows(*found.row(i))) for i, key in enumerate(new))
        rows = [np.asarray(cache[key], np.float32) for key in keys]
        terms = [(row[:, 0] * _HALF_EXACT + row[:, 1]).astype(np.int64) for row in rows]
        pairs = [(some, row[:, 2]) for some, row in zip(terms, rows, strict=True)]
        return SparseMatrix.from_rows(pairs, self.encoder.n_terms)


_HALF_EXACT = 2048  # integers up to this are exact in float16


def _as_rows(terms: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
    """Convert a vector to rows of a cache; each row has a term id in two digits, and its weight."""
    return np.stack([terms // _HALF_EXACT, terms % _HALF_EXACT, weights], 1).astype(np.float32)


_POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")  # in the order of concatenation
_LEGACY = {  # settings of older versions of sentence-transformers
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class DenseSettings:
    """How a dense checkpoint turns a text into a vector, according to sentence-transformers' files.

    Attributes:
        model: The folder of the backbone.
        pooling: Modes of pooling; vectors of several modes are concatenated.
        normalize: Scale vectors to length 1; always true for cosine similarity.
        query_prompt, document_prompt: Texts before queries and documents.
        max_length: Number of tokens that the model reads; None if no file gives it.
        lower_case: Lower-case all text first, if the tokenizer doesn't.
    """

    model: Path
    pooling: tuple[str, ...] = ("mean",)
    normalize: bool = True
    query_prompt: str = ""
    document_prompt: str = ""
    max_length: int | None = None
    lower_case: bool = False

    @classmethod
    def read(cls, folder: Path) -> DenseSettings:
        """Read the settings of a checkpoint; the defaults are mean pooling and cosine similarity.

        Raises:
            EncoderError: A setting isn't supported.
        """
        listed = files.read_json(folder / "modules.json")
        if listed is None:
            return cls(folder, max_length=_limit(folder, {}))
        try:
            modules = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in listed]
        except (TypeError, KeyError) as error:
            raise EncoderError(f"{folder / 'modules.json'}: can't be read: {error!r}") from None
        kinds = [kind for kind, _ in modules]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise EncoderError(
                f"{folder}: made of the modules {', '.join(kinds) or 'none'}; a dense teacher needs Transformer "
                "and Pooling, and perhaps Normalize"
            )
        whole = files.read_object(folder / "config_sentence_transformers.json")
        compared = whole.get("similarity_fn_name") or "cosine"
        if compared not in ("cosine", "dot"):
            raise EncoderError(f"{folder}: its vectors are compared by {compared!r}; known are cosine and dot")
        prompts = whole.get("prompts") or {}
        standard = prompts.get(whole.get("default_prompt_name"))
        query_prompt = str(prompts.get("query", standard) or "")
        named = (prompts[name] for name in ("document", "passage", "corpus") if name in prompts)
        document_prompt = str(next(named, standard) or "")
        model = files.inside(folder, modules[0][1])
        text = files.read_object(model / "sentence_bert_config.json")
        return cls(
            model,
            _pooling(files.inside(folder, modules[1][1]), bool(query_prompt or document_prompt)),
            compared == "cosine" or kinds[-1] == "Normalize",
            query_prompt,
            document_prompt,
            _limit(model, text),
            bool(text.get("do_lower_case")),
        )


def _pooling(folder: Path, prompted: bool) -> tuple[str, ...]:
    """The modes of a Pooling module."""
    config = files.read_object(folder / "config.json")
    given = config.get("pooling_mode") or [name for key, name in _LEGACY.items() if config.get(key)] or "mean"
    modes = (given,) if isinstance(given, str) else tuple(given)
    if unknown := [mode for mode in modes if mode not in _POOLINGS]:
        raise EncoderError(f"{folder / 'config.json'}: pooling {unknown[0]!r}; known are {', '.join(_POOLINGS)}")
    if prompted and not config.get("include_prompt", True):
        raise EncoderError(f"{folder / 'config.json'}: pooling without the prompt (include_prompt) isn't supported")
    return modes


def _limit(model: Path, text: Mapping[str, Any]) -> int | None:
    stated = text.get("max_seq_length") or files.tokenizer_limit(model)
    return min((limit for limit in (stated, files.position_limit(model)) if limit is not None), default=None)


class DenseTeacher(Teacher):
    """A dense model as a teacher, such as all-MiniLM-L6-v2 or arctic-embed.

    Pooling, prompts, length and similarity are those of the checkpoint, see `DenseSettings`.

    Args:
        name: The checkpoint, a folder or a name on the hub.
        max_length: Maximum number of tokens read from a text; the checkpoint may read fewer.
        cache: Folder for the model's vectors.
        device: Where the model runs.
        half: Run the model in bfloat16.

    Raises:
        EncoderError: There is no such checkpoint, it lacks weights, or a setting isn't supported.
    """

    _BATCH_TOKENS = 8192

    def __init__(self, name: str, *, max_length: int, cache: Path, device: str, half: bool = False) -> None:
        self.settings = how = DenseSettings.read(files.locate(name))
        self._model, absent = load_backbone(how.model, "AutoModel")
        if missing := sorted(key for key in absent if not key.endswith("position_ids") and "pooler" not in key):
            raise EncoderError(f"{how.model}: it lacks {len(missing)} of the model's weights, for example {missing[0]}")
        self._model.to(device, torch.bfloat16 if half else torch.float32)
        self._tokenizer, self._device = TextTokenizer.open(how.model, how.lower_case), device
        self._max_length = min(max_length, how.max_length or max_length)
        made_by = [
            digest_files([how.model / "config.json", *files.weight_files(how.model)]),
            self._tokenizer.digest,
            *how.pooling,
            str(how.normalize),
            str(half),
        ]
        width = int(self._model.config.hidden_size) * len(how.pooling)
        self._cache = RowCache(cache / f"dense-{digest([' '.join(made_by).encode()])}", width)

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """See `Teacher`."""
        return self.vectors(queries, queries=True) @ self.vectors(documents).T

    def vectors(self, texts: Sequence[str], *, queries: bool = False) -> NDArray[np.float32]:
        """Vectors of documents or queries, (n, width) float32; of length 1 if the checkpoint normalizes them."""
        prompt = self.settings.query_prompt if queries else self.settings.document_prompt
        ids = self._tokenizer.ids([prompt + text for text in texts], self._max_length, special=True)
        keys = [self._cache.key(row) for row in ids]
        new = {key: row for key, row in zip(keys, ids, strict=True) if key not in self._cache}
        order = sorted(new, key=lambda key: -len(new[key]))
        while order:
            size = max(1, self._BATCH_TOKENS // len(new[order[0]]))
            some, order = order[:size], order[size:]
            self._cache.put(zip(some, self._run([new[key] for key in some])[:, None], strict=True))
        found = np.stack([self._cache[key][0] for key in keys]).astype(np.float32)
        if self.settings.normalize:
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
        return found

    @torch.inference_mode()
    def _run(self, ids: list[list[int]]) -> NDArray[np.float32]:
        tokens, mask = padded(ids, 0, self._device)
        states = self._model(input_ids=tokens, attention_mask=mask, return_dict=True).last_hidden_state.float()
        found = torch.cat([_pooled(states, mask, mode) for mode in self.settings.pooling], dim=1)
        if self.settings.normalize:
            found = torch.nn.functional.normalize(found, dim=-1)
        return np.asarray(found.cpu().numpy())


def _pooled(states: Tensor, mask: Tensor, mode: str) -> Tensor:
    """Pool (batch, seq, hidden) states to (batch, hidden); padding is at the end."""
    there = mask.unsqueeze(-1).to(states)
    match mode:
        case "cls":
            return states[:, 0]
        case "lasttoken":
            return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        case "max":
            return states.masked_fill(there == 0, -torch.inf).amax(1)
        case "weightedmean":
            there = there * torch.arange(1, states.shape[1] + 1, device=states.device).view(1, -1, 1)
    total, count = (states * there).sum(1), there.sum(1)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def device_of(name: str | None) -> str:
    """Return a device by its name; None for "cuda" if there is a GPU, otherwise "cpu". With several GPUs, torchrun's
    local rank chooses one.

    Raises:
        TrainingError: There is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise TrainingError(f"device {name!r} can't be used here ({reason}); cpu can") from None
    if name != "cuda" or "LOCAL_RANK" not in os.environ:
        return name
    name = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(name)
    return name


def padded(ids: Sequence[Sequence[int]], pad: int, device: str) -> tuple[Any, Any]:
    """Token ids and mask, both (n, longest) int64."""
    width = max(map(len, ids))
    tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in ids], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)
    return tokens, mask
