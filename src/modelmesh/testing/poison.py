"""Models and calls that end the runtimes which work at them, and what must hold of them.

deaths      one model ends a bounded number of runtimes within the time that failures are remembered, one call two
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random

from modelmesh.policy.failure import MOST_LOSSES
from modelmesh.ports import RuntimeCallError
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

Infer = Callable[[FakeRuntime, ModelId, object], Awaitable[object]]

AT_ONCE = 4
"""How many more runtimes may end before the loss of the latest is known everywhere, by clocks that differ by minutes."""

AGAIN_IN_USE = 12
"""After calls a model rests for two seconds first, and a leader whose clock is minutes ahead forgets that at once."""


class PoisonedCall:
    """The payload of a call that ends every runtime that begins it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.deaths = 0

    def __repr__(self) -> str:
        return f"poisoned call {self.number}"


class Poison:
    """Which models end runtimes, and how often that happened.

    Args:
        rng: Draws how long it takes.
        now_ms: Virtual time.
        window_ms: How long a failed load is believed.

    Attributes:
        loads: Models whose load ends the runtime.
        deaths: How many runtimes were ended, by what.
        problems: What must never happen and did.
    """

    def __init__(self, *, rng: Random, now_ms: Callable[[], int], window_ms: int) -> None:
        self.loads: dict[ModelId, None] = {}
        self.problems: list[str] = []
        self.deaths = 0
        self._rng = rng
        self._now_ms = now_ms
        self._window_ms = window_ms
        self._of_loads: dict[ModelId, deque[int]] = {}
        self._of_calls: dict[ModelId, deque[int]] = {}

    async def on_load(self, runtime: FakeRuntime, model: ModelId) -> None:
        """A load is at work; the runtime ends if the model is poisoned. Raises RuntimeCallError."""
        if model not in self.loads:
            return
        await self._die(runtime)
        self._count(self._of_loads, model, MOST_LOSSES + AT_ONCE, "loads of")
        raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)

    def on_calls(self, infer: Infer) -> Infer:
        """Inference under which runtimes end if the call is poisoned."""

        async def guarded(runtime: FakeRuntime, model: ModelId, payload: object) -> object:
            answer = await infer(runtime, model, payload)
            if isinstance(payload, PoisonedCall):
                await self._on_call(runtime, model, payload)
            return answer

        return guarded

    async def _on_call(self, runtime: FakeRuntime, model: ModelId, call: PoisonedCall) -> None:
        await self._die(runtime)
        call.deaths += 1
        if call.deaths > MOST_LOSSES:
            self.problems.append(f"deaths: {call} for {model} has ended {call.deaths} runtimes")
        self._count(self._of_calls, model, MOST_LOSSES + AT_ONCE + AGAIN_IN_USE, "calls for")
        raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)

    def forgive(self) -> None:
        """The store was emptied, and what was remembered in it is gone."""
        self._of_loads.clear()
        self._of_calls.clear()

    async def _die(self, runtime: FakeRuntime) -> None:
        life = runtime.life
        await asyncio.sleep(self._rng.choice((0, 0.01, 0.2)))
        if runtime.life != life:
            raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)
        self.deaths += 1
        runtime.crash()

    def _count(self, known: dict[ModelId, deque[int]], model: ModelId, most: int, what: str) -> None:
        times = known.setdefault(model, deque())
        now_ms = self._now_ms()
        times.append(now_ms)
        while times[0] <= now_ms - self._window_ms:
            times.popleft()
        if len(times) > most:
            self.problems.append(
                f"deaths: {what} {model} have ended {len(times)} runtimes within {self._window_ms // 1000} s"
            )
