"""App: the server as a Starlette application. Who may, what is asked, what goes back; what it does is in routes.py.

Everything that a request may ask for is in a table; no path, header or body ever becomes the name of a file.
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

_BODIES = 16  # of the largest size, whose memory may be held at once
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
    """What follows in a path, slashes and ends of lines and all: ids may have them."""

    regex = "(?s:.+)"


register_url_convertor("rest", _Rest())


class App(Starlette):
    """Indexes over HTTP.

    Attributes:
        serving: What the handlers work with.

    Args:
        indexes: By name, at least one.
        settings: What is allowed.
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
        self._held = 0  # bytes of bodies
        # Longest first: paths are the names of index' folders within messages, and one may begin like another.
        paths = {str(s.index.path): name for name, s in self.serving.indexes.items() if s.index.path.is_absolute()}
        paths |= {s.index.uri: name for name, s in self.serving.indexes.items() if s.index.uri}
        self._names = {path: paths[path] for path in sorted(paths, key=len, reverse=True)}

    # --- a request --------------------------------------------------------------------------------------------------

    async def _counted(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Around everything: requests are counted, and whatever goes wrong is answered with a problem document."""
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
        self._require_own_page(request)
        request.state.caller = self._require_key(request, route)
        if route.role == "writer" and not self.serving.settings.writable:
            raise Problem(403, "this server is read-only; lsr serve --writable lets documents be changed")
        if route.asked is None:
            return await route.handler(self.serving, request, None)
        most = self.serving.settings.max_body
        with self._room_for(min(length(request, most), most)):
            asked = await read(request, route.asked, self.serving.settings)
            return await route.handler(self.serving, request, asked)

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        """Memory for a body until it is answered: what all connections together could send is too much."""
        if size > LARGE and self._held + size > _BODIES * self.serving.settings.max_body:
            raise Problem(503, "too many large requests at once; come again", retry_after=1, close=True)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    def _require_own_page(self, request: Request) -> None:
        """Refuse pages of other sites, whose scripts a browser on this machine would let knock here."""
        if self.serving.settings.keys is not None:
            return  # which such a script doesn't have
        host = request.headers.get("host", "")
        if self.serving.settings.on_loopback and host:  # a name of somebody else's that leads here is no name of ours
            name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
            if not is_loopback(name):
                raise Problem(421, f"this server is for its own machine, not for {host[:100]!r}")
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if site is not None:
            foreign = site not in ("same-origin", "none")
        else:
            foreign = origin is not None and origin.partition("://")[2] != host
        if foreign and request.method not in ("GET", "HEAD"):
            raise Problem(403, "requests of other sites' pages are refused")

    def _require_key(self, request: Request, route: Route) -> Hashable:
        """Who asks: a key, or an address where there are none."""
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
            raise Problem(403, "this is a reader's key; changing documents takes a writer's")
        return digest(key)

    def _problem(self, error: Exception) -> Problem:
        found = problem_of(error, self._names)
        if found is None:
            number = secrets.token_hex(4)
            logger.error("error %s", number, exc_info=error)
            found = Problem(500, f"an error of the server's own, number {number} in its log")
        elif isinstance(error, RerankerError) or (isinstance(error, OSError) and found.status == 503):
            logger.error("%s", error)
        return found

    # --- the server's life ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        def load() -> None:  # what a first explanation would have to wait for; searches need none of it
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
                logger.warning("%s: changes that were never committed are forgotten", name)
                served.index.rollback()
            try:
                served.index.close(wait=False)
            except LsrError as error:
                logger.warning("%s: segments couldn't be merged: %s", name, error)

    async def _refresh(self) -> None:
        """Look for commits of other processes, for ever."""
        while True:
            await asyncio.sleep(self.serving.settings.refresh)
            for name, served in self.serving.indexes.items():
                if not served.stale:
                    continue
                try:
                    # In the thread that changes it: a commit of ours never loses to an older one.
                    if await self.serving.writes[name].run(served.refresh):
                        logger.info("%s: %s documents now", name, len(served.index))
                    served.trouble = ""
                except (LsrError, OSError) as error:
                    told = without_paths(str(error), self._names)
                    if told != served.trouble:
                        logger.error("%s: can't be refreshed, what was there is still served: %s", name, error)
                    served.trouble = told
                except Problem:
                    pass  # many changes wait; the next look will do


def _nothing_there(request: Request, error: Exception) -> Response:
    """A path, or a method of one, that the table doesn't have."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        path = request.scope["route"].path_format
        return problem(Problem(405, f"{path} takes {allowed}", headers={"allow": allowed}))
    known = ", ".join(sorted(ROUTES))
    return problem(Problem(404, f"there is nothing at {request.scope['path'][:200]!r}; there are {known}"))
