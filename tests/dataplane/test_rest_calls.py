"""What holds for calls by gRPC holds for those by REST: they go elsewhere, are repeated, end with their client, follow the runtime."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from rest_client import Rest, X, mirror
from scripted import WAIT, Instance, Runtime, until

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.values.dataplane import AttemptFailed, Missed, Resolution, Serve
from modelmesh.values.dataplane import DataPlaneEvent as Happened

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
