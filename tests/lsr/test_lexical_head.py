"""A lexical head learns dense vectors from a sparse teacher. The vectors can be concatenated with other vectors."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lsr.dense_export import beside
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.load import load_encoder
from lsr.errors import DataError, EncoderError
from lsr.lexical_head import HeadSettings, LexicalHead

pytest.importorskip("torch")

WORDS = 120
SMALL = HeadSettings(width=48, steps=200, batch=24, rate=4e-3)


def state(word):
    """A word's token state. One half depends on the word, the other half on the word's topic (the last letter)."""
    own, topic = int(word.strip("w.abcd")), ord(word.rstrip(".")[-1])
    draw = [np.random.default_rng([kind, seed]).standard_normal(16) for kind, seed in enumerate((own, topic))]
    return np.concatenate(draw)


def states(texts):
    """Token states of each text. One half depends on the word, the other half on the word's topic (the last letter)."""
    return [
        np.array(
            [
                np.concatenate(
                    [np.random.default_rng([kind, seed]).standard_normal(16) for kind, seed in enumerate(of)]
                )
                for of in ((int(word[1:-1]), ord(word[-1])) for word in text.replace(".", "").split())
            ],
            np.float32,
        ).reshape(-1, 32)
        for text in texts
    ]


@pytest.fixture(scope="module")
def texts():
    """Documents of ten words; "w7a" is word 7 of topic a."""
    rng = np.random.default_rng(0)
    topics = [[f"w{i}{letter}" for i in range(start, WORDS, 4)] for start, letter in enumerate("abcd")]
    return [" ".join(rng.choice(topics[i % 4], 5)) + ". " + " ".join(rng.choice(topics[i % 4], 5)) for i in range(160)]


@pytest.fixture(scope="module")
def head(texts):
    return LexicalHead.fit(texts, states, settings=SMALL)


def overlap(scores, truth):
    """The share of the true top five documents that have the five highest scores, averaged over queries."""
    best = [set(np.argsort(-row, kind="stable")[:5].tolist()) for row in scores]
    return np.mean([len(found & set(right)) / 5 for found, right in zip(best, truth, strict=True)])


def of_bm25(texts, queries, k):
    bm25 = BM25Encoder()
    bm25.fit(texts)
    scores = (bm25.encode_query(queries).to_scipy() @ bm25.encode_document(texts).to_scipy().T).toarray()
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()


def test_the_head_finds_what_bm25_finds(texts, head):
    rng = np.random.default_rng(1)
    queries = [" ".join(rng.choice(text.replace(".", "").split(), 3, replace=False)) for text in texts[:60]]
    truth = of_bm25(texts, queries, 5)
    mean = [np.stack([one.mean(0) for one in states(some)]) for some in (queries, texts)]
    plain = overlap(mean[0] @ mean[1].T, truth)
    found = overlap(head.queries(queries) @ head.documents(texts).T, truth)
    assert found > max(0.5, plain + 0.08), (found, plain)


def test_scores_of_concatenated_vectors_add_up(texts, head):
    own = np.random.default_rng(2).standard_normal((2, 20, 8)).astype(np.float32)
    queries, documents = head.queries(texts[:20]), head.documents(texts[20:40])
    both = beside(own[0], queries, weights=(1.0, 0.7)) @ beside(own[1], documents).T
    np.testing.assert_allclose(both, own[0] @ own[1].T + 0.7 * queries @ documents.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(documents, axis=1), 1, atol=1e-5)


def test_training_is_repeatable_and_a_saved_head_is_read_back(texts, head, tmp_path):
    again = LexicalHead.fit(texts, states, settings=SMALL)
    np.testing.assert_array_equal(again.documents(texts[:5]), head.documents(texts[:5]))
    head.save(tmp_path / "head.arrow")
    opened = LexicalHead.load(tmp_path / "head.arrow", states)
    np.testing.assert_array_equal(opened.queries(texts[:5]), head.queries(texts[:5]))
    assert opened.width == 32  # the width is at most that of a token state
    assert opened.embed(queries=True)([]).shape == (0, 32)
    assert not opened.documents([""]).any()
    (tmp_path / "head.arrow").write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged, or not a lexical head"):
        LexicalHead.load(tmp_path / "head.arrow", states)


def test_the_head_of_a_model_learns_from_a_sparse_teacher():
    some = [
        f"ice on the wing number {i}. The {word} is cold" for i, word in enumerate(["tail", "cabin", "fuel", "sky"])
    ]
    model = load_encoder("lsr-mini")
    settings = HeadSettings(width=8, steps=2, batch=2)
    made = LexicalHead.fit(some, model, teacher=load_encoder("lsr-tiny", lexical=0), settings=settings)
    assert made.documents(some).shape == (4, 8)


def test_training_accepts_batches_of_one_document(texts):
    """With small batches, all queries of a batch may have the same document."""
    settings = HeadSettings(width=4, steps=20, batch=2)
    assert np.isfinite(LexicalHead.fit(texts[:2], states, settings=settings).documents(texts[:2])).all()


def test_a_head_of_another_model_is_refused(texts, head, tmp_path):
    head.save(tmp_path / "head.arrow")
    with pytest.raises(EncoderError, match="this head reads states of"):
        LexicalHead.load(tmp_path / "head.arrow", load_encoder("lsr-mini"))
    other = LexicalHead.load(tmp_path / "head.arrow", lambda some: [np.ones((2, 5), np.float32) for _ in some])
    with pytest.raises(EncoderError, match="wrong shapes"):
        other.documents(texts[:2])


def test_invalid_input_is_refused(texts):
    with pytest.raises(EncoderError, match="no text has token states"):
        LexicalHead.fit(["", "", ""], states, settings=SMALL)
    with pytest.raises(EncoderError, match="at least two texts"):
        LexicalHead.fit(texts[:1], states, settings=SMALL)
    with pytest.raises(EncoderError, match="has no dense model with token states"):
        LexicalHead.fit(texts, load_encoder("bm25"))
    with pytest.raises(EncoderError, match="width and steps must be at least 1"):
        HeadSettings(width=0)
    with pytest.raises(EncoderError, match="rate and sharpness"):
        HeadSettings(rate=0)


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_concatenation_raises_recall_on_scifact(real_data):
    """The concatenation has a higher recall than the model's own vector. The test prints the overlap with BM25."""
    from lsr.io.corpus import open_corpus
    from lsr.io.runs import open_qrels

    folder = str(real_data("scifact"))
    ids, texts = zip(*((document.id, document.content) for document in open_corpus(folder)), strict=True)
    judged, _ = open_qrels(folder, "test")
    asked = {query.id: query.content for query in open_corpus(folder, queries=True) if query.id in judged}
    relevant = [{ids.index(doc) for doc, value in judged[query].items() if value > 0} for query in asked]
    queries, model = list(asked.values()), load_encoder("lsr-mini")
    head, truth = LexicalHead.fit(texts, model), of_bm25(texts, queries, 5)
    own = model.encode_dense(queries, queries=True) @ model.encode_dense(texts).T
    learned = head.queries(queries) @ head.documents(texts).T

    def recall(scores):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        return np.mean([len(right & set(row.tolist())) / len(right) for right, row in zip(relevant, best, strict=True)])

    print("overlap with BM25", overlap(own, truth), overlap(learned, truth), overlap(own + learned, truth))
    print("R@100", recall(own), recall(learned), recall(own + learned))
    assert recall(own + learned) > recall(own)


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_concatenation_ranks_better_on_squadshifts(real_data, benchmark_module, tmp_path):
    """Beside the dense vector, the imitated one raises nDCG@10 by at least 0.01 with a weight of 0.3."""
    pytest.importorskip("ir_measures", reason="needs the extra eval")
    from lsr.eval.datasets import open_dataset

    module, dataset = benchmark_module("literature"), open_dataset(str(real_data("squadshifts")), "dev")
    _, rows = module.compared(module.imitated(), {"squadshifts": dataset}, tmp_path / "out")
    quality = {row["system"]: row["values"][0] for row in rows}
    print(quality)
    assert quality["dense vector and BM25, imitated, 0.3"] >= quality["dense vector"] + 0.01
