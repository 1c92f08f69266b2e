"""A runtime ends within its time, whatever of the author's hangs."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from modelmesh._proto import model_runtime_pb2 as pb

SOURCE = str(Path(__file__).parents[2] / "src")
PROGRAM = """
import asyncio, threading, time
from modelmesh.runtime import ModelRuntime, run, server
server.GRACE_S = 0.2
class Hanging(ModelRuntime[str]):
    load_timeout_ms = 180_000
    {method}
    def unload(self, model):
        pass
run(Hanging(), listen="unix://{path}")
"""
HANGS = {
    "a thread": "def load(self, source): print('loading', flush=True); threading.Event().wait()",
    "the loop": "async def load(self, source): print('loading', flush=True); time.sleep(3600)",
    "warming up": "def warm_up(self): print('loading', flush=True); time.sleep(3600)\n    def load(self, source): return ''",
}


@pytest.mark.process
@pytest.mark.parametrize("where", HANGS)
async def test_a_runtime_in_which_a_load_hangs_ends(tmp_path: Path, where: str) -> None:
    """The end of the event loop waited for the thread: three minutes after SIGTERM it was still there."""
    path = tmp_path / "r.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM.format(path=path, method=HANGS[where]),
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    async with grpc.aio.insecure_channel(f"unix://{path}") as channel:
        load = channel.unary_unary("/mmesh.ModelRuntime/loadModel")
        request = pb.LoadModelRequest(modelId="m", modelPath="x").SerializeToString()
        loading = asyncio.ensure_future(load(request, wait_for_ready=True).code())
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"loading\n"
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(30):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            raise
        loading.cancel()
    assert status == 1
