"""`ensureLoaded`, called again and again, of models whose loads fail, and through instances without the model."""

import asyncio

import pytest

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.settings import ControlLimits
from modelmesh.management.calls import Call
from modelmesh.policy.readiness import ReadinessReason
from modelmesh.ports import RuntimeCallError
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, register
from modelmesh.values.ids import ModelId, Token
from modelmesh.values.status import Status

BAD = ModelId("bad")
Info = pb.ModelStatusInfo


async def ensure(instance: SimulatedInstance, model: str, *, sync: bool = False, retry: bool = False) -> Info:
    headers = {"mm-retry": b"true"} if retry else {}
    return await instance.models.ensure_loaded(
        Call(Token(0), "ensureLoaded", headers, send=lambda _: None), pb.EnsureLoadedRequest(modelId=model, sync=sync)
    )


async def cluster_of(instances: int, *, good: int) -> tuple[SimulatedCluster, list[SimulatedInstance]]:
    cluster = SimulatedCluster(seed=2)
    members = [await cluster.add(f"i{number}") for number in range(instances)]
    for instance in members:
        instance.runtime.load_failures[BAD] = RuntimeCallError(Status.INVALID_ARGUMENT, "it is corrupt")
    for number in range(good):
        await register(members[0], f"good-{number}")
        await cluster.call(f"good-{number}", via="i0")
    await register(members[0], BAD)
    return cluster, members


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(("instances", "good"), [(1, 7), (2, 7), (5, 0)])
def test_a_model_that_fails_is_loaded_once_per_instance_and_nobody_is_turned_away(
    instances: int, good: int, *, sync: bool
) -> None:
    """It was loaded with every call; after twenty an instance with seven good models was not ready any more."""

    async def main() -> None:
        cluster, members = await cluster_of(instances, good=good)
        answers = []
        for turn in range(60):
            answers.append(await ensure(members[turn % instances], BAD, sync=sync))
            await asyncio.sleep(1)
        loads = [instance.runtime.load_counts[BAD] for instance in members]
        assert max(loads) == 1
        assert sum(loads) == min(3, instances)
        assert answers[-1].status == Info.LOADING_FAILED
        assert "it is corrupt" in answers[-1].errors[0]
        assert [instance.plane.readiness() for instance in members] == [ReadinessReason.READY] * instances
        await cluster.stop()

    run_virtual(main())


def test_who_asks_to_try_again_is_obeyed_within_bounds() -> None:
    async def main() -> None:
        cluster, members = await cluster_of(5, good=0)
        for _ in range(5):
            await ensure(members[0], BAD, sync=True)
            await asyncio.sleep(1)
        await asyncio.sleep(10)
        before = sum(instance.runtime.load_counts[BAD] for instance in members)
        for _ in range(4):
            assert (await ensure(members[0], BAD, sync=True, retry=True)).status == Info.LOADING_FAILED
            await asyncio.sleep(0.2)
        assert 1 <= sum(instance.runtime.load_counts[BAD] for instance in members) - before <= 5
        for instance in members:
            instance.runtime.load_failures.clear()
        assert (await ensure(members[0], BAD, sync=True)).status == Info.LOADING_FAILED
        await asyncio.sleep(6)
        assert (await ensure(members[0], BAD, sync=True, retry=True)).status == Info.LOADED
        await cluster.stop()

    run_virtual(main())


@pytest.mark.parametrize("eviction", ["lru", "adaptive"])
def test_through_any_instance_it_counts_as_a_use(eviction: str) -> None:
    """Through one without the model it told the holder nothing: the model was evicted before others that nobody asked for."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=2)
        holder = await cluster.add("holder", capacity_bytes=1000, limits=ControlLimits(eviction=eviction))
        for number in range(8):
            await register(holder, f"m{number}", load=True)
            await asyncio.sleep(1)
        assert len(cluster.holders("m0")) == 1
        other = await cluster.add("other", capacity_bytes=1000)
        await asyncio.sleep(5)
        before_ms = holder.plane.cache.usage.last_use_ms(ModelId("m0"))
        answer = await ensure(other, "m0")
        assert answer.status == Info.LOADED
        assert holder.plane.cache.usage.last_use_ms(ModelId("m0")) > before_ms
        assert next(holder.plane.cache.usage.leaving_order()) != "m0"
        await cluster.stop()

    run_virtual(main())
