"""The runtime with a time-out on every call."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from modelmesh.ports import ModelSource, Runtime, RuntimeCallError, RuntimeLoaded, RuntimeStatus
from modelmesh.values.ids import ModelId
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status

STATUS_BOUND_MS = 10_000
ANSWER_BOUND_MS = 3_000
MEASURE_BOUND_MS = 30_000
PREDICT_BOUND_MS = 1_000
PROGRESS_BOUND_MS = 1_000
LEAST_UNLOAD_BOUND_MS = 10_000
"""An unload may take as long as a load, and at least this."""

Answer = TypeVar("Answer")


class BoundedRuntime:
    """Passes every call on (`ports.Runtime`); DEADLINE_EXCEEDED if it is not answered within its bound.

    Attributes:
        load_timeout_ms: As the runtime reports it; an unload may take as long.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.load_timeout_ms = LEAST_UNLOAD_BOUND_MS

    async def status(self) -> RuntimeStatus:
        """Pass on."""
        return await _within(
            STATUS_BOUND_MS,
            self._runtime.status(),
            f"it does not answer runtimeStatus within {STATUS_BOUND_MS // 1000} s",
        )

    async def answers(self) -> None:
        """Pass on."""
        message = f"it has not given a sign of life within {ANSWER_BOUND_MS // 1000} s"
        await _within(ANSWER_BOUND_MS, self._runtime.answers(), message)

    async def load(self, source: ModelSource) -> RuntimeLoaded:
        """Pass on; `control.copies.loading` has the bound, in the words of the old system."""
        return await self._runtime.load(source)

    async def unload(self, model: ModelId) -> None:
        """Pass on."""
        bound_ms = max(LEAST_UNLOAD_BOUND_MS, self.load_timeout_ms)
        await _within(bound_ms, self._runtime.unload(model), f"it has not ended within {bound_ms // 1000} s")

    async def predict_size(self, source: ModelSource) -> Memory | None:
        """Pass on; None if it takes too long."""
        try:
            return await _within(PREDICT_BOUND_MS, self._runtime.predict_size(source), "no prediction")
        except RuntimeCallError as error:
            if error.lost:
                raise
            return None

    async def measure_size(self, model: ModelId) -> Memory:
        """Pass on."""
        message = f"it does not answer modelSize within {MEASURE_BOUND_MS // 1000} s"
        return await _within(MEASURE_BOUND_MS, self._runtime.measure_size(model), message)

    async def progress(self, model: ModelId) -> LoadProgress | None:
        """Pass on; None if it takes too long."""
        try:
            return await _within(PROGRESS_BOUND_MS, self._runtime.progress(model), "no progress reported")
        except RuntimeCallError:
            return None

    async def close(self) -> None:
        """Pass on."""
        await self._runtime.close()


async def _within(bound_ms: int, call: Awaitable[Answer], message: str) -> Answer:
    try:
        async with asyncio.timeout(bound_ms / 1000):
            return await call
    except TimeoutError:
        raise RuntimeCallError(Status.DEADLINE_EXCEEDED, message) from None
