"""Keys to be worked on: each once, never twice at a time, again after a failure with growing pauses.

Each group (a namespace) has its own line and its own bound, so that one whose mesh does not answer delays no other.
"""

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from itertools import count
from random import Random
from typing import Generic, TypeVar

from modelmesh.kubernetes.ports import ApiError
from modelmesh.ports import Clock

FIRST_PAUSE_MS = 100
LAST_PAUSE_MS = 120_000
"""After failures: doubled with each, and drawn from its upper half."""

T = TypeVar("T", bound=Hashable)


class Queue(Generic[T]):
    """Works on keys until cancelled.

    Args:
        work: Looks at one key. Returns in how many seconds it wants to look again; None: when something changes.
        group: Of a key.
        per_group: Keys of one group that are worked on at a time.
        bound_s: An attempt that takes longer has failed.
        failed: Called for each attempt that raised; the next is after the given seconds.
    """

    def __init__(
        self,
        work: Callable[[T], Awaitable[float | None]],
        *,
        clock: Clock,
        rng: Random,
        group: Callable[[T], str],
        per_group: int,
        bound_s: float,
        failed: Callable[[T, Exception, float], object] = lambda _key, _error, _s: None,
    ) -> None:
        self._work = work
        self._clock = clock
        self._rng = rng
        self._group = group
        self._per_group = per_group
        self._bound_s = bound_s
        self._failed = failed
        self._lines: dict[str, OrderedDict[T, None]] = {}
        self._running: dict[str, dict[T, asyncio.Task[None]]] = {}
        self._again: dict[T, None] = {}
        self._failures: dict[T, int] = {}
        self._held: dict[T, int] = {}
        """Until when the server asked not to be called again for a key."""
        self._timers: list[tuple[int, int, T]] = []
        self._due: dict[T, int] = {}
        self._numbers = count()
        self._wake = asyncio.Event()
        self.runs = 0

    @property
    def depth(self) -> int:
        """Keys that wait or are worked on, those that wait for a time not counted."""
        return sum(map(len, self._lines.values())) + sum(map(len, self._running.values()))

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is worked on."""
        return self.depth == 0

    @property
    def failing(self) -> bool:
        """Whether a key is to be tried again because its last attempt failed."""
        return bool(self._failures)

    def add(self, key: T) -> None:
        """Look at a key as soon as there is room. A pause after failures is over, because something changed.

        A pause that the server asked for is not.
        """
        held_ms = self._held.get(key, 0) - self._clock.monotonic_ms()
        if held_ms > 0:
            self.add_later(key, held_ms / 1000)
            return
        self._due.pop(key, None)
        group = self._group(key)
        if key in self._running.get(group, ()):
            self._again[key] = None
        else:
            self._lines.setdefault(group, OrderedDict())[key] = None
            self._wake.set()

    def add_later(self, key: T, after_s: float) -> None:
        """Look at a key in some seconds, unless that is to happen earlier anyway."""
        at_ms = self._clock.monotonic_ms() + max(1, int(after_s * 1000))
        due_ms = self._due.get(key)
        if key in self._again or key in self._lines.get(self._group(key), ()) or (due_ms or at_ms + 1) <= at_ms:
            return
        self._due[key] = at_ms
        heapq.heappush(self._timers, (at_ms, next(self._numbers), key))
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; what is being worked on is cancelled then too."""
        try:
            while True:
                self._wake.clear()
                self._take_due()
                self._start()
                await self._until_next()
        finally:
            tasks = [task for running in self._running.values() for task in running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_next(self) -> None:
        pause_s = None
        if self._timers:
            pause_s = max(0.0, (self._timers[0][0] - self._clock.monotonic_ms()) / 1000)
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _take_due(self) -> None:
        now_ms = self._clock.monotonic_ms()
        while self._timers and self._timers[0][0] <= now_ms:
            at_ms, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == at_ms:  # otherwise another time was set since
                self.add(key)

    def _start(self) -> None:
        for group, line in tuple(self._lines.items()):
            running = self._running.setdefault(group, {})
            while line and len(running) < self._per_group:
                key, _ = line.popitem(last=False)
                self.runs += 1
                task = asyncio.get_running_loop().create_task(self._attempt(group, key), name=f"reconcile {key}")
                running[key] = task
            if not line:
                del self._lines[group]

    async def _attempt(self, group: str, key: T) -> None:
        after_s: float | None = None
        try:
            async with asyncio.timeout(self._bound_s):
                after_s = await self._work(key)
            self._failures.pop(key, None)
            self._held.pop(key, None)
        except Exception as error:  # noqa: BLE001 - whatever it is, one key must not stop the others
            after_s = max(self._pause_s(key), self._hold_s(key, error))
            self._failed(key, error, after_s)
        finally:
            running = self._running[group]
            del running[key]
            if not running:
                del self._running[group]
            if key in self._again:
                del self._again[key]
                self.add(key)
            elif after_s is not None:
                self.add_later(key, after_s)
            self._wake.set()

    def _hold_s(self, key: T, error: Exception) -> float:
        """How long the server asks to wait."""
        if not isinstance(error, ApiError) or not error.retry_after_s:
            return 0.0
        asked_s = min(error.retry_after_s, LAST_PAUSE_MS / 1000)
        self._held[key] = self._clock.monotonic_ms() + int(asked_s * 1000)
        return asked_s

    def _pause_s(self, key: T) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause_ms = min(LAST_PAUSE_MS, FIRST_PAUSE_MS << min(failures, 16))
        return (pause_ms // 2 + self._rng.randrange(pause_ms // 2)) / 1000
