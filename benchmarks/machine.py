"""The machine, date and versions that every benchmark prints and stores with its figures."""

from __future__ import annotations

import json
import resource
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numba
import numpy as np

from lsr._version import __version__
from lsr.eval.latency import machine

RESULTS = Path(__file__).parent / "results"


def conditions() -> dict[str, str]:
    """Return machine, date and versions."""
    return {
        "machine": machine(),
        "date": date.today().isoformat(),
        "versions": f"lsr {__version__}, numba {numba.__version__}, numpy {np.__version__}",
    }


def peak_memory() -> float:
    """Peak memory of this process in megabytes, including pages of mapped files."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def keep(name: str, values: dict[str, Any]) -> None:
    """Write values and conditions to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**conditions(), **values}, indent=1) + "\n")
    print(f"\nkept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
