"""Pairwise, listwise and sentence re-ranking give the same order as plain Python, for all kinds of indexes."""

from __future__ import annotations

import math
import random
import re

import pytest

from lsr.errors import RerankerError
from lsr.index import Client, Index, ListwiseReranker, PairwiseReranker, Server, ServeSettings, ShardedIndex
from lsr.index.distributed.reshard import reshard_index
from lsr.index.search.rerank import rerank

DOCS = [
    {"_id": "a", "title": "Wings", "text": "Ice on a wing. Ice costs much lift! The wing?", "n": 1},
    {"_id": "b", "text": "A wing\nthat is swept delays the shock wave", "n": 2},
    {"_id": "c", "title": "Rotors", "text": "Each blade is a wing. It turns", "n": 1},
    {"_id": "d", "text": "翼は氷で重い。wing 揚力が減る", "n": 2},
    {"_id": "e", "text": "wing", "n": 1},
]
SENTENCES = {
    "a": ["Ice on a wing.", "Ice costs much lift!", "The wing?"],
    "b": ["A wing", "that is swept delays the shock wave"],
    "c": ["Each blade is a wing.", "It turns"],
    "d": ["翼は氷で重い。", "wing 揚力が減る"],
    "e": ["wing"],
}
TITLES = {"a": "Wings ", "c": "Rotors "}


def length(query, texts):
    return [len(text) for text in texts]


def longer(query, pairs):
    """Prefers the longer text of each pair. If both texts are equally long, the first text has a small advantage."""
    return [0.9 if len(a) > len(b) else 0.6 if len(a) == len(b) else 0.2 for a, b in pairs]


def by_length(query, texts):
    return sorted(range(len(texts)), key=lambda i: -len(texts[i]))


# --- pairs and lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7])
def test_pairs_are_compared_in_both_orders(n):
    chances = {(i, j): random.Random(i * 10 + j).random() for i in range(n) for j in range(n) if i != j}

    def prefers(query, pairs):
        assert query == "q"
        return [chances[int(a), int(b)] for a, b in pairs]

    found = PairwiseReranker(prefers).scores("q", list(map(str, range(n))))
    for i, score in enumerate(found):
        others = [(chances[i, j] + 1 - chances[j, i]) / 2 for j in range(n) if j != i]
        assert score == pytest.approx(sum(others) / len(others) if others else 1.0)


@pytest.mark.parametrize("aggregator", ["greedy", "bradley-terry"])
def test_a_third_of_the_pairs_gives_nearly_the_same_order(aggregator):
    asked, strengths = [], [10 - i + 3 * (i % 3) for i in range(20)]

    def prefers(query, pairs):
        asked.extend(pairs)
        return [1 / (1 + math.exp(strengths[int(b)] - strengths[int(a)])) for a, b in pairs]

    scores = PairwiseReranker(prefers, share=1 / 3, aggregator=aggregator).scores("q", list(map(str, range(20))))
    ranked = sorted(range(20), key=lambda i: -scores[i])
    pairs = [(i, j) for i in range(20) for j in range(20) if strengths[i] > strengths[j]]
    right = sum(ranked.index(i) < ranked.index(j) for i, j in pairs) / len(pairs)
    assert right > 0.9
    assert len(asked) == 20 * 7  # each text is compared with a third of the 19 others, rounded up


def test_invalid_settings_of_a_pairwise_reranker_are_refused():
    for wrong in ({"share": 0}, {"share": 1.5}, {"sampler": "nearest"}, {"aggregator": "sum"}):
        with pytest.raises(ValueError, match=r"share must be|is none of"):
            PairwiseReranker(len, **wrong)


@pytest.mark.parametrize("seed", range(20))
def test_overlapping_windows_move_the_best_texts_to_the_top(seed):
    drawn = random.Random(seed)
    n, window = drawn.randint(1, 60), drawn.randint(2, 25)
    step, sizes = drawn.randint(1, window - 1), []
    values = drawn.sample(range(1000), n)

    def order(query, texts):
        sizes.append(len(texts))
        return sorted(range(len(texts)), key=lambda i: -int(texts[i]))

    scores = ListwiseReranker(order, window=window, step=step).scores("q", list(map(str, values)))
    assert sorted(scores) == list(range(1, n + 1))
    ranked = [values[i] for i in sorted(range(n), key=lambda i: -scores[i])]
    sure = n if n <= window else window - step  # the number of best texts that rise through all windows
    assert ranked[:sure] == sorted(values, reverse=True)[:sure]
    assert max(sizes) <= window


@pytest.mark.parametrize(
    ("reranker", "message"),
    [
        (PairwiseReranker(lambda query, pairs: [0.5]), "gave 1 chances for 20 pairs"),
        (PairwiseReranker(lambda query, pairs: [float("nan")] * len(pairs)), "gave nan for a pair of texts"),
        (PairwiseReranker(lambda query, pairs: [3.0] * len(pairs)), "chances are 0 to 1"),
        (PairwiseReranker(lambda query, pairs: 1 / 0), "PairwiseReranker failed on 5 texts: ZeroDivisionError"),
        (ListwiseReranker(lambda query, texts: [0, 0, 1, 2, 3]), "each of the places 0 to 4 once"),
        (ListwiseReranker(lambda query, texts: [1, 2, 3, 4, 5]), "each of the places 0 to 4 once"),
        (ListwiseReranker(lambda query, texts: ["first"]), "ListwiseReranker failed on 5 texts: ValueError"),
    ],
)
def test_a_failing_reranker_is_reported(index, reranker, message):
    with pytest.raises(RerankerError, match=re.escape(message)):
        index["Index"].search("wing", rerank=reranker)


def test_windows_without_overlap_are_refused():
    for window, step in ((1, 1), (5, 5), (5, 0)):
        with pytest.raises(ValueError, match="step must be at least 1 and below window"):
            ListwiseReranker(by_length, window=window, step=step)


# --- sentences --------------------------------------------------------------------------------------------------------


def test_a_document_gets_the_score_of_its_best_sentence():
    asked = []

    def scores(query, texts):
        asked.extend(texts)
        return [len(text) for text in texts]

    texts = [(doc.get("title", ""), doc["text"]) for doc in DOCS]
    found, sentences = rerank(scores, "q", [*texts, ("Only a title", ""), ("", "  \n ")], "sentence")
    wanted = {i: [TITLES.get(i, "") + one for one in SENTENCES[i]] for i in SENTENCES}
    assert asked == [*(one for each in wanted.values() for one in each), "Only a title", "  \n "]
    assert found[:5] == [max(map(len, each)) for each in wanted.values()]
    assert sentences[:5] == [max(SENTENCES[i], key=len) for i in SENTENCES]
    assert sentences[5] == ""


# --- on all kinds of indexes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerank")
    one = Index.build(folder / "one", DOCS, encoder="bm25", passages=None)
    reshard_index(one.path, folder / "shards", 2)
    with (
        ShardedIndex.open(folder / "shards") as sharded,
        Server({"one": one}, ServeSettings(port=0, rerank=length)) as server,
        Client(server.url) as client,
    ):
        yield {"Index": one, "ShardedIndex": sharded, "Client": client}


def told(hits):
    return [(hit.id, hit.score, hit.moved, hit.text) for hit in hits]


@pytest.mark.parametrize(
    "how",
    [
        {"rerank": PairwiseReranker(longer)},
        {"rerank": ListwiseReranker(by_length, window=3, step=1), "depth": 4},
        {"rerank": length, "rerank_unit": "sentence"},
        {"rerank": ListwiseReranker(by_length), "rerank_unit": "sentence", "group_by": "n", "per_group": 2},
    ],
    ids=["pairs", "lists", "sentences", "lists of sentences"],
)
def test_all_kinds_of_indexes_rerank_equally(index, how):
    expected = told(index["Index"].search("wing", 3, **how))
    assert expected
    assert all(moved is not None for *_, moved, _ in expected)
    for kind in ("ShardedIndex", "Client"):
        assert told(index[kind].search("wing", 3, **how)) == expected


def test_explanations_show_the_best_sentence(index):
    for one in index.values():
        hit = one.search("wing", 1, rerank=length, rerank_unit="sentence")[0]
        assert (hit.id, hit.moved.sentence) == ("b", "that is swept delays the shock wave")
        assert hit.explain().moved == hit.moved
        assert 'the re-ranker\'s score of "that is swept delays the shock wave" 35.0000' in str(hit.explain())
    assert index["Index"].search("wing")[0].moved is None


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"depth": 2, "offset": 1},
        {"rerank_unit": "sentence", "group_by": "n"},
        {"facets": "n", "boost": {"n": 1}, "fields": ["title", "n"]},
        {"diversity": 0.5},
        {"syntax": "operators"},
    ],
    ids=str,
)
def test_a_client_can_use_the_reranker_of_its_server(index, how):
    query = "wing -rotor" if "syntax" in how else "wing"
    expected = index["Index"].search(query, 2, rerank=length, **how)
    found = index["Client"].search(query, 2, rerank=True, **how)
    assert told(found) == told(expected)
    assert (found.facets, found.total) == (expected.facets, expected.total)
    assert found[0].explain().moved == expected[0].explain().moved == found[0].moved
    batch = index["Client"].search_batch([query, "ice"], 2, rerank=True, **how)
    assert list(map(told, batch)) == list(
        map(told, index["Index"].search_batch([query, "ice"], 2, rerank=length, **how))
    )
    if "syntax" not in how:
        like = index["Index"].similar("a", 2, rerank=length, **how)
        assert told(index["Client"].similar("a", 2, rerank=True, **how)) == told(like)


def test_explanations_of_a_server_show_the_reranking(index):
    found = index["Client"]._post("/v1/search", {"query": "wing", "rerank": True, "explain": True, "k": 1})
    assert found["hits"][0]["explanation"]["moved"] == found["hits"][0]["moved"]
    assert index["Client"]._get("/v1/indexes")["indexes"][0]["has_reranker"] is True


def test_invalid_requests_for_a_servers_reranker_are_refused(index):
    for kind in ("Index", "ShardedIndex"):
        with pytest.raises(TypeError, match="whose server has a re-ranker"):
            index[kind].search("wing", rerank=True)
    with (
        Server({"one": index["Index"]}, ServeSettings(port=0)) as server,
        Client(server.url) as client,
        pytest.raises(ValueError, match="has no re-ranker; start it with lsr serve --rerank MODEL"),
    ):
        client.search("wing", rerank=True)
    with pytest.raises(ValueError, match="give a query, not a vector"):
        index["Client"].search({"wing": 1.0}, rerank=True)
    with pytest.raises(ValueError, match="at most 1,000 documents are re-ranked, got 2,000"):
        index["Client"].search("wing", rerank=True, depth=2000)
    with pytest.raises(TypeError, match="rerank takes a Reranker"):
        ServeSettings(rerank=3)


def test_a_failing_reranker_is_a_server_error(index, caplog):
    def broken(query, texts):
        raise OSError("no such model")

    with Server({"one": index["Index"]}, ServeSettings(port=0, rerank=broken)) as server, Client(server.url) as client:
        with pytest.raises(RerankerError, match="broken failed on 5 texts: OSError: no such model"):
            client.search("wing", rerank=True)
        assert "broken failed" in caplog.text
        assert client.search("wing")


def test_invalid_units_and_fields_are_refused(index):
    one = index["Index"]
    with pytest.raises(ValueError, match="rerank_unit must be one of text, sentence, got 'word'"):
        one.search("wing", rerank=length, rerank_unit="word")
    with pytest.raises(ValueError, match="rerank_unit needs rerank"):
        one.search("wing", rerank_unit="sentence")
