"""In the benchmark of vector widths and collection sizes, narrower vectors lose more recall in large collections."""

from __future__ import annotations

import os
from itertools import combinations

import numpy as np
import pytest

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.load import load_encoder
from lsr.eval.dimensions import best, cut, growing, pair_set, random_texts, recall, slope

THINGS = [f"thing{i}" for i in range(60)]


def test_every_pair_of_documents_answers_a_query():
    made = pair_set(THINGS, answers=6, others=4, likes=8)
    assert [tuple(row) for row in made.relevant] == list(combinations(range(6), 2))
    assert (len(made.documents), len(made.queries)) == (10, 15)
    for query, relevant in zip(made.queries, made.relevant, strict=True):
        thing = query.removeprefix("Who likes ").removesuffix("?")
        liking = [i for i, text in enumerate(made.documents) if thing in text.rstrip(".").replace(",", "").split()]
        assert liking == relevant.tolist()
    assert all(text.count(",") == 7 for text in made.documents)
    assert pair_set(THINGS, answers=6, others=4, likes=8).documents == made.documents
    with pytest.raises(ValueError, match="answers=1 must be at least of_query=2"):
        pair_set(THINGS, answers=1)
    for wrong in ({"answers": 40}, {"likes": 50}):
        with pytest.raises(ValueError, match="different things"):
            pair_set(THINGS, **{"answers": 6, "likes": 8} | wrong)


def test_words_find_all_pairs_but_three_dimensions_do_not():
    """Twelve documents form 66 pairs. Words find every pair; vectors of three dimensions can't."""
    made = pair_set([f"thing{i}" for i in range(200)], answers=12, others=30, likes=12)
    encoder = BM25Encoder()
    encoder.fit(made.documents)
    documents, queries = encoder.encode_document(made.documents), encoder.encode_query(made.queries)
    assert recall(best(queries.dot(documents), 2), made.relevant).mean() == 1
    theirs, mine = (one.to_dense().astype(np.float32) for one in (documents, queries))
    found = [recall(best(b @ a.T, 2), made.relevant).mean() for a, b in (cut(theirs, mine, n) for n in (40, 12, 3))]
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.3


def test_recall_falls_faster_with_fewer_dimensions_as_documents_are_added():
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((3200, 48)).astype(np.float32)
    queries = documents[:100] + 1.8 * rng.standard_normal((100, 48)).astype(np.float32)
    sizes, falls = list(growing(200, 3200)), []
    for width in (48, 24, 8):
        theirs, mine = cut(documents, queries, width)
        values = [recall(best(mine @ theirs[:n].T, 10), np.arange(100)[:, None]) for n in sizes]
        falls.append(slope(sizes, np.array(values)))
    assert sizes == [200, 400, 800, 1600, 3200]
    assert falls[0][0] > falls[1][0] > falls[2][0]
    assert falls[2][2] < falls[0][1]  # the confidence intervals don't overlap


def test_the_slope_comes_from_a_line_fitted_to_the_means():
    values = np.array([[0.9, 0.7], [0.8, 0.7], [0.7, 0.7]])
    middle, low, high = slope([100, 200, 400], values)
    assert middle == pytest.approx(np.polyfit([0, 1, 2], values.mean(1), 1)[0])
    assert low <= middle <= high
    assert (low, high) == pytest.approx((-0.1, 0))


def test_a_cut_to_the_full_width_keeps_inner_products():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((30, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    theirs, mine = cut(vectors, vectors[:4], 6)
    assert mine @ theirs.T == pytest.approx(vectors[:4] @ vectors.T, abs=1e-5)
    assert cut(vectors, vectors[:4], 2)[1].shape == (4, 2)


def test_ties_are_ordered_by_document_number():
    assert best(np.array([[1, 2, 2, 0], [0, 0, 0, 0]]), 3).tolist() == [[1, 2, 0], [0, 1, 2]]


def test_random_texts_are_distinct_and_reproducible():
    texts = random_texts(20, words=4)
    assert len(set(texts)) == 20
    assert all(len(text.split()) == 4 and text.replace(" ", "").isalpha() for text in texts)
    assert random_texts(20, words=4) == texts


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_fewer_dimensions_lose_recall_faster_on_climate_claims(real_data, benchmark_module):
    """The fewer dimensions, the faster recall falls; texts of random letters are hardly ever among the best ten."""
    found, queries, judged = benchmark_module("dimensions").climate(real_data("climate-fever-evidence").parent)
    first = sorted({doc for docs in judged for doc in docs})
    others = sorted({*found} - {*first})
    order = [*first, *(others[i] for i in np.random.default_rng(0).permutation(len(others)))]
    texts, noise = [found[doc] for doc in order], random_texts(2000)
    relevant = [[first.index(doc) for doc in docs] for docs in judged]
    encoder, sizes = load_encoder("lsr-mini"), list(growing(len(first), len(order)))
    asked, vectors = encoder.encode_dense(queries, queries=True), encoder.encode_dense([*texts, *noise])
    slopes, shares = {}, {}
    for width in (384, 256, 128, 64, 32):
        theirs, mine = (vectors, asked) if width == 384 else cut(vectors[: len(texts)], asked, width)
        values = [recall(best(mine @ theirs[:size].T, 10), relevant) for size in sizes]
        slopes[width] = slope(sizes, np.array(values))[0]
    lexical = BM25Encoder()
    lexical.fit([*texts, *noise])
    words = lexical.encode_query(queries).dot(lexical.encode_document([*texts, *noise]))
    for name, scores in (("dense", asked @ vectors.T), ("BM25", words)):
        shares[name] = float((best(scores, 10) >= len(texts)).mean())
    print(slopes, shares)
    assert slopes[384] > slopes[256] > slopes[128] > slopes[64] > slopes[32]
    assert shares["BM25"] == 0
    assert shares["dense"] < 0.005
