"""One seeded simulation of a whole cluster under faults, on virtual time.

One integer decides the cluster, the models, the traffic, the latencies and the faults. Invariants are looked
at after every turn of the loop (`modelmesh.testing.invariants`). After the faults every model that fits must
be served, and then the cluster must come to rest. `modelmesh.testing.campaign` runs many.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from modelmesh.testing.at_rest import caches_equal_the_store
from modelmesh.testing.attempts import Answer
from modelmesh.testing.clock import EPOCH_MS, VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster
from modelmesh.testing.faults import VMODELS, Faults
from modelmesh.testing.invariants import INJECTED, Invariants
from modelmesh.testing.raising import InjectedError
from modelmesh.testing.world import MOST_INSTANCES, Artefact, World
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId, VModelId
from modelmesh.values.records import ModelRecord, VModelRecord
from modelmesh.values.status import Status

FAULTY_S = 500
CALM_S = 45
"""From the last fault until every model must be served: leases, expired failures."""

SERVED_WITHIN_MS = 120_000
QUIET_S = 60
REPEATED = 8
"""Nothing fails: whoever still does the same as often as this within a minute does it forever."""

CALLERS = 3
SIZES = (1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8, MOST_INSTANCES)
"""How many instances a cluster begins with."""

LANES = 2
"""Faults that happen at once."""

_ALLOWED = frozenset({Status.OK, Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.DEADLINE_EXCEEDED})
_UNSURE = _ALLOWED | {Status.NOT_FOUND, Status.INTERNAL}
"""What a call for a model may end in while its owner works on it."""

_EXPLAINED = (
    "scripted failure",
    "out of memory",
    " needs ",
    "label requirements",
    "went away while",
    " processed this request ",
    "ended while it",
    "is not loaded for",
    "timed out after",
    "Nowhere available",
    "had an internal error here",
    INJECTED,
)
"""What an INTERNAL answer must be about, for other models: the faults that were injected."""


@dataclass(slots=True)
class Outcome:
    """What one seed did. `faults`: how often each kind was injected; `digest`: of the whole story."""

    seed: int
    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    story: list[Event] = field(default_factory=list)
    steps: int = 0
    virtual_ms: int = 0
    problem: str = ""

    def lines(self) -> list[str]:
        """The story, a line an event."""
        return [
            f"{event.time_ms - EPOCH_MS:>8} ms  {event.instance:<4} {event.kind:<16} {event.model:<10} "
            f"{event.reason} {event.detail}".rstrip()
            for event in self.story
        ]

    @property
    def digest(self) -> str:
        """Two runs of a seed that went the same way have the same."""
        return hashlib.sha256("\n".join([*self.lines(), str(sorted(self.calls.items()))]).encode()).hexdigest()


class Simulation:
    """One seeded run. Use `simulate`.

    Args:
        seed: Decides everything.
        faulty_s: How long faults are injected.
        spoil: Breaks something on purpose, for tests of the simulator itself; called with each new cluster.
    """

    def __init__(
        self, seed: int, *, faulty_s: int = FAULTY_S, spoil: Callable[[SimulatedCluster], None] = lambda _: None
    ) -> None:
        self.outcome = Outcome(seed)
        self.world = World.drawn(seed)
        self.world.cluster.keeps = lambda error: not isinstance(error, InjectedError)
        self._faulty_s = faulty_s
        self._rng = Random(seed + 1)  # noqa: S311 - a simulation
        self._clock = VirtualClock()
        self._faults = Faults(self.world)
        self._traffic = True
        spoil(self.world.cluster)

    async def run(self) -> Outcome:
        """Play the seed to its end."""
        self.outcome.story = self.world.cluster.story
        self._invariants = Invariants(
            self.world.cluster,
            self.world.memory,
            disturbed=lambda name: self.world.stores[name].paused or name in self.world.hopeless,
            hopeless=self.world.hopeless.__contains__,
            problems=self.world.poison.problems,
        )
        self.world.emptied = self._invariants.store_replaced
        await self._invariants.begin()
        playing = asyncio.ensure_future(self._play())
        try:
            await asyncio.wait((playing, self._invariants.found), return_when=asyncio.FIRST_COMPLETED)
            self._invariants.check()
            await playing
        except AssertionError as error:
            self.outcome.problem = str(error) or "an assertion without words"
        except Exception as error:  # noqa: BLE001 - a seed that breaks the simulator is one to repeat, too
            self.outcome.problem = f"the simulator itself failed: {error!r}"
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            self.outcome.virtual_ms = self._clock.monotonic_ms()
            self.outcome.steps = self._invariants.steps
            self.outcome.faults = self._faults.counts
            await self._invariants.end()
            await self.world.close()
        return self.outcome

    async def _play(self) -> None:
        for _ in range(self._rng.choice(SIZES)):
            await self.world.add()
        for artefact in self.world.artefacts.values():
            await self.world.register(artefact)
        for vmodel in VMODELS:
            await self._faults.point(vmodel)
        until_ms = self._clock.monotonic_ms() + self._faulty_s * 1000
        callers = [asyncio.create_task(self._caller(number)) for number in range(CALLERS)]
        lanes = [asyncio.create_task(self._faults.inject(until_ms)) for _ in range(LANES)]
        try:
            await self._all(lanes, callers)
            await self._faults.heal()
            self.world.cluster.note("faults end")
            began = len(self.world.cluster.story)
            await asyncio.sleep(CALM_S)
            self._traffic = False
            self._repeats(began, {"adds_copies", "drops_copy", "moved"}, "without faults")
            await self._all(callers, [])
        finally:
            for task in [*callers, *lanes]:
                task.cancel()
        await self._everything_is_served()
        await self._comes_to_rest()

    async def _all(self, tasks: "list[asyncio.Task[None]]", beside: "list[asyncio.Task[None]]") -> None:
        """Wait for `tasks`, but fail at once when one of them, or one `beside`, fails."""
        left = list(tasks)
        while left:
            await asyncio.wait([*left, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in [*left, *beside] if task.done()]:
                task.result()
            left = [task for task in left if not task.done()]

    # --- traffic --------------------------------------------------------------------------------

    async def _caller(self, number: int) -> None:
        rng = Random(self.outcome.seed * 1000 + number)  # noqa: S311 - a simulation
        models = list(self.world.artefacts.values())
        while self._traffic:
            await asyncio.sleep(rng.expovariate(1.2))
            names = list(self.world.cluster.instances)
            if not names:
                continue
            via = rng.choice(names)
            if rng.random() < 0.1:
                await self._call_vmodel(rng.choice(VMODELS), via, number)
                continue
            artefact = models[min(int(rng.paretovariate(0.7)) - 1, len(models) - 1)]
            timeout_ms = rng.choice((30_000, 30_000, 30_000, 300))
            await self._call(artefact, via, number, timeout_ms)

    async def _call(self, artefact: Artefact, via: str, payload: object, timeout_ms: int) -> Answer:
        unsure_ms = artefact.unsure_ms
        began_ms, known = self._clock.monotonic_ms(), self._invariants.call_begins(InstanceId(via))
        answer = await self.world.cluster.call(artefact.model, via=via, payload=payload, timeout_ms=timeout_ms)
        self.outcome.calls[answer.status.name] += 1
        if answer.status is Status.OK:
            assert isinstance(answer.payload, tuple)
            model, returned, path = answer.payload
            assert (model, returned) == (artefact.model, payload), f"{artefact.model} was answered {answer.payload}"
            self._invariants.call_answered(artefact.model, path, by=answer.served_by, began_ms=began_ms, known=known)
            return answer
        if began_ms < max(unsure_ms, artefact.unsure_ms):
            allowed = answer.status in _UNSURE
        else:
            explained = answer.status is Status.INTERNAL and any(text in answer.message for text in _EXPLAINED)
            allowed = answer.status in _ALLOWED or explained
        assert allowed, f"a call for {artefact.model} via {via} ended in {answer.status.name}: {answer.message}"
        return answer

    async def _call_vmodel(self, vmodel: str, via: str, payload: object) -> None:
        began_ms, known = self._clock.monotonic_ms(), self._invariants.call_begins(InstanceId(via))
        answer = await self.world.cluster.call(vmodel, via=via, payload=payload, vmodel=True, timeout_ms=30_000)
        self.outcome.calls[f"vmodel_{answer.status.name}"] += 1
        if answer.status is Status.OK:
            assert isinstance(answer.payload, tuple)
            model, returned, path = answer.payload
            assert returned == payload, f"{vmodel} was answered {answer.payload}"
            self._invariants.name_answered(VModelId(vmodel), model, via=InstanceId(via), began_ms=began_ms, known=known)
            self._invariants.call_answered(model, path, by=answer.served_by, began_ms=began_ms, known=known)
        assert answer.status in _UNSURE, f"a call for {vmodel} ended in {answer.status.name}: {answer.message}"

    # --- after the faults -------------------------------------------------------------------------

    async def _everything_is_served(self) -> None:
        """Liveness: without faults each model that fits is served within a bounded time."""
        for artefact in self.world.artefacts.values():
            if not artefact.registered or not self.world.fits(artefact):
                continue
            until_ms = self._clock.monotonic_ms() + SERVED_WITHIN_MS
            while True:
                answer = await self._call(artefact, self.world.some(), "liveness", 60_000)
                if answer.status is Status.OK:
                    break
                assert self._clock.monotonic_ms() < until_ms, (
                    f"{artefact.model} is not served {SERVED_WITHIN_MS // 1000} s after the faults: "
                    f"{answer.status.name} {answer.message}"
                )
                await asyncio.sleep(2)

    async def _comes_to_rest(self) -> None:
        """Without calls and faults nothing is done over and over, and every key has its copy."""
        await asyncio.sleep(5)
        began = len(self.world.cluster.story)
        await asyncio.sleep(QUIET_S)
        self._repeats(began, None, "at rest")
        await self.world.cluster.settled(within_ms=40_000)
        await self._references_are_exact()
        await caches_equal_the_store(self.world.cluster, self.world.memory)

    async def _references_are_exact(self) -> None:
        """Each model counts the vmodels that name it."""
        store = self.world.memory
        vmodels = [VModelRecord.decode(item.value) for item in (await store.range(KEYS.vmodels)).items]
        for item in (await store.range(KEYS.registry)).items:
            model, counted = item.key.removeprefix(KEYS.registry), ModelRecord.decode(item.value).references
            named = sum(model in vmodel.models for vmodel in vmodels)
            assert counted == named, f"{model} counts {counted} references, {named} vmodels name it"

    def _repeats(self, began: int, kinds: "set[str] | None", when: str) -> None:
        """No proposal repeats forever: the story since event `began` has none that came again and again."""
        done = Counter(
            (event.instance, event.kind, ModelId(event.model), event.reason)
            for event in self.world.cluster.story[began:]
            if kinds is None or event.kind in kinds
        )
        for (instance, kind, model, reason), times in done.items():
            assert times < REPEATED, f"{instance} repeats itself {when}: {kind} {model} {reason}, {times} times"


def simulate(
    seed: int, *, faulty_s: int = FAULTY_S, spoil: Callable[[SimulatedCluster], None] = lambda _: None
) -> Outcome:
    """Run one seed on virtual time."""

    async def main() -> Outcome:
        return await Simulation(seed, faulty_s=faulty_s, spoil=spoil).run()

    return run_virtual(main())
