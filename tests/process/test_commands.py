"""The commands as people run them."""

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc.aio
import joblib
import pytest
from conftest import StartMesh, eventually
from sklearn.datasets import load_iris
from sklearn.naive_bayes import GaussianNB

from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.cli.up import FIRST_CALL
from modelmesh.instance.local_cluster import free_port

pytestmark = pytest.mark.process
CLI = [sys.executable, "-m", "modelmesh.cli"]


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


async def command(*arguments: str) -> tuple[int, str, str]:
    return await asyncio.to_thread(run, *arguments)


async def test_models_from_registration_to_the_end(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    assert await command("models", "register", "a", "--type", "example", *at) == (0, "a: NOT_LOADED\n", "")
    status, output, _ = await command("models", "load", "a", *at)
    assert (status, output.splitlines()[0]) == (0, "a: LOADED")
    status, output, _ = await command("models", "status", "a", "--json", *at)
    assert json.loads(output)["copies"][0]["instance"] == "instance-1"
    status, output, _ = await command("models", "list", "--json", *at)
    listed = json.loads(output)["models"]
    assert [(model["id"], model["copies"][0]["state"]) for model in listed] == [("a", "LOADED")]
    assert (await command("models", "unload", "a", *at))[:2] == (0, "a: unloading at instance-1\n")

    async def unloaded() -> bool:
        return await mesh.state("a") == "NOT_LOADED"

    await eventually(unloaded)
    assert (await command("models", "unregister", "a", *at))[:2] == (0, "a: unregistered\n")
    status, output, _ = await command("models", "status", "a", *at)
    assert (status, output) == (1, "a: NOT_FOUND\n")


async def test_a_failed_load_is_an_exit_status_and_a_reason(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    status, output, _ = await command(
        "models", "register", "a", "--type", "t", "--path", "FAIL_no such file", "--load", *at
    )
    assert status == 1
    assert "LOADING_FAILED" in output
    assert "no such file" in output


async def test_vmodels_from_creation_to_the_end(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    status, output, error = await command("vmodels", "set", "best", "a", "--type", "example", "--load", *at)
    assert (status, output.splitlines()) == (0, ["best: DEFINED", "  active a: LOADED"]), error
    status, output, _ = await command("vmodels", "set", "best", "b", "--type", "example", "--json", *at)
    assert status == 0
    assert json.loads(output)["active"] == "b"
    status, output, error = await command("models", "unregister", "b", *at)
    assert (status, output, error) == (1, "", "modelmesh: Model b has referents (FAILED_PRECONDITION)\n")
    status, output, error = await command("vmodels", "set", "best", "c", *at)
    assert (status, error) == (1, "modelmesh: moving best to c: Target model c not found (NOT_FOUND)\n")
    assert (await command("vmodels", "split", "best", "a=10", *at)) == (0, "best: 90 % to b\n  10 % to a\n", "")
    status, output, _ = await command("vmodels", "status", "best", *at)
    assert (status, output.splitlines()) == (0, ["best: DEFINED", "  active b: LOADED", "  10 % to a"])
    status, output, _ = await command("vmodels", "list", *at)
    assert [line.split() for line in output.splitlines()] == [
        ["VMODEL", "ACTIVE", "TARGET", "SPLIT", "OWNER"],
        ["best", "b", "-", "a", "10", "%", "-"],
    ]
    status, output, _ = await command("vmodels", "list", "--json", *at)
    assert json.loads(output)["vmodels"][0]["split"] == {"a": 10}
    assert (await command("vmodels", "split", "best", "--end", *at))[:2] == (0, "best: 100 % to b\n")
    for shares, said in [((), "--end"), (("a",), "'a' is not MODEL=PERCENT"), (("a=101",), "1 to 100 percent")]:
        status, _, error = await command("vmodels", "split", "best", *shares, *at)
        assert status == 2
        assert said in " ".join(error.split())
    assert (await command("vmodels", "delete", "best", *at))[:2] == (0, "best: deleted\n")
    assert (await command("vmodels", "status", "best", *at))[:2] == (1, "best: NOT_FOUND\n")


async def test_nobody_there_is_said_with_the_next_step() -> None:
    status, output, error = await command("models", "list", "--address", f"127.0.0.1:{free_port()}")
    assert (status, output) == (1, "")
    assert "modelmesh up" in error


async def test_bad_arguments_are_named(tmp_path: Path) -> None:
    for arguments, said in [
        (["up", "--capacity", "much"], "is not a size"),
        (["up", "--models", str(tmp_path / "nowhere")], "is not a folder"),
        (["up", "--instances", "0"], "--instances"),
        (["models", "register", "a"], "--type"),
    ]:
        status, _, error = await command(*arguments)
        assert status == 2
        assert said in error


async def test_what_cannot_be_begun_is_said_before_anything_starts(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.joblib"):
        (tmp_path / name).touch()
    status, output, error = await command("up", "--models", str(tmp_path))
    assert (status, output) == (2, "")
    assert f"a.joblib and a.onnx in {tmp_path} would both be the model a" in " ".join(error.split())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        status, output, error = await command("up", "--port", str(port))
        assert (status, output) == (1, "")
        assert f"port {port} cannot be had (Address already in use)" in error
        assert "--port" in error
        assert "waiting" not in error


async def test_up_serves_a_folder_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    models = tmp_path / "models" / "flowers"
    models.mkdir(parents=True)
    joblib.dump(GaussianNB().fit(*load_iris(return_X_y=True)), models / "iris.joblib")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *CLI,
        *("up", "--instances", "2", "--models", str(tmp_path / "models"), "--port", str(port), "--capacity", "64MiB"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        said = ""
        async with asyncio.timeout(50):
            while "running; Ctrl-C stops" not in said:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
        assert f"modelmesh models load flowers/iris --address 127.0.0.1:{port}" in said
        status, _output, error = await command("models", "load", "flowers/iris", "--address", f"127.0.0.1:{port}")
        assert status == 0, error
        assert f"grpcurl -plaintext -H mm-model-id:flowers/iris 127.0.0.1:{port} {FIRST_CALL}" in said
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            told = await channel.unary_unary(f"/{FIRST_CALL}")(b"", metadata=[("mm-model-id", "flowers/iris")])
        assert oip.ModelMetadataResponse.FromString(told).inputs
        children = descendants(process.pid)
        assert len(children) >= 5  # etcd, two runtimes, two instances
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            await process.wait()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    async def gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in children)

    await eventually(gone)


def test_on_a_terminal_up_shows_what_is_where(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [*CLI, "up", "--port", "0", "--state", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(terminal)
    said, stopped, until = "", False, time.monotonic() + 50
    try:
        while process.poll() is None and time.monotonic() < until:
            if select.select([screen], [], [], 0.5)[0]:
                with contextlib.suppress(OSError):  # the end of a terminal
                    said += os.read(screen, 65_536).decode(errors="replace")
            if not stopped and "instance-1" in said.partition("HOLDS")[2]:
                process.send_signal(signal.SIGINT)
                stopped = True
        assert process.wait(10) == 0, said
        assert "of 1.0 GiB" in said
    finally:
        process.kill()
        process.wait()
        os.close(screen)


async def test_sigterm_during_the_start_leaves_nothing() -> None:
    process = await asyncio.create_subprocess_exec(
        *CLI, "up", "--instances", "2", "--port", "0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    async with asyncio.timeout(50):
        while b"waiting for instance-1" not in (line := await process.stdout.readline()):
            assert line
        children = descendants(process.pid)
        assert children
        process.terminate()
        rest = await process.stdout.read()
        assert await process.wait() == 0, rest
    assert b"stopping" in rest

    async def gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in children)

    await eventually(gone)


async def test_a_killed_up_takes_its_children_with_it(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *CLI,
        "up",
        "--port",
        "0",
        "--state",
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(50):
        while "running" not in said:
            line = await process.stdout.readline()
            assert line, said
            said += line.decode()
    children = descendants(process.pid)
    assert len(children) == 2
    process.kill()
    await process.wait()

    async def gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in children)

    await eventually(gone)


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found += [int(entry), *descendants(int(entry))]
    return found
