"""What the runtimes of each namespace need, sampled from the meshes: for metrics, for external scalers, and for the controller's own scaling."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from modelmesh._proto import admin_pb2 as pb
from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.demand import (
    Demand,
    InstanceLoad,
    Trend,
    decide_demand,
    deletion_costs,
    limits_of,
    settled,
)
from modelmesh.kubernetes.kinds import Key
from modelmesh.kubernetes.loop.mesh import Mesh
from modelmesh.kubernetes.loop.world import World
from modelmesh.kubernetes.ports import MeshError
from modelmesh.kubernetes.render import ScaledBy, deployment_name, scaled_by
from modelmesh.ports import Clock
from modelmesh.values.status import Status

SAMPLE_MS = 15_000
ASK_S = 10.0
OLD_MS = 60_000
"""After so long without an answer it is not known any more what a runtime needs."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of a runtime in a namespace.

    Attributes:
        pods: What there shall be if the controller sets it: more at once, fewer after a while.
        standing: Pods that the Deployment asked for; with another number the decision is an old one.
        costs: What it costs to empty each instance.
        at_ms: When it was sampled, monotonic.
    """

    demand: Demand
    pods: int
    trend: Trend
    standing: int
    costs: Mapping[str, int]
    at_ms: int


class Demands:
    """Samples all meshes every few seconds; one that does not answer delays no other.

    Args:
        meshes: Of the namespaces that are served; it changes.
        changed: Called with namespace and runtime if another number of pods is needed than before.
        failed: Called for each mesh that could not be asked.
    """

    def __init__(
        self,
        world: World,
        meshes: Mapping[str, Mesh],
        clock: Clock,
        *,
        changed: Callable[[str, str], object],
        failed: Callable[[str, MeshError], object],
    ) -> None:
        self._world = world
        self._meshes = meshes
        self._clock = clock
        self._changed = changed
        self._failed = failed
        self._samples: dict[tuple[str, str], Sample] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Event()

    def get(self, namespace: str, runtime: str) -> Sample | None:
        """What is known of a runtime; None: nothing, or not any more."""
        found = self._samples.get((namespace, runtime))
        return found if found is not None and self._clock.monotonic_ms() - found.at_ms < OLD_MS else None

    def known(self) -> Iterable[tuple[str, str, Sample]]:
        """All that is known: namespace, runtime, sample."""
        for namespace, runtime in sorted(self._samples):
            if (found := self.get(namespace, runtime)) is not None:
                yield namespace, runtime, found

    async def next_turn(self) -> None:
        """Wait until something may have changed."""
        await self._turn.wait()

    def stir(self) -> None:
        """Something may have changed."""
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    async def run(self) -> None:
        """Sample until cancelled."""
        try:
            while True:
                for namespace, mesh in tuple(self._meshes.items()):
                    if namespace not in self._asking and mesh.reachable:
                        task = asyncio.get_running_loop().create_task(
                            self._ask(namespace, mesh), name=f"sample {namespace}"
                        )
                        self._asking[namespace] = task
                for key in [key for key in self._samples if key[0] not in self._meshes]:
                    del self._samples[key]
                await self._clock.sleep(SAMPLE_MS)
        finally:
            tasks = tuple(self._asking.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.stir()

    async def _ask(self, namespace: str, mesh: Mesh) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                self._take(namespace, await mesh.instances())
        except TimeoutError:
            self._failed(namespace, MeshError(Status.DEADLINE_EXCEEDED, f"instances were not listed in {ASK_S:.0f} s"))
        except MeshError as error:
            # Instances of the archived project cannot be asked; one that is being connected to is asked in the next round.
            if error.code not in {Status.UNIMPLEMENTED, Status.UNAVAILABLE}:
                self._failed(namespace, error)
        finally:
            del self._asking[namespace]

    def _take(self, namespace: str, instances: Iterable[pb.Instance]) -> None:
        config = self._world.config(namespace)
        if config is None:
            return
        by_runtime: dict[str, list[InstanceLoad]] = {}
        for one in instances:
            for label in one.labels:
                if label.startswith("rt:"):
                    by_runtime.setdefault(label.removeprefix("rt:"), []).append(_read(one))
        now_ms = self._clock.monotonic_ms()
        seen = set()
        for declared in self._world.runtimes(namespace):
            runtime = declared.runtime
            if runtime is None or not runtime.serves:
                continue
            live = self._world.caches[kinds.DEPLOYMENT].get(Key(namespace, deployment_name(runtime, config)))
            if live is None:
                continue
            replicas = live["spec"].get("replicas")
            standing = 1 if replicas is None else int(replicas)
            loads = by_runtime.get(runtime.name, [])
            limits = limits_of(runtime, bounded=scaled_by(runtime) is ScaledBy.CONTROLLER)
            demand = decide_demand(loads, standing=standing, limits=limits)
            before = self._samples.get((namespace, runtime.name))
            trend = before.trend if before is not None else Trend()
            pods, trend = settled(demand, trend, standing=standing, now_ms=now_ms)
            seen.add(runtime.name)
            self._samples[namespace, runtime.name] = Sample(
                demand, pods, trend, standing, deletion_costs(loads), now_ms
            )
            if before is None or (pods, demand.pods) != (before.pods, before.demand.pods):
                self._changed(namespace, runtime.name)
        for key in [key for key in self._samples if key[0] == namespace and key[1] not in seen]:
            del self._samples[key]
        self.stir()


def _read(one: pb.Instance) -> InstanceLoad:
    return InstanceLoad(
        instance=one.id,
        capacity_bytes=one.capacity_bytes,
        used_bytes=one.used_bytes,
        calls=one.calls_at_once_hundredths / 100,
        load_wait_ms=one.expected_wait_ms,
        worth_ms=one.worth_ms_per_gib,
        draining=one.draining or not one.reachable,
    )
