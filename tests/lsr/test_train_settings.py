"""Settings of a training run: numbers have ranges, and all settings that are invalid or idle are reported at once."""

from __future__ import annotations

import dataclasses
import math

import pytest

from lsr.config import Range, read_config
from lsr.errors import DataError
from lsr.train import settings as module
from lsr.train.idle import idle_settings
from lsr.train.settings import LossSettings, TrainSettings
from lsr.train.sources import TrainingSource

pytest.importorskip("yaml")

PLAIN = """\
model: {checkpoint: x}
data: {sources: [path: x.jsonl]}
losses: {info_nce: 1}
optimizer: {steps: 100}
"""
CLASSES = [TrainingSource] + [
    kind for name, kind in vars(module).items() if name.endswith("Settings") and name != "Settings"
]


@pytest.fixture
def read(tmp_path):
    """Returns a function that reads a settings file with some changes."""

    def read_text(*changes, text=PLAIN):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return read_config(path, TrainSettings, changes)

    return read_text


def test_every_number_has_a_range():
    assert TrainingSource in CLASSES
    assert len(CLASSES) >= 11
    for kind in CLASSES:
        for field in dataclasses.fields(kind):
            if str(field.type) in ("int", "float", "int | None", "float | None"):
                assert isinstance(field.metadata.get("allowed"), Range), f"{kind.__name__}.{field.name}"


@pytest.mark.parametrize(
    "change",
    [
        "optimizer.lr=-1e-3", "optimizer.lr=0", "optimizer.head_lr=-1", "optimizer.term_lr=0", "optimizer.clip=-1",
        "optimizer.clip=0", "optimizer.weight_decay=-0.1", "optimizer.warmup=-1", "optimizer.accumulate=0",
        "optimizer.steps=0", "optimizer.lr=.nan", "optimizer.clip=.inf", "losses.info_nce=-1", "losses.kl=-0.1",
        "losses.margin_mse=-2", "losses.temperature=0", "losses.temperature=-1", "losses.scale=-30",
        "documents_regularizer.weight=-0.1", "documents_regularizer.ramp=-5", "documents_regularizer.threshold=-1",
        "queries_regularizer.anti_zero=-1", "data.negatives=-1", "data.queries=0", "data.refresh_every=-1",
        "data.refresh_share=1.5", "sample_terms=-3", "seed=-1", "model.lora=-3", "model.freeze=-1",
        "model.max_length=2", "queries.max_length=0", "lexical=-0.5", "lexical=.inf", "batch_tokens=0",
        "checkpoint_every=0", "validation={sets: [x], every: 0}", "validation={sets: [x], patience: -1}",
        "pretrain={steps: 5, mask_share: 1}", "pretrain={steps: 5, flops: -1}",
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(read, change):
    with pytest.raises(DataError, match=r"--set .*: \S+ must be (at least|above|a finite)") as refused:
        read(change)
    assert len(str(refused.value).splitlines()) == 1


def test_all_problems_are_named_with_their_lines(read):
    text = PLAIN.replace("{steps: 100}", "\n  steps: -4\n  lr: -1\n  clip: 0") + "seed: -1\nsample_terms: -3\n"
    with pytest.raises(DataError) as refused:
        read(text=text)
    lines = [line.partition("run.yaml:")[2] for line in str(refused.value).splitlines()]
    assert lines == [
        "5: optimizer.steps must be at least 1, got -4",
        "6: optimizer.lr must be above 0, got -1.0",
        "7: optimizer.clip must be above 0, got 0.0",
        "8: seed must be at least 0 and below 9.22337e+18, got -1",
        "9: sample_terms must be at least 0, got -3",
    ]


def test_settings_made_in_python_are_checked_too():
    with pytest.raises(ValueError, match="kl must be at least 0, got -1\ntemperature must be above 0, got nan"):
        LossSettings(kl=-1, temperature=math.nan)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([], []),
        (["queries.kind=table", "queries_regularizer={kind: l1, weight: 1}"],
         ["queries_regularizer: queries of the kind table have no weights to regularize"]),
        (["losses.temperature=2", "losses.info_nce=0", "losses.margin_mse=1"],
         ["losses.temperature 2: neither info_nce nor bank has a weight"]),
        (["losses.scale=5", "losses.teacher_scores=raw", "losses.margin_pairs=all", "teachers=[encoder: bm25]"],
         ["teachers: neither kl nor margin_mse has a weight", "losses.teacher_scores raw: kl has no weight",
          "losses.scale 5: kl has no weight", "losses.margin_pairs all: margin_mse has no weight"]),
        (["losses={kl: 1, margin_mse: 1}", "data.negatives=0"],
         ["losses.margin_mse: data.negatives is 0, so no query has a pair",
          "losses.kl: data.negatives is 0, so no query has two candidates"]),
        (["losses.kl=1", "data.negatives=0", "teachers=[encoder: bm25]"], []),
        (["data={sources: [path: x], negatives: 0, queries: 1}"],
         ["losses.info_nce: data.queries is 1 and data.negatives 0, so no query has a negative"]),
        (["model.head=lexical", "model.pooling=sum", "model.saturation=log1p_log1p"],
         ["model.pooling sum: the head lexical has its own pooling",
          "model.saturation log1p_log1p: the head lexical has none"]),
        (["optimizer.head_lr=1", "optimizer.term_lr=2"],
         ["optimizer.head_lr 1: neither the head nor the queries have weights of their own",
          "optimizer.term_lr 2: neither the head nor the queries have weights of their own"]),
        (["optimizer.term_lr=2", "queries.kind=table"], []),
        (["documents_regularizer={ramp: 5, threshold: 9}"],
         ["documents_regularizer.ramp 5: its weight is 0",
          "documents_regularizer.threshold 9: only l0_flops and group have one, not flops"]),
        (["documents_regularizer={ramp: 5, weight: 1, schedule: constant}"],
         ["documents_regularizer.ramp 5: its schedule is constant"]),
        (["documents_regularizer={ramp: 100, weight: 1}", "optimizer.warmup=100"],
         ["documents_regularizer.weight 1 is never reached: it grows for 100 of 100 steps",
          "optimizer.lr is never reached: it grows for 100 of 100 steps"]),
        (["data.refresh_count=5", "data.refresh_share=0.5"],
         ["data.refresh_count 5: refresh_every is 0", "data.refresh_share 0.5: refresh_every is 0"]),
        (["data.refresh_every=100"], ["data.refresh_every 100: there are only 100 steps"]),
        (["data.sources=[{path: x.jsonl, split: dev}]"], ["data.sources[0].split dev: a file has no splits"]),
    ],
)  # fmt: skip
def test_settings_without_effect_are_reported(read, changes, told):
    assert idle_settings(read(*changes)) == told
