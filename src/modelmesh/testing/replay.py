"""Traces played through the production control plane on simulated clusters: how good is the cache?

One request after the other, or as many at a time as told, each through an instance drawn at random. Loads take virtual time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from modelmesh.control.settings import ControlLimits
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.testing.model_paths import size_path
from modelmesh.testing.traces import Trace
from modelmesh.values.ids import InstanceId
from modelmesh.values.status import Status

UNIT_BYTES = 10_000
"""A unit of size of a trace."""

Eviction = Literal["adaptive", "lru"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a trace came to. `waited_ms`: what callers waited for loads, in all; `seconds`: virtual."""

    requests: int
    failed: int
    loads: int
    loaded_units: int
    waited_ms: int
    seconds: float

    @property
    def hit_ratio(self) -> float:
        """The share of the requests that caused no load."""
        return 1 - self.loads / self.requests


def capacity_bytes(room: int) -> int:
    """What an instance must have so that copies of `room` units fit beside the reserve that evictions keep free.

    With one load at a time and models predicted exactly, the reserve is a hundredth.
    """
    return (room * UNIT_BYTES * 100 + 98) // 99 + 1


def replay(
    trace: Trace,
    *,
    instances: int = 1,
    room: int | None = None,
    eviction: Eviction = "adaptive",
    load_ms: int = 10,
    between_ms: int = 20,
    seed: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Play a trace.

    Args:
        trace: The requests.
        instances: Size of the cluster; the room is split evenly.
        room: Units that fit in all; default: what the trace says.
        eviction: The policy.
        load_ms: How long each load takes.
        between_ms: From one request's answer to the next request.
        seed: Decides every draw.
        progress: Called after every thousandth request how many are done.
    """
    return run_virtual(
        _replay(trace, instances, (room or trace.room) // instances, eviction, load_ms, between_ms, seed, progress)
    )


async def _replay(
    trace: Trace,
    instances: int,
    room: int,
    eviction: Eviction,
    load_ms: int,
    between_ms: int,
    seed: int,
    progress: Callable[[int], None],
) -> Replayed:
    rng = Random(seed)  # noqa: S311 - a simulation
    cluster = SimulatedCluster(seed=seed)
    names = [f"instance-{number + 1}" for number in range(instances)]
    clock = VirtualClock()
    began_ms = clock.monotonic_ms()
    try:
        for name in names:
            await cluster.add(
                name,
                capacity_bytes=capacity_bytes(room),
                default_size_bytes=UNIT_BYTES,
                loading_concurrency=1,
                limits=ControlLimits(eviction=eviction),
            )
        cluster.keep_story = False
        first = cluster.instances[InstanceId(names[0])]
        for model, size in trace.sizes.items():
            await register(first, f"m-{model}", path=size_path(size * UNIT_BYTES, load_ms, 1))
        failed = waited_ms = 0
        for number, model in enumerate(trace.requests, 1):
            asked_ms = clock.monotonic_ms()
            answer = await cluster.call(f"m-{model}", via=rng.choice(names))
            failed += answer.status is not Status.OK
            waited_ms += max(0, clock.monotonic_ms() - asked_ms)
            await asyncio.sleep(between_ms / 1000)
            if number % 1000 == 0:
                progress(number)
        runtimes = [instance.runtime for instance in cluster.instances.values()]
        counts = [(int(model[2:]), count) for runtime in runtimes for model, count in runtime.load_counts.items()]
        return Replayed(
            requests=len(trace.requests),
            failed=failed,
            loads=sum(count for _, count in counts),
            loaded_units=sum(trace.sizes[model] * count for model, count in counts),
            waited_ms=waited_ms,
            seconds=(clock.monotonic_ms() - began_ms) / 1000,
        )
    finally:
        await cluster.stop()
