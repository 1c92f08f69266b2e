"""Calls that choose a version of a vmodel in their message: `model_version` of the Open Inference Protocol."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from scripted import WAIT, Instance, Runtime, status_of

from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.policy.methods import AllowedMethods, RuntimeMethods, combine
from modelmesh.values.dataplane import AttemptFailed, Missed, Naming, Reroute, Rules
from modelmesh.values.ids import ModelId

INFER = "/inference.GRPCInferenceService/ModelInfer"
V = (("mm-vmodel-id", "v"),)
TENSORS = bytes(range(256)) * 20_000
"""Five megabytes."""


@pytest.fixture
def mesh(one: Instance) -> Instance:
    """A vmodel with versions, under the rules that an instance has by default."""
    one.plane.set_rules(Rules((), (), combine(RuntimeMethods(), AllowedMethods()).methods))
    for model in ("a", "b", "t"):
        one.local(model)
    one.plane.set_vmodels([("v", Naming("a", target="b", labels=(("test", ModelId("t")),)))])
    return one


def request(version: str, tensors: bytes = b"") -> oip.ModelInferRequest:
    contents = [tensors] if tensors else []
    return oip.ModelInferRequest(model_name="v", model_version=version, id="7", raw_input_contents=contents)


async def infer(one: Instance, message: bytes, *metadata: tuple[str, str], **options: Any) -> oip.ModelInferRequest:
    """What the runtime got: it echoes."""
    answer = await one.channel.unary_unary(INFER)(message, metadata=(*V, *metadata), timeout=WAIT, **options)
    return oip.ModelInferRequest.FromString(answer)


@pytest.mark.parametrize("tensors", [b"", b"x", TENSORS])
async def test_a_version_of_the_vmodel_chooses_a_model_and_is_not_the_runtimes(
    mesh: Instance, runtime: Runtime, tensors: bytes
) -> None:
    for version, model in (("stable", "a"), ("latest", "b"), ("test", "t"), ("b", "b")):
        got = await infer(mesh, request(version, tensors).SerializeToString())
        assert runtime.metadata()["mm-model-id"] == model, version
        assert got == request("", tensors)


async def test_another_version_is_for_the_runtime_as_it_is_of_a_model(mesh: Instance, runtime: Runtime) -> None:
    for version in ("7", ""):
        assert await infer(mesh, request(version, TENSORS).SerializeToString()) == request(version, TENSORS)
        assert runtime.metadata()["mm-model-id"] == "a"
    made = mesh.channel.unary_unary(INFER)(request("test").SerializeToString(), metadata=(("mm-model-id", "a"),))
    assert oip.ModelInferRequest.FromString(await made) == request("test")
    assert runtime.metadata()["mm-model-id"] == "a"


async def test_the_header_wins(mesh: Instance, runtime: Runtime) -> None:
    got = await infer(mesh, request("latest").SerializeToString(), ("mm-version", "test"))
    assert (runtime.metadata()["mm-model-id"], got.model_version) == ("t", "latest")


async def test_ready_and_metadata_have_it_in_the_same_field(mesh: Instance, runtime: Runtime) -> None:
    for method in ("ModelReady", "ModelMetadata"):
        message = oip.ModelReadyRequest(name="v", version="test").SerializeToString()
        made = mesh.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(message, metadata=V, timeout=WAIT)
        assert oip.ModelReadyRequest.FromString(await made) == oip.ModelReadyRequest(name="v")
        assert runtime.metadata()["mm-model-id"] == "t"


async def test_other_methods_are_not_looked_into(mesh: Instance, runtime: Runtime) -> None:
    message = request("test").SerializeToString()
    assert await mesh.unary()(message, metadata=V, timeout=WAIT) == message
    assert runtime.metadata()["mm-model-id"] == "a"


async def test_what_is_written_otherwise_is_for_the_runtime(mesh: Instance, runtime: Runtime) -> None:
    late = oip.ModelInferRequest(raw_input_contents=[b"x"]).SerializeToString()
    late += oip.ModelInferRequest(model_version="test").SerializeToString()
    for message in (late, b"\x0a\xff\xff", b""):
        made = mesh.channel.unary_unary(INFER)(message, metadata=V, timeout=WAIT)
        assert await made == message
        assert runtime.metadata()["mm-model-id"] == "a"
    got = await infer(mesh, request("test", TENSORS).SerializeToString(), compression=grpc.Compression.Gzip)
    assert got == request("test", TENSORS)
    assert runtime.metadata()["mm-model-id"] == "a", "a compressed message is not opened for it"


async def test_a_vmodel_that_is_not_known_yet(mesh: Instance, runtime: Runtime) -> None:
    made = mesh.channel.unary_unary(INFER)(
        request("test", TENSORS).SerializeToString(), metadata=(("mm-vmodel-id", "later"),), timeout=WAIT
    )
    missed = await mesh.brain.next(Missed)
    assert (missed.model, missed.vmodel) == ("", "later")
    mesh.plane.set_vmodels([("later", Naming("a", labels=(("test", ModelId("t")),)))])
    mesh.plane.resolve([(missed.token, Reroute())])
    assert oip.ModelInferRequest.FromString(await made) == request("", TENSORS)
    assert runtime.metadata()["mm-model-id"] == "t"


async def test_a_call_is_made_again_with_the_version_that_it_chose(mesh: Instance, runtime: Runtime) -> None:
    messages: list[bytes] = []

    async def refuse_once(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for message in requests:
            messages.append(message)
            if len(messages) == 1:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            yield message

    runtime.script["ModelInfer"] = refuse_once
    mesh.brain.decide = lambda event: Reroute() if isinstance(event, AttemptFailed) else None
    got = await infer(mesh, request("test", TENSORS).SerializeToString())
    assert got == request("", TENSORS)
    assert messages[0] == messages[1]
    assert runtime.metadata()["mm-model-id"] == "t"


async def test_a_version_that_goes_while_the_call_waits_is_not_found(mesh: Instance) -> None:
    mesh.plane.set_vmodels([("v", Naming("a", labels=(("new", ModelId("n")),)))])
    made = mesh.channel.unary_unary(INFER)(request("new").SerializeToString(), metadata=V, timeout=WAIT)
    missed = await mesh.brain.next(Missed)
    assert missed.model == "n"
    mesh.plane.set_vmodels([("v", Naming("a"))])
    mesh.plane.resolve([(missed.token, Reroute())])
    assert await status_of(made) == (grpc.StatusCode.NOT_FOUND, "vmodel v has no version new")
