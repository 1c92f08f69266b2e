"""Models in processes of their own: what one does, no other notices."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import Batching, ModelSignature, ModelSource, RuntimeFault, TensorSpec
from modelmesh.runtime.pulled import PullingRuntime
from modelmesh.runtime.workers import frames
from modelmesh.runtime.workers.frames import BadFrameError, Kind
from modelmesh.runtime.workers.processes import ForkServer
from modelmesh.runtime.workers.restarts import hangs, starts_again_in_s
from modelmesh.storage import DiskCache
from modelmesh.values.status import Status

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
MODEL = """
import os, signal, sys, threading, time
from pathlib import Path

import numpy

from modelmesh.runtime import ModelSignature, TensorSpec

DO = Path(__file__).with_name("do.txt").read_text().strip()
if DO == "exit while loading":
    os._exit(9)
if DO == "sys.exit while loading":
    sys.exit(5)
if DO == "sleep while loading":
    Path(__file__).with_name("pid.txt").write_text(str(os.getpid()))
    time.sleep(60)
if DO == "raise while loading":
    raise ValueError("no weights")
if DO == "garbage":
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"garbage" * 10)
        except OSError:
            pass


class Model:
    signature = ModelSignature((TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))

    def __init__(self, folder):
        self.weights = numpy.ones(2_000_000)

    def infer(self, inputs, parameters):
        x = inputs["x"]
        do = parameters.get("do", "")
        if do == "exit":
            os._exit(3)
        if do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if do == "sleep":
            time.sleep(60)
        if do == "raise":
            raise ValueError("not this one")
        if do == "sys.exit":
            sys.exit(7)
        if do == "pid":
            return {"y": numpy.array([float(os.getpid())])}
        if do == "many":
            return self.many(x)
        return {"y": x * 2}

    def many(self, x):
        for number in range(1000):
            print("model says", number)
            yield {"y": x + number}
"""


class TestRules:
    def test_the_first_end_costs_no_wait_and_each_further_one_doubles_it(self):
        assert starts_again_in_s([100.0], 100.0) == 0.0
        assert starts_again_in_s([100.0, 110.0], 110.0) == 1.0
        assert starts_again_in_s([100.0, 110.0, 120.0], 120.5) == 1.5
        assert starts_again_in_s([float(at) for at in range(16)], 15.0) == 60.0

    def test_what_is_ten_minutes_back_does_not_count(self):
        assert starts_again_in_s([0.0, 700.0], 700.0) == 0.0

    def test_a_process_hangs_if_calls_that_were_given_up_keep_all_its_threads(self):
        assert hangs([0.0, 1.0], 11.0, threads=2, hung_s=10.0)
        assert not hangs([0.0, 1.1], 11.0, threads=2, hung_s=10.0)
        assert not hangs([0.0], 11.0, threads=2, hung_s=10.0)


class TestFrames:
    @given(st.binary(min_size=9, max_size=9))
    def test_any_head_is_read_or_refused(self, head):
        with contextlib.suppress(BadFrameError):
            length, kind, _ = frames.read_head(head)
            assert length <= frames.MOST_BYTES
            assert kind in list(Kind)

    @given(st.binary(max_size=200))
    def test_any_payload_is_read_or_refused(self, payload):
        for read in (frames.read_answer, frames.read_error, frames.read_loaded):
            with contextlib.suppress(BadFrameError):
                read(payload)

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6, dtype=np.int8).reshape(2, 3),
            np.array([1.5, float("nan")], np.float16),
            np.array([[True], [False]]),
            np.array([b"a", b"\xff"], dtype=object),
            np.zeros((0, 4), np.uint64),
        ],
    )
    def test_tensors_and_parameters_arrive_as_they_were(self, array):
        parameters = {"a": True, "b": -3, "c": 0.5, "d": "text"}
        inputs, found = frames.read_request(frames.write_request({"x": array}, parameters))
        assert found == parameters
        np.testing.assert_array_equal(inputs["x"], array)
        np.testing.assert_array_equal(frames.read_answer(frames.write_answer({"y": array}))["y"], array)

    def test_descriptions_and_errors_arrive_as_they_were(self):
        signature = ModelSignature(
            (TensorSpec("x", "FP32", (-1, 3), ("FP64",)),), (TensorSpec("y", "BYTES", ()),), "onnx"
        )
        for batching in (None, Batching(8, 0.5)):
            assert frames.read_loaded(frames.write_loaded(signature, batching, 7)) == (signature, batching, 7)
        found = frames.read_error(frames.write_error(RuntimeFault("no", status=Status.NOT_FOUND)))
        assert (str(found), found.status) == ("no", Status.NOT_FOUND)

    def test_a_frame_is_what_its_head_says(self):
        whole = frames.frame(Kind.PART, 7, b"abc")
        assert frames.read_head(whole[:9]) == (3, Kind.PART, 7)
        with pytest.raises(BadFrameError, match="kind 77 and 3 bytes"):
            frames.read_head(struct.pack("!IBI", 3, 77, 1))


@pytest.fixture
def folder(tmp_path):
    """Makes a model that does something while it is loaded."""

    def make(name, do=""):
        made = tmp_path / "models" / name
        made.mkdir(parents=True)
        (made / "model.py").write_text(MODEL)
        (made / "do.txt").write_text(do)
        return ModelSource(name, type="python", path=name)

    (tmp_path / "models").mkdir()
    return make


@pytest.fixture
async def server(tmp_path, served):
    """A runtime whose Python models run in processes of their own."""
    runtime = PullingRuntime(
        cache=DiskCache(tmp_path / "cache", 1 << 30),
        models=tmp_path / "models",
        isolated=["python"],
        isolated_threads=1,
    )
    runtime._workers.limits = replace(runtime._workers.limits, hung_s=0.2)
    return await served(runtime, listen="127.0.0.1:0")


@pytest.fixture
async def ask(server):
    """Calls a model; returns its first number."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        rpc = channel.unary_unary(
            INFER,
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelInferResponse.FromString,
        )

        async def call(model, value=1.0, do="", timeout=30.0):
            request = request_for(model, value, do)
            answer = await rpc(request, timeout=timeout)
            return float(np.frombuffer(answer.raw_output_contents[0])[0])

        yield call


def request_for(model, value=1.0, do=""):
    request = oip.ModelInferRequest(model_name=model, raw_input_contents=[np.array([value]).tobytes()])
    request.inputs.add(name="x", datatype="FP64", shape=[1])
    if do:
        request.parameters["do"].string_param = do
    return request


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def is_there(pid):
    """Whether a process runs, and has not only left its exit status."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_model_answers_from_a_process_of_its_own(server, folder, ask):
    loaded = await server.models.load(folder("a"))
    await server.models.load(folder("b"))
    assert await ask("a", 4.0) == 8.0
    pids = {await ask("a", do="pid"), await ask("b", do="pid"), float(os.getpid())}
    assert len(pids) == 3
    assert 16_000_000 < loaded.size_bytes < 40_000_000, "its weights, and what Python needs"
    assert await refused(ask("a", do="raise")) == (grpc.StatusCode.INVALID_ARGUMENT, "ValueError: not this one")


async def test_the_memory_of_a_model_is_that_of_its_process_which_ends_with_it(server, folder, ask):
    await server.models.load(folder("a"))
    pid = await ask("a", do="pid")
    assert is_there(pid)
    await server.models.unload("a")
    assert not is_there(pid)


@pytest.mark.parametrize(("do", "how"), [("exit", "ended with exit status 3"), ("kill", "was ended by SIGKILL")])
async def test_a_process_that_ends_takes_its_own_calls_along_and_is_started_again(do, how, server, folder, ask):
    await server.models.load(folder("a"))
    await server.models.load(folder("b"))
    held = asyncio.create_task(refused(ask("b", do="sleep", timeout=2)))
    waiting = await asyncio.gather(*(refused(ask("a", do=do)) for _ in range(1)))
    assert waiting == [(grpc.StatusCode.UNAVAILABLE, f"the process of model a {how}")]
    assert await ask("a", 3.0) == 6.0
    assert (await held)[0] is grpc.StatusCode.DEADLINE_EXCEEDED, "the other model's call was not touched"


async def test_calls_wait_for_a_start_that_comes_soon_and_are_told_of_one_that_does_not(server, folder, ask):
    await server.models.load(folder("a"))
    model = server.models._entries["a"].model
    for ends in range(1, 5):
        assert await refused(ask("a", do="exit")) == (
            grpc.StatusCode.UNAVAILABLE,
            "the process of model a ended with exit status 3",
        )
        if ends < 4:  # 0, 1 and 2 s after it ended
            assert await ask("a", 2.0) == 4.0
    code, message = await refused(ask("a"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert message == "the process of model a ended with exit status 3; it is started again in 4 s"
    await server.models.unload("a")
    with pytest.raises(RuntimeFault, match="model 'a' is not loaded"):
        await model.infer({"x": np.ones(1)}, {})


async def test_a_call_that_exits_is_an_error_of_that_call(server, folder, ask):
    await server.models.load(folder("a"))
    pid = await ask("a", do="pid")
    assert await refused(ask("a", do="sys.exit")) == (grpc.StatusCode.INTERNAL, "RuntimeError: SystemExit: 7")
    assert await ask("a", do="pid") == pid


async def test_a_process_whose_threads_all_hang_is_ended_and_started_again(server, folder, ask, caplog):
    await server.models.load(folder("a"))
    model = server.models._entries["a"].model
    first = model._worker
    assert (await refused(ask("a", do="sleep", timeout=0.2)))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: model._worker is not first)
    assert await ask("a", 2.0) == 4.0
    how = "was ended: all its 1 threads ran calls that had been given up 0 s before"
    assert f"the process of model a {how}; its 0 calls fail" in caplog.text


async def test_a_call_that_waits_in_the_process_and_is_given_up_never_runs(server, folder, ask):
    await server.models.load(folder("a"))
    worker = server.models._entries["a"].model._worker
    worker._limits = replace(worker._limits, hung_s=60.0)
    asleep = asyncio.create_task(refused(ask("a", do="sleep", timeout=20)))
    await until(lambda: len(worker._calls) == 1)
    assert (await refused(ask("a", do="exit", timeout=0.2)))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: not worker._given_up)
    assert worker._why is None
    asleep.cancel()


@pytest.mark.parametrize(
    ("do", "code", "message"),
    [
        ("raise while loading", Status.INVALID_ARGUMENT, "ValueError: no weights"),
        ("sys.exit while loading", Status.INVALID_ARGUMENT, "SystemExit: 5"),
        ("exit while loading", Status.INTERNAL, "the process of model a ended with exit status 9 while it loaded"),
        ("garbage", Status.INTERNAL, "the process of model a sent a frame of kind"),
    ],
)
async def test_a_model_that_cannot_be_loaded(do, code, message, server, folder):
    with pytest.raises(RuntimeFault) as caught:
        await server.models.load(folder("a", do))
    assert caught.value.status is code
    assert message in str(caught.value)
    assert server.models.accounted_bytes() == 0


async def test_a_model_that_streams_waits_for_its_caller_and_ends_with_it(server, folder, ask, caplog):
    caplog.set_level(logging.INFO, "modelmesh.runtime")
    await server.models.load(folder("a"))
    async with grpc.aio.insecure_channel(server.address) as channel:
        rpc = channel.stream_stream(
            STREAM,
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelStreamInferResponse.FromString,
        )
        call = rpc(iter([request_for("a", 10.0, "many")]))
        for number in range(3):
            answer = await call.read()
            assert np.frombuffer(answer.infer_response.raw_output_contents[0])[0] == 10.0 + number
        call.cancel()
    assert await ask("a", 2.0) == 4.0, "the only thread of the process is free again"
    await until(lambda: "model a: model says 2" in caplog.text)


async def test_a_load_that_is_given_up_leaves_no_process(server, folder, tmp_path):
    source = folder("a", "sleep while loading")
    for told in (False, True):
        loading = asyncio.create_task(server.models._runtime.load(source))
        if told:
            await until((tmp_path / "models" / "a" / "pid.txt").exists)
        else:
            await asyncio.sleep(0)
        loading.cancel()
        await asyncio.wait([loading])
        await until(lambda: not server.models._runtime._fork_server._alive)


async def test_a_process_that_has_ended_before_its_start_is_noticed():
    server = ForkServer([])
    with contextlib.ExitStack() as sockets:
        pairs = [*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), *socket.socketpair()]
        server._commands, other, connection, output = (sockets.enter_context(one) for one in pairs)
        starting = asyncio.create_task(server.start(connection, output.fileno(), "module:Class", "path", 1))
        await asyncio.sleep(0)
        other.send(b'{"started": 7}')
        other.send(b'{"ended": 7, "code": 3}')
        server._hear()
        server._hear()
        process = await starting
        assert (process.pid, await process.wait()) == (7, 3)


async def test_formats_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match="perl: no such format; there are sklearn, onnx"):
        PullingRuntime(cache=DiskCache(tmp_path, 1 << 30), isolated=["perl"])


async def test_a_fork_server_that_ends_is_started_again_by_the_next_load(server, folder, ask):
    await server.models.load(folder("a"))
    model = server.models._entries["a"].model
    first = model._worker
    server.models._runtime._fork_server._popen.kill()
    await until(lambda: model._worker is not first)
    await server.models.load(folder("b"))
    assert await ask("b", 1.0) == 2.0
    assert await ask("a", 1.0) == 2.0


def test_nothing_stays_behind_a_runtime_that_is_killed(tmp_path, folder):
    folder("a")
    program = f"""
import asyncio
from pathlib import Path
import numpy
from modelmesh.runtime import ModelSource
from modelmesh.runtime.pulled import PullingRuntime
from modelmesh.storage import DiskCache

async def main():
    runtime = PullingRuntime(cache=DiskCache(Path({str(tmp_path / "cache")!r}), 1 << 30), models=Path({str(tmp_path / "models")!r}), isolated=["python"])
    model = await runtime.load(ModelSource("a", type="python", path="a"))
    answer = await model.infer({{"x": numpy.ones(1)}}, {{"do": "pid"}})
    print(int(answer["y"][0]), runtime._fork_server._popen.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    runtime = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        pids = [int(word) for word in runtime.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_there, pids))
    finally:
        os.kill(runtime.pid, signal.SIGKILL)
        runtime.wait()
        runtime.stdout.close()
    asyncio.run(until(lambda: not any(map(is_there, pids))))
