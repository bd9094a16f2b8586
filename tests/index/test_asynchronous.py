"""AsyncIndex gives the same results as Index, and the event loop keeps running during its calls."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lsr.errors import DataError
from lsr.index.async_index import AsyncIndex
from lsr.index.index import Index

DOCS = [{"_id": "a", "text": "wing flutter"}, {"_id": "b", "text": "wing lift"}]


@pytest.fixture
def index(tmp_path):
    return Index.build(tmp_path / "idx", DOCS, encoder="bm25")


def test_results_and_errors_equal_those_of_the_index(index):
    async def ask():
        living = AsyncIndex(index)
        hits = await living.search("wing", k=1)
        batch = await living.search_batch(["wing", "lift"], 2)
        with pytest.raises(DataError, match="no column"):
            await living.search("wing", where={"x": 1})
        return hits, batch

    hits, batch = asyncio.run(ask())
    assert [hit.id for hit in hits] == [hit.id for hit in index.search("wing", 1)]
    assert [[hit.id for hit in row] for row in batch] == [["a", "b"], ["b"]]


def test_the_event_loop_runs_during_a_search(index, monkeypatch):
    free = threading.Event()
    monkeypatch.setattr(index, "search", lambda *_, **__: free.wait(10) and ["found"])

    async def both():
        search = asyncio.create_task(AsyncIndex(index).search("wing"))
        await asyncio.sleep(0)
        free.set()  # reached only if the event loop keeps running
        return await search

    assert asyncio.run(both()) == ["found"]


def test_changes_of_many_tasks_are_serialized(index):
    async def change():
        living = AsyncIndex(index)
        await asyncio.gather(*(living.add([{"_id": f"d{i}", "text": "wing"}]) for i in range(8)))
        await living.update([{"_id": "a", "text": "lift"}])
        await living.delete(["b"])
        await living.commit()
        await living.merge()
        return await living.refresh()

    assert asyncio.run(change()) is False
    assert {hit.id for hit in index.search("wing", 20)} == {f"d{i}" for i in range(8)}
    assert [hit.id for hit in index.search("lift")] == ["a"]
