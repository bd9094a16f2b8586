"""App: the server as a Starlette application, with access control, parsing and errors; routes.py has the handlers.

All resources are listed in tables. No path, header or body of a request ever becomes a file name.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

from starlette import routing
from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lsr.errors import LsrError, RerankerError
from lsr.index.index import Index
from lsr.index.serve.keys import digest
from lsr.index.serve.problems import Problem, problem_of, without_paths
from lsr.index.serve.responses import LARGE, length, problem, read
from lsr.index.serve.route import Route
from lsr.index.serve.routes import ROUTES
from lsr.index.serve.settings import ServeSettings, is_loopback
from lsr.index.serve.state import Serving

logger = logging.getLogger("lsr.serve")

_BODIES = 16  # request bodies in memory may add up to this many bodies of the maximum size
SECURITY_HEADERS = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("cache-control", "no-store"),
]


class _Rest(PathConvertor):
    """The rest of a path, including slashes and line breaks, which ids may contain."""

    regex = "(?s:.+)"


register_url_convertor("rest", _Rest())


class App(Starlette):
    """Serves indexes over HTTP.

    Attributes:
        serving: The indexes, threads and counters that handlers use.

    Args:
        indexes: {name: index}, at least one.
        settings: Limits and permissions.
    """

    def __init__(self, indexes: Mapping[str, Index], settings: ServeSettings) -> None:
        super().__init__(
            routes=[
                routing.Route(path.replace("}", ":rest}"), partial(self._answer, methods), methods=list(methods))
                for path, methods in ROUTES.items()
            ],
            middleware=[Middleware(lambda app: partial(self._counted, app))],
            exception_handlers={HTTPException: _nothing_there},
            lifespan=App._live,
        )
        self.router.redirect_slashes = False
        self.serving = Serving(indexes, settings)
        self._held = 0  # bytes of request bodies in memory
        # The longest path is first, because these paths are replaced in messages, and one may be a prefix of another.
        paths = {str(s.index.path): name for name, s in self.serving.indexes.items() if s.index.path.is_absolute()}
        paths |= {s.index.uri: name for name, s in self.serving.indexes.items() if s.index.uri}
        self._names = {path: paths[path] for path in sorted(paths, key=len, reverse=True)}

    # --- a request --------------------------------------------------------------------------------------------------

    async def _counted(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Count each request, and answer every exception with a problem document."""
        if scope["type"] != "http":
            return await app(scope, receive, send)
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["route"].path_format if "route" in scope else "unknown"
                self.serving.metrics.count(path, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await app(scope, receive, counted)
        except Exception as error:
            await problem(self._problem(error))(scope, receive, counted)

    async def _answer(self, methods: Mapping[str, Route], request: Request) -> Response:
        route = methods["GET" if request.method == "HEAD" else request.method]
        require_own_page(request, self.serving.settings)
        request.state.caller = self._require_key(request, route)
        if route.role == "writer" and not self.serving.settings.writable:
            raise Problem(403, "this server is read-only; lsr serve --writable allows changes")
        if route.asked is None:
            return await route.handler(self.serving, request, None)
        most = self.serving.settings.max_body
        with self._room_for(min(length(request, most), most)):
            asked = await read(request, route.asked, self.serving.settings)
            return await route.handler(self.serving, request, asked)

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        """Reserve memory for a body until the request is answered, so that many connections can't exhaust memory."""
        if size > LARGE and self._held + size > _BODIES * self.serving.settings.max_body:
            raise Problem(503, "too many large requests at once; try again later", retry_after=1, close=True)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    def _require_key(self, request: Request, route: Route) -> Hashable:
        """Identify the caller: by key, or by address if the server has no keys."""
        keys = self.serving.settings.keys
        if keys is None or route.role is None:
            return request.client and request.client.host
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip().encode("latin-1")
        role = keys.role(key) if scheme.lower() == "bearer" else None
        if role is None:
            how = 'send the header "Authorization: Bearer KEY" with one of its keys'
            raise Problem(401, f"this server needs a key: {how}", headers={"www-authenticate": "Bearer"})
        if route.role == "writer" and role != "writer":
            raise Problem(403, "this is a reader's key; changing documents takes a writer's key")
        return digest(key)

    def _problem(self, error: Exception) -> Problem:
        found = problem_of(error, self._names)
        if found is None:
            number = secrets.token_hex(4)
            logger.error("error %s", number, exc_info=error)
            found = Problem(500, f"an internal error, number {number} in the server's log")
        elif isinstance(error, RerankerError) or (isinstance(error, OSError) and found.status == 503):
            logger.error("%s", error)
        return found

    # --- start and stop ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        def load() -> None:  # in the background, because only explanations need the origins
            for served in self.serving.indexes.values():
                served.load_origins()

        beside = asyncio.gather(self._refresh(), asyncio.to_thread(load), return_exceptions=True)
        self.serving.ready = True
        yield
        self.serving.ready = False
        beside.cancel()
        with suppress(asyncio.CancelledError):
            await beside
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self.serving.searches.stop()
        for name, served in self.serving.indexes.items():
            self.serving.writes[name].stop()
            if served.index.pending:
                logger.warning("%s: uncommitted changes are discarded", name)
                served.index.rollback()
            try:
                served.index.close(wait=False)
            except LsrError as error:
                logger.warning("%s: segments couldn't be merged: %s", name, error)

    async def _refresh(self) -> None:
        """Check for commits of other processes until cancelled."""
        while True:
            await asyncio.sleep(self.serving.settings.refresh)
            for name, served in self.serving.indexes.items():
                if not served.stale:
                    continue
                try:
                    # Use the index's writer thread, so that a refresh can't replace a newer commit by an older one.
                    if await self.serving.writes[name].run(served.refresh):
                        logger.info("%s: %s documents now", name, len(served.index))
                    served.trouble = ""
                except (LsrError, OSError) as error:
                    told = without_paths(str(error), self._names)
                    if told != served.trouble:
                        logger.error("%s: can't be refreshed, the previous commit is still served: %s", name, error)
                    served.trouble = told
                except Problem:
                    pass  # too many changes are waiting; try again next time


def require_own_page(request: Request, settings: ServeSettings) -> None:
    """Block cross-site requests: a web page must not reach a server on this machine through the user's browser."""
    if settings.keys is not None:
        return  # another site's page doesn't know the key
    host = request.headers.get("host", "")
    if settings.on_loopback and host:  # against DNS rebinding
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if not is_loopback(name):
            raise Problem(421, f"this server only answers its own machine, not requests for {host[:100]!r}")
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and origin.partition("://")[2] != host
    if foreign and request.method not in ("GET", "HEAD"):
        raise Problem(403, "requests from other sites' pages are refused")


def _nothing_there(request: Request, error: Exception) -> Response:
    """Answer a request whose path is unknown, or whose method isn't allowed at its path."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        path = request.scope["route"].path_format
        return problem(Problem(405, f"{path} takes {allowed}", headers={"allow": allowed}))
    known = ", ".join(sorted(ROUTES))
    return problem(Problem(404, f"there is nothing at {request.scope['path'][:200]!r}; there are {known}"))
