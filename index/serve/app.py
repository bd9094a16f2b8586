"""App: the server as ASGI knows it. Who may, what is asked, what goes back; what it does is in routes.py.

Everything that a request may ask for is in a table; no path, header or body ever becomes the name of a file.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.resources import files

from lsr.errors import LsrError
from lsr.index.index import Index

from .http import LARGE, Answer, Receive, Request, Scope, Send, problem
from .metrics import Metrics
from .problems import Problem, problem_of
from .routes import ROUTES, Route
from .served import Served
from .settings import ServeSettings, is_loopback
from .work import Workers

logger = logging.getLogger("lsr.serve")

_WRITES_WAITING = 64
_BODIES = 16  # of the largest size, whose memory may be held at once
_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
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


class App:
    """Indexes over HTTP.

    Attributes:
        settings: What is allowed.
        indexes: By name; the first is the default.
        searches: Threads that search.
        writes: Of each index, the one thread that changes it.
        metrics: What was counted.
        page: {file name: (content, content type)} of the page.
        ready: Whether requests are answered as they should be.
        started: When, as of time.monotonic().

    Args:
        indexes: By name, at least one.
        settings: What is allowed.
    """

    def __init__(self, indexes: Mapping[str, Index], settings: ServeSettings) -> None:
        self.settings = settings
        self.indexes = {name: Served(name, index, settings) for name, index in indexes.items()}
        self.searches = Workers(settings.workers, settings.waiting, "search")
        self.writes = {name: Workers(1, _WRITES_WAITING, "write") for name in indexes}
        self.metrics, self.page = Metrics(), _page_files()
        self.ready, self.started = False, time.monotonic()
        self._held = 0  # bytes of bodies
        self._refreshing: asyncio.Task[None] | None = None
        # Longest first: paths are the names of index' folders within messages, and one may begin like another.
        paths = {str(s.index.path): name for name, s in self.indexes.items() if s.index.path.is_absolute()}
        paths |= {s.index.uri: name for name, s in self.indexes.items() if s.index.uri}
        self._names = {path: paths[path] for path in sorted(paths, key=len, reverse=True)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        began = time.perf_counter()
        request = Request(scope, receive)
        route, path = self._route(request)
        try:
            given = await self._answer(request, route)
        except Exception as error:
            given = problem(self._problem(error))
        headers = [
            (b"content-type", given.kind.encode()),
            (b"content-length", str(len(given.body)).encode()),
            *((name.encode(), value.encode("latin-1", "replace")) for name, value in given.headers),
        ]
        self.metrics.count(path, given.status, time.perf_counter() - began)
        await send({"type": "http.response.start", "status": given.status, "headers": headers})
        await send({"type": "http.response.body", "body": given.body})

    # --- a request --------------------------------------------------------------------------------------------------

    def _route(self, request: Request) -> tuple[Route | Problem, str]:
        """What a request asks for, or what is wrong with that; and the path as the table has it."""
        methods, path = ROUTES.get(request.path), request.path
        if methods is None:
            # An id may have slashes of its own.
            path = next(
                (one for one in ROUTES if len(one) > 1 and one.endswith("/") and request.path.startswith(one)), ""
            )
            request.rest = request.path[len(path) :]
            methods = ROUTES.get(path) if path and request.rest else None
        if methods is None:
            known = ", ".join(sorted(ROUTES))
            return Problem(404, f"there is nothing at {request.path[:200]!r}; there are {known}"), "unknown"
        route = methods.get(request.method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            return Problem(405, f"{path} takes {allowed}", headers={"allow": allowed}), path
        return route, path

    async def _answer(self, request: Request, route: Route | Problem) -> Answer:
        if isinstance(route, Problem):
            raise route
        self._require_own_page(request)
        self._require_key(request, route)
        if route.role == "writer" and not self.settings.writable:
            raise Problem(403, "this server is read-only; lsr serve --writable lets documents be changed")
        if route.asked is None:
            return await route.handler(self, request, None)
        most = self.settings.max_body
        with self._room_for(min(request.length(most), most)):
            asked = await request.asked(route.asked, most, self.settings.patience)
            return await route.handler(self, request, asked)

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        """Memory for a body until it is answered: what all connections together could send is too much."""
        if size > LARGE and self._held + size > _BODIES * self.settings.max_body:
            raise Problem(503, "too many large requests at once; come again", retry_after=1, close=True)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    def _require_own_page(self, request: Request) -> None:
        """Refuse pages of other sites, whose scripts a browser on this machine would let knock here."""
        if self.settings.keys is not None:
            return  # which such a script doesn't have
        host = request.headers.get(b"host", b"").decode("latin-1")
        if self.settings.on_loopback and host:  # a name of somebody else's that leads here is no name of ours
            name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
            if not is_loopback(name):
                raise Problem(421, f"this server is for its own machine, not for {host[:100]!r}")
        origin, site = request.headers.get(b"origin"), request.headers.get(b"sec-fetch-site")
        if site is not None:
            foreign = site not in (b"same-origin", b"none")
        else:
            foreign = origin is not None and origin.decode("latin-1").partition("://")[2] != host
        if foreign and request.method != "GET":
            raise Problem(403, "requests of other sites' pages are refused")

    def _require_key(self, request: Request, route: Route) -> None:
        keys = self.settings.keys
        if keys is None or route.role is None:
            return
        scheme, _, key = request.headers.get(b"authorization", b"").partition(b" ")
        role = keys.role(key.strip()) if scheme.lower() == b"bearer" else None
        if role is None:
            how = 'send the header "Authorization: Bearer KEY" with one of its keys'
            raise Problem(401, f"this server needs a key: {how}", headers={"www-authenticate": "Bearer"})
        if route.role == "writer" and role != "writer":
            raise Problem(403, "this is a reader's key; changing documents takes a writer's")

    def _problem(self, error: Exception) -> Problem:
        found = problem_of(error, self._names)
        if found is None:
            number = secrets.token_hex(4)
            logger.error("error %s", number, exc_info=error)
            found = Problem(500, f"an error of the server's own, number {number} in its log")
        return found

    # --- the server's life ------------------------------------------------------------------------------------------

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._refreshing = asyncio.create_task(self._refresh())
        self.ready = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.ready = False
        self._refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await self._refreshing
        await asyncio.to_thread(self._stop)
        await send({"type": "lifespan.shutdown.complete"})

    def _stop(self) -> None:
        self.searches.stop()
        for name, served in self.indexes.items():
            self.writes[name].stop()
            if served.index.pending:
                logger.warning("%s: changes that were never committed are forgotten", name)
            try:
                served.index.close(wait=False)
            except LsrError as error:
                logger.warning("%s: segments couldn't be merged: %s", name, error)

    async def _refresh(self) -> None:
        """Look for commits of other processes, for ever."""
        while True:
            await asyncio.sleep(self.settings.refresh)
            for name, served in self.indexes.items():
                if not served.stale:
                    continue
                try:
                    # In the thread that changes it: a commit of ours never loses to an older one.
                    if await self.writes[name].run(served.refresh):
                        logger.info("%s: %s documents now", name, len(served.index))
                    served.trouble = ""
                except (LsrError, OSError) as error:
                    if str(error) != served.trouble:
                        logger.error("%s: can't be refreshed, what was there is still served: %s", name, error)
                    served.trouble = str(error)
                except Problem:
                    pass  # many changes wait; the next look will do


def _page_files() -> dict[str, tuple[bytes, str]]:
    """The files of the page; what isn't in this list can't be asked for."""
    folder = files(__package__) / "page"
    if not folder.is_dir():
        return {}
    return {
        file.name: (file.read_bytes(), _KINDS[kind])
        for file in folder.iterdir()
        if (kind := file.name.rpartition(".")[2]) in _KINDS and file.is_file()
    }
