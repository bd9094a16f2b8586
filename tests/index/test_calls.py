"""Index, AsyncIndex, ShardedIndex and Client have the same calls; docs/reference/calls.md lists the differences."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lsr.encode.bm25 import BM25Encoder
from lsr.errors import DataError, ServerError
from lsr.index import AsyncIndex, Client, Index, Reader, Searchable, SearchIndex, Server, ServeSettings, ShardedIndex
from lsr.index.distributed.reshard import reshard_index
from lsr.index.segment.parse_filters import parse_where
from lsr.io.document import Document
from lsr.sparse import SparseMatrix

KINDS = {"Index": Index, "AsyncIndex": AsyncIndex, "ShardedIndex": ShardedIndex, "Client": Client}
OTHERS = tuple(KINDS)[1:]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "calls.md"
DOCS = [
    {"_id": "a", "title": "Swept wings", "text": "A swept wing delays the shock wave", "year": 1998, "lang": "en"},
    {"_id": "b", "title": "Flutter", "text": "Panels and wings flutter in fast air", "year": 2012, "lang": "en"},
    {"_id": "c", "title": "Icing", "text": "Ice on the wing costs lift", "year": 2023, "lang": "en"},
    {"_id": "d", "text": "Ice on the wing costs lift and wings", "year": 2020, "lang": "de"},
    {"_id": "5", "title": "Swept wings", "text": "The rotor of a helicopter is a wing that turns", "year": 2024},
    {"_id": "f", "text": "Water cools a tube", "lang": "de"},
]


class Awaited:
    """Runs the calls of an AsyncIndex synchronously."""

    def __init__(self, index):
        self.index = index

    def __getattr__(self, name):
        def call(*args, **how):
            found = getattr(self.index, name)(*args, **how)
            return asyncio.run(_listed(found) if inspect.isasyncgen(found) else found)

        return call


async def _listed(found):
    return [one async for one in found]


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """{kind: index} with the same documents in each index. Tests must not change the indexes."""
    yield from everywhere(tmp_path_factory.mktemp("alike"))


@pytest.fixture
def living(tmp_path):
    """{kind: index} with the same documents in each index. The test may change the indexes."""
    yield from everywhere(tmp_path)


def everywhere(folder):
    one = Index.build(folder / "one", DOCS, encoder="bm25", passages=None)
    other, served = (Index.build(folder / name, DOCS, encoder="bm25", passages=None) for name in ("other", "served"))
    reshard_index(one.path, folder / "shards", 3)
    with (
        ShardedIndex.open(folder / "shards") as sharded,
        Server({"served": served}, ServeSettings(port=0, writable=True)) as server,
        Client(server.url) as client,
    ):
        yield {"Index": one, "AsyncIndex": Awaited(AsyncIndex(other)), "ShardedIndex": sharded, "Client": client}


def plain(found):
    """A result as plain values that can be compared."""
    if isinstance(found, list) and found and isinstance(found[0], list):
        return [plain(hits) for hits in found]
    if hasattr(found, "facets"):
        return [hit.to_dict() for hit in found], found.facets, found.total
    return list(found) if isinstance(found, Iterator) else found


def length(query, texts):
    return [float(len(text)) for text in texts]


CALLS = {
    "search": lambda i: i.search("wings in air", 4),
    "search, a mapping": lambda i: i.search({"wing": 2.0, "unheard": 1.0}),
    "search, a mapping with a text": lambda i: i.search({"_id": "q", "text": "ice"}),
    "search, a filter": lambda i: i.search("wing", where={"year": {">=": 2012}, "not": {"lang": "de"}}),
    "search, a parsed filter": lambda i: i.search(
        "wing", where=parse_where({"or": [{"lang": ["de", "fr"]}, {"not": {"year": {">": 2000, "exists": True}}}]})
    ),
    "search, algorithm": lambda i: i.search("wing", 3, algorithm="exhaustive", beta=0.5),
    "search, options": lambda i: i.search("wing", 2, offset=1, min_score=0.1, sort="-year", facets=["lang"]),
    "search, boost and groups": lambda i: i.search("wing", group_by="lang", per_group=2, boost={"year": 0.001}),
    "search, boost of titles": lambda i: i.search("wings flutter in ice", 4, boost={"title": 2}),
    "search_batch, boost of titles": lambda i: i.search_batch(["wings", "ice"], boost={"title": 3, "year": 0.01}),
    "search, operators": lambda i: i.search('+ice -helicopter "the wing"', syntax="operators"),
    "search, diversity": lambda i: i.search("wing ice", 3, diversity=0.5),
    "search, rerank": lambda i: i.search("wing", 3, rerank=length, depth=4),
    "search, rerank by sentences": lambda i: i.search("wing", 3, rerank=length, rerank_unit="sentence"),
    "search, passages": lambda i: i.search("wing", 3, passages=True, group_by="_id"),
    "search, fields": lambda i: i.search("wing ice", fields=["title", "year"]),
    "search_batch, fields": lambda i: i.search_batch(["wing", "ice"], fields="text", rerank=length),
    "similar, fields": lambda i: i.similar("c", fields=[]),
    "search_batch": lambda i: i.search_batch(["wing", "ice", ""], 2, where={"lang": "en"}),
    "search, total": lambda i: i.search("wing", 2, total=True, where={"year": {">=": 2012}}),
    "search_batch, total": lambda i: i.search_batch(["wing", "ice"], 1, total=True),
    "search_batch, facets": lambda i: i.search_batch(["wing", "ice"], facets="lang"),
    "similar": lambda i: i.similar("c", 3),
    "similar, a number": lambda i: i.similar(5, where={"year": {">": 2000}}),
    "similar, rerank": lambda i: i.similar("c", 2, rerank=length),
    "explain": lambda i: i.explain("ice wing", "d"),
    "explain, a number": lambda i: i.explain({"wing": 1.0}, 5, origins=False),
    "suggest": lambda i: i.suggest("the wi"),
    "suggest, a title": lambda i: i.suggest("sw", 1),
    "corrections": lambda i: i.corrections("icce on the wingg"),
    "corrections, limit": lambda i: i.corrections("lifs", limit=1),
    "did_you_mean": lambda i: i.did_you_mean("icce on the wing"),
    "duplicates": lambda i: i.duplicates(0.6),
    "duplicates, a filter": lambda i: i.duplicates(threshold=0.1, where={"lang": "en"}),
    "get": lambda i: i.get(5),
    "get, nothing": lambda i: i.get("nobody"),
    "get_many": lambda i: i.get_many(["c", "nobody", 5]),
    "stored": lambda i: i.stored(),
    "stored, a filter": lambda i: i.stored({"lang": "de"}),
    "count": lambda i: i.count(),
    "count, a filter": lambda i: i.count({"year": {">": 2000}}),
}
WRONG = {
    "search, k": (lambda i: i.search("wing", k=0), ValueError),
    "search, a setting": (lambda i: i.search("wing", beam=1), TypeError),
    "search, a column": (lambda i: i.search("wing", where={"yaer": 1}), DataError),
    "search, fields": (lambda i: i.search("wing", fields=["yaer"]), DataError),
    "search, fields and rerank": (lambda i: i.search("wing", fields=["yaer"], rerank=length), DataError),
    "search, a unit": (lambda i: i.search("wing", rerank=length, rerank_unit="word"), ValueError),
    "search, passages": (lambda i: i.search("wing", passages=2), ValueError),
    "similar, dense": (lambda i: i.similar("c", mode="dense"), DataError),
    "search, dense": (lambda i: i.search("wing", mode="dense", dense=[1.0]), DataError),
    "explain_plan, an option": (lambda i: i.explain_plan("wing", offset=1), TypeError),
    "similar, nobody": (lambda i: i.similar("nobody"), DataError),
    "explain, nobody": (lambda i: i.explain("wing", "nobody"), DataError),
    "duplicates, a threshold": (lambda i: i.duplicates(2.0), ValueError),
    "count, a column": (lambda i: i.count({"yaer": 1}), DataError),
    "stored, a column": (lambda i: i.stored({"yaer": 1}), DataError),
    "get_many, one": (lambda i: i.get_many("c"), TypeError),
    "suggest, a limit": (lambda i: i.suggest("wi", 0), ValueError),
}


@pytest.mark.parametrize("call", CALLS)
def test_all_kinds_give_equal_results(alike, call):
    expected = plain(CALLS[call](alike["Index"]))
    for kind in OTHERS:
        assert plain(CALLS[call](alike[kind])) == expected, kind


@pytest.mark.parametrize("call", WRONG)
def test_all_kinds_raise_equal_errors(alike, call):
    wrong, error = WRONG[call]
    for index in alike.values():
        with pytest.raises(error):
            wrong(index)


def test_all_kinds_give_equal_explanations(alike):
    for hits in zip(*(index.search("ice wing", 3) for index in alike.values()), strict=True):
        assert len({str(hit.explain()) for hit in hits}) == len({hit.highlight(20) for hit in hits}) == 1


def test_all_kinds_explain_terms_that_the_document_lacks(living):
    """In a sharded index, only the vocabulary of the last shard contains an added word."""
    named = []
    for index in living.values():
        index.add([{"_id": "new", "text": "zyzzogeton and wings"}])
        index.commit()
        explanations = [index.explain("zyzzogeton wing", "a"), index.explain({"zyzzogeton": 1.0, "wing": 1.0}, "a")]
        named.append([{(term.token, term.word, term.kind) for term in explanation} for explanation in explanations])
    assert named[0][1] == {("wing", "wings", "match"), ("zyzzogeton", "zyzzogeton", "missing")}
    assert all(names == named[0] for names in named)


def test_all_kinds_support_len_iteration_and_the_in_operator(alike):
    for kind in ("Index", "ShardedIndex", "Client"):
        index = alike[kind]
        assert (len(index), "c" in index, 5 in index, "nobody" in index) == (6, True, True, False)
        assert [document.id for document in index] == [str(doc["_id"]) for doc in DOCS]


def test_all_kinds_make_equal_changes(living):
    told = {}
    for kind, index in living.items():
        changes = [
            index.add([{"_id": "new", "text": "ice and wings"}, Document("x", "tube")]),
            index.upsert([{"_id": "a", "text": "ice"}, {"_id": "y", "text": "wing"}]),
            index.update([{"_id": "b", "text": "lift", "year": 1}]),
            index.add([{"_id": "new", "text": "again"}, {"text": "no id"}], skip_bad=True),
            index.delete(["x", "nobody"], where={"year": 2012}),
            index.delete("d"),
        ]
        assert index.count() == 6, kind  # nothing is committed yet
        index.commit()
        index.delete("c")
        index.rollback()
        merged = index.merge(), index.merge()
        told[kind] = [
            [(c.added, c.updated, c.deleted, c.missing, len(c.bad)) for c in changes],
            [document.id for document in index.stored()],
            plain(index.search("ice wing lift")),
            merged[1],
        ]
        index.commit(merge=False)
    assert all(one == told["Index"] for one in told.values()), told


def test_all_kinds_implement_the_protocols(alike):
    for kind in ("Index", "ShardedIndex", "Client"):
        assert isinstance(alike[kind], SearchIndex)
    assert isinstance(alike["Index"].pinned(), Searchable)
    assert not isinstance(alike["Index"].pinned(), SearchIndex)


# --- differences -----------------------------------------------------------------------------------------------------


SPECIAL = ("__len__", "__contains__", "__iter__", "__enter__", "__exit__")


def public(kind):
    """Names of a class's public methods and properties, and of its special methods that are listed in SPECIAL."""
    return {name for name in dir(kind) if (name[0] != "_" and name != "after_fork") or name in SPECIAL}


def functions(kind):
    """{name: function} of the methods of a class."""
    return {name: getattr(kind, name) for name in public(kind) if inspect.isfunction(getattr(kind, name, None))}


def parameters(function):
    """(name, kind, default) of each parameter except self."""
    return [(one.name, one.kind, one.default) for one in [*inspect.signature(function).parameters.values()][1:]]


AWAITED = {"__iter__": "__aiter__", "__enter__": "__aenter__", "__exit__": "__aexit__"}
SHARED = functions(SearchIndex)


@pytest.mark.parametrize("kind", [*KINDS.values(), Reader])
@pytest.mark.parametrize("name", sorted(SHARED))
def test_parameters_and_defaults_agree(kind, name):
    has = [name for name in SHARED if name not in ("__len__", "__contains__")] if kind is AsyncIndex else SHARED
    if name not in (functions(Searchable) if kind is Reader else has):
        return
    function = getattr(kind, AWAITED.get(name, name) if kind is AsyncIndex else name)
    mine, wanted = parameters(function), parameters(SHARED[name])
    known = {one[0] for one in wanted}
    if not name.startswith("__"):
        assert [one for one in mine if one[0] in known] == wanted
        extra = [one for one in mine if one[0] not in known]
        assert all(one[2] is not inspect.Parameter.empty for one in extra), "extra parameters must be optional"
        assert SHARED[name].__doc__
        assert function.__doc__


def differences():
    """{"call" or "call(parameter)": kinds that have it}, for calls and parameters that some kinds lack."""
    has = {}
    for kind, made in KINDS.items():
        for name in public(made):
            has.setdefault(name, set()).add(kind)
        for name, function in functions(made).items():
            for parameter, *_ in parameters(function) if name[0] != "_" else ():
                has.setdefault(f"{name}({parameter})", set()).add(kind)
    for name, other in AWAITED.items():
        if hasattr(AsyncIndex, other):
            has[name].add("AsyncIndex")
    missing = {name for name, kinds in has.items() if kinds != {*KINDS}}
    return {name: has[name] for name in missing if "(" not in name or name.partition("(")[0] not in missing}


def rows(heading):
    """The rows of the table below a heading of the page, as lists of cells."""
    text = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source checkout")
def test_missing_calls_are_documented_with_reasons():
    told = {}
    for names, *cells in rows("What not all of them have"):
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in told, f"{name} is listed twice"
            told[name] = {kind for kind, cell in zip(KINDS, cells[:4], strict=True) if cell == "yes"}
            assert {*cells[:4]} <= {"yes", "—"}
            assert len(cells[4]) > 10
    assert told == differences()


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source checkout")
def test_the_common_calls_are_documented():
    text = PAGE.read_text().partition("\n## What all of them have\n")[2].partition("\n## ")[0]
    names = {name for line in text.splitlines() if line.startswith("|") for name in re.findall(r"`(\w+)`", line)}
    assert names == {name for name in SHARED if not name.startswith("__")}


def of_matrices(living):
    matrix = SparseMatrix.from_dicts([{0: 1.0}], 2)
    for kind, index in living.items():
        if kind == "Client":
            with pytest.raises(TypeError, match="a text or a mapping"):
                index.search(matrix)
        else:
            assert index.search(matrix)


def of_server_rerankers(living):
    for kind, index in living.items():
        if kind == "Client":
            with pytest.raises(ValueError, match="this server has no re-ranker"):
                index.search("wing", rerank=True)
        else:
            with pytest.raises(TypeError, match="is for a Client"):
                index.search("wing", rerank=True)
    server = Server({"idx": living["Index"]}, ServeSettings(port=0, rerank=length))
    with server, Client(server.url) as client:
        assert plain(client.search("wing", 3, rerank=True)) == plain(living["Index"].search("wing", 3, rerank=length))


def of_missing_shards(living):
    sharded = living["ShardedIndex"]
    with ShardedIndex.open(sharded.path, allow_missing=True) as index:
        index._group.sets[1].replicas[0].ask = lambda *_: (_ for _ in ()).throw(OSError("gone"))
        assert list(index.search("wing").missing) == ["shard-00001"]
    assert sharded.search("wing").missing == {}


def of_plans(living):
    plans = {kind: index.explain_plan("ice wing", 3) for kind, index in living.items()}
    assert plans["Index"] == plans["AsyncIndex"] == plans["Client"]
    whole, sharded = plans["Index"], plans["ShardedIndex"]
    assert (sharded.documents, sharded.postings) == (whole.documents, whole.postings)
    assert sharded.windows == 3 * whole.windows


def of_similar_hits(living):
    for kind, index in living.items():
        hit = index.similar("c")[0]
        if kind == "Client":
            with pytest.raises(DataError, match=r"call Index\.similar"):
                hit.explain()
        else:
            assert hit.explain().contributions


def of_reranked_diversity(living):
    for kind, index in living.items():
        if kind == "Client":
            with pytest.raises(ValueError, match="needs document vectors"):
                index.search("wing", rerank=length, diversity=0.5)
        else:
            assert index.search("wing", rerank=length, diversity=0.5)


def of_duplicates(living):
    client = living["Client"]
    with (
        Server({"idx": living["Index"]}, ServeSettings(port=0)) as server,
        pytest.raises(ServerError, match="read-only"),
    ):
        Client(server.url).duplicates()
    assert client.duplicates(0.6) == living["ShardedIndex"].duplicates(0.6) != []


def of_blocks(living):
    for kind, index in living.items():
        if kind == "AsyncIndex":
            continue
        with index:
            index.add([{"_id": "z", "text": "wing"}])
        if kind == "Client":
            assert len(index) == 6  # the document is on the server, but not committed
            index.commit()
        again = Index.open(index.path) if kind != "Client" else index
        assert len(again) == 7

    async def block():
        async with living["AsyncIndex"].index as index:
            await index.add([{"_id": "z", "text": "wing"}])

    asyncio.run(block())
    assert living["AsyncIndex"].count() == 7


def of_failed_blocks(living):
    for kind in ("Index", "ShardedIndex"):
        index = living[kind]
        index.__enter__()
        index.add([{"_id": "z", "text": "wing"}])
        index.__exit__(KeyError, KeyError(), None)
        assert len(Index.open(index.path)) == 6


DIFFERENT = {
    "A `SparseMatrix` as a query": of_matrices,
    "`Hits.missing`": of_missing_shards,
    "`explain_plan`": of_plans,
    "`similar(...)[0].explain()`": of_similar_hits,
    "`rerank=True`": of_server_rerankers,
    "`rerank` with `diversity`": of_reranked_diversity,
    "`duplicates`": of_duplicates,
    "`with`": of_blocks,
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_documented_differences_are_real(living, what):
    DIFFERENT[what](living)


def test_a_failed_with_block_changes_nothing(living):
    of_failed_blocks(living)


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source checkout")
def test_calls_that_behave_differently_are_documented():
    assert [row[0] for row in rows("Calls that behave differently")] == [*DIFFERENT]


class Dense(BM25Encoder):
    """BM25 with dense vectors that are made from the first four letters of a text."""

    dense_width = 4

    def encode_dense(self, texts, *, queries=False):
        return np.array([[1 + ord(letter) % 7 for letter in text[:4].ljust(4)] for text in texts], np.float32)

    def encode_both(self, texts):
        return self.encode_document(texts), self.encode_dense(texts)


def test_all_kinds_give_equal_results_with_dense_vectors(tmp_path):
    index = Index.build(tmp_path / "idx", DOCS, encoder=Dense(), hybrid=True, passages=None)
    reshard_index(index.path, tmp_path / "shards", 2)
    given = Dense().encode_dense(["Water", "Ice"])
    with (
        ShardedIndex.open(tmp_path / "shards", encoder=Dense()) as sharded,
        Server({"idx": index}, ServeSettings(port=0)) as server,
        Client(server.url) as client,
    ):
        every = (index, Awaited(AsyncIndex(index)), sharded, client)
        for mode in ("auto", "dense", "hybrid"):
            for how in ({}, {"dense": given[0]}):
                first, *others = (each.search("wing", 3, mode=mode, **how) for each in every)
                assert others == [first] * 3
            first, *others = (each.search_batch(["wing", "tube"], 2, mode=mode, dense=given) for each in every)
            assert others == [first] * 3
            first, *others = (each.similar("c", 3, mode=mode) for each in every)
            assert others == [first] * 3
        for each in every:
            for how in ({"mode": "sparse", "dense": given[0]}, {"mode": "dense", "dense": [1.0]}):
                with pytest.raises(ValueError, match="dense"):
                    each.search("wing", **how)
        for each in (client, sharded):
            with pytest.raises(DataError, match="dense vector"):
                each.search_batch(["wing", "tube"], mode="dense", dense=given[:1])
