"""AsyncIndex: an index for asyncio; calls run in threads, and searching releases the GIL.

index = AsyncIndex(Index.open("idx"))
hits = await index.search("a question", k=10)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Self, TypeVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.index.index import Index
from lsr.index.search.duplicates import Duplicate
from lsr.index.search.explain import Explanation
from lsr.index.search.hits import Hits
from lsr.index.search.query_encoder import Query
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions
from lsr.index.search.words import Suggestion
from lsr.index.segment.filters import Filter, Where
from lsr.index.write.builder import Source
from lsr.index.write.update_batch import Change
from lsr.io.document import Document
from lsr.sparse import SparseMatrix

T = TypeVar("T")
_AT_ONCE = 256  # documents read per call


class AsyncIndex:
    """An `Index` whose slow calls are coroutines, with the same arguments, results and errors.

    Changes run one at a time, in the order in which they are awaited.

    Attributes:
        index: The underlying index, for the calls that this class lacks.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._changing = asyncio.Lock()

    async def search(
        self,
        query: Query,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """See `Index.search`."""
        return await asyncio.to_thread(self.index.search, query, k, where=where, dense=dense, **settings)

    async def search_batch(
        self,
        queries: Iterable[str | Mapping[str, Any]] | SparseMatrix,
        k: int = 10,
        *,
        threads: int = 0,
        where: Where | Filter | None = None,
        dense: Sequence[ArrayLike] | NDArray[np.float32] | None = None,
        device: str | None = None,
        **settings: Unpack[SearchOptions],
    ) -> list[Hits]:
        """See `Index.search_batch`."""
        return await asyncio.to_thread(
            self.index.search_batch, queries, k, threads=threads, where=where, dense=dense, device=device, **settings
        )

    async def similar(
        self,
        doc_id: str | int,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """See `Index.similar`."""
        return await asyncio.to_thread(self.index.similar, doc_id, k, where=where, **settings)

    async def explain(
        self,
        query: Query,
        doc_id: str | int,
        *,
        origins: bool = True,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[RankingOptions],
    ) -> Explanation:
        """See `Index.explain`."""
        return await asyncio.to_thread(
            self.index.explain, query, doc_id, origins=origins, where=where, dense=dense, **settings
        )

    async def explain_plan(
        self, query: Query, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """See `Index.explain_plan`."""
        return await asyncio.to_thread(self.index.explain_plan, query, k, where=where, **settings)

    async def suggest(self, text: str, limit: int = 10) -> list[Suggestion]:
        """See `Index.suggest`."""
        return await asyncio.to_thread(self.index.suggest, text, limit)

    async def corrections(self, text: str, limit: int = 3) -> dict[str, list[str]]:
        """See `Index.corrections`."""
        return await asyncio.to_thread(self.index.corrections, text, limit)

    async def did_you_mean(self, text: str) -> str | None:
        """See `Index.did_you_mean`."""
        return await asyncio.to_thread(self.index.did_you_mean, text)

    async def duplicates(self, threshold: float = 0.9, *, where: Where | Filter | None = None) -> list[Duplicate]:
        """See `Index.duplicates`."""
        return await asyncio.to_thread(partial(self.index.duplicates, threshold, where=where))

    async def get(self, doc_id: str | int) -> Document | None:
        """See `Index.get`."""
        return await asyncio.to_thread(self.index.get, doc_id)

    async def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """See `Index.get_many`."""
        return await asyncio.to_thread(self.index.get_many, doc_ids)

    async def stored(self, where: Where | Filter | None = None) -> AsyncIterator[Document]:
        """See `Index.stored`; use it with `async for`."""
        documents = await asyncio.to_thread(self.index.stored, where)
        while some := await asyncio.to_thread(lambda: list(islice(documents, _AT_ONCE))):
            for document in some:
                yield document

    def __aiter__(self) -> AsyncIterator[Document]:
        """Iterate over all documents (or passages) in the order in which they were added."""
        return self.stored()

    async def count(self, where: Where | Filter | None = None) -> int:
        """See `Index.count`."""
        return await asyncio.to_thread(self.index.count, where)

    async def add(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """See `Index.add`."""
        return await self._change(partial(self.index.add, source, ids=ids, skip_bad=skip_bad))

    async def upsert(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """See `Index.upsert`."""
        return await self._change(partial(self.index.upsert, source, ids=ids, skip_bad=skip_bad))

    async def update(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """See `Index.update`."""
        return await self._change(partial(self.index.update, source, ids=ids, skip_bad=skip_bad))

    async def delete(self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None) -> Change:
        """See `Index.delete`."""
        return await self._change(partial(self.index.delete, ids, where=where))

    async def commit(self, *, merge: bool = True) -> None:
        """See `Index.commit`."""
        await self._change(partial(self.index.commit, merge=merge))

    async def rollback(self) -> None:
        """See `Index.rollback`."""
        await self._change(self.index.rollback)

    async def merge(self, *, everything: bool = True, background: bool = False) -> bool:
        """See `Index.merge`."""
        return await self._change(partial(self.index.merge, everything=everything, background=background))

    async def close(self, *, wait: bool = True) -> None:
        """See `Index.close`."""
        await self._change(partial(self.index.close, wait=wait))

    async def __aenter__(self) -> Self:
        """Enter a block that commits on a clean exit, rolls back on an exception, and closes the index either way."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._change(partial(self.index.__exit__, kind))

    async def refresh(self) -> bool:
        """See `Index.refresh`."""
        return await asyncio.to_thread(self.index.refresh)

    async def _change(self, call: Callable[[], T]) -> T:
        async with self._changing:
            return await asyncio.to_thread(call)
