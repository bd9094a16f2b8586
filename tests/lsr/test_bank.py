"""A bank of frozen negatives: its loss equals a hand-worked value and skips known positives; runs resume exactly."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lsr.errors import DataError  # noqa: E402
from lsr.train.data import open_training  # noqa: E402
from lsr.train.settings import (  # noqa: E402
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    PretrainSettings,
    QuerySettings,
    TrainSettings,
)
from lsr.train.sources import TrainingSource  # noqa: E402
from lsr.train.trainer import Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("training_environment")

TEXTS = ["the cat sat", "dog on mat", "abc def", "ghij the cat", "mat mat dog"]


@pytest.fixture
def settings(checkpoint, tmp_path):
    path = tmp_path / "triples.jsonl"
    lines = [
        {"query": text.split()[0], "positives": [text, TEXTS[(i + 1) % 5]], "negatives": [TEXTS[(i + 2) % 5]]}
        for i, text in enumerate(TEXTS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return TrainSettings(
        model=ModelSettings(str(checkpoint), max_length=20, dropout=0.0),
        data=DataSettings((TrainingSource(str(path)),), queries=2, negatives=1, bank=4),
        losses=LossSettings(bank=1.0),
        queries=QuerySettings(max_length=16),
        optimizer=OptimizerSettings(steps=6, lr=1e-3, warmup=1),
        checkpoint_every=3,
        device="cpu",
    )


def trainer(settings, folder):
    return Trainer(settings, folder, open_training(settings.data.sources))


def vectors(run, texts):
    run.student.model.eval()
    ids = run.student.tokenizer.ids(texts, 20, special=True)
    return run.student.network.forward(ids, None).detach()


@pytest.mark.parametrize("kind", ["encoded", "table"])
def test_the_loss_equals_a_hand_worked_value(settings, tmp_path, kind):
    settings = replace(settings, queries=QuerySettings(kind, max_length=16))
    run = trainer(settings, tmp_path / "run")
    bank = run.losses._bank
    assert len(bank) == 4
    stored = vectors(run, list(bank._places))
    queries = stored[:2] * (torch.rand(stored[:2].shape) < 0.5)
    queries.requires_grad_()
    own = torch.tensor([1.0, 2.0])
    first, second, *_ = bank._places
    value = bank.loss(queries, None, own, [[first, second], [second]])
    scores = (queries @ stored.T).detach().numpy()
    expected = [
        np.log1p(np.exp(scores[0, 2:] - 1.0).sum()),
        np.log1p(np.exp(scores[1, [0, 2, 3]] - 2.0).sum()),
    ]
    assert float(value.detach()) == pytest.approx(np.mean(expected), rel=1e-4)
    terms = torch.arange(3, queries.shape[1])
    part = bank.loss(queries[:, 3:], terms, own, [[], []])
    whole = bank.loss(torch.nn.functional.pad(queries[:, 3:], (3, 0)), None, own, [[], []])
    assert float(part.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    value.backward()
    assert queries.grad is not None


def test_the_bank_stays_frozen_and_runs_resume_exactly(settings, tmp_path):
    whole = trainer(settings, tmp_path / "whole")
    before = whole.losses._bank._columns.copy()
    whole.run()
    assert (whole.losses._bank._columns != before).nnz == 0
    losses = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    found = [line["bank"] for line in losses if "bank" in line]
    assert len(found) == 6
    assert all(map(math.isfinite, found))
    trainer(replace(settings, optimizer=replace(settings.optimizer, steps=6)), tmp_path / "part")
    part = trainer(settings, tmp_path / "part")
    for _ in range(3):
        examples = part._examples()
        part._update(examples)
        part.step += 1
    part._save()
    again = trainer(settings, tmp_path / "part")
    assert again.step == 3
    assert (again.losses._bank._columns != before).nnz == 0
    again.run()
    assert torch.equal(vectors(again, TEXTS), vectors(whole, TEXTS))


def test_training_lowers_the_loss(settings, tmp_path):
    settings = replace(settings, optimizer=OptimizerSettings(steps=30, lr=3e-3, warmup=2))
    trainer(settings, tmp_path / "run").run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = [line["bank"] for line in lines if "bank" in line]
    assert np.mean(found[-5:]) < np.mean(found[:5])


def test_pretraining_with_a_bank_is_refused(settings):
    with pytest.raises((ValueError, DataError), match="can't be combined with pretrain"):
        replace(settings, pretrain=PretrainSettings(steps=2))
