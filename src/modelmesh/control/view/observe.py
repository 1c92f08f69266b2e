"""Watches the store and passes its changes to every feed.

One watch over the whole prefix feeds everything (`modelmesh.control.view.feed`), so all of it has one revision and one
order. It begins after a listing at one revision and begins again, from a new listing, when the store compacts or is
another one. While the store is away everything stays as it is.
"""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import count
from random import Random
from typing import Protocol

from modelmesh.control.journal import Journal
from modelmesh.control.view.feed import Fed, Relisting
from modelmesh.control.view.keys import AliveKey, Keys
from modelmesh.control.view.state import ClusterState
from modelmesh.control.view.store_identity import DOUBT_MS, StoreIdentity
from modelmesh.ports import (
    Change,
    ChangeKind,
    Clock,
    CompactedError,
    Get,
    KeyValue,
    Store,
    StoreError,
    StoreUnavailableError,
)
from modelmesh.values.ids import Revision

PAGE = 2000
"""Keys per listed page: about 1 MB of copies."""

BATCH = 100
"""Keys read again in one transaction; etcd's default limit is 128 operations."""

RETRY_MS = 200
RETRY_MAX_MS = 2000

VIEW_BOUND_MS = 1_000
"""How long anyone waits for the view to reach a revision."""


class Relisted(Protocol):
    """Called after every listing but the first."""

    def __call__(self, *, replaced: bool) -> None:
        """`replaced`: it is another store."""
        ...


class Observer:
    """Keeps all that is fed equal to the store.

    Args:
        state: The view, one of those that are fed: its revision is that of all.
        relisted: Called after every listing but the first; `replaced` says that it is another store.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        state: ClusterState,
        identity: StoreIdentity,
        clock: Clock,
        journal: Journal,
        rng: Random,
        relisted: Relisted,
    ) -> None:
        self._store = store
        self._keys = keys
        self._state = state
        self._identity = identity
        self._identity.another = self._meet_again
        self._watching: asyncio.Timeout | None = None
        self._clock = clock
        self._journal = journal
        self._rng = rng
        self._feeds: tuple[Fed, ...] = ()
        self._relisted = relisted
        self._fresh = False
        """A listing has just been made, and the next watch continues from there."""
        self._behind = False
        """What is known may lack changes, and is to be listed before it is watched."""
        self._doubt: Exception | None = None
        self._another = False
        """What is known is of another store."""
        self._waiters: dict[int, tuple[Revision, asyncio.Future[None]]] = {}
        self._waiter_numbers = count()
        self.connected = False

    def feed(self, *feeds: Fed) -> None:
        """What is fed, in the order in which each takes a batch; once, before `begin`."""
        self._feeds = feeds

    async def begin(self) -> None:
        """List for the first time. Raises StoreUnavailableError."""
        await self._identity.meet(self._store)
        await self._list()
        self._fresh = True
        self.connected = True

    def distrust(self) -> None:
        """What is fed may not be as it should: it is replaced by a listing before it is fed again."""
        self._fresh, self._behind = False, True

    def doubt(self, error: Exception) -> None:
        """Something that is fed raised beside the watch: as if the watch had."""
        self._doubt = error
        self._end_watch()

    async def run(self) -> None:
        """Watch until cancelled; survives every fault of the store."""
        delay_ms = RETRY_MS
        while True:
            try:
                if not self._fresh:
                    await self._catch_up()
                self._fresh = False
                self._set_connected(connected=True)
                delay_ms = RETRY_MS
                await self._watch()
            except CompactedError:
                self._journal.note("store_compacted", detail="the watch fell behind; listing again")
                self._behind = True
            except StoreError as error:
                self._set_connected(connected=False, detail=str(error))
                await self._clock.sleep(delay_ms + self._rng.randrange(delay_ms // 2))
                delay_ms = min(RETRY_MAX_MS, delay_ms * 2)

    def wait_for_view(self, revision: Revision) -> "asyncio.Future[None]":
        """Resolves when the view has reached `revision`, or after a second."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._state.revision >= revision:
            future.set_result(None)
            return future
        number = next(self._waiter_numbers)
        self._waiters[number] = (revision, future)
        timer = loop.call_later(VIEW_BOUND_MS / 1000, _resolve, future)

        def ended(_: asyncio.Future[None]) -> None:
            timer.cancel()
            self._waiters.pop(number, None)

        future.add_done_callback(ended)
        return future

    # --- listing ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Follow one watch until it breaks, or the store is another one."""
        watching = self._watching = asyncio.timeout(None)
        try:
            async with watching:
                async for changes in self._store.watch(self._keys.base, start=Revision(self._state.revision + 1)):
                    if self._identity_gone(changes):
                        break
                    self._apply(changes)
        except TimeoutError:
            if not watching.expired():
                raise  # else `_end_watch` did
        finally:
            self._watching = None
        if self._doubt is not None:
            error, self._doubt = self._doubt, None
            raise error

    def _meet_again(self) -> None:
        """A read found another store: it came after the last meeting, and the watch of the old one stays silent."""
        self._end_watch()

    def _end_watch(self) -> None:
        if self._watching is not None and not self._watching.expired():
            self._watching.reschedule(asyncio.get_running_loop().time())

    async def _catch_up(self) -> None:
        """Before each new watch: check that the store is the same, and read what the watch will not report."""
        if await self._identity.meet(self._store):
            self._another = True
            self._identity.doubted_until_ms = self._clock.monotonic_ms() + DOUBT_MS
            self._journal.note(
                "store_replaced",
                detail="the store was emptied or is another one; nothing is unloaded, what this instance holds is put back",
            )
        if self._another or self._behind:
            replaced = self._another
            try:
                await self._list(replaced=replaced)
            except CompactedError as error:  # after a pause: it is compacted faster than it is listed
                raise StoreUnavailableError("the store was compacted while it was listed") from error
            self._another = self._behind = False
            self._relisted(replaced=replaced)

    async def _list(self, *, replaced: bool = False) -> None:
        """List the mirrored keys at one revision, large ranges in pages, and read again what else is remembered.

        Raises:
            StoreError: The store is away, or another one again.
        """
        items: list[KeyValue] = []
        revision: Revision | None = None
        for prefix in [prefix for fed in self._feeds for prefix in fed.ranges()]:
            after = ""
            while True:
                page = await self._store.range(prefix, start_after=after, limit=PAGE, revision=revision)
                revision = revision or page.revision
                items.extend(page.items)
                if not page.more:
                    break
                after = page.items[-1].key
        assert revision is not None
        again: dict[str, KeyValue | None] = {}
        while unread := [key for fed in self._feeds for key in fed.remembered() if key not in again]:
            # Meanwhile more is remembered: it may have been read before the listing, and changed since.
            await self._read_again(unread[:BATCH], again)
        listing = Relisting(tuple(items), again, revision, replaced)
        for fed in self._feeds:
            fed.replace(listing)
        self._settle()

    async def _read_again(self, keys: Sequence[str], again: dict[str, KeyValue | None]) -> None:
        result = await self._identity.read(self._store, *(Get(key) for key in keys))
        for key, answer in zip(keys, result.answers, strict=True):
            assert isinstance(answer, tuple)
            again[key] = answer[0] if answer else None

    # --- changes ------------------------------------------------------------------------------

    def _identity_gone(self, changes: Iterable[Change]) -> bool:
        """Whether this batch removes `alive`: then its deletions are not obeyed, and the store is met again."""
        for change in changes:
            if change.kind is ChangeKind.DELETE and isinstance(self._keys.parse(change.item.key), AliveKey):
                return True
        return False

    def _apply(self, changes: tuple[Change, ...]) -> None:
        for fed in self._feeds:
            fed.apply(changes)
        self._settle()

    def _settle(self) -> None:
        for fed in self._feeds:
            fed.settle()
        self._wake()

    def _wake(self) -> None:
        revision = self._state.revision
        for wanted, future in self._waiters.values():
            if revision >= wanted:
                _resolve(future)

    def _set_connected(self, *, connected: bool, detail: str = "") -> None:
        if connected != self.connected:
            self.connected = connected
            self._journal.note("store_back" if connected else "store_away", detail=detail)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
