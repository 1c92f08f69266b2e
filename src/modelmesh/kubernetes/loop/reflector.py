"""Keeps a cache equal to the objects of one kind that the API server has.

List and watch are one state. A watch that breaks continues at the revision it had; if that is no longer kept, a listing
replaces everything, so that what was deleted meanwhile is deleted here too. A connection on which nothing comes, not
even a bookmark, is given up.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from random import Random

from modelmesh.kubernetes.kinds import Key, Kind, Object, key_of
from modelmesh.kubernetes.loop.cache import Cache
from modelmesh.kubernetes.ports import Api, ApiError, Change, GoneError, NotFoundError, Page, Scope
from modelmesh.ports import Clock

PAGE = 500
"""Objects of one page of a listing."""

SILENCE_S = 100.0
"""API servers send a bookmark about once a minute."""

PAUSE_MS = 200
PAUSE_MAX_MS = 30_000
"""Between attempts: doubled with each that fails, and drawn from its upper half."""

ABSENT_MS = 300_000
"""How often it is looked whether a kind that was not there has been installed."""


class Reflector:
    """Fills one cache.

    Args:
        scope: Which objects.
        failed: Called for each failure, for logs and metrics.
    """

    def __init__(
        self,
        *,
        api: Api,
        cache: Cache,
        scope: Scope,
        clock: Clock,
        rng: Random,
        failed: Callable[[Kind, ApiError], object] = lambda _kind, _error: None,
    ) -> None:
        self._api = api
        self._cache = cache
        self._kind = cache.kind
        self._scope = scope
        self._clock = clock
        self._rng = rng
        self._failed = failed
        self._revision = ""
        self._pause_ms = PAUSE_MS
        self._gone = 0
        """How often in a row a listing was of no use, because its revision was gone."""
        self.listings = 0

    async def run(self) -> None:
        """Follow until cancelled; survives every fault of the API server."""
        while True:
            try:
                if not self._revision:
                    await self._list()
                await self._watch()
            except GoneError as error:
                self._revision = ""
                self._failed(self._kind, error)
                await self._clock.sleep(self._rng.randrange(min(PAUSE_MAX_MS, PAUSE_MS << min(self._gone, 16))))
                self._gone += 1
            except NotFoundError as error:
                if self._cache.synced.is_set() and not self._cache.absent:
                    # The definition of the kind is replaced, perhaps. If it was deleted, its objects were before it.
                    await self._pause(error)
                    continue
                if not self._cache.absent:
                    self._failed(self._kind, error)
                self._revision = ""
                self._cache.take_all({}, absent=True)
                await self._clock.sleep(ABSENT_MS // 2 + self._rng.randrange(ABSENT_MS))
            except ApiError as error:
                await self._pause(error)

    async def _pause(self, error: ApiError) -> None:
        """After a failure: longer each time, at least as long as the server asks."""
        self._cache.failure = str(error)
        self._failed(self._kind, error)
        pause_ms, self._pause_ms = self._pause_ms, min(PAUSE_MAX_MS, self._pause_ms * 2)
        drawn_ms = pause_ms // 2 + self._rng.randrange(pause_ms // 2)
        await self._clock.sleep(max(int(error.retry_after_s * 1000), drawn_ms))

    async def _list(self) -> None:
        found: dict[Key, Object] = {}
        after = ""
        while True:
            page: Page = await self._api.list(self._kind, self._scope, limit=PAGE, after=after)
            found |= {key_of(item): self._cache.trimmed(item) for item in page.items}
            if not page.more:
                break
            after = page.more
        self.listings += 1
        self._revision = page.revision
        self._cache.take_all(found)
        self._pause_ms = PAUSE_MS

    async def _watch(self) -> None:
        """Follow one watch to its end. Raises ApiError."""
        async with aclosing(self._api.watch(self._kind, self._scope, revision=self._revision)) as events:
            while True:
                try:
                    async with asyncio.timeout(SILENCE_S):
                        event = await anext(events, None)
                except TimeoutError as error:
                    raise ApiError(0, f"no message for {SILENCE_S:.0f} s") from error
                if event is None:
                    return
                self._revision = event.item["metadata"]["resourceVersion"]
                self._pause_ms = PAUSE_MS
                self._gone = 0
                if event.change is Change.DELETED:
                    self._cache.remove(key_of(event.item))
                elif event.change is not Change.BOOKMARK:
                    self._cache.put(event.item)
