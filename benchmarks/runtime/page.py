"""Renders results/runtime.md."""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.runtime.plans import CYCLES

ONCE = (
    "The models alone were measured once, beside other work than the rest: `sklearn_over_bare` and `onnx_1_p50_over_echo_and_model` are not reliable.",
)
"""If the models alone were not measured in each repeat."""


def render(result: Mapping[str, Any]) -> str:
    """The page."""
    machine = result["machine"]
    busy = " and ".join(f"{load:.1f}" for load in result["load_average"])
    bare = result["bare_us"]
    lines = [
        "# What a call costs a Python runtime",
        "",
        "Rendered from `runtime.json` by `make bench-runtime`; not edited by hand.",
        "",
        f"{result['date']}, commit {result['commit']}, {machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}. Load average of the machine",
        f"before and after: {busy}. One row of four numbers, raw contents, over gRPC. CPU is that of all processes of the server; the load generator and,",
        "through a mesh, the instance share the CPUs with it. One thread in onnxruntime everywhere.",
        "",
        "![CPU of the server for a call of a small ONNX model](runtime-cpu.svg)",
        "",
        "Settings: " + "; ".join(f"{name}: {settings}" for name, settings in result["settings"].items()) + ".",
        "",
        f"The models alone: ONNX {bare['onnx']:.0f} µs, scikit-learn {bare['sklearn']:.0f} µs (`predict` and `predict_proba`). A call of the echo",
        f"runtime in Rust, which does nothing, takes one caller {result['echo_p50_us']:.0f} µs.",
        *ONCE * (result["bare_runs"] < 2),
        "",
        "| server, model, callers | calls/s | CPU of the runtime per call, µs | p50, µs | p99, µs |",
        "|---|---|---|---|---|",
    ]
    for name, runs in result["runs"].items():
        figures = ("per_second", "runtime_us", "p50_us", "p99_us")
        rate, cpu, p50, p99 = (statistics.median(run[figure] for run in runs) for figure in figures)
        lines.append(f"| {name.replace(' | ', ', ')} | {rate:,.0f} | {cpu:.1f} | {p50:,.0f} | {p99:,.0f} |")
    lines += [
        "",
        "`batched_rate` and `batched_p99`: a Python model that takes a millisecond of CPU whatever the rows, 16 callers, with batches of up to 64 rows over",
        "without. `p99_beside_loads`: a small model called by 4, while another of 116 MiB loads and unloads, over alone; `_isolated`: each in a process of its",
        f"own. `kept_mb_isolated`: MiB held after {CYCLES} loads and unloads of that model. `failed_of_…`: calls that failed while one model's process was killed",
        "twice under load by four callers of each, of other models and of its own.",
        "",
        "| figure | value | must | holds |",
        "|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        lines.append(f"| `{name}` | {row['value']} | {row['must']} | {'yes' if row['ok'] else 'NO'} |")
    return "\n".join(lines) + "\n"
