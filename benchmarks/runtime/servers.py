"""Processes of servers, and calls to them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

from modelmesh.instance.processes import Child, start_child

LOAD = Path(__file__).parents[2] / "target" / "release" / "load"
INFER = "/inference.GRPCInferenceService/ModelInfer"
LOAD_MODEL = "/mmesh.ModelRuntime/loadModel"
START_S = 60.0


@contextlib.asynccontextmanager
async def child(name: str, command: list[str], folder: Path, **more: str) -> AsyncIterator[Child]:
    """A process, ended with the block."""
    started = await start_child(name, command, log=folder / f"{name}.log", environment=more)
    try:
        yield started
    finally:
        await started.stop()


async def called(target: str, method: str, message: Any, answer: Any, *, within_s: float = START_S) -> Any:
    """One call, repeated until the server is there."""
    async with grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(
            method, request_serializer=type(message).SerializeToString, response_deserializer=answer.FromString
        )
        return await call(message, wait_for_ready=True, timeout=within_s)
