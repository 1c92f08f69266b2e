"""The simulator finds bugs: each invariant broken on purpose, in a policy or in what enacts it, and caught."""

import asyncio
from collections.abc import Callable

import pytest

from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.control import decide
from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.loading import Loading
from modelmesh.control.copies.room import Room
from modelmesh.control.copies.transactions import CopyWriter
from modelmesh.control.duties import balance, scale
from modelmesh.control.requests.journeys import Requests
from modelmesh.machines.member import MemberState
from modelmesh.machines.memory import MemoryLedger
from modelmesh.machines.model_copy import CopyInput
from modelmesh.policy.attempt import AttemptReason, GiveUp, SendTo, next_step
from modelmesh.policy.copies import AddCopies, CopiesReason, DropCopy
from modelmesh.policy.victims import choose_victims
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, infer_after, register, unregister
from modelmesh.testing.faults import Faults
from modelmesh.testing.invariants import Invariants
from modelmesh.testing.simulation import simulate
from modelmesh.testing.store import FaultyStore
from modelmesh.testing.world import Artefact, DiedError, World
from modelmesh.values.dataplane import Hop
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

FAULTY_S = 60
SEEDS = range(1, 25)


def found(problem: str) -> None:
    """One of the first seeds ends in this problem."""
    problems = []
    for seed in SEEDS:
        outcome = simulate(seed, faulty_s=FAULTY_S)
        problems.append(outcome.problem)
        if problem in outcome.problem:
            return
    raise AssertionError(f"{problem!r} was not found, but {problems}")


def only(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    """No other faults than these: what is looked for is then met soon."""
    begin = Faults.__init__

    def few(faults: Faults, world: World) -> None:
        begin(faults, world)
        faults.kinds = {kind: faults.kinds[kind] for kind in kinds}

    monkeypatch.setattr(Faults, "__init__", few)


def test_without_a_bug_nothing_is_found() -> None:
    outcome = simulate(3, faulty_s=FAULTY_S)
    assert outcome.problem == ""
    assert outcome.steps > 100
    assert outcome.calls["OK"] > 50


def test_models_get_spares_for_regular_use() -> None:
    stories = (simulate(seed, faulty_s=FAULTY_S).story for seed in SEEDS)
    assert any(event.kind == "adds_copies" and event.reason == "regular_use" for story in stories for event in story)


def test_a_decision_is_about_the_model_that_it_was_asked_for() -> None:
    """Seed 612: a vmodel was forgotten while its call was sent on, and the fake data plane sent it without a model."""
    assert simulate(612, faulty_s=FAULTY_S).problem == ""


def test_the_same_seed_tells_the_same_story() -> None:
    first, again, other = (simulate(seed, faulty_s=FAULTY_S).digest for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_a_ledger_that_gives_what_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def hand_out(ledger: MemoryLedger) -> list:
        for grant in ledger._grants.values():
            grant.given = grant.want
        return list(ledger._grants)

    monkeypatch.setattr(MemoryLedger, "_hand_out", hand_out)
    found("gave away")


def test_a_ledger_that_does_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryLedger, "_unhold", lambda ledger, load: ledger._held.pop(load))
    found("memory: the ledger of")


def test_a_load_that_is_promised_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Room, "redeem", lambda room, load: None)
    found("has promised")


def test_memory_freed_without_an_unload(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unload(loading: Loading, entry) -> None:
        await asyncio.sleep(0)
        loading._step(entry, CopyInput.UNLOADED)

    monkeypatch.setattr(Loading, "unload", unload)
    found("has no copy of")


def test_two_loads_of_a_model_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Loading.load

    async def twice(loading: Loading, entry) -> None:
        second = asyncio.ensure_future(loading._runtime.load(entry.source))
        try:
            await load(loading, entry)
        finally:
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)

    monkeypatch.setattr(Loading, "load", twice)
    found("a second load of")


def mutated_attempt(monkeypatch: pytest.MonkeyPatch, mutate: Callable) -> None:
    def mutated(journey, model, cluster, **given):
        step = mutate(journey, model, cluster)
        return next_step(journey, model, cluster, **given) if step is None else step

    monkeypatch.setattr(decide, "next_step", mutated)


def test_a_hop_that_is_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(journey, _, cluster):
        others = [entry.instance for entry in cluster.instances if entry.instance != cluster.own]
        return (
            SendTo(others[0], Hop.LOAD, AttemptReason.PLACED_ELSEWHERE) if journey.hop is Hop.LOAD and others else None
        )

    mutated_attempt(monkeypatch, forward)
    found("was forwarded to")


def test_a_call_that_goes_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(journey, model, cluster):
        if journey.hop is not None or journey.last is None:
            return None
        others = [entry.instance for entry in cluster.instances if entry.instance != cluster.own]
        return SendTo(others[0], Hop.HIT, AttemptReason.COPY_ELSEWHERE) if others else None

    mutated_attempt(monkeypatch, forget)
    found("goes round without end")


def test_a_call_resolved_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Requests._drive

    async def twice(requests: Requests, held) -> None:
        await drive(requests, held)
        await asyncio.sleep(0.001)
        requests._dataplane.resolve([(held.token, None)])

    monkeypatch.setattr(Requests, "_drive", twice)
    found("was resolved after its answer")


def test_a_call_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    missed = Requests.missed
    monkeypatch.setattr(Requests, "missed", lambda self, event: None if event.token % 7 == 0 else missed(self, event))
    found("held without a task")


def test_a_key_that_is_never_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def withdraw(*_: object, **__: object) -> bool:
        return True

    monkeypatch.setattr(CopyWriter, "withdraw", withdraw)
    found("has a key and no copy")


def test_the_last_copy_of_a_model_in_use_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(copies, **given):
        return choose_victims([copy._replace(busy=False) for copy in copies], **given)

    monkeypatch.setattr(decide, "choose_victims", careless)
    found("while it is in use")


def two_holders_drop_at_once(monkeypatch: pytest.MonkeyPatch) -> tuple[int, str | None]:
    """Each of two holders believes that its copy is the one too many, in a view that shows both: changes come late.

    Calls run at both meanwhile. Returns how often a copy was dropped, and what was found broken.
    """
    monkeypatch.setattr(scale, "fewer_copies", lambda *_: DropCopy(CopiesReason.DUPLICATED))
    monkeypatch.setattr(scale.Scaler, "_duplicated", lambda *_: True)

    async def main() -> tuple[int, str | None]:
        memory = SqliteStore(":memory:", expires_leases=True)
        stores = [FaultyStore(memory, VirtualClock()) for _ in "ab"]
        cluster = SimulatedCluster(seed=1, store=memory)
        invariants = Invariants(cluster, memory)
        await invariants.begin()
        calls = []
        try:
            for name, store in zip("ab", stores, strict=True):
                await cluster.add(name, store=store, infer=infer_after(lambda: 9_000))
            a = cluster.instances[InstanceId("a")]
            await register(a, "m", load=True)
            await asyncio.sleep(1)
            registered = await a.plane.models.get(ModelId("m"))
            await a.plane.requests.add_copy(ModelId("m"), registered, last_use_ms=a.clock.now_ms())
            await asyncio.sleep(1)
            assert cluster.holders("m") == ["a", "b"]
            for store in stores:
                store.watch_lag_ms = 3_000
            began_ms = a.clock.monotonic_ms()
            while not invariants.found.done() and a.clock.monotonic_ms() - began_ms < 30_000:
                calls += [asyncio.create_task(cluster.call("m", via=name)) for name in "ab"]
                await asyncio.sleep(1)
            dropped = [event for event in cluster.story if event.kind == "dropped" and event.reason == "duplicated"]
            return len(dropped), invariants.broken
        finally:
            for call in calls:
                call.cancel()
            await invariants.end()
            await cluster.stop()

    return run_virtual(main())


def test_of_two_holders_that_drop_at_once_one_keeps_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped, broken = two_holders_drop_at_once(monkeypatch)
    assert dropped >= 2
    assert broken is None


def test_a_redundant_copy_dropped_without_its_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other copy is relied on, and the transaction does not compare that it still stands."""
    withdraw = CopyWriter.withdraw

    async def unguarded(self, model: ModelId, *, record_revision, relied_on=(), last=None) -> bool:
        return await withdraw(self, model, record_revision=record_revision, last=last)

    monkeypatch.setattr(CopyWriter, "withdraw", unguarded)
    _, broken = two_holders_drop_at_once(monkeypatch)
    assert "dropped the last copy of m (duplicated) while it is in use" in (broken or "")


@pytest.mark.parametrize("ends", ["the lease", "the copy"])
def test_a_key_that_goes_with_its_lease_was_not_dropped(ends: str) -> None:
    """A copy was to be dropped, the store was away for too long, and all keys of the instance went (seed 226)."""

    async def main() -> str | None:
        memory = SqliteStore(":memory:", expires_leases=True)
        store = FaultyStore(memory, VirtualClock())
        cluster = SimulatedCluster(seed=1, store=memory)
        invariants = Invariants(cluster, memory)
        await invariants.begin()
        await cluster.add("a", store=store, infer=infer_after(lambda: 2_000))
        a = cluster.instances[InstanceId("a")]
        await register(a, "m", load=True)
        await asyncio.sleep(1)
        call = asyncio.create_task(cluster.call("m", via="a"))
        await asyncio.sleep(0.5)
        if ends == "the lease":
            store.pause()
        a.plane.cache.drop(ModelId("m"), CopiesReason.DUPLICATED)
        if ends == "the lease":
            await memory.revoke(a.plane.membership.lease)
        await asyncio.sleep(0.5)
        call.cancel()
        await invariants.end()
        await cluster.stop()
        return invariants.broken

    broken = run_virtual(main())
    if ends == "the lease":
        assert broken is None
    else:
        assert "dropped the last copy of m (duplicated)" in (broken or "")


def test_an_answer_from_the_model_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "model_registered_again", "vmodel_moved")
    monkeypatch.setattr(Cache, "record_changed", lambda *_: None)
    found("but knew of")


def test_a_model_that_is_never_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(_, model, __):
        return GiveUp(Status.UNAVAILABLE, "no", AttemptReason.NOWHERE) if model.model == "model-1" else None

    mutated_attempt(monkeypatch, give_up)
    found("model-1 is not served")


def test_a_proposal_that_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Added for ever, and dropped for ever."""
    monkeypatch.setattr(scale, "fewer_copies", lambda *_: DropCopy(CopiesReason.LITTLE_USED))
    monkeypatch.setattr(scale, "more_copies", lambda *_: AddCopies(1, CopiesReason.RATE))
    found("repeats itself")


def test_a_wrong_answer_to_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    mutated_attempt(monkeypatch, lambda *_: GiveUp(Status.INTERNAL, "a bug", AttemptReason.NOWHERE))
    found("ended in INTERNAL: a bug")


def test_a_task_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(balance, "next_move", crash)
    found("RuntimeError: a bug")


def test_an_instance_may_be_crashed_while_it_starts() -> None:
    """It was no instance yet that can be crashed, and yet one of those to be drawn."""

    async def main() -> None:
        world = World.drawn(1)
        await world.add()
        world.store_paused = True  # so that it takes a while
        adding = asyncio.create_task(world.add())
        await asyncio.sleep(0.1)
        _, name = world.cluster.instances
        await world.crash(name)
        with pytest.raises(DiedError):
            await adding
        assert name not in world.cluster.instances
        await world.close()

    run_virtual(main())


def test_an_instance_is_not_told_to_leave_twice() -> None:
    """While it left it was still there to be drawn. A process is stopped once (seed 4868 of 5,000)."""

    async def main() -> None:
        world = World.drawn(1)
        await world.add()
        await world.add()
        leaving = [asyncio.create_task(world.leave(name, 500)) for name in world.cluster.instances]
        await asyncio.sleep(0.05)
        states = [instance.plane.membership.state for instance in world.cluster.instances.values()]
        assert states == [MemberState.GONE] * 2
        assert await Faults(world).kinds["instance_drain"]() is False
        await asyncio.gather(*leaving)
        await world.close()

    run_virtual(main())


def test_a_model_whose_owner_cannot_tell_whether_it_is_still_registered_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store was emptied while it was being replaced; later a caller was told that there is no such model."""

    async def without_answer(world: World, artefact: Artefact) -> bool:
        await unregister(world.cluster.instances[world.some()], artefact.model)
        return False

    async def main() -> None:
        world = World.drawn(1)
        await world.add()
        artefact = next(iter(world.artefacts.values()))
        await world.register(artefact)
        monkeypatch.setattr(World, "unregister", without_answer)
        await Faults(world)._replace(artefact)
        assert await world.memory.get(KEYS.model(artefact.model)) is not None
        await world.close()

    run_virtual(main())
