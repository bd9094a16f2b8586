"""An ONNX graph can be cut down to the nodes that some of its outputs need."""

from pathlib import Path

import numpy as np
import pytest

from lsr.encode import onnx_graph
from lsr.encode.load import load_encoder
from lsr.encode.onnx_runner import OnnxRunner
from lsr.errors import EncoderError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def shipped_learned():
    """The learned part of lsr-mini."""
    return load_encoder("lsr-mini").learned


def _graph() -> bytes:
    """A graph with two outputs, y = 2 (x + 1) and z = 5 (x + 1), which share the sum x + 1."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    numbers = {"one": 1.0, "two": 2.0, "five": 5.0}
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "one"], ["sum"]),
            helper.make_node("Mul", ["sum", "two"], ["y"]),
            helper.make_node("Mul", ["sum", "five"], ["z"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", kind, ["n"])],
        [helper.make_tensor_value_info(name, kind, ["n"]) for name in ("y", "z")],
        [onnx.numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="lsr")
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("outputs", "nodes", "constants"),
    [(["y"], 2, {"one", "two"}), (["z"], 2, {"one", "five"}), (["y", "z"], 3, {"one", "two", "five"})],
)
def test_a_cut_graph_has_only_what_its_outputs_need(outputs, nodes, constants):
    content = _graph()
    assert onnx_graph.output_names(content) == ["y", "z"]
    cut = onnx_graph.with_outputs(content, outputs)
    model = onnx.load_from_string(cut)
    onnx.checker.check_model(model)
    assert len(model.graph.node) == nodes
    assert {constant.name for constant in model.graph.initializer} == constants
    assert onnx_graph.output_names(cut) == outputs
    assert model.producer_name == "lsr"
    session = onnxruntime.InferenceSession(cut)
    found = dict(zip(outputs, session.run(outputs, {"x": np.array([1, 4], np.float32)}), strict=True))
    expected = {"y": [4, 10], "z": [10, 25]}
    for name in outputs:
        np.testing.assert_array_equal(found[name], expected[name])


def test_an_inner_result_can_become_an_output():
    cut = onnx_graph.with_outputs(_graph(), ["sum"])
    session = onnxruntime.InferenceSession(cut)
    np.testing.assert_array_equal(session.run(["sum"], {"x": np.array([1, 4], np.float32)})[0], [2, 5])


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a graph", b"\x3a\x02\x0a", b"\x38\x01", b"\x3a\x02\x62\x00"])
def test_files_that_are_not_graphs_are_refused(content):
    with pytest.raises(ValueError, match=r"has no graph|ends within|without a (number|name)|unknown kind"):
        onnx_graph.output_names(content)


def test_each_session_of_the_shipped_model_runs_only_its_part(shipped_learned):
    """One run for both kinds of vectors equals two separate runs. Each part of the graph has fewer nodes."""
    runner = shipped_learned.document._model(shipped_learned.document.document)
    ids = [[101, 2054, 2003, 1037, 3945, 3194, 102], [101, 2591, 102]]
    sparse, dense = runner.weights_and_dense(ids)
    apart = runner.weights(ids)
    np.testing.assert_array_equal(apart.indices, sparse.indices)
    np.testing.assert_array_equal(apart.data, sparse.data)
    np.testing.assert_array_equal(runner.dense(ids), dense)
    content = Path(runner._path).read_bytes()
    nodes = [
        len(onnx.load_from_string(onnx_graph.with_outputs(content, [name])).graph.node) for name in runner._outputs
    ]
    whole = len(onnx.load_from_string(content).graph.node)
    assert max(nodes) < whole < sum(nodes)


def test_a_truncated_graph_is_an_error(tmp_path, shipped_learned):
    folder = shipped_learned.document.document.folder()
    for name in ("model.onnx", "output.arrow", "config.json", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2] if name == "model.onnx" else content)
    with pytest.raises(EncoderError, match=r"model\.onnx: can't be opened"):
        OnnxRunner(tmp_path, 30522, threads=1).weights([[101, 102]])


def test_a_model_that_is_replaced_while_open_is_an_error(tmp_path, shipped_learned):
    """Otherwise sparse vectors would come from the old model, and dense vectors from the new model."""
    folder = shipped_learned.document.document.folder()
    for name in ("model.onnx", "output.arrow"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    runner = OnnxRunner(tmp_path, 30522, threads=1)
    before = runner.weights([[101, 2054, 102]])
    (tmp_path / "other").write_bytes((folder / "model.onnx").read_bytes())
    (tmp_path / "other").replace(tmp_path / "model.onnx")
    assert runner.weights([[101, 2054, 102]]) == before
    with pytest.raises(EncoderError, match=r"model\.onnx: the model was replaced while it was open"):
        runner.dense([[101, 2054, 102]])
