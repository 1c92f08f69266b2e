"""How an instance is stopped: hooks, the anchor file, signals; and what its exit statuses say."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import eventually

from modelmesh.adapters.store import open_store
from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.processes import Child, start_child
from modelmesh.testing.etcd import running_etcd
from modelmesh.testing.scripted_runtime import ScriptedRuntime

pytestmark = pytest.mark.process
CLI = [sys.executable, "-m", "modelmesh.cli"]


class Instance:
    """One instance over SQLite, with its probe and prestop ports."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.folder = folder
        self.probe, self.prestop = free_port(), free_port()
        self.anchor = folder / "model-mesh.anchor"
        self.termination = folder / "termination"
        self.environment = {
            "MM_SERVICE_NAME": "test",
            "KV_STORE": f"sqlite:{folder / 'store.db'}",
            "MM_LISTEN_HOST": "127.0.0.1",
            "MM_SVC_GRPC_PORT": str(free_port()),
            "MM_REST_PORT": "NONE",
            "MM_PROBE_PORT": str(self.probe),
            "MM_PRESTOP_WAIT_PORT": str(self.prestop),
            "MM_ANCHOR_FILE": str(self.anchor),
            "INTERNAL_GRPC_SOCKET_PATH": runtime.removeprefix("unix://"),
            "LL_TERMINATION_MSG_PATH": str(self.termination),
        }
        self.child: Child | None = None

    async def start(self, *arguments: str, **environment: str) -> Child:
        self.child = await start_child(
            "serve",
            [*CLI, "serve", *arguments],
            log=self.folder / "serve.log",
            environment={**self.environment, **environment},
        )
        return self.child

    async def ended(self) -> int:
        assert self.child is not None
        async with asyncio.timeout(20):
            await self.child.wait()
        return self.child._process.returncode or 0

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    async def ready(self) -> bool:
        assert self.child is not None
        self.child.check()
        return await answered(self.probe, "/ready") == 200


async def answered(port: int, path: str) -> int:
    """The status of a request; 0 if nobody answers."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
    except OSError:
        return 0
    return int(answer.split()[1]) if answer else 0


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ScriptedRuntime]:
    async with ScriptedRuntime(listen=f"unix://{tmp_path}/runtime.sock") as scripted:
        yield scripted


@pytest.fixture
async def instance(tmp_path: Path, runtime: ScriptedRuntime) -> AsyncIterator[Instance]:
    made = Instance(tmp_path, runtime.address)
    yield made
    if made.child is not None:
        await made.child.stop()


async def test_a_hook_stops_the_instance_and_is_answered_when_it_has_ended(instance: Instance) -> None:
    await instance.start()
    await eventually(instance.ready)
    assert await answered(instance.probe, "/live") == 200
    hooks = [asyncio.ensure_future(answered(instance.prestop, "/prestop")) for _ in range(2)]
    assert await asyncio.gather(*hooks) == [200, 200]
    assert '"stopped"' in instance.log
    assert await instance.ended() == 0
    assert not instance.anchor.exists()


async def test_deleting_the_anchor_file_stops_the_instance(instance: Instance) -> None:
    child = await instance.start()
    await eventually(instance.ready)
    assert instance.anchor.read_text() == f"{child.pid}\n"
    instance.anchor.unlink()
    assert await instance.ended() == 0


async def test_the_stop_command_waits_until_it_has_ended(instance: Instance) -> None:
    child = await instance.start()
    await eventually(instance.ready)
    assert await command("stop", "--wait", MM_ANCHOR_FILE=str(instance.anchor)) == (
        0,
        f"process {child.pid} has stopped\n",
    )
    assert await instance.ended() == 0
    status, said = await command("stop", "--anchor-file", str(instance.anchor))
    assert status == 2
    assert f"there is no anchor file {instance.anchor}" in said
    assert (await command("stop", MM_ANCHOR_FILE=""))[0] == 1


async def test_probes_answer_while_the_start_waits(instance: Instance, runtime: ScriptedRuntime) -> None:
    await runtime.stop()
    await instance.start()

    async def live() -> bool:
        return await answered(instance.probe, "/live") == 200

    await eventually(live)
    assert await answered(instance.probe, "/ready") == 503
    assert await answered(instance.prestop, "/prestop") == 200  # a start can be stopped, too
    assert await instance.ended() == 0
    assert not instance.termination.exists()


async def test_an_anchor_file_that_cannot_be_written_is_an_exit_status(instance: Instance, tmp_path: Path) -> None:
    await instance.start("--anchor-file", str(tmp_path / "nowhere" / "anchor"))
    assert await instance.ended() == 2
    said = f"Service startup failed: cannot write the anchor file {tmp_path / 'nowhere' / 'anchor'}"
    assert instance.termination.read_text().startswith(said)


async def test_settings_come_from_a_file_and_remarks_go_to_the_log(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "instance.toml"
    file.write_text('service_name = "from-the-file"\nlog_format = "console"\n')
    await instance.start("--config", str(file), MM_SERVICE_NAME="", MM_PRESTOP_WIAT_PORT="1", MM_TRUST_CERTS="/x")
    await eventually(instance.ready)
    assert "MM_PRESTOP_WIAT_PORT is not a setting; did you mean MM_PRESTOP_WAIT_PORT?" in instance.log
    assert "MM_TRUST_CERTS is an old name; use MM_INTERNAL_TRUST_CERTS" in instance.log


async def command(*arguments: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *CLI,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_a_stop_during_the_start_leaves_nothing_in_the_store(instance: Instance) -> None:
    slow = [{"modelId": "m", "modelInfo": {"type": "t", "path": "SIZE_1000_60000_0"}, "ensureLoaded": True}]
    with running_etcd() as etcd:
        store = await open_store(f"etcd:{etcd.endpoint}")
        child = await instance.start(
            KV_STORE=f"etcd:{etcd.endpoint}", MM_INSTANCE_ID="me", MM_AUTO_REGISTER_MODELS=json.dumps(slow)
        )
        member, copy = "/tas-runtime/test/members/me", "/tas-runtime/test/copies/m/me"

        async def loading() -> bool:
            child.check()
            return await store.get(member) is not None and await store.get(copy) is not None

        await eventually(loading, within=30)
        child.signal(signal.SIGTERM)
        assert await instance.ended() == 0
        assert await store.get(member) is None
        assert await store.get(copy) is None
        await store.close()


def test_a_stop_that_gets_stuck_is_ended_hard() -> None:
    program = """
import asyncio, time
from modelmesh.instance import main

async def stuck():
    main.LAST_RESORT_S = 0.1
    stop = asyncio.Event()
    stop.set()
    with main._beside(main._last_resort(stop, 0)):
        await asyncio.sleep(0)
        time.sleep(60)

asyncio.run(stuck())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "SHUTDOWN_TIMEOUT_MS" in done.stderr
