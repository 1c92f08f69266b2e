"""What holds for calls by gRPC holds for those by REST: they go elsewhere, are repeated, end with their client, follow the runtime."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from rest_client import Rest, X, mirror
from scripted import WAIT, Instance, Runtime, until

from modelmesh._proto import model_mesh_pb2 as mesh_pb
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.values.dataplane import AttemptFailed, Missed, Naming, Resolution, Serve
from modelmesh.values.dataplane import DataPlaneEvent as Happened
from modelmesh.values.ids import ModelId

Make = Callable[..., Instance]


@pytest.fixture
async def rest(make: Make, runtime: Runtime) -> AsyncIterator[Rest]:
    runtime.script["ModelInfer"] = mirror
    client = Rest(make(rest="127.0.0.1:0"))
    yield client
    await client.session.close()


async def named(rest: Rest) -> tuple[int, Any]:
    """Nobody is asked whether the name is that of a vmodel."""
    headers = {"mm-model-id": "m"}
    status, answer, _ = await rest.ask("POST", "/v2/models/m/infer", json={"inputs": [X]}, headers=headers)
    return status, answer


async def test_a_client_that_goes_ends_its_call_at_the_runtime(rest: Rest, runtime: Runtime) -> None:
    ended = asyncio.Event()

    async def endless(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            await asyncio.sleep(WAIT)
            yield b""
        finally:
            ended.set()

    runtime.script["ModelInfer"] = endless
    rest.instance.local()
    asked = asyncio.ensure_future(rest.infer("m"))
    await asyncio.wait_for(runtime.called.wait(), WAIT)
    asked.cancel()
    await asyncio.wait_for(ended.wait(), WAIT)
    await until(lambda: not rest.instance.plane.busy())
    count = 'modelmesh_api_request_milliseconds_count{method="ModelInfer",code="CANCELLED"} 1\n'
    await until(lambda: count in rest.instance.plane.metrics().decode())


async def test_a_call_goes_to_the_instance_that_has_the_model(rest: Rest, make: Make) -> None:
    other = make("i2")
    other.local()
    rest.instance.remote(other)
    for _ in range(3):
        status, answer = await rest.infer("m")
        assert (status, answer["outputs"][0]["data"]) == (200, [1.0, 2.5, -3.0])


async def test_a_call_that_was_held_is_served_when_its_model_is_loaded(rest: Rest) -> None:
    rest.instance.brain.decide = lambda _: None
    asked = asyncio.ensure_future(named(rest))
    missed = await rest.instance.brain.next(Missed)
    rest.instance.local()
    rest.instance.plane.resolve([(missed.token, Serve())])
    assert (await asked)[0] == 200


async def test_a_call_that_failed_is_repeated_with_the_same_message(rest: Rest, runtime: Runtime) -> None:
    seen: list[bytes] = []

    async def second_time(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        whole = [request async for request in requests]
        seen.extend(whole)
        if len(seen) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

        async def again() -> AsyncIterator[bytes]:
            for request in whole:
                yield request

        async for answer in mirror(again(), context):
            yield answer

    def decide(event: Happened) -> Resolution | None:
        return Serve() if isinstance(event, AttemptFailed) else None

    runtime.script["ModelInfer"] = second_time
    rest.instance.brain.decide = decide
    rest.instance.local()
    status, answer = await named(rest)
    assert (status, answer["outputs"][0]["data"]) == (200, [1.0, 2.5, -3.0])
    assert len(seen) == 2
    assert seen[0] == seen[1]


async def test_calls_follow_the_runtime_to_another_address(rest: Rest, runtime: Runtime) -> None:
    rest.instance.local()
    assert (await rest.infer("m"))[0] == 200
    other = await Runtime().start()
    try:
        other.script["ModelInfer"] = mirror
        rest.instance.plane.set_runtime(other.address)
        await runtime.stop()
        assert (await rest.infer("m"))[0] == 200
        assert len(other.calls) == 1
    finally:
        await other.stop()


async def test_what_is_no_single_message_is_no_answer(rest: Rest, runtime: Runtime) -> None:
    async def twice(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for _request in requests:
            pass
        for _time in range(2):
            yield pb.ModelInferResponse(model_name="m").SerializeToString()

    runtime.script["ModelInfer"] = twice
    rest.instance.local()
    status, answer = await rest.infer("m")
    assert status == 500
    assert "not one message" in answer["error"]


async def test_versions_of_a_vmodel_are_ready_each_for_itself(rest: Rest, runtime: Runtime) -> None:
    info = mesh_pb.ModelStatusInfo
    rest.models = {"m": info(status=info.NOT_LOADED), "n": info(status=info.LOADED)}
    rest.vmodels["v"] = mesh_pb.VModelStatusInfo(status=mesh_pb.VModelStatusInfo.DEFINED)
    rest.vmodels["v"].activeModelStatus.status = info.NOT_LOADED
    rest.instance.plane.set_vmodels([("v", Naming("m", labels=(("new", ModelId("n")),)))])
    for path in ("/v2/models/v/versions/{}/ready", "/v1/models/v/versions/{}"):
        for version, status in [("new", 200), ("n", 200), ("stable", 503), ("7", 503)]:
            assert (await rest.ask("GET", path.format(version)))[0] == status, version
    assert (await rest.ask("GET", "/v2/models/n/versions/7/ready"))[0] == 200, "the version is the runtime's"
    assert runtime.calls == []


async def test_v1_chooses_a_version_of_a_vmodel(rest: Rest, runtime: Runtime) -> None:
    async def described(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for _request in requests:
            answer = pb.ModelMetadataResponse(name="m")
            answer.inputs.add(name="x", datatype="FP32", shape=[-1])
            yield answer.SerializeToString()

    runtime.script["ModelMetadata"] = described
    for model in ("m", "n"):
        rest.instance.local(model)
    rest.instance.plane.set_vmodels([("v", Naming("m", labels=(("new", ModelId("n")),)))])
    for version, model in [("/versions/new", "n"), ("/versions/stable", "m"), ("", "m")]:
        path = f"/v1/models/v{version}:predict"
        status, answer, _ = await rest.ask("POST", path, json={"instances": [1, 2]})
        assert (status, answer) == (200, {"predictions": [1.0, 2.0]})
        assert [metadata["mm-model-id"] for _, metadata in runtime.calls[-2:]] == [model, model], version
    status, _, _ = await rest.ask("POST", "/v1/models/m/versions/7:predict", json={"instances": [1]})
    assert status == 200
