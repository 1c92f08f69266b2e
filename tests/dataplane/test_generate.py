"""The generate extension by REST: named values in, one answer or answers as events while the model makes them."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
from rest_client import Rest
from scripted import WAIT, Instance, Runtime, until

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.tensors import encode_raw

Make = Callable[..., Instance]
WORDS = ["to", "be", "or"]
EVENT_BYTES = 64 << 10


def answer(request: pb.ModelInferRequest, word: str) -> pb.ModelInferResponse:
    one = pb.ModelInferResponse(model_name="m", id=request.id)
    one.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    one.raw_output_contents.append(len(word).to_bytes(4, "little") + word.encode())
    return one


class Model:
    """A model of words at the runtime, which says each word when it may."""

    def __init__(self, runtime: Runtime) -> None:
        self.requests: list[pb.ModelInferRequest] = []
        self.said = 0
        self.ended = asyncio.Event()
        self.turn = asyncio.Semaphore(0)
        self.answers: list[pb.ModelStreamInferResponse | grpc.StatusCode] = [
            pb.ModelStreamInferResponse(infer_response=answer(pb.ModelInferRequest(), word)) for word in WORDS
        ]
        runtime.script |= {"ModelMetadata": self.describe, "ModelInfer": self.infer, "ModelStreamInfer": self.stream}

    async def describe(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for _request in requests:
            metadata = pb.ModelMetadataResponse(name="m")
            metadata.inputs.add(name="text_input", datatype="BYTES", shape=[-1])
            metadata.inputs.add(name="top_k", datatype="INT32", shape=[1])
            yield metadata.SerializeToString()

    async def infer(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for message in requests:
            self.requests.append(pb.ModelInferRequest.FromString(message))
            yield answer(self.requests[-1], " ".join(WORDS)).SerializeToString()

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            async for message in requests:
                self.requests.append(pb.ModelInferRequest.FromString(message))
                for one in self.answers:
                    await self.turn.acquire()
                    if isinstance(one, grpc.StatusCode):
                        await context.abort(one, "no more")
                    else:
                        yield one.SerializeToString()
                    self.said += 1
        finally:
            self.ended.set()


@pytest.fixture
async def rest(make: Make) -> AsyncIterator[Rest]:
    one = make(rest="127.0.0.1:0", max_message_bytes=1 << 20)
    one.local()
    client = Rest(one)
    yield client
    await client.session.close()


@pytest.fixture
def model(runtime: Runtime) -> Model:
    return Model(runtime)


async def event(response: aiohttp.ClientResponse) -> dict[str, Any] | None:
    """The next event; None: there are no more."""
    async with asyncio.timeout(WAIT):
        line = await response.content.readline()
        if not line:
            return None
        assert line.startswith(b"data: "), line
        assert await response.content.readline() == b"\n"
    found: dict[str, Any] = json.loads(line[6:])
    return found


async def test_one_answer(rest: Rest, model: Model) -> None:
    body = {"text_input": "go on", "id": "7", "parameters": {"top_k": 3, "temperature": 0.5}}
    for path in ("/v2/models/m/generate", "/v2/models/m/versions/2/generate"):
        status, said, _ = await rest.ask("POST", path, json=body)
        assert (status, said) == (200, {"model_name": "m", "id": "7", "text_output": "to be or"}), path
    request = model.requests[-1]
    assert [(one.name, one.datatype, list(one.shape)) for one in request.inputs] == [
        ("text_input", "BYTES", [1]),
        ("top_k", "INT32", [1]),
    ]
    assert request.raw_input_contents[0] == encode_raw(np.array([b"go on"], object), "BYTES")
    assert (request.model_version, request.parameters["temperature"].double_param) == ("2", 0.5)


async def test_answers_are_events_as_the_model_makes_them(rest: Rest, model: Model, runtime: Runtime) -> None:
    model.turn.release()
    async with rest.session.post("/v2/models/m/generate_stream", json={"text_input": "x"}) as response:
        for word in WORDS:
            assert await event(response) == {"model_name": "m", "text_output": word}
            model.turn.release()  # only now the next one is made
        assert await event(response) is None
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
    assert runtime.metadata()["mm-model-id"] == "m"


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, (400, {"error": "no more"})),
        (pb.ModelStreamInferResponse(error_message="no memory"), (500, {"error": "no memory"})),
    ],
)
async def test_the_first_answer_decides_the_status(rest: Rest, model: Model, first: Any, expected: Any) -> None:
    model.answers, model.turn = [first], asyncio.Semaphore(1)
    status, said, _ = await rest.ask("POST", "/v2/models/m/generate_stream", json={"text_input": "x"})
    assert (status, said) == expected


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, "no more"),
        (pb.ModelStreamInferResponse(error_message="no memory"), "no memory"),
    ],
)
async def test_an_error_later_is_the_last_event(rest: Rest, model: Model, second: Any, error: str) -> None:
    model.answers, model.turn = [model.answers[0], second, model.answers[1]], asyncio.Semaphore(3)
    async with rest.session.post("/v2/models/m/generate_stream", json={"text_input": "x"}) as response:
        assert (await event(response) or {})["text_output"] == "to"
        assert await event(response) == {"error": error}
        assert await event(response) is None


async def test_a_model_that_says_nothing(rest: Rest, model: Model) -> None:
    model.answers = []
    async with rest.session.post("/v2/models/m/generate_stream", json={"text_input": "x"}) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_request_that_is_none(rest: Rest, model: Model) -> None:
    for path in ("generate", "generate_stream"):
        status, said, _ = await rest.ask("POST", f"/v2/models/m/{path}", json={"text": "x"})
        assert (status, "no value for an input" in said["error"]) == (400, True)
        large = io.BytesIO(json.dumps({"text_input": "x" * (1 << 20)}).encode())
        headers = {"Content-Type": "application/json"}
        assert (await rest.ask("POST", f"/v2/models/m/{path}", data=large, headers=headers))[0] == 413
        assert (await rest.ask("POST", f"/v2/models/n/{path}", json={"text_input": "x"}))[0] == 404
    assert model.requests == []


async def test_the_call_ends_when_the_client_goes(rest: Rest, model: Model) -> None:
    model.turn = asyncio.Semaphore(1)
    response = await rest.session.post("/v2/models/m/generate_stream", json={"text_input": "x"})
    assert await event(response) is not None
    response.close()
    async with asyncio.timeout(WAIT):
        await model.ended.wait()


async def test_a_client_that_reads_slowly_slows_its_model(rest: Rest, model: Model) -> None:
    word = "x" * EVENT_BYTES
    one = pb.ModelStreamInferResponse(infer_response=answer(pb.ModelInferRequest(), word))
    model.answers, model.turn = [one] * 2000, asyncio.Semaphore(2000)
    async with rest.session.post("/v2/models/m/generate_stream", json={"text_input": "x"}) as response:
        seen = -1
        while seen != model.said:  # until nothing moves
            seen = model.said
            await asyncio.sleep(1)
        assert model.said < 1000, "sockets and windows hold a few megabytes"
        for _ in model.answers:
            assert (await event(response) or {})["text_output"] == word
        assert await event(response) is None
    await until(lambda: model.said == 2000)
