"""The servers that are compared, each with the small models, in its cheapest way."""

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.runtime.servers import INFER, LOAD_MODEL, START_S, called, child

from modelmesh._proto import model_mesh_pb2 as mesh_pb
from modelmesh._proto import model_runtime_pb2 as runtime_pb
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.instance.local_cluster import LocalCluster, free_port
from modelmesh.servers.memory import descendants

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools" / "servers"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
MODELS = {
    "onnx": ("small.onnx", "X", "FP32"),
    "onnx in Python": ("inline/model.py", "X", "FP32"),
    "sklearn": ("small.joblib", "input", "FP64"),
}
"""File, name and datatype of the input of each model. The second is a Python model that calls onnxruntime."""


@dataclass(frozen=True)
class Contender:
    """A server that runs.

    Attributes:
        name: For the page.
        settings: Why this is its cheapest way.
        target: Where it is called.
        pids: Whose CPU counts, and the instance in front of it.
        models: That it has.
    """

    name: str
    settings: str
    target: str
    pids: Mapping[str, int]
    models: tuple[str, ...] = field(default=tuple(MODELS))


@contextlib.asynccontextmanager
async def ours(folder: Path) -> AsyncIterator[Contender]:
    """The built-in runtime."""
    target = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--models", str(folder), "--listen", target]
    async with child("runtime", command, folder) as running:
        for model, (file, _, _) in MODELS.items():
            load = runtime_pb.LoadModelRequest(modelId=model, modelPath=file)
            await called(target, LOAD_MODEL, load, runtime_pb.LoadModelResponse)
        yield Contender("ours", "the built-in runtime, as it is", target, {"runtime": running.pid})


@contextlib.asynccontextmanager
async def through_a_mesh(folder: Path) -> AsyncIterator[Contender]:
    """The same behind one instance."""

    def command(_: int, listen: str) -> list[str]:
        return [sys.executable, "-m", "modelmesh.cli", "runtime", "--models", str(folder), "--listen", listen]

    cluster = LocalCluster(1, command, folder=folder / "mesh")
    await cluster.start()
    try:
        (instance,) = cluster.instances
        for model, (file, _, _) in MODELS.items():
            info = mesh_pb.ModelInfo(type="auto", path=file)
            register = mesh_pb.RegisterModelRequest(modelId=model, modelInfo=info, loadNow=True, sync=True)
            await called(instance.endpoint, "/mmesh.ModelMesh/registerModel", register, mesh_pb.ModelStatusInfo)
        assert instance.runtime is not None
        assert instance.mesh is not None
        pids = {"runtime": instance.runtime.pid, "instance": instance.mesh.pid}
        yield Contender("ours, through a mesh", "one instance in front of it", instance.endpoint, pids)
    finally:
        await cluster.stop()


@contextlib.asynccontextmanager
async def mlserver(folder: Path) -> AsyncIterator[Contender]:
    """MLServer, its models in its own process."""
    ports = [free_port() for _ in range(3)]
    names = ("MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT")
    settings = dict(zip(names, map(str, ports), strict=True))
    settings |= {"MLSERVER_HOST": "127.0.0.1", "MLSERVER_PARALLEL_WORKERS": "0", "MLSERVER_DEBUG": "false"}
    models = folder / "mlserver"
    for model, implementation in (("onnx", "Onnx"), ("sklearn", "Sklearn")):
        (models / model).mkdir(parents=True)
        written = {
            "name": model,
            "implementation": f"mlserver_models.{implementation}",
            "parameters": {"uri": str(folder / MODELS[model][0])},
        }
        (models / model / "model-settings.json").write_text(json.dumps(written))
    command = [str(TOOLS / "bench-mlserver" / "bin" / "mlserver"), "start", str(models)]
    async with child("mlserver", command, folder, PYTHONPATH=str(Path(__file__).parent), **settings) as running:
        target = f"127.0.0.1:{ports[1]}"
        await ready(target, running.log)
        yield Contender("MLServer", "parallel_workers 0", target, pids(running.pid), ("onnx", "sklearn"))


@contextlib.asynccontextmanager
async def triton(folder: Path) -> AsyncIterator[Contender]:
    """Triton, whose Python backend runs the model in a process of its own."""
    packages = TOOLS / "bench-triton" / "lib" / PYTHON / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    backends = folder / "triton" / "backends"
    shutil.copytree(server / "backends", backends)
    stub = "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / PYTHON.removeprefix("python") / stub, backends / "python" / stub)
    (backends / "python" / stub).chmod(0o755)
    model = folder / "triton" / "models" / "onnx"
    (model / "1").mkdir(parents=True)
    here = Path(__file__).parent
    text = (here / "triton_model.py").read_text()
    text = text.replace("@PACKAGES@", str(packages)).replace("@FILE@", str(folder / MODELS["onnx"][0]))
    (model / "1" / "model.py").write_text(text)
    shutil.copy(here / "triton_model.pbtxt", model / "config.pbtxt")
    grpc_port, http_port = free_port(), free_port()
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={model.parent}",
        f"--backend-directory={backends}",
        f"--grpc-port={grpc_port}",
        "--grpc-address=127.0.0.1",
        f"--http-port={http_port}",
        "--http-address=127.0.0.1",
        "--allow-metrics=false",
    ]
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{server / 'external_libs'}"
    async with child("triton", command, folder, LD_LIBRARY_PATH=libraries) as running:
        target = f"127.0.0.1:{grpc_port}"
        await ready(target, running.log)
        yield Contender(
            "Triton, Python backend", "one instance of the model, no metrics", target, pids(running.pid), ("onnx",)
        )


@contextlib.asynccontextmanager
async def kserve(folder: Path) -> AsyncIterator[Contender]:
    """KServe's server for models in Python."""
    grpc_port, http_port = free_port(), free_port()
    command = [str(TOOLS / "bench-kserve" / "bin" / "python"), str(Path(__file__).parent / "kserve_models.py")]
    command += [str(folder / MODELS["onnx"][0]), str(http_port), str(grpc_port)]
    async with child("kserve", command, folder) as running:
        target = f"127.0.0.1:{grpc_port}"
        await ready(target, running.log)
        yield Contender("KServe's server", "one worker, access log off", target, pids(running.pid), ("onnx",))


def pids(process: int) -> dict[str, int]:
    """A server's process, and those that it has started."""
    return {f"runtime{number}": pid for number, pid in enumerate([process, *descendants(process)])}


async def ready(target: str, log: Path) -> None:
    """Returns once the server says that it can be called. Raises TimeoutError."""
    until = time.monotonic() + START_S
    method = INFER.replace("ModelInfer", "ServerReady")
    while not (await called(target, method, pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready:
        if time.monotonic() > until:
            raise TimeoutError(f"the server is not ready; its log is {log}")
        await asyncio.sleep(0.2)


CONTENDERS = (ours, through_a_mesh, mlserver, triton, kserve)
