"""The fallback of a vmodel over real processes."""

from typing import Any

import grpc
import pytest
from conftest import PREDICT, Mesh, StartMesh, eventually

from modelmesh._proto import admin_pb2 as admin_pb
from modelmesh._proto import example_predictor_pb2 as predictor_pb
from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.testing.scripted_runtime import ScriptedError
from modelmesh.values.status import Status

pytestmark = pytest.mark.process

WANTED = ("classification for hello by model a", None)
INSTEAD = ("classification for hello by model small", "small")
"""Answers, and the fallback that they name."""


async def set_vmodel(mesh: Mesh, model: str, *, force: bool = False) -> None:
    request = pb.SetVModelRequest(vModelId="best", targetModelId=model, force=force)
    await mesh.call("mmesh.ModelMesh/setVModel", request, pb.VModelStatusInfo)


async def answered(mesh: Mesh, via: int) -> tuple[str, Any]:
    """What was predicted, or the error, and the fallback that the answer names."""
    call = mesh.channels[via].unary_unary(
        f"/{PREDICT}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=predictor_pb.PredictResponse.FromString,
    )
    made = call(predictor_pb.PredictRequest(text="hello"), metadata=[("mm-vmodel-id", "best")], timeout=20)
    try:
        answer = await made
    except grpc.aio.AioRpcError as error:
        return error.details() or "", None
    return answer.results[0].category, dict(await made.initial_metadata()).get("mm-fallback")


async def fell_back(mesh: Mesh) -> set[tuple[str, str]]:
    """What `explain` says of the wanted model."""
    request = admin_pb.ExplainRequest(model_id="a")
    told = await mesh.call("modelmesh.v1.Admin/Explain", request, admin_pb.ExplainResponse)
    return {(event.reason, event.detail) for event in told.events if event.kind == "fell_back"}


async def everywhere(mesh: Mesh, expected: tuple[str, Any]) -> None:
    """Call until both instances answer so: they hear of changes a little later."""

    async def both() -> bool:
        return [await answered(mesh, via) for via in (0, 1)] == [expected, expected]

    await eventually(both)


async def explained(mesh: Mesh, ended: str) -> None:
    """Call until `explain` says why the fallback answers: instances tell it once a second."""
    expected = ("failed", f"best: small answers, as the model ended with {ended}")

    async def told() -> bool:
        for via in (0, 1):
            assert await answered(mesh, via) == INSTEAD
        return expected in await fell_back(mesh)

    await eventually(told)


async def test_the_fallback_answers_for_a_model_that_fails(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(2)
    for model in ("a", "small"):
        await mesh.register(model, load=True, sync=True)
    await set_vmodel(mesh, "a")
    fallback = admin_pb.SetFallbackRequest(vmodel_id="best", model_id="small")
    await mesh.call("modelmesh.v1.Admin/SetFallback", fallback, admin_pb.VModel)
    await everywhere(mesh, WANTED)
    for status, ended in (
        (Status.INTERNAL, "INTERNAL: so it was told"),
        (
            Status.UNAVAILABLE,
            "INTERNAL: ModelRuntime UNAVAILABLE: mmesh.ExamplePredictor/predict: UNAVAILABLE: so it was told",
        ),
    ):
        for runtime in mesh.runtimes:
            runtime.predict_failures["a"] = ScriptedError(status, "so it was told")
        await everywhere(mesh, INSTEAD)
        await explained(mesh, ended)
    for runtime in mesh.runtimes:
        runtime.predict_failures.clear()
        runtime.load_failures["broken"] = ScriptedError(Status.INTERNAL, "no such file")
    await everywhere(mesh, WANTED)  # it is tried first each time
    # A model whose loads fail. It becomes active because that is forced.
    await mesh.register("broken")
    await set_vmodel(mesh, "broken", force=True)
    await everywhere(mesh, INSTEAD)
