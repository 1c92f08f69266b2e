"""Supervises the loops that an instance needs: none of them can end unnoticed.

One that raises is begun again, after a moment, as often as that helps. When it does not, or when one has not turned
for far too long, this instance must not continue: it would report that it is ready, keep its lease, and decide on an
outdated view.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from modelmesh.control.journal import Journal
from modelmesh.control.tasks import Tasks
from modelmesh.ports import Clock

AGAIN_MS = 100
AGAIN_MAX_MS = 5_000
RESTARTS = 6
WITHIN_MS = 60_000
"""A loop that raises more often than `RESTARTS` times within this cannot be helped by beginning again."""

SILENT_MS = 300_000
"""A loop that turns every second and has not for so long hangs: every wait in it has a bound far below."""


@dataclass(slots=True)
class _Loop:
    """`turned_ms`: monotonic; None: it may wait for as long as it likes."""

    failures: deque[int] = field(default_factory=deque)
    turned_ms: int | None = None


class Supervisor:
    """Restarts loops that raise, and reports when that does not help.

    Args:
        gave_up: Awaited once when this instance cannot continue: the others learn that it has left.

    Attributes:
        ended: Set when that was done: the owner of this instance ends it now.
        broken: Why this instance cannot continue; None: it can.
    """

    def __init__(
        self,
        *,
        tasks: Tasks,
        clock: Clock,
        journal: Journal,
        gave_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._tasks = tasks
        self._clock = clock
        self._journal = journal
        self._gave_up = gave_up
        self._loops: dict[str, _Loop] = {}
        self.ended = asyncio.Event()
        self.broken: str | None = None

    def run(
        self, name: str, loop: Callable[[], Coroutine[Any, Any, None]], *, again: Callable[[], None] = lambda: None
    ) -> None:
        """Run a loop from now on.

        Args:
            name: What it does.
            loop: Begins it; one that returns has done its work.
            again: Called before it is begun again: what it held may be in any state.
        """
        self._loops[name] = _Loop()
        self._begin(name, loop, again, 0)

    def turned(self, name: str) -> None:
        """A loop that turns all the time has turned."""
        self._loops[name].turned_ms = self._clock.monotonic_ms()

    def alive(self) -> bool:
        """Whether every loop runs, and those that turn all the time have."""
        now_ms = self._clock.monotonic_ms()
        return self.broken is None and all(
            loop.turned_ms is None or now_ms - loop.turned_ms < SILENT_MS for loop in self._loops.values()
        )

    def _begin(
        self, name: str, loop: Callable[[], Coroutine[Any, Any, None]], again: Callable[[], None], wait_ms: int
    ) -> None:
        async def work() -> None:
            if wait_ms:
                await self._clock.sleep(wait_ms)
                again()
            await loop()

        self._tasks.start(work(), name, failed=lambda error: self._failed(name, loop, again, error))

    def _failed(
        self,
        name: str,
        loop: Callable[[], Coroutine[Any, Any, None]],
        again: Callable[[], None],
        error: BaseException,
    ) -> None:
        failures, now_ms = self._loops[name].failures, self._clock.monotonic_ms()
        failures.append(now_ms)
        while now_ms - failures[0] > WITHIN_MS:
            failures.popleft()
        detail = f"{type(error).__name__}: {error}"
        if len(failures) > RESTARTS:
            self._give_up(name, detail)
        elif self.broken is None:
            self._journal.note("loop_failed", reason=name.replace(" ", "_"), detail=f"{detail}; it is begun again")
            self._begin(name, loop, again, min(AGAIN_MAX_MS, AGAIN_MS << len(failures)))

    def _give_up(self, name: str, detail: str) -> None:
        if self.broken is not None:
            return
        self.broken = f"what should {name} failed {RESTARTS + 1} times within {WITHIN_MS // 1000} s: {detail}"
        self._journal.note("broken", reason=name.replace(" ", "_"), detail=self.broken)
        self._tasks.start(self._leave(), "give up")

    async def _leave(self) -> None:
        try:
            await self._gave_up()
        finally:
            self.ended.set()
