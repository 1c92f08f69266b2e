"""How good the cache is, on traces played through the production control plane: `make bench-cache`.

For each of the ten traces of the design notes: plain LRU and the default policy through the control plane, the simple policies of
the literature and the offline optimum as arithmetic. Then twenty traces of other kinds, seeds and parameters.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simple import SIMPLE, lru, optimum

from modelmesh.testing.replay import Eviction, Replayed, replay
from modelmesh.testing.traces import Trace, drawn, ten

RESULTS = Path(__file__).parents[1] / "results"
MUST_BE_WITHIN = 0.02
"""Of the best simple policy, on each of the ten traces and in the mean of the drawn ones."""

DRAWN_BELOW_LRU = 0.005
PROCESSES = 2


@dataclass(frozen=True)
class Job:
    """One trace under one policy."""

    trace: Trace
    eviction: Eviction


def play(job: Job) -> Replayed:
    """In a process of its own."""
    return replay(job.trace, eviction=job.eviction)


def render(result: dict[str, Any]) -> Iterator[str]:
    """The page of a result, line by line."""
    environment = result["environment"]
    yield "# The cache on traces"
    yield ""
    yield "Rendered from `cache.json` by `make bench-cache`; not edited by hand."
    yield ""
    yield f"{environment['date']}, Python {environment['python']}. Virtual time: the figures are the same on every machine."
    yield ""
    yield "Hit ratios of 20,000 requests; every miss must load. *LRU* and *default* are played through the production control"
    yield "plane, the others are arithmetic: *optimum* knows the future (and ignores sizes, so with mixed sizes it is no bound)."
    yield ""
    simple = list(result["rows"][0]["simple"])
    yield f"| trace | optimum | LRU | **default** | loads | units loaded | {' | '.join(simple)} |"
    yield "|---" * (6 + len(simple)) + "|"
    for row in result["rows"]:
        if "simple" in row:
            others = " | ".join(f"{row['simple'][name]:.3f}" for name in simple)
            yield (
                f"| {row['trace']} | {row['optimum']:.3f} | {row['lru']:.3f} | **{row['default']:.3f}** | {row['loads']:,} "
                f"| {row['loaded_units']:,} | {others} |"
            )
    yield ""
    yield f"Further traces, parameters drawn from seed {result['seed']}: in the mean the default is {result['mean_to_best']:+.4f}"
    yield "from the best of the simple policies, whichever that is on each."
    yield ""
    yield "| trace | LRU | **default** | best simple |"
    yield "|---|---|---|---|"
    for row in result["rows"]:
        if "simple" not in row:
            yield f"| {row['trace']} | {row['lru']:.3f} | **{row['default']:.3f}** | {row['best_simple']:.3f} |"
    yield ""
    yield "Bounds: " + (
        "; ".join(result["broken"]) or "all hold (the default never below LRU, and within 0.02 of the best)."
    )


def main() -> int:
    """Play, print the tables, write the results; 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of the drawn traces; default: drawn at each run")
    parser.add_argument("--drawn", type=int, default=20, help="how many traces are drawn")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 1_000_000
    fixed, others = ten(), drawn(seed, arguments.drawn)
    broken: list[str] = []
    figures: dict[str, dict[str, float]] = {}
    table: list[dict[str, object]] = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        defaults = [pool.submit(play, Job(trace, "adaptive")) for trace in fixed]
        plain = [pool.submit(play, Job(trace, "lru")) for trace in fixed]
        further = [pool.submit(play, Job(trace, "adaptive")) for trace in others]
        print(f"{'trace':18}{'optimum':>8}{'LRU':>8}{'default':>9}{'best simple':>13}  {'':14}{'loads':>7}{'units':>9}")
        for trace, adaptive, old in zip(fixed, defaults, plain, strict=True):
            simple = {name: policy(trace) for name, policy in SIMPLE.items()}
            best = max(simple, key=simple.__getitem__)
            played, by_lru = adaptive.result(), old.result()
            row = {
                "lru": round(by_lru.hit_ratio, 4),
                "default": round(played.hit_ratio, 4),
                "best_simple": round(simple[best], 4),
                "optimum": round(optimum(trace), 4),
            }
            figures[trace.name] = row
            table.append(
                {
                    "trace": trace.name,
                    **row,
                    "simple": simple,
                    "loads": played.loads,
                    "loaded_units": played.loaded_units,
                    "lru_loads": by_lru.loads,
                }
            )
            print(
                f"{trace.name:18}{row['optimum']:8.3f}{row['lru']:8.3f}{row['default']:9.3f}{row['best_simple']:13.3f}"
                f"  {best:14}{played.loads:7}{played.loaded_units:9}",
                flush=True,
            )
            if played.failed or by_lru.failed:
                broken.append(f"{trace.name}: {played.failed + by_lru.failed} requests failed")
            if row["default"] < row["lru"]:
                broken.append(f"{trace.name}: below LRU")
            if row["default"] < row["best_simple"] - MUST_BE_WITHIN:
                broken.append(f"{trace.name}: {row['best_simple'] - row['default']:.3f} below the best simple policy")
        print(f"\n{len(others)} further traces, seed {seed}: the default against LRU and the best simple policy")
        short: list[float] = []
        for trace, adaptive in zip(others, further, strict=True):
            played = adaptive.result()
            best_ratio, lru_ratio = max(policy(trace) for policy in SIMPLE.values()), lru(trace)
            short.append(played.hit_ratio - best_ratio)
            table.append(
                {"trace": trace.name, "default": played.hit_ratio, "lru": lru_ratio, "best_simple": best_ratio}
            )
            print(
                f"{trace.name:22}{played.hit_ratio:7.3f}  LRU {played.hit_ratio - lru_ratio:+.3f}  best {short[-1]:+.3f}",
                flush=True,
            )
            if played.failed:
                broken.append(f"{trace.name} of seed {seed}: {played.failed} requests failed")
            if played.hit_ratio < lru_ratio - DRAWN_BELOW_LRU:
                broken.append(f"{trace.name} of seed {seed}: below LRU")
        mean = sum(short) / len(short) if short else 0.0
        if mean < -MUST_BE_WITHIN:
            broken.append(f"the drawn traces are {-mean:.3f} below the best simple policies in the mean")
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    RESULTS.mkdir(exist_ok=True)
    result = {"environment": environment, "seed": seed, "mean_to_best": mean, "rows": table, "broken": broken}
    (RESULTS / "cache.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "cache.md").write_text("\n".join(render(result)) + "\n")
    for what in broken:
        print(f"BROKEN {what}")
    print(f"cache: {json.dumps(figures)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
