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
from modelmesh.cli.greeting import FIRST_CALL
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


async def test_usage_is_that_of_all_instances(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(2)
    endpoints = [one.endpoint for one in mesh.cluster.instances]
    await mesh.register("a")
    for number in (0, 1) * 3:
        await mesh.predict("a", via=number)

    async def used(endpoint: str) -> tuple[dict[str, object], list[str]]:
        status, output, _ = await command("usage", "a", "--json", "--address", endpoint)
        assert status == 0
        found = json.loads(output)
        assert len(found["instances"]) == 2
        (one,) = found["usage"]
        return one, found["silent_instances"]

    async def all_counted() -> bool:
        return all([(await used(endpoint))[0]["calls"] == 6 for endpoint in endpoints])

    await eventually(all_counted, within=30)
    for endpoint in endpoints:
        one, silent = await used(endpoint)
        assert (one["tenant"], one["model"], one["failed_calls"], silent) == ("", "a", 0, [])
        assert one["bytes"]
        assert one["loads"]
    status, output, errors = await command("usage", "--address", endpoints[0])
    lines = output.splitlines()
    assert (status, lines[0].split()) == (0, ["TENANT", "MODEL", "CALLS", "FAILED", "SECONDS", "BYTES", "LOADS"])
    assert lines[1].split()[:4] == ["-", "a", "6", "0"]
    assert errors.startswith("2 instances; the last one started at ")


async def test_a_failed_load_is_an_exit_status_and_a_reason(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    status, output, _ = await command(
        "models", "register", "a", "--type", "t", "--path", "FAIL_no such file", "--load", *at
    )
    assert status == 1
    assert "LOADING_FAILED" in output
    assert "no such file" in output


async def test_an_error_is_listed_once_and_not_under_a_model_that_is_loaded(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(2)
    at = ["--address", mesh.cluster.instances[0].endpoint]
    await command("models", "register", "bad", "--type", "t", "--path", "FAIL_no such file", "--load", *at)
    await command("models", "register", "good", "--type", "t", "--load", *at)
    status, output, _ = await command("models", "list", *at)
    assert status == 0
    assert output.count("no such file") == 1
    assert "bad failed to load at instance-" in output
    assert [line.split()[:3] for line in output.splitlines()[:3]] == [
        ["MODEL", "TYPE", "LOADED"],
        ["bad", "t", "-"],
        ["good", "t", "instance-1" if "instance-1" in output.splitlines()[2] else "instance-2"],
    ]


async def test_instances_what_fits_and_what_happens(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    status, output, _ = await command("instances", *at)
    assert (status, output.split()[:3]) == (0, ["INSTANCE", "STATE", "MODELS"])
    assert output.splitlines()[1].split()[:3] == ["instance-1", "ready", "0"]
    status, output, _ = await command("instances", "--json", *at)
    (described,) = json.loads(output)["instances"]
    assert described["id"] == "instance-1"
    capacity = int(described["capacity_bytes"])

    status, output, _ = await command("fits", "--size", "1MiB", *at)
    assert (status, output.splitlines()[-2:]) == (
        0,
        ["one more copy would go to instance-1 (placed here)", "  it fits; nothing would leave"],
    )
    status, output, _ = await command("fits", "--size", str(capacity + 1), *at)
    assert status == 1
    assert "instance-1: too small" in output
    status, _, error = await command("fits", "--size", "much", *at)
    assert status == 2
    assert "'much' is not a size" in error

    following = await asyncio.create_subprocess_exec(
        *CLI, "events", "--follow", *at, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert following.stdout is not None
    try:
        seen = ""
        async with asyncio.timeout(60):
            while " loaded" not in seen:
                # What happened before it had begun to follow is not told: so something happens again and again.
                await command("models", "register", "m", "--type", "example", "--load", *at)
                await command("models", "unregister", "m", *at)
                try:
                    async with asyncio.timeout(1):
                        while line := await following.stdout.readline():
                            seen += line.decode()
                except TimeoutError:
                    continue
    finally:
        following.kill()
        await following.wait()
    assert " instance-1 loaded m" in seen

    await command("models", "register", "m", "--type", "example", "--load", *at)
    status, output, _ = await command("events", "m", *at)
    assert status == 0
    assert " instance-1 loaded m" in output
    status, _, error = await command("events", *at)
    assert status == 2
    assert "--follow" in error
    status, output, _ = await command("top", "--once", *at)
    assert status == 0
    assert output.splitlines()[1].split()[-1] == "m"


async def test_a_move_that_does_not_get_on_can_be_given_up(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    await command("vmodels", "set", "best", "a", "--type", "example", "--load", *at)
    bad = ("--type", "t", "--path", "FAIL_no such file")
    status, output, _ = await command("vmodels", "set", "best", "bad", *bad, *at)
    assert status == 1, output
    status, output, error = await command("vmodels", "rollback", "best", *at)
    assert (status, output.splitlines()) == (0, ["best: DEFINED", "  active a: LOADED"]), error
    status, _, error = await command("vmodels", "rollback", "best", *at)
    assert (status, "best: it is not moving" in error) == (1, True)
    status, _, error = await command("vmodels", "rollback", "unknown", *at)
    assert (status, error) == (1, "unknown: there is no such vmodel\n")


async def test_a_vmodel_is_explained_as_one_and_a_size_with_its_source(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    await command("vmodels", "set", "best", "a", "--type", "example", "--load", *at)
    status, output, _ = await command("explain", "best", *at)
    assert status == 0
    assert output.splitlines()[0] == "best is a vmodel; calls go to the model a"
    assert "(measured at an earlier load)" in output.splitlines()[2]
    await command("models", "register", "b", "--type", "other", *at)
    status, output, _ = await command("explain", "b", "--dry-run", *at)
    assert status == 0
    assert "(the runtime's default, until it has been loaded)" in output.splitlines()[0]


def test_python_runs_it_as_a_module() -> None:
    import subprocess

    ran = subprocess.run([sys.executable, "-m", "modelmesh", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("modelmesh ")


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
    status, output, error = await command("vmodels", "label", "best", "test=a", "--keep", "2", *at)
    versions = [["VERSION", "MODEL"], ["stable", "b"], ["latest", "b"], ["test", "a"]]
    assert (status, [line.split() for line in output.splitlines()]) == (0, versions), error
    status, output, _ = await command("vmodels", "status", "best", *at)
    assert output.splitlines()[-1] == "  test: a"
    status, output, _ = await command("vmodels", "label", "best", "--remove", "test", "--json", *at)
    assert (status, json.loads(output)["labels"], json.loads(output)["keep"]) == (0, {}, 2)
    assert (await command("vmodels", "label", "best", *at))[0] == 2
    assert (await command("vmodels", "fallback", "best", "a", *at)) == (0, "best: fallback a\n", "")
    status, output, _ = await command("vmodels", "status", "best", *at)
    assert output.splitlines()[-1] == "  fallback: a"
    status, output, _ = await command("vmodels", "fallback", "best", "--end", "--json", *at)
    assert (status, json.loads(output)["fallback"]) == (0, None)
    assert (await command("vmodels", "fallback", "best", "a", "--end", *at))[0] == 2
    status, output, error = await command("vmodels", "shadow", "best", "a=20", "--compare", *at)
    said = "copies of 20 % of the calls to a, answers are compared"
    assert (status, output) == (0, f"best: {said}\n"), error
    status, output, _ = await command("vmodels", "status", "best", *at)
    assert output.splitlines()[-1] == f"  {said}"
    status, output, _ = await command("vmodels", "status", "best", "--json", *at)
    described = json.loads(output)
    assert described["shadow"] == {"model": "a", "percent": 20, "compares": True}
    assert (described["shadow_counts"], described["silent_instances"]) == ({}, [])
    assert (await command("vmodels", "shadow", "best", "--end", *at))[:2] == (0, "best: no calls are copied\n")
    assert (await command("vmodels", "shadow", "best", "a=20", "--end", *at))[0] == 2
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
    status, output, error = await command("vmodels", "rollout", "best", "a", "--steps", "5,50", "--calls", "10", *at)
    assert (status, output) == (0, "best: 5 % to a, then 50 %, all\n"), error
    status, output, _ = await command("vmodels", "status", "best", *at)
    assert output.splitlines()[2:] == [
        "  5 % to a",
        "  rollout of a: step 1 of 2, 5 % of the calls",
        "    a: 0 calls, 0 failed, 95 % within 0 ms",
        "    b: 0 calls, 0 failed, 95 % within 0 ms",
        "    a answered 0 calls and b 0, 10 of each are compared",
    ]
    status, output, _ = await command("vmodels", "status", "best", "--json", *at)
    described = json.loads(output)
    assert (described["rollout"]["steps"], described["rollout"]["state"]) == ([5, 50], "RUNNING")
    assert set(described["rollout_counts"]) == {"a", "b"}
    status, _, error = await command("vmodels", "split", "best", "a=10", *at)
    assert (status, "model a is being rolled out for vmodel best" in error) == (1, True)
    assert (await command("vmodels", "rollout", "best", "a", "--steps", "5,100", *at))[0] == 2
    assert (await command("vmodels", "rollout", "best", "--end", *at))[:2] == (0, "best: no rollout\n")
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
