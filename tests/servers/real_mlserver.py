"""MLServer, the real one: what people do with it, through a mesh of two instances. `make test-servers` runs this."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web
from real_kit import (
    MIB,
    TOOLS,
    Beings,
    Pair,
    Served,
    conformance,
    eventually,
    first_output,
    keep,
    manage,
    pair,
    path_of,
    python_of,
    ready,
    served,
    serves_again,
    tensor_request,
)

from modelmesh._proto import admin_pb2
from modelmesh._proto import model_runtime_pb2 as runtime_pb
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.instance.local_cluster import free_port
from modelmesh.servers.memory import resident_tree

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

FORMATS = {"sklearn": "iris.joblib", "xgboost": "flowers.json", "lightgbm": "petals.bst"}
LARGE = 8
LARGE_BYTES = 24 * MIB
ROOM = 4
"""Large models that each instance has room for."""


def command(ports: Beings) -> list[str]:
    return [str(TOOLS / "mlserver" / "bin" / "mlserver"), "start", f"{ports.folder}/_mlserver_models"]


def environment(ports: Beings) -> Mapping[str, str]:
    return {
        **path_of("mlserver"),
        "MLSERVER_MODELS_DIR": f"{ports.folder}/_mlserver_models",
        "MLSERVER_METRICS_DIR": f"{ports.folder}/_metrics",
        "MLSERVER_ENVIRONMENTS_DIR": f"{ports.folder}/_environments",
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_GRPC_PORT": str(ports.grpc),
        "MLSERVER_HTTP_PORT": str(ports.http),
        "MLSERVER_METRICS_PORT": str(ports.metrics),
        "MLSERVER_LOAD_MODELS_AT_STARTUP": "false",
        "MLSERVER_GRPC_MAX_MESSAGE_LENGTH": "-1",
        "MLSERVER_PARALLEL_WORKERS": "0",
        # As the shipped runtime has them: large arrays go back to the system when their model leaves.
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "MALLOC_TRIM_THRESHOLD_": "1048576",
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).parent / "mlserver_models.py"
    subprocess.run([python_of("mlserver"), str(script), str(folder)], check=True, timeout=180)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("mesh")
    capacity = ROOM * LARGE_BYTES + LARGE_BYTES // 2
    async with served(folder, models, "mlserver", command, environment, capacity_bytes=capacity) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with pair(tmp_path_factory.mktemp("alone"), models, "mlserver", command, environment) as started:
        yield started


@pytest.fixture
def channel(alone: Pair) -> Iterator[grpc.aio.Channel]:
    return grpc.aio.insecure_channel(alone.target)


def known(models: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(models / f"{name}.npz") as file:
        return file["x"], file["y"]


@pytest.mark.parametrize("model_format", FORMATS)
async def test_answers_are_the_librarys_own(mesh: Served, models: Path, model_format: str) -> None:
    file = FORMATS[model_format]
    rows, answers = known(models, file.partition(".")[0])
    await mesh.register(model_format, model_format, models / file)
    for via in (1, 2):
        found = await mesh.infer(model_format, rows, via=via)
        np.testing.assert_array_equal(found.reshape(answers.shape), answers)


@pytest.mark.parametrize("name", ["native", "one-file"])
async def test_folders_are_served_with_their_own_settings_or_their_one_file(
    mesh: Served, models: Path, name: str
) -> None:
    rows, answers = known(models, name)
    await mesh.register(name, "sklearn", models / name)
    np.testing.assert_array_equal((await mesh.infer(name, rows)).reshape(answers.shape), answers)


async def test_metadata_is_the_schemas_under_the_models_id(mesh: Served, models: Path) -> None:
    await mesh.register("described", "sklearn", models / "iris.joblib", schema_path=str(models / "schema.json"))
    found = await mesh.metadata("described")
    assert found.name == "described"
    assert [(one.name, one.datatype, list(one.shape)) for one in found.inputs] == [("x", "FP64", [-1, 4])]
    assert [one.name for one in found.outputs] == ["predict"]


async def test_a_bad_shape_is_the_callers_error_and_hurts_nobody(mesh: Served, models: Path) -> None:
    rows, answers = known(models, "iris")
    await mesh.register("shapes", "sklearn", models / "iris.joblib")
    with pytest.raises(grpc.aio.AioRpcError, match="features"):
        await mesh.infer("shapes", rows[:, :3])
    np.testing.assert_array_equal((await mesh.infer("shapes", rows)).reshape(answers.shape), answers)


async def test_a_model_that_does_not_load_says_the_librarys_words(mesh: Served, models: Path) -> None:
    await mesh.register("broken", "sklearn", models / "broken.joblib")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.infer("broken", np.zeros((1, 4)))
    assert "MLServer" in (caught.value.details() or "")
    assert "Traceback" not in (caught.value.details() or "")


async def test_only_inference_passes_through_the_mesh(mesh: Served, models: Path) -> None:
    rows, _ = known(models, "iris")
    await mesh.register("guarded", "sklearn", models / "iris.joblib")
    await mesh.infer("guarded", rows)
    headers = [("mm-model-id", "guarded")]
    # Of the repository extension the mesh answers itself, and knows no model without a name; the server is not asked.
    for service, refusals in (
        ("inference.GRPCInferenceService", {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}),
        ("inference.model_repository.ModelRepositoryService", {grpc.StatusCode.UNIMPLEMENTED}),
    ):
        for method, request, answer in (
            ("RepositoryModelUnload", oip.RepositoryModelUnloadRequest(), oip.RepositoryModelUnloadResponse),
            ("RepositoryModelLoad", oip.RepositoryModelLoadRequest(), oip.RepositoryModelLoadResponse),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await mesh.call(f"{service}/{method}", request, answer, headers=headers)
            assert caught.value.code() in refusals, (service, method, caught.value.code())
    assert sum([await mesh.server_has(number, "guarded") for number in mesh.ports]) == 1
    await mesh.infer("guarded", rows)


async def test_models_that_do_not_all_fit_leave_and_come_back(mesh: Served, models: Path) -> None:
    for number in range(LARGE):
        await mesh.register(f"large-{number}", "sklearn", models / f"large-{number}.joblib")
    for _ in range(2):
        for number in range(LARGE):
            rows, answers = known(models, f"large-{number}")
            found = await mesh.infer(f"large-{number}", rows, via=1 + number % 2)
            np.testing.assert_array_equal(found.reshape(answers.shape), answers)
    copies = {name: held for name, held in (await mesh.models()).items() if name.startswith("large-")}
    sizes = [copy.size_bytes for held in copies.values() for copy in held if copy.size_bytes]
    assert sizes
    assert all(LARGE_BYTES * 0.85 <= size <= LARGE_BYTES * 1.3 for size in sizes), sizes
    held = dict.fromkeys(mesh.ports, 0)
    for number in mesh.ports:
        for name in copies:
            held[number] += await mesh.server_has(number, name)
    assert all(count <= ROOM for count in held.values()), held
    # What MLServer keeps of models that left is used again: it does not grow with every load.
    for number in mesh.ports:
        resident = resident_tree(mesh.server(number).pid)
        assert resident is not None
        assert resident < 350 * MIB + (ROOM + 2) * LARGE_BYTES, resident // MIB


async def test_an_unload_is_one_at_the_server(mesh: Served, models: Path) -> None:
    rows, _ = known(models, "iris")
    await mesh.register("leaving", "sklearn", models / "iris.joblib")
    await mesh.infer("leaving", rows)
    assert any([await mesh.server_has(number, "leaving") for number in mesh.ports])
    await mesh.unload("leaving")

    async def gone() -> bool:
        left = [path for one in mesh.ports.values() for path in one.folder.glob("_mlserver_models/leaving")]
        return not left and not any([await mesh.server_has(number, "leaving") for number in mesh.ports])

    await eventually(gone)


async def test_a_server_that_is_killed_loses_no_caller_for_long_and_comes_back(mesh: Served, models: Path) -> None:
    rows, answers = known(models, "iris")
    await mesh.register("survivor", "sklearn", models / "iris.joblib")
    await mesh.infer("survivor", rows)
    (number,) = [number for number in mesh.ports if await mesh.server_has(number, "survivor")]
    os.kill(mesh.server(number).pid, signal.SIGKILL)

    async def answered(via: int) -> bool:
        found = await mesh.infer("survivor", rows, via=via, timeout=20)
        np.testing.assert_array_equal(found.reshape(answers.shape), answers)
        return True

    await serves_again(mesh, number, answered)
    tries = iter(range(1000))

    async def loads_there() -> bool:
        name = f"again-{next(tries)}"
        with contextlib.suppress(grpc.aio.AioRpcError):
            await mesh.cluster.mend()
            await mesh.register(name, "sklearn", models / "iris.joblib")
            await mesh.infer(name, rows, via=number)
        return await mesh.server_has(number, name)

    await eventually(loads_there)


# --- one server and its adapter, without a mesh -------------------------------------------------


def load_request(model: str, path: Path, kind: str = "sklearn") -> runtime_pb.LoadModelRequest:
    return runtime_pb.LoadModelRequest(modelId=model, modelType=f"mt:{kind}", modelPath=str(path))


async def test_a_cancelled_load_leaves_nothing_in_the_server(
    alone: Pair, channel: grpc.aio.Channel, models: Path
) -> None:
    await ready(channel)
    # The first one is given up while the server imports what its format needs, the others wherever they are then.
    for delay_s in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
        load = asyncio.create_task(manage(channel, load_request("given-up", models / "large-0.joblib")))
        await asyncio.sleep(delay_s)
        load.cancel()
        await asyncio.wait([load])
        await manage(channel, runtime_pb.UnloadModelRequest(modelId="given-up"))
        assert not list(alone.ports.folder.glob("_mlserver_models/given-up"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await manage(channel, runtime_pb.ModelSizeRequest(modelId="given-up"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await manage(channel, load_request("given-up", models / "large-0.joblib"))
    await manage(channel, runtime_pb.UnloadModelRequest(modelId="given-up"))


async def test_the_measured_size_is_what_the_server_grows_by(
    alone: Pair, channel: grpc.aio.Channel, models: Path
) -> None:
    await ready(channel)
    before = resident_tree(alone.server.pid)
    sizes = [
        (await manage(channel, load_request(f"m{number}", models / f"large-{number}.joblib"))).sizeInBytes
        for number in range(4)
    ]
    after = resident_tree(alone.server.pid)
    assert before is not None
    assert after is not None
    # Memory of models that left earlier may have been used again, so the growth is the least that they take.
    assert sum(sizes) >= 0.85 * (after - before)
    assert all(0.85 * LARGE_BYTES <= size <= 1.15 * LARGE_BYTES for size in sizes), sizes
    for number in range(4):
        await manage(channel, runtime_pb.UnloadModelRequest(modelId=f"m{number}"))


async def test_twenty_loads_and_unloads_do_not_grow_the_server(
    alone: Pair, channel: grpc.aio.Channel, models: Path
) -> None:
    await ready(channel)
    seen = []
    for _ in range(20):
        await manage(channel, load_request("cycle", models / "large-1.joblib"))
        await manage(channel, runtime_pb.UnloadModelRequest(modelId="cycle"))
        seen.append(resident_tree(alone.server.pid) or 0)
    assert max(seen[5:]) <= seen[4] + LARGE_BYTES, [size // MIB for size in seen]


async def test_many_loaded_models_make_no_load_slow(alone: Pair, channel: grpc.aio.Channel, models: Path) -> None:
    """MLServer reads the settings of every model at each load; those of loaded ones are put aside."""
    await ready(channel)
    for number in range(60):
        await manage(channel, load_request(f"many-{number}", models / "iris.joblib"))
    found = [path.name for path in alone.ports.folder.rglob("model-settings.json")]
    assert found == []
    await ready(channel)
    assert not list(alone.ports.folder.glob("_mlserver_models/*"))


async def test_an_adapter_that_starts_anew_empties_the_server(
    alone: Pair, channel: grpc.aio.Channel, models: Path, tmp_path: Path
) -> None:
    from real_kit import adapter_command, adapter_environment

    from modelmesh.instance.processes import start_child

    await ready(channel)
    await manage(channel, load_request("left-behind", models / "iris.joblib"))
    half = asyncio.create_task(manage(channel, load_request("half", models / "large-7.joblib", "lightgbm")))
    await asyncio.sleep(0.05)
    alone.adapter.signal(signal.SIGKILL)
    await alone.adapter.wait()
    await asyncio.wait([half])
    alone.adapter = await start_child(
        "adapter",
        adapter_command("mlserver", alone.target, models),
        log=tmp_path / "adapter.log",
        environment={**adapter_environment(alone.ports, 1024 * MIB, 256 * MIB), **environment(alone.ports)},
    )
    await ready(channel)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{alone.ports.grpc}") as server:
        call = server.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            request_serializer=oip.ModelMetadataRequest.SerializeToString,
            response_deserializer=oip.ModelMetadataResponse.FromString,
        )
        for name in ("left-behind", "half"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(oip.ModelMetadataRequest(name=name), timeout=10)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_conformance_of_every_format(alone: Pair, channel: grpc.aio.Channel, models: Path) -> None:
    await ready(channel)
    verdicts = {}
    for model_format, file in FORMATS.items():
        rows, _ = known(models, file.partition(".")[0])
        subject = {
            "model_type": f"mt:{model_format}",
            "model_path": str(models / file),
            "broken_path": str(models / "broken.joblib"),
        }
        verdicts[model_format] = await conformance(alone.target, alone.ports, subject, rows[:1], "x")
    version = (await manage(channel, runtime_pb.RuntimeStatusRequest())).runtimeVersion
    keep("mlserver", {"server": "MLServer", "version": version, "formats": verdicts})
    failed = {
        (model_format, check): verdict
        for model_format, checks in verdicts.items()
        for check, verdict in checks.items()
        if verdict.startswith("FAILED") and check != "takes_any_id"
    }
    assert not failed
    # Its answers carry a call's metadata back, which fails for ids that are not ASCII: refused at the load, in words.
    for checks in verdicts.values():
        assert "the id must be printable ASCII" in checks["takes_any_id"]


# --- modelmesh up -f ----------------------------------------------------------------------------


class _Store:
    """An HTTP store of one folder that counts what it gives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bytes_given = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        file = self._folder / request.path.lstrip("/")
        if not file.is_file():
            return web.Response(status=404)
        if request.method == "GET":
            size = file.stat().st_size
            self.bytes_given += len(range(*request.http_range.indices(size)))
        return web.FileResponse(file)


async def test_up_serves_manifests_on_mlserver_and_the_built_in_runtime_and_fetches_once(
    models: Path, tmp_path: Path
) -> None:
    (tmp_path / "iris.joblib").write_bytes((models / "iris.joblib").read_bytes())
    store = _Store(models)
    runner = web.ServerRunner(web.Server(store))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    at = f"http://127.0.0.1:{runner.addresses[0][1]}"
    template = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: {name}}}
spec: {{predictor: {{model: {{modelFormat: {{name: {kind}}}, {where}}}}}}}
---
"""
    (tmp_path / "models.yaml").write_text(
        template.format(name="iris", kind="sklearn", where="storage: {path: iris.joblib}")
        + template.format(name="flowers", kind="xgboost", where=f'storageUri: "{at}/flowers.json"')
        + template.format(
            name="large", kind="sklearn", where=f'runtime: mlserver-1.x, storageUri: "{at}/large-0.joblib"'
        )
    )
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelmesh.cli", "up", "-f", str(tmp_path / "models.yaml"), "--port", str(port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **path_of("mlserver")},
    )
    try:
        assert process.stdout is not None
        said = ""
        async with asyncio.timeout(120):
            while "running; Ctrl-C stops" not in said:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for name, model in (("iris", "iris"), ("flowers", "flowers"), ("large", "large-0")):
                rows, answers = known(models, model)
                found = await infer_at(channel, name, rows)
                np.testing.assert_array_equal(found.reshape(answers.shape), answers)
            fetched = store.bytes_given
            sizes = [(models / name).stat().st_size for name in ("flowers.json", "large-0.joblib")]
            # A store is asked for the first byte to learn a file's size and tag; that counts for nothing.
            assert sum(sizes) <= fetched < sum(sizes) + 64
            listed = admin_pb2.ListModelsResponse.FromString(
                await channel.unary_unary("/modelmesh.v1.Admin/ListModels")(b"", timeout=20)
            )
            (large,) = [one.id for one in listed.models if one.id.startswith("large__isvc-")]
            unload = admin_pb2.UnloadModelRequest(model_id=large).SerializeToString()
            await channel.unary_unary("/modelmesh.v1.Admin/UnloadModel")(unload, timeout=20)
            rows, answers = known(models, "large-0")
            np.testing.assert_array_equal((await infer_at(channel, "large", rows)).reshape(answers.shape), answers)
            assert store.bytes_given < fetched + 64, "loaded again from the disk cache"
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
        await runner.cleanup()


async def infer_at(channel: grpc.aio.Channel, name: str, rows: np.ndarray) -> np.ndarray:
    """An inference under a stable name."""
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=oip.ModelInferRequest.SerializeToString,
        response_deserializer=oip.ModelInferResponse.FromString,
    )
    return first_output(await call(tensor_request("", rows, "input"), metadata=[("mm-vmodel-id", name)], timeout=90))
