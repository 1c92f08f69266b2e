"""From runs to figures: medians of repeats, costs in units of the runtime's own, and the rows with what they must be."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

Run = dict[str, Any]
Runs = list[Run]

BUSY, ONE, TEN_KB, ONE_MB = "76 B, 4 x 16", "76 B, 1 x 1", "10 KB, 4 x 16", "1 MB, 2 x 2"
"""Shapes: payload, connections x streams on each."""


class NotMeasuredError(Exception):
    """A contender was not there."""


def pick(runs: Runs, **which: object) -> Runs:
    """The repeats of a contender."""
    return [run for run in runs if all(run.get(name) == value for name, value in which.items())]


def values(runs: Runs, *keys: str, **which: object) -> list[float]:
    """One figure of every repeat of a contender."""
    found = []
    for run in pick(runs, **which):
        figure: Any = run
        for key in keys:
            figure = figure[key]
        found.append(float(figure))
    return found


def middle(figures: Iterable[float]) -> float:
    """The median; NotMeasuredError if there is none."""
    found = list(figures)
    if not found:
        raise NotMeasuredError
    return median(found)


def us_of(run: Run, *prefixes: str) -> float:
    """CPU per call of the processes whose names begin so."""
    return sum(float(cpu["us_per_request"]) for name, cpu in run["cpu"].items() if name.startswith(prefixes))


def instances_us(run: Run) -> float:
    """CPU of all instances on the way, per call."""
    return us_of(run, "instance")


def runtime_us(run: Run) -> float:
    """CPU of the runtimes, per call."""
    return us_of(run, "runtime")


def cost(run: Run) -> float:
    """CPU of the instances in units of the runtime's own."""
    return instances_us(run) / runtime_us(run)


def cost_of(runs: Runs, path: str, shape: str = BUSY) -> float:
    """Median of the repeats."""
    return middle(map(cost, pick(runs, path=path, shape=shape)))


def rate_of(runs: Runs, path: str) -> float:
    """Median calls a second at the busiest shape."""
    return middle(values(runs, "per_second", path=path, shape=BUSY))


def p50_of(runs: Runs, path: str) -> float:
    """Median of one caller's medians, µs."""
    return middle(values(runs, "latency_us", "p50", path=path, shape=ONE))


def over_control(condition: str, control: str) -> Callable[[Runs], list[float]]:
    """p99 under a condition over p99 under its control, of each repeat: one follows the other."""

    def ratios(runs: Runs) -> list[float]:
        above, below = (values(runs, "latency_us", "p99", condition=name) for name in (condition, control))
        if not above:
            raise NotMeasuredError
        return [one / other for one, other in zip(above, below, strict=True)]

    return ratios


def envoy_us(run: Run) -> float:
    """CPU of Envoy, per call."""
    return us_of(run, "envoy")


def median_wait_us(run: Run) -> float:
    """Median of a histogram of waits: {upper bound in µs: calls up to it}; within a bucket they are spread evenly."""
    below, reached = 0.0, 0.0
    buckets = sorted((float(bound), count) for bound, count in run["waits"].items())
    half = buckets[-1][1] / 2
    for bound, count in buckets:
        if count >= half and count > reached:
            return below + (bound - below) * (half - reached) / (count - reached)
        below, reached = bound, count
    raise NotMeasuredError


def streams_kib(run: Run) -> float:
    """Growth of the instance by each open call, KiB."""
    before, after = next(memory for name, memory in run["resident_bytes"].items() if name.startswith("instance"))
    return float(after - before) / 1024 / float(run["held"])


@dataclass(frozen=True)
class Row:
    """One figure: what it is, its bound, the aim, and how it comes from the runs.

    A figure that is a list has one value for each repeat. Its median is shown with its quartiles, and it misses its bound if
    the better quartile does: tails differ from repeat to repeat by more than a bound may be wide.
    """

    what: str
    must: float
    figure: Callable[[Runs], float | list[float]]
    aim: float | None = None
    at_least: bool = False


NO_WORSE = 1.2
"""No worse than the control, up to what two controls differ by."""

ROWS: dict[str, Row] = {
    "echo_us": Row(
        "CPU of the echo runtime per direct call of 76 B, µs",
        6.0,
        lambda runs: middle(map(runtime_us, pick(runs, path="direct", shape=BUSY))),
    ),
    "warm_local": Row(
        "warm local call, 76 B: CPU of the instance over the runtime's", 2.5, lambda runs: cost_of(runs, "local"), 1.9
    ),
    "warm_local_us": Row(
        "the same, µs", 12, lambda runs: middle(map(instances_us, pick(runs, path="local", shape=BUSY))), 7
    ),
    "over_envoy": Row(
        "the same: CPU of Envoy with the same metrics on (the cheaper of one worker and two) over the instance's",
        5,
        lambda runs: (
            min(middle(map(envoy_us, pick(runs, path=path, shape=BUSY))) for path in ("envoy", "envoy 2"))
            / middle(map(instances_us, pick(runs, path="local", shape=BUSY)))
        ),
        at_least=True,
    ),
    "over_aio": Row(
        "the same: calls/s over those of a grpc.aio proxy",
        30,
        lambda runs: rate_of(runs, "local") / rate_of(runs, "grpc.aio"),
        at_least=True,
    ),
    "ten_kb": Row("10 KB: CPU of the instance over the runtime's", 2.5, lambda runs: cost_of(runs, "local", TEN_KB)),
    "one_mb": Row("1 MB: the same", 1.6, lambda runs: cost_of(runs, "local", ONE_MB)),
    "added_us": Row(
        "one caller: p50 over the direct call's, µs",
        120,
        lambda runs: p50_of(runs, "local") - p50_of(runs, "direct"),
        60,
    ),
    "hop": Row(
        "through another instance: CPU of both over a local call's, each in units of the runtime's own",
        2.2,
        lambda runs: cost_of(runs, "hop") / cost_of(runs, "local"),
    ),
    "hop_added_us": Row(
        "the same, one caller: p50 over a local call's, µs",
        60,
        lambda runs: p50_of(runs, "hop") - p50_of(runs, "local"),
    ),
    "zipf": Row(
        "100 models, Zipf 0.9, entering at any of 3 instances: CPU over that for one model, each in units of the runtimes' own",
        1.15,
        lambda runs: cost_of(runs, "100 models") / cost_of(runs, "one model"),
    ),
    "tls": Row(
        "TLS of clients: CPU over clear text, each in units of the runtime's own",
        1.5,
        lambda runs: cost_of(runs, "TLS") / cost_of(runs, "local"),
    ),
    "tls_hop": Row(
        "TLS of clients and mutual TLS on the hop: CPU of both over clear text, likewise",
        1.5,
        lambda runs: cost_of(runs, "TLS hop") / cost_of(runs, "hop"),
    ),
    "stream_message": Row(
        "1,000 open bidi streams: CPU of the instance per message over that per unary call",
        0.7,
        lambda runs: (
            middle(map(instances_us, pick(runs, path="streams"))) / middle(map(instances_us, pick(runs, path="alone")))
        ),
    ),
    "stream_kib": Row(
        "the same: memory of the instance per idle stream, KiB",
        8,
        lambda runs: middle(map(streams_kib, pick(runs, kind="idle streams"))),
    ),
    "gil_held": Row(
        "p99 of warm calls with the GIL held, over p99 without",
        NO_WORSE,
        over_control("gil held", "idle"),
    ),
    "busy_python": Row(
        "p99 of warm calls with Python busy, over another process as busy",
        NO_WORSE,
        over_control("busy python", "busy other"),
    ),
    "storm": Row(
        "p99 of warm calls in a storm of registrations, over another process as busy",
        NO_WORSE,
        over_control("storm", "storm other"),
    ),
    "cold_loads": Row(
        "p99 of warm calls while 64 cold loads wait, over another process as busy",
        NO_WORSE,
        over_control("cold loads", "cold loads other"),
    ),
    "miss_us": Row(
        "miss to decision, p50 at 1,000/s, by the core's clock, µs",
        400,
        lambda runs: middle(map(median_wait_us, pick(runs, kind="miss"))),
        200,
    ),
}


def judge(runs: Runs) -> dict[str, dict[str, Any]]:
    """The rows, each with what it must be; one without a contender is not reached."""
    judged: dict[str, dict[str, Any]] = {}
    for name, row in ROWS.items():
        try:
            value = row.figure(runs)
        except NotMeasuredError:
            judged[name] = {"value": None, "must": row.must, "ok": False}
            continue
        judged[name] = {"must": row.must, **_judged(value, row)}
    return judged


def _judged(value: float | list[float], row: Row) -> dict[str, Any]:
    if isinstance(value, float):
        ok = value >= row.must if row.at_least else value <= row.must
        return {"value": round(value, 3), "ok": ok}
    low, mid, high = quantiles(value * 2 if len(value) == 1 else value, n=4, method="inclusive")
    ok = high >= row.must if row.at_least else low <= row.must
    return {"value": round(mid, 3), "quartiles": [round(low, 3), round(high, 3)], "ok": ok}
