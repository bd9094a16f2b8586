"""Import paths of the previous release still work, with a warning that names the new path."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

import lsr
from lsr._moved import MOVED, RENAMED
from lsr.sparse import SparseMatrix


def is_package(old):
    return any(home.startswith(old + ".") for home in MOVED[old].split())


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("lsr.corpus", "Document", "lsr.Document"),
        ("lsr.vectors", "ParquetWriter", "lsr.io.vectors_parquet.ParquetWriter"),
        ("lsr.encode.static", "InferenceFreeEncoder", "lsr.encode.InferenceFreeEncoder"),
        ("lsr.index.plan", "SearchSettings", "lsr.SearchSettings"),
        ("lsr.index.hybrid", "Hybrid", "lsr.Hybrid"),
        ("lsr.index.hybrid", "dense_of", "lsr.index.build_dense"),
        ("lsr.index.remote", "uploaded", "lsr.index.upload_index"),
        ("lsr.index.segment", "Segment", "lsr.index.segment.postings.Segment"),
        ("lsr.eval.report", "render_html", "lsr.eval.report.report.render_html"),
        ("lsr.eval.evaluate", "evaluate", "lsr.eval.evaluate_index"),
    ],
)
def test_an_old_path_gives_the_same_object_and_a_warning_with_the_new_path(old, name, new):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scope = {}
        exec(f"from {old} import {name}", scope)
    home, _, new_name = new.rpartition(".")
    assert scope[name] is getattr(importlib.import_module(home), new_name)
    assert told
    for warning in told:
        assert warning.category is DeprecationWarning
        assert str(warning.message).startswith(f"{old}.{name} has moved: import {new}.")
        assert warning.filename == "<string>"  # the warning points to the user's import, not to a file of the project


def test_all_old_paths_resolve_to_existing_modules():
    for old, homes in MOVED.items():
        assert is_package(old) or not importlib.import_module(old).__spec__.origin, f"{old} is a module again"
        for home in homes.split():
            assert importlib.util.find_spec(home).origin.endswith(".py"), home
    for old in RENAMED:
        module, _, name = old.rpartition(".")
        with pytest.warns(DeprecationWarning, match="has moved"):
            assert callable(getattr(importlib.import_module(module), name))


def test_unknown_modules_and_names_raise_import_errors():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'lsr\.nothing'"):
        importlib.import_module("lsr.nothing")
    for module in ("lsr.index.hybrid", "lsr.index.plan", "lsr.eval.evaluate"):
        with pytest.raises(ImportError, match="cannot import name 'nothing'"):
            exec(f"from {module} import nothing")


def test_submodules_of_former_modules_are_found_without_a_warning():
    code = (
        "from lsr.eval.report import tables; from lsr.index.storage import manifest; import lsr.index.segment.columns"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_old_save_and_load_methods_of_a_matrix_still_work(tmp_path):
    matrix = SparseMatrix.from_dicts([{1: 0.5}], 3)
    with pytest.warns(DeprecationWarning, match=r"SparseMatrix\.save has moved: import lsr\.save_matrix"):
        matrix.save(tmp_path / "m.parquet")
    with pytest.warns(DeprecationWarning, match=r"SparseMatrix\.load has moved: import lsr\.load_matrix"):
        assert SparseMatrix.load(tmp_path / "m.parquet") == matrix == lsr.load_matrix(tmp_path / "m.parquet")
