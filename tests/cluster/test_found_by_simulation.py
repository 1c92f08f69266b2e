"""Bugs that the simulator found, as stories."""

import asyncio

import pytest
from cluster_stories import play

from modelmesh.control.copies.entry import DropReason
from modelmesh.control.copies.transactions import CopyWriter
from modelmesh.control.view.state import Changed, LostCopy
from modelmesh.policy.victims import EvictionReason
from modelmesh.ports import Transaction, TransactionResult
from modelmesh.testing.clock import VirtualClock
from modelmesh.testing.cluster import (
    KEYS,
    SimulatedCluster,
    SimulatedInstance,
    infer_after,
    register,
    set_vmodel,
    unregister,
)
from modelmesh.testing.store import FaultyStore
from modelmesh.values.dataplane import CopyIdle, Hop
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.priority import Priority
from modelmesh.values.records import CopyState, ModelRecord
from modelmesh.values.status import Status
from modelmesh.values.view import Copy


def told(cluster: SimulatedCluster, kind: str, reason: str = "") -> int:
    return sum(event.kind == kind and reason in {"", event.reason} for event in cluster.story)


async def two_holders(cluster: SimulatedCluster) -> tuple[SimulatedInstance, SimulatedInstance, FaultyStore]:
    """The model `m` loaded at `a` and `b`; the store is as `a` sees it."""
    store = FaultyStore(cluster.store, VirtualClock())
    a = await cluster.add("a", store=store)
    b = await cluster.add("b")
    await register(b, "m")
    await hold(cluster, "m", "b")
    await hold(cluster, "m", "a")
    return a, b, store


async def hold(cluster: SimulatedCluster, model: str, name: str) -> None:
    """Have the model loaded at that instance."""
    instance = cluster.instances[InstanceId(name)]
    found = await instance.plane.models.get(ModelId(model))
    assert found is not None
    await instance.plane.cache.ensure(
        ModelId(model),
        found,
        view=instance.plane.state.revision,
        caller=None,
        last_use_ms=instance.clock.now_ms(),
    )
    await asyncio.sleep(0.5)


def test_copies_of_an_instance_that_died_unnoticed_are_not_asked_for_ever() -> None:
    """Its lease ended, nobody had a call open to it, and after a minute its address is forgotten."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await cluster.add("b")
        await register(a, "m")
        await hold(cluster, "m", "b")
        await cluster.crash("b")
        await asyncio.sleep(80)
        answer = await cluster.call("m", via="a")
        assert answer.status is Status.OK, answer
        assert told(cluster, "attempt_failed") == 0

    play(story)


def test_an_instance_that_starts_refuses_loads_for_others() -> None:
    """Its UNAVAILABLE was taken for its runtime's, and the client got INTERNAL."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m")
        a.plane._receiver._started = False
        answer = await a.dataplane.serve_hop(ModelId("m"), None, Hop.LOAD, (), None, Priority.NORMAL)
        assert (answer.status, dict(answer.trailers)["mm-refused"]) == (Status.UNAVAILABLE, b"busy")
        a.plane._receiver._started = True

    play(story)


def test_a_copy_added_after_a_partition_is_not_taken_for_a_duplicate() -> None:
    """It was dropped within the second, added again, dropped again."""

    async def story(cluster: SimulatedCluster) -> None:
        for name in "ab":
            await cluster.add(name)
        a, b = (cluster.instances[InstanceId(name)] for name in "ab")
        await register(a, "m")
        a.plane.scaler.cut_off(a.clock.now_ms())
        b.plane.scaler.cut_off(b.clock.now_ms())
        await asyncio.sleep(3)
        await hold(cluster, "m", "a")
        found = await a.plane.models.get(ModelId("m"))
        assert found is not None
        assert await a.plane.requests.add_copy(ModelId("m"), found, last_use_ms=a.clock.now_ms())
        await asyncio.sleep(10)
        assert cluster.holders("m") == ["a", "b"]
        assert told(cluster, "drops_copy") == 0

    play(story)


def test_a_model_lost_at_two_instances_at_once_is_told_of_twice() -> None:
    """Both were put into one transaction, which no store takes."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m")
        record = await cluster.store.get(KEYS.model(ModelId("m")))
        assert record is not None
        lost = [
            LostCopy(
                ModelId("m"),
                Copy(
                    InstanceId(name),
                    CopyState.LOADING,
                    0,
                    LoadId(1),
                    Memory(100),
                    record.create_revision,
                    Revision(1),
                    Revision(1),
                ),
            )
            for name in "bc"
        ]
        a.plane.leader.viewed(Changed(lost=lost))
        await asyncio.sleep(1)
        failures = await cluster.store.range(KEYS.failures)
        assert [item.key.rsplit("/", 1)[1] for item in failures.items] == ["b", "c"]

    play(story)


def test_a_load_that_ends_after_its_instance_left_leaves_no_key() -> None:
    """It was published without a lease, for ever."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a", load_ms=150)
        await register(a, "m")
        call = asyncio.ensure_future(cluster.call("m", via="a"))
        await asyncio.sleep(0.1)
        await cluster.leave("a")
        await call
        await asyncio.sleep(1)
        assert (await cluster.store.range(KEYS.copies)).items == ()

    play(story)


def test_redundant_copies_whose_others_are_gone_are_not_dropped_over_and_over() -> None:
    """With a view that lags, the store refused one victim after the other, the same two in turn, without end."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        store = FaultyStore(cluster.store, VirtualClock())
        await cluster.add("b", store=store, capacity_bytes=1000, default_size_bytes=100)
        for number in range(12):
            await register(a, f"m{number}")
        for number in range(9):
            await hold(cluster, f"m{number}", "b")
            await hold(cluster, f"m{number}", "a")
        await asyncio.sleep(1)
        store.watch_lag_ms = 3000
        for number in range(9):
            a.plane.cache.drop(ModelId(f"m{number}"), DropReason.UNLOAD_ASKED)
        await asyncio.sleep(0.5)
        await hold(cluster, "m10", "b")
        assert told(cluster, "victim") < 12
        store.watch_lag_ms = 0
        await asyncio.sleep(5)

    play(story)


def test_copies_listed_before_the_entry_of_their_instance_are_routed_when_it_comes() -> None:
    """An instance that puts its keys again puts copies first; whoever joins then never had a route to them."""

    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        a = await cluster.add("a", store=store)
        await register(a, "m", load=True)
        await store.expire_leases()
        store.latency_ms = 300
        b = await cluster.add("b")
        assert "a" not in b.plane.state.members
        await asyncio.sleep(5)
        route = b.dataplane.route(ModelId("m"))
        assert route is not None
        assert [copy.instance for copy in route.remote] == ["a"]

    play(story)


def test_a_lease_lost_while_keys_are_put_again_is_put_right() -> None:
    """The entry was written without a lease, the task that keeps it ended, and the instance never came back."""

    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        a = await cluster.add("a", store=store)
        await register(a, "m", load=True)
        store.latency_ms = 400
        a.plane.membership.lease_lost()
        await asyncio.sleep(2.0)
        for _ in range(10):
            a.plane.membership.lease_lost()
            await asyncio.sleep(0.3)
        store.latency_ms = 0
        await asyncio.sleep(15)
        member = await cluster.store.get(KEYS.member(InstanceId("a")))
        assert member is not None
        assert member.lease == a.plane.membership.lease != 0

    play(story)


def test_an_instance_that_leaves_while_it_puts_its_keys_again_leaves_none() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        a = await cluster.add("a", store=store)
        await register(a, "m", load=True)
        await asyncio.sleep(1.5)
        store.latency_ms = 400
        a.plane.membership.lease_lost()
        await asyncio.sleep(0.7)  # it is being put again
        await a.plane.membership.leave()
        await asyncio.sleep(15)
        assert (await cluster.store.range(KEYS.members)).items == ()
        assert (await cluster.store.range(KEYS.copies)).items == ()
        del cluster.instances[InstanceId("a")]
        await a.plane.stop()
        a.dataplane.close()

    play(story)


def test_a_copy_that_became_ready_while_the_runtime_was_not_connected_can_leave() -> None:
    """Its route was never open, so the data plane has nothing to say about when it is idle."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a", load_ms=2_000)
        await register(a, "m")
        call = asyncio.ensure_future(cluster.call("m", via="a", timeout_ms=3_000))
        await asyncio.sleep(1)
        a.dataplane.runtime_link(up=False)
        await asyncio.sleep(1.5)
        assert a.plane.cache.ready() == ("m",)
        a.plane.cache.drop(ModelId("m"), DropReason.UNLOAD_ASKED)
        await asyncio.sleep(2)
        assert a.plane.cache.states() == {}
        a.dataplane.runtime_link(up=True)
        await call

    play(story)


def test_a_copy_of_an_earlier_registration_answers_nothing_while_its_key_cannot_be_deleted() -> None:
    """It was told of the new record, and went on answering from the old path until the store had confirmed the rest."""

    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        a = await cluster.add("a", store=store, infer=infer_after(with_path=True))
        b = await cluster.add("b", infer=infer_after(with_path=True))
        await register(b, "m", path="old")
        await hold(cluster, "m", "a")
        store.loses_answers = True
        await unregister(b, "m")
        await register(b, "m", path="new")
        await asyncio.sleep(1)
        assert a.plane.state.revision >= (await cluster.store.range(KEYS.model(ModelId("m")))).items[0].create_revision
        answer = await cluster.call("m", via="a")
        assert answer.status is Status.OK, answer
        assert answer.payload == ("m", None, "new")
        store.loses_answers = False
        await asyncio.sleep(10)

    play(story)


def test_a_copy_that_relied_on_another_leaves_all_the_same_when_its_record_goes() -> None:
    """The other went with the record, the store refused, and the copy of a model that nobody knows stayed."""

    async def story(cluster: SimulatedCluster) -> None:
        a, b, store = await two_holders(cluster)
        store.latency_ms = 1_000
        a.plane.cache.drop(ModelId("m"), EvictionReason.REDUNDANT, relied_on=a.plane.cache.others(ModelId("m")))
        await unregister(b, "m")
        await asyncio.sleep(5)
        assert a.plane.cache.states() == {}

    play(story)


def test_a_leader_who_has_not_seen_that_it_leads_no_more_does_not_ask_the_store_without_end() -> None:
    """Its write was refused by the fence, and tried again at once, until the view had caught up with the store."""

    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        store.latency_ms = 1
        a = await cluster.add("a", store=store, load_ms=1_000)
        await register(a, "m1", load=True)
        await register(a, "m2")
        await set_vmodel(a, "v", "m1")
        await set_vmodel(a, "v", "m2")
        await asyncio.sleep(0.5)  # the target is loading
        store.watch_lag_ms = 3_000
        await store.expire_leases()
        asked = 0
        transact = store.transact

        async def counted(transaction: Transaction) -> TransactionResult:
            nonlocal asked
            asked += 1
            return await transact(transaction)

        store.transact = counted
        await asyncio.sleep(3)
        assert 0 < asked < 100
        store.watch_lag_ms = 0
        await asyncio.sleep(10)
        assert told(cluster, "vmodel_moved") == 1

    play(story)


def test_a_store_emptied_while_a_watch_is_being_opened_is_met_again() -> None:
    """It had been met a moment before; the watch from its old revision stayed silent, and nothing cold was served."""

    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        a = await cluster.add("a", store=store)
        await register(a, "m", load=True)
        store.latency_ms = 700
        store.break_watches()
        while not told(cluster, "store_back"):
            await asyncio.sleep(0.01)
        await store.empty()
        await asyncio.sleep(1)
        store.latency_ms = 0
        await asyncio.sleep(30)
        assert told(cluster, "store_replaced") == 1
        assert cluster.holders("m") == ["a"]
        assert [item.key for item in (await cluster.store.range(KEYS.copies)).items] == [
            KEYS.copy(ModelId("m"), InstanceId("a"))
        ]

    play(story)


def test_a_record_that_is_put_back_counts_no_vmodels_that_are_gone() -> None:
    """It kept its count, and could not be unregistered for ever (seed 8)."""

    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        a = await cluster.add("a", store=store)
        await register(a, "m", load=True)
        await set_vmodel(a, "v", "m")
        await asyncio.sleep(1)
        await store.empty()
        store.emptied()
        store.break_watches()
        await asyncio.sleep(60)
        assert told(cluster, "record_put_back") == 1
        await set_vmodel(a, "v", "m")
        item = await cluster.store.get(KEYS.model(ModelId("m")))
        assert item is not None
        assert ModelRecord.decode(item.value).references == 1

    play(story)


def test_a_clock_that_is_set_back_does_not_make_the_doubt_about_a_replaced_store_last() -> None:
    """For an hour nobody was told that there is no such model."""

    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        a = await cluster.add("a", store=store)
        await store.empty()
        store.emptied()
        store.break_watches()
        while not told(cluster, "store_replaced"):
            await asyncio.sleep(0.1)
        assert (await cluster.call("unknown", via="a", timeout_ms=1_000)).status is Status.UNAVAILABLE
        a.set_skew(-3_600_000)
        await asyncio.sleep(31)
        assert (await cluster.call("unknown", via="a", timeout_ms=1_000)).status is Status.NOT_FOUND

    play(story)


def test_a_copy_that_stays_after_all_has_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key went with the lease while it was to be dropped, so it was not put again with the others (seed 415)."""
    withdraw = CopyWriter.withdraw

    async def late(self, model: ModelId, **given) -> bool:
        await asyncio.sleep(4)
        return await withdraw(self, model, **given)

    async def story(cluster: SimulatedCluster) -> None:
        a, b, store = await two_holders(cluster)
        monkeypatch.setattr(CopyWriter, "withdraw", late)
        a.plane.cache.drop(ModelId("m"), EvictionReason.REDUNDANT, relied_on=a.plane.cache.others(ModelId("m")))
        await store.expire_leases()
        b.plane.cache.drop(ModelId("m"), DropReason.UNLOAD_ASKED)
        await asyncio.sleep(5)
        assert a.plane.cache.ready() == ("m",)
        held = await cluster.store.range(KEYS.copies_of(ModelId("m")))
        assert [item.key for item in held.items] == [KEYS.copy(ModelId("m"), InstanceId("a"))]

    play(story)


def test_a_copy_is_not_unloaded_under_its_calls_by_what_was_told_of_an_earlier_time() -> None:
    """A copy that was closed and idle, and opened again, was taken for idle when it left with calls on it."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a", infer=infer_after(lambda: 3_000))
        await register(a, "m")
        call = asyncio.ensure_future(cluster.call("m", via="a"))
        await asyncio.sleep(1)
        a.plane.cache.drop(ModelId("m"), DropReason.UNLOAD_ASKED)
        await asyncio.sleep(0.5)
        copy = a.plane.cache.local_copy(ModelId("m"))
        assert copy is not None
        assert a.plane.cache.states()[ModelId("m")].value == "leaving"
        a.dataplane._emit(CopyIdle(ModelId("m"), copy.load_id))
        assert a.plane.cache.states()[ModelId("m")].value == "leaving"
        assert (await call).status is Status.OK
        await asyncio.sleep(0.5)
        assert a.plane.cache.states() == {}

    play(story)
