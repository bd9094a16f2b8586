"""Dense vectors in an index are deleted, filtered and merged with their documents. Searches equal brute force."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lsr import Index, SparseMatrix, load_encoder
from lsr.dense import DenseRows
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.passages import Passages
from lsr.errors import CorruptIndex, DataError, EncoderError
from lsr.eval.datasets import Dataset
from lsr.eval.evaluate import evaluate_index
from lsr.index import ShardedIndex, reshard_index
from lsr.index.search import hybrid_search
from lsr.index.search.settings import SearchSettings
from lsr.index.segment import embeddings
from lsr.index.segment.embeddings import Embeddings, EmbeddingsWriter

WIDTH = 12
WORDS = ["wing", "lift", "drag", "flow", "shock", "heat", "plate", "body", "nose", "cone", "tail", "jet"]


class DenseBM25(BM25Encoder):
    """BM25 whose dense vectors are sums of one random vector per word. The word "turned" reverses a query's vector."""

    dense_width = WIDTH

    def encode_dense(self, texts, *, queries=False):
        texts = [texts] if isinstance(texts, str) else texts
        found = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in text.split():
                row += np.random.default_rng(sum(map(ord, word))).normal(size=WIDTH)
            row[:] = row[::-1].copy() if queries and "turned" in text else row
        return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)).astype(np.float32)

    def encode_both(self, texts):
        return self.encode_document(texts), self.encode_dense(texts)


@pytest.fixture(autouse=True, scope="module")
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "_BATCH", 16)
        yield


def documents(n, seed=0, first=0):
    rng = np.random.default_rng(seed)
    return [
        {"_id": str(first + i), "text": " ".join(rng.choice(WORDS, rng.integers(1, 9))), "even": i % 2 == 0}
        for i in range(n)
    ]


def rounded(vectors):
    rows = DenseRows.of(vectors)
    return rows.rows * rows.scales[:, None].astype(np.float64)


def brute(index, texts, query, k, weight=1.0, mode="hybrid", depth=100):
    """Ids and scores by brute force; `texts` is {id: text} in document order."""
    ids, encoder = list(texts), DenseBM25()
    dense = rounded(encoder.encode_dense(list(texts.values()))) @ encoder.encode_dense(query, queries=True)[0]
    everything = {hit.id: hit.score for hit in index.search(query, len(ids), mode="sparse")}
    sparse = np.array([everything.get(i, 0.0) for i in ids])
    if mode == "dense":
        order = np.argsort(-dense, kind="stable")[:k]
        return [ids[i] for i in order], dense[order]
    near = set(np.argsort(-dense, kind="stable")[: max(k, depth)].tolist())
    best = [i for i in np.argsort(-sparse, kind="stable")[: max(k, depth)].tolist() if sparse[i] > 0]
    them = np.array(sorted(near | set(best)))

    z = (dense - dense.mean()) / dense.std()
    total = sparse[them] / (sparse[them].max() or 1) + weight * (np.sign(z) * abs(z) ** 2.5)[them] / 52
    order = np.argsort(-total, kind="stable")[:k]
    return [ids[i] for i in them[order]], total[order]


def require_same(hits, expected):
    ids, scores = expected
    assert [hit.score for hit in hits] == pytest.approx(list(scores), abs=2e-3)  # queries are quantized to 15 bits
    for hit, wanted, score in zip(hits, ids, scores, strict=True):
        assert hit.id == wanted or min(abs(score - s) for i, s in zip(ids, scores, strict=True) if i != wanted) < 2e-3


@pytest.mark.parametrize("depth", [100, 3])
def test_rankings_are_fused_while_the_index_changes(tmp_path, monkeypatch, depth):
    monkeypatch.setattr("lsr.index.search.hybrid_search._CANDIDATES", depth)
    index = Index.build(tmp_path / "idx", documents(40), encoder=DenseBM25(), hybrid=True)
    texts = {d["_id"]: d["text"] for d in documents(40)}
    index.add(documents(25, 1, 100))
    texts |= {d["_id"]: d["text"] for d in documents(25, 1, 100)}
    index.delete(["3", "110"])
    del texts["3"], texts["110"]
    index.update([{"_id": "5", "text": "shock heat turned", "even": False}])
    del texts["5"]
    texts["5"] = "shock heat turned"
    index.commit(merge=False)
    assert index.n_segments == 2
    for step in range(2):
        for query, k, weight in itertools.product(
            ["wing lift", "shock turned heat", "unheard of"], [1, 5, 60], [1.0, 0.3]
        ):
            hits = index.search(query, k, mode="hybrid", dense_weight=weight)
            require_same(hits, brute(index, texts, query, k, weight, depth=depth))
            require_same(index.search(query, k, mode="dense"), brute(index, texts, query, k, mode="dense"))
        (again, _) = index.search_batch(["shock turned heat", "jet"], 60, mode="hybrid", dense_weight=0.3)
        before = [(h.id, h.score) for h in again]
        if step == 0:
            kept = before
            index.merge()
            assert index.n_segments == 1
            assert index.verify() == []
    assert kept == before  # the merge changed no score
    assert "embeddings.arrow" in index.file_sizes()


def test_filters_apply_to_both_rankings(tmp_path):
    index = Index.build(tmp_path / "idx", documents(60), encoder=DenseBM25(), hybrid=True, order="bisection")
    for mode in ("hybrid", "dense"):
        hits = index.search("jet nose", 60, mode=mode, where={"even": True})
        assert len(hits) == 30
        assert {int(hit.id) % 2 for hit in hits} == {0}
    near = {hit.id: hit.score for hit in index.search("jet nose", 60, mode="dense")}
    assert near == pytest.approx(
        dict(
            zip(*brute(index, {d["_id"]: d["text"] for d in documents(60)}, "jet nose", 60, mode="dense"), strict=True)
        ),
        abs=1e-3,
    )


def test_a_document_gets_the_score_of_its_best_passage(tmp_path):
    long = [{"_id": f"d{i}", "text": " ".join(WORDS[i : i + 6])} for i in range(6)]
    index = Index.build(tmp_path / "idx", long, encoder=DenseBM25(), hybrid=True, passages=Passages(2))
    parts = {f"d{i}#{j}": " ".join(WORDS[i + 2 * j : i + 2 * j + 2]) for i in range(6) for j in range(3)}
    encoder = DenseBM25()
    dense = rounded(encoder.encode_dense(list(parts.values()))) @ encoder.encode_dense("heat plate", queries=True)[0]
    best = {}
    for (name, _), score in zip(parts.items(), dense.tolist(), strict=True):
        best[name.split("#")[0]] = max(score, best.get(name.split("#")[0], -9))
    found = index.search("heat plate", 10, mode="dense")
    assert {hit.id: hit.score for hit in found} == pytest.approx(best, abs=1e-3)
    both = index.search("heat plate", 10, mode="hybrid")
    assert len(both) == len({hit.id for hit in both}) == 6
    assert both[0].passage in {name for name, text in parts.items() if {"heat", "plate"} & set(text.split())}
    z = (best[both[0].id] - dense.mean()) / dense.std()
    assert both[0].score == pytest.approx(1 + np.sign(z) * abs(z) ** 2.5 / 52, abs=1e-3)


def test_hybrid_search_doubles_the_bm25_weights_of_a_hybrid_encoder(tmp_path):
    encoder, texts = load_encoder("lsr-mini"), [" ".join(WORDS[i : i + 4]) for i in range(9)]
    index = Index.build(tmp_path / "idx", [{"_id": str(i), "text": t} for i, t in enumerate(texts)], hybrid=True)
    query = index.query_vectors(["turned shock and heat"])
    learned, lexical = index.encoder.split_by_encoder(query)
    assert learned.nnz
    assert lexical.nnz
    twice = SparseMatrix(query.indptr, query.indices, query.data.copy(), query.shape)
    twice.data[np.isin(twice.indices, lexical.indices)] *= 2
    sparse = {hit.id: hit.score for hit in index.search(twice, 9)}
    dense = rounded(encoder.encode_dense(texts)) @ encoder.encode_dense("turned shock and heat", queries=True)[0]
    z = (dense - dense.mean()) / dense.std()
    near = np.sign(z) * abs(z) ** 2.5 / 52
    expected = [sparse.get(str(i), 0) / max(sparse.values()) + near[i] for i in range(9)]
    found = {hit.id: hit.score for hit in index.search("turned shock and heat", 9, mode="hybrid")}
    assert [found[str(i)] for i in range(9)] == pytest.approx(expected, abs=2e-3)


def test_a_query_of_unknown_words_is_ranked_by_its_dense_vector(tmp_path):
    index = Index.build(tmp_path / "idx", documents(30), encoder=DenseBM25(), hybrid=True)
    (near, both) = ([hit.id for hit in index.search("unheard", 30, mode=mode)] for mode in ("dense", "hybrid"))
    assert both == near
    index.delete([str(i) for i in range(29)])
    index.commit(merge=False)
    assert [hit.id for hit in index.search("wing", mode="hybrid")] == ["29"]


def test_shards_keep_dense_vectors(tmp_path):
    index = Index.build(tmp_path / "idx", documents(40), encoder=DenseBM25(), hybrid=True)
    reshard_index(tmp_path / "idx", tmp_path / "shards", 3)
    shards = Index.open(tmp_path / "shards", encoder=DenseBM25())
    for mode in ("hybrid", "dense"):
        expected, found = (i.search("wing turned jet", 40, mode=mode) for i in (index, shards))
        assert [(hit.id, hit.score) for hit in found] == [(hit.id, hit.score) for hit in expected]
    shards.add(documents(5, 1, 200))
    shards.commit()
    assert len(shards.search("wing", 60, mode="dense")) == 45


def test_a_query_may_come_with_its_dense_vector(tmp_path):
    index = Index.build(tmp_path / "idx", documents(30), encoder=DenseBM25(), hybrid=True)
    texts = ["wing jet", "heat"]
    dense = DenseBM25().encode_dense(texts, queries=True)
    expected = index.search_batch(texts, 5, mode="hybrid")
    found = index.search_batch(index.query_vectors(texts), 5, mode="hybrid", dense=dense)
    assert [[(hit.id, hit.score) for hit in hits] for hits in found] == [
        [(hit.id, hit.score) for hit in hits] for hits in expected
    ]
    near = index.search({"heat": 1.0}, 5, mode="dense", dense=dense[1])
    assert [hit.id for hit in near] == [hit.id for hit in index.search("heat", 5, mode="dense")]
    quality = evaluate_index(
        index,
        Dataset("d", "test", str(_queries(tmp_path, texts)), {"0": {expected[0][0].id: 1}}),
        "RR@10",
        mode="hybrid",
    )
    assert quality.measures == {"RR@10": 1.0}
    assert quality.encode.p50 > 0


def _queries(folder, texts):
    path = folder / "queries.jsonl"
    path.write_text("".join(json.dumps({"_id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


@pytest.mark.parametrize("n", [1, 2, 9])
def test_a_dense_only_hit_has_the_score_of_its_best_passages(tmp_path, n):
    index = Index.build(tmp_path / "idx", documents(30), encoder=DenseBM25(), hybrid=True, passages=Passages(3))
    snapshot, vector = index.snapshot, index.query_vectors(["jet heat wing"])
    settings, parents = SearchSettings(best_passages=n), map(snapshot.documents.parent, range(len(snapshot)))
    wholes = [snapshot.documents.passages(parent) if parent else [doc] for doc, parent in enumerate(parents)]
    found = hybrid_search._scores(snapshot, vector, wholes, settings)
    for passages, score in zip(wholes, found, strict=True):
        each = sorted(snapshot.searcher.score_of(p, *vector.row(0))[2] for p in passages)
        assert score == pytest.approx(np.mean(each[-n:]), abs=1e-9)
    assert max(found) > 0
    assert not len(hybrid_search._scores(snapshot, vector, [], settings))


def test_unsupported_hybrid_searches_are_refused(tmp_path):
    plain = Index.build(tmp_path / "plain", documents(5), encoder=DenseBM25())
    with pytest.raises(DataError, match=r"has no dense vectors: build it with hybrid=True"):
        plain.search("jet", mode="hybrid")
    index = Index.build(tmp_path / "idx", documents(5), encoder=DenseBM25(), hybrid=True)
    with pytest.raises(DataError, match="takes texts, or a dense vector for each query"):
        index.search({"jet": 1.0}, mode="dense")
    with pytest.raises(DataError, match="of 12 finite numbers"):
        index.search({"jet": 1.0}, mode="dense", dense=np.ones(3))
    with pytest.raises(ValueError, match='need the mode "hybrid" or "dense"'):
        index.search("jet", mode="sparse", dense=np.ones(WIDTH))
    with pytest.raises(ValueError, match="mode must be one of auto, sparse, hybrid, dense"):
        index.search("jet", mode="both")
    with pytest.raises(DataError, match="a hybrid index makes dense vectors from texts"):
        Index.build(tmp_path / "m", SparseMatrix.from_dicts([{1: 1.0}], 3), hybrid=True)
    with pytest.raises(EncoderError, match="has no dense vectors; lsr-mini has them"):
        Index.build(tmp_path / "x", documents(5), encoder=BM25Encoder(), hybrid=True)
    with pytest.raises(EncoderError, match="has no dense vectors; lsr-mini has them"):
        Index.open(index.path, encoder=BM25Encoder()).add(documents(1, 0, 90))


def test_damaged_dense_vectors_are_detected(tmp_path):
    index = Index.build(tmp_path / "idx", documents(40), encoder=DenseBM25(), hybrid=True)
    (path,) = (tmp_path / "idx").rglob("embeddings.arrow")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptIndex, match=r"embeddings\.arrow"):
        Index.open(tmp_path / "idx")
    path.unlink()
    with pytest.raises(CorruptIndex, match=r"embeddings\.arrow: missing"):
        Index.open(tmp_path / "idx")
    del index


def test_dense_vectors_are_stored_unchanged(tmp_path):
    given = np.random.default_rng(0).normal(size=(70, WIDTH)).astype(np.float32)
    given[7] = 0
    rows, writer = DenseRows.of(given), EmbeddingsWriter(tmp_path, WIDTH)
    assert np.abs(rows.rows * rows.scales[:, None] - given).max() <= rows.scales.max() / 2 * 1.001
    for first, end in ((0, 3), (3, 3), (3, 40), (40, 70)):
        writer.write(rows[first:end])
    writer.close()
    opened = Embeddings(tmp_path, 70, WIDTH)
    for first, end in ((0, 70), (15, 17), (16, 32), (69, 70)):
        found = opened.rows(first, end)
        assert np.array_equal(found.rows, rows.rows[first:end])
        assert np.array_equal(found.scales, rows.scales[first:end])
    query = np.full(WIDTH, -0.5, np.float32)
    query[0] = 2.0
    exact = (rows.rows * rows.scales[:, None].astype(np.float64)) @ query
    assert np.abs(opened.similarities(query) - exact).max() < 1e-4 * np.abs(exact).max()
    assert not opened.similarities(np.zeros(WIDTH, np.float32)).any()
    with pytest.raises(CorruptIndex, match="70 vectors for 71 documents"):
        Embeddings(tmp_path, 71, WIDTH)


def test_sums_of_the_widest_vectors_fit_into_32_bits(tmp_path):
    width = 5000
    writer = EmbeddingsWriter(tmp_path, width)
    writer.write(DenseRows.of(np.ones((1, width), np.float32)))
    writer.close()
    found = Embeddings(tmp_path, 1, width).similarities(-np.ones(width, np.float32))
    assert found == pytest.approx([-width], rel=1e-3)


def test_texts_are_searched_in_hybrid_mode_by_default(spread):
    index, sharded = spread
    texts = ["heat jet", "turned shock", "plate"]
    both = [index.search(text, 5, mode="hybrid") for text in texts]
    sparse = [index.search(text, 5, mode="sparse") for text in texts]
    assert both != sparse
    for one in (index, sharded):
        assert [one.search(text, 5) for text in texts] == one.search_batch(texts, 5) == both
        assert one.search({"text": texts[0], "_id": "q"}, 5) == both[0]
        vectors = one.query_vectors(texts)
        assert [one.search(vectors[i], 5) for i in range(3)] == one.search_batch(vectors, 5) == sparse
        assert one.search({"heat": 1.0}, 5) == one.search({"heat": 1.0}, 5, mode="sparse")
        assert one.search(texts[0], 5, sort="n") == one.search(texts[0], 5, sort="n", mode="sparse")
        assert one.similar("4", 5) == index.similar("4", 5, mode="hybrid")
        assert one.search("qwrt psdf") == []  # no document has these words, so nothing is found
        assert one.search_batch(["heat jet", "qwrt"], 5) == [both[0], []]
        assert len(one.search("qwrt", mode="dense")) == 10
        assert one.explain("qwrt psdf", "4#0").dense is None


def test_a_server_searches_in_hybrid_mode(tmp_path):
    from lsr.index.serve import schemas
    from lsr.index.serve.service import Served
    from lsr.index.serve.settings import ServeSettings
    from lsr.index.serve.thread_pool import Deadline

    index = Index.build(tmp_path / "idx", documents(30), encoder=DenseBM25(), hybrid=True)
    limits, asked = ServeSettings(), {"k": 4, "settings": {"mode": "hybrid", "dense_weight": 0.5}}
    served = Served("idx", index, limits)

    def request(kind, **rest):
        return kind.model_validate_json(json.dumps(asked | rest), context=limits)

    expected = [hit.id for hit in index.search("wing jet", 4, mode="hybrid", dense_weight=0.5)]
    found = served.search(request(schemas.Search, query="wing jet"), Deadline(60))
    assert [hit["id"] for hit in found["hits"]] == expected
    found = served.search(request(schemas.Search, query="wing jet", settings={"dense_weight": 0.5}), Deadline(60))
    assert [hit["id"] for hit in found["hits"]] == expected
    plain = served.search(request(schemas.Search, vector={"jet": 1.0}, settings={}), Deadline(60))
    assert [hit["id"] for hit in plain["hits"]] == [hit.id for hit in index.search({"jet": 1.0}, 4)]
    batch = served.search_batch(request(schemas.SearchBatch, queries=["wing jet", "heat"]), Deadline(60))
    assert [hit["id"] for hit in batch["results"][0]] == expected
    with pytest.raises(DataError, match="takes texts, or a dense vector"):
        served.search(request(schemas.Search, vector={"jet": 1.0}), Deadline(60))
    explained = served.search(request(schemas.Search, query="wing jet", explain=True), Deadline(60))["hits"][0]
    mine = index.search("wing jet", 1, mode="hybrid", dense_weight=0.5)[0].explain()
    assert explained["explanation"]["dense"] == mine.to_dict()["dense"]
    asked = {"settings": asked["settings"]}
    told = served.explain(request(schemas.Explain, query="wing jet", id=mine.id), Deadline(60))
    assert (told["dense"], told["score"]) == (mine.to_dict()["dense"], mine.score)


def test_a_server_counts_dense_encoding_of_the_query_as_encoding_time(tmp_path, monkeypatch):
    from lsr.index.serve import schemas, service
    from lsr.index.serve.settings import ServeSettings
    from lsr.index.serve.thread_pool import Deadline

    clock, encode = [0.0], DenseBM25.encode_dense

    def a_second(*args, **how):
        clock[0] += 1
        return encode(*args, **how)

    index = Index.build(tmp_path / "idx", documents(30), encoder=DenseBM25(), hybrid=True)
    monkeypatch.setattr(DenseBM25, "encode_dense", a_second)
    monkeypatch.setattr(service.time, "perf_counter", lambda: clock[0])
    asked = schemas.Search.model_validate_json('{"query": "wing jet"}', context=ServeSettings())
    found = service.Served("idx", index, ServeSettings()).search(asked, Deadline(60))
    assert found["took"] == {"encode_ms": 1000.0, "search_ms": 0.0}


# --- with search options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
def test_search_options_apply_to_hybrid_and_dense_rankings(tmp_path, mode):
    given = documents(60)
    index = Index.build(tmp_path / "idx", given, encoder=DenseBM25(), hybrid=True)
    texts = {d["_id"]: d["text"].split() for d in given}
    whole = [(hit.id, hit.score) for hit in index.search("wing lift", 60, mode=mode)]

    def found(query="wing lift", k=5, **how):
        return [(hit.id, hit.score) for hit in index.search(query, k, mode=mode, **how)]

    assert found(offset=7) == whole[7:12]
    assert found(k=60, min_score=whole[9][1]) == whole[:10]
    without = [pair for pair in whole if "jet" not in texts[pair[0]]]
    assert found("wing lift -jet", syntax="operators") == without[:5]
    even = {True: [], False: []}
    for doc_id, score in whole:
        even[int(doc_id) % 2 == 0].append((doc_id, score))
    first, second = sorted(even.values(), key=lambda pairs: -pairs[0][1])
    assert found(k=2, group_by="even", per_group=2) == [*first[:2], *second[:2]]
    longest = sorted(whole[:20], key=lambda pair: (-len(" ".join(texts[pair[0]])), whole.index(pair)))
    reranked = found(k=3, rerank=lambda query, these: [len(text) for text in these], depth=20)
    assert [doc_id for doc_id, _ in reranked] == [doc_id for doc_id, _ in longest[:3]]
    with pytest.raises(DataError, match="a dense vector matches every document"):
        found(sort="even")


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
def test_facets_count_all_documents_in_hybrid_and_dense_mode(tmp_path, mode):
    given = documents(60)
    index = Index.build(tmp_path / "idx", given, encoder=DenseBM25(), hybrid=True)
    index.delete(["1", "2"])
    index.commit()

    def counted(query="wing lift", **how):
        every = index.search(query, 60, mode=mode, **how)
        found = index.search(query, 1, mode=mode, total=True, facets="even", **how)
        assert found.total == len(every)
        assert found.facets["even"] == Counter(hit.metadata["even"] for hit in every)
        return found.total

    assert counted() == 58
    assert counted(where={"even": [True]}) == 29
    assert counted("wing lift -jet", syntax="operators") < 58
    assert 0 < counted(min_score=index.search("wing lift", 60, mode=mode)[9].score) <= 11


# --- over shards on many machines -------------------------------------------------------------------------------------

QUERIES = ["wing lift", "shock turned heat", "unheard of"]
HOW = {
    "plain": {},
    "weight": {"dense_weight": 0.3},
    "page": {"offset": 7},
    "filter": {"where": {"even": True}},
    "least": {"min_score": 0.4, "facets": "even"},
    "boost": {"boost": {"n": 0.1}, "total": True},
    "boost and least": {"boost": {"n": 0.1}, "min_score": 1.5, "facets": "even"},
    "words": {"syntax": "operators", "facets": "even"},
    "groups": {"group_by": "n", "per_group": 2},
    "passages": {"passages": True, "facets": "n"},
    "passages of documents": {"passages": True, "group_by": "_id", "per_group": 2},
    "best passages": {"best_passages": 2},
    "rerank": {"rerank": lambda query, texts: [len(text) for text in texts], "depth": 20},
    "diversity": {"diversity": 0.4, "depth": 20},
    "fields": {"fields": ["n"]},
}


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """An index and a sharded index of the same documents, with passages and deletions."""
    folder = tmp_path_factory.mktemp("spread")
    given = [doc | {"n": int(doc["_id"]) % 7} for doc in documents(130, 3)]
    index = Index.build(folder / "one", given, encoder=DenseBM25(), hybrid=True, passages=Passages(3))
    reshard_index(index.path, folder / "shards", 3)
    with ShardedIndex.open(folder / "shards", encoder=DenseBM25()) as sharded:
        for one in (index, sharded):
            one.delete(["3", "60", "61"])
            one.add([{"_id": "new", "text": "wing turned heat jet lift", "n": 3, "even": True}])
            one.commit(merge=False)
        yield index, sharded


def told_of(hits):
    return [(hit.id, hit.passage, hit.score, hit.text, hit.metadata) for hit in hits], hits.facets, hits.total


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("candidates", [100, 4])
def test_sharded_results_equal_those_of_one_index(spread, monkeypatch, mode, how, candidates):
    monkeypatch.setattr(hybrid_search, "_CANDIDATES", candidates)
    index, sharded = spread
    given = dict(HOW[how])
    if mode == "dense" and "min_score" in given:
        given["min_score"] = 0.2
    queries = [f"{query} -jet" for query in QUERIES] if how == "words" else QUERIES
    for k in (1, 6, 200):
        for query in queries:
            expected, found = (each.search(query, k, mode=mode, **given) for each in (index, sharded))
            assert told_of(found) == told_of(expected), (query, k)
    batches = [each.search_batch(queries, 4, mode=mode, **given) for each in (index, sharded)]
    assert list(map(told_of, batches[0])) == list(map(told_of, batches[1]))
    if how != "words":
        near = [each.similar("5", 6, mode=mode, **given) for each in (index, sharded)]
        assert told_of(near[1]) == told_of(near[0])


def test_shards_without_dense_vectors_are_reported(tmp_path):
    Index.build(tmp_path / "idx", documents(9), encoder=DenseBM25())
    reshard_index(tmp_path / "idx", tmp_path / "shards", 2)
    with ShardedIndex.open(tmp_path / "shards", encoder=DenseBM25()) as sharded:
        for call in (lambda: sharded.search("jet", mode="hybrid"), lambda: sharded.similar("1", mode="dense")):
            with pytest.raises(DataError, match="has no dense vectors: build it with hybrid=True"):
                call()


def test_shards_accept_dense_vectors_of_queries(spread):
    index, sharded = spread
    dense = DenseBM25().encode_dense(["heat", "jet"], queries=True)
    for one in (index, sharded):
        assert one.search({"heat": 1.0}, 5, mode="dense", dense=dense[0]) == index.search("heat", 5, mode="dense")
        with pytest.raises(DataError, match="of 12 finite numbers"):
            one.search("heat", mode="hybrid", dense=np.ones(3))
        with pytest.raises(DataError, match="a dense vector matches every document"):
            one.search("heat", mode="hybrid", sort="n")
        with pytest.raises(ValueError, match='need the mode "hybrid" or "dense"'):
            one.search("heat", mode="sparse", dense=dense[0])
        assert one.search({"heat": 1.0}, 5, dense=dense[0]) == index.search("heat", 5, mode="hybrid")
    batches = [one.search_batch(["a", "b"], 3, mode="hybrid", dense=dense) for one in (index, sharded)]
    assert batches[0] == batches[1]


def test_the_call_similar_compares_dense_vectors(tmp_path):
    given = documents(30)
    index = Index.build(tmp_path / "idx", given, encoder=DenseBM25(), hybrid=True)
    own = rounded(DenseBM25().encode_dense([doc["text"] for doc in given]))
    near = own @ (own[4] / np.linalg.norm(own[4]))
    expected = [str(i) for i in np.argsort(-near, kind="stable") if i != 4]
    found = index.similar("4", 30, mode="dense")
    assert [hit.score for hit in found] == pytest.approx(sorted(np.delete(near, 4), reverse=True), abs=1e-3)
    assert found[0].id == expected[0]
    assert "4" not in [hit.id for hit in index.similar("4", 30, mode="hybrid")]
    with pytest.raises(DataError, match="has no dense vectors"):
        Index.build(tmp_path / "plain", given, encoder=DenseBM25()).similar("4", mode="hybrid")


# --- explanations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
@pytest.mark.parametrize("how", [{}, {"boost": {"n": 0.1}}, {"dense_weight": 0.3, "where": {"even": True}}])
def test_explanations_add_up_to_the_score(spread, mode, how):
    index, sharded = spread
    for query in QUERIES:
        found = index.search(query, 40, mode=mode, passages=True, **how)
        others = sharded.search(query, 40, mode=mode, passages=True, **how)
        for hit, other in zip(found, others, strict=True):
            why = hit.explain()
            assert why.score * why.boost == pytest.approx(hit.score)
            assert (other.explain().score, other.explain().dense) == (why.score, why.dense)
            parts = sum(part.score for part in why) if mode == "hybrid" else 0.0
            assert parts + why.dense.score == pytest.approx(why.score)
            assert sum(part.share for part in why) + why.dense.share == pytest.approx(1)
            assert why.to_dict()["dense"]["cosine"] == why.dense.cosine
        cosines = {hit.passage: hit.score for hit in index.search(query, 500, mode="dense", passages=True)}
        assert {hit.passage: hit.explain().dense.cosine for hit in found} == {
            hit.passage: cosines[hit.passage] for hit in found
        }


def test_a_negative_share_of_the_dense_vector_is_shown(tmp_path):
    """Without the negative share, the shown shares would add up to more than 100 %."""
    index = Index.build(tmp_path / "idx", documents(40), encoder=DenseBM25(), hybrid=True)
    why = index.search("wing lift", 1, mode="hybrid")[0].explain()
    for share, limit, shown in ((-0.3, 5, True), (-0.001, 1, False)):
        below = replace(why, dense=replace(why.dense, share=share))
        assert (f"dense vector {share:.0%}" in below.words(limit)) == shown


def test_the_share_of_the_dense_vector_is_shown_with_the_words(tmp_path):
    index = Index.build(tmp_path / "idx", documents(40), encoder=DenseBM25(), hybrid=True)
    hit = index.search("wing lift", 1, mode="hybrid")[0]
    why = hit.explain()
    assert f"dense vector {why.dense.share:.0%}" in why.words()
    assert f"cosine {why.dense.cosine:.3f}, z {why.dense.z:.1f}" in str(why)
    assert "dense vector" not in str(index.explain("wing lift", hit.id, mode="sparse"))
    assert index.explain("wing lift", hit.id, mode="hybrid") == why
    far = min(documents(40), key=lambda doc: index.explain("wing lift", doc["_id"], mode="dense").score)
    assert index.explain("wing lift", far["_id"], mode="hybrid").dense.score < 0
    alone = index.search("wing lift", 1, mode="dense")[0].explain()
    assert alone.words() == "dense vector 100%"
    assert alone.dense.z is None


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
def test_the_explanation_of_a_document_explains_its_best_passage(spread, mode):
    for one in spread:
        for hit in one.search("wing lift", 12, mode=mode):
            assert one.explain("wing lift", hit.id, mode=mode) == hit.explain()
        with pytest.raises(DataError, match="no document has the id 'gone'"):
            one.explain("wing lift", "gone", mode=mode)


def test_a_document_is_explained_with_its_nearest_passage(spread):
    index, sharded = spread
    for hit in index.search("wing lift", 20, mode="hybrid"):
        cosine = index.search("wing lift", 200, mode="dense").scores[0]
        passages = [part for part in index.search("wing lift", 500, mode="dense", passages=True) if part.id == hit.id]
        assert hit.explain().dense.cosine == passages[0].score <= cosine
        assert sharded.explain("wing lift", hit.passage, mode="hybrid").dense == hit.explain().dense
