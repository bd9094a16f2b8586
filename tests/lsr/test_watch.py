"""A training run can be watched on a page of curves, by loggers, and by the user's own functions."""

from __future__ import annotations

import json
import re
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lsr.errors import TrainingError
from lsr.train.data import open_training
from lsr.train.settings import (
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    QuerySettings,
    RegularizerSettings,
    TrainSettings,
    ValidationSettings,
)
from lsr.train.sources import TrainingSource
from lsr.train.trainer import Helpers, Trainer
from lsr.train.watch import numbers, open_watcher
from lsr.train.watch_page import page

SETTINGS = {"optimizer": {"lr": 2e-5, "steps": 2}, "device": "cpu"}
LINES = [
    {"step": 1, "loss": 2.0, "flops": 3.0, "seconds": 0.5},
    {"step": 2, "loss": 1.0, "flops": 2.0, "seconds": 0.5},
    {"step": 2, "validation": {"nDCG@10": 0.25, "terms": 30.0}},
    {"step": 2, "collapse": ["empty vectors"]},
    {"step": 2, "finished": True},
]


@pytest.fixture
def settings(checkpoint, tmp_path):
    rows = [{"query": "cat dog", "positive": "the cat sat", "negative": "a dog"},
            {"query": "mat", "positive": "on the mat", "negative": "sat"}]  # fmt: skip
    (tmp_path / "triples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainSettings(
        model=ModelSettings(str(checkpoint), max_length=12),
        data=DataSettings((TrainingSource(str(tmp_path / "triples.jsonl")),), queries=2),
        losses=LossSettings(info_nce=1.0),
        queries=QuerySettings(max_length=8),
        optimizer=OptimizerSettings(steps=4),
        documents_regularizer=RegularizerSettings("flops", weight=0.01),
        validation=ValidationSettings(("held-out",), every=2),
        device="cpu",
    )


def run(settings, folder, *watchers):
    helpers = Helpers(validate=lambda _: {"nDCG@10": 0.5, "terms": 7.0}, watchers=watchers)
    return Trainer(settings, folder, open_training(settings.data.sources), helpers).run()


def test_a_function_gets_every_line_of_the_log_immediately(settings, tmp_path):
    seen, written = [], []

    def watch(line):
        seen.append(line)
        written.append((tmp_path / "run" / "log.jsonl").read_text().count("\n"))

    run(settings, tmp_path / "run", watch)
    kept = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert seen == [*kept, {"step": 4, "finished": True}]
    assert written == [*range(1, len(kept) + 1), len(kept)]
    assert [line["step"] for line in seen if "loss" in line] == [1, 2, 3, 4]
    assert all(line["flops"] > 0 and line["documents_terms"] > 0 for line in seen if "loss" in line)
    assert [line["validation"]["nDCG@10"] for line in seen if "validation" in line] == [0.5, 0.5]


def test_the_model_card_has_the_validation_figures(settings, tmp_path):
    best = run(settings, tmp_path / "run")
    for folder, step in ((best, 2), (tmp_path / "run" / "last", 4)):  # of equal encoders, the first is the best
        card = (folder / "README.md").read_text()
        assert f"Measured at step {step} by exact search of held-out; terms: " in card
        assert "| nDCG@10 | 0.5000 |\n| terms | 7.0000 |" in card


def test_a_failing_function_ends_the_run(settings, tmp_path):
    def watch(line):
        raise KeyboardInterrupt if line["step"] == 2 else TypeError

    with pytest.raises(TypeError):
        run(settings, tmp_path / "run", watch)


def test_the_page_has_curves_of_all_logged_values(settings, tmp_path):
    pages = []
    folder = tmp_path / "run"
    watch = page(folder, 4)

    def both(line):
        watch(line)
        pages.append((folder / "watch.html").read_text())

    run(settings, folder, both)
    assert '<meta http-equiv="refresh"' in pages[0]
    assert "Step 1 of 4" in pages[0]
    last = pages[-1]
    assert "refresh" not in last
    assert "Step 4 of 4, finished." in last
    captions = re.findall("<figcaption>(.*?)</figcaption>", last)
    assert captions[0].startswith("loss; now ")
    assert "validation/nDCG@10; now 0.5" in captions
    for name in ("info_nce", "flops: expected", "documents_terms", "queries_terms", "norm", "learning rate"):
        assert any(caption.startswith(name) for caption in captions), name
    assert len(re.findall("<polyline", last)) == len(captions)


def test_a_resumed_run_keeps_its_earlier_curves(settings, tmp_path):
    folder = tmp_path / "run"
    run(settings, folder)
    longer = replace(settings, optimizer=replace(settings.optimizer, steps=6))
    run(longer, folder, page(folder, 6))
    loss = re.search('<figcaption>loss; .*?<polyline points="(.*?)"', (folder / "watch.html").read_text())
    assert len(loss[1].split()) == 6


def test_long_curves_are_thinned_and_names_are_escaped(tmp_path):
    watch = page(tmp_path, 1000)
    for step in range(1, 1001):
        watch({"step": step, "<loss>": float(step)})
    watch({"step": 1000, "collapse": ["<empty>"]})
    watch({"step": 1000, "finished": True})
    text = (tmp_path / "watch.html").read_text()
    assert len(re.search('points="(.*?)"', text)[1].split()) == 200
    assert "&lt;loss&gt;" in text
    assert "step 1000: &lt;empty&gt;" in text


def test_numbers_are_taken_from_a_log_line():
    assert numbers(LINES[0]) == {"loss": 2.0, "flops": 3.0, "seconds": 0.5}
    assert numbers(LINES[2]) == {"validation/nDCG@10": 0.25, "validation/terms": 30.0}
    assert numbers(LINES[3]) == numbers(LINES[4]) == {}


def watch_lines(name, folder):
    """Send the log lines of a run to the logger called `name`."""
    watch = open_watcher(name, folder, SETTINGS)
    for line in LINES:
        watch(line)


def test_tensorboard_reads_settings_and_values(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    watch_lines("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 2.0), (2, 1.0)]
    assert [event.value for event in found.Scalars("validation/nDCG@10")] == [0.25]
    (text,) = found.Tensors("settings/text_summary")
    assert '"lr": 2e-05' in text.tensor_proto.string_val[0].decode()


def test_wandb_gets_settings_and_values(tmp_path, monkeypatch):
    calls = []
    one = SimpleNamespace(log=lambda found, step: calls.append((step, found)), finish=lambda: calls.append("finish"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **how: calls.append(how) or one))
    watch_lines("wandb", tmp_path / "mine")
    assert calls[0] == {"dir": str(tmp_path / "mine"), "name": "mine", "config": SETTINGS}
    assert calls[1] == (1, {"loss": 2.0, "flops": 3.0, "seconds": 0.5})
    assert calls[-2:] == [(2, {"validation/nDCG@10": 0.25, "validation/terms": 30.0}), "finish"]


def test_wandb_stores_settings_and_values(tmp_path, monkeypatch):
    """In offline mode, wandb writes the values to the file that `wandb sync` uploads."""
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("DIR", str(tmp_path))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "mine").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of wandb and its imports
        watch_lines("wandb", tmp_path / "mine")
        wandb.teardown()  # ends wandb's process, which writes the file
    (file,) = tmp_path.rglob("run-*.wandb")
    written = file.read_bytes()
    for kept in (b"validation/nDCG@10", b"0.25", b"optimizer", b'"lr":', b"flops", b"mine"):
        assert kept in written, kept


def test_mlflow_stores_settings_and_values(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of MLflow and its imports
        watch_lines("mlflow", tmp_path / "mine")
    (found,) = mlflow.MlflowClient().search_runs(["0"])
    assert found.info.run_name == "mine"
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] == 1.0
    assert found.data.metrics["validation/nDCG_10"] == 0.25
    assert found.data.params == {"optimizer.lr": "2e-05", "optimizer.steps": "2", "device": "cpu"}


def test_the_error_of_a_logger_that_cannot_start_has_one_line(tmp_path, monkeypatch):
    def init(**how):
        raise ValueError("No API key configured.\nmore")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(TrainingError, match=r"^wandb can't log this run: No API key configured\.$"):
        open_watcher("wandb", tmp_path, SETTINGS)


def test_a_function_can_be_given_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_logger.py").write_text("seen = []\ndef watch(line): seen.append(line)\n")
    monkeypatch.syspath_prepend(tmp_path)
    open_watcher("my_logger:watch", tmp_path, SETTINGS)({"step": 1})
    import my_logger

    assert my_logger.seen == [{"step": 1}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "'tensorbord' is no logger; there are tensorboard, wandb, mlflow, and module:function"),
        ("no_such_module:f", "no_such_module:f: can't be imported: No module named 'no_such_module'"),
        ("json:nothing", "json:nothing: can't be imported: .*nothing"),
        ("wandb", "logging to wandb needs that package: pip install wandb"),
    ],
)
def test_missing_loggers_are_reported(tmp_path, monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match=message):
        open_watcher(name, tmp_path, SETTINGS)
