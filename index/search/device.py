"""Exact search on a GPU: the postings stay in GPU memory, and PyTorch scores queries in batches.

Scores are sums of integers, so the order of additions doesn't matter: documents, scores and ties are the same as with
the CPU kernels. In GPU memory, a posting takes 5 bytes, and a batch takes 4 bytes per document and query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.errors import CorruptIndex, IndexFormatError, MissingExtra
from lsr.index.kernels.layout import BEGIN, DENSE, END, FIRST_DOC
from lsr.index.search.searcher import Mask, Searcher
from lsr.index.segment.quantize import query_numbers
from lsr.sparse import SparseMatrix

_SCORES = 1 << 28  # maximum size of a batch's scores in bytes


class DeviceSearcher:
    """The postings of a searcher, copied to a device.

    Args:
        searcher: The searcher whose postings are copied.
        device: PyTorch's name of the device: "cuda", "cuda:1", "cpu".

    Raises:
        MissingExtra: PyTorch isn't installed.
        IndexFormatError: Weights are stored as float32; their sums depend on the order of additions.
        CorruptIndex: The postings are damaged.
        ValueError: PyTorch can't use the device.
    """

    def __init__(self, searcher: Searcher, device: str) -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtra("torch", "torch", "search on a device") from None
        self._torch: Any = torch
        self._searcher = searcher
        try:
            self._device = torch.empty(1, device=device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # backends fail differently
            raise ValueError(f"the device {device!r} can't be used: {str(error).splitlines()[0]}") from None
        if any(segment.impacts != "uint8" for segment in searcher.segments):
            raise IndexFormatError("weights stored as float32 can't be searched on a device; build with 8-bit impacts")
        self._scale = min((float(s.scales.min(initial=np.inf)) for s in searcher.segments), default=1.0)
        docs, impacts, lists, at = [np.empty(0, np.int64)], [np.empty(0, np.uint8)], [np.empty((0, 3), np.int64)], 0
        factors = np.ones(searcher.n_docs, np.float32)  # powers of two
        for segment, base in zip(searcher.segments, searcher.bases.tolist(), strict=False):
            numbers = base + (segment.order if len(segment.order) else np.arange(segment.n_docs)).astype(np.int64)
            for w in range(segment.n_windows):
                first = int(segment.windows[w, FIRST_DOC])
                try:
                    part = _window(segment.postings_of(w), numbers[first:], segment.terms, at)
                    factors[numbers[first : first + part[3]]] = segment.scales[w] / self._scale
                except (IndexError, ValueError):
                    raise CorruptIndex(f"{segment.folder}: damaged; run lsr verify for details") from None
                docs.append(part[0])
                impacts.append(part[1])
                lists.append(part[2])
                at += len(part[0])
        table = np.concatenate(lists)
        self._lists = table[np.argsort(table[:, 0], kind="stable")]  # term, begin, size
        small = searcher.n_docs < 2**31
        self._docs = self._moved(np.concatenate(docs).astype(np.int32 if small else np.int64))
        self._impacts = self._moved(np.concatenate(impacts))
        self._factors = None if (factors == 1).all() else self._moved(factors)

    def search(
        self, rows: Sequence[SparseMatrix], k: int, mask: Mask | None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Search a batch of queries, each a matrix of one row, as `Searcher.search` does."""
        torch, n_docs = self._torch, self._searcher.n_docs
        if n_docs == 0:
            return [(np.empty(0, np.int64), np.empty(0)) for _ in rows]
        allowed = self._searcher.by_number(mask)
        left_out = None if allowed is None else torch.from_numpy(np.flatnonzero(~allowed)).to(self._device)
        k, size = max(1, min(k, n_docs)), max(1, _SCORES // (4 * max(n_docs, 1)))
        found = []
        for first in range(0, len(rows), size):
            found += self._batch([row.row(0) for row in rows[first : first + size]], k, left_out)
        return found

    def _batch(
        self, queries: Sequence[tuple[NDArray[np.uint32], NDArray[np.float32]]], k: int, left_out: Any
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        torch, n_docs = self._torch, self._searcher.n_docs
        numbers = [query_numbers(weights) for _, weights in queries]
        wide = any(weights.dtype != np.int32 for weights, _ in numbers)  # then sums are float64, exact below 2^53
        kind = torch.float64 if wide else torch.int32
        scores = torch.zeros((len(queries), n_docs), dtype=kind, device=self._device)
        for (terms, _), (weights, _), sums in zip(queries, numbers, scores, strict=True):
            begins = np.searchsorted(self._lists[:, 0], terms)
            ends = np.searchsorted(self._lists[:, 0], terms, side="right")
            which = np.repeat(begins - np.cumsum(ends - begins) + (ends - begins), ends - begins)
            lists = self._lists[which + np.arange(len(which))]
            sizes = self._moved(lists[:, 2])
            skipped = self._moved(lists[:, 1] - (np.cumsum(lists[:, 2]) - lists[:, 2]))
            places = torch.repeat_interleave(skipped, sizes)
            places += torch.arange(len(places), device=self._device)
            factors = torch.repeat_interleave(self._moved(np.repeat(weights, ends - begins)).to(kind), sizes)
            sums.index_add_(0, self._docs[places], factors * self._impacts[places])
        if left_out is not None:
            scores[:, left_out] = 0
        if self._factors is not None:
            scores = scores.to(torch.float64) * self._factors
        # Keep every document that reaches the k-th best score, then break ties by document number.
        least = torch.topk(scores, k, dim=1).values[:, -1:]
        row, doc = torch.nonzero((scores >= least) & (scores > 0), as_tuple=True)
        values = scores[row, doc].to(torch.float64).cpu().numpy()
        at, docs = row.cpu().numpy(), doc.cpu().numpy()
        found = []
        for i, (_, factor) in enumerate(numbers):
            here = slice(*np.searchsorted(at, [i, i + 1]))
            best = np.lexsort((docs[here], -values[here]))[:k]
            found.append((docs[here][best], values[here][best] * (self._scale / factor)))
        return found

    def _moved(self, array: NDArray[Any]) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _window(
    postings: tuple[Any, ...], numbers: NDArray[np.int64], terms: NDArray[np.uint32], at: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], int]:
    """Return the postings of a window; the postings of dense rows come last.

    Args:
        postings: From `Segment.postings_of`.
        numbers: Document numbers by place, starting at the window's first place.
        terms: The segment's terms.
        at: Number of postings before this window.

    Returns:
        (n,) document number and (n,) impact of each posting; (n_lists, 3) int64 with the term, start and length of each
        list; and the number of documents in the window.
    """
    ranks, lists, docs, impacts, dense, n_docs = postings
    is_row = lists[:, DENSE] >= 0
    rows = dense.reshape(-1, n_docs)[lists[is_row, DENSE]]
    row, doc = np.nonzero(rows)
    sizes = np.bincount(row, minlength=len(rows))
    table = np.empty((len(ranks), 3), np.int64)
    table[:, 0] = terms[ranks]
    table[~is_row, 1] = at + lists[~is_row, BEGIN]
    table[~is_row, 2] = lists[~is_row, END] - lists[~is_row, BEGIN]
    table[is_row, 1] = at + len(docs) + np.cumsum(sizes) - sizes
    table[is_row, 2] = sizes
    if len(docs) and (docs.max() >= n_docs or lists[~is_row, END].max(initial=0) > len(docs)):
        raise IndexError
    return np.concatenate((numbers[docs], numbers[doc])), np.concatenate((impacts, rows[row, doc])), table, n_docs
