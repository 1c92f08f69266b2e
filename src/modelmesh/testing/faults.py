"""What fails in a simulation, each kind a method that ends when the fault does; False: it could not happen.

Names are those of the last line of `make sim`. All draws come from the world's `rng`, all time is virtual.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

from modelmesh.management.calls import CallError
from modelmesh.ports import RuntimeCallError, StoreError
from modelmesh.testing.cluster import SimulatedInstance, set_split, set_vmodel
from modelmesh.testing.extreme_faults import ExtremeFaults
from modelmesh.testing.poison import PoisonedCall
from modelmesh.testing.raising_faults import RaisingFaults
from modelmesh.testing.rollout_faults import RolloutFaults
from modelmesh.testing.store import FaultyStore
from modelmesh.testing.view_faults import ViewFaults
from modelmesh.testing.world import CONSTRAINED, MOST_INSTANCES, UNCONSTRAINED, UNIT_BYTES, Artefact, DiedError, World
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

VMODELS = ("name-1", "name-2")
SETTLING_MS = 60_000
"""How long after work on a model calls may still find what was before."""

CORRUPT = RuntimeCallError(Status.INVALID_ARGUMENT, "the artefact is corrupt")


class Faults:
    """Injects what is drawn. `counts`: how often each kind was."""

    def __init__(self, world: World) -> None:
        self.counts: Counter[str] = Counter()
        self._world = world
        self._rng: Random = world.rng
        self._now_ms: Callable[[], int] = lambda: round(asyncio.get_running_loop().time() * 1000)
        self._again: dict[ModelId, None] = {}
        self.kinds: dict[str, Callable[[], Awaitable[bool | None]]] = {
            "instance_crash": self._crash,
            "instance_crash_mid_load": self._crash_mid_load,
            "instance_join": self._join,
            "instance_drain": self._drain,
            "partition": self._partition,
            "partition_one_way": self._partition_one_way,
            "runtime_crash": self._runtime_crash,
            "runtime_out_of_memory": self._out_of_memory,
            "runtime_lies": self._lie,
            "runtime_link_lost": self._link_lost,
            "model_vanished": self._vanish,
            "model_corrupt": self._corrupt,
            "model_poisoned": self._poison_model,
            "call_poisoned": self._poison_calls,
            "model_registered_again": self._register_again,
            "vmodel_moved": self._move_vmodel,
            "vmodel_split": self._split_vmodel,
            "load_slow": self._slow_loads,
            "pull_slow": self._slow_pulls,
            "load_failed": self._fail_load,
            "runtime_calls_hung": self._hang_calls,
            "runtime_frozen": self._freeze,
            "constraints_changed": self._change_constraints,
            "clock_stepped": self._step_clock,
            "lease_lost": self._lose_leases,
            "watch_lost": self._break_watches,
            "watch_lag": self._lag,
            "compaction": self._compact,
            "store_cut_off": self._cut_off_store,
            "store_slow": self._slow_store,
            "store_answers_lost": self._lose_answers,
            "store_paused": self._pause_store,
            "store_restarted": self._restart_store,
            "store_emptied": self._empty_store,
        }
        self.kinds.update(ViewFaults(world, meanwhile=self._move_vmodel).kinds)
        self.kinds.update(ExtremeFaults(world).kinds)
        self.kinds.update(RolloutFaults(world, VMODELS).kinds)
        self.kinds.update(RaisingFaults(world, start=self._start).kinds)

    async def inject(self, until_ms: int) -> None:
        """One fault after the other until it is time."""
        while self._now_ms() < until_ms:
            await asyncio.sleep(self._rng.uniform(1, 14))
            kind = self._rng.choice(list(self.kinds))
            if not self._world.cluster.instances:
                continue
            self._world.cluster.note(f"fault: {kind}")
            if await self.kinds[kind]() is not False:
                self.counts[kind] += 1

    async def heal(self) -> None:
        """Nothing fails from now on."""
        self._set_lag(0)
        self._world.constrain(UNCONSTRAINED)
        for model in [*self._world.corrupt, *self._world.poison.loads]:
            await self._replace(self._world.artefacts[model])

    def _some(self) -> tuple[InstanceId, SimulatedInstance]:
        name = self._world.some()
        return name, self._world.cluster.instances[name]

    async def _for_a_while(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self._rng.uniform(least_s, most_s))

    # --- instances --------------------------------------------------------------------------------

    async def _crash(self) -> None:
        if len(self._world.cluster.instances) > 1:
            await self._world.crash(self._world.some())
        else:
            await self._replace_the_only_one()

    async def _crash_mid_load(self) -> bool:
        for _ in range(100):
            names = [
                name
                for name, instance in self._world.cluster.instances.items()
                if any(state.value == "loading" for state in instance.plane.cache.states().values())
            ]
            if names:
                break
            await asyncio.sleep(0.05)
        if not names:
            return False
        if len(self._world.cluster.instances) > 1:
            await self._world.crash(self._rng.choice(names))
        else:
            await self._replace_the_only_one()
        return True

    async def _replace_the_only_one(self) -> None:
        name = self._world.some()
        await self._world.crash(name)
        await self._for_a_while(0.1, 12)
        await self._start()

    async def _join(self) -> bool:
        if len(self._world.cluster.instances) >= MOST_INSTANCES:
            return False
        await self._start()
        return True

    async def _start(self) -> None:
        for _ in range(60):
            try:
                await self._world.add()
            except (StoreError, DiedError) as error:  # whoever supervises it tries again
                self._world.cluster.note(f"start failed: {error}")
                await asyncio.sleep(1)
            else:
                return

    async def _drain(self) -> bool:
        if len(self._world.cluster.instances) < 2:
            return False
        name = self._world.some()
        if self._world.cluster.instances[name].plane.cache.draining:
            return False
        await self._world.leave(name, self._rng.choice((500, 20_000)))
        return True

    def _two(self) -> tuple[InstanceId, InstanceId] | None:
        names = list(self._world.cluster.instances)
        if len(names) < 2:
            return None
        one, other = self._rng.sample(names, 2)
        return one, other

    async def _partition(self) -> bool:
        """Nothing passes between two instances."""
        if (two := self._two()) is None:
            return False
        self._world.cluster.network.cut(*two)
        await self._for_a_while(0.1, 20)
        self._world.cluster.network.heal(*two)
        return True

    async def _partition_one_way(self) -> bool:
        """One instance cannot open connections to another, which can open some to it."""
        if (two := self._two()) is None:
            return False
        self._world.cluster.network.block(*two)
        await self._for_a_while(0.1, 20)
        self._world.cluster.network.unblock(*two)
        return True

    async def _step_clock(self) -> None:
        """A host's clock is set: it jumps, forwards or back, by up to a minute."""
        _, instance = self._some()
        instance.set_skew(self._rng.randint(-60_000, 60_000))

    # --- runtimes ---------------------------------------------------------------------------------

    async def _runtime_crash(self) -> None:
        _, instance = self._some()
        instance.runtime.crash()

    async def _out_of_memory(self) -> None:
        """What the runtime has is less than it said; a load too many is refused, or kills it."""
        _, instance = self._some()
        runtime = instance.runtime
        capacity = runtime.capacity_bytes
        runtime.capacity_bytes = max(10 * UNIT_BYTES, capacity * 6 // 10)
        runtime.overflow = self._rng.choice(("refuse", "crash"))
        await self._for_a_while(5, 20)
        runtime.capacity_bytes, runtime.overflow = capacity, "allow"
        runtime.crash()

    async def _lie(self) -> None:
        """Sizes are reported wrongly, until a restart of the runtime."""
        _, instance = self._some()
        factor = self._rng.choice((0.5, 0.8, 1.3, 2.0))
        instance.runtime.reported_size = lambda size: max(1, round(size * factor))
        await self._for_a_while(5, 20)
        instance.runtime.reported_size = lambda size: size
        instance.runtime.crash()

    async def _link_lost(self) -> None:
        _, instance = self._some()
        instance.dataplane.runtime_link(up=False)
        await self._for_a_while(0.1, 5)
        if not instance.runtime.down:  # else it died meanwhile, and the link is back when it is
            instance.dataplane.runtime_link(up=True)

    async def _vanish(self) -> bool:
        """A runtime loses a model without being told to."""
        _, instance = self._some()
        if not instance.runtime.loaded:
            return False
        instance.runtime.vanish(self._rng.choice(list(instance.runtime.loaded)))
        return True

    async def _slow_loads(self) -> None:
        _, instance = self._some()
        instance.runtime.slowdown = self._rng.choice((5.0, 20.0))
        await self._for_a_while(2, 15)
        instance.runtime.slowdown = 1.0

    async def _slow_pulls(self) -> None:
        """Loads take longer than the runtime says that they do, and tell how far they are; some hang."""
        _, instance = self._some()
        runtime = instance.runtime
        runtime.tells, runtime.slowdown = True, self._rng.choice((20.0, 60.0))
        await self._for_a_while(5, 30)
        runtime.slowdown = 1.0
        if self._rng.random() < 0.3:
            runtime.stalled.update(runtime.models())
            await self._for_a_while(5, 30)
            runtime.stalled.clear()

    async def _fail_load(self) -> None:
        _, instance = self._some()
        instance.runtime.fail_next("load", self._rng.choice((Status.INTERNAL, Status.UNAVAILABLE, Status.UNKNOWN)))

    async def _hang_calls(self) -> None:
        """A runtime takes calls of one kind and never answers them, though it answers others, and later ones."""
        _, instance = self._some()
        method = self._rng.choice(("load", "unload", "measure_size", "predict_size"))
        instance.runtime.hung.add(method)
        await self._for_a_while(1, 15)
        instance.runtime.hung.discard(method)

    async def _freeze(self) -> None:
        """A runtime hangs for a while, as a stopped process does, and continues where it was."""
        _, instance = self._some()
        instance.runtime.freeze()
        await self._for_a_while(0.5, 25)
        instance.runtime.thaw()

    # --- models -----------------------------------------------------------------------------------

    def _artefact(self) -> Artefact | None:
        free = [artefact for artefact in self._world.artefacts.values() if artefact.model not in self._again]
        return self._rng.choice(free) if free else None

    async def _register_again(self) -> bool:
        artefact = self._artefact()
        if artefact is None:
            return False
        await self._replace(artefact)
        return True

    async def _replace(self, artefact: Artefact) -> None:
        """Unregistered, and registered again with another path."""
        self._again[artefact.model] = None
        artefact.unsure_ms = self._now_ms() + 10 * SETTLING_MS
        if await self._world.unregister(artefact):
            self._world.mended(artefact.model)
            artefact.generation += 1
            if self._rng.random() < 0.5:
                await self._for_a_while(0, 3)
            await self._world.register(artefact)
        else:
            # Perhaps it is registered, perhaps not: an answer was lost, or the store was emptied meanwhile.
            self._world.mended(artefact.model)
            await self._world.register(artefact)
        # If the record is the same, its failures are still believed, by clocks that may have been set meanwhile.
        artefact.unsure_ms = self._now_ms() + 3 * SETTLING_MS
        self._again.pop(artefact.model, None)

    async def _corrupt(self) -> bool:
        """The artefact becomes unreadable; after a while its owner registers a good one."""
        artefact = self._artefact()
        if artefact is None:
            return False
        self._again[artefact.model] = None  # no other fault takes it meanwhile
        artefact.unsure_ms = self._now_ms() + 10 * SETTLING_MS
        self._world.corrupt[artefact.model] = CORRUPT
        await self._for_a_while(5, 20)
        await self._replace(artefact)
        return True

    async def _poison_model(self) -> bool:
        """Loads of a model end their runtimes; after a while its owner registers a good one."""
        artefact = self._artefact()
        if artefact is None:
            return False
        self._again[artefact.model] = None
        artefact.unsure_ms = self._now_ms() + 10 * SETTLING_MS
        self._world.poison.loads[artefact.model] = None
        for _ in range(self._rng.randint(5, 20)):
            await self._call(artefact, "a call")
            await self._for_a_while(0.1, 2)
        await self._replace(artefact)
        return True

    async def _poison_calls(self) -> bool:
        """A client sends calls that end their runtimes, again and again."""
        artefact = self._artefact()
        if artefact is None or not self._world.cluster.instances:
            return False
        for number in range(self._rng.randint(10, 60)):
            artefact.unsure_ms = max(artefact.unsure_ms, self._now_ms() + SETTLING_MS)
            await self._call(artefact, PoisonedCall(number))
            await self._for_a_while(0.05, 1)
        return True

    async def _call(self, artefact: Artefact, payload: object) -> None:
        """However it ends."""
        if self._world.cluster.instances:
            await self._world.cluster.call(artefact.model, via=self._world.some(), payload=payload, timeout_ms=5_000)

    async def _move_vmodel(self) -> bool:
        """A name is pointed at another model while it is called."""
        return await self.point(self._rng.choice(VMODELS))

    async def point(self, vmodel: str) -> bool:
        """Point a name at some model; False if there is none."""
        artefact = self._artefact()
        if artefact is None or not artefact.registered:
            return False

        async def work(instance: SimulatedInstance) -> None:
            await set_vmodel(instance, vmodel, artefact.model)

        return await self._world.try_until_done(work)

    async def _split_vmodel(self) -> bool:
        """Other models get a share of a name's calls, or it ends."""
        known = sorted(model for model, artefact in self._world.artefacts.items() if artefact.registered)
        models = self._rng.sample(known, min(len(known), self._rng.randint(0, 2)))
        shares = {str(model): self._rng.randint(1, 50) for model in models}
        vmodel = self._rng.choice(VMODELS)
        force = self._rng.random() < 0.3

        async def work(instance: SimulatedInstance) -> None:
            try:
                await set_split(instance, vmodel, shares, force=force)
            except CallError as error:
                if error.status not in {Status.NOT_FOUND, Status.INVALID_ARGUMENT}:
                    raise  # else there is no such vmodel or model now, or it is the active one

        return await self._world.try_until_done(work)

    async def _change_constraints(self) -> None:
        self._world.constrain(CONSTRAINED)
        await self._for_a_while(3, 20)
        self._world.constrain(UNCONSTRAINED)

    # --- the store --------------------------------------------------------------------------------

    def _stores(self) -> list[FaultyStore]:
        return [self._world.stores[name] for name in self._world.cluster.instances]

    async def _lose_leases(self) -> None:
        for store in self._stores():
            await store.expire_leases()

    async def _break_watches(self) -> None:
        for store in self._stores():
            store.break_watches()

    def _set_lag(self, lag_ms: int) -> None:
        self._world.watch_lag_ms = lag_ms
        for store in self._stores():
            store.watch_lag_ms = lag_ms

    async def _lag(self) -> None:
        self._set_lag(self._rng.choice((50, 500, 3000)))
        await self._for_a_while(2, 20)
        self._set_lag(0)

    async def _compact(self) -> None:
        for store in self._stores():
            await store.compact()

    async def _cut_off_store(self) -> None:
        """One instance alone loses the store."""
        name, _ = self._some()
        store = self._world.stores[name]
        store.pause()
        await self._for_a_while(0.5, 20)
        if not self._world.store_paused:
            store.resume()

    async def _slow_store(self) -> None:
        """Every call to the store takes its time."""
        latency_ms = self._rng.choice((20, 200, 700))
        for store in self._stores():
            store.latency_ms = latency_ms
        await self._for_a_while(2, 15)
        for store in self._world.stores.values():
            store.latency_ms = 0

    async def _lose_answers(self) -> None:
        """What an instance writes is written, and it does not learn so."""
        name, _ = self._some()
        store = self._world.stores[name]
        store.loses_answers = True
        await self._for_a_while(0.5, 8)
        store.loses_answers = False

    async def _pause_store(self) -> None:
        self._world.store_paused = True
        for store in self._stores():
            store.pause()
        await self._for_a_while(0.5, 15)
        self._resume_store()

    def _resume_store(self) -> None:
        self._world.store_paused = False
        for store in self._stores():
            store.resume()

    async def _restart_store(self) -> None:
        """Away for a moment; leases and keys are kept, connections are not."""
        self._world.store_paused = True
        for store in self._stores():
            store.pause()
        for _ in range(self._rng.randint(1, 8)):
            await asyncio.sleep(1)
            for store in self._stores():
                await store.keep_leases()
        for store in self._stores():
            store.break_watches()
        self._resume_store()

    async def _empty_store(self) -> None:
        for artefact in self._world.artefacts.values():
            artefact.unsure_ms = self._now_ms() + 10 * SETTLING_MS
        await self._world.memory.empty()
        self._world.poison.forgive()
        for store in self._world.stores.values():
            store.emptied()
            store.break_watches()
        self._world.emptied()
        # Whoever runs the cluster registers again what no instance held.
        for artefact in self._world.artefacts.values():
            if artefact.model not in self._again:
                await self._world.register(artefact)
        for artefact in self._world.artefacts.values():
            if artefact.model not in self._again and not self._world.spoiled(artefact.model):
                artefact.unsure_ms = self._now_ms() + SETTLING_MS
