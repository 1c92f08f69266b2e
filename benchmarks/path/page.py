"""The page of a result: rows, tables and plots."""

from collections.abc import Iterator
from statistics import median, quantiles
from typing import Any

from figures import BUSY, ONE, ONE_MB, ROWS, TEN_KB, Run, Runs, cost, instances_us, pick, runtime_us, us_of, values
from plots import Bar, bars

QUIET_PERCENT = 10
CONTENDERS = ("envoy", "grpc.aio", "mlserver")
"""How names of processes begin that are neither instance nor runtime."""
THROUGH = ("direct", "local", "hop", "TLS", "TLS hop", "envoy", "envoy 2", "envoy bare", "grpc.aio", "mlserver")
"""What the plots show."""


def spread(figures: list[float], digits: int = 0) -> str:
    """Median and range."""
    return f"{median(figures):,.{digits}f} [{min(figures):,.{digits}f}..{max(figures):,.{digits}f}]"


def between_us(run: Run) -> float:
    """CPU per call of what stands between the client and the runtime (or is one itself)."""
    return us_of(run, "instance", *CONTENDERS)


def cpus_used(run: Run) -> float:
    """CPUs that generator, runtime and what is between them used together."""
    per_call_us: float = sum(process["us_per_request"] for process in run["cpu"].values())
    return per_call_us * run["per_second"] / 1e6


def names(runs: Runs, key: str, **which: Any) -> list[str]:
    """Values in the order in which they came, of the runs that have one."""
    return list(dict.fromkeys(run[key] for run in pick(runs, **which) if key in run))


def render(result: dict[str, Any]) -> Iterator[str]:
    """The page, line by line."""
    runs = result["runs"]
    yield from head(result)
    yield from rows(result["rows"])
    yield ""
    yield "![Calls a second](path-rate.svg)"
    yield ""
    yield "![CPU per call](path-cpu.svg)"
    yield ""
    yield from closed_loops(runs, result["environment"]["machine"]["cpus"])
    yield ""
    yield from open_loops(runs)
    yield ""
    yield "![p99 beside disturbances](path-tails.svg)"
    yield ""
    yield "Where the time of a warm call goes: [warm-path.svg](warm-path.svg), a flame graph; how it was made is in"
    yield "[profiling.md](../../docs/development/profiling.md)."
    if result["base"]:
        yield ""
        yield from against_base(result["base"], runs)
    yield ""
    yield "## Contenders"
    yield ""
    for name, settings in result["contenders"].items():
        missing = result["missing"].get(name)
        yield f"- **{name}**: {settings}." + (f" **NOT MEASURED: {missing}**" if missing else "")


def head(result: dict[str, Any]) -> Iterator[str]:
    """What the figures hold for."""
    environment, machine = result["environment"], result["environment"]["machine"]
    foreign = values(result["runs"], "foreign_percent", kind="closed")
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    yield "# The path of a call"
    yield ""
    yield "Rendered from `path.json` by `make bench-path`; not edited by hand."
    yield ""
    yield (
        f"{environment['date']}, commit {environment['commit']}, {machine['cpus']} CPUs"
        f" ({machine['cpu']}), {machine['memory_gib']} GiB, Linux {machine['kernel']}, {versions}. Generator, runtimes,"
        " etcd (data in memory) and all contenders share the machine; no TLS but where it says so; metrics on."
        f" Median [range] of {result['repeats']} interleaved repeats. Other programs used {spread(foreign)} % of the"
        " machine during the closed loops."
    )
    yield ""
    if median(foreign) > QUIET_PERCENT:
        yield "**The machine was not quiet: rates and latencies, tails above all, are mostly those of other programs.**"
        yield ""


def rows(judged: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The rows, each with what it must be. Tails have the quartiles of their repeats."""
    yield "| row | what | value | must | aim | ok |"
    yield "|---|---|---|---|---|---|"
    for name, found in judged.items():
        row = ROWS[name]
        value = "not measured" if found["value"] is None else str(found["value"])
        if "quartiles" in found:
            value += " ({} to {})".format(*found["quartiles"])
        sign = ">=" if row.at_least else "<="
        aim = "" if row.aim is None else f"{sign} {row.aim:g}"
        yield f"| {name} | {row.what} | {value} | {sign} {row.must:g} | {aim} | {'yes' if found['ok'] else '**no**'} |"


def closed_loops(runs: Runs, cpus: int) -> Iterator[str]:
    """A line for each path and shape."""
    yield "Closed loop: as many calls at a time as connections x streams (6 x 11 where three instances are entered)."
    yield "Generator, runtime and what is between them together use *CPUs*: where that is less than the machine has, the rate"
    yield "is bound by how fast processes wake each other, for the calls travel together, and not by what a call costs"
    yield "([who runs when](warm-timeline.svg), `make timeline-path`)."
    if local := pick(runs, path="local", shape=BUSY):
        all_us = median(cpus_used(run) / run["per_second"] * 1e6 for run in local)
        others_us = all_us - median(map(between_us, local))
        yield (
            f"Of the {all_us:.1f} µs that a local call of {BUSY} costs all three, generator and runtime take {others_us:.1f}:"
            f" with every CPU full it would be {1e6 * cpus / all_us:,.0f} calls/s."
        )
    yield ""
    yield "| shape | path | calls/s | p50 µs | p99 µs | CPU µs a call: between | runtime | ratio | CPUs |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for shape in (BUSY, ONE, TEN_KB, ONE_MB):
        for path in names(runs, "path", shape=shape):
            which = {"path": path, "shape": shape}
            found = pick(runs, **which)
            digits = 0 if shape == ONE_MB else 1
            between = spread(list(map(between_us, found)), digits) if path != "direct" else ""
            runtime = spread(list(map(runtime_us, found)), digits) if path != "mlserver" else ""
            ratio = spread([between_us(run) / runtime_us(run) for run in found], 2) if between and runtime else ""
            yield (
                f"| {shape} | {path} | {spread(values(runs, 'per_second', **which))}"
                f" | {spread(values(runs, 'latency_us', 'p50', **which))}"
                f" | {spread(values(runs, 'latency_us', 'p99', **which))} | {between} | {runtime} | {ratio}"
                f" | {median(map(cpus_used, found)):.2f} |"
            )


def open_loops(runs: Runs) -> Iterator[str]:
    """A line for each condition."""
    yield "Open loop: 1,000 warm local calls a second at random times; latency from the time at which a call was due."
    yield "A control (`other`) burns as much CPU in another process as was used beside the calls in the run before it."
    yield ""
    yield "| meanwhile | CPUs used beside | p50 µs | p99 µs | p99.9 µs |"
    yield "|---|---|---|---|---|"
    for condition in names(runs, "condition", kind="open"):
        tails = (spread(values(runs, "latency_us", key, condition=condition)) for key in ("p50", "p99", "p999"))
        used = spread(values(runs, "beside_cpus", condition=condition), 2)
        yield f"| {condition} | {used} | {' | '.join(tails)} |"


def against_base(commit: str, runs: Runs) -> Iterator[str]:
    """This commit beside another."""
    yield f"## Against {commit}"
    yield ""
    yield "CPU of an instance per warm local call. The two commits take turns; of the ratios of all turns the median and the quartiles stand"
    yield "here. Where calls of one reach the runtime in larger batches they cost the runtime less, too, so both ratios are shown."
    yield ""
    yield "| shape | now µs | base µs | now over base | the same, each over its runtime's CPU |"
    yield "|---|---|---|---|---|"
    for shape in names(runs, "shape", kind="pair"):
        now, base = (pick(runs, kind="pair", commit=name, shape=shape) for name in ("now", "base"))
        turns = list(zip(now, base, strict=True))
        plain = quartiles([instances_us(one) / instances_us(other) for one, other in turns])
        over_runtime = quartiles([cost(one) / cost(other) for one, other in turns])
        spent = (spread(list(map(instances_us, found)), 1) for found in (now, base))
        yield f"| {shape} | {' | '.join(spent)} | {plain} | {over_runtime} |"


def quartiles(ratios: list[float]) -> str:
    """Median and quartiles."""
    lower, middle, upper = quantiles(ratios, n=4)
    return f"{middle:.3f} [{lower:.3f}..{upper:.3f}]"


def plots(runs: Runs) -> dict[str, str]:
    """Pictures by the names of their files."""

    def bar(label: str, figures: list[float]) -> Bar:
        return Bar(label, median(figures), min(figures), max(figures))

    paths = [path for path in THROUGH if pick(runs, path=path, shape=BUSY)]
    rates = [bar(path, values(runs, "per_second", path=path, shape=BUSY)) for path in paths]
    costs = [bar(path, list(map(between_us, pick(runs, path=path, shape=BUSY)))) for path in paths if path != "direct"]
    tails = [
        bar(name, values(runs, "latency_us", "p99", condition=name)) for name in names(runs, "condition", kind="open")
    ]
    return {
        "path-rate.svg": bars(f"Calls a second, {BUSY}", "/s", rates),
        "path-cpu.svg": bars(f"CPU per call between client and runtime, {BUSY}", "µs", costs),
        "path-tails.svg": bars("p99 of warm calls at 1,000/s beside disturbances", "µs", tails),
    }
