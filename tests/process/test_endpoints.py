"""Where a runtime may be found: a port, a socket, two of them, an older service name, and late; and where an instance is called."""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from conftest import Mesh, eventually

from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.processes import start_child
from modelmesh.testing.scripted_runtime import LEGACY_MANAGEMENT, ScriptedRuntime

pytestmark = pytest.mark.process


@contextlib.asynccontextmanager
async def serving(folder: Path, **environment: str) -> AsyncIterator[tuple[Mesh, Path]]:
    """One instance as in a container, whose runtime the environment names; and its log."""
    port = free_port()
    settings = {
        "MM_SERVICE_NAME": "test",
        "KV_STORE": f"sqlite:{folder / 'store.db'}",
        "MM_LISTEN_HOST": "127.0.0.1",
        "MM_SVC_GRPC_PORT": str(port),
        "MM_REST_PORT": "NONE",
        "MM_PROBE_PORT": "NONE",
        "MM_PRESTOP_WAIT_PORT": "NONE",
        "LL_TERMINATION_MSG_PATH": str(folder / "termination"),
        **environment,
    }
    command = [sys.executable, "-m", "modelmesh.cli", "serve"]
    child = await start_child("serve", command, log=folder / "serve.log", environment=settings)
    cluster: Any = SimpleNamespace(instances=[SimpleNamespace(endpoint=f"127.0.0.1:{port}", mesh=child)])
    mesh = Mesh(cluster, [])
    try:
        yield mesh, child.log
    finally:
        await mesh.close()
        await child.stop()


async def works(mesh: Mesh, log: Path) -> None:
    async def ready() -> bool:
        return '"event": "ready"' in log.read_text()

    await eventually(ready, within=20)
    await mesh.register("m", load=True, sync=True)
    assert (await mesh.predict("m")).results[0].confidence == 1.0


@pytest.mark.parametrize("service", ["mmesh.ModelRuntime", LEGACY_MANAGEMENT])
async def test_a_port(tmp_path: Path, service: str) -> None:
    async with ScriptedRuntime(service_name=service) as runtime:
        port = runtime.address.rpartition(":")[2]
        async with serving(tmp_path, INTERNAL_GRPC_PORT=port) as (mesh, log):
            await works(mesh, log)
    assert runtime.counts["loadModel"] == runtime.counts["predict"] == 1


@pytest.mark.parametrize("one", ["socket", "port"])
@pytest.mark.parametrize("other", ["socket", "port"])
async def test_management_and_inference_apart(tmp_path: Path, one: str, other: str) -> None:
    """Each kind of call goes to its own server, and no other."""

    def listen(kind: str, name: str) -> str:
        return f"unix://{tmp_path}/{name}.sock" if kind == "socket" else f"127.0.0.1:{free_port()}"

    def setting(prefix: str, address: str) -> dict[str, str]:
        if address.startswith("unix://"):
            return {f"{prefix}_SOCKET_PATH": address.removeprefix("unix://")}
        return {f"{prefix}_PORT": address.rpartition(":")[2]}

    addresses = listen(one, "management"), listen(other, "inference")
    async with ScriptedRuntime(listen=addresses) as runtime:
        environment = setting("INTERNAL_GRPC", addresses[0]) | setting("INTERNAL_SERVING_GRPC", addresses[1])
        async with serving(tmp_path, **environment) as (mesh, log):
            await works(mesh, log)
    assert runtime.counts["loadModel"] == runtime.counts["predict"] == 1


async def test_a_runtime_that_starts_after_its_instance(tmp_path: Path) -> None:
    """The socket is not even there yet."""
    address = f"unix://{tmp_path}/late.sock"
    async with serving(tmp_path, INTERNAL_GRPC_SOCKET_PATH=address.removeprefix("unix://")) as (mesh, log):

        async def awaited() -> bool:
            return "runtime_awaited" in log.read_text()

        await eventually(awaited)
        async with ScriptedRuntime(listen=address, start_ms=500):
            await works(mesh, log)


async def test_f31_management_at_a_port_of_its_own(tmp_path: Path) -> None:
    """Before, whoever could infer could also register and delete models."""
    management = free_port()
    async with ScriptedRuntime() as runtime:
        environment = {
            "INTERNAL_GRPC_PORT": runtime.address.rpartition(":")[2],
            "MM_MANAGEMENT_PORT": str(management),
        }
        async with serving(tmp_path, **environment) as (mesh, log):
            place: Any = SimpleNamespace(instances=[SimpleNamespace(endpoint=f"127.0.0.1:{management}")])
            operators = Mesh(place, [])
            try:
                await works_apart(mesh, operators, log)
            finally:
                await operators.close()


async def works_apart(clients: Mesh, operators: Mesh, log: Path) -> None:
    async def ready() -> bool:
        return '"event": "ready"' in log.read_text()

    await eventually(ready, within=20)
    await operators.register("m", load=True, sync=True)
    assert (await clients.predict("m")).results[0].confidence == 1.0
    for forbidden in (clients.register("n"), clients.unregister("m"), clients.status("m"), operators.predict("m")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await forbidden
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert (await clients.predict("m")).results[0].confidence == 1.0
