"""Import paths of earlier releases. They still work in this release, with a warning that names the new path.

A finder at the end of `sys.meta_path` imports modules that no longer exist. Where a package has taken over the name of
such a module, or a function was renamed, `names_of` finds the old names.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# Old path: new path, or several of them where a module was split.
MOVED = {
    "lsr.ciff": "lsr.io.ciff",
    "lsr.cluster": "lsr.distributed.ray_cluster",
    "lsr.convert": "lsr.io.convert",
    "lsr.corpus": "lsr.io.corpus lsr.io.document lsr.io.text_files lsr.io.streams lsr.io.rows lsr.io.ir_datasets",
    "lsr.encode.checkpoint": "lsr.encode.model_files lsr.encode.tokenizer",
    "lsr.encode.commands": "lsr.index.cli.encode",
    "lsr.encode.hub": "lsr.encode.load",
    "lsr.encode.onnx": "lsr.encode.onnx_export lsr.encode.onnx_runner",
    "lsr.encode.static": "lsr.encode.inference_free",
    "lsr.encode.stream": "lsr.encode.corpus lsr.encode.write",
    "lsr.eval.artifacts": "lsr.eval.experiment.artifact_cache",
    "lsr.eval.cells": "lsr.eval.report.formatting",
    "lsr.eval.commands": "lsr.eval.cli",
    "lsr.eval.experiment": "lsr.eval.experiment.experiment",
    "lsr.eval.figures": "lsr.eval.report.figures",
    "lsr.eval.plots": "lsr.eval.report.plots",
    "lsr.eval.reference": "lsr.eval.published_scores",
    "lsr.eval.report": "lsr.eval.report.report",
    "lsr.eval.result_folder": "lsr.eval.report.load_results",
    "lsr.eval.results": "lsr.eval.report.results",
    "lsr.eval.settings": "lsr.eval.experiment.settings",
    "lsr.eval.systems": "lsr.eval.experiment.systems",
    "lsr.eval.tables": "lsr.eval.report.tables",
    "lsr.eval.training": "lsr.eval.training.cli",
    "lsr.fetched": "lsr.io.remote_files",
    "lsr.index.arrow_files": "lsr.index.storage.arrow_file",
    "lsr.index.asynchronous": "lsr.index.async_index",
    "lsr.index.build_commands": "lsr.index.cli.build",
    "lsr.index.builder": "lsr.index.write.builder",
    "lsr.index.change_commands": "lsr.index.cli.modify",
    "lsr.index.changes": "lsr.index.write.update_batch",
    "lsr.index.clusters": "lsr.index.segment.clusters lsr.index.segment.cluster_writer",
    "lsr.index.columns": "lsr.index.segment.columns",
    "lsr.index.commands": "lsr.index.cli.search",
    "lsr.index.dense": "lsr.index.hybrid.dense",
    "lsr.index.dense_files": "lsr.index.hybrid.dense_files",
    "lsr.index.documents": "lsr.index.segment.doc_store",
    "lsr.index.exchange": "lsr.index.cli.export",
    "lsr.index.explain": "lsr.index.search.explain",
    "lsr.index.feedback": "lsr.index.search.feedback",
    "lsr.index.filters": "lsr.index.segment.filters lsr.index.segment.parse_filters",
    "lsr.index.found": "lsr.index.distributed.results",
    "lsr.index.fusion": "lsr.index.hybrid.fusion",
    "lsr.index.group": "lsr.index.search.segment_group",
    "lsr.index.hits": "lsr.index.search.hits",
    "lsr.index.hybrid": "lsr.index.hybrid.hybrid",
    "lsr.index.joined": "lsr.index.sharding.local",
    "lsr.index.kernels.blocks": "lsr.index.kernels.block_max",
    "lsr.index.kernels.clusters": "lsr.index.kernels.clustered",
    "lsr.index.kernels.lists": "lsr.index.kernels.layout",
    "lsr.index.kernels.ordering": "lsr.index.kernels.bisection",
    "lsr.index.kernels.query": "lsr.index.kernels.quantize",
    "lsr.index.kernels.ranking": "lsr.index.kernels.topk",
    "lsr.index.merge": "lsr.index.write.merge",
    "lsr.index.merger": "lsr.index.write.background_merger",
    "lsr.index.ordering": "lsr.index.segment.reorder",
    "lsr.index.pending": "lsr.index.write.buffer",
    "lsr.index.plan": "lsr.index.search.settings",
    "lsr.index.quantize": "lsr.index.segment.quantize",
    "lsr.index.queries": "lsr.index.search.query_file",
    "lsr.index.query_side": "lsr.index.search.query_encoder",
    "lsr.index.ray_replicas": "lsr.index.distributed.ray_actors",
    "lsr.index.reader": "lsr.index.search.reader",
    "lsr.index.remote": "lsr.index.sharding.remote",
    "lsr.index.replicas": "lsr.index.distributed.hedging",
    "lsr.index.reshard": "lsr.index.distributed.reshard",
    "lsr.index.searcher": "lsr.index.search.searcher",
    "lsr.index.segment": "lsr.index.segment.postings",
    "lsr.index.segment_writer": "lsr.index.segment.postings_writer",
    "lsr.index.serve.commands": "lsr.index.cli.serve",
    "lsr.index.serve.facts": "lsr.index.serve.index_info",
    "lsr.index.serve.http": "lsr.index.serve.responses",
    "lsr.index.serve.models": "lsr.index.serve.schemas lsr.index.serve.answers",
    "lsr.index.serve.served": "lsr.index.serve.service",
    "lsr.index.serve.work": "lsr.index.serve.thread_pool",
    "lsr.index.shard": "lsr.index.distributed.shard_server",
    "lsr.index.shard_builder": "lsr.index.distributed.build",
    "lsr.index.shard_worker": "lsr.index.distributed.build_worker",
    "lsr.index.sharded": "lsr.index.distributed.sharded_index lsr.index.distributed.thread_replicas",
    "lsr.index.shards": "lsr.index.sharding.manifest lsr.index.sharding.remote",
    "lsr.index.snapshot": "lsr.index.search.snapshot lsr.index.search.open_segment lsr.index.search.index_encoder",
    "lsr.index.storage": "lsr.index.storage.manifest",
    "lsr.index.stretches": "lsr.index.distributed.vector_ranges",
    "lsr.index.transaction": "lsr.index.storage.transaction",
    "lsr.index.writer": "lsr.index.write.writer",
    "lsr.jsonl": "lsr.io.jsonl",
    "lsr.metadata": "lsr.io.metadata",
    "lsr.opensearch": "lsr.io.opensearch",
    "lsr.places": "lsr.io.object_store",
    "lsr.regroup": "lsr.io.external_sort",
    "lsr.rows": "lsr.io.rows",
    "lsr.runs": "lsr.io.runs",
    "lsr.train.cache": "lsr.train.dataset_cache",
    "lsr.train.collapse": "lsr.train.collapse_check",
    "lsr.train.commands": "lsr.train.cli",
    "lsr.train.folder": "lsr.train.run_folder",
    "lsr.train.queries": "lsr.train.query_table",
    "lsr.train.rows": "lsr.train.state_cache",
    "lsr.train.texts": "lsr.train.text_store",
    "lsr.vectors": "lsr.io.open_vectors lsr.io.vectors lsr.io.vectors_parquet",
    "lsr.wire": "lsr.io.protobuf",
    "lsr.workers": "lsr.distributed.pool",
}


# Old path of a function or class: its new name.
RENAMED = {
    "lsr.eval.bench.bench": "bench_index",
    "lsr.eval.evaluate.evaluate": "evaluate_index",
    "lsr.index.builder.Known": "EncoderMetadata",
    "lsr.index.feedback.expanded": "expand_query",
    "lsr.index.hybrid.dense_of": "build_dense",
    "lsr.index.pending.Stored": "PendingSegment",
    "lsr.index.query_side.QuerySide": "QueryEncoding",
    "lsr.index.remote.downloaded": "download_index",
    "lsr.index.remote.uploaded": "upload_index",
    "lsr.index.reshard.reshard": "reshard_index",
    "lsr.index.serve.work.Workers": "ThreadPool",
    "lsr.index.snapshot.Part": "OpenSegment",
    "lsr.index.snapshot.Shared": "IndexEncoder",
    "lsr.index.storage.refuse_others": "check_output_empty",
    "lsr.index.storage.sealed": "with_checksum",
    "lsr.index.transaction.Aside": "MergeWorkspace",
    "lsr.index.transaction.NewFiles": "StagedFiles",
    "lsr.places.beside": "with_suffix",
}


class _Finder(MetaPathFinder, Loader):
    """Imports an old path as a module that fetches each name from its new place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = names_of(module.__name__)


def names_of(old: str) -> Callable[[str], Any]:
    """A `__getattr__` that finds the names of the module `old` in their new places."""

    def __getattr__(name: str) -> Any:
        # Perhaps the name is a module of the package that hasn't been imported yet.
        inner = "__path__" in vars(sys.modules[old]) and find_spec(f"{old}.{name}")
        if not name.startswith("__") and not inner:
            new = RENAMED.get(f"{old}.{name}", name)
            for home in MOVED.get(old, old).split():
                value = getattr(importlib.import_module(home), new, None) if (home, new) != (old, name) else None
                if value is not None and not isinstance(value, ModuleType):
                    home = getattr(value, "__module__", home)
                    _warn(f"{old}.{name}", f"{_face_of(new, home)}.{new}")
                    return value
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return __getattr__


def _face_of(name: str, home: str) -> str:
    """The package that exports a name, or else its module."""
    for face in ("lsr", "lsr.encode", "lsr.index", "lsr.train", "lsr.eval"):
        if importlib.import_module(face)._HOMES.get(name) == home:
            return face
    return home


def moved_function(old: str, module: str, name: str) -> Callable[..., Any]:
    """Return the function that replaces a removed method, and warn."""
    _warn(old, f"{_face_of(name, module)}.{name}")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def renamed(old: str, new: str) -> None:
    """Warn that a method has another name now."""
    message = f"{old} is now {new}. The next release removes the old name."
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def _warn(old: str, new: str) -> None:
    message = f"{old} has moved: import {new}. The next release removes the old path."
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def install() -> None:
    """Make old paths importable from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
