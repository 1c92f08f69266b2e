"""`SetShadow` and `CountVModel`, against simulated clusters."""

import asyncio

from test_splits import NO_CALL, play, raises, references

from modelmesh._proto import admin_pb2 as pb
from modelmesh.management.labels import Labels
from modelmesh.management.shadows import Shadows
from modelmesh.management.vmodel_counts import CountCalls
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, set_vmodel
from modelmesh.values.dataplane import Wanted
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId, VModelId
from modelmesh.values.shadow import Shadow, ShadowCounts
from modelmesh.values.status import Status

V = VModelId("v")
B = ModelId("b")


def shadows(instance: SimulatedInstance) -> Shadows:
    return Shadows(instance.plane, Labels(instance.plane, instance.models))


async def set_shadow(instance: SimulatedInstance, model: str = "", percent: int = 0, **more: str) -> pb.VModel:
    shadow = pb.Shadow(model_id=model, percent=percent, compares=True) if model else None
    return await shadows(instance).set_shadow(NO_CALL, pb.SetShadowRequest(vmodel_id="v", shadow=shadow, **more))


def test_a_shadow_is_stored_referred_to_told_and_listed() -> None:
    async def story(cluster: SimulatedCluster, instance: SimulatedInstance) -> None:
        answer = await set_shadow(instance, "b", 20)
        assert answer.shadow == pb.Shadow(model_id="b", percent=20, compares=True)
        assert await references(cluster) == {"a": 1, "b": 1}
        await cluster.call("v", via="b", vmodel=True)
        naming = cluster.instances[InstanceId("b")].dataplane.namings()[V]
        assert naming.shadow == Shadow(B, 20, compares=True)
        listed = await instance.splits.list_vmodels(NO_CALL, pb.ListVModelsRequest())
        assert listed.vmodels[0].shadow == answer.shadow
        await set_vmodel(instance, "v", "b")
        await asyncio.sleep(5)
        assert not (await instance.splits.list_vmodels(NO_CALL, pb.ListVModelsRequest())).vmodels[0].HasField("shadow")
        assert await references(cluster) == {"b": 1}

    play(story)


def test_what_is_refused() -> None:
    async def story(cluster: SimulatedCluster, instance: SimulatedInstance) -> None:
        text = "model x is not registered; `modelmesh models list` shows those that are"
        await raises(Status.NOT_FOUND, text, set_shadow(instance, "x", 5))
        text = "101 percent of the calls of vmodel v shall be copied, 1 to 100 are possible"
        await raises(Status.INVALID_ARGUMENT, text, set_shadow(instance, "b", 101))
        await raises(Status.FAILED_PRECONDITION, 'vmodel v has another owner, ""', set_shadow(instance, owner="me"))
        assert await references(cluster) == {"a": 1}

    play(story)


def test_a_cold_shadow_is_loaded_and_the_reason_is_told() -> None:
    async def story(cluster: SimulatedCluster, instance: SimulatedInstance) -> None:
        await set_shadow(instance, "b", 20)
        assert not cluster.holders("b")
        told: list[Event] = []
        instance.plane.journal.subscribe(told.append)
        instance.plane.receive([Wanted(B, V, None)])
        await asyncio.sleep(1)
        await cluster.settled()
        assert len(cluster.holders("b")) == 1
        cold = [event.detail for event in told if event.kind == "shadow_cold"]
        assert cold == ["v: copies of its calls are dropped"]

    play(story)


def test_what_all_instances_counted_is_added_up_and_the_silent_are_named() -> None:
    async def story(cluster: SimulatedCluster, instance: SimulatedInstance) -> None:
        await set_shadow(instance, "b", 20)
        for number, other in enumerate(cluster.instances.values(), start=1):
            other.dataplane.shadowed[V] = ShadowCounts(B, equal=number, different=1, cold=2)
            other.dataplane.shadowed[VModelId("w")] = ShadowCounts(B, equal=100)
        found = await CountCalls(instance.plane).count_vmodel(NO_CALL, pb.CountVModelRequest(vmodel_id="v"))
        assert list(found.shadows) == [pb.ShadowCount(model_id="b", equal=3, different=2, cold=4)]
        assert list(found.silent_instance_ids) == []
        cluster.network.cut(InstanceId("a"), InstanceId("b"))
        found = await CountCalls(instance.plane).count_vmodel(NO_CALL, pb.CountVModelRequest(vmodel_id="v"))
        assert [one.equal for one in found.shadows] == [1]
        assert list(found.silent_instance_ids) == ["b"]
        cluster.network.heal(InstanceId("a"), InstanceId("b"))

    play(story)
