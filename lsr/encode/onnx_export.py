"""Export an encoder's document model as an ONNX graph in 8-bit integers, which runs without torch.

The graph takes the word embeddings of one text, so there is no padding, and outputs the states for the output layer.
Weights are 8-bit with a scale for each row, and activations are quantized at run time, so multiplications run on
integers. A few tokens and a few columns of a layer have much larger values than all others. Where these outliers would
make a common scale too coarse, each token has its own scale and each column a factor. The vocabulary's embeddings,
which also serve as output layer, are in a separate file, `output.arrow`; `lsr.encode.output` computes the weights from
them. The output layers of the heads "gated" and "lexical" are part of the graph, which then takes token ids and outputs
weights, as all graphs of lsr 0.1 did.

`export` needs torch and onnx. For BERT with the heads "lexical" and "expansion", and "masked-lm" and "gated" with max
pooling, it writes such a graph node by node. All other models are traced by PyTorch and quantized by the runtime's own
tools. A traced graph also takes token ids and outputs weights, but it is larger and can't attribute terms to words.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.encode import model_files as files
from lsr.encode.onnx_runner import LEXICAL, TRACED
from lsr.encode.output import OutputLayer, OutputSettings, quantized, row_factors
from lsr.encode.tokenizer import TOKENIZER_FILE
from lsr.errors import EncoderError, MissingExtra

_TERMS = 2048  # terms per matrix product of an output layer in the graph
_HEADS = ("ExpansionHead", "MaskedLMHead", "GatedHead", "LexicalHead")
# GELU is never below -0.17. With this zero point and at least this maximum, the integers cover all its values.
_GELU_ZERO, _GELU_LARGEST = 16, 2.55
_WORDS = "embeddings.word_embeddings.weight"


def export(model: Any, folder: Path, dense: Any = None) -> None:
    """Write a model as a graph of 8-bit integers and its output layer.

    Weights use all 8 bits, so the runtime must prevent overflow of sums, as `OnnxRunner` does.

    Args:
        model: A `lsr.encode.model.SparseModel` of a BERT backbone and the head "expansion" or "masked-lm".
        folder: The folder to write into.
        dense: A BERT with the same first layers; its last state of the first token becomes the output "dense".

    Raises:
        EncoderError: The model can't be exported.
        MissingExtra: onnx is not installed.
    """
    model = model.cpu().eval()
    try:
        import onnx
    except ImportError:
        raise MissingExtra("onnx", "train", "exporting a model") from None
    config, kind = model.backbone.config, type(model.head).__name__
    by_hand = config.model_type == "bert" and kind in _HEADS and config.hidden_act == "gelu"
    if kind in ("MaskedLMHead", "GatedHead"):
        by_hand = by_hand and model.head.apart and model.head.pooling == "max"
    if not by_hand or model.twice:
        if dense is not None:
            raise EncoderError(f"a {config.model_type} model with {kind} can't output a dense vector")
        _export_traced(onnx, model, folder)
        return
    weights = {name.removeprefix("bert."): value.float().numpy() for name, value in model.backbone.state_dict().items()}
    head = {name: value.float().numpy() for name, value in model.head.tensors().items()}
    graph = _Graph(onnx)
    if dense is not None and kind not in ("ExpansionHead", "MaskedLMHead"):
        raise EncoderError(f"a model with {kind} can't output a dense vector")
    if kind in ("GatedHead", "LexicalHead"):
        states = _add_backbone(graph, weights, config, _add_embeddings(graph, weights[_WORDS]))
        if kind == "LexicalHead":
            _add_lexical_head(graph, head, states, model.n_terms)
        else:
            x = _add_transform(graph, weights, config, states)
            _add_gated_head(graph, weights[_WORDS], head, _output_of(model.head), x, model.head.saturation)
        name = LEXICAL if kind == "LexicalHead" else "document encoder"
        (folder / files.ONNX_FILE).write_bytes(graph.content(name, ("ids",), ("weights", model.n_terms)))
        return
    hidden = int(config.hidden_size)
    beside = None if dense is None else {name: value.float().numpy() for name, value in dense.state_dict().items()}
    states = _add_backbone(graph, weights, config, "words", beside)
    if kind == "ExpansionHead":
        _add_expansion(graph, head, states)
        output = {name: head[name] for name in ("projection", "bias", "frequency")}
        k1, b = float(np.exp(head["saturation"][0])), float(1 / (1 + np.exp(-head["saturation"][1])))
        settings = OutputSettings(model.head.saturation, k1, b, model.head.typical_length)
    else:
        _add_transform(graph, weights, config, states, name="states")
        projection, bias = _output_of(model.head)
        output = {"projection": projection, "bias": bias, "frequency": np.zeros(len(bias), np.float32)}
        settings = OutputSettings(model.head.saturation)
    found = [("states", "tokens", hidden), *([("dense", 1, hidden)] if dense is not None else [])]
    content = graph.content("document encoder", ("words", hidden), *found)
    (folder / files.ONNX_FILE).write_bytes(content)
    OutputLayer.of(weights[_WORDS], **output, settings=settings).save(folder / files.OUTPUT_FILE)


def _export_traced(onnx: Any, model: Any, folder: Path) -> None:
    """Trace a model with PyTorch and write it with 8-bit weights; arguments are those of `export`."""
    import logging
    import warnings

    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from lsr.encode.heads import LexicalHead
    from lsr.encode.published_heads import EpicQueryHead

    class OneText(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model(ids[None], torch.ones_like(ids)[None])[0]
            return found

    config = model.backbone.config
    # Only eager attention can be traced.
    before, config._attn_implementation = config._attn_implementation, "eager"
    shown = torch.arange(1, 8)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as temporary, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer warns about values that it takes as constants
            traced = Path(temporary) / "traced.onnx"
            torch.onnx.export(
                OneText().eval(),
                (shown,),
                traced,
                input_names=["ids"],
                output_names=["weights"],
                dynamic_axes={"ids": {0: "tokens"}},
                opset_version=18,
                dynamo=False,
            )
            logging.disable(logging.WARNING)  # the quantizer advises to simplify the graph first
            quantize_dynamic(traced, folder / files.ONNX_FILE, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
        config._attn_implementation = before
    graph = onnx.load(folder / files.ONNX_FILE)
    graph.graph.name = LEXICAL if isinstance(model.head, LexicalHead | EpicQueryHead) else TRACED
    dimensions = graph.graph.output[0].type.tensor_type.shape
    del dimensions.dim[:]
    dimensions.dim.add().dim_value = model.n_terms
    onnx.save(graph, folder / files.ONNX_FILE)


def _output_of(head: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The output layer of a masked language model and its bias."""
    projection = head.output.weight.detach().float().numpy()
    bias = head.output.bias
    return projection, np.zeros(len(projection), np.float32) if bias is None else bias.detach().float().numpy()


def compress(encoder: Any, folder: Path, dense: Path | None = None, query_prompt: str = "") -> None:
    """Write an encoder with its models as graphs of 8-bit integers.

    Args:
        encoder: A `SpladeEncoder`, an `InferenceFreeEncoder`, or a `HybridEncoder` of either.
        folder: The folder to write; an encoder that is there is replaced.
        dense: A checkpoint with the same first layers, whose last state of the first token is a text's dense vector.
            The exported encoder then also gives this vector. Only layers that differ from those of the sparse model add
            to the file size.
        query_prompt: The dense model's prompt before queries.

    Raises:
        EncoderError: The model can't be exported, or shares no layers with the dense model.
    """
    from lsr.encode.base import read_config
    from lsr.encode.hybrid import HybridEncoder
    from lsr.encode.inference_free import InferenceFreeEncoder
    from lsr.encode.splade import SpladeEncoder

    learned = encoder.learned if isinstance(encoder, HybridEncoder) else encoder
    documents = learned.document if isinstance(learned, InferenceFreeEncoder) else learned
    if not isinstance(documents, SpladeEncoder):
        raise EncoderError("only an encoder with a model can be compressed")
    towers = [documents.document, documents.query]
    how_not = ("max_length", "prompt", "top_k")  # towers that differ only in these have the same model
    one = towers[0] == replace(towers[1], **{name: getattr(towers[0], name) for name in how_not})
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        places = [Path(temporary) / folder.name]  # an encoder's name is that of its folder
        places.append(places[0] if one else Path(temporary) / f"{folder.name}-queries")
        for side, (place, tower) in enumerate(zip(places[: 1 if one else 2], towers, strict=False)):
            place.mkdir()
            config = files.model_config(tower.folder())
            copied = ("model_type", "vocab_size", "max_position_embeddings")
            kept: dict[str, Any] = {key: value for key, value in config.items() if key in copied}
            beside = None
            if dense is not None and not side:
                from lsr.encode.model import load_backbone  # needs torch

                beside, _ = load_backbone(dense, "AutoModel")
                kept[files.DENSE] = {"width": int(beside.config.hidden_size), "query_prompt": query_prompt}
            export(documents.network(queries=bool(side)), place, beside)
            (place / "config.json").write_text(json.dumps(kept))
            (place / TOKENIZER_FILE).write_bytes((tower.folder() / TOKENIZER_FILE).read_bytes())
        small = SpladeEncoder(
            *(
                replace(tower, checkpoint=str(place), subfolder="", head="onnx")
                for tower, place in zip(towers, places, strict=True)
            ),
            top_k=documents.top_k,
            max_ratio=documents.max_ratio,
        )
        compressed: Any = small
        if isinstance(learned, InferenceFreeEncoder):
            asks = learned.query_model
            if asks is not None and asks.query.head != "onnx":
                place = Path(temporary) / "query models" / Path(asks.query.name).name
                place.parent.mkdir()
                compress(SpladeEncoder(asks.query), place)
                asks = SpladeEncoder(SpladeEncoder.load(place, read_config(place)).query)
            compressed = learned.beside(asks, small)
        if isinstance(encoder, HybridEncoder):
            compressed = HybridEncoder(compressed, encoder.lexical, encoder.weight)
        compressed.save(folder)


class _Graph:
    """Collects nodes and constants. Every method that adds a node returns the name of the node's result."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def add(self, kind: str, *inputs: str, name: str = "", n_outputs: int = 1, **attributes: Any) -> Any:
        """Add a node, and return the name of its output, or of each output."""
        base = name or f"{kind}_{len(self._nodes)}"
        outputs = [base] if n_outputs == 1 else [f"{base}_{i}" for i in range(n_outputs)]
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0] if n_outputs == 1 else outputs

    def constant(self, name: str, value: Any) -> str:
        """Add a constant tensor, once for each name."""
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """x W' + b for an (out, in) weight, computed in integers."""
        values, scale = quantized(weight)
        return str(
            self.add(
                "DynamicQuantizeMatMul",
                x,
                self.constant(f"{name}.weight", values.T),
                self.constant(f"{name}.scale", scale),
                "",
                self.constant(f"{name}.bias", bias),
                domain="com.microsoft",
            )
        )

    def gelu_linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """gelu(x) W' + b, with a scale for each token, because x is far larger for a few tokens than for all others."""
        values, scale = quantized(weight)
        x = self.add("Gelu", x, domain="com.microsoft")
        largest = self.add("ReduceMax", x, self.constant("one axis", np.array([1])), keepdims=0)
        largest = self.add("Max", largest, self.constant("gelu.largest", np.array(_GELU_LARGEST, np.float32)))
        steps = self.constant("gelu.steps", np.array(255 - _GELU_ZERO, np.float32))
        size = self.add("Div", largest, steps)
        zero = self.constant("gelu.zero", np.array(_GELU_ZERO, np.uint8))
        zeros = self.add("Expand", zero, self.add("Shape", x, start=0, end=1))
        integers = self.add("QuantizeLinear", x, size, zeros, axis=0)
        product = self.add(
            "MatMulIntegerToFloat",
            integers,
            self.constant(f"{name}.weight", values.T),
            self.constant("one", np.array(1, np.float32)),
            self.constant(f"{name}.scale", scale),
            zero,
            domain="com.microsoft",
        )
        size = self.add("Unsqueeze", size, self.constant("one axis", np.array([1])))
        return str(self.add("Add", self.add("Mul", product, size), self.constant(f"{name}.bias", bias)))

    def norm(
        self, x: str, name: str, weights: dict[str, NDArray[np.float32]], epsilon: float, prefix: str = ""
    ) -> tuple[str, Any, str]:
        """Layer normalisation; returns the result divided by a factor for each column, the factors, and the result
        itself.

        The factors bring the columns to similar magnitudes; the weights that follow are multiplied by them.
        """
        scale, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        factors = np.sqrt(np.abs(bias) + 4 * np.abs(scale) + 1e-6)
        parts = [
            self.constant(f"{prefix}{name}.{part}", weights[f"{name}.{part}"] / factors) for part in ("weight", "bias")
        ]
        even = self.add("LayerNormalization", x, *parts, axis=-1, epsilon=epsilon)
        return even, factors, self.add("Mul", even, self.constant(f"{prefix}{name}.factors", factors))

    def content(self, name: str, given: tuple[Any, ...], *found: tuple[Any, ...]) -> bytes:
        """The content of the ONNX file.

        Args:
            name: Name of the graph.
            given: Name of the input, and its dimensions without the first, the number of tokens.
            found: {name of an output: its dimensions}
        """
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        kind = kinds.INT64 if given[0] == "ids" else kinds.FLOAT
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(given[0], kind, ["tokens", *given[1:]])],
            [helper.make_tensor_value_info(out[0], kinds.FLOAT, list(out[1:])) for out in found],
            list(self._constants.values()),
        )
        versions = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=9, producer_name="lsr")
        self._onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _add_embeddings(graph: _Graph, embeddings: NDArray[np.float32]) -> str:
    """Word embeddings of the input "ids", (tokens, hidden)."""
    words, scale = quantized(embeddings)
    x = graph.add("Cast", graph.add("Gather", graph.constant("words", words), "ids"), to=1)
    return str(graph.add("Mul", x, graph.add("Gather", graph.constant("words.scale", scale[:, None]), "ids")))


def _add_backbone(
    graph: _Graph,
    weights: dict[str, NDArray[np.float32]],
    config: Any,
    words: str,
    dense: dict[str, NDArray[np.float32]] | None = None,
) -> str:
    """A BERT without its word embeddings; returns the last states, (tokens, hidden).

    `dense` is another BERT with the same first layers. Its other layers are added, and the last state of its first
    token becomes the output "dense", (1, hidden).
    """
    hidden, epsilon, n_layers = config.hidden_size, config.layer_norm_eps, config.num_hidden_layers
    places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    zero = graph.constant("zero", np.array([0]))
    length = graph.add("Shape", words, start=0, end=1, name="length")
    x = graph.add("Add", words, graph.add("Slice", graph.constant("places", places), zero, length, zero))
    states = graph.norm(x, "embeddings.LayerNorm", weights, epsilon)
    graph.constant("split", np.array([0, 3, config.num_attention_heads, hidden // config.num_attention_heads]))
    graph.constant("whole", np.array([0, hidden]))
    graph.constant("shrink", np.array((hidden // config.num_attention_heads) ** -0.5, np.float32))
    fork = n_layers if dense is None else _n_shared(weights, dense, n_layers)
    for i in range(fork):
        states = _add_layer(graph, weights, i, epsilon, states)
    if dense is not None:
        apart = states
        for i in range(fork, n_layers):
            apart = _add_layer(graph, dense, i, epsilon, apart, name="dense.", first=i + 1 == n_layers)
        graph.add("Identity", apart[2], name="dense")
    for i in range(fork, n_layers):
        states = _add_layer(graph, weights, i, epsilon, states)
    return states[2]


def _n_shared(weights: dict[str, NDArray[np.float32]], dense: dict[str, NDArray[np.float32]], n_layers: int) -> int:
    """Count the leading layers that two BERTs share.

    Raises:
        EncoderError: The embeddings of the two BERTs differ, or `dense` has more than `n_layers` layers.
    """

    def same(prefix: str) -> bool:
        names = [name for name in weights if name.startswith(prefix)]
        return all(name in dense and np.array_equal(weights[name], dense[name]) for name in names)

    if not same("embeddings.") or f"encoder.layer.{n_layers}.output.dense.weight" in dense:
        raise EncoderError("the dense model must have the sparse model's embeddings, and no more layers")
    shared = next((i for i in range(n_layers) if not same(f"encoder.layer.{i}.")), n_layers)
    return min(shared, n_layers - 1)


def _add_layer(
    graph: _Graph,
    weights: dict[str, NDArray[np.float32]],
    number: int,
    epsilon: float,
    states: tuple[str, Any, str],
    *,
    name: str = "",
    first: bool = False,
) -> tuple[str, Any, str]:
    """A layer of BERT; input and output states have the form of `_Graph.norm`.

    Args:
        graph: The graph to extend.
        weights: The model's weights.
        number: Number of the layer.
        epsilon: Epsilon of the normalisations.
        states: Input of the layer.
        name: Prefix of the constants' names.
        first: Return the state of the first token only.
    """
    even, factors, x = states
    at = f"encoder.layer.{number}"
    parts = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
    weight, bias = (np.concatenate([weights[f"{part}.{kind}"] for part in parts]) for kind in ("weight", "bias"))
    apart = graph.add("Reshape", graph.linear(even, f"{name}{at}.qkv", weight * factors, bias), "split")
    turned = graph.add("Transpose", apart, perm=[1, 2, 0, 3])  # (3, heads, tokens, hidden of a head)
    one = [graph.constant(f"part{j}", np.array(j)) for j in range(3)]
    query, key, value = (graph.add("Gather", turned, j, axis=0) for j in one)
    if first:
        bounds = [graph.constant(f"{key} first", np.array([n])) for key, n in (("from", 0), ("to", 1), ("axis", 1))]
        query = graph.add("Slice", query, *bounds)
        x = graph.add("Slice", x, bounds[0], bounds[1], graph.constant("zero", np.array([0])))
    key = graph.add("Transpose", key, perm=[0, 2, 1])
    scores = graph.add("MatMul", graph.add("Mul", query, "shrink"), key)
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
    mixed = graph.add("Reshape", graph.add("Transpose", mixed, perm=[1, 0, 2]), "whole")
    out = f"{at}.attention.output"
    mixed = graph.linear(mixed, f"{name}{out}.dense", weights[f"{out}.dense.weight"], weights[f"{out}.dense.bias"])
    even, factors, x = graph.norm(graph.add("Add", x, mixed), f"{out}.LayerNorm", weights, epsilon, name)
    wide, narrow = f"{at}.intermediate.dense", f"{at}.output.dense"
    y = graph.linear(even, f"{name}{wide}", weights[f"{wide}.weight"] * factors, weights[f"{wide}.bias"])
    y = graph.gelu_linear(y, f"{name}{narrow}", weights[f"{narrow}.weight"], weights[f"{narrow}.bias"])
    return graph.norm(graph.add("Add", x, y), f"{at}.output.LayerNorm", weights, epsilon, name)


def _add_expansion(graph: _Graph, head: dict[str, NDArray[np.float32]], states: str) -> None:
    """`lsr.encode.heads.ExpansionHead.transform`, as the output "states"."""
    up = graph.linear(states, "up", head["up.weight"], head["up.bias"])
    down = graph.gelu_linear(up, "down", head["down.weight"], head["down.bias"])
    same = graph.linear(states, "identity", head["identity.weight"], head["identity.bias"])
    graph.add("Add", same, down, name="states")


def _add_transform(
    graph: _Graph, weights: dict[str, NDArray[np.float32]], config: Any, states: str, name: str = ""
) -> str:
    """The transformation before a masked language model's output layer in BERT."""
    at = "cls.predictions.transform"
    x = graph.linear(states, f"{at}.dense", weights[f"{at}.dense.weight"], weights[f"{at}.dense.bias"])
    x = graph.add("Gelu", x, domain="com.microsoft")
    parts = [graph.constant(f"{at}.{part}", weights[f"{at}.LayerNorm.{part}"]) for part in ("weight", "bias")]
    return str(graph.add("LayerNormalization", x, *parts, axis=-1, epsilon=config.layer_norm_eps, name=name))


def _add_gated_head(
    graph: _Graph,
    embeddings: NDArray[np.float32],
    gate: dict[str, NDArray[np.float32]],
    output: tuple[NDArray[np.float32], NDArray[np.float32]],
    x: str,
    saturation: str,
) -> None:
    """`lsr.encode.heads.GatedHead`, as the output "weights"."""
    tokens = graph.add("DynamicQuantizeLinear", x, n_outputs=3)
    row_scale = row_factors(output[0], embeddings) * quantized(embeddings)[1]
    logits = _largest(graph, tokens, "words", "projection", row_scale)
    found = _saturated(graph, graph.add("Add", logits, graph.constant("projection.bias", output[1])), saturation, "")
    values, scale = quantized(gate["gate.weight"])
    opened = _largest(graph, tokens, graph.constant("gate.weight", values), "gate", scale)
    opened = graph.add("Add", opened, graph.constant("gate.bias", gate["gate.bias"]))
    opened = graph.add("Greater", opened, graph.constant("nothing", np.array(0, np.float32)))
    graph.add("Mul", found, graph.add("Cast", opened, to=1), name="weights")


def _add_lexical_head(graph: _Graph, head: dict[str, NDArray[np.float32]], states: str, n_terms: int) -> None:
    """`lsr.encode.heads.LexicalHead`, as the output "weights"; it is small, so it stays in float."""
    x = graph.add("MatMul", states, graph.constant("weigh.weight", head["weigh.weight"][0]))
    x = graph.add("Relu", graph.add("Add", x, graph.constant("weigh.bias", head["weigh.bias"])))
    x = graph.add("Mul", x, graph.add("Gather", graph.constant("counts", head["counts"]), "ids"))
    none = graph.add("ConstantOfShape", graph.constant("n_terms", np.array([n_terms])))
    graph.add("ScatterElements", none, "ids", x, axis=0, reduction="max", name="weights")


def _largest(graph: _Graph, tokens: Sequence[str], words: str, name: str, row_scale: NDArray[np.float32]) -> str:
    """Each term's largest logit over the tokens, (n_terms,).

    Args:
        graph: The graph to extend.
        tokens: (tokens, hidden) integers, their scale and their zero point.
        words: (n_terms, hidden) integers, the output layer.
        name: Name of the layer.
        row_scale: (n_terms,), the scale of each row.
    """
    integers, scale, zero = tokens
    n_terms, axis = len(row_scale), graph.constant("zero", np.array([0]))
    parts = []
    for first in range(0, n_terms, _TERMS):
        start, end = (graph.constant(f"term{i}", np.array([i])) for i in (first, min(first + _TERMS, n_terms)))
        weight = graph.add("Transpose", graph.add("Slice", words, start, end, axis), perm=[1, 0])
        # All tokens share one scale, so the largest integer belongs to the largest logit.
        logits = graph.add("MatMulInteger", integers, weight, zero)
        parts.append(graph.add("ReduceMax", logits, axis, keepdims=0))
    logits = graph.add("Cast", graph.add("Concat", *parts, axis=0), to=1)
    return str(graph.add("Mul", graph.add("Mul", logits, scale), graph.constant(f"{name}.scale", row_scale)))


def _saturated(graph: _Graph, logits: str, saturation: str, name: str) -> str:
    """log1p(relu(logits)); for "log1p_log1p", log1p of that."""
    x, one = graph.add("Relu", logits), graph.constant("one", np.array(1, np.float32))
    if saturation == "log1p_log1p":
        x = graph.add("Log", graph.add("Add", x, one))
    return str(graph.add("Log", graph.add("Add", x, one), name=name))
