"""An instance that cannot go on ends and says why; one whose log cannot be written goes on."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import eventually
from test_stop import CLI, Instance

from modelmesh.adapters.store import open_store
from modelmesh.instance.processes import start_child
from modelmesh.testing.scripted_runtime import ScriptedRuntime

pytestmark = pytest.mark.process

BROKEN = """
import sys
from modelmesh.control.duties.rounds import Rounds

async def ends(self):
    raise RuntimeError("a mistake of ours")

Rounds.run = ends
from modelmesh.cli import main
sys.argv = ["modelmesh", "serve"]
sys.exit(main())
"""


async def ready(instance: Instance, status: bytes = b"200") -> bool:
    return (await answer(instance, "/ready")).split(b" ")[1] == status


async def answer(instance: Instance, path: str) -> bytes:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", instance.probe)
    except OSError:
        return b"HTTP/1.1 000 "
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    said = await reader.read()
    writer.close()
    return said


async def test_an_instance_whose_loop_cannot_go_on_ends_with_a_code_a_message_and_without_its_lease(
    tmp_path: Path,
) -> None:
    target = f"unix://{tmp_path}/runtime.sock"
    async with ScriptedRuntime(listen=target):
        instance = Instance(tmp_path, target)
        instance.child = await start_child(
            "serve",
            [sys.executable, "-c", BROKEN],
            log=tmp_path / "serve.log",
            environment=instance.environment,
        )
        async with asyncio.timeout(50):
            await instance.child.wait()
        assert instance.child._process.returncode == 3
        said = instance.termination.read_text()
        assert "This instance cannot go on: what should go round failed" in said
        assert "a mistake of ours" in said
        store = await open_store(instance.environment["KV_STORE"])
        assert [item.key for item in (await store.range("")).items if "/members/" in item.key] == []
        await store.close()


async def test_an_instance_whose_log_is_on_a_full_disk_serves_on(tmp_path: Path) -> None:
    target = f"unix://{tmp_path}/runtime.sock"
    async with ScriptedRuntime(listen=target):
        instance = Instance(tmp_path, target)
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            'exec "$@" 2> /dev/full',
            "sh",
            *CLI,
            "serve",
            stdout=subprocess.DEVNULL,
            env={**instance.environment, "PATH": "/usr/bin:/bin"},
        )
        try:
            await eventually(lambda: ready(instance), within=30)
            assert (await answer(instance, "/live")).split(b" ")[1] == b"200"
        finally:
            process.terminate()
            assert await process.wait() == 0
