"""A client has the same calls, results and errors as the index, and needs none of the server's packages."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from lsr.encode.load import load_encoder
from lsr.errors import DataError, EncoderError, EncoderMismatch, IndexLocked, ServerError
from lsr.index.index import Index
from lsr.index.serve.client import Client
from lsr.index.serve.keys import Keys
from lsr.io.document import Document, document_batch
from lsr.io.open_vectors import read_vectors
from lsr.io.vectors import VectorBatch, Vectors


@pytest.fixture
def client(serving, living):
    return Client(serving(living, writable=True).url)


@pytest.fixture
def reading(asking):
    return Client(asking.url + "/", "small")


def encoded(documents, encoder):
    made = [Document.from_mapping(one) for one in documents]
    batch = VectorBatch(document_batch(made), encoder.encode_document([one.text for one in made]))
    return Vectors("made", lambda _: iter([batch]), fingerprint=encoder.fingerprint, vocabulary=encoder.vocabulary)


def same(hits, others):
    told = [[(h.id, h.passage, h.score, h.title, h.text, h.metadata) for h in row] for row in (hits, others)]
    assert told[0] == told[1]


@pytest.mark.parametrize("query", ["wing flutter", {"flutter": 2.0, "wing": 1.0, "never": 3.0}, ""])
@pytest.mark.parametrize("how", [{}, {"k": 1}, {"where": {"year": {"<": 1965}}}, {"algorithm": "exhaustive"}])
def test_searches_equal_those_of_the_index(reading, small, query, how):
    same(reading.search(query, **how), small.search(query, **how))


def test_batches_equal_those_of_the_index(reading, small):
    for queries in (["wing", "nothing", ""], [{"flutter": 1.0}, {"wing": 2.0, "never": 1.0}], []):
        for hits, others in zip(reading.search_batch(queries, 2), small.search_batch(queries, 2), strict=True):
            same(hits, others)


def test_hits_can_be_explained_and_highlighted(reading, small):
    hit, other = reading.search("wing flutter")[0], small.search("wing flutter")[0]
    assert hit.explain() == other.explain()
    assert hit.highlight(20) == other.highlight(20)
    assert reading.explain({"wing": 1.0}, "b", origins=False) == small.explain({"wing": 1.0}, "b", origins=False)


def test_other_calls_equal_those_of_the_index(reading, small):
    assert len(reading) == len(small)
    assert reading.explain_plan("wing", 2) == small.explain_plan("wing", 2)
    idf = math.log(2)  # each word is in two of the four documents
    assert reading.encode("wing wing flutter") == {"wing": pytest.approx(2 * idf), "flutter": pytest.approx(idf)}
    assert reading.document("c/1") == Document("c/1", "boundary layer transition", "", {
        "year": 1980.5, "lang": "en", "draft": True,
    })  # fmt: skip


def test_documents_are_added_updated_and_deleted(client, living):
    added = client.add([{"_id": "x", "text": "wing", "year": 1}, Document("y", "lift", metadata={"year": 2})])
    assert (added.added, str(added)) == (2, "2 added")
    assert len(client) == 4
    client.commit()
    assert len(client) == 6
    assert [hit.metadata for hit in client.search("wing", where={"year": 1})] == [{"year": 1}]
    assert client.update([{"_id": "x", "text": "lift"}], commit=True).updated == 1
    assert client.delete(["x", "nobody"]).missing == ["nobody"]
    client.rollback()
    assert client.delete("x", where={"year": 2}, commit=True).deleted == 2
    assert client.add([]).added == 0
    client.merge()
    assert not client.merge()
    assert (len(client), living.n_segments) == (4, 1)


def test_vectors_can_be_added(client, living, tmp_path):
    path = tmp_path / "v.jsonl"
    path.write_text('{"id": "v", "contents": "given", "vector": {"flutter": 9.0}}\n')
    vectors = read_vectors(path, vocabulary=living.vocabulary)
    assert client.add(vectors, commit=True).added == 1
    assert client.search("flutter")[0].id == "v"
    assert client.add([{"_id": "w", "text": "by itself", "vector": {"flutter": 99.0}}], commit=True).added == 1
    assert [(hit.id, hit.text) for hit in client.search("flutter", 1)] == [("w", "by itself")]


def test_vectors_of_another_encoder_are_refused(client, living):
    other, same_settings = load_encoder("bm25", k1=1.5), load_encoder("bm25")
    for fitted in (other, same_settings):
        fitted.fit(["wing lift flutter", "wing"])
    vectors = encoded([{"_id": "v", "text": "wing"}], other)
    with pytest.raises(EncoderMismatch, match="Encode both with the same encoder"):
        client.add(vectors)
    assert client.add(encoded([{"_id": "v", "text": "wing"}], living.encoder)).added == 1
    assert client.add(encoded([{"_id": "w", "text": "wing"}], same_settings)).added == 1
    client.commit()
    scores = {hit.id: hit.score for hit in client.search("wing")}
    assert scores["v"] == scores["w"]


def test_files_can_be_added(client, tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"_id": "x", "text": "wing", "year": 1}\n{"text": "no id"}\n')
    with pytest.raises(DataError, match=r"docs\.jsonl:2: no id"):
        client.add(path)
    change = client.add(str(path), skip_bad=True, commit=True)
    assert (change.added, len(change.bad)) == (1, 1)
    assert "docs.jsonl:2" in change.bad[0]
    assert client.document("x").metadata == {"year": 1}
    with pytest.raises(DataError, match="nowhere"):
        client.update("nowhere.jsonl")


def test_numpy_numbers_and_sets_are_accepted(reading, small):
    where = {"year": {">": np.int64(1965)}, "lang": {"en", "de"}}
    same(reading.search({"wing": np.float32(2)}, np.int64(3), where=where), small.search({"wing": 2}, 3, where=where))
    with pytest.raises(TypeError, match="can't be sent"):
        reading.search("wing", where={"year": object()})


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda c: c.search("wing", k=0), ValueError, "k: "),
        (lambda c: c.search("wing", where={"yaer": 1}), DataError, "no column 'yaer'"),
        (lambda c: c.search("wing", alpha=2), ValueError, "alpha must be above 0"),
        (lambda c: c.search("wing", alhpa=1), TypeError, "alhpa"),
        (lambda c: c.search(["wing"]), TypeError, "a query is a text"),
        (lambda c: c.search({"wing": -1.0}), ValueError, "wing"),
        (lambda c: c.search({"wing": float("nan")}), DataError, "NaN"),
        (lambda c: c.explain("wing", "nobody"), DataError, "no document has the id 'nobody'"),
        (lambda c: c.add([{"_id": "a", "text": "again"}]), DataError, "'a' is in the index already"),
        (lambda c: c.add([{"text": "no id"}]), DataError, "document 1: no id"),
        (lambda c: c.document("nobody"), ServerError, "no document 'nobody'"),
    ],
)
def test_errors_equal_those_of_the_index(client, call, kind, message):
    with pytest.raises(kind, match=message):
        call(client)


@pytest.mark.usefixtures("impatient")
def test_the_error_names_the_other_writer(client, living):
    other = Index.open(living.path)
    other.delete("a")
    with pytest.raises(IndexLocked, match="has been writing this index"):
        client.add([{"_id": "x", "text": "wing"}])
    other.rollback()


def test_texts_need_an_index_with_an_encoder(tmp_path, serving):
    encoder = load_encoder("bm25")
    encoder.fit(["wing flutter"])
    index = Index.build(tmp_path / "v", encoder.encode_document(["wing flutter"]))
    with pytest.raises(EncoderError, match="built from vectors"):
        Client(serving(index).url).search("wing")


def test_missing_keys_wrong_roles_and_unknown_indexes_are_reported(serving, small):
    asking = serving(small, keys=Keys({"a-reader's-long-key": "reader"}))
    with pytest.raises(ServerError, match="needs a key"):
        Client(asking.url).search("wing")
    client = Client(asking.url, key="a-reader's-long-key")
    assert client.search("wing")
    with pytest.raises(ServerError, match="a writer's"):
        client.delete("a")
    with pytest.raises(ServerError, match="there is no index 'other'"):
        Client(asking.url, "other", key="a-reader's-long-key").search("wing")


def test_an_unreachable_server_is_reported():
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Client("localhost:8000")
    with pytest.raises(ServerError, match="no answer"):
        Client("http://127.0.0.1:9", timeout=2).search("wing")


def test_a_closed_connection_is_reopened(reading):
    assert reading.search("wing")
    ((connection, since),) = reading._connections.idle
    connection.sock.shutdown(2)
    assert reading.search("wing")
    ((connection, since),) = reading._connections.idle
    reading._connections.idle[:] = [(connection, since - 100)]
    assert reading.search("wing")
    assert connection.sock is None
    with reading:
        pass
    assert reading._connections.idle == []


def test_a_body_that_is_too_large_is_refused(serving, living):
    client = Client(serving(living, writable=True, max_body=100_000).url)
    with pytest.raises(ServerError, match="larger than 100,000 bytes"):
        client.add([{"_id": "x", "text": "wing " * 1_000_000}])
    assert len(client) == 4


def test_the_client_needs_no_extra():
    code = (
        "import sys\nfor name in ('pydantic', 'uvicorn', 'prometheus_client'): sys.modules[name] = None\n"
        "from lsr.index.serve.client import Client\nClient('http://localhost:1')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_forked_and_pickled_clients_open_their_own_connections(asking, forked):
    client = Client(asking.url, timeout=30)
    first = client.search("wing")[0].id
    ours = client._connections.idle[0][0].sock.getsockname()

    def child():
        assert not client._connections.idle
        return [client.search("wing")[0].id, client._connections.idle[0][0].sock.getsockname() == ours]

    assert forked(child) == [first, False]
    assert client._connections.idle[0][0].sock.getsockname() == ours  # the parent keeps its connection
    assert client.search("wing")[0].id == first
    other = pickle.loads(pickle.dumps(client))
    assert other.search("wing")[0].id == first
    assert other._given == (*client._given[:3], 30)
