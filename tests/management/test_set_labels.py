"""`SetLabels` against simulated clusters: what is stored, what stays registered, what the data plane is told."""

from test_splits import NO_CALL, play, raises, references

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.management.labels import Labels
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, set_vmodel
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.status import Status

V = VModelId("v")


async def set_labels(
    instance: SimulatedInstance, *, keep: int | None = None, vmodel: str = "v", **labels: str
) -> pb.VModel:
    named = [pb.Label(label=label, model_id=model) for label, model in labels.items()]
    request = pb.SetLabelsRequest(vmodel_id=vmodel, labels=named, keep=keep)
    return await Labels(instance.plane, instance.models).set_labels(NO_CALL, request)


def test_labels_are_stored_referred_to_and_told() -> None:
    async def story(cluster: SimulatedCluster, instance: SimulatedInstance) -> None:
        answer = await set_labels(instance, test="b")
        assert [(one.label, one.model_id) for one in answer.labels] == [("test", "b")]
        assert await references(cluster) == {"a": 1, "b": 1}
        (await cluster.call("v", via="b", vmodel=True)).payload  # noqa: B018 - the name is known there now
        for other in cluster.instances.values():
            naming = other.dataplane.namings().get(V)
            if naming is not None:
                assert naming.labels == (("test", ModelId("b")),)
        answer = await set_labels(instance, test="")
        assert list(answer.labels) == []
        assert await references(cluster) == {"a": 1}

    play(story)


def test_earlier_models_are_kept_and_then_let_go() -> None:
    async def story(cluster: SimulatedCluster, instance: SimulatedInstance) -> None:
        await set_labels(instance, keep=1)
        await set_vmodel(instance, "v", "b")
        assert await references(cluster) == {"a": 1, "b": 1}
        await set_vmodel(instance, "v", "c")
        assert await references(cluster) == {"b": 1, "c": 1}
        answer = await set_labels(instance, keep=0)
        assert (answer.keep, list(answer.kept_model_ids)) == (0, [])
        assert await references(cluster) == {"c": 1}

    play(story)


def test_a_kept_model_goes_by_itself_when_it_is_kept_no_more() -> None:
    async def story(cluster: SimulatedCluster, instance: SimulatedInstance) -> None:
        await set_labels(instance, keep=1)
        for target in ("auto", "b", "c"):
            request = mesh.SetVModelRequest(
                vModelId="v",
                targetModelId=target,
                autoDeleteTargetModel=True,
                force=True,
                modelInfo=mesh.ModelInfo(type="fake") if target == "auto" else None,
            )
            await instance.vmodels.set_vmodel(NO_CALL, request)
            assert (await instance.models.read(ModelId("auto"), fresh=True) is None) == (target == "c"), target

    play(story)


def test_what_cannot_be_done_is_said() -> None:
    async def story(cluster: SimulatedCluster, instance: SimulatedInstance) -> None:
        message = "model nothing is not registered; `modelmesh models list` shows those that are"
        await raises(Status.NOT_FOUND, message, set_labels(instance, test="nothing"))
        await raises(Status.NOT_FOUND, "vmodel w not found", set_labels(instance, vmodel="w", test="a"))
        request = pb.SetLabelsRequest(vmodel_id="v", labels=[pb.Label(label="x", model_id=model) for model in "ab"])
        call = Labels(instance.plane, instance.models).set_labels(NO_CALL, request)
        await raises(Status.INVALID_ARGUMENT, "a label is in the call twice", call)

    play(story)
