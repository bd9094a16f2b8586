"""Structured pruning: remove whole attention heads and feed-forward columns from an exported model's graph.

Each head or column is a group of inputs to the matrix product that follows. A group's score is the sum over its inputs
of

    var(a_j) |w_j|^2        a_j: the input's values on some texts, w_j: its row of the product's weights

The groups with the lowest scores are removed, and the means of their inputs are folded into the product's bias, since
an input that hardly varies is nearly a constant (FLAP, arXiv 2312.11983). Then the products are refitted by least
squares, layer by layer: given the pruned model's inputs, each layer must reproduce the states of the unpruned model. So
a layer also corrects the errors of the layers before it.

Pruning needs neither labels nor torch, only onnx, and the pruned graph runs on an unmodified runtime.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.console import progress
from lsr.encode import model_files as files
from lsr.encode.base import Encoder
from lsr.encode.hybrid import HybridEncoder, document_model
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.load import load_encoder
from lsr.encode.output import OutputLayer, quantized
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tokenizer import TextTokenizer
from lsr.errors import EncoderError, MissingExtra

_BLOCK = re.compile(r"(.*encoder\.layer\.\d+)\.(attention\.output|output)\.dense\.weight")
_RIDGE = 0.003  # penalty on changes to the weights, relative to the inputs' mean square
_MANY = 30_000  # tokens for statistics and fits; the last text may exceed it


@dataclass(frozen=True)
class PruneSettings:
    """What is removed.

    Attributes:
        heads: Share of each layer's attention heads that is removed; at least one stays.
        columns: Share of each layer's feed-forward columns that is removed.
        fit: Whether products are refitted; otherwise only their biases change.

    Raises:
        ValueError: A share is below 0, or at least 1.
    """

    heads: float = 0.25
    columns: float = 0.25
    fit: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.heads < 1 and 0 <= self.columns < 1):
            raise ValueError(f"heads and columns must be at least 0 and below 1, got {self.heads} and {self.columns}")


def prune(
    encoder: str | PathLike[str], out: str | PathLike[str], texts: Sequence[str], settings: PruneSettings | None = None
) -> None:
    """Write an encoder with fewer heads and columns.

    Args:
        encoder: Name or folder of an encoder whose document model lsr exported, such as lsr-mini.
        out: Folder for the new encoder.
        texts: Documents for statistics and fits; one or two hundred are enough.
        settings: What is removed.

    Raises:
        EncoderError: lsr didn't export the model, or there are no texts.
        MissingExtra: onnx isn't installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtra("onnx", "train", "pruning a model") from None
    whole, out = load_encoder(encoder), Path(out)
    documents = document_model(whole)
    if not isinstance(documents, SpladeEncoder) or not (documents.document.folder() / files.OUTPUT_FILE).is_file():
        raise EncoderError(f"{encoder}: only a model that lsr exported, such as lsr-mini, can be pruned")
    source = documents.document.folder()
    output = OutputLayer.open(source / files.OUTPUT_FILE)
    inputs = [output.embeddings(ids) for ids in _ids(documents, texts)]
    if not inputs:
        raise EncoderError("pruning needs texts that aren't empty")
    graph = onnx.load(source / files.ONNX_FILE)
    content = _Pruning(onnx, graph, inputs, settings or PruneSettings()).content()
    save_with_graph(whole, content, out)


def save_with_graph(whole: Encoder, content: bytes, out: Path) -> None:
    """Save an encoder with another graph for its document model.

    Args:
        whole: The encoder.
        content: The ONNX file.
        out: Folder for the new encoder.
    """
    learned = whole.learned if isinstance(whole, HybridEncoder) else whole
    documents = document_model(whole)
    assert isinstance(documents, SpladeEncoder)
    source = documents.document.folder()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / out.resolve().name
        place.mkdir()
        for path in source.iterdir():
            if path.is_file() and path.name != files.ONNX_FILE:
                (place / path.name).write_bytes(path.read_bytes())
        (place / files.ONNX_FILE).write_bytes(content)
        tower = replace(documents.document, checkpoint=str(place), subfolder="")
        small: Any = SpladeEncoder(tower, tower, top_k=documents.top_k, max_ratio=documents.max_ratio)
        if isinstance(learned, InferenceFreeEncoder):
            small = learned.beside(learned.query_model, small)
        if isinstance(whole, HybridEncoder):
            small = HybridEncoder(small, whole.lexical, whole.weight)
        small.save(out)


def _ids(documents: SpladeEncoder, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the token ids of texts as the model reads them, until there are `_MANY`."""
    tower, left = documents.document, _MANY
    tokenizer = TextTokenizer.open(tower.folder())
    for ids in tokenizer.ids([tower.prompt + text for text in texts], tower.max_length, special=True):
        if ids and left > 0:
            left -= len(ids)
            yield ids


@dataclass
class _Block:
    """A matrix product whose inputs are removed in groups.

    Attributes:
        name: Prefix of the layer's constants.
        product: Prefix of the product's constants.
        given: Name of the product's input, (n_tokens, n).
        before: Name of the residual states, to which the result is added.
        after: Name of the sum.
        size: Inputs per group: the width of a head, or 1 for columns.
    """

    name: str
    product: str
    given: str
    before: str
    after: str
    size: int


class _Pruning:
    """Prunes a graph block by block."""

    def __init__(self, onnx: Any, graph: Any, inputs: Sequence[NDArray[np.float32]], settings: PruneSettings) -> None:
        self._onnx, self._graph, self._inputs, self._settings = onnx, graph, inputs, settings
        self._constants = {one.name: one for one in graph.graph.initializer}
        self._makers = {name: node for node in graph.graph.node for name in node.output}
        self._before = graph.SerializeToString()

    def content(self) -> bytes:
        """The ONNX file of the pruned graph."""
        blocks = list(self._blocks())
        if not blocks:
            raise EncoderError(
                "the graph has no layers that can be pruned: export the model again with lsr 0.2 or later"
            )
        with progress(len(blocks), "prune", "products") as bar:
            for block in blocks:
                share = self._settings.heads if block.size > 1 else self._settings.columns
                if share or self._settings.fit:
                    self._prune(block, share)
                bar.update(1)
        self._onnx.checker.check_model(self._graph)
        return bytes(self._graph.SerializeToString())

    def _blocks(self) -> Iterator[_Block]:
        """The blocks in the order of the graph."""
        head = int(self._value("split")[3]) if "split" in self._constants else 0
        users: dict[str, list[Any]] = {}
        for node in self._graph.graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        for node in self._graph.graph.node:
            found = [match for name in node.input if (match := _BLOCK.fullmatch(name))]
            if not found or not head:
                continue
            name, product = found[0][1], f"{found[0][1]}.{found[0][2]}.dense"
            attention = found[0][2] != "output"
            given = node.input[0] if attention else self._makers[node.input[0]].input[0]
            made = node
            while not (made.op_type == "Add" and f"{product}.bias" not in made.input):
                (made,) = users[made.output[0]]
                past = made
            before = next(one for one in past.input if self._makers[one].op_type in ("Mul", "Slice"))
            yield _Block(name, product, given, before, past.output[0], head if attention else 1)

    def _prune(self, block: _Block, share: float) -> None:
        n = self._value(f"{block.product}.weight").shape[0]
        weight = self._weight(block.product)
        mean, variance = self._moments(block.given, n)
        groups = (variance * (weight**2).sum(1)).reshape(-1, block.size).sum(1)
        removed = min(round(share * len(groups)), len(groups) - 1)
        kept = np.sort(np.argsort(-groups, kind="stable")[: len(groups) - removed])
        rows = (kept[:, None] * block.size + np.arange(block.size)).reshape(-1)
        gone = np.setdiff1d(np.arange(n), rows)
        bias = self._value(f"{block.product}.bias") + mean[gone] @ weight[gone]
        self._shrink(block, kept)
        self._put(block.product, weight[rows], bias)
        if self._settings.fit:
            self._put(block.product, *self._fitted(block, weight[rows], bias))

    def _shrink(self, block: _Block, kept: NDArray[np.int64]) -> None:
        """Remove the weights that compute the removed inputs, so that only the groups `kept` are left."""
        if block.size == 1:
            wide = f"{block.name}.intermediate.dense"
            self._set(f"{wide}.weight", self._value(f"{wide}.weight")[:, kept])
            for part in ("scale", "bias"):
                self._set(f"{wide}.{part}", self._value(f"{wide}.{part}")[kept])
            return
        name = f"{block.name}.qkv"
        for part in ("weight", "scale", "bias"):
            value = self._value(f"{name}.{part}")
            apart = value.reshape(*value.shape[:-1], 3, -1, block.size)[..., kept, :]
            self._set(f"{name}.{part}", apart.reshape(*value.shape[:-1], -1))
        shapes = {"split": [0, 3, len(kept), block.size], "whole": [0, len(kept) * block.size]}
        first = next(node for node in self._graph.graph.node if f"{name}.weight" in node.input)
        last = self._makers[block.given]
        split = next(node for node in self._graph.graph.node if first.output[0] in node.input)
        for node, kind in ((split, "split"), (last, "whole")):
            own = f"{block.name}.{kind}"
            if own not in self._constants:
                self._constants[own] = self._graph.graph.initializer.add()
            self._set(own, np.array(shapes[kind], np.int64))
            node.input[1] = own

    def _fitted(
        self, block: _Block, weight: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weights, (n, m), and the bias, (m,), that bring the block's sum closest to the sum in the
        unpruned model.
        """
        n = len(weight)
        gram, wrong = np.zeros((n + 1, n + 1)), np.zeros((n + 1, weight.shape[1]))
        old = np.concatenate((weight, bias[None]))
        target = self._run(self._before, [block.after])
        for (wanted,), (given, before) in zip(target, self._states([block.given, block.before]), strict=True):
            given = given.reshape(-1, n)
            ones = np.concatenate((given, np.ones((len(given), 1), np.float32)), axis=1)
            gram += ones.T @ ones
            wrong += ones.T @ (wanted.reshape(-1, weight.shape[1]) - before - ones @ old.astype(np.float32))
        penalty = np.full(n + 1, _RIDGE * np.trace(gram[:n, :n]) / n)
        penalty[n] = 1e-6 * gram[n, n]
        new = old + np.linalg.solve(gram + np.diag(penalty), wrong)
        return new[:n], new[n]

    def _moments(self, name: str, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance of each of n inputs, (n,) float64 each."""
        total, squares, count = np.zeros(n), np.zeros(n), 0
        for (values,) in self._states([name]):
            values = values.reshape(-1, n).astype(np.float64)
            total, squares, count = total + values.sum(0), squares + (values**2).sum(0), count + len(values)
        mean = total / count
        return mean, np.maximum(squares / count - mean**2, 0)

    # --- the graph ----------------------------------------------------------------------------------------------------

    def _states(self, names: list[str]) -> Iterator[list[NDArray[np.float32]]]:
        return self._run(self._graph.SerializeToString(), names)

    def _run(self, content: bytes, names: list[str]) -> Iterator[list[NDArray[np.float32]]]:
        """Yield the named values of a graph, text by text."""
        import onnxruntime

        graph = self._onnx.load_from_string(content)
        there = {one.name for one in graph.graph.output}
        kind = self._onnx.TensorProto.FLOAT
        graph.graph.output.extend(
            self._onnx.helper.make_tensor_value_info(name, kind, None) for name in names if name not in there
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        how = onnxruntime.RunOptions()
        how.only_execute_path_to_fetches = True  # skips the layers above
        for words in self._inputs:
            yield session.run(names, {"words": words}, how)

    def _value(self, name: str) -> NDArray[Any]:
        return np.asarray(self._onnx.numpy_helper.to_array(self._constants[name]))

    def _weight(self, product: str) -> NDArray[np.float64]:
        """(inputs, outputs) float64."""
        return self._value(f"{product}.weight") * self._value(f"{product}.scale").astype(np.float64)

    def _put(self, product: str, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        values, scale = quantized(weight.T.astype(np.float32))
        self._set(f"{product}.weight", values.T)
        self._set(f"{product}.scale", scale)
        self._set(f"{product}.bias", bias.astype(np.float32))

    def _set(self, name: str, value: NDArray[Any]) -> None:
        self._constants[name].CopyFrom(self._onnx.numpy_helper.from_array(np.array(value, order="C"), name))
