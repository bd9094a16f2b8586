"""Batches: each query has its own documents, even if several sources use the same ids."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest

pytest.importorskip("torch")

from lsr.train.batches import draw_batch
from lsr.train.data import open_training
from lsr.train.sources import TrainingSource


@pytest.fixture
def put_source(tmp_path):
    """Returns a function that writes a collection and examples that name its documents by id.

    All texts start with the collection's name.
    """

    def put(name, n_docs=4, documents=None):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"_id": str(i), "text": f"{name} text {i}"} for i in range(n_docs)]
        (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = [
            {"query_id": str(i), "query": f"{documents or name} query {i}", "positive": str(i),
             "negatives": [str((i + 1) % n_docs), str((i + 2) % n_docs)]}
            for i in range(n_docs)
        ]  # fmt: skip
        (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        collection = tmp_path / (documents or name) / "docs.jsonl"
        return TrainingSource(str(folder / "lines.jsonl"), documents=str(collection))

    return put


def batches(data, size, count=20):
    stream = data.stream(seed=0)
    for number in range(count):
        examples = list(islice(stream, size))
        yield examples, draw_batch(examples, 2, np.random.default_rng(number))


@pytest.mark.parametrize("size", [2, 5, 11])
def test_the_same_id_in_two_collections_names_two_documents(put_source, tmp_path, size):
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"query": f"plain query {i}", "positive": f"plain text {i}",
                                         "negative": f"plain text {i + 1}"}) + "\n" for i in range(4)))  # fmt: skip
    data = open_training([put_source("one"), put_source("two"), TrainingSource(str(lines))], cache=tmp_path / "cache")
    for examples, batch in batches(data, size):
        assert len(set(batch.documents)) == len(batch.documents)
        for row, example in enumerate(examples):
            own = [batch.documents[i] for i in batch.columns[row].tolist() if i >= 0]
            assert {text.split()[0] for text in own} == {example.query.split()[0]}
            assert own[0] in example.documents[: example.n_positives]
            marked = [batch.documents[i] for i in batch.positives[row].nonzero().flatten().tolist()]
            assert marked == list(example.documents[: example.n_positives])


def test_two_sources_of_one_collection_share_its_documents(put_source, tmp_path):
    data = open_training([put_source("one"), put_source("more", documents="one")], cache=tmp_path / "cache")
    for _, batch in batches(data, 8):
        assert len(set(batch.documents)) == len(batch.documents) <= 4


def test_a_query_has_the_positives_of_all_its_lines(tmp_path):
    """Otherwise a positive of one line could be a negative of the same query in another line."""
    lines = [{"query": "cat", "positive": f"cat text {i}", "negative": "no text"} for i in range(3)]
    lines.append({"query": "dog", "positive": "dog text", "negative": "cat text 0"})
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = open_training([TrainingSource(str(tmp_path / "lines.jsonl"))], cache=tmp_path / "cache")
    examples = list(data.examples(0))
    batch = draw_batch(examples, 1, np.random.default_rng(0))
    for row, query in enumerate(batch.queries):
        marked = {batch.documents[i] for i in batch.positives[row].nonzero().flatten().tolist()}
        assert marked == ({"dog text"} if query == "dog" else {f"cat text {i}" for i in range(3)})


def test_two_copies_of_a_text_in_a_collection_are_one_document(tmp_path):
    """Otherwise a copy of a positive could become a negative."""
    texts = {"a": "cat text", "copy": "cat text", "b": "dog text", "c": "no text"}
    rows = [json.dumps({"_id": name, "text": text}) + "\n" for name, text in texts.items()]
    (tmp_path / "docs.jsonl").write_text("".join(rows))
    lines = [
        {"query_id": "1", "query": "cat", "positive": "a", "negatives": ["copy", "c"], "scores": [[3, 3, 0]]},
        {"query_id": "2", "query": "kitten", "positive": "copy", "negatives": ["b", "c"], "scores": [[3, 1, 0]]},
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = TrainingSource(str(tmp_path / "lines.jsonl"), documents=str(tmp_path / "docs.jsonl"))
    examples = sorted(open_training([source], cache=tmp_path / "cache").examples(0), key=lambda one: one.query)
    batch = draw_batch(examples, 2, np.random.default_rng(0))
    assert sorted(batch.documents) == ["cat text", "dog text", "no text"]
    own = [[batch.documents[i] for i in row if i >= 0] for row in batch.columns.tolist()]
    assert (own[0], own[1][0], set(own[1])) == (["cat text", "no text"], "cat text", set(batch.documents))
    cat = batch.documents.index("cat text")
    assert batch.positives.nonzero().tolist() == [[0, cat], [1, cat]]
    assert batch.scores[0, 0, :2].tolist() == [3, 0]
