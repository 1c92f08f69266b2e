"""How many models a tenant may register: at which calls that counts, and what counts."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelmesh._proto import admin_pb2 as admin
from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.tasks import Tasks
from modelmesh.management.access import Access
from modelmesh.management.calls import Call, Caller, CallError
from modelmesh.management.tenants import TenantCalls
from modelmesh.policy.access import Tenant
from modelmesh.ports import Put, Transaction
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance
from modelmesh.testing.model_paths import size_path
from modelmesh.values.access import Identity, Listener
from modelmesh.values.ids import ModelId, Token
from modelmesh.values.memory import Memory
from modelmesh.values.records import ModelRecord
from modelmesh.values.status import Status

INFO = pb.ModelInfo(type="t", path="p")


async def _no_keys(_place: str, _kid: str) -> list[object]:
    return []


def call_of(instance: SimulatedInstance, tenant: str) -> Call:
    tasks = Tasks(lambda what, error: pytest.fail(f"{what}: {error}"))
    access = Access(dataplane=instance.plane.dataplane, clock=VirtualClock(), tasks=tasks, keys=_no_keys)
    caller = Caller(Identity("somebody", tenant=tenant), Listener.GRPC, access)
    return Call(Token(0), "", {}, send=lambda _: None, caller=caller)


async def register(instance: SimulatedInstance, model: str, tenant: str = "t", path: str = "p") -> str:
    """Why it is refused; empty: it is registered."""
    request = pb.RegisterModelRequest(modelId=model, modelInfo=pb.ModelInfo(type="t", path=path))
    return await said(instance.models.register(call_of(instance, tenant), request))


async def set_vmodel(instance: SimulatedInstance, vmodel: str, target: str, *, auto_delete: bool = False) -> str:
    request = pb.SetVModelRequest(
        vModelId=vmodel, targetModelId=target, modelInfo=INFO, autoDeleteTargetModel=auto_delete, force=True
    )
    return await said(instance.vmodels.set_vmodel(call_of(instance, "t"), request))


async def unregister(instance: SimulatedInstance, model: str) -> None:
    await instance.models.unregister(call_of(instance, ""), pb.UnregisterModelRequest(modelId=model))


async def said(work: Awaitable[object]) -> str:
    try:
        await work
    except CallError as error:
        return error.message if error.status is Status.RESOURCE_EXHAUSTED else f"{error.status.name}: {error.message}"
    return ""


def play(story: Callable[[list[SimulatedInstance], SimulatedCluster], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        try:
            instances = [await cluster.add(f"i{number}") for number in range(2)]
            for instance in instances:
                instance.plane.tenants.limit({"t": Tenant("t", models=2)})
            await story(instances, cluster)
        finally:
            await cluster.stop()

    run_virtual(main())


async def seen() -> None:
    """Let the watches tell what was written (virtual time)."""
    await asyncio.sleep(1)


FULL = "tenant t has 2 models registered, its limit is 2; unregister one first"


def test_a_tenant_registers_as_many_models_as_it_may() -> None:
    async def story(instances: list[SimulatedInstance], cluster: SimulatedCluster) -> None:
        one, two = instances
        assert await register(one, "a") == ""
        assert await register(one, "a") == "", "it is there"
        assert await register(one, "b") == ""
        assert await register(one, "c") == FULL
        assert await register(one, "b") == "", "a registration again is none"
        assert await register(one, "of others", tenant="u") == ""
        assert await register(one, "of nobody", tenant="") == ""
        await seen()
        assert await register(two, "c") == FULL, "the other instance has seen it"
        assert await set_vmodel(two, "v", "c") == FULL
        await unregister(two, "a")
        await seen()
        assert await set_vmodel(one, "v", "c") == ""
        assert await register(one, "d") == FULL

    play(story)


def test_registrations_at_the_same_time_are_counted() -> None:
    async def story(instances: list[SimulatedInstance], _: SimulatedCluster) -> None:
        answers = await asyncio.gather(*(register(instances[0], f"m{number}") for number in range(20)))
        assert sorted(answers) == ["", "", *[FULL] * 18]

    play(story)


def test_what_goes_by_itself_counts_no_more() -> None:
    async def story(instances: list[SimulatedInstance], cluster: SimulatedCluster) -> None:
        one, two = instances
        assert await set_vmodel(one, "v", "a", auto_delete=True) == ""
        assert await register(one, "b") == ""
        await seen()
        await one.vmodels.delete_vmodel(call_of(one, "t"), pb.DeleteVModelRequest(vModelId="v"))
        await seen()
        for instance in (one, two):
            assert instance.plane.tenants.registered("t") == 1
        assert await register(two, "c") == ""

    play(story)


def test_a_registration_that_fails_does_not_count() -> None:
    async def story(instances: list[SimulatedInstance], cluster: SimulatedCluster) -> None:
        record = ModelRecord(type="other").encode()
        await cluster.store.transact(Transaction(compares=(), then=(Put(KEYS.model(ModelId("standing")), record),)))
        request = pb.RegisterModelRequest(modelId="standing", modelInfo=INFO)
        with pytest.raises(CallError) as caught:
            await instances[0].models.register(call_of(instances[0], "t"), request)
        assert caught.value.status is Status.ALREADY_EXISTS
        assert instances[0].plane.tenants.registered("t") == 0

    play(story)


def test_tenants_are_listed_with_what_they_have_and_may_have() -> None:
    async def story(instances: list[SimulatedInstance], cluster: SimulatedCluster) -> None:
        one, two = instances
        two.plane.tenants.limit(
            {"t": Tenant("t", models=2, loaded=Memory(1 << 30), calls_per_second=1.5), "idle": Tenant("idle")}
        )
        assert await register(one, "a", path=size_path(100)) == ""
        assert await register(one, "b", tenant="no quota") == ""
        await seen()
        assert (await cluster.call("a", via="i0")).status is Status.OK
        await seen()
        listed = await TenantCalls(two.plane).list_tenants(call_of(two, ""), admin.ListTenantsRequest())
        assert [one.name for one in listed.tenants] == ["idle", "no quota", "t"]
        idle, other, limited = listed.tenants
        assert (idle.models, idle.loaded_bytes, idle.HasField("models_limit")) == (0, 0, False)
        assert (other.models, other.HasField("loaded_bytes_limit")) == (1, False)
        assert (limited.models, limited.models_limit, limited.loaded_bytes) == (1, 2, 100)
        assert (limited.loaded_bytes_limit, limited.calls_per_second_limit) == (1 << 30, 1.5)
        await unregister(one, "b")
        await seen()
        listed = await TenantCalls(two.plane).list_tenants(call_of(two, ""), admin.ListTenantsRequest())
        assert [one.name for one in listed.tenants] == ["idle", "t"]

    play(story)


def test_an_instance_that_comes_later_counts_what_is_there() -> None:
    async def story(instances: list[SimulatedInstance], cluster: SimulatedCluster) -> None:
        assert await register(instances[0], "a/b", tenant="t/x") == ""
        assert await register(instances[0], "a") == ""
        late = await cluster.add("late")
        assert (late.plane.tenants.registered("t"), late.plane.tenants.registered("t/x")) == (1, 1)

    play(story)
