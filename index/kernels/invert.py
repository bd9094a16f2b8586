"""Invert a window: turn rows of (term, weight) by document into lists of (document, weight) by term, and back."""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import kernel
from lsr.index.kernels.layout import BEGIN, DENSE, END


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
        out_weights: (sum of the rows' lengths,) float32, written.
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
        cursor: (n_terms,) int64, start of each term's list; changed in place to its end.
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


@kernel
def count_rows(ranks, lists, docs, impacts, dense, n_docs, counts):
    """Count the terms of each document of a window.

    Args:
        ranks: (n,) int64, the window's terms, ascending.
        lists: (n, 4) int64, the terms' lists.
        docs: (n_postings,) uint16.
        impacts: (n_postings,) uint8 or float32.
        dense: (n_dense * n_docs,) uint8.
        n_docs: Number of documents in the window.
        counts: (n_docs,) int64, changed.
    """
    for i in range(len(ranks)):
        if lists[i, DENSE] >= 0:
            row = dense[lists[i, DENSE] * n_docs : (lists[i, DENSE] + 1) * n_docs]
            for doc in range(len(row)):
                counts[doc] += row[doc] != 0
        else:
            for doc in docs[lists[i, BEGIN] : lists[i, END]]:
                if doc < n_docs:
                    counts[doc] += 1


@kernel
def transpose(ranks, lists, docs, impacts, dense, n_docs, terms, cursor, out_terms, out_weights):
    """Turn a window's lists back into rows, terms ascending.

    Args:
        ranks: This and the arguments up to `n_docs` are as for `count_rows`.
        lists: (n, 4) int64.
        docs: (n_postings,) uint16.
        impacts: (n_postings,) uint8 or float32.
        dense: (n_dense * n_docs,) uint8.
        n_docs: Number of documents in the window.
        terms: (n_used,) uint32, the terms of the ranks.
        cursor: (n_docs,) int64, start of each document's row, -1 to leave it out; changed to its end.
        out_terms: (nnz,) uint32, written.
        out_weights: (nnz,) float32, written.
    """
    for i in range(len(ranks)):
        term = terms[ranks[i]]
        if lists[i, DENSE] >= 0:
            row = dense[lists[i, DENSE] * n_docs : (lists[i, DENSE] + 1) * n_docs]
            for doc in range(len(row)):
                if row[doc] and cursor[doc] >= 0:
                    out_terms[cursor[doc]], out_weights[cursor[doc]] = term, row[doc]
                    cursor[doc] += 1
        else:
            for p in range(lists[i, BEGIN], min(lists[i, END], len(docs))):
                doc = docs[p]
                if doc < n_docs and cursor[doc] >= 0:
                    out_terms[cursor[doc]], out_weights[cursor[doc]] = term, impacts[p]
                    cursor[doc] += 1


@kernel
def find_row(ranks, lists, docs, impacts, dense, n_docs, doc, out):
    """Find one document's impacts in all lists of a window.

    Args:
        ranks: This and the arguments up to `n_docs` are as for `count_rows`.
        lists: (n, 4) int64.
        docs: (n_postings,) uint16.
        impacts: (n_postings,) uint8 or float32.
        dense: (n_dense * n_docs,) uint8.
        n_docs: Number of documents in the window.
        doc: The document, within the window.
        out: (n,) float32, written; 0 for terms that the document lacks.
    """
    for i in range(len(ranks)):
        out[i] = 0
        at = lists[i, DENSE] * n_docs + doc
        if lists[i, DENSE] >= 0:
            if at < len(dense):
                out[i] = dense[at]
        else:
            here = docs[lists[i, BEGIN] : lists[i, END]]
            at = np.searchsorted(here, doc)
            if at < len(here) and here[at] == doc:
                out[i] = impacts[lists[i, BEGIN] + at]
