"""A store that fails on purpose, around one that does not.

Give each simulated instance a `FaultyStore` of its own around one shared `SqliteStore(":memory:")`: then an
instance can be cut off alone, or all of them together.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.ports import (
    Change,
    Clock,
    CompactedError,
    KeyValue,
    LeaseNotFoundError,
    Listing,
    Store,
    StoreError,
    StoreUnavailableError,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import Revision

T = TypeVar("T")

_Batch = tuple[Change, ...]


class FaultyStore:
    """A `modelmesh.ports.Store` with knobs. All time is the clock's; nothing is random.

    Set `latency_ms` and `watch_lag_ms` at any time; a changed lag holds for what has not been delivered yet.
    """

    def __init__(self, store: Store, clock: Clock, *, timeout_ms: int = 3_500) -> None:
        """Without faults until told; `timeout_ms` is how long a call waits for a store that does not answer."""
        self._store = store
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._paused_at_ms: int | None = None
        self._compacted = 0
        self._emptied = 0
        self._leases: dict[int, None] = {}
        self._watches: dict[int, _Watch] = {}
        self._opened = 0
        self.latency_ms = 0
        """Before each call is performed."""
        self.watch_lag_ms = 0
        """Between a change and its delivery."""
        self.loses_answers = False
        """Calls are performed, and then fail as if they were not: the connection broke on the way back."""

    # --- faults ---

    @property
    def paused(self) -> bool:
        """Whether the store is silent."""
        return self._paused_at_ms is not None

    def pause(self) -> None:
        """From now on calls fail after the time-out and do nothing; watches stay silent, and fail after it too."""
        if self._paused_at_ms is None:
            self._paused_at_ms = self._clock.monotonic_ms()
        self._wake_all()

    def resume(self) -> None:
        """Answer again."""
        self._paused_at_ms = None
        self._wake_all()

    def break_watches(self) -> None:
        """Open watches lose their connection; what they had not delivered must be watched again."""
        for watch in self._watches.values():
            watch.broken = True
            watch.wake()

    async def compact(self) -> None:
        """What happened until now can no longer be watched or listed. Open watches are past it."""
        emptied, revision = self._emptied, (await self._store.range("", limit=1)).revision
        if emptied == self._emptied:
            self._compacted = revision

    async def expire_leases(self) -> None:
        """All leases granted through this wrapper run out, oldest first."""
        leases, self._leases = self._leases, {}
        for lease in leases:
            await self._store.revoke(lease)

    async def keep_leases(self) -> None:
        """Renew what was granted through this wrapper, as an etcd that restarts does for the time it was away."""
        for lease in tuple(self._leases):
            with suppress(LeaseNotFoundError):
                await self._store.keep_alive(lease)

    async def empty(self) -> None:
        """The whole store, also for others around it, is replaced by an empty one: revision 1, silent old watches."""
        if not isinstance(self._store, SqliteStore):
            raise TypeError("only a SqliteStore can be emptied; wipe a real etcd with FaultyEtcd.wipe")
        await self._store.empty()
        self.emptied()

    def emptied(self) -> None:
        """The store inside was emptied by another client."""
        self._compacted = 0
        self._emptied += 1
        self._leases.clear()

    # --- the port ---

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        return await self._call(lambda: self._store.get(key))

    async def range(
        self, prefix: str, *, start_after: str = "", limit: int = 0, revision: Revision | None = None
    ) -> Listing:
        """List keys under a prefix."""
        return await self._call(lambda: self._range(prefix, start_after, limit, revision))

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Run a transaction."""
        return await self._call(lambda: self._store.transact(transaction))

    async def watch(self, prefix: str, *, start: Revision) -> AsyncIterator[_Batch]:
        """Changes from a revision on, late by `watch_lag_ms`."""
        await self._call(lambda: asyncio.sleep(0))
        if start <= self._compacted:
            raise CompactedError(f"revision {start} is no longer kept; list again")
        watch = _Watch(self._clock)
        self._opened += 1
        key = self._opened
        self._watches[key] = watch
        pump = asyncio.ensure_future(watch.pump(self._store.watch(prefix, start=start)))
        try:
            while True:
                yield await self._next(watch)
        finally:
            del self._watches[key]
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def grant(self, ttl_ms: int) -> int:
        """Create a lease."""
        return await self._call(lambda: self._grant(ttl_ms))

    async def keep_alive(self, lease: int) -> None:
        """Renew a lease."""
        await self._call(lambda: self._store.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        """End a lease."""
        self._leases.pop(lease, None)
        await self._call(lambda: self._store.revoke(lease))

    async def close(self) -> None:
        """End the watches; the store inside belongs to whoever made it."""
        self.break_watches()

    # --- inside ---

    async def _range(self, prefix: str, start_after: str, limit: int, revision: Revision | None) -> Listing:
        if revision is not None and revision < self._compacted:
            raise CompactedError(f"revision {revision} is no longer kept; list again")
        return await self._store.range(prefix, start_after=start_after, limit=limit, revision=revision)

    async def _grant(self, ttl_ms: int) -> int:
        lease = await self._store.grant(ttl_ms)
        self._leases[lease] = None
        return lease

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        await self._clock.sleep(self.latency_ms)
        if self._paused_at_ms is not None:
            await self._clock.sleep(self._timeout_ms)
            raise StoreUnavailableError(f"the store did not answer within {self._timeout_ms} ms")
        answer = await work()
        if self.loses_answers:
            await self._clock.sleep(self._timeout_ms)
            raise StoreUnavailableError("the connection broke before the answer came")
        return answer

    async def _next(self, watch: "_Watch") -> _Batch:
        while True:
            now_ms = self._clock.monotonic_ms()
            if watch.broken:
                raise StoreUnavailableError("the connection of the watch broke")
            if self._paused_at_ms is not None:
                wait_ms: int | None = self._paused_at_ms + self._timeout_ms - now_ms
                if wait_ms is not None and wait_ms <= 0:
                    raise StoreUnavailableError("the store is silent")
            elif watch.arrived:
                at_ms, item = watch.arrived[0]
                wait_ms = at_ms + self.watch_lag_ms - now_ms
                if wait_ms <= 0:
                    watch.arrived.popleft()
                    if isinstance(item, StoreError):
                        raise item
                    return item
            else:
                wait_ms = None
            await watch.woken(wait_ms)

    def _wake_all(self) -> None:
        for watch in self._watches.values():
            watch.wake()


class _Watch:
    """What one watch has received and not yet delivered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiter: asyncio.Future[None] | None = None
        self.arrived: deque[tuple[int, _Batch | StoreError]] = deque()
        """With the time of arrival; an error is the last."""
        self.broken = False

    async def pump(self, batches: AsyncIterator[_Batch]) -> None:
        """Receive until the watch inside ends."""
        try:
            async for batch in batches:
                self._arrive(batch)
        except StoreError as err:
            self._arrive(err)

    def _arrive(self, item: _Batch | StoreError) -> None:
        self.arrived.append((self._clock.monotonic_ms(), item))
        self.wake()

    def wake(self) -> None:
        """Something changed: look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def woken(self, within_ms: int | None) -> None:
        """Wait until woken, or for a time."""
        self._waiter = asyncio.get_running_loop().create_future()
        if within_ms is None:
            await self._waiter
            return
        sleeping = asyncio.ensure_future(self._clock.sleep(within_ms))
        try:
            await asyncio.wait((sleeping, self._waiter), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
