"""A FastAPI application around an index: search with filters, explanations, adding documents.

pip install fastapi uvicorn
LSR_INDEX=idx uvicorn --app-dir examples fastapi_app:app
"""

import os
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from pydantic import BaseModel

from lsr import Index, LsrError
from lsr.index import AsyncIndex


@asynccontextmanager
async def lifespan(app):
    """Open the index when the server starts, close it when it stops."""
    app.state.index = AsyncIndex(Index.open(os.environ["LSR_INDEX"]))
    yield
    await app.state.index.close()


app = FastAPI(title="Search", lifespan=lifespan)


class NewDocument(BaseModel):
    """A document to add."""

    id: str
    text: str
    title: str = ""
    year: int | None = None


class Found(BaseModel):
    """A hit."""

    id: str
    score: float
    title: str
    highlight: str
    because_of: str


@app.get("/search")
async def search(
    request: Request, q: str, k: Annotated[int, Query(ge=1, le=100)] = 10, since: int | None = None
) -> list[Found]:
    """Return the k best documents, optionally only documents from a given year on."""
    where = None if since is None else {"year": {">=": since}}
    try:
        hits = await request.app.state.index.search(q, k, where=where)
    except LsrError as error:
        raise HTTPException(422, str(error)) from None
    return [
        Found(
            id=hit.id,
            score=hit.score,
            title=hit.title,
            highlight=hit.highlight(160, html=True),
            because_of=hit.explain(origins=False).words(3),
        )
        for hit in hits
    ]


@app.put("/documents")
async def put(request: Request, documents: list[NewDocument]) -> int:
    """Add or replace documents, and return the number of documents in the index."""
    index = request.app.state.index
    rows = [{"_id": d.id, **d.model_dump(exclude={"id"}, exclude_none=True)} for d in documents]
    try:
        await index.upsert(rows)
        await index.commit()
    except LsrError as error:
        raise HTTPException(422, str(error)) from None
    return len(index.index)
