"""Renders results/servers.md."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

MOST_APART = 0.15
LEAST_SEEN = 0.05
"""Growth below this share of the size is none."""

MOST_OWN_MS = 20
MOST_OVER = 1.10


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
        f"before and after: {busy}; above the number of CPUs other programs took their part.",
        *_missing(result),
        "",
        "## Loads",
        "",
        "Twenty loads and unloads of one model.",
        "",
        f"| server, format | a load, median ms | of it the adapter, median ms (at most {MOST_OWN_MS}) | size that the adapter says, MB | growth of the server over a load, MB | they differ by (at most {MOST_APART:.0%}) | growth for each of four side by side, MB | left after the last unload, MB |",
        "|---|---|---|---|---|---|---|---|",
        *(_load_row(name, found["cycles"], found["side_by_side_mb"]) for name, found in result["loads"].items()),
        "",
        "The size is that of the last cycle, the growth the median of all. Triton and TorchServe run a model in processes of its own, whose memory is",
        "its size. MLServer has one process, which keeps memory that models have left. A model of one large array (sklearn here) gives it back, and its size is",
        "what the server shrinks and grows by. Models of many small pieces (XGBoost, LightGBM) do not: one that comes back moves into what it left and grows the",
        "server by nothing. So their size is that of the first load, in which the library also takes memory for itself: the first model of such a format is",
        "said to be larger than it is. What several of them grow the server by, side by side, shows the difference; the first of those four still moves into the",
        "room of the one before.",
        "",
        "## Calls",
        "",
        "A small model, at a third of the rate that the server takes. *Instance*: the process of ModelMesh that passes the call on. *Echo*: the same call",
        "through an instance to a runtime that does nothing, at the same rate, while the server is called directly: so the CPUs are as busy. Medians of the",
        "repeats; CPU in µs a call.",
        "",
        f"| server, format | calls/s | server, called directly | server, through the mesh | instance | instance in front of the echo | over that (at most {MOST_OVER:.2f}) | p50 directly, µs | p50 through the mesh, µs |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_call_row(name, runs) for name, runs in result["calls"].items()),
        "",
        "The instance makes as many system calls for a call of the server as for one of the echo: two receives, two sends, one or two waits (strace). What it",
        "spends beyond the echo's is not explained yet, and differs from repeat to repeat by more than it is.",
        "",
        "At rates of servers in Python an instance wakes for each call alone. At the rates of the byte path calls come together, and one costs a tenth",
        "([the path of a call](path.md)).",
    ]
    return "\n".join(lines) + "\n"


def _missing(result: Mapping[str, Any]) -> list[str]:
    seen = {name.partition(",")[0] for name in result["loads"]}
    return [f"Not installed in this run: {name}." for name in ("mlserver", "triton", "torchserve") if name not in seen]


def _load_row(name: str, runs: Sequence[Mapping[str, float]], beside: float) -> str:
    load, own, grew = (statistics.median(run[key] for run in runs) for key in ("load_ms", "own_ms", "grew_mb"))
    size, left = runs[-1]["size_mb"], sum(run["left_mb"] for run in runs)
    told = "it did not grow (NO)"
    if grew > LEAST_SEEN * size:
        differ = abs(size - grew) / grew
        told = f"{differ:.0%}{'' if differ <= MOST_APART else ' (NO)'}"
    slow = "" if own <= MOST_OWN_MS else " (NO)"
    return f"| {name} | {load:.0f} | {own:.1f}{slow} | {size:.1f} | {grew:.1f} | {told} | {beside:.1f} | {left:.1f} |"


def _call_row(name: str, runs: Sequence[Mapping[str, float]]) -> str:
    keys = ("direct_server_us", "server_us", "instance_us", "echo_instance_us")
    cpu = " | ".join(f"{statistics.median(run[key] for run in runs):.1f}" for key in keys)
    ratios = sorted(run["instance_us"] / run["echo_instance_us"] for run in runs)
    over = statistics.median(ratios)
    told = f"{over:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}){'' if over <= MOST_OVER else ' (NO)'}"
    direct, through = (statistics.median(run[key] for run in runs) for key in ("direct_p50_us", "p50_us"))
    return f"| {name} | {runs[0]['rate']:,.0f} | {cpu} | {told} | {direct:,.0f} | {through:,.0f} |"
