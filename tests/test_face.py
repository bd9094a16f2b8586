"""`lsr`, `lsr.encode`, `lsr.index`, `lsr.train` and `lsr.eval` export the public API."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

FACES = ("lsr", "lsr.encode", "lsr.index", "lsr.train", "lsr.eval")
# Names that README and docs import.
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
    """{name: defining module}, from the package's table of lazy imports."""
    return importlib.import_module(face)._HOMES


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_is_exported(face):
    module = importlib.import_module(face)
    assert sorted({*module.__all__} - {"__version__"}) == sorted(homes(face))
    for name, home in homes(face).items():
        value = getattr(module, name)
        assert value is getattr(importlib.import_module(home), name), name
        assert name in dir(module)
        assert not isinstance(value, type(sys)), f"{face}.{name} is a module"


@pytest.mark.parametrize("face", FACES)
def test_documented_names_are_exported(face):
    assert {*PROMISED[face].split()} <= {*importlib.import_module(face).__all__}


@pytest.mark.parametrize("face", FACES)
def test_type_checkers_see_the_same_names(face):
    """Type checkers read the TYPE_CHECKING block, not the table of lazy imports, so the two must agree."""
    path = importlib.import_module(face).__file__
    seen = {}
    for node in ast.parse(Path(path).read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert all(alias.asname == alias.name for alias in line.names), ast.unparse(line)
                seen |= {alias.name: line.module for alias in line.names}
    assert seen == homes(face)


def is_protocol(value):
    return bool(getattr(value, "_is_protocol", False))


def signatures(face):
    """(name, signature) of each public function, and of each public method of the public classes."""
    for name in homes(face):
        value = getattr(importlib.import_module(face), name)
        if inspect.isclass(value):
            made = not getattr(value, "_is_protocol", False)  # protocols aren't instantiated
            for method, function in vars(value).items():
                if method == "__init__" and is_protocol(value):  # Python generates the constructor of a protocol
                    continue
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function) and (not method.startswith("_") or (made and method == "__init__")):
                    yield f"{name}.{method}", inspect.signature(function)
        elif callable(value):
            yield name, inspect.signature(value)


@pytest.mark.parametrize("face", FACES)
def test_no_public_signature_takes_arbitrary_keywords(face):
    """Editors can complete named keywords, and type checkers can find misspelled keywords."""
    free = [
        f"{name}: {parameter}"
        for name, signature in signatures(face)
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and not str(parameter.annotation).startswith("Unpack[")
    ]
    assert free == []


def test_declared_options_equal_the_accepted_options():
    """TypedDicts declare options that are passed on as **keywords. They must match the signature that is called."""
    from lsr.encode.bm25 import BM25Encoder
    from lsr.encode.load import _BM25_SETTINGS, _CODE_SETTINGS, _MODEL_SETTINGS, EncoderOptions
    from lsr.encode.splade import SpladeEncoder
    from lsr.encode.tower import ModelOptions, ReadingOptions, Tower, TowerOptions
    from lsr.index import Index, SearchSettings
    from lsr.index.search.options import Options
    from lsr.index.search.settings import RankingOptions, SearchOptions
    from lsr.index.write.builder import BuildOptions

    def keywords(call):
        return {name for name, one in inspect.signature(call).parameters.items() if one.kind is one.KEYWORD_ONLY}

    types = {name: one.__forward_arg__ for name, one in RankingOptions.__annotations__.items()}
    assert types == {field.name: field.type for field in dataclasses.fields(SearchSettings)}
    beside = {*SearchOptions.__annotations__} - {*types}
    assert beside == {field.name for field in dataclasses.fields(Options) if field.init}
    assert {*BuildOptions.__annotations__} == keywords(Index.build) - {"ids"}  # `ids` is only for a matrix
    assert {*TowerOptions.__annotations__} == {f.name for f in dataclasses.fields(Tower)} - {"checkpoint", "subfolder"}
    assert {*ModelOptions.__annotations__} - {*ReadingOptions.__annotations__} <= keywords(SpladeEncoder)
    assert {*EncoderOptions.__annotations__} == {*_MODEL_SETTINGS, *_BM25_SETTINGS, *_CODE_SETTINGS, "entities"}
    assert {*_BM25_SETTINGS} == {*inspect.signature(BM25Encoder).parameters}


def test_importing_public_packages_loads_no_heavy_library():
    code = f"import json, sys\nfor name in {FACES!r}: __import__(name)\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numba", "numpy", "pyarrow", "transformers", "click"} & {*json.loads(ran.stdout)}


def test_importing_an_unknown_name_raises_import_error():
    with pytest.raises(ImportError, match="cannot import name 'Indexx'"):
        from lsr import Indexx  # noqa: F401
