"""How well a fleet would serve a workload: the production control plane on simulated instances.

What is simulated is the runtime: models have a size and take their time to load. Everything that decides, placement,
eviction, extra copies, waiting, is what runs in production.
"""

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from modelmesh.control.settings import ControlLimits
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.testing.model_paths import size_path
from modelmesh.testing.workload import Workload
from modelmesh.values.ids import InstanceId
from modelmesh.values.status import Status

Policy = Literal["adaptive", "lru"]
POLICIES: tuple[Policy, ...] = ("adaptive", "lru")

UNLOAD_MS = 100
CALL_TIMEOUT_MS = 300_000
REPORT_EVERY = 100


@dataclass(frozen=True, slots=True)
class Fleet:
    """What it is to run on. `capacity_bytes`: of one instance; `loading_slots`: models it loads at a time."""

    instances: int
    capacity_bytes: int
    loading_slots: int = 2


@dataclass(frozen=True, slots=True)
class Served:
    """How it went.

    Attributes:
        requests: How many were made.
        failed: How many got no answer, mostly because a load took too long or did not fit.
        hits: How many found a ready copy at once.
        loads: How many loads there were, those for extra copies included.
        loaded_bytes: Bytes that were loaded.
        waits_ms: How long each request that found no ready copy took until its answer.
        duration_s: Virtual seconds.
    """

    requests: int
    failed: int
    hits: int
    loads: int
    loaded_bytes: int
    waits_ms: tuple[int, ...]
    duration_s: float

    @property
    def hit_ratio(self) -> float:
        """The share of requests that found a ready copy at once."""
        return self.hits / self.requests

    @property
    def mean_wait_ms(self) -> float:
        """Over all requests; who finds a ready copy waits nothing."""
        return sum(self.waits_ms) / self.requests

    def wait_ms(self, share: float) -> int:
        """Of all requests this share waited no longer; who finds a ready copy waits nothing."""
        waits = sorted(self.waits_ms)
        at = min(self.requests - 1, int(self.requests * share)) - (self.requests - len(waits))
        return waits[at] if at >= 0 else 0

    @property
    def slow_wait_ms(self) -> float:
        """Of those that waited, 95 in 100 waited less."""
        if len(self.waits_ms) < 2:
            return float(sum(self.waits_ms))
        return statistics.quantiles(self.waits_ms, n=20)[-1]


class DoesNotFitError(ValueError):
    """A model is larger than an instance."""


def serve(
    workload: Workload,
    fleet: Fleet,
    *,
    policy: Policy = "adaptive",
    seed: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Served:
    """Let a fleet serve a workload.

    Args:
        workload: The requests; each comes when it is due, whether or not others are answered.
        fleet: The instances, all alike.
        policy: Which copies leave: the product's default, or plain LRU.
        seed: Decides at which instance each request enters, and every other draw.
        progress: Told now and then how many requests have been made.

    Raises:
        DoesNotFitError: A model can be held by no instance.
    """
    model, largest = max(workload.sizes.items(), key=lambda item: item[1])
    if largest > fleet.capacity_bytes:
        raise DoesNotFitError(f"{model} has {largest} bytes, an instance {fleet.capacity_bytes}")
    return run_virtual(_serve(workload, fleet, policy, seed, progress))


async def _serve(
    workload: Workload, fleet: Fleet, policy: Policy, seed: int, progress: Callable[[int], None]
) -> Served:
    rng = Random(seed)  # noqa: S311 - a simulation
    cluster = SimulatedCluster(seed=seed)
    cluster.keep_story = False
    clock = VirtualClock()
    typical = round(statistics.median(workload.sizes.values()))
    names = [InstanceId(f"instance-{number + 1}") for number in range(fleet.instances)]
    try:
        for name in names:
            await cluster.add(
                name,
                capacity_bytes=fleet.capacity_bytes,
                default_size_bytes=max(1, min(typical, fleet.capacity_bytes // 10)),
                loading_concurrency=fleet.loading_slots,
                limits=ControlLimits(eviction=policy),
            )
        first = cluster.instances[names[0]]
        for model, size in workload.sizes.items():
            await register(first, model, path=size_path(size, workload.load_ms[model], UNLOAD_MS))
        began_ms = clock.monotonic_ms()
        waits: list[int] = []
        failed = 0

        async def one(model: str, via: InstanceId) -> None:
            nonlocal failed
            asked_ms = clock.monotonic_ms()
            answer = await cluster.call(model, via=via, timeout_ms=CALL_TIMEOUT_MS)
            failed += answer.status is not Status.OK
            if answer.held:
                waits.append(clock.monotonic_ms() - asked_ms)

        running: dict[int, asyncio.Task[None]] = {}

        def start(number: int, model: str, via: InstanceId) -> None:
            running[number] = asyncio.create_task(one(model, via))
            running[number].add_done_callback(lambda _: running.pop(number))

        for number, (due_ms, model) in enumerate(workload.requests):
            await asyncio.sleep((began_ms + due_ms - clock.monotonic_ms()) / 1000)
            start(number, model, rng.choice(names))
            if (number + 1) % REPORT_EVERY == 0:
                progress(number + 1)
        while running:
            await asyncio.gather(*running.values())
        progress(len(workload.requests))
        counts = [
            (model, count)
            for instance in cluster.instances.values()
            for model, count in instance.runtime.load_counts.items()
        ]
        return Served(
            requests=len(workload.requests),
            failed=failed,
            hits=len(workload.requests) - len(waits),
            loads=sum(count for _, count in counts),
            loaded_bytes=sum(workload.sizes[model] * count for model, count in counts),
            waits_ms=tuple(waits),
            duration_s=(clock.monotonic_ms() - began_ms) / 1000,
        )
    finally:
        await cluster.stop()


def one_big(fleet: Fleet) -> Fleet:
    """One instance with the memory and the slots of all: what no placement among several can beat."""
    return Fleet(1, fleet.instances * fleet.capacity_bytes, fleet.instances * fleet.loading_slots)


def more_of_each(workload: Workload, fleet: Fleet) -> dict[str, tuple[Workload, Fleet]]:
    """The same with half as much again of one thing: what an operator can buy."""
    faster = {model: max(1, load_ms * 2 // 3) for model, load_ms in workload.load_ms.items()}
    return {
        "memory": (workload, replace(fleet, capacity_bytes=fleet.capacity_bytes * 3 // 2)),
        "slots": (workload, replace(fleet, loading_slots=fleet.loading_slots + -(-fleet.loading_slots // 2))),
        "load speed": (replace(workload, load_ms=faster), fleet),
    }
