"""Forks: a child never waits for a thread or lock of its parent, and never removes the parent's files.

Pickles: an unpickled encoder gives equal vectors in another process.
"""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import threading
from operator import methodcaller

import numpy as np
import pytest

from lsr.encode.load import load_encoder
from lsr.errors import EncoderError
from lsr.forks import cached_property, here_only
from lsr.io.corpus import documents_corpus

TEXTS = ["the cat sat on the mat .", "dogs", "cat cat cat"]


@pytest.fixture(scope="module")
def mini():
    """The shipped encoder, fitted."""
    encoder = load_encoder("lsr-mini")
    encoder.fit(TEXTS)
    return encoder


def same(left, right):
    return np.array_equal(left.indices, right.indices) and np.array_equal(left.data, right.data)


def test_the_shipped_encoder_works_in_a_child(mini, forked):
    documents, queries = mini.encode_document(TEXTS), mini.encode_query(TEXTS)
    assert forked(lambda: [same(mini.encode_document(TEXTS), documents), same(mini.encode_query(TEXTS), queries)]) == [
        True,
        True,
    ]


def test_a_session_in_use_by_a_thread_is_reopened_in_a_child(mini, forked):
    documents = mini.encode_document(TEXTS)
    (runner,) = mini.learned.document._models.values()
    before = runner._session("states")
    with runner._in_use():  # as if another thread used the session; the child doesn't have that thread
        assert forked(lambda: [same(mini.encode_document(TEXTS), documents), runner._session("states") is before]) == [
            True,
            False,
        ]
    assert forked(lambda: [same(mini.encode_document(TEXTS), documents), runner._session("states") is before]) == [
        True,
        True,
    ]


def test_torch_works_in_a_child(checkpoint, forked):
    import torch

    encoder = load_encoder(checkpoint)
    expected = encoder.encode_document(TEXTS)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        large = torch.ones(1 << 20)
        large.exp()  # starts OpenMP's threads

        def encode():
            large.exp()  # uses threads as a large model would; the tiny encoder uses none
            return np.allclose(encoder.encode_document(TEXTS).data, expected.data, atol=1e-5)

        assert forked(encode)
    finally:
        torch.set_num_threads(threads)


def test_a_model_on_a_gpu_refuses_to_run_in_a_child(checkpoint, forked):
    encoder = load_encoder(checkpoint)
    encoder.encode_document(TEXTS)
    (runner,) = encoder._models.values()
    runner._device = "cuda"

    def encode():
        with pytest.raises(EncoderError, match="can't be used after a fork: start processes with spawn"):
            encoder.encode_document(TEXTS)

    forked(encode)


def test_a_lock_that_a_thread_holds_is_free_in_a_child(mini, forked):
    with mini.learned.document._loading:
        found = forked(lambda: mini.encode_document(TEXTS).nnz)
    assert found == mini.encode_document(TEXTS).nnz


def test_a_cached_property_that_a_thread_has_half_computed_works_in_a_child(forked):
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        @cached_property
        def value(self):
            begun.set()
            go_on.wait(60)
            return 1

    class Thing(Slow):
        pass

    thread = threading.Thread(target=lambda: Thing().value)
    thread.start()
    begun.wait(60)

    def look():
        go_on.set()
        return Thing().value

    assert forked(look) == 1
    go_on.set()
    thread.join()


def test_a_child_does_not_remove_its_parents_files(forked):
    corpus = documents_corpus(iter([{"_id": "a", "text": "cats"}]), replay=True)

    def end():
        nonlocal corpus
        corpus = None
        gc.collect()

    forked(end)
    assert [document.id for document in corpus] == ["a"]
    done = []
    remove = here_only(done.append)
    assert forked(lambda: [remove(1), done]) == [None, []]
    remove(1)
    assert done == [1]


# --- pickling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bm25", "mini", "splade", "pruned", "hybrid"])
def test_a_pickled_encoder_gives_equal_vectors(name, mini, checkpoint):
    encoder = {
        "bm25": lambda: load_encoder("bm25", k1=1.2, language="none"),
        "mini": lambda: mini,
        "splade": lambda: load_encoder(checkpoint, device="cpu", batch_tokens=100),
        "pruned": lambda: load_encoder(checkpoint, top_k=3, max_length=8, saturation="log1p_log1p"),
        "hybrid": lambda: load_encoder(checkpoint, lexical=0.5, batch_tokens=100),
    }[name]()
    encoder.fit(TEXTS)
    other = pickle.loads(pickle.dumps(encoder))
    assert other.fingerprint == encoder.fingerprint
    assert same(other.encode_query(TEXTS), encoder.encode_query(TEXTS))
    assert same(other.encode_document(TEXTS), encoder.encode_document(TEXTS))
    learned = (getattr(encoder, "learned", encoder), getattr(other, "learned", other))
    for setting in ("device", "batch_tokens"):
        assert getattr(learned[0], setting, None) == getattr(learned[1], setting, None)


def test_an_unfitted_encoder_is_unfitted_after_pickling():
    assert pickle.loads(pickle.dumps(load_encoder("bm25"))).needs_fit


def test_spawned_processes_accept_an_encoder(mini):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(methodcaller("encode_query", TEXTS), (mini,))
    assert same(found, mini.encode_query(TEXTS))
