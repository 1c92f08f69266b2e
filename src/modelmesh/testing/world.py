"""What a simulation plays with: a cluster whose every part can fail, and the models that it serves."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.control.settings import ControlLimits
from modelmesh.management.calls import CallError
from modelmesh.policy.constraints import TypeConstraint, TypeConstraints
from modelmesh.policy.copies import CopiesLimits
from modelmesh.ports import ModelSource, RuntimeCallError, StoreError
from modelmesh.testing.clock import VirtualClock
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, infer_after, register, unregister
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.testing.model_paths import ModelScript
from modelmesh.testing.poison import Poison
from modelmesh.testing.raising import InjectedError
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status

UNIT_BYTES = 100
MOST_INSTANCES = 12
FAILURE_EXPIRY_MS = 30_000
COPIES = CopiesLimits(regular_from_ms=20_000, regular_to_ms=120_000, spare_again_ms=20_000)
"""What makes use regular in minutes elsewhere does in seconds here: a run of minutes would hardly see a spare."""

SUPERVISED_MS = 1000
"""How soon a runtime that died by itself is noticed by whoever restarts it."""

TYPES = ("plain", "plain", "plain", "special")
CONSTRAINED = TypeConstraints({"special": TypeConstraint(required=("special",))})
UNCONSTRAINED = TypeConstraints()


@dataclass(slots=True)
class Artefact:
    """A model as its owner sees it. `path` changes when it is registered again; sizes in bytes."""

    model: ModelId
    kind: str
    size_bytes: int
    load_ms: int
    generation: int = 1
    registered: bool = False
    unsure_ms: int = 0
    """Until then calls may find it registered or not, or failing: its owner is at work on it."""

    @property
    def path(self) -> str:
        """Says which artefact it is, and how it loads."""
        return f"g{self.generation}-{self.size_bytes}-{self.load_ms}"


class DiedError(Exception):
    """An instance was crashed before it had started."""


@dataclass(slots=True)
class World:
    """One cluster, its stores and its models; everything drawn comes from `rng`."""

    rng: Random
    memory: SqliteStore
    cluster: SimulatedCluster
    artefacts: dict[ModelId, Artefact]
    poison: Poison
    stores: dict[InstanceId, FaultyStore] = field(default_factory=dict)
    labels: dict[InstanceId, tuple[str, ...]] = field(default_factory=dict)
    corrupt: dict[ModelId, RuntimeCallError] = field(default_factory=dict)
    constraints: TypeConstraints = UNCONSTRAINED
    hopeless: set[InstanceId] = field(default_factory=set)
    """Instances that raise whatever they do, until they give up."""
    added: int = 0
    store_paused: bool = False
    watch_lag_ms: int = 0
    emptied: Callable[[], None] = lambda: None
    starting: dict[InstanceId, asyncio.Task[SimulatedInstance]] = field(default_factory=dict)
    supervisors: dict[InstanceId, asyncio.Task[None]] = field(default_factory=dict)

    @classmethod
    def drawn(cls, seed: int) -> "World":
        """The world of a seed, still without instances."""
        rng = Random(seed)  # noqa: S311 - a simulation
        memory = SqliteStore(":memory:", expires_leases=True)
        cluster = SimulatedCluster(seed=seed, store=memory, latency_ms=rng.choice((1, 1, 2, 10)))
        artefacts = {}
        for number in range(rng.randint(3, 40)):
            model = ModelId(f"model-{number}")
            size = rng.choice((50, 100, 100, 100, 200, 400))
            artefacts[model] = Artefact(model, rng.choice(TYPES), size, rng.choice((1, 20, 200, 2000)))
        draws = Random(seed + 2)  # noqa: S311 - a simulation
        poison = Poison(rng=draws, now_ms=VirtualClock().monotonic_ms, window_ms=FAILURE_EXPIRY_MS)
        return cls(rng, memory, cluster, artefacts, poison)

    # --- instances --------------------------------------------------------------------------------

    async def add(self) -> SimulatedInstance:
        """Start an instance of a drawn size and speed, on a host with a drawn clock error.

        Raises:
            StoreError: It cannot start because the store is away; then it is gone again.
            DiedError: It was crashed before it had started.
        """
        self.added += 1
        name = InstanceId(f"i{self.added:02}")
        clock = VirtualClock(self.rng.randint(-60_000, 60_000))
        self.labels[name] = ("special",) if self.added % 3 == 1 else ()
        store = self.stores[name] = FaultyStore(self.memory, VirtualClock())
        store.watch_lag_ms = self.watch_lag_ms
        if self.store_paused:
            store.pause()
        runtime = FakeRuntime(
            clock,
            capacity_bytes=UNIT_BYTES * self.rng.randint(10, 20),
            default_size_bytes=UNIT_BYTES,
            loading_concurrency=self.rng.randint(1, 4),
            max_concurrency=self.rng.choice((0, 0, 0, 4)),
            load_timeout_ms=20_000,
            random=Random(self.rng.getrandbits(32)),  # noqa: S311 - a simulation
            script=_script,
            predicts=self.rng.choice((None, lambda size: size)),
            predict_ms=self.rng.choice((0, 5, 400)),
            answers_size=self.rng.random() < 0.7,
            measure_ms=self.rng.choice((0, 50)),
        )
        runtime.load_failures = self.corrupt
        runtime.at_work = self.poison.on_load
        calls = Random(self.rng.getrandbits(32))  # noqa: S311 - a simulation
        starting = self.starting[name] = asyncio.create_task(
            self.cluster.add(
                name,
                skew_ms=clock.skew_ms,
                labels=self.labels[name],
                runtime=runtime,
                store=store,
                limits=ControlLimits(failure_expiry_ms=FAILURE_EXPIRY_MS, copies=COPIES),
                infer=self.poison.on_calls(infer_after(lambda: calls.choice((1, 1, 5, 20, 200, 3000)), with_path=True)),
            )
        )
        try:
            instance = await starting
        except StoreError:
            if name in self.cluster.instances:
                await self.cluster.crash(name)
            raise
        except asyncio.CancelledError:
            if name in self.starting:
                starting.cancel()
                raise  # not the instance ends, but the world
            raise DiedError(f"{name} died") from None
        finally:
            self.starting.pop(name, None)
        instance.plane.constrain(self.constraints)
        self.supervisors[name] = asyncio.create_task(self._supervise(name, instance))
        return instance

    async def crash(self, name: InstanceId) -> None:
        """The instance and its runtime die, perhaps before it has started."""
        starting, supervisor = self.starting.pop(name, None), self.supervisors.pop(name, None)
        for task in (starting, supervisor):
            if task is not None:
                task.cancel()
        await self.cluster.crash(name)

    async def leave(self, name: InstanceId, timeout_ms: int) -> None:
        """The instance ends as it should."""
        try:
            await self.cluster.leave(name, timeout_ms=timeout_ms)
        except InjectedError:  # a process ends by that, too
            if name in self.cluster.instances:
                await self.crash(name)
        supervisor = self.supervisors.pop(name, None)
        if supervisor is not None:
            supervisor.cancel()

    async def _supervise(self, name: InstanceId, instance: SimulatedInstance) -> None:
        """Restarts a runtime that died by itself, as Kubernetes would."""
        while self.cluster.instances.get(name) is instance:
            await asyncio.sleep(SUPERVISED_MS / 1000)
            if instance.runtime.down and self.cluster.instances.get(name) is instance:
                instance.runtime.restart()
                instance.dataplane.runtime_link(up=True)

    def some(self) -> InstanceId:
        """An instance, drawn."""
        return self.rng.choice(list(self.cluster.instances))

    def constrain(self, constraints: TypeConstraints) -> None:
        """All instances are told where models of which type may be."""
        self.constraints = constraints
        for instance in self.cluster.instances.values():
            instance.plane.constrain(constraints)

    async def close(self) -> None:
        """End everything."""
        for supervisor in self.supervisors.values():
            supervisor.cancel()
        await self.cluster.stop()

    # --- models -----------------------------------------------------------------------------------

    async def try_until_done(self, work: Callable[[SimulatedInstance], Awaitable[None]]) -> bool:
        """A management call through drawn instances, repeated while the cluster cannot answer."""
        for _ in range(120):
            if not self.cluster.instances:
                await asyncio.sleep(0.5)
                continue
            try:
                await work(self.cluster.instances[self.some()])
            except CallError as error:
                if error.status in {Status.FAILED_PRECONDITION, Status.ALREADY_EXISTS}:
                    return False
                await asyncio.sleep(0.5)
            except (StoreError, InjectedError):
                await asyncio.sleep(0.5)
            else:
                return True
        return False

    async def register(self, artefact: Artefact) -> None:
        """Register a model as its artefact is now."""

        async def work(instance: SimulatedInstance) -> None:
            await register(instance, artefact.model, path=artefact.path, kind=artefact.kind)

        artefact.registered = await self.try_until_done(work) or artefact.registered

    async def unregister(self, artefact: Artefact) -> bool:
        """Unregister it; False if a vmodel refers to it."""

        async def work(instance: SimulatedInstance) -> None:
            await unregister(instance, artefact.model)

        artefact.registered = False
        artefact.registered = not await self.try_until_done(work)
        return not artefact.registered

    def spoiled(self, model: ModelId) -> bool:
        """Whether its artefact is bad at present."""
        return model in self.corrupt or model in self.poison.loads

    def mended(self, model: ModelId) -> None:
        """Its artefact is good again."""
        self.corrupt.pop(model, None)
        self.poison.loads.pop(model, None)

    def fits(self, artefact: Artefact) -> bool:
        """Whether some instance can hold it."""
        missing = self.constraints.missing
        ledgers = {name: instance.plane.cache.ledger for name, instance in self.cluster.instances.items()}
        return any(
            not missing(artefact.kind, self.labels[name])
            and (Memory(artefact.size_bytes) + ledger.reserve).fits(ledger.capacity)
            for name, ledger in ledgers.items()
        )


def _script(source: ModelSource) -> ModelScript:
    """How the artefact at a path loads."""
    _, size_bytes, load_ms = source.path.split("-")
    return ModelScript(int(size_bytes), int(load_ms), unload_ms=5)
