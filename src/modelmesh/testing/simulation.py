"""Seeded simulations of whole clusters under faults: `python -m modelmesh.testing.simulation --seeds 20`.

One integer decides the cluster, the models, the traffic, the latencies and the faults. After the faults
stop, every requested model must be served and the cluster must settle. A failing seed prints the command
that repeats it and the end of its story.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.control.journal import Event
from modelmesh.management.calls import CallError
from modelmesh.ports import StoreError
from modelmesh.testing.clock import EPOCH_MS, VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import InstanceId
from modelmesh.values.status import Status

FAULTY_S = 120
STORY_LINES = 40
CALLERS = 6

_ALLOWED = frozenset({Status.OK, Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.DEADLINE_EXCEEDED})
_EMPTIED = _ALLOWED | {Status.NOT_FOUND}
"""What a call may end in while faults happen; INTERNAL only for models that fail by themselves."""


@dataclass(slots=True)
class Outcome:
    """What one seed did. `faults`: how often each kind was injected."""

    seed: int
    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    story: list[Event] = field(default_factory=list)
    virtual_ms: int = 0
    problem: str = ""


class Simulation:
    """One seeded run. Use `run`."""

    def __init__(self, seed: int) -> None:
        self.outcome = Outcome(seed)
        self._rng = Random(seed)  # noqa: S311 - a simulation
        self._memory = SqliteStore(":memory:", expires_leases=True)
        self._store = FaultyStore(self._memory, VirtualClock())
        self._cluster = SimulatedCluster(seed=seed, store=self._store, latency_ms=self._rng.choice((1, 1, 2, 10)))
        self._models = [f"model-{number}" for number in range(self._rng.randint(3, 30))]
        self._names = 0
        self._faulty = True

    async def run(self) -> Outcome:
        """Play the seed to its end."""
        self.outcome.story = self._cluster.story
        clock = VirtualClock()
        try:
            for _ in range(self._rng.randint(1, 6)):
                await self._add()
            first = next(iter(self._cluster.instances.values()))
            for model in self._models:
                await register(first, model)
            work = [asyncio.create_task(self._caller(number)) for number in range(CALLERS)]
            work.append(asyncio.create_task(self._inject()))
            try:
                for task in asyncio.as_completed(work):
                    await task
            finally:
                for left in work:
                    left.cancel()
            await self._everything_is_served()
            await self._cluster.settled(within_ms=40_000)
        except AssertionError as error:
            self.outcome.problem = str(error) or "an assertion without words"
        finally:
            self.outcome.virtual_ms = clock.monotonic_ms()
            await self._cluster.stop()
            await self._memory.close()
        if self._cluster.crashes and not self.outcome.problem:
            self.outcome.problem = f"background tasks crashed: {self._cluster.crashes}"
        return self.outcome

    # --- traffic --------------------------------------------------------------------------------

    async def _caller(self, number: int) -> None:
        rng = Random(self.outcome.seed * 1000 + number)  # noqa: S311 - a simulation
        while self._faulty:
            await asyncio.sleep(rng.expovariate(4))
            names = list(self._cluster.instances)
            if not names:
                continue
            model = self._models[min(int(rng.paretovariate(0.9)) - 1, len(self._models) - 1)]
            answer = await self._cluster.call(model, via=rng.choice(names), payload=number, timeout_ms=30_000)
            self.outcome.calls[answer.status.name] += 1
            if answer.status is Status.OK:
                assert answer.payload == (model, number), f"a call for {model} was answered {answer.payload}"
            else:
                allowed = _EMPTIED if self.outcome.faults["store_emptied"] else _ALLOWED
                assert answer.status in allowed, f"a call for {model} ended in {answer.status.name}: {answer.message}"
            await self._cluster.check()

    async def _everything_is_served(self) -> None:
        """Liveness: without faults each model is served within a bounded time."""
        for model in self._models:
            via = self._rng.choice(list(self._cluster.instances))
            answer = await self._cluster.call(model, via=via, timeout_ms=60_000)
            assert answer.status is Status.OK, (
                f"after the faults {model} is not served: {answer.status.name} {answer.message}"
            )
            await self._cluster.check()

    # --- faults ---------------------------------------------------------------------------------

    async def _add(self) -> None:
        self._names += 1
        unit = 100
        await self._cluster.add(
            f"i{self._names:02}",
            capacity_bytes=unit * self._rng.randint(10, 20),
            default_size_bytes=unit,
            loading_concurrency=self._rng.randint(1, 4),
            load_ms=self._rng.choice((1, 20, 200, 2000)),
            skew_ms=self._rng.randint(-60_000, 60_000),
        )

    async def _inject(self) -> None:
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "instance_crash": self._crash,
            "instance_join": self._join,
            "partition": self._partition,
            "runtime_crash": self._runtime_crash,
            "link_lost": self._link_lost,
            "model_vanished": self._vanish,
            "lease_lost": self._store.expire_leases,
            "watch_lost": self._watch_lost,
            "watch_lag": self._watch_lag,
            "compaction": self._store.compact,
            "store_paused": self._pause,
            "store_emptied": self._empty,
        }
        loop = asyncio.get_running_loop()
        end = loop.time() + FAULTY_S
        while loop.time() < end:
            await asyncio.sleep(self._rng.uniform(1, 15))
            kind = self._rng.choice(list(kinds))
            self.outcome.faults[kind] += 1
            self._cluster.note(f"fault: {kind}")
            await kinds[kind]()
        self._store.watch_lag_ms = 0
        self._cluster.note("faults end")
        await asyncio.sleep(15)
        self._faulty = False

    def _some(self) -> InstanceId:
        return self._rng.choice(list(self._cluster.instances))

    async def _crash(self) -> None:
        if len(self._cluster.instances) > 1:
            await self._cluster.crash(self._some())

    async def _join(self) -> None:
        if len(self._cluster.instances) < 8:
            await self._add()

    async def _partition(self) -> None:
        one, other = self._some(), self._some()
        if one != other:
            self._cluster.network.cut(one, other)
            await asyncio.sleep(self._rng.uniform(0.1, 20))
            self._cluster.network.heal(one, other)

    async def _runtime_crash(self) -> None:
        instance = self._cluster.instances[self._some()]
        instance.runtime.crash()
        instance.dataplane.runtime_link(up=False)
        await asyncio.sleep(self._rng.uniform(0.1, 10))
        instance.runtime.restart()
        instance.dataplane.runtime_link(up=True)

    async def _link_lost(self) -> None:
        instance = self._cluster.instances[self._some()]
        instance.dataplane.runtime_link(up=False)
        await asyncio.sleep(self._rng.uniform(0.1, 5))
        instance.dataplane.runtime_link(up=True)

    async def _vanish(self) -> None:
        runtime = self._cluster.instances[self._some()].runtime
        if runtime.loaded:
            runtime.vanish(self._rng.choice(list(runtime.loaded)))

    async def _watch_lost(self) -> None:
        self._store.break_watches()

    async def _watch_lag(self) -> None:
        self._store.watch_lag_ms = self._rng.choice((0, 50, 500, 3000))

    async def _empty(self) -> None:
        await self._store.empty()
        self._store.break_watches()
        # Whoever runs the cluster registers again what no instance held.
        for model in self._models:
            for _ in range(100):
                try:
                    await register(self._cluster.instances[self._some()], model)
                except (StoreError, CallError):
                    await asyncio.sleep(0.5)
                else:
                    break

    async def _pause(self) -> None:
        self._store.pause()
        await asyncio.sleep(self._rng.uniform(0.5, 15))
        self._store.resume()


def simulate(seed: int) -> Outcome:
    """Run one seed on virtual time."""
    return run_virtual(_simulate(seed))


async def _simulate(seed: int) -> Outcome:
    return await Simulation(seed).run()


def main(arguments: list[str] | None = None) -> int:
    """Run seeds; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds to run")
    parser.add_argument("--seed", type=int, help="run only this seed, and show its story")
    given = parser.parse_args(arguments)
    seeds = [given.seed] if given.seed is not None else list(range(1, given.seeds + 1))
    events = virtual_ms = violations = 0
    hit: Counter[str] = Counter()
    for seed in seeds:
        outcome = simulate(seed)
        events += len(outcome.story)
        virtual_ms += outcome.virtual_ms
        hit.update(dict.fromkeys(outcome.faults, 1))
        if outcome.problem:
            violations += 1
        if outcome.problem or given.seed is not None:
            _report(outcome, whole=given.seed is not None)
    line = {
        "seeds": len(seeds),
        "steps": events,
        "violations": violations,
        "virtual_hours": round(virtual_ms / 3_600_000, 2),
        "faults": dict(sorted(hit.items())),
    }
    print(f"sim: {json.dumps(line)}")  # noqa: T201 - the command's answer
    return 1 if violations else 0


def _report(outcome: Outcome, *, whole: bool) -> None:
    story = outcome.story if whole else outcome.story[-STORY_LINES:]
    lines = [
        f"{event.time_ms - EPOCH_MS:>8} ms  {event.instance:<5} {event.kind:<16} {event.model:<10} "
        f"{event.reason} {event.detail}"
        for event in story
    ]
    lines.append(f"seed={outcome.seed} calls={dict(outcome.calls)} faults={dict(outcome.faults)}")
    if outcome.problem:
        lines.append(f"problem: {outcome.problem}")
        lines.append(f"repeat: make sim SEED={outcome.seed}")
    sys.stdout.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    sys.exit(main())
