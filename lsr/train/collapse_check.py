"""Detect a collapse of training from a sample of encoded documents. Findings say what is wrong and what to change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsr.sparse import SparseMatrix

_FUNCTION_WORDS = """the of and a an to in is are was were be been being on for with as by at from or that this it its
which not but have has had do does did i you he she they we there their can will would if so than then these those what
who . , ; : ' " ( ) - ? !"""


_ALIKE = 0.95  # cosine of two nearly equal vectors
_COMPARED = 512  # documents compared with each other


@dataclass(frozen=True)
class Finding:
    """A sign of a collapse.

    Attributes:
        what: Name of the problem.
        message: The observation, and what to do.
    """

    what: str
    message: str

    def __str__(self) -> str:
        return f"{self.what}: {self.message}"


class Findings(list[Finding]):
    """The findings, worst first; empty for a healthy model.

    Attributes:
        rank: The vectors' `effective_rank`.
    """

    rank: float = 0.0


def examine(weights: SparseMatrix, vocabulary: Sequence[str], special: Collection[int] = ()) -> Findings:
    """Look for signs of collapse.

    Args:
        weights: (n_docs, n_terms), documents encoded by the current model; about a hundred are enough.
        vocabulary: Token of each term.
        special: Ids of the special tokens.

    """
    found = Findings(_findings(weights, vocabulary, special))
    found.rank = effective_rank(weights)
    return found


def _findings(weights: SparseMatrix, vocabulary: Sequence[str], special: Collection[int]) -> list[Finding]:
    lengths = weights.lengths()
    if not len(lengths):
        return []
    found = []
    empty = float((lengths == 0).mean())
    if empty > 0.02:
        found.append(
            Finding(
                "dead rows",
                f"{empty:.0%} of the documents have no term. The regularizer is too strong or grows too early: "
                "divide its weight by 10, make its ramp longer, or give anti_zero a weight.",
            )
        )
    if empty == 1:
        return found
    mean, n_terms = float(lengths.mean()), weights.shape[1]
    if mean > max(0.05 * n_terms, min(1000, 0.5 * n_terms)):
        found.append(
            Finding(
                "everything dense",
                f"a document has {mean:,.0f} terms on average, {mean / n_terms:.0%} of the vocabulary: the index would "
                "be large and slow. Early in the ramp this is normal; later, multiply the regularizer's weight "
                "by 3, or lower the head's bias.",
            )
        )
    mass = np.bincount(weights.indices, weights.data, n_terms)
    total = float(mass.sum())
    named = {token: term for term, token in enumerate(vocabulary)}
    function = [named.get(word, named.get("Ġ" + word)) for word in _FUNCTION_WORDS.split()]
    kinds = (
        ("special tokens", sorted(special), 0.02, "leave them out of the vocabulary, or check that the tokenizer "
         "belongs to the model"),
        ("function words", [t for t in function if t is not None], 0.25, "their posting lists are the longest. "
         "Weights of frequent terms cost too little: use df_flops or idf_flops, or give queries an IDF table"),
    )  # fmt: skip
    for what, terms, most, advice in kinds:
        share = float(mass[np.array(terms, dtype=np.int64)].sum()) / total
        if share > most:
            found.append(Finding(f"weight on {what}", f"{what} carry {share:.0%} of all weight; {advice}."))
    used = int((mass > 0).sum())
    same = np.bincount(weights.indices, minlength=n_terms) / len(lengths)
    everywhere = same > 0.9
    # Check both numbers of terms and sums of weights: documents are also alike if they have many different terms of
    # little weight.
    common, share = int(everywhere.sum()), float(mass[everywhere].sum()) / total
    alike = _share_alike(weights)
    if len(lengths) >= 20 and (common > 0.5 * mean or share > 0.5):
        found.append(
            Finding(
                "the same terms everywhere",
                f"{common} terms are in more than nine of ten documents and carry {share:.0%} of all weight; a "
                f"document has {mean:.0f} terms on average. So vectors hardly differ. Lower the learning rate, and "
                "check that the loss has fallen at all.",
            )
        )
    elif len(lengths) >= 20 and alike > 0.3:
        found.append(
            Finding(
                "documents alike",
                f"{alike:.0%} of the documents have nearly the same vector as another one (cosine above "
                f"{_ALIKE}). Lower the learning rate or the regularizer's weight, or make its ramp longer; if the "
                "texts are alike, this is correct.",
            )
        )
    elif len(lengths) >= 20 and used < 2 * mean:
        found.append(
            Finding(
                "vocabulary never used",
                f"{len(lengths)} documents use only {used:,} of {n_terms:,} terms, {mean:.0f} each. Lower the learning "
                "rate or the regularizer's weight.",
            )
        )
    return found


def effective_rank(weights: SparseMatrix) -> float:
    """RankMe (arXiv 2210.02885): exp(H), where H is the entropy of the singular values divided by their sum.

    The rank is the number of directions in which documents differ: 1 if all are equal, n for n documents without common
    terms. It needs no labels, and in a collapse it falls before other figures do. It is computed from the first 512
    non-empty documents, scaled to length 1; it is 0 if there are none.
    """
    dense = _unit_rows(weights)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(dense @ dense.T), 0))
    shares = values[values > 1e-6 * values.max(initial=0)] / max(values.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def _share_alike(weights: SparseMatrix) -> float:
    """The share of non-empty documents whose vector nearly equals that of another document."""
    dense = _unit_rows(weights)
    cosines = dense @ dense.T
    np.fill_diagonal(cosines, 0)
    return float((cosines.max(1, initial=0) > _ALIKE).mean())


def _unit_rows(weights: SparseMatrix) -> NDArray[np.float32]:
    """(n, terms that occur) float32, the first non-empty documents with length 1."""
    rows = weights[np.flatnonzero(weights.lengths())[:_COMPARED]]
    columns, places = np.unique(rows.indices, return_inverse=True)
    dense = np.zeros((rows.shape[0], len(columns)), np.float32)
    dense[np.repeat(np.arange(rows.shape[0]), rows.lengths()), places] = rows.data
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    return np.asarray(dense / np.maximum(lengths, np.float32(1e-12)), np.float32)
