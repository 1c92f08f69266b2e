"""A peer from the future: it says words that this version does not know, and the cluster serves on."""

import asyncio

from modelmesh.ports import Delete, Put, Transaction
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, ensure_loaded, register
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

FUTURE = InstanceId("b")


def test_calls_and_loads_beside_a_peer_from_the_future() -> None:
    """1. It refuses what it is asked, in words of its own; 2. it is replaced the same way as the others were."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        a = await cluster.add("a", capacity_bytes=1_000)
        await cluster.add("b", capacity_bytes=2_000)
        cluster.network.from_the_future.add(FUTURE)
        cluster.instances[FUTURE].plane.cache.drain()  # it refuses all loads
        await register(a, "first")
        assert (await cluster.call("first", via="a", timeout_ms=10_000)).status is Status.OK
        assert any(event.kind == "attempt_failed" and event.reason == "busy" for event in cluster.story)
        for number in range(6):
            await register(a, f"m{number}")
            assert await ensure_loaded(a, f"m{number}", sync=True) in {"LOADED", "LOADING", "LOADING_FAILED"}
            answer = await cluster.call(f"m{number}", via="a", timeout_ms=10_000)
            assert answer.status is Status.OK, answer
        await cluster.add("c", capacity_bytes=1_000)
        await cluster.leave("b")
        answer = await cluster.call("m5", via="c", timeout_ms=10_000)
        assert answer.status is Status.OK, answer
        assert cluster.crashes == []
        await cluster.stop()

    run_virtual(main())


def test_records_of_the_future_are_read_for_what_they_say_in_words_of_today() -> None:
    """Its members, copies and failures have fields and words that are new; a copy in a new state is there and not ready."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        a = await cluster.add("a")
        await register(a, "m")
        model = ModelId("m")
        record = await cluster.store.get(KEYS.model(model))
        assert record is not None
        keys = {
            KEYS.copy(model, FUTURE): b'{"state":"warming","load":7,"size":1,"record":%d,"new":[1]}'
            % record.create_revision,
            KEYS.failure(model, InstanceId("z")): b'{"kind":"cosmic_ray","until":9999999999999,"record":%d}'
            % record.create_revision,
            KEYS.member(FUTURE): b'{"addr":"nowhere","cap":1000,"unit":100,"moods":{"x":1},"hot":{}}',
        }
        await cluster.store.transact(
            Transaction(compares=(), then=tuple(Put(key, value) for key, value in keys.items()))
        )
        await asyncio.sleep(0.2)
        view = a.plane.state.model(model)
        assert [(copy.instance, copy.ready) for copy in view.copies] == [(FUTURE, False)]
        assert [failure.instance for failure in view.failures] == ["z"]
        assert not [event for event in cluster.story if event.kind == "unreadable_key"]
        await cluster.store.transact(Transaction(compares=(), then=tuple(Delete(key) for key in keys)))
        answer = await cluster.call("m", via="a", timeout_ms=10_000)
        assert answer.status is Status.OK, answer
        await cluster.stop()

    run_virtual(main())
