"""The public face: what `lsr`, `lsr.encode`, `lsr.index`, `lsr.train` and `lsr.eval` export."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

FACES = ("lsr", "lsr.encode", "lsr.index", "lsr.train", "lsr.eval")
# What README and docs import; a name that goes breaks somebody's program.
PROMISED = {
    "lsr": "Client Document Encoder Hit Hybrid Index LsrError Passages SearchSettings SparseMatrix load_encoder "
    "load_matrix open_corpus read_vectors save_matrix",
    "lsr.encode": "BM25Encoder HybridEncoder InferenceFreeEncoder SpladeEncoder load_encoder",
    "lsr.index": "AsyncIndex Change Client Explanation Filter Hit Hybrid Index SearchSettings ShardedIndex build_dense "
    "build_shards download_index expand_query read_queries reshard_index upload_index",
    "lsr.train": "TrainSettings Trainer mine_negatives open_training run_training",
    "lsr.eval": "ExperimentSettings bench_index check_run compare_values evaluate_index evaluate_run open_dataset "
    "run_experiment tune write_report",
}


def homes(face):
    """{name: module}, as the package's table has it."""
    return importlib.import_module(face)._HOMES


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_is_where_the_table_says(face):
    module = importlib.import_module(face)
    assert sorted({*module.__all__} - {"__version__"}) == sorted(homes(face))
    for name, home in homes(face).items():
        value = getattr(module, name)
        assert value is getattr(importlib.import_module(home), name), name
        assert name in dir(module)
        assert not isinstance(value, type(sys)), f"{face}.{name} is a module"


@pytest.mark.parametrize("face", FACES)
def test_what_was_promised_is_there(face):
    assert {*PROMISED[face].split()} <= {*importlib.import_module(face).__all__}


@pytest.mark.parametrize("face", FACES)
def test_type_checkers_see_the_same_names(face):
    """What they read is the block for them, not the table."""
    path = importlib.import_module(face).__file__
    seen = {}
    for node in ast.parse(Path(path).read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert all(alias.asname == alias.name for alias in line.names), ast.unparse(line)
                seen |= {alias.name: line.module for alias in line.names}
    assert seen == homes(face)


def test_a_face_brings_in_nothing_heavy():
    code = f"import json, sys\nfor name in {FACES!r}: __import__(name)\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numba", "numpy", "pyarrow", "transformers", "click"} & {*json.loads(ran.stdout)}


def test_a_name_that_is_not_there_is_missing():
    with pytest.raises(ImportError, match="cannot import name 'Indexx'"):
        from lsr import Indexx  # noqa: F401
