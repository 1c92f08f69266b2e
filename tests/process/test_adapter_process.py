"""`modelmesh adapter` as a container of the old system starts it: by its environment alone."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import grpc.aio
import pytest
from conftest import eventually

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.instance.local_cluster import free_port

pytestmark = pytest.mark.process


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


@pytest.mark.parametrize("server", ["mlserver", "triton", "ovms"])
async def test_without_its_server_it_is_starting_and_ends_when_it_is_told(server: str, tmp_path: Path) -> None:
    port, away = free_port(), free_port()
    process = await start(
        server,
        ADAPTER_PORT=str(port),
        RUNTIME_PORT=str(away),
        CONTAINER_MEM_REQ_BYTES=str(2**30),
        ROOT_MODEL_DIR=str(tmp_path),
        MODEL_CONFIG_FILE=str(tmp_path / "model_config_list.json"),
        USE_EMBEDDED_PULLER="true",
        LIMIT_PER_MODEL_CONCURRENCY="3",
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(
                "/mmesh.ModelRuntime/runtimeStatus",
                request_serializer=pb.RuntimeStatusRequest.SerializeToString,
                response_deserializer=pb.RuntimeStatusResponse.FromString,
            )

            async def is_starting() -> bool:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return (
                        await call(pb.RuntimeStatusRequest(), timeout=5)
                    ).status == pb.RuntimeStatusResponse.STARTING
                return False

            await eventually(is_starting, within=30)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        assert "does not answer at" in output.decode(), "it says what it waits for"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
