"""Runs calls for one model one after the other; calls for different models do not wait for each other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from modelmesh.runtime.errors import RuntimeFault
from modelmesh.values.status import Status

MOST_WAITING = 25
"""Calls for one model that wait. The mesh has one load and one unload at most; more is an error of another client."""


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0


class Turns:
    """In the order of arrival. A call that is cancelled while it waits leaves, and no caller waits for it."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @asynccontextmanager
    async def one(self, model_id: str) -> AsyncIterator[None]:
        """A turn.

        Raises:
            RuntimeFault: RESOURCE_EXHAUSTED: too many wait.
        """
        queue = self._queues.setdefault(model_id, _Queue())
        if queue.calls > MOST_WAITING:
            raise RuntimeFault(
                f"{MOST_WAITING} calls for model {model_id!r} wait already; let them end",
                status=Status.RESOURCE_EXHAUSTED,
            )
        queue.calls += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.calls -= 1
            if not queue.calls:
                del self._queues[model_id]
