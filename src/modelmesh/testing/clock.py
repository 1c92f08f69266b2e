"""Virtual time: an event loop whose clock jumps when everything waits, and a `Clock` over it."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

EPOCH_MS = 1_700_000_000_000
"""Where virtual epoch time begins."""

Result = TypeVar("Result")


class StuckError(Exception):
    """Everything waits and no timer is set: nothing will ever happen again."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, moves the loop's time forward."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turned: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turned()
        if timeout is None:
            raise StuckError("every task waits and no timer is set")
        if timeout > 0:
            self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time. No sockets, no threads: real I/O never becomes ready."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now

    def after_each_turn(self, look: Callable[[], None]) -> None:
        """Call `look` after each turn of the loop: nothing runs then, so what it sees is whole."""
        self._jumping.turned = look


class VirtualClock:
    """A `Clock` on the running loop's time; `skew_ms` is this host's error."""

    def __init__(self, skew_ms: int = 0) -> None:
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        """Epoch milliseconds of this host."""
        return EPOCH_MS + self.skew_ms + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        """Virtual milliseconds."""
        return round(asyncio.get_running_loop().time() * 1000)

    async def sleep(self, ms: int) -> None:
        """Sleep in virtual time."""
        await asyncio.sleep(ms / 1000)


def run_virtual(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on virtual time, to its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
