"""Batches of calls that the native core has read: the same answers as without batches, and each call ends as it would alone."""

import asyncio
import struct
import threading

import grpc.aio
import h2.connection
import h2.events
import numpy as np
import pytest

from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import Batching, ModelRuntime, ModelSignature, ModelSource, RequestError, TensorSpec, server
from modelmesh.runtime.batches import Asked
from modelmesh.runtime.held import Held

INFER = "/inference.GRPCInferenceService/ModelInfer"
SIGNATURE = ModelSignature((TensorSpec("x", "FP64", (-1, 2)),), (TensorSpec("y", "FP64", (-1, 2)),))
OUTPUTS = {
    "doubles": lambda x: {"y": x * 2, "first": x[:, 0] > 0},
    "fortran": lambda x: {"y": np.asfortranarray(x * 2)},
    "lists": lambda x: {"y": (x * 2).tolist()},
    "texts": lambda x: {"y": x * 2, "label": np.array([f"{row[0]}é" for row in x], dtype=object)},
    "other datatype": lambda x: {"y": (x * 2).astype(np.float32)},
    "nothing": lambda _: None,
    "mean": lambda x: {"y": x.mean(axis=0, keepdims=True)},
    "large": lambda x: {"y": np.zeros((len(x), 2)), "large": np.zeros((len(x), 40_000))},
}
"""What a model answers, by the path that it was loaded from."""


class Rows(ModelRuntime[str]):
    """Keeps the rows of each call. `gate` holds its calls up."""

    def __init__(self, batching=None, signature=SIGNATURE):
        self.calls, self.gate = [], threading.Event()
        self.gate.set()
        self._batching, self._signature = batching, signature

    def load(self, source):
        return source.path

    def signature(self, model):
        return self._signature

    def batching(self, model):
        return self._batching

    def infer(self, model, inputs, parameters):
        assert self.gate.wait(30)
        x = inputs["x"]
        assert not x.flags.writeable
        assert x.flags.c_contiguous
        self.calls.append(len(x))
        if (x < 0).any():
            raise RequestError("a negative number")
        return OUTPUTS[model](x)


class InProcess(Rows):
    """The same, answered by a coroutine, as models in processes of their own are."""

    async def infer(self, model, inputs, parameters):
        while not self.gate.is_set():
            await asyncio.sleep(0.001)
        return Rows.infer(self, model, inputs, parameters)


def request(value, *, rows=1, **more):
    asked = oip.ModelInferRequest(model_name="m", **more)
    asked.inputs.add(name="x", datatype="FP64", shape=[rows, 2])
    asked.raw_input_contents.append(np.arange(2 * rows).reshape(rows, 2).astype(np.float64).__add__(value).tobytes())
    return asked


class Asking:
    """A runtime that is served, and a channel to it."""

    def __init__(self, runtime, models, channel):
        self.runtime, self.models = runtime, models
        self._infer = channel.unary_unary(INFER, request_serializer=lambda asked: asked.SerializeToString())

    async def __call__(self, asked, timeout=30, metadata=()):
        """The bytes of the answer; else status and details."""
        try:
            return await self._infer(asked, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()

    @property
    def entry(self):
        return self.models._entries["m"]

    async def load(self, path="doubles"):
        """Load it, and have it called once: its next calls are read by the core."""
        await self.models.load(ModelSource("m", path=path))
        await self(request(0))
        self.runtime.calls.clear()

    async def held_up(self, requests, kind=Held):
        """A call that is held up in the model, and those of `requests` that wait behind it."""
        self.runtime.gate.clear()
        first = asyncio.create_task(self(request(1000)))
        batcher = self.entry.batcher
        await until(lambda: batcher._running)
        rest = [asyncio.create_task(self(asked)) for asked in requests]
        await until(lambda: len(batcher._waiting) == len(requests))
        assert {type(one) for one in batcher._waiting} <= {kind}
        return first, rest


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
async def serve_rows(served):
    channels = []

    async def start(runtime, **more):
        running = await served(runtime, listen="127.0.0.1:0", inference_threads=1, **more)
        channels.append(grpc.aio.insecure_channel(running.address))
        return Asking(runtime, running.models, channels[-1])

    yield start
    for channel in channels:
        await channel.close()


@pytest.fixture
async def ask(serve_rows):
    return await serve_rows(Rows(Batching(8)))


@pytest.mark.parametrize("kind", [Rows, InProcess])
@pytest.mark.parametrize("path", [path for path in OUTPUTS if path != "large"])
async def test_each_call_is_answered_as_without_batches(serve_rows, kind, path):
    batched, alone = await serve_rows(kind(Batching(8))), await serve_rows(Rows())
    for one in (batched, alone):
        await one.load(path)
    asked = [request(10 * at, rows=1 + at % 2, id=str(at), model_version="7") for at in range(5)]
    asked[3].outputs.add(name="y")
    asked[4].outputs.add(name="unknown")
    first, rest = await batched.held_up(asked)
    batched.runtime.gate.set()
    assert await first == await alone(request(1000))
    assert await asyncio.gather(*rest) == [await alone(one) for one in asked]
    assert batched.runtime.calls[:2] == [1, 7]


async def test_only_the_answer_that_is_too_large_is_refused(serve_rows):
    ask = await serve_rows(Rows(Batching(8)), max_message_bytes=400_000)
    await ask.load("large")
    asked = [request(1), request(2, rows=2), request(3)]
    asked[2].outputs.add(name="y")
    _, rest = await ask.held_up(asked)
    ask.runtime.gate.set()
    small, large, chosen = await asyncio.gather(*rest)
    assert isinstance(small, bytes)
    assert large == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Sent message larger than max (640077 vs. 400000)")
    assert isinstance(chosen, bytes)


async def test_an_error_is_that_of_its_own_call(ask):
    await ask.load()
    _, rest = await ask.held_up([request(1), request(-5), request(2)])
    ask.runtime.gate.set()
    good, bad, other = await asyncio.gather(*rest)
    assert isinstance(good, bytes)
    assert isinstance(other, bytes)
    assert bad == (grpc.StatusCode.INVALID_ARGUMENT, "a negative number")
    assert ask.runtime.calls == [1, 3, 1, 1, 1]
    assert await ask(request(-5)) == (grpc.StatusCode.INVALID_ARGUMENT, "a negative number"), "alone, too"


async def test_requests_that_the_core_does_not_read_go_together_beside_those_that_it_reads(ask):
    await ask.load()
    typed = oip.ModelInferRequest(model_name="m")
    typed.inputs.add(name="x", datatype="FP64", shape=[1, 2]).contents.fp64_contents.extend([3, 4])
    with_parameters = request(1)
    with_parameters.parameters["top"].int64_param = 1
    ask.runtime.gate.clear()
    tasks = [asyncio.create_task(ask(request(1000)))]
    await until(lambda: ask.entry.batcher._running)
    asked = [typed, request(1), with_parameters, typed, request(2)]
    tasks += [asyncio.create_task(ask(one)) for one in asked]
    await until(lambda: len(ask.entry.batcher._waiting) == 5)
    assert sorted(type(one).__name__ for one in ask.entry.batcher._waiting) == [
        *3 * [Asked.__name__],
        *2 * [Held.__name__],
    ]
    ask.runtime.gate.set()
    assert all(isinstance(answer, bytes) for answer in await asyncio.gather(*tasks))
    assert sorted(ask.runtime.calls) == [1, 1, 2, 2]


async def test_what_does_not_fit_the_model_is_refused_alone(ask):
    await ask.load()
    wrong = request(1)
    wrong.inputs[0].shape[:] = [2, 1]
    _, rest = await ask.held_up([request(1)])
    assert (await ask(wrong))[0] is grpc.StatusCode.INVALID_ARGUMENT
    ask.runtime.gate.set()
    assert isinstance(await rest[0], bytes)


async def status_at_the_deadline(address, asked):
    """Asks with a deadline that only the server knows of; returns what the call ends with."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = h2.connection.H2Connection()
    client.initiate_connection()
    named = {":method": "POST", ":scheme": "http", ":path": INFER, ":authority": host, "te": "trailers"}
    client.send_headers(1, [*named.items(), ("content-type", "application/grpc"), ("grpc-timeout", "100m")])
    message = asked.SerializeToString()
    client.send_data(1, struct.pack("!BI", 0, len(message)) + message, end_stream=True)
    writer.write(client.data_to_send())
    try:
        async with asyncio.timeout(30):
            while True:
                for event in client.receive_data(await reader.read(65_536)):
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        return dict(event.headers)[b"grpc-status"], dict(event.headers)[b"grpc-message"]
    finally:
        writer.close()


async def test_the_deadline_of_a_call_ends_it_while_it_waits_and_while_it_runs(served):
    runtime = Rows(Batching(8))
    running = await served(runtime, listen="127.0.0.1:0", inference_threads=1)
    async with grpc.aio.insecure_channel(running.address) as channel:
        ask = Asking(runtime, running.models, channel)
        await ask.load()
        runtime.gate.clear()
        late = (b"4", b"Deadline Exceeded")
        assert await status_at_the_deadline(running.address, request(1)) == late, "it runs"
        assert ask.entry.batcher._running
        assert await status_at_the_deadline(running.address, request(2)) == late, "it waits"
        runtime.gate.set()
        assert isinstance(await ask(request(3)), bytes)
        assert runtime.calls == [1, 1], "one that is over is in no batch"


async def test_a_caller_that_goes_takes_nobody_along(ask):
    await ask.load()
    _, rest = await ask.held_up([request(1), request(2), request(3)])
    rest[1].cancel()
    await until(lambda: sum(one.is_over for one in ask.entry.batcher._waiting) == 1)
    ask.runtime.gate.set()
    assert isinstance(await rest[0], bytes)
    assert isinstance(await rest[2], bytes)
    assert ask.runtime.calls == [1, 2]
    await until(lambda: ask.entry.in_flight == 0)


async def test_a_model_that_leaves_answers_the_calls_that_it_has(ask):
    await ask.load("texts")
    first, rest = await ask.held_up([request(1), request(2)])
    unload = asyncio.create_task(ask.models.unload("m"))
    await until(lambda: not ask.models.ids())
    assert (await ask(request(1)))[0] is grpc.StatusCode.NOT_FOUND
    assert not unload.done()
    ask.runtime.gate.set()
    assert all(isinstance(answer, bytes) for answer in await asyncio.gather(first, *rest))
    await unload
    assert not ask.models._entries


async def test_no_more_calls_are_held_than_a_runtime_takes(serve_rows, monkeypatch):
    monkeypatch.setattr(server, "MAX_CALLS", 3)
    ask = await serve_rows(Rows(Batching(8)))
    await ask.load()
    first, rest = await ask.held_up([request(1), request(2)])
    assert await ask(request(3)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "3 calls are running or waiting at this runtime; repeat later",
    )
    ask.runtime.gate.set()
    assert all(isinstance(answer, bytes) for answer in await asyncio.gather(first, *rest))
    assert isinstance(await ask(request(3)), bytes)


async def test_a_server_that_stops_answers_what_runs_and_ends_what_hangs(served):
    runtime = Rows(Batching(8))
    running = await served(runtime, listen="127.0.0.1:0", inference_threads=1)
    async with grpc.aio.insecure_channel(running.address) as channel:
        ask = Asking(runtime, running.models, channel)
        await ask.load()
        first, rest = await ask.held_up([request(1)])
        stopping = asyncio.create_task(running._server.stop(0.01))
        stopped = (grpc.StatusCode.UNAVAILABLE, "the server stops")
        assert await asyncio.gather(first, *rest) == [stopped, stopped]
        await stopping
        runtime.gate.set()


async def test_a_quick_model_runs_on_the_event_loop(ask):
    await ask.load()
    threads = set()

    class Noted(threading.Event):
        def wait(self, timeout=None):
            threads.add(threading.get_ident())
            return True

    ask.runtime.gate = Noted()
    for _ in range(40):
        for _ in range(32):
            await ask(request(1))
        if ask.entry.pace.on_loop:
            break
    threads.clear()
    await ask(request(1))
    assert threads == {threading.get_ident()}


class Minus(Rows):
    """Takes two inputs, of which the order matters."""

    def infer(self, model, inputs, parameters):
        assert self.gate.wait(30)
        self.calls.append(len(inputs["x"]))
        return {"y": inputs["x"] - inputs.get("less", 0)}


async def test_inputs_may_come_in_any_order(serve_rows):
    ask = await serve_rows(Minus(Batching(8), ModelSignature()))
    await ask.load()
    one, other = request(10), request(20)
    for asked, at in ((one, 1), (other, 0)):
        asked.inputs.insert(at, oip.ModelInferRequest.InferInputTensor(name="less", datatype="FP64", shape=[1, 2]))
        asked.raw_input_contents.insert(at, np.array([[3.0, 4.0]]).tobytes())
    first, rest = await ask.held_up([one, other, request(5)])
    ask.runtime.gate.set()
    await first
    answers = [oip.ModelInferResponse.FromString(answer) for answer in await asyncio.gather(*rest)]
    found = [np.frombuffer(answer.raw_output_contents[0]).tolist() for answer in answers]
    assert found == [[7.0, 7.0], [17.0, 17.0], [5.0, 6.0]]
    assert ask.runtime.calls == [1, 2, 1], "with other inputs it is of another kind"
