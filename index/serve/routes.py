"""What can be asked of a server: the table of its paths, and what each does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import models
from .http import Answer, Request, answer
from .keys import Role
from .metrics import KIND
from .openapi import describe
from .problems import Problem, wrong_values
from .served import Served
from .work import Deadline

if TYPE_CHECKING:
    from .app import App

Handler = Callable[["App", Request, Any], Awaitable[Answer]]


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


async def search(app: App, request: Request, asked: models.Search) -> Answer:
    served = _index(app, asked.index)
    _require(_of_query(app, asked) + _of_search(app, asked, 1))
    most = app.settings.max_explained
    if asked.explain and asked.k > most:
        raise wrong_values([("k", f"at most {most} documents are explained at once, got {asked.k}")])
    return await _searched(app, served.search, asked)


async def search_batch(app: App, request: Request, asked: models.SearchBatch) -> Answer:
    served = _index(app, asked.index)
    wrong = _of_search(app, asked, len(asked.queries))
    for number, query in enumerate(asked.queries):
        wrong += _length(app, f"queries.{number}", query)
    _require(wrong)
    return await _searched(app, served.search_batch, asked)


async def explain(app: App, request: Request, asked: models.Explain) -> Answer:
    served = _index(app, asked.index)
    _require(_of_query(app, asked))
    return await _searched(app, served.explain, asked)


async def encode(app: App, request: Request, asked: models.Encode) -> Answer:
    served = _index(app, asked.index)
    _require(_length(app, "text", asked.text))
    return await _searched(app, served.encode, asked)


async def _searched(app: App, call: Callable[[Any, Deadline], dict[str, Any]], asked: Any) -> Answer:
    """In a thread that searches, JSON and all."""
    seconds = app.settings.seconds
    deadline = Deadline(seconds)
    return await app.searches.run(lambda: answer(call(asked, deadline)), seconds=seconds)


def _of_query(app: App, asked: models.OneQuery) -> list[tuple[str, str]]:
    if (asked.query is None) == (asked.vector is None):
        return [("query", "give either a query or a vector")]
    if asked.query is not None:
        return _length(app, "query", asked.query)
    return _length(app, "vector", asked.vector or {})


def _length(app: App, where: str, query: str | dict[str, float]) -> list[tuple[str, str]]:
    most, what = app.settings.max_query, "characters" if isinstance(query, str) else "terms"
    return [] if len(query) <= most else [(where, f"has {len(query):,} {what}, at most {most:,} are taken")]


def _of_search(app: App, asked: models.HowToSearch, queries: int) -> list[tuple[str, str]]:
    limits, wrong = app.settings, []
    if asked.k > limits.max_k:
        wrong.append(("k", f"at most {limits.max_k:,} documents are given, got {asked.k:,}"))
    elif asked.k * queries > limits.max_hits:
        wrong.append(("queries", f"{queries:,} queries of {asked.k:,} documents: at most {limits.max_hits:,} in all"))
    wrong += _of_where(app, asked.where)
    if asked.hybrid is not None and asked.hybrid.depth > limits.max_k:
        wrong.append(("hybrid.depth", f"at most {limits.max_k:,}, got {asked.hybrid.depth:,}"))
    return wrong


def _of_where(app: App, where: Any) -> list[tuple[str, str]]:
    values, most = _count(where), app.settings.max_where
    return [] if values <= most else [("where", f"has {values:,} values, at most {most:,} are taken")]


def _count(where: Any) -> int:
    inner = where.values() if isinstance(where, dict) else where if isinstance(where, list) else None
    return 1 if inner is None else sum(map(_count, inner))


def _require(wrong: list[tuple[str, str]]) -> None:
    if wrong:
        raise wrong_values(wrong)


def _index(app: App, name: str | None) -> Served:
    if name is None:
        return next(iter(app.indexes.values()))
    if name not in app.indexes:
        raise Problem(404, f"there is no index {name[:100]!r}; there are {', '.join(app.indexes)}")
    return app.indexes[name]


# --- documents --------------------------------------------------------------------------------------------------------


async def document(app: App, request: Request, asked: None) -> Answer:
    served = _index(app, request.parameters("index").get("index"))
    return answer(await app.searches.run(served.document, request.rest, seconds=app.settings.seconds))


async def add(app: App, request: Request, asked: models.Add) -> Answer:
    served = _index(app, asked.index)
    return await _changed(app, served, lambda: served.add(asked), merge=asked.commit)


async def delete(app: App, request: Request, asked: models.Delete) -> Answer:
    served = _index(app, asked.index)
    _require(_of_where(app, asked.where))
    return await _changed(app, served, lambda: served.delete(asked), merge=asked.commit)


async def commit(app: App, request: Request, asked: models.Commit) -> Answer:
    served = _index(app, asked.index)
    return await _changed(app, served, served.commit, merge=asked.merge)


async def rollback(app: App, request: Request, asked: models.OfIndex) -> Answer:
    served = _index(app, asked.index)
    return await _changed(app, served, served.rollback, merge=False)


async def merge(app: App, request: Request, asked: models.Merge) -> Answer:
    served = _index(app, asked.index)
    return await _changed(app, served, lambda: served.merge(asked.everything), merge=False)


async def _changed(app: App, served: Served, call: Callable[[], dict[str, Any]], *, merge: bool) -> Answer:
    """In the one thread that changes this index; as long as it takes."""
    changed = await app.writes[served.name].run(call)
    if merge:
        app.merge_later(served)
    return answer(changed)


# --- what there is ----------------------------------------------------------------------------------------------------


async def indexes(app: App, request: Request, asked: None) -> Answer:
    def gathered() -> Answer:
        return answer({"indexes": [served.facts() for served in app.indexes.values()]})

    return await app.searches.run(gathered, seconds=app.settings.seconds)


async def stats(app: App, request: Request, asked: None) -> Answer:
    served = _index(app, request.parameters("index").get("index"))
    seconds = round(time.monotonic() - app.started, 1)
    return answer(served.stats() | {"searching": app.searches.busy, "seconds": seconds})


async def health(app: App, request: Request, asked: None) -> Answer:
    return answer({"status": "alive"})


async def ready(app: App, request: Request, asked: None) -> Answer:
    if not app.ready:
        raise Problem(503, "the server is starting or stopping", retry_after=1)
    return answer({"status": "ready"})


async def metrics(app: App, request: Request, asked: None) -> Answer:
    return Answer(200, app.metrics.text(app.indexes, [app.searches]), KIND)


async def openapi(app: App, request: Request, asked: None) -> Answer:
    return answer(describe(ROUTES))


async def page(app: App, request: Request, asked: None) -> Answer:
    name = request.rest or "index.html"
    if name not in app.page:
        raise Problem(404, f"the page has no file {name[:100]!r}")
    content, kind = app.page[name]
    return Answer(200, content, kind)


# A path that ends in "/" takes what follows it.
ROUTES: dict[str, dict[str, Route]] = {
    "/v1/search": {"POST": Route(search, "reader", models.Search, models.Found, "Search with a text or a vector.")},
    "/v1/search/batch": {
        "POST": Route(search_batch, "reader", models.SearchBatch, models.FoundBatch, "Search with many queries.")
    },
    "/v1/explain": {
        "POST": Route(explain, "reader", models.Explain, models.Explained, "Why a document has its score for a query.")
    },
    "/v1/encode": {"POST": Route(encode, "reader", models.Encode, models.Encoded, "A text as a query's vector.")},
    "/v1/documents/": {"GET": Route(document, "reader", None, models.Stored, "A document, by its id.")},
    "/v1/documents": {
        "POST": Route(add, "writer", models.Add, models.Changed, "Add or update documents: all of them or none."),
        "DELETE": Route(delete, "writer", models.Delete, models.Changed, "Delete documents, by ids or metadata."),
    },
    "/v1/commit": {"POST": Route(commit, "writer", models.Commit, models.Done, "Make changes visible.")},
    "/v1/rollback": {
        "POST": Route(rollback, "writer", models.OfIndex, models.Done, "Forget the changes since the last commit.")
    },
    "/v1/merge": {"POST": Route(merge, "writer", models.Merge, models.Done, "Commit, then merge segments.")},
    "/v1/indexes": {"GET": Route(indexes, "reader", None, models.Indexes, "The indexes, and columns to filter by.")},
    "/v1/stats": {"GET": Route(stats, "reader", None, models.Stats, "An index in numbers.")},
    "/metrics": {"GET": Route(metrics, "reader", None, None, "Counters, for Prometheus.")},
    "/health": {"GET": Route(health, None, None, models.Health, "Whether the server is there.")},
    "/ready": {"GET": Route(ready, None, None, models.Health, "Whether it answers as it should.")},
    "/openapi.json": {"GET": Route(openapi, None, None, None, "This description.")},
    "/": {"GET": Route(page, None, None, None, "The page.")},
    "/page/": {"GET": Route(page, None, None, None, "The files of the page.")},
}
