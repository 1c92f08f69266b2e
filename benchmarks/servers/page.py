"""Renders results/servers.md."""

import statistics
from collections.abc import Mapping
from typing import Any


def render(result: Mapping[str, Any]) -> str:
    """The page."""
    machine = result["machine"]
    busy = " and ".join(f"{load:.1f}" for load in result["load_average"])
    lines = [
        "# What adapters add to model servers",
        "",
        "Rendered from `servers.json` by `make bench-servers`; not edited by hand.",
        "",
        f"{result['date']}, commit {result['commit']}, {machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}. Load average of the machine",
        f"before and after: {busy}; above the number of CPUs other programs took their part. Twenty loads and unloads of one model.",
        "",
        "| server, format | a load, median ms | of it the adapter, median ms (at most 20) | size that the adapter says, MB | growth of the server over a load, MB | they differ by (at most 15 %) | left after the last unload, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in result["results"].items():
        load, own, grew = (statistics.median(run[key] for run in runs) for key in ("load_ms", "own_ms", "grew_mb"))
        size, left = runs[-1]["size_mb"], sum(run["left_mb"] for run in runs)
        differ = abs(size - grew) / grew if grew > 0 else float("inf")
        told = f"{differ:.0%}{'' if differ <= 0.15 else ' (NO)'}" if grew > 0 else "it did not grow"
        slow = "" if own <= 20 else " (NO)"
        lines.append(f"| {name} | {load:.0f} | {own:.1f}{slow} | {size:.1f} | {grew:.1f} | {told} | {left:.1f} |")
    lines += [
        "",
        "The size is that of the last cycle, the growth the median of all. Triton and TorchServe run a model in processes of its own, whose memory is",
        "its size. MLServer has one process, and keeps memory that models have left. So a model that comes back grows it by less than it takes, small",
        "ones by nothing, and what counts is what was measured at the first load, before there was such room. That includes what the server keeps",
        "of a first load for itself: its sizes are too large rather than too small.",
    ]
    return "\n".join(lines) + "\n"
