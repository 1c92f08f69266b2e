"""Queues and workers between tapped calls and their processors. A slow sink loses payloads, never time of a call."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

import structlog

from modelmesh.adapters.payloads.processors import Processor, ProcessorError
from modelmesh.machines.meter import Meter
from modelmesh.values.dataplane import Tapped

QUEUED_BYTES_MAX = 32 << 20
"""Of one processor, beside its bound of calls."""

TELL_S = 60.0
"""Losses are logged once in this time."""

LINGER_S = 0.5
"""How long a batch may wait for more calls."""

DRAIN_S = 5.0
"""How long what is queued may still take when the instance stops."""


class Lane:
    """The queue and the workers of one processor.

    Args:
        name: For metrics and log lines.
        capacity: Calls that may wait.
        workers: Batches processed at a time.
        batch: Calls of a batch.
    """

    def __init__(
        self, name: str, processor: Processor, *, meter: Meter, capacity: int, workers: int, batch: int
    ) -> None:
        self._name = name
        self._processor = processor
        self._meter = meter
        self._capacity = capacity
        self._batch = batch
        self._waiting: deque[Tapped] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._closing = False
        self._lost: dict[str, int] = {}
        self._why = ""
        self._quiet: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("modelmesh")
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work(), name=f"payloads of processor {name}") for _ in range(workers)]

    def offer(self, call: Tapped) -> None:
        """Queue a call; if the queue is full, this one is lost and counted."""
        full = len(self._waiting) >= self._capacity or self._waiting_bytes + call.size_bytes > QUEUED_BYTES_MAX
        if full or self._closing:
            self._lose("dropped", 1, "the queue is full")
            return
        self._waiting.append(call)
        self._waiting_bytes += call.size_bytes
        self._wake.set()
        if len(self._waiting) >= self._batch:
            self._full.set()

    def _take(self) -> list[Tapped]:
        calls = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
        self._waiting_bytes -= sum(call.size_bytes for call in calls)
        return calls

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            if len(self._waiting) < self._batch and not self._closing:
                self._full.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), LINGER_S)
            calls = self._take()
            if not calls:
                continue  # another worker was quicker
            try:
                await self._processor.process(calls)
            except asyncio.CancelledError:
                self._lose("dropped", len(calls), "the instance stops")
                raise
            except ProcessorError as error:
                self._lose("failed", len(calls), str(error))
            except Exception as error:  # noqa: BLE001 - one odd payload must not stop the others
                self._lose("failed", len(calls), f"{type(error).__name__}: {error}")
            else:
                self._meter.count("modelmesh_payloads", self._name, "sent", by=len(calls))

    def _lose(self, outcome: str, calls: int, why: str) -> None:
        self._meter.count("modelmesh_payloads", self._name, outcome, by=calls)
        self._lost[outcome] = self._lost.get(outcome, 0) + calls
        self._why = why
        if self._quiet is None:
            self._tell()

    def _tell(self) -> None:
        """Log what was lost, at once, and then at most once per interval."""
        self._quiet = None
        if self._lost:
            self._log.warning("payloads_lost", processor=self._name, reason=self._why, **self._lost)
            self._lost = {}
            self._quiet = asyncio.get_running_loop().call_later(TELL_S, self._tell)

    async def close(self, timeout_s: float = DRAIN_S) -> None:
        """Process what is queued, as far as time allows, and end."""
        self._closing = True
        self._wake.set()
        self._full.set()
        _, late = await asyncio.wait(self._workers, timeout=timeout_s)
        for worker in late:
            worker.cancel()
        for worker in self._workers:
            with contextlib.suppress(asyncio.CancelledError):
                await worker
        if self._waiting:
            self._lose("dropped", len(self._waiting), "the instance stops")
            self._waiting.clear()
        if self._quiet is not None:
            self._quiet.cancel()
            self._tell()
            if self._quiet is not None:
                self._quiet.cancel()
        await self._processor.close()


class Pipeline:
    """All lanes, in the order of the taps."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes

    def tapped(self, call: Tapped) -> None:
        """Give a call to the lanes that want it."""
        for index, lane in enumerate(self._lanes):
            if call.taps >> index & 1:
                lane.offer(call)

    async def close(self) -> None:
        """Process what is queued, all lanes at the same time."""
        await asyncio.gather(*(lane.close() for lane in self._lanes))
