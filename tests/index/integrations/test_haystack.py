"""The document store and the retriever for Haystack work in pipelines and pass Haystack's own tests."""

from __future__ import annotations

import asyncio
import copy
import pickle

import pytest

from lsr.errors import DataError, IndexFormatError
from lsr.index.index import Index


@pytest.fixture(scope="module", autouse=True)
def _no_telemetry():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
        yield


with pytest.MonkeyPatch.context() as patch:  # Haystack sends telemetry even on import
    patch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    pytest.importorskip("haystack", reason='too large for the extra dev: pip install "lsr-search[haystack]"')
    from haystack import Document, Pipeline
    from haystack.components.builders import PromptBuilder
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
    from haystack.testing import document_store as theirs
    from haystack.testing import document_store_async as theirs_async

    from lsr.index.integrations import haystack as haystack_adapter
    from lsr.index.integrations.haystack import LsrDocumentStore, LsrRetriever

LATER = {"field": "meta.year", "operator": ">", "value": 1960}


def test_results_equal_those_of_the_index(folder):
    hits = Index.open(folder).search("flutter of wings", k=2)
    found = LsrRetriever(LsrDocumentStore(folder)).run("flutter of wings", top_k=2)["documents"]
    assert [(d.id, d.content, d.score) for d in found] == [(h.id, h.text, h.score) for h in hits]
    assert found[1].meta == {"title": "Wings", "year": 1958}


def test_settings_are_passed_to_the_search(folder):
    with pytest.raises(ValueError, match="alpha must be above 0"):
        LsrRetriever(LsrDocumentStore(folder), settings={"alpha": 7}).run("wing")


def test_a_missing_index_is_an_error(tmp_path):
    with pytest.raises(IndexFormatError, match="not an index"):
        LsrDocumentStore(tmp_path).count_documents()


def test_filters_apply_before_the_top_k(tmp_path):
    """If a filter excludes some of the top k, the next documents take their places."""
    documents = [{"_id": str(n), "text": "cat " * (40 - n), "metadata": {"even": n % 2 == 0}} for n in range(40)]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25", impacts="float32")
    expected = [hit.id for hit in index.search("cat", k=40) if not hit.metadata["even"]]
    odd = {"field": "meta.even", "operator": "==", "value": False}
    store = LsrDocumentStore(tmp_path / "idx")
    for retriever, given in ((LsrRetriever(store, 7), odd), (LsrRetriever(store, 7, odd), None)):
        assert [d.id for d in retriever.run("cat", filters=given)["documents"]] == expected[:7]
        assert [d.id for d in retriever.run("cat", 100, given)["documents"]] == expected


FILTERS = [
    {"field": "meta.n", "operator": "==", "value": 7},
    {"field": "meta.n", "operator": ">=", "value": 30.5},
    {"field": "meta.n", "operator": "in", "value": [3, 5, "x"]},
    {"field": "meta.lang", "operator": "in", "value": ["en", "xx"]},
    {"field": "meta.lang", "operator": "!=", "value": "en"},
    {"field": "meta.lang", "operator": "==", "value": None},
    {"field": "meta.date", "operator": "==", "value": "2020-01-03T00:00:00"},
    {"field": "meta.date", "operator": ">", "value": "2020-01-20"},
    {"field": "meta.author.name", "operator": "==", "value": "Ada"},
    {"field": "meta.nowhere", "operator": "==", "value": 1},
    {"field": "id", "operator": "==", "value": "9"},
    {"field": "meta.tags", "operator": "==", "value": ["a"]},
    {"field": "meta.mixed", "operator": "==", "value": "x"},
]
FILTERS += [
    {"operator": "AND", "conditions": [FILTERS[1], FILTERS[4]]},
    {"operator": "OR", "conditions": [FILTERS[0], FILTERS[3]]},
    {"operator": "OR", "conditions": [FILTERS[0], FILTERS[6]]},
    {"operator": "NOT", "conditions": [FILTERS[0], FILTERS[1]]},
    {"operator": "AND", "conditions": [{"operator": "NOT", "conditions": [FILTERS[3]]}, FILTERS[1]]},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_filters_follow_haystacks_semantics(tmp_path, filters):
    def about(n):
        found = {"n": n, "date": f"2020-01-{n % 28 + 1:02}", "tags": ["a"] * (n % 3), "mixed": n if n % 2 else "x"}
        return found | ({"lang": ("en", "de")[n % 2]} if n % 5 else {}) | ({"author": {"name": "Ada"}} if n % 7 else {})

    documents = [{"_id": str(n), "text": "cat " * (40 - n), "metadata": about(n)} for n in range(40)]
    Index.build(tmp_path / "idx", documents, encoder="bm25", impacts="float32")
    store = LsrDocumentStore(tmp_path / "idx")
    expected = [document.id for document in store.filter_documents(filters)]
    settings = {"where": {"n": {"<": 35}}}
    assert [d.id for d in LsrRetriever(store, 40).run("cat", filters=filters)["documents"]] == expected
    among = LsrRetriever(store, 3, filters, settings).run("cat")["documents"]
    assert [d.id for d in among] == [doc_id for doc_id in expected if int(doc_id) < 35][:3]


def test_only_matching_documents_are_read(tmp_path, monkeypatch):
    documents = [{"_id": str(n), "text": "cat", "metadata": {"n": n}} for n in range(400)]
    Index.build(tmp_path / "idx", documents, encoder="bm25")
    store = LsrDocumentStore(tmp_path / "idx")
    assert store.count_documents() == 400
    read = []
    monkeypatch.setattr(haystack_adapter, "_document", lambda *fields: read.append(fields) or Document(content="cat"))
    monkeypatch.setattr(haystack_adapter, "document_matches_filter", lambda *_: True)
    LsrRetriever(store, 5).run("cat", filters={"field": "meta.n", "operator": ">=", "value": 398})
    assert len(read) == 2


def test_the_call_filter_documents_returns_matching_documents(folder):
    store = LsrDocumentStore(folder)
    assert store.count_documents() == 3
    assert [d.id for d in store.filter_documents()] == ["wing", "plate", "flutter"]
    assert [d.id for d in store.filter_documents(LATER)] == ["plate", "flutter"]


def test_a_pipeline_can_be_saved_and_loaded(folder, monkeypatch):
    monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", LsrRetriever.__module__)
    pipeline = Pipeline()
    retriever = LsrRetriever(LsrDocumentStore(folder), top_k=1, filters=LATER, settings={"alpha": 0.9})
    pipeline.add_component("retriever", retriever)
    template = "{% for d in documents %}{{ d.content }}{% endfor %} {{ question }}"
    pipeline.add_component("prompt", PromptBuilder(template, required_variables="*"))
    pipeline.connect("retriever.documents", "prompt.documents")
    again = Pipeline.loads(pipeline.dumps())
    assert again.to_dict() == pipeline.to_dict()
    loaded = again.get_component("retriever")
    assert (loaded.top_k, loaded.filters, loaded.settings) == (1, LATER, {"alpha": 0.9})
    for one in (pipeline, again):
        ran = one.run({"retriever": {"query": "wings that flutter"}, "prompt": {"question": "Why?"}})
        assert ran["prompt"]["prompt"] == "Flutter of a wing, flutter of a panel. Why?"


def test_a_store_can_be_serialized():
    store = LsrDocumentStore("idx", encoder="bm25")
    again = LsrDocumentStore.from_dict(store.to_dict())
    assert (again.path, again.encoder) == ("idx", "bm25")


def test_a_store_keeps_its_absolute_path(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    store = LsrDocumentStore("idx", encoder="bm25")
    monkeypatch.chdir(tmp_path / "b")
    for one in (store, copy.copy(store), copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
        one.write_documents([Document(content="Cats sleep.")], DuplicatePolicy.OVERWRITE)
        assert one.count_documents() == 1
        assert one.to_dict()["init_parameters"] == {"path": "idx", "encoder": "bm25"}
    assert [path.name for path in tmp_path.glob("*/idx")] == ["idx"]
    assert (tmp_path / "a" / "idx").is_dir()


def test_a_retriever_keeps_its_filters_when_it_is_copied(folder):
    settings = {"where": {"year": {"<": 1960}}}
    retriever = LsrRetriever(LsrDocumentStore(folder), settings=settings)
    for one in (retriever, copy.copy(retriever), copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever))):
        assert [d.id for d in one.run("wing")["documents"]] == ["wing"]
    for wrong in ({"wehre": {}}, {"where": {"year": {"=>": 1}}}):
        with pytest.raises((TypeError, ValueError), match=r"wehre|unknown operator"):
            LsrRetriever(LsrDocumentStore(folder), settings=wrong)


def test_stores_of_one_index_see_each_others_commits(tmp_path):
    """The policy for existing ids considers commits of all stores."""
    first, second = (LsrDocumentStore(tmp_path / "idx", encoder="bm25") for _ in range(2))
    assert (first.count_documents(), second.count_documents()) == (0, 0)
    mine, theirs_ = Document(id="1", content="Cats sleep."), Document(id="1", content="Dogs bark.")
    assert first.write_documents([mine]) == 1
    for policy in (DuplicatePolicy.FAIL, DuplicatePolicy.NONE):
        with pytest.raises(theirs.DuplicateDocumentError, match="'1' is in the index already"):
            second.write_documents([Document(id="2", content="New."), theirs_], policy)
    assert second.write_documents([theirs_, Document(id="3", content="Birds.")], DuplicatePolicy.SKIP) == 1
    assert [(d.id, d.content) for d in first.filter_documents()] == [("1", "Cats sleep."), ("3", "Birds.")]
    assert [d.id for d in LsrRetriever(second).run("cats")["documents"]] == ["1"]
    first.delete_documents(["1"])
    assert second.write_documents([theirs_], DuplicatePolicy.FAIL) == 1
    assert second.write_documents([mine], DuplicatePolicy.OVERWRITE) == 1
    assert sorted((d.id, d.content) for d in first.filter_documents()) == [("1", "Cats sleep."), ("3", "Birds.")]
    assert first.count_documents() == 2


def test_a_bad_document_is_not_reported_as_a_duplicate(tmp_path):
    store = LsrDocumentStore(tmp_path / "idx", encoder="bm25")
    bad = Document(id="1", content="Cats.", meta={"tags": {1, 2}})
    for policy in DuplicatePolicy:
        with pytest.raises(DataError, match="metadata"):
            store.write_documents([bad], policy)
    assert store.count_documents() == 0


def test_documents_without_text_are_refused(folder):
    with pytest.raises(ValueError, match=r"without content.*: picture, sound"):
        LsrDocumentStore(folder).write_documents([Document(id="picture"), Document(id="sound")])


def _plain(documents):
    return sorted((d.id, d.content, sorted(d.meta.items())) for d in documents)


class TestStoreWithTestsOfHaystack(theirs.DocumentStoreBaseExtendedTests, theirs.CountDocumentsByFilterTest):
    """Haystack's own tests of a document store."""

    @pytest.fixture
    def document_store(self, tmp_path):
        """An empty store."""
        return LsrDocumentStore(tmp_path / "idx", encoder="bm25")

    @staticmethod
    def assert_documents_are_equal(received, expected):
        """Compare documents without their embeddings, which the store doesn't keep."""
        assert _plain(received) == _plain(expected)

    def test_write_documents(self, document_store):
        """Without a policy, a duplicate id is refused, and no document of the batch is written."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(theirs.DuplicateDocumentError, match="already"):
            document_store.write_documents([Document(content="another"), document])
        assert document_store.count_documents() == 1


class TestStoreWithAsyncTestsOfHaystack(
    theirs_async.CountDocumentsAsyncTest,
    theirs_async.WriteDocumentsAsyncTest,
    theirs_async.DeleteDocumentsAsyncTest,
    theirs_async.FilterDocumentsAsyncTest,
    theirs_async.DeleteAllAsyncTest,
    theirs_async.DeleteByFilterAsyncTest,
    theirs_async.UpdateByFilterAsyncTest,
    theirs_async.CountDocumentsByFilterAsyncTest,
):
    """Haystack's own tests of the async methods of a document store."""

    document_store = TestStoreWithTestsOfHaystack.document_store
    assert_documents_are_equal = staticmethod(TestStoreWithTestsOfHaystack.assert_documents_are_equal)

    async def test_write_documents_async(self, document_store):
        """Without a policy, a duplicate id is refused."""
        document = Document(content="test doc")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(theirs.DuplicateDocumentError, match="already"):
            await document_store.write_documents_async([document])


def test_filters_of_a_run_replace_or_extend_the_filters_of_the_retriever(folder):
    store = LsrDocumentStore(folder)
    swept = {"field": "meta.title", "operator": "==", "value": "Wings"}
    for policy, ids in (("replace", ["wing"]), ("merge", []), (FilterPolicy.MERGE, [])):
        retriever = LsrRetriever(store, filters=LATER, filter_policy=policy)
        assert [d.id for d in retriever.run("wing", filters=swept)["documents"]] == ids
        assert [d.id for d in retriever.run("wing")["documents"]] == ["flutter"]
    with pytest.raises(ValueError, match="Unknown FilterPolicy"):
        LsrRetriever(store, filter_policy="mix")


def test_options_work_in_sync_and_async_calls(folder):
    retriever = LsrRetriever(LsrDocumentStore(folder), settings={"group_by": "year", "min_score": 0.01})
    found = retriever.run("wing panel plate")
    assert len(found["documents"]) == 2
    assert asyncio.run(retriever.run_async("wing panel plate")) == found
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    assert asyncio.run(pipeline.run_async({"retriever": {"query": "wing panel plate"}})) == {"retriever": found}


def test_updates_of_documents_with_passages_are_refused(passages):
    store = LsrDocumentStore(passages.path)
    with pytest.raises(ValueError, match="add them again"):
        store.update_by_filter({}, {"lang": "en"})


def test_a_pipeline_can_write_skip_and_overwrite_documents(tmp_path):
    store = LsrDocumentStore(tmp_path / "idx", encoder="bm25")
    indexing = Pipeline()
    indexing.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    first, second = Document(content="Cats sleep.", id="a"), Document(content="Cats purr.", id="a", meta={"n": 2})
    assert indexing.run({"writer": {"documents": [first]}}) == {"writer": {"documents_written": 1}}
    assert indexing.run({"writer": {"documents": [second, second]}}) == {"writer": {"documents_written": 2}}
    assert store.write_documents([first], DuplicatePolicy.SKIP) == 0
    (found,) = LsrRetriever(LsrDocumentStore(tmp_path / "idx")).run("cats")["documents"]
    assert (found.content, found.meta) == ("Cats purr.", {"n": 2})
