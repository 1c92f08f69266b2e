"""Renders results/runtime.md."""

import statistics
from collections.abc import Mapping
from typing import Any


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
        f"before and after: {busy}. One row of four numbers, raw contents. CPU is that of the runtime's process; the load generator and, through a mesh, the",
        "instance share the CPUs with it. MLServer 1.7 has the model in its own process (parallel_workers 0), which is its cheapest way.",
        "",
        f"The models alone: ONNX {bare['onnx']:.0f} µs, scikit-learn {bare['sklearn']:.0f} µs (`predict` and `predict_proba`). A call of the echo",
        f"runtime in Rust, which does nothing, takes one caller {result['echo_p50_us']:.0f} µs.",
        "",
        "| server, model, callers | calls/s | CPU of the runtime per call, µs | p50, µs | p99, µs |",
        "|---|---|---|---|---|",
    ]
    for name, runs in result["runs"].items():
        figures = ("per_second", "runtime_us", "p50_us", "p99_us")
        rate, cpu, p50, p99 = (statistics.median(run[figure] for run in runs) for figure in figures)
        lines.append(f"| {name.replace(' | ', ', ')} | {rate:,.0f} | {cpu:.1f} | {p50:,.0f} | {p99:,.0f} |")
    lines += ["", "| figure | value | must | holds |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        lines.append(f"| `{name}` | {row['value']} | {row['must']} | {'yes' if row['ok'] else 'NO'} |")
    return "\n".join(lines) + "\n"
