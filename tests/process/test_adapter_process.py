"""`modelmesh adapter` as a container of the old system starts it: by its environment alone."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest
from conftest import eventually

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.instance.local_cluster import free_port

pytestmark = pytest.mark.process

COMMANDS = Path(__file__).parents[2] / "deploy" / "image" / "commands.sh"

OF_ALL = {
    "CONTAINER_MEM_REQ_BYTES": "1073741824",
    "MEM_BUFFER_BYTES": "134217728",
    "LOADTIME_TIMEOUT": "90000",
    "USE_EMBEDDED_PULLER": "true",
}
OLD_RUNTIMES = {
    "mlserver": {"RUNTIME_PORT": "8001", "RUNTIME_DATA_ENDPOINT": "port:8001", "RUNTIME_VERSION": "1.3.2"},
    "triton": {
        "RUNTIME_PORT": "8001",
        "RUNTIME_DATA_ENDPOINT": "port:8001",
        "RUNTIME_VERSION": "23.04-py3",
        "LOADING_CONCURRENCY": "2",
    },
    "ovms": {"RUNTIME_PORT": "8888", "RUNTIME_DATA_ENDPOINT": "port:8001", "RUNTIME_VERSION": "2022.2"},
    "torchserve": {"RUNTIME_PORT": "7071", "RUNTIME_DATA_ENDPOINT": "port:7070", "RUNTIME_VERSION": "0.7.1-cpu"},
}
"""What the archived controller gave the adapters of its four shipped runtimes. Source: spec/runtime-adapters.md 1 and 10."""

WAITED_FOR = {
    "mlserver": "_mlserver_models",
    "triton": "",  # it makes its folder itself
    "ovms": "model_config_list.json",
    "torchserve": "_torchserve_models/mmconfig.properties",
}
"""What the server's container finds in the volume that both share, before the server is there."""


async def start(server: str, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelmesh.cli", "adapter", server),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "CONTAINER_MEM_REQ_BYTES is not set"),
        ({"CONTAINER_MEM_REQ_BYTES": "1000"}, "leaves no room for models"),
        ({"CONTAINER_MEM_REQ_BYTES": "2000000000", "ADAPTER_PORT": "x"}, "ADAPTER_PORT is 'x'"),
        ({"CONTAINER_MEM_REQ_BYTES": "2000000000", "DEFAULT_MODELSIZE": "1900000000"}, "capacity_bytes is"),
    ],
)
async def test_settings_that_make_no_sense_end_it_with_status_1_and_one_line(
    variables: dict[str, str], said: str
) -> None:
    process = await start("mlserver", **variables)
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode == 1
    assert said in output.decode()
    assert "Traceback" not in output.decode()


async def is_starting(channel: grpc.aio.Channel) -> bool:
    call = channel.unary_unary(
        "/mmesh.ModelRuntime/runtimeStatus",
        request_serializer=pb.RuntimeStatusRequest.SerializeToString,
        response_deserializer=pb.RuntimeStatusResponse.FromString,
    )
    with contextlib.suppress(grpc.aio.AioRpcError):
        return (await call(pb.RuntimeStatusRequest(), timeout=5)).status == pb.RuntimeStatusResponse.STARTING
    return False


@pytest.mark.parametrize("server", OLD_RUNTIMES)
async def test_a_container_of_an_old_runtime_starts_it_by_the_old_name_and_environment(
    server: str, tmp_path: Path
) -> None:
    """Of the old contract only ports and folders are other ones here. It waits for its server, and ends with status 0."""
    modelmesh = Path(sys.executable).with_name("modelmesh")
    await asyncio.to_thread(subprocess.run, [COMMANDS, tmp_path / "app", modelmesh], check=True)
    port, root = free_port(), tmp_path / "models"
    root.mkdir()  # the volume
    own = {**OF_ALL, **OLD_RUNTIMES[server], "ADAPTER_PORT": str(port), "RUNTIME_PORT": str(free_port())}
    own |= {"ROOT_MODEL_DIR": str(root), "STORAGE_CONFIG_DIR": str(tmp_path / "storage-config")}
    own |= {"MODEL_CONFIG_FILE": str(root / "model_config_list.json")} if server == "ovms" else {}
    process = await asyncio.create_subprocess_exec(
        tmp_path / "app" / f"{server}-adapter",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], **own},
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await eventually(lambda: is_starting(channel), within=30)
        assert (root / WAITED_FOR[server]).exists()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        assert "does not answer at" in output.decode(), "it says what it waits for"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
