"""What a call of a small model costs its Python runtime: ours, ours through a mesh, and MLServer. `make bench-runtime`.

One run has all of them, one after the other in each repeat, on this machine, with the load generator of the path bench. CPU is
that of the runtime's processes. The bare cost of a model is measured in this process: the same file, the same call.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
from benchmarks.environment import environment
from benchmarks.runtime import plans
from benchmarks.runtime.page import render
from benchmarks.runtime.servers import INFER, LOAD, START_S, called, child
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from modelmesh._proto import model_mesh_pb2 as mesh_pb
from modelmesh._proto import model_runtime_pb2 as runtime_pb
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.instance.local_cluster import LocalCluster, free_port

RESULTS = Path(__file__).parents[1] / "results"
SCRATCH = RESULTS / ".scratch"
MLSERVER = ("mlserver==1.7.*", "onnxruntime==1.*", "scikit-learn==1.*", "skl2onnx==1.*")
SHAPES = {"16 callers": (4, 4), "1 caller": (1, 1)}
MODELS = {"onnx": ("small.onnx", "X", "FP32"), "sklearn": ("small.joblib", "input", "FP64")}
MUST: Mapping[str, tuple[str, float]] = {
    "onnx_16_us": ("<=", 25.0),
    "onnx_16_under_mlserver": (">=", 12.0),
    "onnx_mesh_rate_over_mlserver": (">=", 10.0),
    "sklearn_over_bare": ("<=", 1.2),
    "onnx_1_p50_over_echo_and_model": ("<=", 1.2),
}


@dataclass(frozen=True)
class Contender:
    """A server that runs. `pids`: whose CPU counts, by name."""

    name: str
    target: str
    pids: Mapping[str, int]


def make_models(folder: Path) -> None:
    """A classifier of the iris data as scikit-learn and as ONNX has it."""
    rows, classes = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(rows, classes)
    joblib.dump(model, folder / "small.joblib")
    graph = to_onnx(model, rows[:1].astype(np.float32), options={id(model): {"zipmap": False}})
    (folder / "small.onnx").write_bytes(graph.SerializeToString())


def request(model: str) -> bytes:
    """One row."""
    _, name, datatype = MODELS[model]
    asked = pb.ModelInferRequest(model_name=model)
    asked.inputs.add(name=name, datatype=datatype, shape=[1, 4])
    row = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32 if datatype == "FP32" else np.float64)
    asked.raw_input_contents.append(row.tobytes())
    return asked.SerializeToString()


def bare_us(folder: Path) -> dict[str, float]:
    """CPU of the model alone, µs a call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "small.onnx"), options)
    model = joblib.load(folder / "small.joblib")
    row = np.array([[5.1, 3.5, 1.4, 0.2]])
    narrow = row.astype(np.float32)
    return {
        "onnx": _timed(lambda: session.run(None, {"X": narrow})),
        "sklearn": _timed(lambda: (model.predict(row), model.predict_proba(row))),
    }


def _timed(call: Callable[[], object]) -> float:
    for _ in range(200):
        call()
    began, calls = time.process_time(), 3000
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls * 1e6


@contextlib.asynccontextmanager
async def ours(folder: Path) -> AsyncIterator[Contender]:
    """The built-in runtime."""
    target = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--models", str(folder), "--listen", target]
    async with child("runtime", command, folder) as running:
        for model, (file, _, _) in MODELS.items():
            load = runtime_pb.LoadModelRequest(modelId=model, modelPath=file)
            await called(target, "/mmesh.ModelRuntime/loadModel", load, runtime_pb.LoadModelResponse)
        yield Contender("ours", target, {"runtime": running.pid})


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
            info = mesh_pb.ModelInfo(type=model, path=file)
            register = mesh_pb.RegisterModelRequest(modelId=model, modelInfo=info, loadNow=True, sync=True)
            await called(instance.endpoint, "/mmesh.ModelMesh/registerModel", register, mesh_pb.ModelStatusInfo)
        assert instance.runtime is not None
        assert instance.mesh is not None
        pids = {"runtime": instance.runtime.pid, "instance": instance.mesh.pid}
        yield Contender("ours, through a mesh", instance.endpoint, pids)
    finally:
        await cluster.stop()


@contextlib.asynccontextmanager
async def mlserver(folder: Path) -> AsyncIterator[Contender]:
    """MLServer, its models in its own process."""
    bin_folder = installed("mlserver-models-bench", MLSERVER)
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
    command = [str(bin_folder / "mlserver"), "start", str(models)]
    async with child("mlserver", command, folder, PYTHONPATH=str(Path(__file__).parent), **settings) as running:
        target = f"127.0.0.1:{ports[1]}"
        until = time.monotonic() + START_S
        while True:
            ready = await called(
                target, INFER.replace("ModelInfer", "ServerReady"), pb.ServerReadyRequest(), pb.ServerReadyResponse
            )
            if ready.ready:
                break
            if time.monotonic() > until:
                raise TimeoutError(f"MLServer is not ready: {running.log.read_text()[-2000:]}")
            await asyncio.sleep(0.2)
        yield Contender("MLServer", target, {"runtime": running.pid})


def installed(name: str, requirements: tuple[str, ...]) -> Path:
    """The `bin` folder of a virtual environment with these packages; made once."""
    folder = SCRATCH / name
    if not (folder / "done").exists():
        uv = str(Path(sys.executable).parent / "uv")
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True, timeout=60)
        python = str(folder / "bin" / "python")
        subprocess.run([uv, "pip", "install", "-q", "--python", python, *requirements], check=True, timeout=300)
        (folder / "done").touch()
    return folder / "bin"


def measure(contender: Contender, model: str, callers: str, seconds: float) -> dict[str, float]:
    """One run of the load generator."""
    connections, streams = SHAPES[callers]
    command = [str(LOAD), "--target", contender.target, "--method", INFER, "--message", request(model).hex()]
    command += ["--connections", str(connections), "--streams", str(streams), "--seconds", str(seconds)]
    for name, pid in contender.pids.items():
        command += ["--pid", f"{name}={pid}"]
    if "instance" in contender.pids:
        command += ["--header", f"mm-model-id={model}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60 + seconds, check=True)
    found = json.loads(finished.stdout)
    if set(found["statuses"]) != {"OK"}:
        raise AssertionError(f"{contender.name}, {model}: {finished.stdout[:500]}")
    return {
        "per_second": found["completed"] / found["seconds"],
        "p50_us": found["latency_us"]["p50"],
        "p99_us": found["latency_us"]["p99"],
        "runtime_us": found["cpu"]["runtime"]["us_per_request"],
    }


def echo_p50_us(folder: Path, seconds: float) -> float:
    """One caller of the echo runtime in Rust: what a call costs that does nothing."""
    target = f"127.0.0.1:{free_port()}"
    with subprocess.Popen([str(LOAD.parent / "echo-runtime"), "--listen", target], cwd=folder) as echo:
        try:
            time.sleep(0.5)  # the generator does not wait for its target
            command = [str(LOAD), "--target", target, "--connections", "1", "--streams", "1", "--seconds", str(seconds)]
            finished = subprocess.run(command, capture_output=True, text=True, timeout=60 + seconds, check=True)
        finally:
            echo.terminate()
    return float(json.loads(finished.stdout)["latency_us"]["p50"])


async def play(repeats: int, seconds: float) -> dict[str, Any]:
    """All contenders, `repeats` times in turn."""
    with tempfile.TemporaryDirectory(prefix="modelmesh-bench-") as text:
        folder = Path(text)
        make_models(folder)
        before = os.getloadavg()[0]
        runs: dict[str, list[dict[str, float]]] = {}
        echo: list[float] = []
        async with contextlib.AsyncExitStack() as stack:
            contenders = [await stack.enter_async_context(start(folder)) for start in (ours, through_a_mesh, mlserver)]
            for _ in range(repeats):
                for contender in contenders:
                    for model in MODELS:
                        for callers in SHAPES:
                            key = f"{contender.name} | {model} | {callers}"
                            print(key, file=sys.stderr)
                            found = await asyncio.to_thread(measure, contender, model, callers, seconds)
                            runs.setdefault(key, []).append(found)
                echo.append(await asyncio.to_thread(echo_p50_us, folder, seconds))
        planned = [await plans.plans(folder / "plans", seconds) for _ in range(repeats)]
        return {
            **environment(),
            "load_average": [before, os.getloadavg()[0]],
            "bare_us": bare_us(folder),
            "echo_p50_us": statistics.median(echo),
            "runs": runs,
            "plans": planned,
        }


def rows(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures that must hold, from medians of the repeats."""

    def of(contender: str, model: str, callers: str, figure: str) -> float:
        return statistics.median(run[figure] for run in result["runs"][f"{contender} | {model} | {callers}"])

    bare = result["bare_us"]
    ours_us = of("ours", "onnx", "16 callers", "runtime_us")
    values = {
        "onnx_16_us": ours_us,
        "onnx_16_under_mlserver": of("MLServer", "onnx", "16 callers", "runtime_us") / ours_us,
        "onnx_mesh_rate_over_mlserver": of("ours, through a mesh", "onnx", "16 callers", "per_second")
        / of("MLServer", "onnx", "16 callers", "per_second"),
        "sklearn_over_bare": of("ours", "sklearn", "16 callers", "runtime_us") / bare["sklearn"],
        "onnx_1_p50_over_echo_and_model": of("ours", "onnx", "1 caller", "p50_us")
        / (result["echo_p50_us"] + bare["onnx"]),
    }
    judged = {name: (value, *MUST[name]) for name, value in values.items()}
    planned = [plans.rows(one) for one in result["plans"]]
    for name, (_, word, bound) in planned[0].items():
        judged[name] = (statistics.median(one[name][0] for one in planned), word, bound)
    made = {}
    for name, (value, word, bound) in judged.items():
        made[name] = {
            "value": round(value, 2),
            "must": f"{word} {bound:g}",
            "ok": value <= bound if word == "<=" else value >= bound,
        }
    return made


def main() -> None:
    """Measure, write the page, print the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    result = asyncio.run(play(arguments.repeats, arguments.seconds))
    result["rows"] = rows(result)
    (RESULTS / "runtime.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "runtime.md").write_text(render(result))
    print("runtime: " + json.dumps(result["rows"]))


if __name__ == "__main__":
    main()
