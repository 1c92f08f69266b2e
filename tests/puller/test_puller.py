"""The puller between a mesh's calls and real runtimes, over real gRPC. Source: spec/runtime-adapters.md 2."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from aiohttp import ClientSession, web
from puller_kit import Pod, Recorder, pod, refused

from modelmesh._proto import grpc_health_pb2 as health
from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.puller.settings import read_settings
from modelmesh.puller.turns import Turns
from modelmesh.runtime import LoadError, RuntimeFault, serve
from modelmesh.servers.settings import SettingsError
from modelmesh.values.status import Status


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Pod]:
    async with pod(tmp_path) as made:
        yield made


async def test_a_load_is_rewritten_and_passed_on(mesh: Pod) -> None:
    answer = await mesh.load("mod", schema_path="m/schema.json", model_type={"name": "onnx"}, bucket="x")
    assert answer.sizeInBytes == 1007
    (source,) = mesh.runtime.sources
    assert source.path == f"{mesh.root}/mod/model"
    assert source.type == "t"
    assert source.key == json.dumps(
        {"model_type": {"name": "onnx"}, "disk_size_bytes": 7, "schema_path": f"{mesh.root}/mod/schema.json"},
        separators=(",", ":"),
    )
    size = await mesh.call("modelSize", pb.ModelSizeRequest(modelId="mod"), pb.ModelSizeResponse)
    assert size.sizeInBytes == 1007
    await mesh.unload("mod")
    assert mesh.folders() == []
    assert mesh.runtime.calls == ["load mod", "unload content"]


async def test_what_the_store_refuses_has_a_code_and_nothing_is_left(mesh: Pod) -> None:
    """Nearly everything was UNKNOWN."""
    for status, code in ((404, "NOT_FOUND"), (403, "PERMISSION_DENIED"), (401, "UNAUTHENTICATED")):
        mesh.fault = lambda _request, status=status: web.Response(status=status)
        error = await refused(mesh.load("mod"))
        assert error.code().name == code
        assert "/m/model" in str(error.details())
    assert (
        await refused(mesh.call("loadModel", pb.LoadModelRequest(modelPath="x"), pb.LoadModelResponse))
    ).code().name == "INVALID_ARGUMENT"
    bad = pb.LoadModelRequest(modelId="m", modelPath="x", modelKey="{")
    error = await refused(mesh.call("loadModel", bad, pb.LoadModelResponse))
    assert "Invalid modelKey in LoadModelRequest" in str(error.details())
    assert mesh.folders() == []
    assert mesh.runtime.calls == []


async def test_what_the_runtime_refuses_is_passed_on(mesh: Pod) -> None:
    mesh.runtime.fail = LoadError("the file is broken", status=Status.INVALID_ARGUMENT)
    error = await refused(mesh.load("mod"))
    assert (error.code().name, error.details()) == ("INVALID_ARGUMENT", "the file is broken")
    assert mesh.folders() == []
    mesh.runtime.fail = LoadError("later", status=Status.UNAVAILABLE)
    await refused(mesh.load("mod"))
    assert mesh.folders() == ["mod"]  # it may be at it still; the mesh unloads it next
    await mesh.unload("mod")
    assert mesh.folders() == []


async def test_calls_for_one_model_keep_their_order(mesh: Pod) -> None:
    mesh.runtime.gate.clear()
    async with mesh.channel() as channel:
        request = pb.LoadModelRequest(modelId="mod", modelPath="m/model", modelKey='{"storage_key": "web"}')
        load = asyncio.ensure_future(mesh.begin(channel, "loadModel", request, pb.LoadModelResponse))
        await mesh.runtime.entered.wait()
        unload = asyncio.ensure_future(
            mesh.begin(channel, "unloadModel", pb.UnloadModelRequest(modelId="mod"), pb.UnloadModelResponse)
        )
        # Another model does not wait.
        other = pb.UnloadModelRequest(modelId="other")
        await mesh.begin(channel, "unloadModel", other, pb.UnloadModelResponse)
        assert not unload.done()
        mesh.runtime.gate.set()
        await load
        await unload
    assert mesh.runtime.calls == ["load mod", "unload content"]
    assert mesh.folders() == []


async def test_cancelled_loads_stop_nothing(mesh: Pod) -> None:
    """One cancelled load stopped every later call of the old puller."""
    mesh.hold = asyncio.Event()
    async with mesh.channel() as channel:
        request = pb.LoadModelRequest(modelId="mod", modelPath="m/model", modelKey='{"storage_key": "web"}')
        for _ in range(30):
            before = len(mesh.requests)
            call = mesh.begin(channel, "loadModel", request, pb.LoadModelResponse)
            waiting = asyncio.ensure_future(call.code())
            while len(mesh.requests) == before:
                await asyncio.sleep(0)
            call.cancel()
            await waiting
        mesh.hold.set()
        await mesh.begin(channel, "unloadModel", pb.UnloadModelRequest(modelId="mod"), pb.UnloadModelResponse)
        assert mesh.folders() == []
        await mesh.begin(channel, "loadModel", request, pb.LoadModelResponse)
    assert mesh.runtime.calls == ["load mod"]


async def test_an_unload_after_a_cancelled_load_leaves_nothing(mesh: Pod) -> None:
    mesh.runtime.gate.clear()
    async with mesh.channel() as channel:
        request = pb.LoadModelRequest(modelId="mod", modelPath="m/model", modelKey='{"storage_key": "web"}')
        call = mesh.begin(channel, "loadModel", request, pb.LoadModelResponse)
        ended = asyncio.ensure_future(call.code())
        await mesh.runtime.entered.wait()
        call.cancel()
        await ended
        await mesh.begin(channel, "unloadModel", pb.UnloadModelRequest(modelId="mod"), pb.UnloadModelResponse)
    assert mesh.folders() == []
    assert mesh.server.models.ids() == []


async def test_unloads_of_what_is_not_there(mesh: Pod) -> None:
    await mesh.unload("never")
    assert (await refused(mesh.unload("_modelmesh_cache"))).code().name == "INVALID_ARGUMENT"


async def test_an_unload_that_fails_keeps_the_files(mesh: Pod) -> None:
    await mesh.load("mod")

    async def stuck(_model: str) -> None:
        raise RuntimeFault("it does not let go", status=Status.INTERNAL)

    unload, mesh.runtime.unload = mesh.runtime.unload, stuck  # type: ignore[method-assign]
    error = await refused(mesh.unload("mod"))
    assert (error.code().name, error.details()) == ("INTERNAL", "it does not let go")
    assert mesh.folders() == ["mod"]
    mesh.runtime.unload = unload  # type: ignore[method-assign]
    await mesh.unload("mod")
    assert mesh.folders() == []


async def test_ready_means_empty(mesh: Pod) -> None:
    await mesh.load("mod")
    (mesh.root / "from-before").mkdir()
    (mesh.root / "from-before" / "file").touch()
    while (answer := await mesh.status()).status == pb.RuntimeStatusResponse.STARTING:
        await asyncio.sleep(0.05)  # it unloads
    assert answer.status == pb.RuntimeStatusResponse.READY
    assert answer.capacityInBytes == 2**30
    assert mesh.folders() == []
    assert mesh.server.models.ids() == []


async def test_a_runtime_that_starts_is_waited_for(tmp_path: Path) -> None:
    """The old puller ended if the runtime was not there within three seconds."""
    async with pod(tmp_path) as mesh:
        mesh.runtime.ready = False
        assert (await mesh.status()).status == pb.RuntimeStatusResponse.STARTING
        await mesh.server.stop(0)
        assert (await mesh.status()).status == pb.RuntimeStatusResponse.STARTING
        error = await refused(mesh.load("mod"))
        assert error.code().name == "UNAVAILABLE"
        mesh.runtime.ready = True
        mesh.server = await serve(mesh.runtime, listen=f"127.0.0.1:{mesh.settings.runtime.rpartition(':')[2]}")
        while (await mesh.status()).status != pb.RuntimeStatusResponse.READY:
            await asyncio.sleep(0.05)
        await mesh.load("mod")


async def test_a_runtime_that_begins_anew_is_told_by_a_broken_connection(mesh: Pod) -> None:
    await mesh.load("mod")
    async with mesh.channel() as channel:
        await channel.channel_ready()
        await mesh.server.stop(0)
        state = channel.get_state()
        while state is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)
            state = channel.get_state()
    mesh.runtime = Recorder()
    mesh.server = await serve(mesh.runtime, listen=f"127.0.0.1:{mesh.settings.runtime.rpartition(':')[2]}")
    while mesh.folders():  # it asks the new one, which knows nothing
        await asyncio.sleep(0.05)
    error = None
    while error is None or error.code().name == "UNAVAILABLE":
        error = await refused(mesh.call("modelSize", pb.ModelSizeRequest(modelId="mod"), pb.ModelSizeResponse))
    assert error.code().name == "NOT_FOUND"
    await mesh.load("mod")


async def test_predictions_are_the_runtimes_or_from_the_listing(mesh: Pod) -> None:
    request = pb.PredictModelSizeRequest(
        modelId="mod", modelType="t", modelPath="m/model", modelKey='{"storage_key": "web"}'
    )
    answer = await mesh.call("predictModelSize", request, pb.PredictModelSizeResponse)
    assert answer.sizeInBytes == 9  # 7 bytes on disk, by 1.25
    request.modelPath = "m/gone"
    assert (
        await refused(mesh.call("predictModelSize", request, pb.PredictModelSizeResponse))
    ).code().name == "NOT_FOUND"
    assert mesh.folders() == []


@pytest.mark.parametrize("keeps", [True, False])
async def test_files_are_kept_if_they_may_be(tmp_path: Path, keeps: bool) -> None:
    async with pod(tmp_path, **({"MODEL_CACHE_BYTES": "1000000"} if keeps else {})) as mesh:
        for _ in range(2):
            await mesh.load("mod")
            await mesh.unload("mod")
        entries = list((mesh.settings.cache / "entries").iterdir())
        assert len(entries) == (1 if keeps else 0)


async def test_health_and_metrics(tmp_path: Path) -> None:
    from modelmesh.puller.metrics import MetricsPage

    async with pod(tmp_path) as mesh:
        await mesh.load("mod")
        mesh.fault = lambda _request: web.Response(status=403)
        await refused(mesh.load("other"))
        page = MetricsPage(mesh.puller.metrics, 0, lambda: mesh.puller.upstream.connected)
        try:
            async with ClientSession() as client:
                for path, status in (("/live", 200), ("/ready", 200), ("/metrics", 200), ("/other", 404)):
                    async with client.get(f"http://127.0.0.1:{page.port}{path}") as answer:
                        assert answer.status == status
                        text = await answer.text()
                        if path == "/metrics":
                            assert 'modelmesh_puller_loads_total{code="OK",ended_by="runtime"} 1.0' in text
                            assert 'modelmesh_puller_loads_total{code="PERMISSION_DENIED",ended_by="pull"} 1.0' in text
                            assert "modelmesh_puller_fetched_bytes_total 7.0" in text
                            assert "modelmesh_puller_cache_bytes 7.0" in text
        finally:
            await page.stop()
        async with mesh.channel() as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health.HealthCheckRequest.SerializeToString,
                response_deserializer=health.HealthCheckResponse.FromString,
            )
            answer = await check(health.HealthCheckRequest())
        assert answer.status == health.HealthCheckResponse.SERVING


def test_the_environment_as_it_always_was() -> None:
    settings = read_settings({})
    assert (settings.port, settings.runtime, settings.root) == (8084, "127.0.0.1:8085", Path("/models"))
    assert (settings.storage_configs, settings.claims) == (Path("/storage-config"), Path("/pvc_mounts"))
    assert (settings.cache_bytes, settings.metrics_port, settings.plain_logs) == (None, 0, True)
    assert read_settings({"MODEL_SERVER_ENDPOINT": "unix:/tmp/x"}).runtime == "unix:/tmp/x"
    assert not read_settings({"LOG_LEVEL": "info"}).plain_logs


@pytest.mark.parametrize(
    "environ",
    [
        {"PORT": ""},
        {"PORT": "x"},
        {"PORT": "70000"},
        {"MODEL_SERVER_ENDPOINT": ""},
        {"MODEL_SERVER_ENDPOINT": "localhost:1"},
        {"MODEL_SERVER_ENDPOINT": "port:x"},
        {"MODEL_CACHE_BYTES": "-1"},
        {"MODELSIZE_MULTIPLIER": "0"},
    ],
)
def test_an_environment_that_makes_no_sense(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(environ))):
        read_settings(environ)


async def test_turns_are_bounded_and_leave_nothing() -> None:
    turns = Turns()
    done: list[int] = []

    async def one(number: int) -> None:
        async with turns.one("m"):
            await asyncio.sleep(0)
            done.append(number)

    tasks = [asyncio.ensure_future(one(number)) for number in range(26)]
    await asyncio.sleep(0)
    with pytest.raises(RuntimeFault) as error:
        await one(99)
    assert error.value.status is Status.RESOURCE_EXHAUSTED
    tasks[5].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == [number for number in range(26) if number != 5]
    assert len(turns) == 0


@pytest.mark.process
async def test_the_program_ends_gracefully_and_says_what_is_wrong(tmp_path: Path) -> None:
    async with pod(tmp_path) as mesh:
        environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
        environ |= {"PORT": "0", "MODEL_SERVER_ENDPOINT": "port:1", "ROOT_MODEL_DIR": str(tmp_path / "other")}
        command = [sys.executable, "-m", "modelmesh.cli", "puller"]
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        assert b"pulling for the runtime at 127.0.0.1:1" in await process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        environ["PORT"] = mesh.puller.address.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        assert process.returncode == 1
        assert b"is it in use" in said
