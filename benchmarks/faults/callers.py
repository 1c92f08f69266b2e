"""Closed-loop callers, and what they saw."""

import asyncio
import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass, field

import grpc
import grpc.aio

TIMEOUT_S = 20.0
_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.lb_policy_name", "round_robin"),
    # With several addresses the library would send them all as one authority, which HTTP/2 does not allow.
    ("grpc.default_authority", "mesh"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(slots=True)
class Seen:
    """What one group of callers saw, since it was last emptied."""

    calls: int = 0
    failed: int = 0
    worst_ms: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)


class Callers:
    """Eight callers in two groups: those of single endpoints, and those that hold all of them."""

    def __init__(self, models: list[str], *, single: list[str], every: list[str], pause_s: float = 0.0) -> None:
        """Call `models` in turn.

        Args:
            models: Their ids.
            single: Endpoints with a group of callers each.
            every: The endpoints of the other callers, which hold them all.
            pause_s: What each caller waits after a call, where a rate must stay below that of a hot model.
        """
        self._models = models
        self._pause_s = pause_s
        self.single = Seen()
        self.every = Seen()
        self._channels: list[grpc.aio.Channel] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._plan = [(self.single, endpoint) for endpoint in single for _ in range(4 // max(1, len(single)))]
        self._plan += [(self.every, "ipv4:" + ",".join(every))] * (8 - len(self._plan) if every else 0)
        self._running = False

    async def start(self) -> None:
        """Connect and begin."""
        self._running = True
        for number, (seen, target) in enumerate(self._plan):
            channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
            await channel.channel_ready()
            self._channels.append(channel)
            self._tasks.append(asyncio.create_task(self._call(channel, seen, number * 7)))

    async def stop(self) -> None:
        """End after the calls that run."""
        self._running = False
        await asyncio.gather(*self._tasks)
        for channel in self._channels:
            await channel.close()

    def forget(self) -> None:
        """Count anew."""
        for seen in (self.single, self.every):
            seen.calls = seen.failed = 0
            seen.worst_ms = 0.0
            seen.statuses.clear()

    async def _call(self, channel: grpc.aio.Channel, seen: Seen, offset: int) -> None:
        call = channel.unary_unary("/bench.Echo/Call")
        loop = asyncio.get_running_loop()
        for number in itertools.count(offset):
            if not self._running:
                return
            model = self._models[number % len(self._models)]
            body = f"{model} {number}".encode()
            began = loop.time()
            try:
                answer = await call(body, metadata=(("mm-model-id", model),), timeout=TIMEOUT_S)
                status = "OK" if answer == body else "WRONG"
            except grpc.aio.AioRpcError as error:
                status = f"{error.code().name}: {error.details()}"
            seen.calls += 1
            seen.worst_ms = max(seen.worst_ms, (loop.time() - began) * 1000)
            if status != "OK":
                seen.failed += 1
                seen.statuses[status] += 1
            if self._pause_s or status != "OK":
                await asyncio.sleep(self._pause_s or 0.01)


async def one_call(endpoint: str, model: str, *, timeout_s: float = TIMEOUT_S) -> tuple[str, float]:
    """One call over a connection of its own; returns the status name and the seconds it took."""
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(endpoint, options=_OPTIONS) as channel:
        await channel.channel_ready()
        began = loop.time()
        try:
            await channel.unary_unary("/bench.Echo/Call")(b"x", metadata=(("mm-model-id", model),), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name, loop.time() - began
        return "OK", loop.time() - began


async def until_ok(endpoint: str, model: str, *, within_s: float) -> float:
    """Seconds until a call for `model` succeeds; `within_s` if none does."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < within_s:
        with contextlib.suppress(grpc.aio.AioRpcError):
            status, _ = await one_call(endpoint, model, timeout_s=2)
            if status == "OK":
                return loop.time() - began
        await asyncio.sleep(0.05)
    return within_s
