"""Clusters of a segment: optional files beside its postings, for approximate search (lsr.index.kernels.clustered).

    clusters.arrow         for each cluster, where its documents, its groups of terms, and its postings end, uint64
    forward_terms.arrow    the first term of each group of 15, by cluster, uint32
    forward_groups.arrow   16 entries for each group: the start of its postings, then its terms with the ends of their
                           postings, uint32; fewer than 16 unused entries precede the first group
    forward.arrow          the postings by cluster, term and document: impact times 256 plus document, uint16
    summaries.arrow        for each term, the clusters whose summaries contain it, uint32, and its largest impact in
                           each of them, uint8
    summary_ends.arrow     end of each term's entries in the summaries, uint64

Terms are ranks among the terms of the segment. A cluster is a run of at most 64 documents of one window, so clusters
work best if similar documents are stored side by side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex
from lsr.index.kernels.clustered import GROUP, Clusters
from lsr.index.storage.arrow_file import ArrowFile

CLUSTERS = "clusters.arrow"  # exists if the index has clusters
SUMMARY_MASS = 0.6
LINE = 64  # bytes of a cache line
SCHEMAS = {
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
        folder: The segment's folder.
        n_used: Number of terms of the segment.

    Raises:
        CorruptIndex: A file is damaged, or doesn't fit the others.
    """
    columns = []
    for name, schema in SCHEMAS.items():
        file = ArrowFile(folder / name, schema)
        columns.append([file.column(column) for column in schema.names])
    (doc_ends, group_ends, posting_ends), (firsts,), (groups,), (postings,), (owners, maxima), (ends,) = columns
    unused = len(groups) - GROUP * len(firsts)
    if not 0 <= unused < GROUP or len(ends) != n_used:
        raise CorruptIndex(f"{folder}: the cluster files don't fit together; build the index again")
    groups = groups[unused:]
    return Clusters(doc_ends, group_ends, posting_ends, firsts, groups, postings, ends, owners, maxima)


def document_of(clusters: Clusters, place: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Read a document's row of the forward index: its terms, as ranks in the segment, and their impacts.

    Args:
        clusters: The mapped files.
        place: The document's place in the order of storage.
    """
    c = int(np.searchsorted(clusters.doc_ends, np.uint64(place), side="right"))
    first_doc, first_group, first_posting = (
        int(ends[c - 1]) if c else 0 for ends in (clusters.doc_ends, clusters.group_ends, clusters.posting_ends)
    )
    groups = clusters.groups[first_group * GROUP : int(clusters.group_ends[c]) * GROUP].reshape(-1, GROUP)
    ranks = clusters.firsts[first_group : int(clusters.group_ends[c]), None].astype(np.int64) + (groups[:, 1:] >> 16)
    # Unused entries have no postings: they get the end of the entry before.
    ends = groups[:, :1].astype(np.int64) + np.maximum.accumulate(groups[:, 1:] & 0xFFFF, axis=1)
    postings = clusters.postings[first_posting : int(clusters.posting_ends[c])]
    at = np.flatnonzero((postings & 0xFF) == place - first_doc)
    return ranks.ravel()[np.searchsorted(ends.ravel(), at, side="right")], (postings[at] >> 8).astype(np.uint8)
