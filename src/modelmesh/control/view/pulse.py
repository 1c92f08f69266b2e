"""Whether the store is available. Known from its latest answer, and asked for where that is too long ago.

A watch can be silent for hours because nothing happens, so its silence proves nothing. A caller that waits for a
lost store finds out only after all time-outs. Cold loads ask here first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from modelmesh.ports import Change, Clock, KeyValue, Listing, Store, StoreError, Transaction, TransactionResult
from modelmesh.values.ids import Revision

FRESH_MS = 1_000
"""An answer this young is believed without asking."""

ASK_MS = 700
"""How long an answer may take when asked for; callers of cold models get an error within a second."""

Answer = TypeVar("Answer")


class Pulse:
    """A store (`ports.Store`) that remembers when it last answered."""

    def __init__(self, store: Store, clock: Clock, *, probe: str) -> None:
        """`probe`: a key that is read to check that the store answers."""
        self._store = store
        self._clock = clock
        self._probe = probe
        self._asking: asyncio.Task[bool] | None = None
        self.answered_ms = clock.monotonic_ms()
        """When the store last answered, monotonic."""

    async def there(self) -> bool:
        """Whether the store answers, at most `ASK_MS` from now."""
        if self._clock.monotonic_ms() - self.answered_ms < FRESH_MS:
            return True
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask(), name="ask the store for an answer")
            self._asking.add_done_callback(lambda _: setattr(self, "_asking", None))
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(ASK_MS / 1000):
                await self.get(self._probe)
        except (StoreError, TimeoutError):
            return False
        return True

    async def _answered(self, asked: Awaitable[Answer]) -> Answer:
        answer = await asked
        self.answered_ms = self._clock.monotonic_ms()
        return answer

    async def get(self, key: str) -> KeyValue | None:
        """Pass on."""
        return await self._answered(self._store.get(key))

    async def range(
        self, prefix: str, *, start_after: str = "", limit: int = 0, revision: Revision | None = None
    ) -> Listing:
        """Pass on."""
        return await self._answered(self._store.range(prefix, start_after=start_after, limit=limit, revision=revision))

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Pass on."""
        return await self._answered(self._store.transact(transaction))

    async def watch(self, prefix: str, *, start: Revision) -> AsyncIterator[tuple[Change, ...]]:
        """Pass on."""
        async for changes in self._store.watch(prefix, start=start):
            self.answered_ms = self._clock.monotonic_ms()
            yield changes

    async def grant(self, ttl_ms: int) -> int:
        """Pass on."""
        return await self._answered(self._store.grant(ttl_ms))

    async def keep_alive(self, lease: int) -> None:
        """Pass on."""
        await self._answered(self._store.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        """Pass on."""
        await self._answered(self._store.revoke(lease))

    async def close(self) -> None:
        """Pass on."""
        await self._store.close()
