"""Inverting a window: rows of (term, weight) by document become lists of (document, weight) by term."""

from __future__ import annotations

from .jit import kernel


@kernel
def count_terms(terms, counts):
    """Add one to counts[t] for each t in terms; counts: (n_terms,) int64, changed in place."""
    for t in terms:
        counts[t] += 1


@kernel
def gather(places, indptr, terms, weights, out_terms, out_weights):
    """Copy rows of a matrix one after the other.

    Args:
        places: (n,) int64, the rows.
        indptr: (n_rows + 1,) int64.
        terms: (nnz,) uint32.
        weights: (nnz,) float32.
        out_terms: (sum of the rows' lengths,) uint32, written.
        out_weights: (the same,) float32, written.
    """
    at = 0
    for place in places:
        for p in range(indptr[place], indptr[place + 1]):
            out_terms[at], out_weights[at] = terms[p], weights[p]
            at += 1


@kernel
def invert(indptr, terms, weights, cursor, out_doc, out_weight):
    """Scatter the postings of a window into their lists, documents ascending.

    Args:
        indptr: (n_docs + 1,) int64.
        terms: (nnz,) rows of `cursor`.
        weights: (nnz,) uint8 or float32.
        cursor: (n_terms,) int64, where each term's list begins; changed in place to where it ends.
        out_doc: (nnz,) uint16, written.
        out_weight: (nnz,) of the weights' type, written.
    """
    for doc in range(len(indptr) - 1):
        for p in range(indptr[doc], indptr[doc + 1]):
            t = terms[p]
            at = cursor[t]
            out_doc[at] = doc
            out_weight[at] = weights[p]
            cursor[t] = at + 1
