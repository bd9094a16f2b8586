"""An index for asyncio: every call runs in a thread, and searching lets go of the GIL.

index = AsyncIndex(Index.open("idx"))
hits = await index.search("a question", k=10)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from lsr.index.index import Index
from lsr.index.search.hits import Hit
from lsr.index.write.update_batch import Change

T = TypeVar("T")


class AsyncIndex:
    """The calls of an index that take time, to be awaited; arguments, results and errors are those of `Index`.

    Changes are made one after the other, in the order in which they were awaited.

    Attributes:
        index: The index itself, for everything else.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._changing = asyncio.Lock()

    async def search(self, *args: Any, **settings: Any) -> list[Hit]:
        """See `Index.search`."""
        return await asyncio.to_thread(self.index.search, *args, **settings)

    async def search_batch(self, *args: Any, **settings: Any) -> list[list[Hit]]:
        """See `Index.search_batch`."""
        return await asyncio.to_thread(self.index.search_batch, *args, **settings)

    async def add(self, *args: Any, **settings: Any) -> Change:
        """See `Index.add`."""
        return await self._change(self.index.add, *args, **settings)

    async def update(self, *args: Any, **settings: Any) -> Change:
        """See `Index.update`."""
        return await self._change(self.index.update, *args, **settings)

    async def delete(self, *args: Any, **settings: Any) -> Change:
        """See `Index.delete`."""
        return await self._change(self.index.delete, *args, **settings)

    async def commit(self, **settings: Any) -> None:
        """See `Index.commit`."""
        await self._change(self.index.commit, **settings)

    async def merge(self, **settings: Any) -> bool:
        """See `Index.merge`."""
        return await self._change(self.index.merge, **settings)

    async def close(self, **settings: Any) -> None:
        """See `Index.close`."""
        await self._change(self.index.close, **settings)

    async def refresh(self) -> bool:
        """See `Index.refresh`."""
        return await asyncio.to_thread(self.index.refresh)

    async def _change(self, call: Callable[..., T], *args: Any, **settings: Any) -> T:
        async with self._changing:
            return await asyncio.to_thread(call, *args, **settings)
