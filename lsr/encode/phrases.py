"""Contextual phrase vectors, after SPARC (arXiv 1911.02896), to find the span of a passage that answers a question.

    score of a span = start(first token) + end(last token)
    start(t)        = <D h_t, U c> + sum over n of <s_t, q>        end(t): likewise, with other matrices
    s_tj            = relu(<Q h_t, K h_j> / sqrt(64)) + w [j is in the sentence of t], j != t
    q_j             = relu(<Q c, K g_j> / sqrt(64)) + 1 / (occurrences of g_j's n-gram in the passage)

s_t, the context of token t, has weights of other words of the passage; q has weights of the question's words. The last
summands of s and q aren't in the paper: with few examples, attention alone doesn't learn where a sentence ends and
which words are rare.

h_t are a frozen model's token states of the passage, g_j those of the question, and c the state of the question's first
token. s and q are sparse vectors over words (n = 1) and pairs of neighbouring words (n = 2); their products are
computed over the tokens that occur in both.

    reader = PhraseReader.fit(encoder, examples)
    reader.answers("who leads the abbey?", [hit.text for hit in hits])
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.arrays import Layout, read_arrays, require_finite, write_arrays
from lsr.encode.base import Encoder
from lsr.encode.hybrid import with_states
from lsr.encode.splade import SpladeEncoder
from lsr.errors import DataError, EncoderError, MissingExtra

_KIND = "phrase reader"
_HEAD = 64  # width of Q, K, D and U
_LONGEST = 20  # tokens of an answer
_SIDES, _ORDERS = 2, 2  # start and end; words and pairs of words
_EPOCHS, _RATE, _AT_ONCE = 4, 1e-3, 16
_LAYOUT: Layout = {
    "query": (4, "float32"), "key": (4, "float32"), "phrase": (3, "float32"), "question": (3, "float32"),
    "sentence": (2, "float32"),
}  # fmt: skip
_SMALL = 0.1  # scale of the initial weights
_SENTENCE = re.compile(r"[.!?]+[\s\"')]*")


@dataclass(frozen=True)
class Answer:
    """A span of a text.

    Attributes:
        start: The first character.
        end: The character after the last one; equal to `start` if the text has no word.
        text: The span.
        score: The score; comparable between texts for the same question.
    """

    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True)
class Asked:
    """An example for training: a question, a passage, and the characters of the answer.

    Attributes:
        question: The question.
        passage: The passage.
        start: First character of the answer in the passage.
        end: The character after the last one of the answer.
    """

    question: str
    passage: str
    start: int
    end: int


@dataclass(frozen=True)
class _Read:
    """Token states of a text, without those of special tokens.

    Attributes:
        first: (width,) the state of the first special token.
        states: (n, width).
        keys: For each n-gram order (n,) int64: equal words, or pairs of words, have equal keys. The last token begins
            no pair, so its key matches no other key.
        spans: (n, 2) characters.
        sentences: (n,) int64, the number of each token's sentence.
    """

    first: NDArray[np.float32]
    states: NDArray[np.float32]
    keys: tuple[NDArray[np.int64], ...]
    spans: NDArray[np.int64]
    sentences: NDArray[np.int64]


class PhraseReader:
    """Finds the span of a text that answers a question.

    Args:
        encoder: An encoder with dense vectors, such as lsr-mini; it stays frozen.
        weights: The arrays of `fit` or `load`.

    Raises:
        EncoderError: The encoder has no dense vectors, or another width than the weights.
    """

    def __init__(self, encoder: Encoder, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.model, self.weights = with_states(encoder), dict(weights)
        width, heads = self.model.dense_width, (_SIDES, _ORDERS)
        wanted: dict[str, tuple[int, ...]] = {"query": (*heads, width, _HEAD), "key": (*heads, width, _HEAD)}
        wanted |= {"phrase": (_SIDES, width, _HEAD), "question": (_SIDES, width, _HEAD), "sentence": heads}
        if any(name not in self.weights or self.weights[name].shape != shape for name, shape in wanted.items()):
            raise EncoderError(
                f"weights of a phrase reader of another model: {self.model.fingerprint.model} has {width} dimensions"
            )

    @classmethod
    def fit(cls, encoder: Encoder, examples: Sequence[Asked], *, seed: int = 0) -> PhraseReader:
        """Train on questions with answers. A thousand examples give a rough reader, in minutes on one core.

        Args:
            encoder: The encoder, as for the class.
            examples: The examples. Those whose answer lies beyond the part that the model reads are left out.
            seed: Seed of the initial weights and of the order of examples.

        Raises:
            DataError: No example has an answer in the part that the model reads.
            MissingExtra: torch isn't installed.
        """
        model = with_states(encoder)
        try:
            import torch
        except ImportError:
            raise MissingExtra("torch", "torch", "training a phrase reader") from None

        passages = {text: _read(model, text) for text in dict.fromkeys(one.passage for one in examples)}
        known = []
        for one in examples:
            passage = passages[one.passage]
            inside = np.flatnonzero((passage.spans[:, 1] > one.start) & (passage.spans[:, 0] < one.end))
            if len(inside):
                known.append((passage, _read(model, one.question, queries=True), int(inside[0]), int(inside[-1])))
        if not known:
            raise DataError("no example has an answer in the part of its passage that the model reads")
        torch.manual_seed(seed)
        scale = _SMALL / model.dense_width**0.5
        first = [torch.randn(*shape, model.dense_width, _HEAD) * scale for shape in ((_SIDES, _ORDERS), (_SIDES,))]
        # Query and key matrices start equal, so that tokens first attend to tokens with similar states.
        given = (first[0], first[0].clone(), first[1], first[1].clone(), torch.ones(_SIDES, _ORDERS))
        values = [torch.nn.Parameter(value) for value in given]
        weights = dict(zip(_LAYOUT, values, strict=True))
        optimizer = torch.optim.Adam(values, lr=_RATE)
        steps = _EPOCHS * -(-len(known) // _AT_ONCE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3 * _RATE, total_steps=steps)
        for _ in range(_EPOCHS):
            for some in torch.randperm(len(known)).split(_AT_ONCE):
                loss = torch.zeros(())
                for i in some.tolist():
                    passage, question, *answer = known[i]
                    logits = _scores(passage, question, weights, torch)
                    loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(answer)) / len(some)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return cls(encoder, {name: np.array(value.detach().numpy()) for name, value in weights.items()})

    def answers(self, question: str, texts: Sequence[str]) -> list[Answer]:
        """Return the best span of each text, at most 20 tokens long.

        Args:
            question: The question.
            texts: Passages. If a text is too long for the model, only its beginning is read.
        """
        asked, found = _read(self.model, question, queries=True), []
        for text in texts:
            passage = _read(self.model, text)
            if not len(passage.states):
                found.append(Answer(0, 0, "", -np.inf))
                continue
            first, last = _scores(passage, asked, self.weights, np)
            both = first[:, None] + last[None, :]
            n = np.arange(len(both))
            both[(n[None, :] < n[:, None]) | (n[None, :] >= n[:, None] + _LONGEST)] = -np.inf
            i, j = np.unravel_index(int(both.argmax()), both.shape)
            start, end = int(passage.spans[i, 0]), int(passage.spans[j, 1])
            found.append(Answer(start, end, text[start:end], float(both[i, j])))
        return found

    def save(self, path: str | PathLike[str]) -> None:
        """Write the weights, without the encoder, as one Arrow file.

        Raises:
            OutputError: The file can't be written.
        """
        write_arrays(path, _KIND, self.weights)

    @classmethod
    def load(cls, path: str | PathLike[str], encoder: Encoder) -> PhraseReader:
        """Open a saved reader.

        Args:
            path: A file written by `save`.
            encoder: The encoder that the reader was trained with.

        Raises:
            DataError: The file is missing, damaged or of another kind.
            EncoderError: The weights belong to another model.
        """
        arrays = read_arrays(path, _KIND, _LAYOUT)
        require_finite(path, arrays)
        return cls(encoder, arrays)


def _read(model: SpladeEncoder, text: str, *, queries: bool = False) -> _Read:
    """Read a text. The tokens of a query's prompt are left out."""
    (states,) = model.dense_states([text], queries=queries)
    tokens = model.tokens(text)
    n = len(tokens)
    inner = states[1:-1]
    skipped = max(len(inner) - n, 0) if queries else 0
    own = inner[skipped:][:n]
    first = states[0] if len(states) else np.zeros(model.dense_width, np.float32)
    ids = np.array([token for token, _, _ in tokens[: len(own)]], np.int64)
    pairs = np.append(ids[:-1] * model.n_terms + ids[1:], -1 - int(queries))[: len(ids)]
    spans = np.array([span for _, *span in tokens[: len(own)]], np.int64).reshape(-1, 2)
    ends = [match.end() for match in _SENTENCE.finditer(text)]
    return _Read(_scaled(first), _scaled(own), (ids, pairs), spans, np.searchsorted(ends, spans[:, 0], side="right"))


def _scaled(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors so that their length is the square root of their width."""
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    return np.asarray(states / np.where(lengths > 0, lengths, 1) * states.shape[-1] ** 0.5, np.float32)


def _scores(passage: _Read, question: _Read, weights: Mapping[str, Any], xp: Any) -> Any:
    """Return (2, n) scores of each token as the start and the end of the answer; `xp` is numpy or torch."""
    as_array = xp.from_numpy if xp is not np else (lambda values: values)
    h, g, c = as_array(passage.states), as_array(question.states), as_array(question.first)
    alone = np.eye(len(passage.states), dtype=np.float32)
    sentence = (passage.sentences[:, None] == passage.sentences[None, :]).astype(np.float32) - alone
    others, sentence = as_array(1 - alone), as_array(sentence)
    found = []
    for side in range(_SIDES):
        total = (h @ weights["phrase"][side]) @ (c @ weights["question"][side]) / _HEAD**0.5
        for order in range(_ORDERS):
            q, k = weights["query"][side, order], weights["key"][side, order]
            same = passage.keys[order][:, None] == question.keys[order][None, :]
            if same.any():
                rare = as_array((1 / np.maximum(same.sum(0), 1)).astype(np.float32))
                asked = _relu(((c @ q) @ (g @ k).T) / _HEAD**0.5, xp) + rare
                context = _relu(((h @ q) @ (h @ k).T) / _HEAD**0.5, xp) * others
                context = context + weights["sentence"][side, order] * sentence
                total = total + context @ (as_array(same.astype(np.float32)) @ asked)
        found.append(total)
    return xp.stack(found)


def _relu(values: Any, xp: Any) -> Any:
    return values.clamp_min(0) if xp is not np else np.maximum(values, 0)
