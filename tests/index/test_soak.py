"""A writer that is killed again and again beside readers, for some seconds; LSR_SOAK_SECONDS for more."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_nothing_is_lost_doubled_or_half_visible(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    facts = importlib.import_module("soak").soak(
        tmp_path / "idx", float(os.environ.get("LSR_SOAK_SECONDS", "20")), readers=2
    )
    assert facts["failures"] == []
    assert facts["kills"] >= 2
    assert facts["generations"] > 0
    assert facts["snapshots_checked"] > 0
