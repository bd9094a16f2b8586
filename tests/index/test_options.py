"""Search options give the same results as plain Python over the whole ranking, for any number of segments or shards."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from datetime import date

import pytest

from lsr.encode.passages import Passages
from lsr.errors import DataError, RerankerError
from lsr.index.distributed.reshard import reshard_index
from lsr.index.distributed.sharded_index import ShardedIndex
from lsr.index.index import Index
from lsr.index.segment.doc_store import AllDocuments

N = 300
WORDS = ["wing", "flutter", "lift", "drag", "panel", "shock", "layer", "flow", "heat", "jet"]


def corpus():
    drawn = random.Random(5)
    documents = []
    for i in range(N):
        text = " ".join(drawn.choices(WORDS, weights=range(1, 11), k=drawn.randint(3, 14)))
        document = {"_id": f"d{i}", "text": text, "title": drawn.choice(["", "Wing lift", "heat"])}
        document |= {"source": f"s{drawn.randint(0, 20)}", "n": i, "tags": drawn.sample(["x", "y", "z"], i % 3)}
        if i % 4:
            document |= {
                "stars": drawn.randint(-2, 30),
                "day": f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}",
                "even": i % 2 == 0,
            }
        if i % 5 == 0:
            del document["source"]
        documents.append(document)
    return documents


DOCS = {document["_id"]: document for document in corpus()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    documents = list(DOCS.values())
    one = Index.build(folder / "one", documents[:120], encoder="bm25", order="bisection")
    one.add(documents[120:200])
    one.commit(merge=False)
    one.add([*documents[200:], {"_id": "gone", "text": "wing flutter lift", "source": "s1", "n": -1}])
    one.commit(merge=False)
    one.delete("gone")
    one.commit(merge=False)
    assert one.n_segments == 3
    reshard_index(one.path, folder / "shards", 3)
    with ShardedIndex.open(folder / "shards") as sharded:
        yield {"segments": one, "joined": Index.open(folder / "shards"), "sharded": sharded}


@pytest.fixture(params=["segments", "joined", "sharded"])
def index(request, built):
    return built[request.param]


def pairs(hits):
    return [(hit.id, hit.score) for hit in hits]


def ranking(index, query, **settings):
    """(id, score) of all matching documents."""
    return pairs(index.search(query, N, **settings))


QUERIES = ["wing", "shock layer", "jet heat flow drag"]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("offset", [0, 1, 7, 100, 10_000])
def test_the_option_offset_skips_the_best_hits(index, query, offset):
    whole = ranking(index, query)
    assert pairs(index.search(query, 5, offset=offset)) == whole[offset : offset + 5]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("algorithm", ["auto", "exhaustive", "blocks", "maxscore"])
def test_the_option_min_score_drops_hits_with_lower_scores(index, query, algorithm):
    whole = ranking(index, query)
    for place in (0, 3, len(whole) // 2, len(whole) - 1):
        least = whole[place][1]
        expected = [pair for pair in whole if pair[1] >= least]
        assert pairs(index.search(query, N, min_score=least, algorithm=algorithm)) == expected
    assert pairs(index.search(query, 3, min_score=whole[0][1] + 1)) == []


def grouped(whole, value, k, per_group, offset):
    groups = defaultdict(list)
    for number, (doc_id, score) in enumerate(whole):
        found = value(DOCS[doc_id])
        groups[("alone", number) if found is None else found].append((doc_id, score))
    return [pair for group in list(groups.values())[offset : offset + k] for pair in group[:per_group]]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(("k", "per_group", "offset"), [(1, 1, 0), (5, 1, 0), (5, 3, 2), (100, 2, 0), (3, 1, 90)])
@pytest.mark.parametrize("column", ["source", "even"])
def test_the_option_group_by_limits_the_hits_per_group(index, query, k, per_group, offset, column):
    expected = grouped(ranking(index, query), lambda document: document.get(column), k, per_group, offset)
    found = index.search(query, k, group_by=column, per_group=per_group, offset=offset)
    assert pairs(found) == expected


@pytest.mark.parametrize(
    "sort", ["n", "-n", "stars", "-stars", "day", "-day", ["even", "-stars"], ["-even", "_score", "n"]]
)
def test_hits_are_sorted_by_columns(index, sort):
    whole = ranking(index, "wing jet")
    keys = [sort] if isinstance(sort, str) else sort
    expected = whole
    for key in reversed(keys):
        name, down = key.removeprefix("-"), key.startswith("-")
        if name == "_score":
            expected = sorted(expected, key=lambda pair: pair[1], reverse=down)
            continue
        there = [pair for pair in expected if name in DOCS[pair[0]]]
        # Python's sort keeps the order of equal documents, even with reverse=True.
        there.sort(key=lambda pair, name=name: DOCS[pair[0]][name], reverse=down)
        expected = there + [pair for pair in expected if name not in DOCS[pair[0]]]
    assert pairs(index.search("wing jet", 20, sort=sort)) == expected[:20]
    assert pairs(index.search("wing jet", 20, sort=sort, offset=150)) == expected[150:170]


def boosted(whole, factor):
    order = [(doc_id, score * factor(DOCS[doc_id])) for doc_id, score in whole]
    return sorted(order, key=lambda pair: (-pair[1], DOCS[pair[0]]["n"]))


@pytest.mark.parametrize("k", [1, 10, N])
@pytest.mark.parametrize("weight", [0, 0.01, 5])
def test_a_column_of_numbers_boosts_scores(index, k, weight):
    expected = boosted(ranking(index, "shock layer"), lambda d: 1 + weight * max(d.get("stars", 0), 0))
    found = pairs(index.search("shock layer", k, boost={"stars": weight}))
    assert [doc_id for doc_id, _ in found] == [doc_id for doc_id, _ in expected[:k]]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected[:k]], rel=1e-12)


def in_title(index, query, factor):
    """{id: boost factor} of all matching documents, computed from their explanations."""

    def of(why):
        title = sum(part.score for part in why if any(end <= why.title_length for _, end in part.spans))
        return 1 + (factor - 1) * title / why.score

    return {hit.id: of(hit.explain()) for hit in index.search(query, N)}


@pytest.mark.parametrize("k", [1, 10, N])
@pytest.mark.parametrize("factor", [1, 1.5, 40])
def test_words_in_the_title_boost_scores(index, built, k, factor):
    factors = in_title(built["segments"], "wing heat drag", factor)
    assert len(set(factors.values())) > 9 or factor == 1
    expected = boosted(ranking(index, "wing heat drag"), lambda d: factors[d["_id"]] * (1 + 0.01 * d["n"]))
    found = pairs(index.search("wing heat drag", k, boost={"title": factor, "n": 0.01}))
    assert [doc_id for doc_id, _ in found] == [doc_id for doc_id, _ in expected[:k]]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected[:k]], rel=1e-9)
    alone = boosted(ranking(index, "wing heat drag"), lambda d: factors[d["_id"]])
    hits = index.search("wing heat drag", k, boost={"title": factor}, min_score=alone[20][1], total=True)
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in alone[: min(k, hits.total)]], rel=1e-9)
    assert hits.total >= 20
    assert hits[0].explain().boost == pytest.approx(factors[hits[0].id])


def test_few_titles_are_read_for_a_boost(built, monkeypatch):
    index, read = built["segments"], []
    fields = AllDocuments.fields
    monkeypatch.setattr(AllDocuments, "fields", lambda self, doc: read.append(doc) or fields(self, doc))
    index.search("heat", 3, boost={"title": 1.01})
    assert 0 < len(read) <= 128 < index.search("heat", 1, total=True).total


def test_a_boost_of_titles_needs_stored_texts(tmp_path):
    index = Index.build(tmp_path / "idx", corpus()[:30], encoder="bm25", store_text=False)
    reshard_index(index.path, tmp_path / "shards", 2)
    with ShardedIndex.open(tmp_path / "shards") as sharded:
        for one in (index, sharded):
            with pytest.raises(DataError, match="a boost of title needs stored texts"):
                one.search("wing", boost={"title": 2})


def test_scores_stay_finite_with_huge_boosts(tmp_path):
    documents = [{"_id": name, "text": "wing", "f": f} for name, f in (("a", 1.0), ("b", 1e308), ("c", -1e308))]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25")
    hits = index.search("wing", boost={"f": 1e308})
    assert [hit.id for hit in hits] == ["a", "b", "c"]
    assert all(math.isfinite(hit.score) for hit in hits)
    assert hits[1].score > hits[2].score


def test_recency_and_distance_boost_scores(index):
    def recent(document):
        if "day" not in document:
            return 1
        days = abs((date(2024, 6, 15) - date.fromisoformat(document["day"])).days)
        return (1 + 2 * 0.5 ** (days / 30)) * (1 + 0.5 * 0.5 ** (abs(document["n"] - 100) / 10))

    def near(document):
        return recent(document) if "day" in document else 1 + 0.5 * 0.5 ** (abs(document["n"] - 100) / 10)

    how = {
        "day": {"weight": 2, "half_life": 30, "origin": "2024-06-15"},
        "n": {"weight": 0.5, "half_life": 10, "origin": 100},
    }
    expected = boosted(ranking(index, "jet"), near)
    found = pairs(index.search("jet", 12, boost=how))
    assert [doc_id for doc_id, _ in found] == [doc_id for doc_id, _ in expected[:12]]
    least = expected[4][1]
    kept = index.search("jet", N, boost=how, min_score=least * (1 - 1e-12))
    assert [hit.id for hit in kept] == [doc_id for doc_id, _ in expected[:5]]
    assert kept[0].explain().boost == pytest.approx(near(DOCS[kept[0].id]))
    assert "boosted" in str(kept[0].explain())


def test_facets_count_all_matching_documents(index):
    whole = ranking(index, "flow")
    found = index.search("flow", 2, facets=["source", "tags", "even"])
    assert len(found) == 2
    assert found.total == len(whole)
    for column in ("source", "tags", "even"):
        counts = Counter()
        for doc_id, _ in whole:
            value = DOCS[doc_id].get(column)
            counts.update(value if isinstance(value, list) else [] if value is None else [value])
        assert found.facets[column] == dict(counts)
        assert list(found.facets[column].values()) == sorted(counts.values(), reverse=True)


def test_facets_follow_filters_and_conditions(index):
    found = index.search("flow", facets="even", where={"stars": {">": 10}}, min_score=0.1)
    whole = ranking(index, "flow", where={"stars": {">": 10}}, min_score=0.1)
    assert found.total == len(whole) > 0
    assert found.facets["even"] == dict(Counter(DOCS[doc_id]["even"] for doc_id, _ in whole))


def has(document, phrase):
    wanted = re.escape(phrase)
    return any(re.search(rf"\b{wanted}\b", document[key], re.IGNORECASE) for key in ("title", "text"))


@pytest.mark.parametrize(
    ("query", "plain", "must", "never"),
    [
        ('"shock layer" jet', "shock layer jet", ["shock layer"], []),
        ("+heat flow -jet", "heat flow", ["heat"], ["jet"]),
        ('flow -"jet heat" -wing', "flow", [], ["jet heat", "wing"]),
        ('+"WING Lift" drag', "WING Lift drag", ["wing lift"], []),
        ('"heat heat heat heat heat" jet', "heat heat heat heat heat jet", ["heat heat heat heat heat"], []),
        ("jet-flow", "jet-flow", [], []),
    ],
)
@pytest.mark.parametrize("k", [1, 10, N])
def test_operators_require_and_exclude_words_and_phrases(index, query, plain, must, never, k):
    def meets(document):
        return all(has(document, one) for one in must) and not any(has(document, one) for one in never)

    expected = [pair for pair in ranking(index, plain) if meets(DOCS[pair[0]])]
    assert pairs(index.search(query, k, syntax="operators")) == expected[:k]


def test_operators_are_plain_text_by_default(index):
    assert pairs(index.search('"shock layer" -jet')) == pairs(index.search("shock layer jet"))


@pytest.mark.parametrize(
    ("query", "message"),
    [('"shock layer', "isn't closed"), ("wing -", "nothing follows"), ("-wing", "only excludes words")],
)
def test_invalid_operators_are_refused(index, query, message):
    with pytest.raises(DataError, match=message):
        index.search(query, syntax="operators")


def test_all_options_can_be_combined(index):
    how = {
        "where": {"n": {"<": 250}}, "boost": {"stars": 0.1}, "syntax": "operators", "group_by": "source", "offset": 2,
        "facets": "even",
    }  # fmt: skip
    whole = [pair for pair in ranking(index, "flow jet", where=how["where"]) if not has(DOCS[pair[0]], "wing")]
    whole = boosted(whole, lambda d: 1 + 0.1 * max(d.get("stars", 0), 0))
    expected = grouped(whole, lambda document: document.get("source"), 4, 1, 2)
    found = index.search("flow jet -wing", 4, **how)
    assert [hit.id for hit in found] == [doc_id for doc_id, _ in expected]
    assert found.total == len(whole)


def test_batches_accept_the_same_options(index):
    queries = ["flow -jet", '"shock layer"']
    how = {"syntax": "operators", "offset": 1, "boost": {"stars": 1}, "facets": "even"}
    batch = index.search_batch(queries, 5, **how)
    for query, hits in zip(queries, batch, strict=True):
        alone = index.search(query, 5, **how)
        assert pairs(hits) == pairs(alone)
        assert (hits.facets, hits.total) == (alone.facets, alone.total)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"group_by": "sauce"}, "did you mean 'source'"),
        ({"facets": ["evn"]}, "did you mean 'even'"),
        ({"sort": "tags"}, "list of text, and hits can't be sorted by lists"),
        ({"group_by": "tags"}, "list of text, and hits can't be grouped by lists"),
        ({"boost": {"source": 1}}, "source is a text, which can't boost"),
        ({"boost": {"day": 1}}, "dates and times need"),
        ({"boost": {"stars": {"half_life": 2}}}, "needs a number as its origin"),
        ({"boost": {"text": 2}}, "^search: boost is for titles and columns: the text as a whole can't be boosted"),
    ],
)
def test_unusable_columns_are_refused(index, given, message):
    with pytest.raises(DataError, match=message):
        index.search("wing", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"offset": -1}, "offset must be a whole number of at least 0, got -1"),
        ({"min_score": float("nan")}, "min_score must be a number of at least 0"),
        ({"per_group": 2}, "per_group needs group_by"),
        ({"diversity": 2}, "diversity must be a number from 0 to 1"),
        ({"syntax": "lucene"}, "syntax must be one of plain, operators"),
        ({"boost": {"stars": {"factor": 1}}}, "unknown key 'factor'"),
        ({"boost": ["stars"]}, "boost is a mapping"),
        ({"boost": {"title": 0.5}}, "boost of title: it must be a number from 1 to 1,000"),
        ({"boost": {"title": {"weight": 2}}}, "boost of title"),
        ({"sort": 3}, "sort takes columns"),
        ({"sort": "n", "rerank": len}, "sort can't be combined with rerank or diversity"),
    ],
)
def test_values_out_of_range_are_refused(index, given, message):
    with pytest.raises(ValueError, match=message):
        index.search("wing", **given)


def test_unknown_options_are_refused(index):
    with pytest.raises(TypeError, match=r"ofset.*options are offset, min_score"):
        index.search("wing", ofset=3)


# --- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ([], ()),
        ("text", ("text",)),
        (["title", "source", "tags"], ("title", "source", "tags")),
        (["metadata"], ("source", "n", "tags", "stars", "day", "even")),
        (("text", "stars"), ("text", "stars")),
    ],
)
def test_hits_have_the_requested_fields(index, fields, shown):
    whole = index.search("wing jet", 20)
    found = index.search("wing jet", 20, fields=fields)
    assert pairs(found) == pairs(whole)
    for hit in found:
        document = DOCS[hit.id]
        rest = {key: value for key, value in document.items() if key in shown and key not in ("title", "text")}
        assert (hit.title, hit.text) == tuple(document[key] if key in shown else "" for key in ("title", "text"))
        assert hit.metadata == rest
        assert hit.to_dict()["metadata"] == rest
    assert found[0].highlight() == whole[0].highlight()
    grouped = index.search("wing jet", 5, fields=fields, group_by="source", rerank=shortest)
    assert pairs(grouped) == pairs(index.search("wing jet", 5, group_by="source", rerank=shortest))


def test_fields_may_name_columns_within_objects(tmp_path):
    documents = [
        {"_id": "a", "text": "wing", "author": {"name": "Ann", "born": 1970}, "x": [{"y": 1}]},
        {"_id": "b", "text": "wing"},
    ]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25")

    def metadata(*fields):
        return [hit.metadata for hit in index.search("wing", fields=fields)]

    assert metadata("author.name") == [{"author": {"name": "Ann"}}, {}]
    assert metadata("author") == [{"author": {"name": "Ann", "born": 1970}}, {}]
    assert metadata("x") == [{"x": [{"y": 1}]}, {}]
    with pytest.raises(DataError, match=r"fields: there is no column 'autor.name'; did you mean 'author.name'"):
        metadata("autor.name")
    with pytest.raises(DataError, match=r"fields: there is no column 'texts'; .*title, text and metadata are allowed"):
        metadata("texts")


def test_unknown_fields_are_refused(index):
    with pytest.raises(DataError, match="fields: there is no column 'strs'"):
        index.search("wing", fields=["strs"])
    with pytest.raises(ValueError, match="fields takes columns, got"):
        index.search("wing", fields=[3])


# --- re-ranking and diversity -----------------------------------------------------------------------------------------


def shortest(query, texts):
    return [-len(text) for text in texts]


def test_a_reranker_reorders_the_best_hits(index):
    whole = ranking(index, "jet flow")
    length = {doc_id: len(f"{d['title']} {d['text']}".strip()) for doc_id, d in DOCS.items()}
    best = sorted(enumerate(whole[:30]), key=lambda item: (length[item[1][0]], item[0]))
    found = index.search("jet flow", 5, rerank=shortest, depth=30, offset=1)
    assert [hit.id for hit in found] == [doc_id for _, (doc_id, _) in best[1:6]]
    assert [hit.score for hit in found] == [-length[hit.id] for hit in found]
    place, (_, score) = best[1]
    moved = found[0].explain().moved
    assert (moved.first_rank, moved.first_score, moved.rank, moved.score) == (place + 1, score, 2, found[0].score)
    assert f"re-ranked from {place + 1} " in str(found[0].explain())
    assert found[0].explain().to_json()["moved"]["rank"] == 2


class CrossEncoder:
    """The interface of a sentence-transformers CrossEncoder."""

    def predict(self, pairs, batch_size, show_progress_bar):
        assert not show_progress_bar
        return [float(len(text)) for _, text in pairs]


class Pointwise:
    def scores(self, query, texts):
        assert query == "jet flow"
        return [float(len(text)) for text in texts]


@pytest.mark.parametrize("reranker", [CrossEncoder(), Pointwise(), lambda query, texts: map(len, texts)])
def test_rerankers_may_be_of_any_supported_type(index, reranker):
    by_length = index.search("jet flow", 8, rerank=lambda query, texts: [len(text) for text in texts])
    assert pairs(index.search("jet flow", 8, rerank=reranker)) == pairs(by_length)


def broken(query, texts):
    raise KeyError("no such model")


@pytest.mark.parametrize(
    ("reranker", "message"),
    [
        (broken, "broken failed on 100 texts: KeyError: 'no such model'"),
        (lambda query, texts: [1.0] * (len(texts) - 1), "returned 99 scores for 100 texts"),
        (lambda query, texts: [float("nan")] * len(texts), "returned nan for the text"),
        (lambda query, texts: ["high"] * len(texts), "ValueError"),
        (lambda query, texts: None, "TypeError"),
    ],
)
def test_a_failing_reranker_is_reported(index, reranker, message):
    with pytest.raises(RerankerError, match=message):
        index.search("jet flow", rerank=reranker)


def test_invalid_rerankers_are_refused(index):
    with pytest.raises(TypeError, match="rerank takes a Reranker"):
        index.search("jet", rerank=3)
    with pytest.raises(RerankerError, match="needs a query that is a text"):
        index.search({"jet": 1.0}, rerank=shortest)


def test_groups_are_in_the_order_of_the_reranker(index):
    order = [hit.id for hit in index.search("jet flow", 40, rerank=shortest, depth=40)]
    groups = {}
    for number, doc_id in enumerate(order):
        groups.setdefault(DOCS[doc_id].get("source", number), doc_id)
    found = index.search("jet flow", 5, rerank=shortest, depth=40, group_by="source")
    assert [hit.id for hit in found] == list(groups.values())[:5]


def test_diversity_is_maximal_marginal_relevance(index, built):
    whole = index.search("jet flow", 25)
    one = built["segments"]
    numbers = {one.documents.id(doc): doc for doc in one.documents.numbers()}
    vectors = one.compared_vectors([numbers[hit.id] for hit in whole]).to_dense().astype(float)
    vectors /= (vectors**2).sum(axis=1, keepdims=True) ** 0.5
    scores = [hit.score for hit in whole]
    relevance = [(score - min(scores)) / (max(scores) - min(scores)) for score in scores]
    for diversity in (0.3, 1):
        taken = []
        while len(taken) < 6:
            values = {
                i: (1 - diversity) * relevance[i]
                - diversity * max((float(vectors[i] @ vectors[j]) for j in taken), default=0.0)
                for i in range(25)
                if i not in taken
            }
            best = max(values.values())
            taken.append(next(i for i, value in values.items() if value >= best - 1e-6))
        found = index.search("jet flow", 6, diversity=diversity, depth=25)
        assert [hit.id for hit in found] == [whole[i].id for i in taken]


# --- passages ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    drawn = random.Random(9)
    documents = [
        {"_id": f"d{i}", "text": " ".join(drawn.choices(WORDS, k=drawn.randint(1, 24))), "n": i % 7, "even": i % 2 == 0}
        for i in range(80)
    ]
    path = tmp_path_factory.mktemp("passages") / "idx"
    return Index.build(path, documents, encoder="bm25", passages=Passages(3, 0))


def of_passages(index, query, meets=lambda text: True, factor=lambda metadata: 1.0):
    """Documents ranked by their best matching passage. Each document gets the boost of this passage."""
    terms, weights = index.query_vectors([query]).row(0)
    best = {}
    for doc, score in zip(*index.searcher.search(terms, weights, 10_000), strict=True):
        _, text, metadata = index.documents.fields(int(doc))
        if meets(text):
            best.setdefault(index.documents.parent(int(doc)), (int(doc), float(score) * factor(metadata), metadata))
    return sorted(((k, *found) for k, found in best.items()), key=lambda one: (-one[2], one[1]))


@pytest.mark.parametrize("k", [1, 7, 80])
def test_one_passage_must_match_all_conditions(passages, k):
    expected = of_passages(passages, "wing jet", lambda text: "wing" in text and "heat" not in text.split())
    found = passages.search("+wing jet -heat", k, syntax="operators")
    assert [(hit.id, hit.score) for hit in found] == [(doc_id, score) for doc_id, _, score, _ in expected[:k]]


@pytest.mark.parametrize("k", [1, 7, 80])
def test_documents_with_passages_are_boosted_counted_grouped_and_sorted(passages, k):
    expected = of_passages(passages, "wing jet", factor=lambda metadata: 1 + metadata["n"])
    found = passages.search("wing jet", k, boost={"n": 1}, facets="n")
    assert [hit.id for hit in found] == [doc_id for doc_id, *_ in expected[:k]]
    assert found.total == len(expected)
    assert found.facets["n"] == dict(Counter(metadata["n"] for *_, metadata in expected))
    plain = of_passages(passages, "wing jet")
    groups = {}
    for doc_id, _, _, metadata in plain:
        groups.setdefault(metadata["n"], doc_id)
    assert [hit.id for hit in passages.search("wing jet", k, group_by="n")] == list(groups.values())[:k]
    by_column = sorted(plain, key=lambda one: (-one[3]["n"], -one[2], one[1]))
    assert [hit.id for hit in passages.search("wing jet", k, sort="-n")] == [one[0] for one in by_column[:k]]
    least = plain[len(plain) // 2][2]
    kept = passages.search("wing jet", 80, min_score=least)
    assert [hit.id for hit in kept] == [doc_id for doc_id, _, score, _ in plain if score >= least]


@pytest.fixture(scope="module", params=["one", "sharded"])
def cut(request, passages, tmp_path_factory):
    if request.param == "one":
        yield passages
        return
    folder = tmp_path_factory.mktemp("cut") / "shards"
    reshard_index(passages.path, folder, 3)
    with ShardedIndex.open(folder) as sharded:
        yield sharded


def every_passage(index, query):
    """All matching passages, as (document, passage, score, text, metadata)."""
    terms, weights = index.query_vectors([query]).row(0)
    found = zip(*index.searcher.search(terms, weights, 10_000), strict=True)
    documents = index.documents
    return [
        (
            documents.parent(int(doc)) or documents.id(int(doc)),
            documents.id(int(doc)),
            score,
            *documents.fields(doc)[1:],
        )
        for doc, score in found
    ]


@pytest.mark.parametrize("k", [1, 7, 500])
def test_passages_can_be_separate_hits(passages, cut, k):
    every = every_passage(passages, "wing jet")
    assert len({doc_id for doc_id, *_ in every}) < len(every) < 500

    def found(query="wing jet", k=k, **how):
        return [
            (hit.id, hit.passage, hit.score, hit.text, hit.metadata)
            for hit in cut.search(query, k, passages=True, **how)
        ]

    assert found() == every[:k]
    assert found(offset=3) == every[3 : k + 3]
    assert found(best_passages=2) == every[:k]
    least = every[len(every) // 2][2]
    assert found(min_score=least) == [one for one in every if one[2] >= least][:k]
    assert found(where={"even": True}) == [one for one in every if one[4]["even"]][:k]
    without = [one for one in every if "heat" not in one[3].split()]
    assert found("wing jet -heat", syntax="operators") == without[:k]
    boosted = sorted(((*one[:2], one[2] * (1 + one[4]["n"]), *one[3:]) for one in every), key=lambda one: -one[2])
    assert [one[2] for one in found(boost={"n": 1})] == [one[2] for one in boosted[:k]]
    groups = defaultdict(list)
    for one in every:
        groups[one[0]].append(one)
    assert found(group_by="_id", per_group=2) == [one for own in list(groups.values())[:k] for one in own[:2]]
    counted = cut.search("wing jet", k, passages=True, facets="n")
    assert (counted.total, counted.facets["n"]) == (len(every), dict(Counter(one[4]["n"] for one in every)))
    best = sorted(every[: max(k, 100)], key=lambda one: -len(one[3]))
    reranked = found(rerank=lambda query, texts: [len(text) for text in texts])
    assert [len(one[3]) for one in reranked] == [len(one[3]) for one in best[:k]]


def test_the_option_passages_must_be_true_or_false(cut):
    with pytest.raises(ValueError, match="passages must be true or false, got 3"):
        cut.search("wing", passages=3)


# --- other formats ----------------------------------------------------------------------------------------------------


def test_hits_convert_to_arrow_and_json(index):
    found = index.search("wing jet", 3, where={"n": {"<": 50}}, facets="even")
    rows = found.to_arrow().to_pylist()
    assert [(row["rank"], row["id"], row["score"], row["text"]) for row in rows] == [
        (rank, hit.id, hit.score, hit.text) for rank, hit in enumerate(found, start=1)
    ]
    assert [json.loads(row["metadata"]) for row in rows] == [hit.metadata for hit in found]
    told = json.loads(json.dumps(found.to_json()))
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in found]
    assert told["total"] == found.total
    assert {one["value"]: one["count"] for one in told["facets"]["even"]} == found.facets["even"]
    assert index.search("nothing").to_arrow().num_rows == 0
    assert "facets" not in index.search("wing").to_json()


def test_hits_convert_to_a_data_frame(tmp_path):
    pytest.importorskip("pandas")
    documents = [{"_id": "a", "text": "wing", "n": 1, "metadata": {"title": "x"}}, {"_id": "b", "text": "wing wing"}]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25")
    frame = index.search("wing").to_pandas()
    assert frame["id"].tolist() == [hit.id for hit in index.search("wing")]
    assert {"n", "metadata.title"} <= set(frame.columns)
    assert list(index.search("never").to_pandas().columns) == ["rank", "id", "passage", "score", "title", "text"]


def test_operators_and_rerankers_need_stored_texts(tmp_path):
    index = Index.build(tmp_path / "idx", list(DOCS.values())[:20], encoder="bm25", store_text=False)
    with pytest.raises(DataError, match="this index stores none"):
        index.search("+wing", syntax="operators")
    with pytest.raises(RerankerError, match="the index stores none"):
        index.search("wing", rerank=shortest)
