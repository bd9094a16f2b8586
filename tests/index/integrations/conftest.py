"""Small indexes for the tests of the adapters."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from lsr.index.index import Index

DOCUMENTS = [
    {"_id": "wing", "title": "Wings", "text": "A swept wing delays the shock wave.", "metadata": {"year": 1958}},
    {"_id": "plate", "text": "Heat flows along a flat plate.", "metadata": {"year": 1962}},
    {"_id": "flutter", "text": "Flutter of a wing, flutter of a panel.", "metadata": {"year": 1962}},
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder of an index with three documents."""
    path = tmp_path_factory.mktemp("integrations") / "idx"
    Index.build(path, DOCUMENTS, encoder="bm25")
    return path


@pytest.fixture
def passages(tmp_path):
    """An index whose document is cut into passages."""
    from lsr.encode.passages import Passages

    text = "Heat flows along a plate. " * 3 + "Flutter of a panel."
    return Index.build(tmp_path / "cut", [{"_id": "d", "text": text}], encoder="bm25", passages=Passages(5))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run the tests that are coroutines, such as some of the libraries' own tests."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    asyncio.run(
        pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters})
    )
    return True
