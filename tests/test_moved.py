"""Import paths of the release before: they work, and name the new ones."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

from lsr._moved import MOVED


@pytest.fixture
def forget():
    """Old paths aren't known yet, and aren't left behind."""
    before = {name: sys.modules.pop(name) for name in MOVED if name in sys.modules and not is_package(name)}
    yield
    for name in MOVED:
        if not is_package(name):
            sys.modules.pop(name, None)
    sys.modules.update(before)


def is_package(old):
    return any(home.startswith(old + ".") for home in MOVED[old].split())


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("lsr.sparse", "lsr.sparse", "SparseMatrix"),
        ("lsr.encode.static", "lsr.encode.inference_free", "InferenceFreeEncoder"),
        ("lsr.index.plan", "lsr.index.search.settings", "SearchSettings"),
        ("lsr.index.hybrid", "lsr.index.hybrid.hybrid", "Hybrid"),
        ("lsr.index.segment", "lsr.index.segment.postings", "Segment"),
        ("lsr.eval.report", "lsr.eval.report.report", "render_html"),
    ],
)
def test_an_old_path_gives_the_same_object_and_names_the_new_one(forget, old, new, name):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scope = {}
        exec(f"from {old} import {name}", scope)
    assert scope[name] is getattr(importlib.import_module(new), name)
    assert bool(told) == (old != new)
    for warning in told:
        assert warning.category is DeprecationWarning
        assert new in str(warning.message)
        assert warning.filename == "<string>"  # the line that imports, not ours


def test_every_new_path_exists_and_no_old_one_does(forget):
    for old, homes in MOVED.items():
        for home in homes.split():
            assert importlib.util.find_spec(home).origin.endswith(".py"), home
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            importlib.import_module(old)
        assert is_package(old) == (not [w for w in told if "has moved" in str(w.message)]) or " " in homes, old


def test_a_module_that_never_was_is_missing():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'lsr\.nothing'"):
        importlib.import_module("lsr.nothing")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from lsr.index.hybrid import nothing")


def test_modules_of_packages_that_were_modules_are_found_without_a_word():
    code = (
        "from lsr.eval.report import tables; from lsr.index.storage import manifest; import lsr.index.segment.columns"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
