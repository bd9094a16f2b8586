"""What can be asked of a server: the table of its paths, and what each does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from lsr.index.serve import schemas
from lsr.index.serve.keys import Role
from lsr.index.serve.metrics import KIND
from lsr.index.serve.openapi import describe
from lsr.index.serve.problems import Problem
from lsr.index.serve.responses import Answer, parameter
from lsr.index.serve.service import Served
from lsr.index.serve.thread_pool import Deadline

if TYPE_CHECKING:
    from lsr.index.serve.app import App

Handler = Callable[["App", Request, Any], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """What a method does at a path.

    Attributes:
        handler: Does it.
        role: Whose key it takes; None for nobody's.
        asked: What the body has to be, if there is one.
        given: What the answer is.
        summary: In a line.
    """

    handler: Handler
    role: Role | None
    asked: Any
    given: Any
    summary: str


# --- searching --------------------------------------------------------------------------------------------------------


async def search(app: App, request: Request, asked: schemas.Search) -> Response:
    return await _read(app, request, asked.index, lambda served, deadline: served.search(asked, deadline))


async def search_batch(app: App, request: Request, asked: schemas.SearchBatch) -> Response:
    return await _read(app, request, asked.index, lambda served, deadline: served.search_batch(asked, deadline))


async def explain(app: App, request: Request, asked: schemas.Explain) -> Response:
    return await _read(app, request, asked.index, lambda served, deadline: served.explain(asked, deadline))


async def encode(app: App, request: Request, asked: schemas.Encode) -> Response:
    return await _read(app, request, asked.index, lambda served, deadline: served.encode(asked, deadline))


async def _read(
    app: App, request: Request, index: str | None, call: Callable[[Served, Deadline], dict[str, Any]]
) -> Response:
    """In a thread that searches, JSON and all."""
    served, seconds = _index(app, index), app.settings.seconds
    deadline = Deadline(seconds)
    return await app.searches.run(lambda: Answer(call(served, deadline)), seconds=seconds, caller=request.state.caller)


def _index(app: App, name: str | None) -> Served:
    if name is None:
        return next(iter(app.indexes.values()))
    if name not in app.indexes:
        raise Problem(404, f"there is no index {name[:100]!r}; there are {', '.join(app.indexes)}")
    return app.indexes[name]


# --- documents --------------------------------------------------------------------------------------------------------


async def document(app: App, request: Request, asked: None) -> Response:
    index, doc_id = parameter(request, "index"), request.path_params["id"]
    return await _read(app, request, index, lambda served, _: served.document(doc_id))


async def add(app: App, request: Request, asked: schemas.Add) -> Response:
    return await _changed(app, asked, lambda served: served.add(asked))


async def delete(app: App, request: Request, asked: schemas.Delete) -> Response:
    return await _changed(app, asked, lambda served: served.delete(asked))


async def commit(app: App, request: Request, asked: schemas.Commit) -> Response:
    return await _changed(app, asked, lambda served: served.commit(asked.merge))


async def rollback(app: App, request: Request, asked: schemas.OfIndex) -> Response:
    return await _changed(app, asked, lambda served: served.rollback())


async def merge(app: App, request: Request, asked: schemas.Merge) -> Response:
    return await _changed(app, asked, lambda served: served.merge(asked.everything))


async def _changed(app: App, asked: schemas.OfIndex, call: Callable[[Served], dict[str, Any]]) -> Response:
    """In the one thread that changes this index; as long as it takes."""
    served = _index(app, asked.index)
    return Answer(await app.writes[served.name].run(call, served))


# --- what there is ----------------------------------------------------------------------------------------------------


async def indexes(app: App, request: Request, asked: None) -> Response:
    every = app.indexes.values()
    return await _read(app, request, None, lambda *_: {"indexes": [served.facts() for served in every]})


async def stats(app: App, request: Request, asked: None) -> Response:
    served = _index(app, parameter(request, "index"))
    seconds = round(time.monotonic() - app.started, 1)
    return Answer(served.stats() | {"searching": app.searches.busy, "seconds": seconds})


async def health(app: App, request: Request, asked: None) -> Response:
    return Answer({"status": "alive"})


async def ready(app: App, request: Request, asked: None) -> Response:
    if not app.ready:
        raise Problem(503, "the server is starting or stopping", retry_after=1)
    return Answer({"status": "ready"})


async def metrics(app: App, request: Request, asked: None) -> Response:
    return Response(app.metrics.text(app.indexes, [app.searches]), media_type=KIND)


async def openapi(app: App, request: Request, asked: None) -> Response:
    return Answer(describe(ROUTES))


async def page(app: App, request: Request, asked: None) -> Response:
    name = request.path_params.get("file", "index.html")
    if name not in app.page:
        raise Problem(404, f"the page has no file {name[:100]!r}")
    content, kind = app.page[name]
    return Response(content, media_type=kind)


# What stands in braces is all that follows, slashes and all.
ROUTES: dict[str, dict[str, Route]] = {
    "/v1/search": {"POST": Route(search, "reader", schemas.Search, schemas.Found, "Search with a text or a vector.")},
    "/v1/search/batch": {
        "POST": Route(search_batch, "reader", schemas.SearchBatch, schemas.FoundBatch, "Search with many queries.")
    },
    "/v1/explain": {
        "POST": Route(
            explain, "reader", schemas.Explain, schemas.Explained, "Why a document has its score for a query."
        )
    },
    "/v1/encode": {"POST": Route(encode, "reader", schemas.Encode, schemas.Encoded, "A text as a query's vector.")},
    "/v1/documents/{id}": {"GET": Route(document, "reader", None, schemas.Stored, "A document, by its id.")},
    "/v1/documents": {
        "POST": Route(add, "writer", schemas.Add, schemas.Changed, "Add or update documents: all of them or none."),
        "DELETE": Route(delete, "writer", schemas.Delete, schemas.Changed, "Delete documents, by ids or metadata."),
    },
    "/v1/commit": {"POST": Route(commit, "writer", schemas.Commit, schemas.Done, "Make changes visible.")},
    "/v1/rollback": {
        "POST": Route(rollback, "writer", schemas.OfIndex, schemas.Done, "Forget the changes since the last commit.")
    },
    "/v1/merge": {"POST": Route(merge, "writer", schemas.Merge, schemas.Done, "Commit, then merge segments.")},
    "/v1/indexes": {"GET": Route(indexes, "reader", None, schemas.Indexes, "The indexes, and columns to filter by.")},
    "/v1/stats": {"GET": Route(stats, "reader", None, schemas.Stats, "An index in numbers.")},
    "/metrics": {"GET": Route(metrics, "reader", None, None, "Counters, for Prometheus.")},
    "/health": {"GET": Route(health, None, None, schemas.Health, "Whether the server is there.")},
    "/ready": {"GET": Route(ready, None, None, schemas.Health, "Whether it answers as it should.")},
    "/openapi.json": {"GET": Route(openapi, None, None, None, "This description.")},
    "/": {"GET": Route(page, None, None, None, "The page.")},
    "/page/{file}": {"GET": Route(page, None, None, None, "The files of the page.")},
}
