"""Free room is used: an instance that joins is given copies, cold models are loaded ahead. Simulated clusters."""

import asyncio

from modelmesh._proto import admin_pb2 as pb
from modelmesh.management.calls import Call
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.values.ids import InstanceId, Token
from modelmesh.values.status import Status

NO_CALL = Call(Token(0), "", {}, send=lambda _: None)


def test_an_instance_that_joins_a_full_one_is_given_copies_and_no_call_fails() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5)
        try:
            a = await cluster.add("a")
            models = [f"m{number}" for number in range(9)]
            for model in models:
                await register(a, model)
                await cluster.call(model, via="a")
            assert len(a.plane.cache.ready()) == 9
            await cluster.add("b")
            for second in range(60):
                answer = await cluster.call(models[second % 9], via="ab"[second % 2])
                assert answer.status is Status.OK
                await asyncio.sleep(1)
            counts = [len(cluster.instances[InstanceId(name)].plane.cache.ready()) for name in "ab"]
            assert sum(counts) == 9
            assert min(counts) >= 2
            assert all(len(cluster.holders(model)) == 1 for model in models)
            moved = sum(event.kind == "moved" for event in cluster.story)
            await asyncio.sleep(600)
            assert sum(event.kind == "moved" for event in cluster.story) == moved  # it has come to rest
            await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())


def test_cold_models_fill_half_of_the_free_room_the_most_recently_used_first() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=6)
        try:
            a = await cluster.add("a", capacity_bytes=2000)
            for number in range(20):
                await register(a, f"m{number:02}")
                await asyncio.sleep(0.01)
            await asyncio.sleep(200)
            loaded = sorted(a.plane.cache.ready())
            # An eighth stays free, half of the rest is filled.
            assert loaded == [f"m{number}" for number in range(20 - len(loaded), 20)]
            assert len(loaded) == 8
            assert [event.kind for event in cluster.story].count("preloads") == 1
            await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())


def test_a_model_that_is_to_have_copies_gets_them_back_after_its_instance_died() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=7)
        try:
            for name in "abc":
                await cluster.add(name)
            a = cluster.instances[InstanceId("a")]
            await register(a, "m")
            await a.admin.set_copies(NO_CALL, pb.SetCopiesRequest(model_id="m", minimum=2))
            await asyncio.sleep(5)
            assert len(cluster.holders("m")) == 2
            for name in cluster.holders("m"):
                await cluster.crash(name)
            assert cluster.holders("m") == []
            await asyncio.sleep(15)
            assert cluster.holders("m") == list(cluster.instances)
            assert not (await cluster.store.range(KEYS.failures)).items
        finally:
            await cluster.stop()

    run_virtual(main())
