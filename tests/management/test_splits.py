"""`modelmesh.v1.Admin`, the vmodel half, against simulated clusters."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.control.settings import ControlLimits
from modelmesh.management.calls import Call, CallError
from modelmesh.ports import Delete, Put, Transaction
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance, register, set_split, set_vmodel
from modelmesh.values.ids import ModelId, Token, VModelId
from modelmesh.values.records import ModelRecord, VModelRecord
from modelmesh.values.status import Status

NO_CALL = Call(Token(0), "", {}, send=lambda _: None)
Story = Callable[[SimulatedCluster, SimulatedInstance], Awaitable[None]]


def play(story: Story, *, names: str = "ab", limits: ControlLimits | None = None) -> None:
    """A cluster with the models a, b and c, and the vmodel v, that is a."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=4)
        try:
            for name in names:
                await cluster.add(name, limits=limits)
            instance = next(iter(cluster.instances.values()))
            for model in "abc":
                await register(instance, model)
            await set_vmodel(instance, "v", "a")
            await story(cluster, instance)
            await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())


async def raises(status: Status, message: str, call: Awaitable[object]) -> None:
    with pytest.raises(CallError) as caught:
        await call
    assert (caught.value.status, caught.value.message) == (status, message)


async def answers(cluster: SimulatedCluster, count: int = 200) -> Counter[str]:
    """Which models answered so many calls of v, entering everywhere; none may fail."""
    names = list(cluster.instances)
    called = await asyncio.gather(
        *(cluster.call("v", via=names[number % len(names)], vmodel=True) for number in range(count))
    )
    assert {answer.status for answer in called} == {Status.OK}
    return Counter(answer.payload[0] for answer in called)  # type: ignore[index]


async def references(cluster: SimulatedCluster) -> dict[str, int]:
    found = await cluster.store.range(KEYS.registry)
    return {
        item.key.removeprefix(KEYS.registry): ModelRecord.decode(item.value).references
        for item in found.items
        if ModelRecord.decode(item.value).references
    }


async def listed(instance: SimulatedInstance, **request: object) -> pb.ListVModelsResponse:
    return await instance.splits.list_vmodels(NO_CALL, pb.ListVModelsRequest(**request))  # type: ignore[arg-type]


def test_other_models_get_their_shares_and_the_active_one_the_rest() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await set_split(a, "v", {"b": 20, "c": 30})
        assert {model: len(cluster.holders(model)) for model in "bc"} == {"b": 1, "c": 1}, "loaded first"
        await asyncio.sleep(1)
        counts = await answers(cluster, 1000)
        assert set(counts) == {"a", "b", "c"}
        assert 130 < counts["b"] < 270
        assert 220 < counts["c"] < 380
        assert await references(cluster) == {"a": 1, "b": 1, "c": 1}
        await set_split(a, "v", {})
        await asyncio.sleep(1)
        assert set(await answers(cluster)) == {"a"}
        assert await references(cluster) == {"a": 1}

    play(story)


def test_the_share_of_a_model_that_becomes_active_ends() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await answers(cluster, 4)
        await set_split(a, "v", {"b": 20, "c": 10})
        await set_vmodel(a, "v", "b")
        await asyncio.sleep(5)
        vmodel = (await listed(a)).vmodels[0]
        assert (vmodel.active_model_id, list(vmodel.split)) == ("b", [pb.Share(model_id="c", percent=10)])
        assert set(await answers(cluster)) == {"b", "c"}
        assert await references(cluster) == {"b": 1, "c": 1}

    play(story)


def test_a_model_with_a_share_is_not_unregistered() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await set_split(a, "v", {"b": 20})
        request = mesh.UnregisterModelRequest(modelId="b")
        await raises(Status.FAILED_PRECONDITION, "Model b has referents", a.models.unregister(NO_CALL, request))

    play(story)


def test_a_model_that_cannot_be_loaded_gets_no_calls_unless_forced_to() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "bad", path="FAIL_broken")
        with pytest.raises(
            CallError, match="model bad cannot be loaded, so it gets no calls of vmodel v: INTERNAL: broken"
        ) as e:
            await set_split(a, "v", {"bad": 20})
        assert e.value.status is Status.FAILED_PRECONDITION
        assert set(await answers(cluster)) == {"a"}
        assert await references(cluster) == {"a": 1}
        await set_split(a, "v", {"bad": 20}, force=True)
        assert await references(cluster) == {"a": 1, "bad": 1}

    play(story, names="a")


def test_bad_input_is_named() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await raises(Status.INVALID_ARGUMENT, "Must provide vModelId", set_split(a, "", {}))
        await raises(Status.NOT_FOUND, "vmodel w not found", set_split(a, "w", {}))
        message = "model d is not registered; `modelmesh models list` shows those that are"
        await raises(Status.NOT_FOUND, message, set_split(a, "v", {"d": 10}))
        await raises(Status.NOT_FOUND, message, set_split(a, "v", {"d": 10}, force=True))
        message = "the share of model b is 0 percent, 1 to 100 are possible"
        await raises(Status.INVALID_ARGUMENT, message, set_split(a, "v", {"b": 0}))
        message = "page_size is 1001, 1000 are allowed"
        await raises(Status.INVALID_ARGUMENT, message, listed(a, page_size=1001))

    play(story)


def test_nothing_is_split_where_nothing_may_be_changed() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=4)
        try:
            a = await cluster.add("a")
            await register(a, "m")
            await set_vmodel(a, "v", "m")
            reader = await cluster.add("b", limits=ControlLimits(read_only=True))
            await raises(Status.INTERNAL, "model-mesh read-only mode", set_split(reader, "v", {}))
        finally:
            await cluster.stop()

    run_virtual(main())


def test_the_share_of_a_model_whose_record_is_gone_goes_to_the_active_one() -> None:
    """No client can unregister it; somebody who writes into the store can."""

    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await set_split(a, "v", {"b": 50})
        await cluster.store.transact(Transaction((), then=(Delete(KEYS.model(ModelId("b"))),)))
        await asyncio.sleep(1)
        assert set(await answers(cluster)) == {"a"}

    play(story)


def test_splits_at_once_leave_exact_references() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        b = list(cluster.instances.values())[1]
        await asyncio.gather(
            *(set_split(a if turn % 2 else b, "v", {"bc"[turn % 2]: 10 + turn}) for turn in range(8)),
            set_vmodel(b, "v", "c"),
            return_exceptions=True,
        )
        await asyncio.sleep(10)
        item = await cluster.store.get(KEYS.vmodel(VModelId("v")))
        assert item is not None
        assert await references(cluster) == dict.fromkeys(sorted(VModelRecord.decode(item.value).models), 1)

    play(story)


def test_vmodels_are_listed_a_page_at_a_time() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        for name in ("v2", "w"):
            await set_vmodel(a, name, "b")
        await set_split(a, "v", {"b": 5})
        await cluster.store.transact(Transaction((), then=(Put(KEYS.vmodel(VModelId("broken")), b"{"),)))
        first = await listed(a, page_size=2)
        assert [vmodel.id for vmodel in first.vmodels] == ["v"], "what cannot be read is left out"
        second = await listed(a, page_size=2, page_token=first.next_page_token)
        assert [(vmodel.id, vmodel.active_model_id) for vmodel in second.vmodels] == [("v2", "b"), ("w", "b")]
        assert second.next_page_token == ""
        assert [vmodel.id for vmodel in (await listed(a, prefix="v")).vmodels] == ["v", "v2"]
        assert first.vmodels[0] == pb.VModel(
            id="v", active_model_id="a", target_model_id="a", split=[pb.Share(model_id="b", percent=5)]
        )

    play(story)
