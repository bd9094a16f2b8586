"""On real collections, the measures of a run by bm25s (another engine) agree with trec_eval."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from lsr.eval.datasets import open_dataset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ("cranfield", "cacm", "pubmedqa", "scifact")  # benchmarks/agreement.py runs all collections


@pytest.mark.parametrize("name", SMALL)
def test_measures_of_a_bm25s_run_equal_those_of_trec_eval(name, real_data, tmp_path, monkeypatch):
    pytest.importorskip("bm25s")
    pytest.importorskip("pytrec_eval")
    monkeypatch.syspath_prepend(BENCHMARKS)
    reference = importlib.import_module("agreement")
    split, published = reference.SETS[name]
    found = reference.agreement(open_dataset(str(real_data(name)), split), tmp_path)
    assert found["difference"] < 1e-6
    assert found["nDCG@10"] == pytest.approx(published, abs=0.0005)
