"""The server's route table and handlers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lsr.index.serve import answers, schemas
from lsr.index.serve.metrics import KIND
from lsr.index.serve.openapi import describe
from lsr.index.serve.problems import Problem
from lsr.index.serve.responses import Answer, parameter
from lsr.index.serve.route import Route
from lsr.index.serve.service import Served
from lsr.index.serve.state import Serving
from lsr.index.serve.thread_pool import Deadline

# --- searching --------------------------------------------------------------------------------------------------------


async def search(serving: Serving, request: Request, asked: schemas.Search) -> Response:
    return await _read(serving, request, asked.index, lambda served, deadline: served.search(asked, deadline))


async def search_batch(serving: Serving, request: Request, asked: schemas.SearchBatch) -> Response:
    return await _read(serving, request, asked.index, lambda served, deadline: served.search_batch(asked, deadline))


async def explain(serving: Serving, request: Request, asked: schemas.Explain) -> Response:
    return await _read(serving, request, asked.index, lambda served, deadline: served.explain(asked, deadline))


async def encode(serving: Serving, request: Request, asked: schemas.Encode) -> Response:
    return await _read(serving, request, asked.index, lambda served, deadline: served.encode(asked, deadline))


async def similar(serving: Serving, request: Request, asked: schemas.Similar) -> Response:
    return await _read(serving, request, asked.index, lambda served, deadline: served.similar(asked, deadline))


async def suggest(serving: Serving, request: Request, asked: schemas.Suggest) -> Response:
    return await _read(serving, request, asked.index, lambda served, deadline: served.suggest(asked, deadline))


async def _read(
    serving: Serving, request: Request, index: str | None, call: Callable[[Served, Deadline], dict[str, Any]]
) -> Response:
    """Run a call, and serialize its result, in a search thread."""
    served, seconds = _index(serving, index), serving.settings.seconds
    deadline = Deadline(seconds)
    return await serving.searches.run(
        lambda: Answer(call(served, deadline)), seconds=seconds, caller=request.state.caller
    )


def _index(serving: Serving, name: str | None) -> Served:
    if name is None:
        return next(iter(serving.indexes.values()))
    if name not in serving.indexes:
        raise Problem(404, f"there is no index {name[:100]!r}; there are {', '.join(serving.indexes)}")
    return serving.indexes[name]


# --- documents --------------------------------------------------------------------------------------------------------


async def document(serving: Serving, request: Request, asked: None) -> Response:
    index, doc_id = parameter(request, "index"), request.path_params["id"]
    return await _read(serving, request, index, lambda served, _: served.document(doc_id))


async def get_many(serving: Serving, request: Request, asked: schemas.GetMany) -> Response:
    return await _read(serving, request, asked.index, lambda served, _: served.get_many(asked))


async def list_documents(serving: Serving, request: Request, asked: schemas.ListDocuments) -> Response:
    return await _read(serving, request, asked.index, lambda served, _: served.list_documents(asked))


async def duplicates(serving: Serving, request: Request, asked: schemas.Duplicates) -> Response:
    return await _changed(serving, asked, lambda served: served.duplicates(asked))


async def count(serving: Serving, request: Request, asked: schemas.Count) -> Response:
    return await _read(serving, request, asked.index, lambda served, _: served.count(asked))


async def add(serving: Serving, request: Request, asked: schemas.Add) -> Response:
    return await _changed(serving, asked, lambda served: served.add(asked))


async def delete(serving: Serving, request: Request, asked: schemas.Delete) -> Response:
    return await _changed(serving, asked, lambda served: served.delete(asked))


async def commit(serving: Serving, request: Request, asked: schemas.Commit) -> Response:
    return await _changed(serving, asked, lambda served: served.commit(asked.merge))


async def rollback(serving: Serving, request: Request, asked: schemas.OfIndex) -> Response:
    return await _changed(serving, asked, lambda served: served.rollback())


async def merge(serving: Serving, request: Request, asked: schemas.Merge) -> Response:
    return await _changed(serving, asked, lambda served: served.merge(asked.everything))


async def _changed(serving: Serving, asked: schemas.OfIndex, call: Callable[[Served], dict[str, Any]]) -> Response:
    """Run a call in the thread that makes all changes to this index, without a time limit."""
    served = _index(serving, asked.index)
    return Answer(await serving.writes[served.name].run(call, served))


# --- server and indexes -----------------------------------------------------------------------------------------------


async def indexes(serving: Serving, request: Request, asked: None) -> Response:
    every = serving.indexes.values()
    return await _read(serving, request, None, lambda *_: {"indexes": [served.facts() for served in every]})


async def stats(serving: Serving, request: Request, asked: None) -> Response:
    served = _index(serving, parameter(request, "index"))
    seconds = round(time.monotonic() - serving.started, 1)
    return Answer(served.stats() | {"searching": serving.searches.busy, "seconds": seconds})


async def health(serving: Serving, request: Request, asked: None) -> Response:
    return Answer({"status": "alive"})


async def ready(serving: Serving, request: Request, asked: None) -> Response:
    if not serving.ready:
        raise Problem(503, "the server is starting or stopping", retry_after=1)
    return Answer({"status": "ready"})


async def metrics(serving: Serving, request: Request, asked: None) -> Response:
    return Response(serving.metrics.text(serving.indexes, [serving.searches]), media_type=KIND)


async def openapi(serving: Serving, request: Request, asked: None) -> Response:
    return Answer(describe(ROUTES))


async def page(serving: Serving, request: Request, asked: None) -> Response:
    name = request.path_params.get("file", "index.html")
    if name not in serving.page:
        raise Problem(404, f"the page has no file {name[:100]!r}")
    content, kind = serving.page[name]
    return Response(content, media_type=kind)


# Placeholders in braces match the rest of the path, including slashes.
ROUTES: dict[str, dict[str, Route]] = {
    "/v1/search": {"POST": Route(search, "reader", schemas.Search, answers.Found, "Search with a text or a vector.")},
    "/v1/search/batch": {
        "POST": Route(search_batch, "reader", schemas.SearchBatch, answers.FoundBatch, "Search with many queries.")
    },
    "/v1/similar": {
        "POST": Route(
            similar, "reader", schemas.Similar, answers.FoundSimilar, "Find documents similar to a given one."
        )
    },
    "/v1/suggest": {
        "POST": Route(suggest, "reader", schemas.Suggest, answers.Suggestions, "Suggest completions and corrections.")
    },
    "/v1/explain": {
        "POST": Route(explain, "reader", schemas.Explain, answers.Explained, "Explain a document's score for a query.")
    },
    "/v1/encode": {"POST": Route(encode, "reader", schemas.Encode, answers.Encoded, "Encode a text as a query.")},
    "/v1/documents/{id}": {"GET": Route(document, "reader", None, answers.Stored, "Get a document by id.")},
    "/v1/get": {"POST": Route(get_many, "reader", schemas.GetMany, answers.StoredDocuments, "Get documents by id.")},
    "/v1/list": {
        "POST": Route(
            list_documents,
            "reader",
            schemas.ListDocuments,
            answers.StoredDocuments,
            "List documents in the order in which they were added.",
        )
    },
    "/v1/count": {
        "POST": Route(count, "reader", schemas.Count, answers.Counted, "Count documents that match a filter.")
    },
    "/v1/duplicates": {  # needs a writer's key, because it takes much memory and time
        "POST": Route(
            duplicates, "writer", schemas.Duplicates, answers.FoundDuplicates, "Find all pairs of near-duplicates."
        )
    },
    "/v1/documents": {
        "POST": Route(add, "writer", schemas.Add, answers.Changed, "Add or update documents: all of them or none."),
        "DELETE": Route(delete, "writer", schemas.Delete, answers.Changed, "Delete documents, by ids or metadata."),
    },
    "/v1/commit": {"POST": Route(commit, "writer", schemas.Commit, answers.Done, "Make changes visible.")},
    "/v1/rollback": {
        "POST": Route(rollback, "writer", schemas.OfIndex, answers.Done, "Discard the changes since the last commit.")
    },
    "/v1/merge": {"POST": Route(merge, "writer", schemas.Merge, answers.Done, "Commit, then merge segments.")},
    "/v1/indexes": {
        "GET": Route(indexes, "reader", None, answers.Indexes, "List the indexes, and columns to filter by.")
    },
    "/v1/stats": {"GET": Route(stats, "reader", None, answers.Stats, "Statistics of an index.")},
    "/metrics": {"GET": Route(metrics, "reader", None, None, "Metrics for Prometheus.")},
    "/health": {"GET": Route(health, None, None, answers.Health, "Whether the server is up.")},
    "/ready": {"GET": Route(ready, None, None, answers.Health, "Whether the server is ready for requests.")},
    "/openapi.json": {"GET": Route(openapi, None, None, None, "This description.")},
    "/": {"GET": Route(page, None, None, None, "The search page.")},
    "/page/{file}": {"GET": Route(page, None, None, None, "The files of the search page.")},
}
