"""The retriever and the vector store for LangChain work in chains and pass LangChain's own tests."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import fields

import pytest

from lsr.encode.load import load_encoder
from lsr.errors import DataError, IndexFormatError
from lsr.index.index import Index
from lsr.index.search.settings import SearchSettings

pytest.importorskip("langchain_core", reason='pip install "lsr-search[langchain]"')

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager
from langchain_core.indexing import index as indexing
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery

from lsr.index.integrations.langchain import LsrRetriever, LsrTranslator, LsrVectorStore

standard = pytest.importorskip("langchain_tests.integration_tests", reason="langchain-tests is in the extra dev")


@pytest.fixture(autouse=True)
def no_tracing(monkeypatch):
    """Turn off LangChain's tracing, even if the environment turns it on."""
    monkeypatch.setenv("LANGSMITH_TRACING", "false")


def test_results_equal_those_of_the_index(folder):
    index = Index.open(folder)
    hits = index.search("flutter of wings", k=2)
    for retriever in (LsrRetriever(index=index, k=2), LsrRetriever(index=folder, k=2)):
        found = retriever.invoke("flutter of wings")
        assert [(d.id, d.page_content, d.metadata["score"]) for d in found] == [(h.id, h.text, h.score) for h in hits]
    assert found[1].metadata == {
        "id": "wing",
        "title": "Wings",
        "passage": "wing",
        "year": 1958,
        "score": hits[1].score,
    }


def test_async_and_batch_calls_equal_single_calls(folder):
    retriever = LsrRetriever(index=folder, k=1)
    queries = ["flat plates", "shock waves"]
    one_by_one = [retriever.invoke(query) for query in queries]
    assert [[d.id for d in found] for found in one_by_one] == [["plate"], ["wing"]]
    assert retriever.batch(queries) == one_by_one
    assert asyncio.run(retriever.ainvoke(queries[0])) == one_by_one[0]
    assert asyncio.run(retriever.abatch(queries)) == one_by_one


def test_the_retriever_works_in_a_chain(folder):
    chain = {"context": LsrRetriever(index=folder, k=1), "question": RunnablePassthrough()} | RunnableLambda(
        lambda values: f"{values['question']} {values['context'][0].page_content}"
    )
    assert chain.invoke("Flat plates?") == "Flat plates? Heat flows along a flat plate."


def test_settings_are_passed_to_the_search(folder):
    assert len(LsrRetriever(index=folder, alpha=0.5, algorithm="exhaustive").invoke("wing")) == 2
    retriever = LsrRetriever(index=folder, k=5, where={"year": {"<": 1960}})
    assert [d.id for d in retriever.invoke("wing")] == ["wing"]
    assert [d.id for d in retriever.invoke("wing", where={"year": 1962}, alpha=0.5)] == ["flutter"]
    assert len(asyncio.run(retriever.ainvoke("wing", where=None))) == 2
    with pytest.raises(ValueError, match="alpha must be above 0"):
        retriever.invoke("wing", alpha=7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 7}, "alpha must be above 0"),
        ({"algorithm": "fastest"}, "exhaustive"),
        ({"alhpa": 0.5}, "alhpa"),
        ({"wehre": {"year": 1958}}, "wehre"),
        ({"where": {"year": {"=>": 1958}}}, "unknown operator '=>'"),
        ({"where": "year=1958"}, "a filter is a mapping"),
    ],
)
def test_a_wrong_setting_is_refused_immediately(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        LsrRetriever(index=folder, **settings)
    retriever = LsrRetriever(index=folder)
    for name, value in settings.items():
        with pytest.raises(ValueError, match=message):
            setattr(retriever, name, value)


def _rebuilt(retriever, **changed):
    """Copies of a retriever, made in every way in which LangChain copies or wraps retrievers."""
    fields = {name: ConfigurableField(id=name) for name in ("k", "where", "alpha")}
    yield retriever.configurable_fields(**fields).with_config(configurable={"k": 10, **changed})
    yield retriever.configurable_fields(k=fields["k"]).with_config(configurable={"k": 10})
    yield retriever.configurable_alternatives(ConfigurableField(id="which"), other=retriever)
    yield retriever.bind()
    yield retriever.with_config(tags=["a"])
    yield retriever.with_retry()
    yield retriever.with_fallbacks([retriever])
    yield retriever.model_copy()
    yield copy.copy(retriever)
    yield LsrRetriever(**dict(retriever))
    yield LsrRetriever.model_validate(dict(retriever))


def test_copies_by_langchain_keep_the_filter(folder):
    index = Index.open(folder)
    retriever = LsrRetriever(index=index, where={"year": 1962}, alpha=0.5)
    for one in _rebuilt(retriever):
        assert [d.id for d in one.invoke("wing")] == ["flutter"]
    first = next(_rebuilt(retriever, where={"year": 1958}))
    assert [d.id for d in first.invoke("wing")] == ["wing"]
    assert {"where", *(field.name for field in fields(SearchSettings))} <= LsrRetriever.model_fields.keys()
    defaults = LsrRetriever(index=index)
    assert SearchSettings() == SearchSettings(**{f.name: getattr(defaults, f.name) for f in fields(SearchSettings)})


def test_a_missing_index_is_an_error(tmp_path):
    with pytest.raises(IndexFormatError, match="not an index"):
        LsrRetriever(index=tmp_path)


def test_a_retriever_is_built_from_documents(tmp_path):
    documents = [
        Document(page_content="Cats sleep.", id="a", metadata={"source": "a.md", "title": "On cats"}),
        Document(page_content="Dogs bark.", metadata={"passage": 3}),
    ]
    retriever = LsrRetriever.from_documents(documents, tmp_path / "idx", encoder="bm25", k=3)
    (cat,), (dog,) = retriever.batch(["cats", "dogs"])
    assert cat.id == "a"
    assert cat.page_content == "Cats sleep."
    assert cat.metadata | documents[0].metadata == cat.metadata
    assert dog.id
    assert dog.metadata["passage"] == 3
    again = LsrRetriever(index=tmp_path / "idx")
    assert again.invoke("dogs") == [dog]


def test_a_retriever_is_built_from_texts(tmp_path):
    texts, about = ["Cats sleep.", "Dogs bark."], [{"n": 1}, {"n": 2}]
    retriever = LsrRetriever.from_texts(texts, tmp_path / "idx", metadatas=about, ids=["x", "y"], encoder="bm25")
    (found,) = retriever.invoke("dogs")
    assert (found.id, found.page_content, found.metadata["n"]) == ("y", "Dogs bark.", 2)
    with pytest.raises(ValueError, match="give one for each text"):
        LsrRetriever.from_texts(texts, tmp_path / "other", ids=["x"], encoder="bm25")


def test_metadata_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(DataError, match="metadata"):
        LsrRetriever.from_texts(["Cats sleep."], tmp_path / "idx", metadatas=[{"tags": {1, 2}}], encoder="bm25")


def test_a_hit_has_the_matching_passage(passages):
    (found,) = LsrRetriever(index=passages).invoke("flutter")
    assert found.id == "d"
    assert found.metadata["passage"].startswith("d#")
    assert "Flutter" in found.page_content
    assert len(found.page_content) < 50


def test_texts_are_added_replaced_and_deleted(tmp_path):
    retriever = LsrRetriever.from_texts(["Cats sleep."], tmp_path / "idx", ids=["x"], encoder="bm25")
    assert retriever.add_texts(["Cats and cats.", "Cats bark."], [{"n": 1}, {"n": 2}], ["x", "y"]) == ["x", "y"]
    with pytest.raises(ValueError, match="2 texts, 1 metadatas, 2 ids: give one for each text"):
        retriever.add_texts(["Cats", "Cows"], [{"n": 1}])
    assert [(d.id, d.metadata.get("n")) for d in retriever.invoke("cats")] == [("x", 1), ("y", 2)]
    (given,) = retriever.add_documents([Document(page_content="Cats purr.")])
    assert given in {d.id for d in LsrRetriever(index=tmp_path / "idx").invoke("cats")}
    retriever.delete(["x", given, "never was"])
    assert [d.id for d in retriever.invoke("cats")] == ["y"]


def test_the_last_text_of_an_id_is_kept(tmp_path):
    retriever = LsrRetriever.from_texts(["Birds."], tmp_path / "idx", ids=["z"], encoder="bm25")
    retriever.add_texts(["Cats sleep.", "Birds sing.", "Birds fly."], [{"n": 1}, {"n": 2}, {"n": 3}], ["x", "y", "x"])
    assert [(d.id, d.metadata["n"]) for d in retriever.invoke("birds") if d.id != "z"] == [("y", 2), ("x", 3)]


def test_commits_of_other_retrievers_become_visible(tmp_path):
    retriever = LsrRetriever.from_texts(["Cats sleep."], tmp_path / "idx", ids=["x"], encoder="bm25")
    other = LsrRetriever(index=tmp_path / "idx", k=3)
    other.add_texts(["Cats and cats."], ids=["y"])
    assert {d.id for d in retriever.invoke("cats")} == {"x", "y"}
    retriever.delete(["x"])
    assert [d.id for d in other.invoke("cats")] == ["y"]


def test_options_are_passed_to_the_search(folder):
    retriever = LsrRetriever(index=folder, rerank=lambda query, texts: [float(len(text)) for text in texts])
    assert [(d.id, d.metadata["score"]) for d in retriever.invoke("wing")] == [("wing", 41.0), ("flutter", 38.0)]
    grouped = LsrRetriever(index=folder, group_by="year").invoke("flat wing panel")
    assert sorted(d.metadata["year"] for d in grouped) == [1958, 1962]
    assert len(LsrRetriever(index=folder, min_score=1e6).invoke("wing")) == 0
    with pytest.raises(ValueError, match="per_group needs group_by"):
        LsrRetriever(index=folder, per_group=2)


def test_callbacks_are_called(folder):
    class Handler(BaseCallbackHandler):
        """Records the events."""

        told = ()

        def on_retriever_start(self, serialized, query, **_):
            self.told += (query,)

        def on_retriever_end(self, documents, **_):
            self.told += ([document.id for document in documents],)

    handler = Handler()
    LsrRetriever(index=folder).invoke("plates", config={"callbacks": [handler]})
    assert handler.told == ("plates", ["plate"])


def test_a_store_can_search_filter_and_score(folder):
    store, index = LsrVectorStore(folder), Index.open(folder)
    hits = index.search("flutter of wings", k=2)
    found = store.similarity_search_with_score("flutter of wings", k=2)
    assert [(d.id, d.page_content, score) for d, score in found] == [(h.id, h.text, h.score) for h in hits]
    assert found[1][0].metadata == {"title": "Wings", "year": 1958}
    assert [d.id for d in store.similarity_search("wing", filter={"year": 1958})] == ["wing"]
    assert [d.id for d in LsrVectorStore(folder, where={"year": 1962}).similarity_search("wing")] == ["flutter"]
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 1, "fetch_k": 5, "filter": {"year": 1962}})
    assert [d.id for d in retriever.invoke("wing")] == ["flutter"]
    assert [d.id for d in asyncio.run(store.asimilarity_search("plate"))] == ["plate"]
    assert store.similarity_search("zebra") == []
    with pytest.raises(NotImplementedError, match="min_score"):
        store.similarity_search_with_relevance_scores("wing")


def test_a_store_is_built_from_texts(tmp_path):
    store = LsrVectorStore.from_documents(
        [Document(page_content="Cats sleep.", id="a")], None, path=tmp_path / "idx", encoder="bm25"
    )
    assert [d.id for d in store.similarity_search("cats")] == ["a"]
    for wrong in ({"embedding": object(), "path": tmp_path / "x"}, {}):
        with pytest.raises(TypeError, match=r"own encoder|path="):
            LsrVectorStore.from_texts(["Cats"], **wrong)
    with pytest.raises(ValueError, match="needs ids"):
        store.delete()


def test_langchains_indexing_can_add_skip_and_clean_up(tmp_path):
    store = LsrVectorStore(Index.build(tmp_path / "idx", [], encoder="bm25"))
    records = InMemoryRecordManager("lsr")
    records.create_schema()
    one, two = (Document(page_content=text, metadata={"source": "s"}) for text in ("Cats sleep.", "Dogs bark."))
    settings = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    assert indexing([one, two], records, store, **settings)["num_added"] == 2
    again = indexing([one], records, store, **settings)
    assert (again["num_skipped"], again["num_deleted"]) == (1, 1)
    assert len(Index.open(tmp_path / "idx")) == 1


def test_structured_queries_become_filters(folder):
    def compare(comparator, value, attribute="year"):
        return Comparison(comparator=comparator, attribute=attribute, value=value)

    late, early = compare(Comparator.GT, 1960), compare(Comparator.LTE, 1960)
    store, index = LsrVectorStore(folder), Index.open(folder)
    for query, ids in (
        (late, ["plate", "flutter"]),
        (Operation(operator=Operator.NOT, arguments=[late]), ["wing"]),
        (Operation(operator=Operator.OR, arguments=[late, early]), ["wing", "plate", "flutter"]),
        (Operation(operator=Operator.AND, arguments=[late, compare(Comparator.NE, 1962)]), []),
        (compare(Comparator.IN, [1958, 1]), ["wing"]),
        (compare(Comparator.NIN, [1958]), ["plate", "flutter"]),
        (None, ["wing", "plate", "flutter"]),
    ):
        text, how = LsrTranslator().visit_structured_query(StructuredQuery(query="wing plate flutter", filter=query))
        assert {d.id for d in store.similarity_search(text, **how)} == set(ids)
    date = compare(Comparator.LT, {"date": "2024-05-17", "type": "date"}, "day")
    assert date.accept(LsrTranslator()) == {"day": {"<": "2024-05-17"}}
    with pytest.raises(ValueError, match="disallowed comparator"):
        compare(Comparator.LIKE, "x").accept(LsrTranslator())
    assert len(index) == 3


class TestRetrieverWithTestsOfLangChain(standard.RetrieversIntegrationTests):
    """LangChain's own tests of a retriever."""

    retriever_constructor = LsrRetriever
    retriever_query_example = "wing or plate"

    @pytest.fixture(autouse=True)
    def _index(self, folder):
        type(self).retriever_constructor_params = {"index": folder}


@pytest.fixture(scope="module")
def encoder():
    """The shipped model, opened once."""
    return load_encoder("lsr-mini")


class TestStoreWithTestsOfLangChain(standard.VectorStoreIntegrationTests):
    """LangChain's own tests of a vector store. They need dense mode, because they expect k documents for any query."""

    @pytest.fixture
    def vectorstore(self, tmp_path, encoder):
        """An empty store."""
        return LsrVectorStore(Index.build(tmp_path / "idx", [], encoder=encoder, hybrid=True), mode="dense")
