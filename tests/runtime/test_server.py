"""The server around an author's runtime: addresses, errors, own services, health, reflection, the end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from modelmesh._proto import example_predictor_pb2 as example
from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import (
    LoadError,
    ModelRuntime,
    ModelService,
    ModelSignature,
    RequestError,
    TensorSpec,
    serve,
)
from modelmesh.values.status import Status

SOURCE = str(Path(__file__).parents[2] / "src")


class Texts(ModelRuntime[str]):
    """Its models are their paths; it answers `mmesh.ExamplePredictor`."""

    def load(self, source):
        return source.path

    def size(self, model):
        return len(model)

    def services(self):
        return [
            ModelService(
                example.DESCRIPTOR.services_by_name["ExamplePredictor"],
                {"predict": self.predict, "multiPredict": self.multi_predict},
                id_paths={"predict": (1,)},
            )
        ]

    def predict(self, model, request):
        """Runs in a thread."""
        if request.text == "thread":
            return example.PredictResponse(results=[{"category": threading.current_thread().name}])
        if request.text == "wrong":
            raise RequestError("a wrong text")
        if request.text == "bug":
            raise KeyError("oops")
        return example.PredictResponse(results=[{"category": f"{model} {request.text}"}])

    async def multi_predict(self, model, request):
        await asyncio.sleep(0)
        return example.MultiPredictResponse(perModelResults={model: {}})


def call(channel, method, request, answer, model=None, **arguments):
    rpc = channel.unary_unary(
        method, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
    )
    metadata = (("mm-model-id", model),) if model else ()
    return rpc(request, metadata=metadata, timeout=10, **arguments)


def load(channel, model="m1", path="hello"):
    request = pb.LoadModelRequest(modelId=model, modelPath=path)
    return call(channel, "/mmesh.ModelRuntime/loadModel", request, pb.LoadModelResponse)


def predict(channel, text, model="m1"):
    request = example.PredictRequest(text=text)
    return call(channel, "/mmesh.ExamplePredictor/predict", request, example.PredictResponse, model)


@pytest.fixture
async def server():
    made = await serve(Texts(), listen="127.0.0.1:0", inference_threads=2)
    yield made
    await made.stop(0)


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(server.address) as made:
        yield made


class TestOwnServices:
    async def test_a_plain_method_runs_in_a_thread_of_the_pool(self, channel):
        await load(channel)
        assert (await predict(channel, "world")).results[0].category == "hello world"
        assert (await predict(channel, "thread")).results[0].category.startswith("infer")

    async def test_an_async_method(self, channel):
        await load(channel)
        answer = await call(
            channel,
            "/mmesh.ExamplePredictor/multiPredict",
            example.PredictRequest(),
            example.MultiPredictResponse,
            "m1",
        )
        assert list(answer.perModelResults) == ["hello"]

    @pytest.mark.parametrize(
        ("text", "model", "code", "message"),
        [
            ("x", "m2", "NOT_FOUND", "model 'm2' is not loaded at this runtime"),
            ("x", None, "INVALID_ARGUMENT", "no model id: send it as metadata mm-model-id-bin or mm-model-id"),
            ("wrong", "m1", "INVALID_ARGUMENT", "a wrong text"),
            ("bug", "m1", "INTERNAL", "KeyError: 'oops'"),
        ],
    )
    async def test_errors(self, channel, text, model, code, message):
        await load(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await predict(channel, text, model)
        assert (caught.value.code().name, caught.value.details()) == (code, message)

    async def test_injection_paths_are_reported_and_other_methods_stay_allowed(self, channel):
        status = await call(
            channel, "/mmesh.ModelRuntime/runtimeStatus", pb.RuntimeStatusRequest(), pb.RuntimeStatusResponse
        )
        assert list(status.methodInfos["mmesh.ExamplePredictor/predict"].idInjectionPath) == [1]
        assert status.allowAnyMethod

    async def test_an_unknown_method_is_found_at_the_start(self):
        class Wrong(Texts):
            def services(self):
                return [ModelService(example.DESCRIPTOR.services_by_name["ExamplePredictor"], {"guess": self.predict})]

        with pytest.raises(TypeError, match=r"service mmesh\.ExamplePredictor has no method 'guess'"):
            await serve(Wrong(), listen="127.0.0.1:0")

    async def test_without_infer_there_is_no_open_inference_protocol(self, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(
                channel, "/inference.GRPCInferenceService/ServerLive", oip.ServerLiveRequest(), oip.ServerLiveResponse
            )
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestLoadErrors:
    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (LoadError("no such word"), "INVALID_ARGUMENT", "no such word"),
            (LoadError("later", status=Status.UNAVAILABLE), "UNAVAILABLE", "later"),
            (ValueError("bad header"), "INVALID_ARGUMENT", "ValueError: bad header"),
            (FileNotFoundError(2, "No such file", "m"), "FAILED_PRECONDITION", "FileNotFoundError: [Errno 2] No such"),
            (MemoryError(), "RESOURCE_EXHAUSTED", "MemoryError"),
            (TimeoutError("slow disk"), "DEADLINE_EXCEEDED", "TimeoutError: slow disk"),
            (KeyError("k"), "INTERNAL", "KeyError: 'k'"),
            (RuntimeError("two\nlines"), "INTERNAL", "RuntimeError: two lines"),
        ],
    )
    async def test_the_authors_exception_becomes_status_and_message(self, error, code, message, served):
        class Failing(Texts):
            def load(self, source):
                raise error

        server = await served(Failing(), listen="127.0.0.1:0")
        async with grpc.aio.insecure_channel(server.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await load(channel)
        assert caught.value.code().name == code
        assert caught.value.details().startswith(message)


class TestManagement:
    async def test_sizes_are_answered_with_the_load(self, channel):
        assert (await load(channel)).sizeInBytes == 5
        answer = await call(
            channel, "/mmesh.ModelRuntime/modelSize", pb.ModelSizeRequest(modelId="m1"), pb.ModelSizeResponse
        )
        assert answer.sizeInBytes == 5

    async def test_prediction_that_was_left_out_is_unimplemented(self, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(
                channel,
                "/mmesh.ModelRuntime/predictModelSize",
                pb.PredictModelSizeRequest(modelId="m1"),
                pb.PredictModelSizeResponse,
            )
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    async def test_starting_until_the_author_is_ready(self, served):
        class Slow(Texts):
            ready = False

            def is_ready(self):
                return self.ready

        runtime = Slow()
        server = await served(runtime, listen="127.0.0.1:0")
        async with grpc.aio.insecure_channel(server.address) as channel:
            for ready in (False, True):
                runtime.ready = ready
                status = await call(
                    channel, "/mmesh.ModelRuntime/runtimeStatus", pb.RuntimeStatusRequest(), pb.RuntimeStatusResponse
                )
                assert status.status == int(ready)

    async def test_starting_while_a_purge_takes_long(self, monkeypatch, served):
        monkeypatch.setattr("modelmesh.runtime.management.PURGE_PATIENCE_S", 0.01)
        go_on = asyncio.Event()

        class Slow(Texts):
            async def unload(self, model):
                await go_on.wait()

        server = await served(Slow(), listen="127.0.0.1:0")
        async with grpc.aio.insecure_channel(server.address) as channel:
            await load(channel)

            async def status():
                answer = await call(
                    channel, "/mmesh.ModelRuntime/runtimeStatus", pb.RuntimeStatusRequest(), pb.RuntimeStatusResponse
                )
                return answer.status

            assert await status() == pb.RuntimeStatusResponse.STARTING
            go_on.set()
            while await status() != pb.RuntimeStatusResponse.READY:
                await asyncio.sleep(0.005)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("capacity_bytes", 10, "the mesh wants at least"),
            ("loading_concurrency", 0, "loading_concurrency is 0"),
            ("load_timeout_ms", 10, "load_timeout_ms is 10; the mesh wants at least 100"),
            ("default_size_bytes", 0, "default_size_bytes is 0"),
        ],
    )
    async def test_parameters_the_mesh_would_refuse_are_refused_at_the_start(self, name, value, message):
        runtime = Texts()
        setattr(runtime, name, value)
        with pytest.raises(ValueError, match=message):
            await serve(runtime, listen="127.0.0.1:0")


class Doubler(ModelRuntime[int]):
    """`infer` in BF16 and parameters, async."""

    async def load(self, source):
        return int(source.path)

    def signature(self, model):
        return ModelSignature(
            (TensorSpec("x", "BF16", (-1,)),), (TensorSpec("y", "BF16", (-1,)), TensorSpec("seen", "BYTES", (1,)))
        )

    async def infer(self, model, inputs, parameters):
        return {"y": inputs["x"] * np.float32(model), "seen": np.array([repr(sorted(parameters.items()))])}


async def test_infer_with_bf16_and_parameters(served):
    server = await served(Doubler(), listen="127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        await load(channel, path="2")
        request = oip.ModelInferRequest(model_name="m1", id="7", raw_input_contents=[b"\x80\x3f"])
        request.inputs.add(name="x", datatype="BF16", shape=[1])
        request.parameters["top_k"].int64_param = 3
        answer = await call(channel, "/inference.GRPCInferenceService/ModelInfer", request, oip.ModelInferResponse)
    assert [output.datatype for output in answer.outputs] == ["BF16", "BYTES"]
    assert answer.raw_output_contents[0] == b"\x00\x40"
    assert answer.raw_output_contents[1][4:] == b"[('top_k', 3)]"
    assert answer.id == "7"


class TestAddresses:
    async def test_unix_socket_in_a_folder_that_is_made(self, tmp_path, served):
        path = tmp_path / "new" / "r.sock"
        server = await served(Texts(), listen=[f"unix://{path}", "0"])
        assert len(server.addresses) == 2
        for address in server.addresses:
            async with grpc.aio.insecure_channel(address) as channel:
                await load(channel)
        await server.stop(0)
        assert not path.exists()

    async def test_a_socket_left_by_a_killed_process_is_replaced(self, tmp_path, served):
        path = tmp_path / "r.sock"
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(str(path))
        await served(Texts(), listen=f"unix:{path}")

    async def test_addresses_in_use_are_named(self, tmp_path, served):
        server = await served(Texts(), listen=["127.0.0.1:0", f"unix://{tmp_path}/r.sock"])
        for address in server.addresses:
            with pytest.raises(OSError, match=address.rpartition(":")[2]):
                await served(Texts(), listen=address)

    @pytest.mark.parametrize("listen", ["", "host", "1:2:x", "127.0.0.1:99999", ":80x"])
    async def test_no_addresses(self, listen):
        with pytest.raises(ValueError, match="is no address"):
            await serve(Texts(), listen=listen)


class TestIntrospection:
    async def test_health_by_the_public_client(self, server):
        def ask(service):
            with grpc.insecure_channel(server.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status

        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            for service in ("", "mmesh.ModelRuntime", "mmesh.ExamplePredictor"):
                assert await loop.run_in_executor(pool, ask, service) == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError, match="is not served here"):
                await loop.run_in_executor(pool, ask, "other.Service")

    async def test_watchers_learn_of_the_end(self, server, channel):
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stop = asyncio.create_task(server.stop(60))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF  # an open watch must not hold up the end
        assert await asyncio.wait_for(stop, 20)

    async def test_reflection_by_the_public_client(self, server):
        def ask():
            with grpc.insecure_channel(server.address) as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                names = database.get_services()
                return list(names), [database.FindFileContainingSymbol(name).name for name in names if "v1" not in name]

        services, files = await asyncio.get_running_loop().run_in_executor(None, ask)
        assert {"mmesh.ModelRuntime", "mmesh.ExamplePredictor", "grpc.health.v1.Health"} <= set(services)
        assert files == ["example-predictor.proto", "model-runtime.proto"]


async def test_a_cancelled_call_keeps_its_model_until_its_thread_has_ended(served):
    # 1 a plain method runs in a thread; 2 its client gives up; 3 an unload must wait for the thread all the same.
    begun, go_on, story = threading.Event(), threading.Event(), []

    class Slow(Texts):
        def predict(self, model, request):
            begun.set()
            go_on.wait(10)
            story.append("answered")
            return example.PredictResponse()

        def unload(self, model):
            story.append("unloaded")

    server = await served(Slow(), listen="127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        await load(channel)
        running = predict(channel, "x")
        running_task = asyncio.ensure_future(running.code())
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, 5)
        running.cancel()
        await running_task
        unload = asyncio.ensure_future(
            call(
                channel, "/mmesh.ModelRuntime/unloadModel", pb.UnloadModelRequest(modelId="m1"), pb.UnloadModelResponse
            )
        )
        await asyncio.sleep(0.1)
        assert not unload.done()
        go_on.set()
        await unload
    assert story == ["answered", "unloaded"]


async def test_a_load_that_hangs_does_not_keep_the_server_from_stopping(served):
    started, go_on = threading.Event(), threading.Event()

    class Hanging(Texts):
        def load(self, source):
            started.set()
            go_on.wait(10)
            return ""

    server = await served(Hanging(), listen="127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        loading = asyncio.ensure_future(load(channel).code())
        assert await asyncio.to_thread(started.wait, 10)
        assert not await server.stop(0)
        go_on.set()
        await loading


PROGRAM = """
from modelmesh.runtime import ModelRuntime, run
class Slow(ModelRuntime[str]):
    def load(self, source):
        return source.path
    def unload(self, model):
        print("unloaded", model, flush=True)
run(Slow(), listen="unix://{path}")
"""


@pytest.mark.process
async def test_sigterm_unloads_and_ends_cleanly(tmp_path):
    path = tmp_path / "r.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM.format(path=path),
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with grpc.aio.insecure_channel(f"unix://{path}") as channel:
        request = pb.LoadModelRequest(modelId="m1", modelPath="the-model")
        await call(channel, "/mmesh.ModelRuntime/loadModel", request, pb.LoadModelResponse, wait_for_ready=True)
    process.send_signal(signal.SIGTERM)
    output, errors = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0, errors.decode()
    assert output == b"unloaded the-model\n"
    assert b"Traceback" not in errors
    assert not path.exists()


@pytest.mark.process
async def test_what_was_warmed_up_is_left_out_of_collections(tmp_path):
    program = """
import gc
from modelmesh.runtime import ModelRuntime, run
class Warm(ModelRuntime[str]):
    def warm_up(self):
        self.kept = [[] for _ in range(1000)]
    def load(self, source):
        return f"{len(self.kept)} {gc.get_freeze_count() > 1000}"
    def unload(self, model):
        print(model, flush=True)
run(Warm(), listen="unix://%s")
""" % (tmp_path / "r.sock")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={**os.environ, "PYTHONPATH": SOURCE}, stdout=subprocess.PIPE
    )
    async with grpc.aio.insecure_channel(f"unix://{tmp_path}/r.sock") as channel:
        for model in ("m1", "m2"):  # the second comes after the warm-up, which takes no time here
            await asyncio.sleep(0.2 if model == "m2" else 0)
            request = pb.LoadModelRequest(modelId=model, modelPath="x")
            await call(channel, "/mmesh.ModelRuntime/loadModel", request, pb.LoadModelResponse, wait_for_ready=True)
    process.send_signal(signal.SIGTERM)
    output, _ = await asyncio.wait_for(process.communicate(), 15)
    assert "1000 True" in output.decode()
