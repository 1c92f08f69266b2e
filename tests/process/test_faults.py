"""What goes wrong at start and later, each with a clear error and nothing left behind."""

import asyncio
import signal
import socket
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from conftest import StartMesh, eventually

from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.processes import Child, start_child
from modelmesh.testing.scripted_runtime import ScriptedRuntime

pytestmark = pytest.mark.process


async def serve(folder: Path, runtime: str = "", **environment: str) -> tuple[int, str]:
    """Run `modelmesh serve` until it ends; its exit status and its output."""
    child = await begin(folder, environment, runtime)
    try:
        async with asyncio.timeout(20):
            await child.wait()
    finally:
        await child.stop()
    return child._process.returncode or 0, child.log.read_text()


async def begin(folder: Path, environment: Mapping[str, str], runtime: str = "") -> Child:
    defaults = {
        "MM_SERVICE_NAME": "test",
        "KV_STORE": f"sqlite:{folder / 'store.db'}",
        "MM_LISTEN_HOST": "127.0.0.1",
        "MM_SVC_GRPC_PORT": str(free_port()),
        "MM_REST_PORT": "NONE",
        "MM_PROBE_PORT": "NONE",
        "MM_PRESTOP_WAIT_PORT": "NONE",
        "INTERNAL_GRPC_SOCKET_PATH": runtime.removeprefix("unix://") or str(folder / "nobody.sock"),
        "LL_TERMINATION_MSG_PATH": str(folder / "termination"),
    }
    command = [sys.executable, "-m", "modelmesh.cli", "serve"]
    return await start_child("serve", command, log=folder / "serve.log", environment={**defaults, **environment})


async def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    status, output = await serve(tmp_path, MM_SERVICE_NAME="")
    assert status == 1
    assert "MM_SERVICE_NAME is required" in output


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MM_SVC_GRPC_PORT", "eighty", "MM_SVC_GRPC_PORT"),
        ("MM_SVC_GRPC_PORT", "70000", "MM_SVC_GRPC_PORT"),
        ("MM_KVSTORE_PREFIX", "a/b", "MM_KVSTORE_PREFIX"),
        ("MM_TLS_CLIENT_AUTH", "require", "TLS client-auth set to REQUIRE without other required TLS config"),
        ("INTERNAL_GRPC_PORT", "8085", "INTERNAL_GRPC_PORT and INTERNAL_GRPC_SOCKET_PATH are both set"),
    ],
)
async def test_a_wrong_setting_is_named(tmp_path: Path, name: str, value: str, said: str) -> None:
    status, output = await serve(tmp_path, **{name: value})
    assert status == 1
    assert said in output


async def test_a_store_that_is_away_ends_the_start(tmp_path: Path) -> None:
    status, output = await serve(tmp_path, KV_STORE=f"etcd:127.0.0.1:{free_port()}")
    assert status == 3
    assert "Service startup failed: Problem connecting to etcd" in output
    said = (tmp_path / "termination").read_text()
    assert said.startswith("Service startup failed: Problem connecting to etcd at 127.0.0.1:")
    assert said.count("Problem connecting to etcd") == 1


async def test_zookeeper_is_told_to_be_gone(tmp_path: Path) -> None:
    status, output = await serve(tmp_path, KV_STORE="zookeeper:localhost:2181")
    assert status == 1
    assert "ZooKeeper is no longer supported" in output


@pytest.mark.parametrize(
    "setting", ["MM_SVC_GRPC_PORT", "MM_REST_PORT", "WATSON_SERVICE_PORT", "MM_PROBE_PORT", "MM_PRESTOP_WAIT_PORT"]
)
async def test_a_port_in_use_is_named(tmp_path: Path, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, output = await serve(tmp_path, **{setting: port})
    assert status == 3
    assert f"127.0.0.1:{port}" in output


async def test_a_store_file_in_use_is_named(tmp_path: Path, start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    setting = mesh.cluster.store_setting
    status, output = await serve(tmp_path, KV_STORE=setting)
    assert status == 3
    assert setting.removeprefix("sqlite:") in output


async def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("PRAGMA user_version = 4711")
        connection.execute("CREATE TABLE something (x)")
    status, output = await serve(tmp_path)
    assert status == 3
    assert "store.db" in output


async def test_a_runtime_that_never_starts_can_be_given_up(tmp_path: Path) -> None:
    child = await begin(tmp_path, {})

    async def waits() -> bool:
        return "runtime_awaited" in child.log.read_text()

    await eventually(waits)
    child.signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        await child.wait()
    assert child._process.returncode == 0


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"capacity_bytes": 10}, "capacityInBytes must be at least"),
        ({"default_size_bytes": 0}, "defaultModelSizeInBytes must be above 0"),
        ({"loading_concurrency": 0}, "maxLoadingConcurrency must be at least 1"),
        ({"load_timeout_ms": 5}, "modelLoadingTimeoutMs must be at least 100"),
        ({"failing": True}, "the runtime reports that it is failing"),
        ({"method_infos": {"p.S/M": [0]}}, "idInjectionPath of p.S/M must hold at most 16 field numbers"),
        ({"method_infos": {"p.S/M": [2**29]}}, "idInjectionPath of p.S/M must hold at most 16 field numbers"),
        ({"method_infos": {"p.S/M": [1] * 17}}, "idInjectionPath of p.S/M must hold at most 16 field numbers"),
    ],
)
async def test_a_runtime_that_cannot_be_worked_with_is_refused(tmp_path: Path, lie: dict, said: str) -> None:
    async with ScriptedRuntime(listen=f"unix://{tmp_path}/runtime.sock", **lie) as runtime:
        status, output = await serve(tmp_path, runtime.address)
    assert status == 3
    assert said in output


async def test_a_runtime_that_answers_garbage_is_asked_again(tmp_path: Path) -> None:
    async with ScriptedRuntime(listen=f"unix://{tmp_path}/runtime.sock") as runtime:
        runtime.garbage.add("runtimeStatus")
        child = await begin(tmp_path, {}, runtime.address)
        try:

            async def told() -> bool:
                return "malformed" in child.log.read_text()

            await eventually(told)
            runtime.garbage.clear()

            async def ready() -> bool:
                return '"event": "ready"' in child.log.read_text()

            await eventually(ready)
        finally:
            await child.stop()


async def test_an_instance_id_in_use_is_refused(start_mesh: StartMesh, tmp_path: Path) -> None:
    mesh = await start_mesh(2)
    async with ScriptedRuntime(listen=f"unix://{tmp_path}/runtime.sock") as runtime:
        status, output = await serve(
            tmp_path,
            runtime.address,
            KV_STORE=mesh.cluster.store_setting,
            MM_SERVICE_NAME="local",
            MM_INSTANCE_ID="instance-2",
            WATSON_SERVICE_ADDRESS="127.0.0.1",
        )
    assert status == 3
    assert "instance id instance-2 is in use" in output


async def test_a_restarted_runtime_blames_no_model_and_readiness_follows(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(environment={"MM_PROBE_PORT": str(probe := free_port())})
    await mesh.register("m", load=True, sync=True)
    runtime = mesh.runtimes[0]

    async def ready() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", probe)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.readline()
        writer.close()
        return b" 200 " in answer

    async def not_ready() -> bool:
        return not await ready()

    await eventually(ready)
    await runtime.stop()
    await eventually(not_ready)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.predict("m", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "no connection to its runtime" in caught.value.details()
    await runtime.start()
    await eventually(ready)
    assert (await mesh.predict("m")).results[0].confidence == 1.0
    assert list((await mesh.status("m")).errors) == []


async def test_a_model_larger_than_it_said_evicts_what_it_must(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(capacity_bytes=1000 << 20, default_size_bytes=100 << 20)
    for n in range(8):
        await mesh.register(f"m{n}", f"SIZE_{100 << 20}_0_0", load=True, sync=True)
        await asyncio.sleep(0.01)
    await mesh.register("huge", f"SIZE_{900 << 20}_0_0", load=True, sync=True)

    async def alone() -> bool:
        return [await mesh.state(f"m{n}") for n in range(8)] == ["NOT_LOADED"] * 8

    await eventually(alone)
    assert await mesh.state("huge") == "LOADED"


async def test_a_model_that_fits_nowhere_is_told_so(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(predicts=lambda size: size)
    await mesh.register("huge", f"SIZE_{5 << 30}_0_0")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.predict("huge")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "needs 5.0 GiB" in caught.value.details()


async def test_a_storm_of_cancelled_calls_leaves_nothing(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(load_ms=1000)
    await mesh.register("cold")
    await mesh.register("warm", load=True, sync=True)
    mesh_process = mesh.cluster.instances[0].mesh
    assert mesh_process is not None
    pid = mesh_process.pid

    def descriptors() -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    before = descriptors()
    for _ in range(10):
        calls = [asyncio.create_task(mesh.predict(f"cold{n % 2 or ''}", timeout=5)) for n in range(100)]
        await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert (await mesh.predict("warm")).results[0].confidence == 1.0
    assert (await mesh.predict("cold")).results[0].confidence == 1.0
    assert mesh.loads("cold") == 1
    assert descriptors() <= before + 4


async def test_sigterm_ends_everything_quickly_and_clears_the_store(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(3)
    await mesh.register("m", load=True, sync=True)
    info = await mesh.status("m")
    holder = int(info.modelCopyInfos[0].location.removeprefix("instance-")) - 1
    process = mesh.cluster.instances[holder].mesh
    assert process is not None
    process.signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        await process.wait()
    assert process._process.returncode == 0
    survivor = (holder + 1) % 3

    async def moved() -> bool:
        copies = (await mesh.status("m", via=survivor)).modelCopyInfos
        return [copy.location for copy in copies if copy.location == f"instance-{holder + 1}"] == [] and len(
            copies
        ) == 1

    await eventually(moved)  # nobody had called it; what is loaded stands elsewhere all the same
    assert (await mesh.predict("m", via=survivor)).results[0].confidence == 1.0


async def test_a_killed_holder_is_replaced(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(3)
    await mesh.register("m", load=True, sync=True)
    holder = int((await mesh.status("m")).modelCopyInfos[0].location.removeprefix("instance-")) - 1
    process = mesh.cluster.instances[holder].mesh
    assert process is not None
    process.signal(signal.SIGKILL)
    await process.wait()
    for via in range(3):
        if via != holder:
            assert (await mesh.predict("m", via=via, timeout=10)).results[0].confidence == 1.0
