"""The retriever for LangChain, inside LangChain."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import fields

import pytest

from lsr.errors import DataError, IndexFormatError
from lsr.index.index import Index
from lsr.index.search.settings import SearchSettings

pytest.importorskip("langchain_core", reason='pip install "lsr-search[langchain]"')

from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough

from lsr.index.integrations.langchain import LsrRetriever


@pytest.fixture(autouse=True)
def no_tracing(monkeypatch):
    """LangChain's tracing is off, whatever the machine's environment says."""
    monkeypatch.setenv("LANGSMITH_TRACING", "false")


def test_finds_what_the_index_finds(folder):
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


def test_async_and_batches(folder):
    retriever = LsrRetriever(index=folder, k=1)
    queries = ["flat plates", "shock waves"]
    one_by_one = [retriever.invoke(query) for query in queries]
    assert [[d.id for d in found] for found in one_by_one] == [["plate"], ["wing"]]
    assert retriever.batch(queries) == one_by_one
    assert asyncio.run(retriever.ainvoke(queries[0])) == one_by_one[0]
    assert asyncio.run(retriever.abatch(queries)) == one_by_one


def test_in_a_chain(folder):
    chain = {"context": LsrRetriever(index=folder, k=1), "question": RunnablePassthrough()} | RunnableLambda(
        lambda values: f"{values['question']} {values['context'][0].page_content}"
    )
    assert chain.invoke("Flat plates?") == "Flat plates? Heat flows along a flat plate."


def test_settings_reach_the_search(folder):
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
def test_a_wrong_setting_is_refused_at_once(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        LsrRetriever(index=folder, **settings)
    retriever = LsrRetriever(index=folder)
    for name, value in settings.items():
        with pytest.raises(ValueError, match=message):
            setattr(retriever, name, value)


def _rebuilt(retriever, **changed):
    """What LangChain makes of a retriever, in each of the ways that it has."""
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


def test_whatever_langchain_makes_of_it_keeps_the_filter(folder):
    index = Index.open(folder)
    retriever = LsrRetriever(index=index, where={"year": 1962}, alpha=0.5)
    for one in _rebuilt(retriever):
        assert [d.id for d in one.invoke("wing")] == ["flutter"]
    first = next(_rebuilt(retriever, where={"year": 1958}))
    assert [d.id for d in first.invoke("wing")] == ["wing"]
    assert {"where", *(field.name for field in fields(SearchSettings))} <= LsrRetriever.model_fields.keys()
    defaults = LsrRetriever(index=index)
    assert SearchSettings() == SearchSettings(**{f.name: getattr(defaults, f.name) for f in fields(SearchSettings)})


def test_no_index(tmp_path):
    with pytest.raises(IndexFormatError, match="not an index"):
        LsrRetriever(index=tmp_path)


def test_from_documents(tmp_path):
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


def test_from_texts(tmp_path):
    texts, about = ["Cats sleep.", "Dogs bark."], [{"n": 1}, {"n": 2}]
    retriever = LsrRetriever.from_texts(texts, tmp_path / "idx", metadatas=about, ids=["x", "y"], encoder="bm25")
    (found,) = retriever.invoke("dogs")
    assert (found.id, found.page_content, found.metadata["n"]) == ("y", "Dogs bark.", 2)
    with pytest.raises(ValueError, match="give one for each text"):
        LsrRetriever.from_texts(texts, tmp_path / "other", ids=["x"], encoder="bm25")


def test_metadata_that_is_not_json(tmp_path):
    with pytest.raises(DataError, match="metadata"):
        LsrRetriever.from_texts(["Cats sleep."], tmp_path / "idx", metadatas=[{"tags": {1, 2}}], encoder="bm25")


def test_the_passage_that_matched(passages):
    (found,) = LsrRetriever(index=passages).invoke("flutter")
    assert found.id == "d"
    assert found.metadata["passage"].startswith("d#")
    assert "Flutter" in found.page_content
    assert len(found.page_content) < 50


def test_add_replace_and_delete(tmp_path):
    retriever = LsrRetriever.from_texts(["Cats sleep."], tmp_path / "idx", ids=["x"], encoder="bm25")
    assert retriever.add_texts(["Cats and cats.", "Cats bark."], [{"n": 1}, {"n": 2}], ["x", "y"]) == ["x", "y"]
    with pytest.raises(ValueError, match="2 texts, 1 metadatas, 2 ids: give one for each text"):
        retriever.add_texts(["Cats", "Cows"], [{"n": 1}])
    assert [(d.id, d.metadata.get("n")) for d in retriever.invoke("cats")] == [("x", 1), ("y", 2)]
    (given,) = retriever.add_documents([Document(page_content="Cats purr.")])
    assert given in {d.id for d in LsrRetriever(index=tmp_path / "idx").invoke("cats")}
    retriever.delete(["x", given, "never was"])
    assert [d.id for d in retriever.invoke("cats")] == ["y"]


def test_an_id_given_twice_is_the_last(tmp_path):
    retriever = LsrRetriever.from_texts(["Birds."], tmp_path / "idx", ids=["z"], encoder="bm25")
    retriever.add_texts(["Cats sleep.", "Birds sing.", "Birds fly."], [{"n": 1}, {"n": 2}, {"n": 3}], ["x", "y", "x"])
    assert [(d.id, d.metadata["n"]) for d in retriever.invoke("birds") if d.id != "z"] == [("y", 2), ("x", 3)]


def test_what_others_commit_is_found(tmp_path):
    retriever = LsrRetriever.from_texts(["Cats sleep."], tmp_path / "idx", ids=["x"], encoder="bm25")
    other = LsrRetriever(index=tmp_path / "idx", k=3)
    other.add_texts(["Cats and cats."], ids=["y"])
    assert {d.id for d in retriever.invoke("cats")} == {"x", "y"}
    retriever.delete(["x"])
    assert [d.id for d in other.invoke("cats")] == ["y"]
