"""What a call of a small model costs its Python runtime: ours, ours through a mesh, and other servers. `make bench-runtime`.

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
from benchmarks.environment import environment
from benchmarks.path.plots import Bar, bars
from benchmarks.runtime import plans
from benchmarks.runtime.contenders import CONTENDERS, MODELS, Contender
from benchmarks.runtime.page import render
from benchmarks.runtime.servers import INFER, LOAD
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.instance.local_cluster import free_port

RESULTS = Path(__file__).parents[1] / "results"
SHAPES = {"16 callers": (4, 4), "1 caller": (1, 1)}
MUST: Mapping[str, tuple[str, float]] = {
    "onnx_16_native_us": ("<=", 15.0),
    "onnx_16_inline_us": ("<=", 25.0),
    "onnx_16_under_mlserver": (">=", 12.0),
    "onnx_16_under_triton": (">=", 5.0),
    "onnx_mesh_rate_over_mlserver": (">=", 10.0),
    "sklearn_over_bare": ("<=", 1.2),
    "onnx_1_p50_over_echo_and_model": ("<=", 1.2),
}


INLINE = """
import onnxruntime


class Model:
    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder.parent / "small.onnx", options)

    def infer(self, inputs, parameters):
        label, probabilities = self.session.run(None, inputs)
        return {"label": label, "probabilities": probabilities}
"""


def make_models(folder: Path) -> None:
    """A classifier of the iris data as scikit-learn and as ONNX has it."""
    rows, classes = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(rows, classes)
    joblib.dump(model, folder / "small.joblib")
    graph = to_onnx(model, rows[:1].astype(np.float32), options={id(model): {"zipmap": False}})
    (folder / "small.onnx").write_bytes(graph.SerializeToString())
    (folder / "inline").mkdir()
    (folder / "inline" / "model.py").write_text(INLINE)


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
        "runtime_us": sum(cpu["us_per_request"] for name, cpu in found["cpu"].items() if name.startswith("runtime")),
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
        bare: list[dict[str, float]] = []
        async with contextlib.AsyncExitStack() as stack:
            contenders = [await stack.enter_async_context(start(folder)) for start in CONTENDERS]
            for _ in range(repeats):
                for contender in contenders:
                    for model in contender.models:
                        for callers in SHAPES:
                            key = f"{contender.name} | {model} | {callers}"
                            print(key, file=sys.stderr)
                            found = await asyncio.to_thread(measure, contender, model, callers, seconds)
                            runs.setdefault(key, []).append(found)
                echo.append(await asyncio.to_thread(echo_p50_us, folder, seconds))
                bare.append(await asyncio.to_thread(bare_us, folder))
        planned = [await plans.plans(folder / "plans", seconds) for _ in range(repeats)]
        return {
            **environment(),
            "load_average": [before, os.getloadavg()[0]],
            "bare_us": {model: statistics.median(one[model] for one in bare) for model in bare[0]},
            "bare_runs": len(bare),
            "echo_p50_us": statistics.median(echo),
            "settings": {contender.name: contender.settings for contender in contenders},
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
        "onnx_16_native_us": ours_us,
        "onnx_16_inline_us": of("ours", "onnx in Python", "16 callers", "runtime_us"),
        "onnx_16_under_mlserver": of("MLServer", "onnx", "16 callers", "runtime_us") / ours_us,
        "onnx_16_under_triton": of("Triton, Python backend", "onnx", "16 callers", "runtime_us") / ours_us,
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


def plot(result: Mapping[str, Any]) -> str:
    """The servers side by side."""
    found = []
    for contender in result["settings"]:
        values = [run["runtime_us"] for run in result["runs"][f"{contender} | onnx | 16 callers"]]
        found.append(Bar(contender, statistics.median(values), min(values), max(values)))
    return bars("CPU of the server for a call of a small ONNX model, 16 callers", "µs", found)


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
    (RESULTS / "runtime-cpu.svg").write_text(plot(result))
    print("runtime: " + json.dumps(result["rows"]))


if __name__ == "__main__":
    main()
