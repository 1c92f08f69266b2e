"""Who watches events costs something with each of them, so there are few; and models that nobody called say so."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2
from modelmesh.management.admin import WATCHERS
from modelmesh.management.calls import Call, CallError
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, ensure_loaded, register
from modelmesh.values.ids import Token
from modelmesh.values.records import ModelRecord
from modelmesh.values.status import Status


async def asked() -> AsyncIterator[pb.WatchEventsRequest]:
    yield pb.WatchEventsRequest()


def watch(instance: SimulatedInstance) -> "asyncio.Task[None]":
    return asyncio.create_task(instance.admin.watch_events(Call(Token(0), "", {}, send=lambda _: None), asked()))


def test_there_are_few_watchers_and_a_place_is_free_again_when_one_has_gone() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        subscribed = len(a.plane.journal._subscribers)
        watching = [watch(a) for _ in range(WATCHERS)]
        refused = [watch(a) for _ in range(4_000)]
        await asyncio.sleep(0.01)
        for task in refused:
            error = task.exception()
            assert isinstance(error, CallError)
            assert error.status is Status.RESOURCE_EXHAUSTED
        assert len(a.plane.journal._subscribers) == subscribed + WATCHERS
        watching.pop().cancel()
        await asyncio.sleep(0.01)
        again = watch(a)
        await asyncio.sleep(0.01)
        assert not again.done()
        for task in [*watching, again]:
            task.cancel()
        await asyncio.sleep(0.01)
        assert len(a.plane.journal._subscribers) == subscribed
        await cluster.stop()

    run_virtual(main())


async def last_use_ms(instance: SimulatedInstance) -> int:
    answer = await instance.admin.list_models(Call(Token(0), "", {}, send=lambda _: None), pb.ListModelsRequest())
    return answer.models[0].last_use_ms


@pytest.mark.parametrize("load", [False, True])
def test_a_model_that_nobody_called_was_never_used(load: bool) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        await register(a, "m", load=load)
        await asyncio.sleep(130)
        assert await last_use_ms(a) == 0
        began_ms = a.clock.now_ms()
        assert (await cluster.call("m", via="a")).status is Status.OK
        await asyncio.sleep(130)
        assert await last_use_ms(a) >= began_ms
        await cluster.stop()

    run_virtual(main())


def test_a_use_that_its_owner_tells_of_and_one_by_ensure_loaded_are_uses() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        await register(a, "m")
        await ensure_loaded(a, "m", sync=True)
        await asyncio.sleep(130)
        assert await last_use_ms(a) > 0
        call = Call(Token(0), "", {}, send=lambda _: None)
        info = model_mesh_pb2.ModelInfo(type="fake")
        await a.models.register(
            call, model_mesh_pb2.RegisterModelRequest(modelId="a", modelInfo=info, lastUsedTime=1_000)
        )
        assert await last_use_ms(a) == 1_000
        await cluster.stop()

    run_virtual(main())


def test_the_first_use_is_listed_within_seconds() -> None:
    """People look at the list after their first call: `never` would then be wrong."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        await register(a, "a")
        assert await last_use_ms(a) == 0
        assert (await cluster.call("a", via="a")).status is Status.OK
        await asyncio.sleep(7)
        assert await last_use_ms(a) > 0
        await cluster.stop()

    run_virtual(main())


def test_a_record_of_the_old_system_is_not_taken_for_one_that_nobody_used() -> None:
    assert not ModelRecord.decode(b'{"type":"t","lu":5}').unused
    assert ModelRecord("t", last_use_ms=5, unused=True).raised(9).unused
    assert not ModelRecord("t", last_use_ms=5, unused=True).used(9).unused
    assert b"unused" not in ModelRecord("t", last_use_ms=5).encode()
