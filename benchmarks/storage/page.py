"""Renders results/storage.md."""

import statistics
from collections.abc import Mapping
from typing import Any

TOOLS = ("s5cmd", "boto3")
PLAIN = (*TOOLS, "obstore", "obstore, synced")
MOST_OVER = 1.2
MOST_AGAIN_MS = 30


def _judged(downloads: Mapping[str, Any]) -> list[str]:
    """Ours over the fastest tool."""
    lines = [f"A pull must take at most {MOST_OVER} times what the fastest tool that people use takes."]
    for shape, runs in downloads.items():
        medians = {name: statistics.median(run["seconds"] for run in one) for name, one in runs.items()}
        fastest = min(TOOLS, key=lambda name: medians[name])
        over = medians["modelmesh"] / medians[fastest]
        lines.append(f"{shape}: {over:.2f} times {fastest}{'' if over <= MOST_OVER else ' (NO)'}.")
    return lines


def _again(found: Mapping[str, float]) -> str:
    missed = "" if found["median_ms"] <= MOST_AGAIN_MS else " (NO)"
    return f"{found['median_ms']:.1f}{missed}; over the plain listing {found['own_ms']:.1f}"


def render(result: Mapping[str, Any]) -> str:
    """The page."""
    machine, found = result["machine"], result["results"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    busy = " and ".join(f"{load:.1f}" for load in result["load_average"])
    lines = [
        "# What pulling model files costs",
        "",
        "Rendered from `storage.json` by `make bench-storage`; not edited by hand.",
        "",
        f"{result['date']}, commit {result['commit']}, {machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}; {versions}.",
        f"Load average of the machine before and after: {busy}. Above the number of CPUs other programs took their part, of all contenders",
        "alike, since they take turns: then the ratios hold, not the seconds.",
        "",
        "## From a local S3, nothing on disk",
        "",
        "| what | contender | seconds, median | range | CPU seconds | "
        + " | ".join(f"over {name}" for name in PLAIN)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(PLAIN),
    ]
    for shape, runs in found["downloads"].items():
        medians = {name: statistics.median(run["seconds"] for run in one) for name, one in runs.items()}
        for name, one in runs.items():
            taken = [run["seconds"] for run in one]
            cpu = statistics.median(run["cpu_seconds"] for run in one)
            over = " | ".join(f"{medians[name] / medians[other]:.2f}" for other in PLAIN)
            lines.append(
                f"| {shape} | {name} | {medians[name]:.2f} | {min(taken):.2f} to {max(taken):.2f} | {cpu:.2f} | {over} |"
            )
    second, shared, memory = found["second"], found["shared"], found["memory"]
    once = shared["sent_bytes"] / shared["content_bytes"]
    lines += [
        "",
        *_judged(found["downloads"]),
        "",
        "`modelmesh` lists, checks lengths and tags, syncs each file to the disk and publishes it under its final name; the plain downloads do",
        "none of that. `s5cmd` and `boto3` are tools that people use: s5cmd with its own settings, boto3's transfer manager with 16 threads and parts of",
        "16 MB. `obstore` is the library under ours, by hand: a stream an object, 16 at once; *synced*, with an `fsync` of each file, as a file needs that",
        "must be whole after a crash.",
        "",
        "## Never twice",
        "",
        "| what | seen | must |",
        "|---|---|---|",
        f"| the same file again: milliseconds, median of 20 (it is listed, nothing is fetched) | {_again(second['large'])} | 30 |",
        f"| the same 500 files again: milliseconds | {_again(second['many'])} | 30 |",
        f"| {shared['callers']} callers of one cold content in {shared['processes']} processes on one cache: times its bytes were sent | {once:.4f} | 1 |",
        f"| peak memory of a process that pulls 2 GB: MB (before the pull {memory['before_mb']:.0f}) | {memory['peak_mb']:.0f} | 150 |",
        "",
        "The byte that is sent more than once is the one that a server is asked for to learn the size and the tag. Two hundred pulls that are",
        "killed at random moments, and 200 evictions, are part of `make test-storage`: no file under its final name differed from its source.",
    ]
    return "\n".join(lines) + "\n"
