"""Real model servers behind a mesh of two instances: what the tests of each server share.

Not collected by `make test`: `make test-servers` installs the servers and names the files.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message

from modelmesh._proto import admin_pb2
from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh._proto import model_runtime_pb2 as runtime_pb
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.instance.local_cluster import Beside, LocalCluster, free_port
from modelmesh.instance.processes import Child, start_child
from modelmesh.testing.conformance import Subject, run_all

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools" / "servers"
RESULTS = Path(__file__).parent / "results"
MIB = 1024 * 1024
DATATYPES = {"float64": "FP64", "float32": "FP32", "int64": "INT64", "int32": "INT32"}
TYPES = {datatype: name for name, datatype in DATATYPES.items()}


def tensor_request(model: str, rows: np.ndarray, name: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=DATATYPES[str(rows.dtype)], shape=rows.shape)
    request.raw_input_contents.append(np.ascontiguousarray(rows).tobytes())
    return request


def first_output(answer: oip.ModelInferResponse) -> np.ndarray:
    output = answer.outputs[0]
    return np.frombuffer(answer.raw_output_contents[0], TYPES[output.datatype]).reshape(output.shape)


@dataclass
class Beings:
    """The ports of one instance's server, and its folders."""

    grpc: int
    http: int
    metrics: int
    folder: Path


class Served:
    """A mesh of two instances, each with a real server and its adapter."""

    def __init__(self, cluster: LocalCluster, ports: Mapping[int, Beings]) -> None:
        self.cluster = cluster
        self.ports = ports
        self.channels = [grpc.aio.insecure_channel(one.endpoint) for one in cluster.instances]
        self.servers = {number: grpc.aio.insecure_channel(f"127.0.0.1:{one.grpc}") for number, one in ports.items()}
        self.adapters = {
            number: grpc.aio.insecure_channel(f"unix://{cluster.instances[number - 1].socket_path}") for number in ports
        }

    async def call(
        self, method: str, request: Message, answer: Any, *, channel: Any = None, timeout: float = 60, headers: Any = ()
    ) -> Any:
        call = (channel or self.channels[0]).unary_unary(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return await call(request, timeout=timeout, metadata=headers)

    async def register(self, model: str, kind: str, path: Path, **key: Any) -> None:
        info = pb.ModelInfo(type=f"mt:{kind}", path=str(path), key=json.dumps({"model_type": {"name": kind}, **key}))
        request = pb.RegisterModelRequest(modelId=model, modelInfo=info)
        await self.call("mmesh.ModelMesh/registerModel", request, pb.ModelStatusInfo)

    async def infer(
        self, model: str, rows: np.ndarray, *, via: int = 1, name: str = "x", timeout: float = 60
    ) -> np.ndarray:
        answer = await self.call(
            "inference.GRPCInferenceService/ModelInfer",
            tensor_request("", rows, name),
            oip.ModelInferResponse,
            channel=self.channels[via - 1],
            headers=[("mm-model-id", model)],
            timeout=timeout,
        )
        return first_output(answer)

    async def metadata(self, model: str) -> oip.ModelMetadataResponse:
        return await self.call(
            "inference.GRPCInferenceService/ModelMetadata",
            oip.ModelMetadataRequest(),
            oip.ModelMetadataResponse,
            headers=[("mm-model-id", model)],
        )

    async def models(self) -> dict[str, list[admin_pb2.Copy]]:
        request, answer = admin_pb2.ListModelsRequest(page_size=1000), admin_pb2.ListModelsResponse
        return {
            one.id: list(one.copies)
            for one in (await self.call("modelmesh.v1.Admin/ListModels", request, answer)).models
        }

    async def unload(self, model: str) -> None:
        request, answer = admin_pb2.UnloadModelRequest(model_id=model), admin_pb2.UnloadModelResponse
        await self.call("modelmesh.v1.Admin/UnloadModel", request, answer)

    async def server_has(self, number: int, model: str) -> bool:
        try:
            answer = await self.call(
                "inference.GRPCInferenceService/ModelReady",
                oip.ModelReadyRequest(name=model),
                oip.ModelReadyResponse,
                channel=self.servers[number],
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    def server(self, number: int) -> Child:
        """The server beside an instance."""
        return self.cluster.instances[number - 1].beside[0]

    async def close(self) -> None:
        for channel in (*self.channels, *self.servers.values(), *self.adapters.values()):
            await channel.close(None)


Environment = Callable[[Beings], Mapping[str, str]]


@contextlib.asynccontextmanager
async def served(
    folder: Path,
    models: Path,
    server: str,
    command: Callable[[Beings], Sequence[str]],
    environment: Environment,
    *,
    capacity_bytes: int,
    settings: Mapping[str, str] | None = None,
    data_port: Callable[[Beings], int] = lambda ports: ports.grpc,
) -> AsyncIterator[Served]:
    """Start everything; the adapters' models lie in `models`. `data_port`: where a server takes inference calls."""
    ports = {}
    for number in (1, 2):
        root = folder / f"models-{number}"
        root.mkdir(parents=True)
        ports[number] = Beings(free_port(), free_port(), free_port(), root)
    buffer = 256 * MIB
    cluster = LocalCluster(
        2,
        lambda _, listen: adapter_command(server, listen, models),
        folder=folder / "state",
        runtime_environment=lambda number: {
            **adapter_environment(ports[number], capacity_bytes + buffer, buffer),
            **environment(ports[number]),
            **(settings or {}),
        },
        beside=lambda number: [Beside("server", command(ports[number]), environment(ports[number]))],
        own_environment=lambda number: {"INTERNAL_SERVING_GRPC_PORT": str(data_port(ports[number]))},
    )
    (folder / "state").mkdir()
    try:
        await cluster.start()
        mesh = Served(cluster, ports)
        yield mesh
        await mesh.close()
    finally:
        await cluster.stop()


def adapter_command(server: str, listen: str, models: Path) -> list[str]:
    import sys

    return [sys.executable, "-m", "modelmesh.cli", "adapter", server, "--listen", listen, "--models", str(models)]


def adapter_environment(ports: Beings, memory_bytes: int, buffer_bytes: int) -> dict[str, str]:
    return {
        "RUNTIME_PORT": str(ports.grpc),
        "CONTAINER_MEM_REQ_BYTES": str(memory_bytes),
        "MEM_BUFFER_BYTES": str(buffer_bytes),
        "ROOT_MODEL_DIR": str(ports.folder),
        "LOADTIME_TIMEOUT": "90000",
    }


@dataclass
class Pair:
    """One server and its adapter, without a mesh."""

    target: str
    ports: Beings
    adapter: Child
    server: Child


@contextlib.asynccontextmanager
async def pair(
    folder: Path, models: Path, server: str, command: Callable[[Beings], Sequence[str]], environment: Environment
) -> AsyncIterator[Pair]:
    """A server and its adapter alone."""
    root = folder / "pair"
    root.mkdir(parents=True)
    ports = Beings(free_port(), free_port(), free_port(), root)
    listen = f"unix://{folder}/pair.sock"
    own = environment(ports)
    started = await start_child("server", command(ports), log=folder / "server.log", environment=own)
    adapter = await start_child(
        "adapter",
        adapter_command(server, listen, models),
        log=folder / "adapter.log",
        environment={**adapter_environment(ports, 1024 * MIB, 256 * MIB), **own},
    )
    try:
        yield Pair(listen, ports, adapter, started)
    finally:
        await adapter.stop()
        await started.stop()


async def conformance(
    target: str, ports: Beings, subject: Mapping[str, Any], rows: np.ndarray, name: str
) -> dict[str, str]:
    """Every check of the kit, with inference at the server itself, as the mesh calls it."""

    async def infer(channel: Any, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        headers = dict(metadata)
        model = headers.get("mm-model-id") or headers["mm-model-id-bin"]
        model = model.decode() if isinstance(model, bytes) else model
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelInferResponse.FromString,
        )
        answer = await call(tensor_request(model, rows, name), metadata=metadata, timeout=30)
        assert answer.outputs

    return await run_all(Subject(target, infer=infer, infer_target=f"127.0.0.1:{ports.grpc}", **subject))


def keep(server: str, results: Mapping[str, Any]) -> None:
    """What docs/reference/servers.md is made of."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{server}.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 60.0) -> None:
    """Wait until a condition over other processes holds."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.05)


def management(request: Message) -> tuple[str, Any]:
    """Method and answer of a management call."""
    kinds = {
        runtime_pb.LoadModelRequest: ("loadModel", runtime_pb.LoadModelResponse),
        runtime_pb.UnloadModelRequest: ("unloadModel", runtime_pb.UnloadModelResponse),
        runtime_pb.ModelSizeRequest: ("modelSize", runtime_pb.ModelSizeResponse),
        runtime_pb.RuntimeStatusRequest: ("runtimeStatus", runtime_pb.RuntimeStatusResponse),
    }
    return kinds[type(request)]


async def manage(channel: Any, request: Message, timeout: float = 60) -> Any:
    """A management call to an adapter."""
    method, answer = management(request)
    call = channel.unary_unary(
        f"/mmesh.ModelRuntime/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return await call(request, timeout=timeout)


def python_of(server: str) -> str:
    """The Python of a server's own environment."""
    path = TOOLS / server / "bin" / "python"
    assert path.exists(), f"{path} is not there; run: make test-servers"
    return str(path)


def path_of(server: str) -> dict[str, str]:
    """The PATH with which a server's own programs are found first."""
    return {"PATH": f"{TOOLS / server / 'bin'}:{os.environ['PATH']}"}


async def ready(channel: grpc.aio.Channel) -> None:
    async def is_ready() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            status = await manage(channel, runtime_pb.RuntimeStatusRequest())
            return bool(status.status == status.READY)
        return False

    await eventually(is_ready)


async def serves_again(mesh: Served, number: int, answered: Callable[[int], Awaitable[bool]]) -> None:
    """After the server beside instance `number` was killed: calls are answered at the other instance, then at its own."""

    async def mended(via: int) -> bool:
        await mesh.cluster.mend()
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await answered(via)
        return False

    await eventually(lambda: mended(3 - number))
    await eventually(lambda: mended(number))
