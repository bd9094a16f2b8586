"""A writer is killed twice, or repeatedly for LSR_LONG_TESTS seconds, while readers check the index."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_no_document_is_lost_duplicated_or_half_visible(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    soak, seconds = importlib.import_module("soak").soak, os.environ.get("LSR_LONG_TESTS")
    idx = tmp_path / "idx"
    facts = soak(idx, float(seconds), readers=2) if seconds else soak(idx, 600, readers=2, most_kills=2)
    assert facts["failures"] == []
    assert facts["kills"] >= 2
    assert facts["generations"] > 0
    assert facts["snapshots_checked"] > 0
