"""Clusters of a segment: optional files beside its postings, for approximate search. How it works is told by
lsr.index.kernels.clustered.

    clusters.arrow         of each cluster where its documents, its groups of terms and its postings end, uint64
    forward_terms.arrow    the first term of each group of 15, by cluster, uint32
    forward_groups.arrow   the terms of each group, and where their postings begin and end, 16 entries, uint32; before
                           the first group less than 16 unused entries
    forward.arrow          the postings by cluster, term and document: impact times 256 plus document, uint16
    summaries.arrow        by term, the clusters whose summaries hold it, uint32, and its largest impact there, uint8
    summary_ends.arrow     where the summaries' entries of each term end, uint64

Terms are places among the terms of the segment. A cluster is a run of at most 64 documents of one window, so clusters
are worth most where similar documents are stored side by side.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.console import progress
from lsr.errors import CorruptIndex
from lsr.index.kernels.clustered import CLUSTER, GROUP, Clusters, group, summarize
from lsr.index.storage.arrow_file import ArrowFile, write_arrow

if TYPE_CHECKING:
    from lsr.index.segment.postings import Segment

CLUSTERS = "clusters.arrow"  # an index that has this file has clusters
SUMMARY_MASS = 0.6
_LINE = 64  # bytes of a cache line
_SCHEMAS = {
    CLUSTERS: pa.schema([("doc_end", pa.uint64()), ("group_end", pa.uint64()), ("posting_end", pa.uint64())]),
    "forward_terms.arrow": pa.schema([("first", pa.uint32())]),
    "forward_groups.arrow": pa.schema([("entry", pa.uint32())]),
    "forward.arrow": pa.schema([("posting", pa.uint16())]),
    "summaries.arrow": pa.schema([("cluster", pa.uint32()), ("maximum", pa.uint8())]),
    "summary_ends.arrow": pa.schema([("end", pa.uint64())]),
}


def open_clusters(folder: Path, n_used: int) -> Clusters:
    """Map the files of clusters.

    Args:
        folder: Where they lie.
        n_used: Terms of the segment.

    Raises:
        CorruptIndex: A file isn't whole, or doesn't fit the others.
    """
    columns = []
    for name, schema in _SCHEMAS.items():
        file = ArrowFile(folder / name, schema)
        columns.append([file.column(column) for column in schema.names])
    (doc_ends, group_ends, posting_ends), (firsts,), (groups,), (postings,), (owners, maxima), (ends,) = columns
    unused = len(groups) - GROUP * len(firsts)
    if not 0 <= unused < GROUP or len(ends) != n_used:
        raise CorruptIndex(f"{folder}: the files of the clusters don't fit together; build the index again")
    groups = groups[unused:]
    return Clusters(doc_ends, group_ends, posting_ends, firsts, groups, postings, ends, owners, maxima)


def document_of(clusters: Clusters, place: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """A document's row of the forward index: its terms, as places among those of the segment, and their impacts.

    Args:
        clusters: The mapped files, as they were written.
        place: Where the document is stored.
    """
    c = int(np.searchsorted(clusters.doc_ends, np.uint64(place), side="right"))
    first_doc, first_group, first_posting = (
        int(ends[c - 1]) if c else 0 for ends in (clusters.doc_ends, clusters.group_ends, clusters.posting_ends)
    )
    groups = clusters.groups[first_group * GROUP : int(clusters.group_ends[c]) * GROUP].reshape(-1, GROUP)
    ranks = clusters.firsts[first_group : int(clusters.group_ends[c]), None].astype(np.int64) + (groups[:, 1:] >> 16)
    # An unused place holds no end; with that of the place before it has no postings.
    ends = groups[:, :1].astype(np.int64) + np.maximum.accumulate(groups[:, 1:] & 0xFFFF, axis=1)
    postings = clusters.postings[first_posting : int(clusters.posting_ends[c])]
    at = np.flatnonzero((postings & 0xFF) == place - first_doc)
    return ranks.ravel()[np.searchsorted(ends.ravel(), at, side="right")], (postings[at] >> 8).astype(np.uint8)


def write_clusters(segment: Segment, folder: Path, scratch: Path, mass: float) -> None:
    """Write the clusters of a segment, a window on each core at a time; what is held besides are the summaries.

    Args:
        segment: The segment, of 8-bit impacts.
        folder: Where the files go.
        scratch: Where temporary files go.
        mass: The share of the sum of a cluster's largest impacts that its summary is to hold.
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
            write_arrow(folder / f"{name}.arrow", {_SCHEMAS[f"{name}.arrow"].names[0]: _mapped(file, dtype)})
    all_ends = np.concatenate(ends, axis=1).astype(np.uint64)
    write_arrow(folder / CLUSTERS, dict(zip(_SCHEMAS[CLUSTERS].names, all_ends, strict=True)))
    empty = np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.uint8)
    ranks, clusters, maxima = (np.concatenate(column) for column in zip(empty, *summaries, strict=True))
    by_term = np.argsort(ranks, kind="stable")
    write_arrow(folder / "summaries.arrow", {"cluster": clusters[by_term], "maximum": maxima[by_term]})
    summary_ends = np.cumsum(np.bincount(ranks, minlength=len(segment.terms))).astype(np.uint64)
    write_arrow(folder / "summary_ends.arrow", {"end": summary_ends})


def _unused(path: Path) -> int:
    """How many unused entries let each group begin at a cache line. Where a column begins within an Arrow file depends
    only on the schema.
    """
    write_arrow(path, {"entry": np.zeros(1, np.uint32)})
    file = ArrowFile(path, _SCHEMAS[path.name])
    return -file.offset(file.batch(0).column(0)) % _LINE // 4


def _mapped(file: Any, dtype: Any) -> NDArray[Any]:
    return np.memmap(file.name, dtype, "r") if os.fstat(file.fileno()).st_size else np.empty(0, dtype)


def _window(
    segment: Segment, w: int, mass: float
) -> tuple[NDArray[np.int64], tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]:
    """The clusters of a window: (3, n_clusters) where their documents, groups and postings end; the columns of the
    files; and of the summaries' entries the term, the cluster within the window and the largest impact.
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
    """What `group` writes to."""
    return (
        np.empty(n_groups, np.uint32),
        np.empty(n_groups * GROUP, np.uint32),
        np.zeros(n_groups * GROUP, np.uint8),
        np.empty(n_postings, np.uint16),
    )
