"""A run uses heads, losses and regularizers of another package, which is installed in a folder on sys.path."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("yaml")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForMaskedLM  # noqa: E402

from lsr.config import read_config  # noqa: E402
from lsr.encode.load import load_encoder  # noqa: E402
from lsr.encode.onnx_export import compress  # noqa: E402
from lsr.errors import DataError, EncoderError, TrainingError  # noqa: E402
from lsr.eval.training.cli import run_training  # noqa: E402
from lsr.train.settings import TrainSettings  # noqa: E402

pytestmark = pytest.mark.usefixtures("training_environment")

CODE = '''
import torch
from lsr.encode.heads import Head


class TwoLayers(Head):
    """w_j = max over t of relu(logit_tj) * gain_j, from a masked language model's logits."""

    MODEL = "AutoModelForMaskedLM"
    NAMES = ("gain",)

    def __init__(self, tensors, n_terms):
        super().__init__("max", "none", n_terms)
        self.gain = torch.nn.Parameter(tensors["gain"])

    @classmethod
    def start(cls, hidden, n_terms, absent):
        assert hidden == 16
        gain = torch.full((n_terms,), 0.5)
        gain[absent] = 0
        return {"gain": gain}

    def forward(self, states, ids, mask, terms):
        assert states.shape[-1] == self.n_terms
        weights = (torch.relu(states) * mask.unsqueeze(-1)).amax(1) * torch.relu(self.gain)
        return weights if terms is None else weights[:, terms]

    def tensors(self):
        return self.named_tensors()


seen = []


def hinge(scores, batch, taught):
    """Mean hinge of a query's positive and each of its negatives."""
    seen.append(None if taught is None else tuple(taught.shape))
    own = scores.gather(1, batch.columns.clamp_min(0))
    return torch.relu(1 - own[:, :1] + own[:, 1:]).mean()


def pairs(scores, batch, taught):
    return scores


def square(weights):
    return weights.square().sum(1).mean()


NOT_A_HEAD = 3
'''
ENTRY_POINTS = """\
[lsr.heads]
two-layers = other_package:TwoLayers
three = other_package:NOT_A_HEAD
gone = other_package:Gone
broken = broken_package:Head

[lsr.losses]
hinge = other_package:hinge
pairs = other_package:pairs

[lsr.regularizers]
square = other_package:square
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution with entry points, and its module."""
    folder = tmp_path / "site"
    (folder / "other_package-1.0.dist-info").mkdir(parents=True)
    (folder / "other_package.py").write_text(CODE)
    (folder / "broken_package.py").write_text("import a_package_that_nobody_has\n")
    (folder / "other_package-1.0.dist-info" / "METADATA").write_text("Name: other-package\nVersion: 1.0\n")
    (folder / "other_package-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop("other_package", None)


@pytest.fixture
def run(checkpoint, tmp_path):
    """Settings of a short run, read from YAML."""
    lines = [
        {"query": "cat", "positives": ["the cat sat"], "negatives": ["dog", "the mat ."], "scores": [3, 1, 0]},
        {"query": "dog", "positives": ["a dog"], "negatives": ["the cat", "b c d"], "scores": [3, 1, 0]},
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "run.yaml"
    path.write_text(f"""\
model:
  checkpoint: {checkpoint}
  max_length: 20
data: {{sources: [path: {data}], queries: 2, negatives: 2}}
queries: {{max_length: 16}}
losses: {{plugins: {{hinge: 1}}}}
optimizer: {{steps: 3, lr: 1.0e-3, head_lr: 1.0e-1}}
device: cpu
""")
    return lambda *changes: read_config(path, TrainSettings, changes)


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("installed")
def test_a_run_uses_a_head_a_loss_and_a_regularizer_by_name(run, tmp_path):
    settings = run("model.head=two-layers", "documents_regularizer={kind: square, weight: 0.01}")
    encoder = load_encoder(run_training(settings, tmp_path / "run"))
    first, *_ = log(tmp_path / "run")
    assert first["documents_square"] > 0
    assert first["loss"] == pytest.approx(first["hinge"] + 0.01 * first["documents_square"], rel=1e-5)
    assert sys.modules["other_package"].seen == [(1, 2, 3)] * 3  # the examples' scores count as one teacher

    # The saved encoder has the trained weights, and its vectors equal the head's formula.
    (saved,) = (tmp_path / "run" / "last").rglob("head.safetensors")
    gain = load_file(saved)["gain"]
    assert gain[5:].ne(0.5).any()
    model = AutoModelForMaskedLM.from_pretrained(saved.parent).eval()
    ids = [2, *(list(encoder.vocabulary).index(word) for word in ("cat", "dog")), 3]
    with torch.no_grad():
        expected = torch.relu(model(input_ids=torch.tensor([ids])).logits[0]).amax(0) * torch.relu(gain)
    vector = encoder.encode_document(["cat dog"])
    assert np.allclose(vector.to_dense()[0], expected.numpy(), atol=1e-5)
    assert vector.nnz > 5
    with pytest.raises(EncoderError, match="TwoLayers doesn't tell which token a term comes from"):
        encoder.origins("cat dog", [5])


@pytest.mark.usefixtures("installed")
def test_a_head_of_another_package_becomes_a_graph(run, tmp_path):
    pytest.importorskip("onnx")
    encoder = load_encoder(run_training(run("model.head=two-layers"), tmp_path / "run"))
    compress(encoder, tmp_path / "onnx")
    a, b = (each.encode_document(["the cat sat on the mat ."]) for each in (encoder, load_encoder(tmp_path / "onnx")))
    cosine = a.dot(b)[0, 0] / np.sqrt(a.dot(a)[0, 0] * b.dot(b)[0, 0])
    assert cosine > 0.99


@pytest.mark.usefixtures("installed")
def test_without_teachers_a_loss_gets_no_scores(run, tmp_path):
    line = {"query": "cat", "positives": ["the cat sat"], "negatives": ["dog", "the mat ."]}
    data = tmp_path / "plain.jsonl"
    data.write_text(json.dumps(line) + "\n")
    run_training(run(f"data.sources=[path: {data}]", "data.queries=1", "optimizer.steps=1"), tmp_path / "run")
    assert sys.modules["other_package"].seen == [None]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.head=two-layer", "model.head must be one of masked-lm, .*, tilde, broken, gone, three, two-layers, "
         "got 'two-layer'; did you mean two-layers\\? Packages add others by entry points of lsr.heads"),
        ("losses.plugins={hing: 1}", "losses.plugins must be one of hinge, pairs, got 'hing'; did you mean hinge"),
        ("losses.plugins={hinge: -1}", "losses.plugins.hinge must be above 0, got -1"),
        ("losses.plugins={}", "give at least one of info_nce, kl, margin_mse, term_recall, bank and plugins a weight"),
        ("documents_regularizer.kind=cube", "kind must be one of flops, .*, l0_flops, group, square, "),
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused(run, change, message):
    with pytest.raises(DataError, match=message):
        run(change)


def test_errors_name_the_line_without_importing_a_package(run):
    message = r"run.yaml:6: losses.plugins must name an entry point of lsr.losses, got 'hinge'; no installed package"
    with pytest.raises(DataError, match=message):
        run()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.head=broken", "'broken' of lsr.heads is broken_package:Head of the package other-package, which can't "
         "be imported: ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
        ("model.head=gone", "can't be imported: AttributeError: .*Gone"),
        ("model.head=three", "'three' of lsr.heads must be a subclass of lsr.encode.heads.Head"),
        ("losses.plugins={pairs: 1}", r"'pairs' of lsr.losses must return .* got a tensor of the shape \(2, \d\)"),
    ],
)  # fmt: skip
def test_the_error_names_a_package_that_fails(run, tmp_path, change, message):
    with pytest.raises((EncoderError, TrainingError), match=message):
        run_training(run(change), tmp_path / "run")


@pytest.mark.usefixtures("installed")
def test_a_name_that_two_packages_use_is_refused(run, tmp_path):
    other = tmp_path / "site" / "second_package-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Name: second-package\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[lsr.losses]\nhinge = second_package:hinge\n")
    with pytest.raises(TrainingError, match=r"several packages have .*'hinge'.*: other_package:hinge, second_pack"):
        run_training(run(), tmp_path / "run")


@pytest.mark.usefixtures("installed")
def test_opening_an_encoder_without_its_package_is_an_error(run, tmp_path):
    folder = run_training(run("model.head=two-layers"), tmp_path / "run")
    (tmp_path / "site" / "other_package-1.0.dist-info" / "entry_points.txt").write_text("")
    with pytest.raises(EncoderError, match=r"head must be one of .*, got 'two-layers'.* entry points of lsr.heads"):
        load_encoder(folder)


@pytest.mark.usefixtures("installed")
def test_a_run_is_not_resumed_with_another_loss(run, tmp_path):
    run_training(run("checkpoint_every=1"), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"other settings \(losses.plugins\)"):
        run_training(run("losses.plugins={hinge: 1, pairs: 1}", "checkpoint_every=1"), tmp_path / "run")
