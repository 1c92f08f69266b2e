"""What callers wait for where models do not all fit: `make bench-waits`.

Every trace is served by clusters of 1, 3, 8 and 32 instances, through the production control plane on virtual time: under the default
policy, under plain LRU, and by one instance with the memory and the slots of all, which no placement among several can beat.

Plain LRU is what it was when loads began first come, first served and instances knew only the sizes of their own loads: its figures are kept
in `plain_lru.json`, so that what both policies gain later does not move the mark. With `--lru-now` plain LRU is played as it is now.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.path.plots import Bar, bars

from modelmesh.testing import traces
from modelmesh.testing.sizing import Fleet, Policy, Served, one_big, serve
from modelmesh.testing.traces import Trace
from modelmesh.testing.workload import Workload

RESULTS = Path(__file__).parents[1] / "results"
PLAIN_LRU = Path(__file__).parent / "plain_lru.json"
"""Figures by the name of the row, for the default arguments; made at commit 86f3707."""

SEED = 1
DRAWN = 6
PROCESSES = 2
INSTANCES = (1, 3, 8, 32)
SLOTS = (1, 2, 8)
"""In turn: each trace meets all of them."""

REQUESTS = 2_500
UNIT_BYTES = 500_000_000
LOAD_MS = 2_500
"""Of a unit."""

LONGEST_LOAD_MS = 30_000
UTILISATION = 0.5
"""Of all loading slots by the loads of plain LRU: rates are set so, or nobody would wait, or everybody for ever."""

ABOVE_LRU = 1.02
BELOW_LRU_IN_THE_MEAN = 0.8
OVER_ONE_BIG = 1.3
"""The bounds: never so much longer than LRU in mean or p95, so much shorter over all, so close to one big instance."""


@dataclass(frozen=True)
class Cell:
    """One trace on one fleet."""

    trace: Trace
    instances: int
    slots: int

    @property
    def name(self) -> str:
        """As in the result's line."""
        return f"{self.trace.name}x{self.instances}"


def fixed() -> list[Trace]:
    """The kinds of traffic, with uniform and mixed sizes."""
    length = REQUESTS
    return [
        traces.zipf("zipf", 1, models=700, length=length),
        traces.zipf("zipf_1.1", 2, skew=1.1, length=length),
        traces.cyclic("cyclic", 3, length=length),
        traces.scanned("scan", 4, length=length),
        traces.shifting("shift", 5, every=length // 2, length=length),
        traces.bursting("burst", 6, every=length // 3, walk=length // 20, length=length),
        traces.zipf("mixed_zipf", 7, room=300, mixed=True, length=length),
        traces.shifting("mixed_shift", 8, every=length // 2, room=300, mixed=True, length=length),
    ]


def cells(seed: int, drawn: int) -> list[Cell]:
    """All that is played."""
    rng = Random(seed)
    found = [
        Cell(trace, instances, SLOTS[(row + column) % len(SLOTS)])
        for row, trace in enumerate(fixed())
        for column, instances in enumerate(INSTANCES)
    ]
    for number in range(drawn):
        kind = rng.choice(("zipf", "scan", "burst"))
        skew, trace_seed = rng.uniform(0.7, 1.2), rng.getrandbits(32)
        name = f"drawn{number}_{kind}"
        if kind == "scan":
            trace = traces.scanned(name, trace_seed, skew=skew, share=rng.uniform(0.05, 0.2), length=REQUESTS)
        elif kind == "burst":
            trace = traces.bursting(name, trace_seed, skew=skew, every=REQUESTS // 3, walk=100, length=REQUESTS)
        else:
            mixed = rng.random() < 0.5
            trace = traces.zipf(name, trace_seed, skew=skew, room=300 if mixed else 100, mixed=mixed, length=REQUESTS)
        found.append(Cell(trace, rng.choice(INSTANCES), rng.choice(SLOTS)))
    return found


def workload(cell: Cell) -> tuple[Workload, Fleet]:
    """The requests of a cell by time, and what they are served by."""
    trace = cell.trace
    rng = Random(f"{cell.name} {cell.slots}")
    mixed = max(trace.sizes.values()) > 1
    sizes = {f"m{model}": units * UNIT_BYTES for model, units in trace.sizes.items()}
    load_ms = {
        f"m{model}": min(LONGEST_LOAD_MS, round(units * LOAD_MS * (rng.choice((0.5, 1, 2)) if mixed else 1)))
        for model, units in trace.sizes.items()
    }
    gap_ms = _lru_load_ms(trace, load_ms) / len(trace.requests) / (cell.instances * cell.slots * UTILISATION)
    now_ms, requests = 0.0, []
    for model in trace.requests:
        now_ms += rng.expovariate(1 / gap_ms)
        requests.append((int(now_ms), f"m{model}"))
    room = max(trace.room * UNIT_BYTES // cell.instances, 2 * max(sizes.values()))
    # A small reserve beside it is kept free.
    return Workload(cell.name, tuple(requests), sizes, load_ms), Fleet(cell.instances, room * 103 // 100, cell.slots)


def _lru_load_ms(trace: Trace, load_ms: dict[str, int]) -> int:
    """What plain LRU in one memory would load, as arithmetic."""
    held: OrderedDict[int, int] = OrderedDict()
    used = total_ms = 0
    for model in trace.requests:
        if model in held:
            held.move_to_end(model)
            continue
        total_ms += load_ms[f"m{model}"]
        while held and used + trace.sizes[model] > trace.room:
            used -= held.popitem(last=False)[1]
        held[model] = trace.sizes[model]
        used += trace.sizes[model]
    return total_ms


def play(cell: Cell, policy: Policy, *, big: bool) -> Served:
    """In a process of its own."""
    asked, fleet = workload(cell)
    return serve(asked, one_big(fleet) if big else fleet, policy=policy)


def figures(served: Served) -> dict[str, Any]:
    """Waiting over all calls, in milliseconds, and what was loaded for it."""
    return {
        "mean": round(served.mean_wait_ms),
        **{f"p{share}": served.wait_ms(share / 100) for share in (50, 95, 99)},
        "hits": round(served.hit_ratio, 4),
        "loads": served.loads,
        "bytes": served.loaded_bytes,
        "failed": served.failed,
    }


def broken_by(row: dict[str, Any]) -> Iterator[str]:
    """The bounds that a row breaks."""
    default, lru, big = row["default"], row["lru"], row["one_big"]
    for what in ("mean", "p95"):
        if default[what] > ABOVE_LRU * lru[what]:
            yield f"{row['name']}: {what} {default[what]} ms, LRU {lru[what]} ms"
    if default["mean"] > OVER_ONE_BIG * big["mean"]:
        yield f"{row['name']}: mean {default['mean']} ms, one big instance {big['mean']} ms"
    failed = default["failed"] + lru["failed"] + big["failed"]
    if failed:
        yield f"{row['name']}: {failed} calls failed"


def render(result: dict[str, Any]) -> Iterator[str]:
    """The page of a result, line by line."""
    environment = result["environment"]
    yield "# Waiting in full clusters"
    yield ""
    yield "Rendered from `waits.json` by `make bench-waits`; not edited by hand."
    yield ""
    yield f"{environment['date']}, Python {environment['python']}. Virtual time: the figures are the same on every machine."
    yield ""
    if not result["lru_now"]:
        yield "LRU is plain LRU as it was with loads first come, first served (`benchmarks/waits/plain_lru.json`)."
        yield ""
    yield f"{REQUESTS:,} calls a row, which come whether or not others are answered; under plain LRU half of the loading slots are busy."
    yield "Waits are in seconds over all calls: who finds a ready copy waits nothing. *one big*: one instance with the memory and the"
    yield "slots of all, the limit that no placement among several can beat."
    yield ""
    yield "| trace | instances | slots | mean | LRU | one big | p50 | p95 | LRU | one big | p99 | LRU | hits | LRU | loads | LRU |"
    yield "|---" * 16 + "|"
    for row in result["rows"]:
        default, lru, big = row["default"], row["lru"], row["one_big"]
        waits = [default["mean"], lru["mean"], big["mean"], default["p50"]]
        waits += [default["p95"], lru["p95"], big["p95"], default["p99"], lru["p99"]]
        yield (
            f"| {row['trace']} | {row['instances']} | {row['slots']} | "
            + " | ".join(f"{wait / 1000:.2f}" for wait in waits)
            + f" | {default['hits']:.3f} | {lru['hits']:.3f} | {default['loads']:,} | {lru['loads']:,} |"
        )
    yield ""
    yield (
        f"Over all rows the mean wait is {result['over_lru']:.2f} times that of LRU, and {result['over_one_big']:.2f} times that of"
        " one big instance (geometric means)."
    )
    yield ""
    yield "Bounds: " + ("; ".join(result["broken"]) or "all hold.")


def plot(rows: list[dict[str, Any]]) -> str:
    """The mean wait beside plain LRU's, by the number of instances: the mean over all traces, and its range."""
    found = []
    for instances in INSTANCES:
        shares = [
            100 * max(1, row["default"]["mean"]) / max(1, row["lru"]["mean"])
            for row in rows
            if row["instances"] == instances
        ]
        label = "1 instance" if instances == 1 else f"{instances} instances"
        found.append(Bar(label, statistics.geometric_mean(shares), min(shares), max(shares)))
    return bars("How long callers wait: mean, in per cent of plain LRU's", "%", found)


def main() -> int:
    """Play, print the table, write the results; 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="of the drawn traces")
    parser.add_argument("--drawn", type=int, default=DRAWN, help="how many traces are drawn")
    parser.add_argument("--lru-now", action="store_true", help="play plain LRU as it is now")
    arguments = parser.parse_args()
    usual = (arguments.seed, arguments.drawn) == (SEED, DRAWN)
    kept: dict[str, Any] = json.loads(PLAIN_LRU.read_text()) if usual and not arguments.lru_now else {}
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        played = [
            (
                cell,
                pool.submit(play, cell, "adaptive", big=False),
                None if cell.name in kept else pool.submit(play, cell, "lru", big=False),
                pool.submit(play, cell, "adaptive", big=True) if cell.instances > 1 else None,
            )
            for cell in cells(arguments.seed, arguments.drawn)
        ]
        print(f"{'trace':20}{'slots':>6}{'mean':>9}{'LRU':>8}{'one big':>9}{'p95':>9}{'LRU':>8}{'hits':>8}{'LRU':>7}")
        for cell, default, lru, big in played:
            row = {
                "name": cell.name,
                "trace": cell.trace.name,
                "instances": cell.instances,
                "slots": cell.slots,
                "default": figures(default.result()),
                "lru": figures(lru.result()) if lru is not None else kept[cell.name],
                "one_big": figures((big or default).result()),
            }
            rows.append(row)
            broken += broken_by(row)
            ours, theirs, limit = row["default"], row["lru"], row["one_big"]
            print(
                f"{cell.name:20}{cell.slots:6}{ours['mean']:9}{theirs['mean']:8}{limit['mean']:9}"
                f"{ours['p95']:9}{theirs['p95']:8}{ours['hits']:8.3f}{theirs['hits']:7.3f}",
                flush=True,
            )
    several = [row for row in rows if row["instances"] > 1]
    over_lru = statistics.geometric_mean(max(1, row["default"]["mean"]) / max(1, row["lru"]["mean"]) for row in rows)
    over_big = statistics.geometric_mean(
        max(1, row["default"]["mean"]) / max(1, row["one_big"]["mean"]) for row in several
    )
    if over_lru > BELOW_LRU_IN_THE_MEAN:
        broken.append(f"over all rows {over_lru:.2f} times the mean wait of LRU")
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    result = {
        "environment": environment,
        "seed": arguments.seed,
        "lru_now": not kept,
        "over_lru": over_lru,
        "over_one_big": over_big,
        "rows": rows,
        "broken": broken,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "waits.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "waits.md").write_text("\n".join(render(result)) + "\n")
    (RESULTS / "waits.svg").write_text(plot(rows))
    for what in broken:
        print(f"BROKEN {what}")
    line = {
        row["name"]: {
            "mean": row["default"]["mean"],
            "lru_mean": row["lru"]["mean"],
            "p95": row["default"]["p95"],
            "lru_p95": row["lru"]["p95"],
            "one_big": row["one_big"]["mean"],
        }
        for row in rows
    }
    print(f"over LRU {over_lru:.2f}, over one big instance {over_big:.2f}")
    print(f"waits: {json.dumps(line)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
