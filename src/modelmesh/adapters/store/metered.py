"""A store whose answers are timed and whose errors are counted."""

import time
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from modelmesh.machines.meter import Meter
from modelmesh.ports import Change, KeyValue, Listing, Store, StoreError, Transaction, TransactionResult
from modelmesh.values.ids import Revision

Answer = TypeVar("Answer")


class MeteredStore:
    """Passes every operation on (`ports.Store`). A watch is counted only by how it ends."""

    def __init__(self, store: Store, meter: Meter) -> None:
        self._store = store
        self._meter = meter

    async def _timed(self, operation: str, asked: Awaitable[Answer]) -> Answer:
        began = time.perf_counter()
        try:
            answer = await asked
        except StoreError as error:
            self._failed(operation, error)
            raise
        self._meter.observe("modelmesh_store_milliseconds", (time.perf_counter() - began) * 1000, operation)
        return answer

    def _failed(self, operation: str, error: StoreError) -> None:
        self._meter.count("modelmesh_store_errors", operation, type(error).__name__.removesuffix("Error"))

    async def get(self, key: str) -> KeyValue | None:
        """Pass on."""
        return await self._timed("get", self._store.get(key))

    async def range(
        self, prefix: str, *, start_after: str = "", limit: int = 0, revision: Revision | None = None
    ) -> Listing:
        """Pass on."""
        listing = self._store.range(prefix, start_after=start_after, limit=limit, revision=revision)
        return await self._timed("range", listing)

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Pass on."""
        return await self._timed("transact", self._store.transact(transaction))

    async def watch(self, prefix: str, *, start: Revision) -> AsyncIterator[tuple[Change, ...]]:
        """Pass on."""
        try:
            async for changes in self._store.watch(prefix, start=start):
                yield changes
        except StoreError as error:
            self._failed("watch", error)
            raise

    async def grant(self, ttl_ms: int) -> int:
        """Pass on."""
        return await self._timed("grant", self._store.grant(ttl_ms))

    async def keep_alive(self, lease: int) -> None:
        """Pass on."""
        await self._timed("keep_alive", self._store.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        """Pass on."""
        await self._timed("revoke", self._store.revoke(lease))

    async def close(self) -> None:
        """Pass on."""
        await self._store.close()
