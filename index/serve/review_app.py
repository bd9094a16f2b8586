"""ReviewApp: a page to accept and reject the documents of a review, for `lsr review --page`.

GET  /v1/review         returns the document to read next, and the progress of the review
POST /v1/review         {"id": "d7", "relevant": true} records a new or changed answer; returns the same as GET
POST /v1/review/back    {"id": "d7"} returns the document that was answered before this one
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lsr.errors import LsrError
from lsr.index.serve.app import require_own_page
from lsr.index.serve.problems import Problem, problem_of
from lsr.index.serve.responses import Answer, problem, read
from lsr.index.serve.schemas import Asked
from lsr.index.serve.settings import ServeSettings
from lsr.index.serve.state import page_files
from lsr.io.document import Document
from lsr.review import Review

_SHARED = ("page.css", "api.js", "dom.js")  # files of the search page


class Judgment(Asked):
    """An answer: whether a document is relevant."""

    id: str
    relevant: bool


class Place(Asked):
    """The document to go back from; None to go back from the end of the review."""

    id: str | None


class ReviewApp(Starlette):
    """Serves a review. Every answer is written to the review's file before the next document is shown.

    Args:
        going: The review.
        state: The review's file.
        document: Returns the document with an id; None if it isn't stored.
        why: Says why the review is complete.
        settings: Limits, and an address that other machines can't reach.

    Raises:
        ValueError: Other machines could reach the address.
    """

    def __init__(
        self,
        going: Review,
        state: Path,
        document: Callable[[str], Document | None],
        why: Callable[[Review], str],
        settings: ServeSettings,
    ) -> None:
        if not settings.on_loopback:
            raise ValueError(f"a review is served to this machine only, not at {settings.host}")
        self.going, self._state, self._document, self._why = going, state, document, why
        self._settings, self._lock = settings, threading.Lock()
        self._numbers = {doc_id: number for number, doc_id in enumerate(going.ids)}
        self._batch: list[int] = []  # documents of the current batch without an answer
        shared = page_files("page")
        self._files = page_files("review_page") | {name: shared[name] for name in _SHARED}
        super().__init__(
            routes=[
                Route("/", self._page),
                Route("/page/{file}", self._page),
                Route("/v1/review", self._present),
                Route("/v1/review", self._answered, methods=["POST"]),
                Route("/v1/review/back", self._before, methods=["POST"]),
            ],
            exception_handlers={Problem: _refused, LsrError: _refused, OSError: _refused},
        )

    async def _page(self, request: Request) -> Response:
        require_own_page(request, self._settings)
        name = request.path_params.get("file", "review.html")
        if name not in self._files:
            raise Problem(404, f"the page has no file {name[:100]!r}")
        content, kind = self._files[name]
        return Response(content, media_type=kind)

    async def _present(self, request: Request) -> Response:
        require_own_page(request, self._settings)
        return await self._told(self.next)

    async def _answered(self, request: Request) -> Response:
        require_own_page(request, self._settings)
        asked = await read(request, Judgment, self._settings)
        return await self._told(lambda: self.judge(asked.id, asked.relevant))

    async def _before(self, request: Request) -> Response:
        require_own_page(request, self._settings)
        asked = await read(request, Place, self._settings)
        return await self._told(lambda: self.back(asked.id))

    async def _told(self, call: Callable[[], dict[str, Any]]) -> Response:
        def locked() -> dict[str, Any]:
            with self._lock:
                return call()

        return Answer(await asyncio.to_thread(locked))

    def next(self) -> dict[str, Any]:
        """Return the document to read next, if the review isn't complete."""
        if not self._batch and not self.going.stops():
            self._batch = self.going.batch()
        return self._shown(self._batch[0] if self._batch else None)

    def judge(self, doc_id: str, relevant: bool) -> dict[str, Any]:
        """Record an answer, and return the document to read next.

        Raises:
            Problem: The document is neither the next one nor an earlier one.
        """
        self.next()  # the page may be older than this server
        number = self._numbers.get(doc_id)
        if number is None or (number not in self._batch[:1] and number not in self.going.judged):
            raise Problem(409, f"{doc_id[:100]!r} isn't the next document; reload the page")
        self.going.judge(number, relevant)
        self._batch = [other for other in self._batch if other != number]
        if self.going.settings.budget and len(self.going.judged) >= self.going.settings.budget:
            self._batch = []
        self.going.save(self._state)
        return self.next()

    def back(self, doc_id: str | None) -> dict[str, Any]:
        """Return the document that was answered before a given one.

        Raises:
            Problem: No document was answered before the given one.
        """
        answered = list(self.going.judged)
        number = self._numbers.get(doc_id) if doc_id is not None else None
        place = answered.index(number) if number in answered else len(answered)
        if not place:
            raise Problem(409, "this is the first document")
        return self._shown(answered[place - 1])

    def _shown(self, number: int | None) -> dict[str, Any]:
        going, one = self.going, None
        if number is not None:
            doc_id = going.ids[number]
            document = self._document(doc_id)
            text = document.text if document else ""
            one = {"id": doc_id, "title": document.title if document else "", "text": text}
        return {
            "document": one,
            "answer": going.judged.get(number) if number is not None else None,
            "back": bool(going.judged) and number != next(iter(going.judged)),
            "read": len(going.judged),
            "found": going.found,
            "total": len(going.ids),
            "why": self._why(going) if one is None else "",
        }


async def _refused(request: Request, error: Exception) -> Response:
    """Answer an exception with a problem document."""
    return problem(error if isinstance(error, Problem) else problem_of(error, {}) or Problem(500, "an internal error"))
