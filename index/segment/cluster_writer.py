"""Write the clusters of a segment."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.console import progress
from lsr.index.kernels.clustered import CLUSTER, GROUP, group, summarize
from lsr.index.segment.clusters import CLUSTERS, LINE, SCHEMAS
from lsr.index.segment.postings import Segment
from lsr.index.storage.arrow_file import ArrowFile, write_arrow


def write_clusters(segment: Segment, folder: Path, scratch: Path, mass: float) -> None:
    """Write the clusters of a segment. Memory holds one window per core, and the summaries.

    Args:
        segment: The segment, with 8-bit impacts.
        folder: Folder of the files.
        scratch: Folder of temporary files.
        mass: A cluster's summary keeps only the largest of its terms' impacts, until they reach this share of the sum
            of all.
    """
    columns = {"forward_terms": np.uint32, "forward_groups": np.uint32, "forward": np.uint16}
    counts = np.zeros(3, np.int64)
    ends: list[NDArray[np.int64]] = [np.empty((3, 0), np.int64)]
    summaries: list[tuple[NDArray[Any], ...]] = []
    threads = os.cpu_count() or 1
    with ExitStack() as stack:
        files = [stack.enter_context((scratch / name).open("w+b")) for name in columns]
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        bar = stack.enter_context(progress(segment.n_windows, "clusters", "windows"))
        files[1].write(np.zeros(_unused(folder / "forward_groups.arrow"), np.uint32).data)
        running: deque[Any] = deque()
        for w in range(segment.n_windows + threads - 1):
            if w < segment.n_windows:
                running.append(pool.submit(_window, segment, w, mass))
            if w < threads - 1:
                continue
            window_ends, written, (ranks, clusters, maxima) = running.popleft().result()
            for file, column in zip(files, written, strict=True):
                file.write(column.data)
            summaries.append((ranks, clusters + np.uint32(sum(e.shape[1] for e in ends)), maxima))
            ends.append(window_ends + counts[:, None])
            counts = ends[-1][:, -1]
            bar.update(1)
        for file, (name, dtype) in zip(files, columns.items(), strict=True):
            file.flush()
            write_arrow(folder / f"{name}.arrow", {SCHEMAS[f"{name}.arrow"].names[0]: _mapped(file, dtype)})
    all_ends = np.concatenate(ends, axis=1).astype(np.uint64)
    write_arrow(folder / CLUSTERS, dict(zip(SCHEMAS[CLUSTERS].names, all_ends, strict=True)))
    empty = np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.uint8)
    ranks, clusters, maxima = (np.concatenate(column) for column in zip(empty, *summaries, strict=True))
    by_term = np.argsort(ranks, kind="stable")
    write_arrow(folder / "summaries.arrow", {"cluster": clusters[by_term], "maximum": maxima[by_term]})
    summary_ends = np.cumsum(np.bincount(ranks, minlength=len(segment.terms))).astype(np.uint64)
    write_arrow(folder / "summary_ends.arrow", {"end": summary_ends})


def _unused(path: Path) -> int:
    """Return the number of unused entries that align the groups to cache lines.

    The offset of a column in an Arrow file depends only on the schema, so a small file shows it.
    """
    write_arrow(path, {"entry": np.zeros(1, np.uint32)})
    file = ArrowFile(path, SCHEMAS[path.name])
    return -file.offset(file.batch(0).column(0)) % LINE // 4


def _mapped(file: Any, dtype: Any) -> NDArray[Any]:
    return np.memmap(file.name, dtype, "r") if os.fstat(file.fileno()).st_size else np.empty(0, dtype)


def _window(
    segment: Segment, w: int, mass: float
) -> tuple[NDArray[np.int64], tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]:
    """Build the clusters of a window.

    Returns:
        (3, n_clusters) int64, ends of the clusters' documents, groups and postings; the columns of the files; and for
        each summary entry the term, the cluster within the window, and the largest impact.
    """
    postings = segment.postings_of(w)
    n_docs = postings[-1]
    n_clusters = -(-n_docs // CLUSTER)
    n_groups, n_postings = np.zeros(n_clusters, np.int64), np.zeros(n_clusters, np.int64)
    group(*postings, n_groups, n_postings, *_columns(0, 0))
    columns = _columns(int(n_groups.sum()), int(n_postings.sum()))
    group_ends, posting_ends = np.cumsum(n_groups) - n_groups, np.cumsum(n_postings) - n_postings
    group(*postings, group_ends, posting_ends, *columns)
    firsts, groups, maxima, grouped = columns
    kept = np.empty(len(groups), np.bool_)
    summarize(group_ends, maxima, mass, kept)
    at = np.flatnonzero(kept)
    clusters = np.searchsorted(group_ends, at // GROUP, side="right").astype(np.uint32)
    doc_ends = np.minimum(np.arange(1, n_clusters + 1) * CLUSTER, n_docs)
    summaries = (firsts[at // GROUP] + (groups[at] >> 16), clusters, maxima[at])
    return np.stack((doc_ends, group_ends, posting_ends)), (firsts, groups, grouped), summaries


def _columns(n_groups: int, n_postings: int) -> tuple[NDArray[Any], ...]:
    """Allocate the outputs of `group`."""
    return (
        np.empty(n_groups, np.uint32),
        np.empty(n_groups * GROUP, np.uint32),
        np.zeros(n_groups * GROUP, np.uint8),
        np.empty(n_postings, np.uint16),
    )
