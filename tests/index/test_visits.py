"""Dense vectors are clustered, and a policy chooses the clusters that a query reads."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from lsr.arrays import write_arrays
from lsr.encode.load import load_encoder
from lsr.errors import CorruptIndex, DataError
from lsr.index import DenseVectors, Hybrid, Index, build_dense
from lsr.index.hybrid import visits as module
from lsr.index.hybrid.dense_clusters import DenseClusters
from lsr.index.hybrid.visits import N_FEATURES, Visits, by_overlap, features

TOPICS, WIDTH = 30, 12
POLICIES = ("logistic", "lstm")


def blobs(n, seed=0, spread=0.1):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(TOPICS, WIDTH))
    topics = rng.integers(TOPICS, size=n)
    return (centres[topics] + spread * rng.normal(size=(n, WIDTH))).astype(np.float32), topics


class Meanings:
    """Embeds texts of the form "WORD TOPIC NUMBER". The vector depends only on the topic and the number."""

    def __init__(self):
        self.centres = np.random.default_rng(99).normal(size=(TOPICS, WIDTH))

    def __call__(self, texts):
        found = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in zip(found, texts, strict=True):
            _, topic, number = text.split()
            row[:] = self.centres[int(topic[1:])] + 0.3 * np.random.default_rng(int(number[1:])).normal(size=WIDTH)
        return found


def text(i, rng):
    """A text of a random topic. Four neighbouring topics share its word, so BM25 matches several topics."""
    topic = int(rng.integers(TOPICS))
    return f"word{(topic + int(rng.integers(4))) % TOPICS} t{topic} n{i}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("visits"), np.random.default_rng(0)
    docs = [{"_id": f"d{i}", "text": text(i, rng), "even": i % 2 == 0} for i in range(600)]
    index = Index.build(path / "idx", docs, encoder="bm25")
    dense = build_dense(index, path / "dense", Meanings(), clusters=True)
    return index, dense, Hybrid(index, dense, method="interpolation")


def queries(n, seed):
    rng = np.random.default_rng(seed)
    return [text(10_000 + i, rng) for i in range(n)]


def test_k_means_finds_separate_groups():
    vectors, topics = blobs(900)
    clusters, order = DenseClusters.of(vectors, 60)
    assert sorted(order.tolist()) == list(range(900))
    for c in range(len(clusters)):
        mine = order[clusters.starts[c] : clusters.starts[c + 1]]
        assert len(set(topics[mine].tolist())) <= 2
        if len(mine):
            assert clusters.centroids[c] == pytest.approx(vectors[mine].mean(0), abs=1e-5)
    rows = clusters.rows(np.array([7, 2]))
    assert set(clusters.of_rows(rows).tolist()) <= {2, 7}
    assert len(rows) == clusters.starts[3] - clusters.starts[2] + clusters.starts[8] - clusters.starts[7]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_very_few_vectors_can_be_clustered(tmp_path, n):
    docs = [(f"d{i}", f"word t{i} n{i}") for i in range(n)]
    dense = DenseVectors.build(tmp_path / "dense", docs, Meanings(), clusters=True)
    assert [hit.id for hit in dense.search("word t1 n1", 1)] == (["d1"] if n > 1 else [doc for doc, _ in docs])


@pytest.mark.parametrize("policy", ["overlap", "centroid"])
@pytest.mark.parametrize("where", [None, {"even": True}])
def test_reading_all_clusters_equals_the_exact_hybrid(built, policy, where):
    _, _, exact = built
    every = exact.with_visit(Visits(1.0, policy))
    for query in queries(10, 1):
        want, found = exact.search(query, 20, where=where), every.search(query, 20, where=where)
        assert [(hit.id, hit.score) for hit in want] == [(hit.id, pytest.approx(hit.score)) for hit in found]


@pytest.mark.parametrize("results", [0, 5])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_a_query_reads_at_most_the_given_share_of_vectors(built, monkeypatch, share, results):
    _, dense, exact = built
    read = []
    own = DenseVectors.rankings

    def counted(self, queries, *, rows=None, exact=False):
        read.append(len(rows))
        return own(self, queries, rows=rows, exact=exact)

    monkeypatch.setattr(DenseVectors, "rankings", counted)
    hybrid = exact.with_visit(Visits(share, results=results))
    for query in queries(10, 2):
        assert hybrid.search(query, 5)
    largest = np.diff(dense.clusters.starts).max()
    assert len(read) == 10
    assert all(0 < n <= max(share * len(dense), largest) for n in read)
    assert share < 0.1 or min(read) >= share * len(dense) - largest


def test_vectors_of_the_first_results_are_read(built):
    _, dense, exact = built
    query = queries(1, 9)[0]
    first = list(exact.rankings({"q": query})["sparse"]["q"])[:4]
    near = {*exact.with_visit(Visits(0.001, results=4)).rankings({"q": query}, 100)["dense"]["q"]}
    assert near == {*first}
    assert len(exact.with_visit(Visits(0.001, results=0)).rankings({"q": query}, 100)["dense"]["q"]) >= 1
    both = exact.with_visit(Visits(0.1, results=4)).rankings({"q": query}, 100)["dense"]["q"]
    assert {*first} < {*both}
    assert len(both) <= 0.1 * len(dense)


def test_overlap_ranks_clusters_by_the_first_bins_of_results():
    near = np.array([0.1, 0.9, 0.3, 0.2], np.float32)
    results = np.array([2] * 3 + [0] * 7 + [3] * 8 + [2] * 2 + [-1] * 5)
    assert by_overlap(4, near, results).tolist() == [0, 2, 3, 1]
    assert by_overlap(4, near, np.array([3, 0])).tolist() == [3, 0, 1, 2]  # ties go to the nearer cluster


def test_features_equal_a_hand_worked_example():
    clusters = DenseClusters(np.eye(2, dtype=np.float32), np.array([0, 5, 9]))
    near, order = np.array([0.8, 0.6], np.float32), np.array([1, 0])
    found = features(clusters, near, order, np.array([1, 1, 0]), np.array([3.0, 2.0, 1.0]))
    assert found.shape == (2, N_FEATURES)
    assert found[:, :4] == pytest.approx(np.array([[0.6, -0.2, 1, 0.2], [0.8, 0, 0.5, 0.1]]))
    assert found[:, 10].tolist() == [0.75, 0.0]  # scores are scaled to 1, 0.5 and 0
    assert found[0, -4:].tolist() == [1.0, 0.0, 0.0, 0.0]


def kept(hybrid, exact, asked, k=10):
    pairs = zip(hybrid.search_batch(asked, k), exact.search_batch(asked, k), strict=True)
    return float(np.mean([len({*a.ids} & {*b.ids}) / len(b) for a, b in pairs]))


def test_trained_policies_beat_overlap_at_equal_reads(built):
    pytest.importorskip("torch")
    _, _, exact = built
    asked = queries(60, 3)
    found = {}
    for policy in ("overlap", "centroid"):
        found[policy] = kept(exact.with_visit(Visits(0.1, policy, results=0)), exact, asked)
    for policy in POLICIES:
        trained = exact.fit_visits(queries(300, 4), policy, share=0.1, results=0)
        found[policy] = kept(exact.with_visit(trained), exact, asked)
    assert min(found["logistic"], found["lstm"]) > found["overlap"] + 0.02, found
    assert found["overlap"] > 0.1


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_a_tenth_of_the_vectors_keeps_most_of_the_best_on_scifact(real_data, benchmark_module, monkeypatch, tmp_path):
    """Trained policies keep more of the exact hybrid's best ten than untrained ones. With the vectors of the first 50
    results, nine of ten are kept, and nDCG falls by at most 0.005.
    """
    pytest.importorskip("torch")
    pytest.importorskip("ir_measures", reason="needs the extra eval")
    module = benchmark_module("dense_clusters")
    monkeypatch.setattr(module, "SHARES", (0.1,))
    rows = list(module.compared(real_data("scifact"), "splade-tiny", load_encoder("lsr-mini"), tmp_path))
    found = {(row["policy"], row["results"]): (row["kept"], row["nDCG@10"]) for row in rows}
    print(found)
    trained = [found[policy, 0][0] for policy in POLICIES]
    assert min(trained) > max(found[policy, 0][0] for policy in ("overlap", "centroid"))
    assert found["lstm", 0][0] >= found["logistic", 0][0] - 0.01
    for policy in module.POLICIES:
        assert found[policy, 50][0] >= 0.9
        assert found[policy, 50][1] >= found["all vectors", 0][1] - 0.005


def test_the_lstm_gives_the_same_values_as_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    examples = [
        (rng.normal(size=(9, N_FEATURES)).astype(np.float32), rng.integers(2, size=9).astype(bool)) for _ in range(5)
    ]
    weights = module.fitted(examples, 0.1, "lstm", 0).weights
    lstm = torch.nn.LSTM(N_FEATURES, module._HIDDEN, batch_first=True)
    with torch.no_grad():
        for name, given in (("weight_ih_l0", "inputs"), ("weight_hh_l0", "states"), ("bias_ih_l0", "bias")):
            getattr(lstm, name).copy_(torch.from_numpy(weights[given]))
        lstm.bias_hh_l0.zero_()
        states = lstm(torch.from_numpy(examples[0][0])[None])[0][0].numpy()
    expected = states @ weights["weights"][:-1] + weights["weights"][-1]
    assert module._lstm(examples[0][0], weights) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_saved_policy_is_loaded_unchanged_and_a_damaged_policy_is_refused(built, tmp_path, policy):
    pytest.importorskip("torch")
    trained = built[2].fit_visits(queries(40, 5), policy, share=0.2, results=7)
    path = tmp_path / "policy.arrow"
    trained.save(path)
    loaded = Visits.load(path)
    assert (loaded.policy, loaded.share, loaded.results) == (policy, 0.2, 7)
    asked = queries(5, 6)
    one, other = (built[2].with_visit(visit).search_batch(asked) for visit in (trained, loaded))
    assert [hits.ids for hits in one] == [hits.ids for hits in other]
    whole = {**loaded.weights, "share": np.array(0.2)}
    for wrong in ({"mean": np.zeros(3, np.float32)}, {"share": np.array(2.0)}, {"scale": np.zeros((2, 2), np.float32)}):
        write_arrays(path, "visiting policy", whole | wrong)
        with pytest.raises(DataError, match="damaged"):
            Visits.load(path)


def test_changed_documents_are_left_out_until_vectors_are_built_again(tmp_path):
    rng = np.random.default_rng(0)
    docs = [{"_id": f"d{i}", "text": text(i, rng)} for i in range(80)]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25")
    dense = build_dense(index, tmp_path / "dense", Meanings(), clusters=True)
    index.delete(["d3"])
    index.upsert([{"_id": "d4", "text": "word1 t9 n4"}])
    index.commit()
    every = Hybrid(index, dense, visit=Visits(1.0)).rankings({"q": docs[3]["text"]}, 100)["dense"]["q"]
    assert {f"d{i}" for i in range(80)} - {*every} == {"d3", "d4"}
    dense = build_dense(index, tmp_path / "dense", Meanings(), clusters=True)
    every = Hybrid(index, dense, visit=Visits(1.0)).rankings({"q": "word1 t9 n4"}, 100)["dense"]["q"]
    assert next(iter(every)) == "d4"


def test_damaged_clusters_are_refused(built, tmp_path):
    docs = [(f"d{i}", f"word t{i % 9} n{i}") for i in range(50)]
    DenseVectors.build(tmp_path / "dense", docs, Meanings(), clusters=True)
    other, _ = DenseClusters.of(blobs(30)[0])
    file = next((tmp_path / "dense").glob("*.clusters"))
    size = file.stat().st_size
    other.write(tmp_path / "other")
    with pytest.raises(CorruptIndex, match="that don't fit the 50 vectors"):
        DenseClusters.read(tmp_path / "other", WIDTH, 50, "")
    file.write_bytes(bytes(size))
    with pytest.raises(CorruptIndex, match="not as it was written"):
        DenseVectors(tmp_path / "dense", Meanings())


def test_vectors_of_earlier_versions_can_be_opened(tmp_path):
    docs = [(f"d{i}", f"word t{i} n{i}") for i in range(5)]
    DenseVectors.build(tmp_path / "dense", docs, Meanings())
    record = json.loads((tmp_path / "dense" / "dense.json").read_text())
    del record["clusters"]
    (tmp_path / "dense" / "dense.json").write_text(json.dumps(record))
    assert DenseVectors(tmp_path / "dense", Meanings()).search("word t3 n3", 1)[0].id == "d3"


@pytest.mark.parametrize("visit", [Visits(0.1), Visits(0.1, "overlap"), Visits(0.1, results=0)], ids=str)
def test_empty_clusters_are_not_read(tmp_path, visit):
    """Identical vectors leave some clusters empty. Without sparse results, a query reads a cluster with documents."""
    docs = [{"_id": f"d{i}", "text": f"word t{i % 6} n{i % 6}"} for i in range(240)]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25")
    dense = build_dense(index, tmp_path / "dense", Meanings(), clusters=True)
    assert (np.diff(dense.clusters.starts) == 0).any()
    hybrid = Hybrid(index, dense, visit=visit)
    for topic in range(6):
        assert len(hybrid.search(f"nothing t{topic} n{topic}", 5)) == 5


def test_weights_that_are_not_finite_are_refused(built, tmp_path):
    visits = built[2].fit_visits(queries(40, 5), "logistic")
    visits.save(tmp_path / "visits.arrow")
    assert Visits.load(tmp_path / "visits.arrow").policy == "logistic"
    damaged = {name: np.full_like(one, np.nan) for name, one in visits.weights.items()}
    replace(visits, weights=damaged).save(tmp_path / "visits.arrow")
    with pytest.raises(DataError, match="numbers that aren't finite"):
        Visits.load(tmp_path / "visits.arrow")


def test_wrong_settings_are_refused(built, tmp_path):
    index, _, exact = built
    with pytest.raises(ValueError, match="share must be above 0"):
        Visits(0)
    with pytest.raises(ValueError, match="policy must be one of"):
        Visits(0.1, "random")
    with pytest.raises(ValueError, match="come from fit_visits"):
        Visits(0.1, "lstm")
    plain = DenseVectors.build(tmp_path / "dense", [("d1", "word t1 n1")], Meanings())
    with pytest.raises(ValueError, match="clusters=True"):
        Hybrid(index, plain, visit=Visits())
    with pytest.raises(ValueError, match="training needs queries"):
        exact.fit_visits([])
    assert replace(Visits(0.3), share=0.2).share == 0.2
