"""`modelmesh simulate`: how well a fleet would serve a load, before there is one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.values.sizes import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelmesh.testing.sizing import Fleet, Policy, Served
    from modelmesh.testing.workload import Workload

PLOTTED = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Of the capacity given: the sizes of fleets that a picture compares."""

SHARES = (50, 95, 99)
"""Percentiles of waiting that are printed."""

MARKED = frozenset({0.25, 0.5, 1.0, 1.5, 2.0})


def simulate(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE",
            help="A CSV file (time_s,model[,size[,load_s]]), or a kind of traffic: zipf, cyclic, scan, shifting, bursting, "
            "mixed; with settings, like zipf:skew=1.1,models=500.",
        ),
    ],
    capacity: Annotated[str, typer.Option("--capacity", help="Memory for models of one instance, like 8GiB.")],
    instances: Annotated[int, typer.Option("--instances", min=1, max=100, help="How many instances.")] = 1,
    policy: Annotated[
        str, typer.Option("--policy", help="adaptive (the default of the product), lru, or both.")
    ] = "both",
    model_size: Annotated[
        str, typer.Option("--model-size", help="Size of models that have none in the file.")
    ] = "512MiB",
    load_speed: Annotated[str, typer.Option("--load-speed", help="Bytes loaded in a second, like 200MiB.")] = "200MiB",
    loading: Annotated[int, typer.Option("--loading", min=1, max=64, help="Models an instance loads at a time.")] = 2,
    requests: Annotated[
        int, typer.Option("--requests", min=1, max=1_000_000, help="Of drawn traffic: how many.")
    ] = 3000,
    rate: Annotated[
        float, typer.Option("--rate", min=0.001, max=10_000, help="Of drawn traffic: requests per second.")
    ] = 2.0,
    seed: Annotated[int, typer.Option("--seed", help="Decides every draw: the same again gives the same again.")] = 1,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the hit ratio over the cache size into this SVG file.")
    ] = None,
    what_helps: Annotated[
        bool,
        typer.Option("--what-helps", help="Also show which of memory, slots and load speed would shorten waits most."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for machines.")] = False,
) -> None:
    """Play a load against a fleet that does not exist, on virtual time: hit ratio, loads, bytes, waiting."""
    from modelmesh.testing.sizing import POLICIES, DoesNotFitError, Fleet
    from modelmesh.testing.workload import WorkloadError

    if policy not in {*POLICIES, "both"}:
        raise typer.BadParameter(f"{policy!r} is not known; it is adaptive, lru or both", param_hint="--policy")
    if plot is not None and plot.suffix != ".svg":
        raise typer.BadParameter(
            f"{plot} would have to be an SVG; give a name that ends with .svg", param_hint="--plot"
        )
    fleet = Fleet(instances, _size(capacity, "--capacity"), loading)
    policies: list[Policy] = [name for name in POLICIES if policy in {name, "both"}]
    try:
        workload = _workload(
            trace,
            requests=requests,
            rate=rate,
            seed=seed,
            model_bytes=_size(model_size, "--model-size"),
            load_speed=_size(load_speed, "--load-speed"),
        )
        served = {name: _serve(workload, fleet, name, seed) for name in policies}
        helped = _what_helps(workload, fleet, policies[0], seed) if what_helps else {}
        if plot is not None:
            _plot(plot, workload, fleet, served, seed)
    except (WorkloadError, DoesNotFitError) as error:
        typer.echo(f"modelmesh simulate: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(_document(workload, fleet, served, helped)))
    else:
        _show(workload, fleet, served, plot, helped)


def _what_helps(workload: "Workload", fleet: "Fleet", policy: "Policy", seed: int) -> dict[str, float]:
    """The mean wait in milliseconds with more of each thing that an operator can add."""
    from modelmesh.testing.sizing import more_of_each

    return {
        what: round(_serve(other, larger, policy, seed).mean_wait_ms, 1)
        for what, (other, larger) in more_of_each(workload, fleet).items()
    }


def _size(text: str, option: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    if size < 1:
        raise typer.BadParameter("it must be at least one byte", param_hint=option)
    return size


def _workload(trace: str, *, requests: int, rate: float, seed: int, model_bytes: int, load_speed: int) -> "Workload":
    from modelmesh.testing.workload import KINDS, Defaults, drawn, read_csv

    defaults = Defaults(model_bytes, load_speed)
    path = Path(trace)
    if trace.partition(":")[0] not in KINDS and (path.exists() or path.suffix == ".csv"):
        return read_csv(path, defaults=defaults)
    return drawn(trace, requests=requests, rate=rate, seed=seed, defaults=defaults)


def _serve(workload: "Workload", fleet: "Fleet", policy: "Policy", seed: int) -> "Served":
    from modelmesh.testing.sizing import serve

    what = f"{policy}, {fleet.instances} x {format_size(fleet.capacity_bytes)}"
    with _progress(what, len(workload.requests)) as progress:
        return serve(workload, fleet, policy=policy, seed=seed, progress=progress)


@contextmanager
def _progress(what: str, total: int) -> "Iterator[Callable[[int], None]]":
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _plot(path: Path, workload: "Workload", fleet: "Fleet", served: "dict[Policy, Served]", seed: int) -> None:
    from modelmesh.cli.chart import ratio_chart
    from modelmesh.testing.sizing import Fleet

    largest = max(workload.sizes.values())
    sizes = {share: round(fleet.capacity_bytes * share) for share in PLOTTED}
    sizes = {share: size for share, size in sizes.items() if size >= largest}
    lines: dict[str, list[tuple[float, float]]] = {}
    for policy, known in served.items():
        lines[policy] = []
        for size in sizes.values():
            other = Fleet(fleet.instances, size, fleet.loading_slots)
            played = known if size == fleet.capacity_bytes else _serve(workload, other, policy, seed)
            lines[policy].append((float(size), played.hit_ratio))
    chart = ratio_chart(
        f"Hit ratio of {workload.name} on {fleet.instances} instance{'s' * (fleet.instances > 1)}",
        lines,
        label="memory of one instance",
        ticks=[(float(size), format_size(size)) for share, size in sizes.items() if share in MARKED],
    )
    try:
        path.write_text(chart)
    except OSError as error:
        typer.echo(f"modelmesh simulate: {path} cannot be written: {error}", err=True)
        raise typer.Exit(1) from error


def _document(
    workload: "Workload", fleet: "Fleet", served: "dict[Policy, Served]", helped: dict[str, float]
) -> dict[str, object]:
    return {
        "trace": workload.name,
        "instances": fleet.instances,
        "capacity_bytes": fleet.capacity_bytes,
        "models": len(workload.sizes),
        "model_bytes": sum(workload.sizes.values()),
        "requests": len(workload.requests),
        "seconds": round(workload.duration_s, 3),
        "policies": {
            policy: {
                "hit_ratio": round(result.hit_ratio, 4),
                "failed": result.failed,
                "loads": result.loads,
                "loads_per_second": round(result.loads / result.duration_s, 4),
                "loaded_bytes": result.loaded_bytes,
                "mean_wait_ms": round(result.mean_wait_ms, 1),
                "slow_wait_ms": round(result.slow_wait_ms, 1),
                **{f"p{share}_wait_ms": result.wait_ms(share / 100) for share in SHARES},
            }
            for policy, result in served.items()
        },
        **({"mean_wait_ms_with_half_as_much_again": helped} if helped else {}),
    }


def _show(
    workload: "Workload", fleet: "Fleet", served: "dict[Policy, Served]", plot: Path | None, helped: dict[str, float]
) -> None:
    total = sum(workload.sizes.values())
    room = fleet.instances * fleet.capacity_bytes
    typer.echo(
        f"{fleet.instances} instances of {format_size(fleet.capacity_bytes)} hold {min(100, room * 100 // total)} % of "
        f"{len(workload.sizes)} models ({format_size(total)}); {len(workload.requests)} requests in "
        f"{workload.duration_s / 60:.1f} minutes\n"
    )
    typer.echo(
        f"{'policy':10}{'hits':>7}{'loads':>8}{'loads/s':>9}{'loaded':>12}{'failed':>8}{'wait, mean':>12}"
        + "".join(f"{f'p{share}':>10}" for share in SHARES)
    )
    for policy, result in served.items():
        typer.echo(
            f"{policy:10}{result.hit_ratio:7.3f}{result.loads:8}{result.loads / result.duration_s:9.3f}"
            f"{format_size(result.loaded_bytes):>12}{result.failed:8}{result.mean_wait_ms / 1000:10.2f} s"
            + "".join(f"{result.wait_ms(share / 100) / 1000:8.2f} s" for share in SHARES)
        )
    typer.echo(
        "\nwaits are over all requests: who finds a ready copy waits nothing; of 100 requests 95 waited no longer than p95"
    )
    if helped:
        mean_ms = next(iter(served.values())).mean_wait_ms
        best = min(helped, key=helped.__getitem__)
        typer.echo("\nwith half as much again of one thing (mean wait):")
        for what, wait_ms in helped.items():
            mark = "  <- helps most" if what == best and wait_ms < mean_ms else ""
            typer.echo(f"  {what:12}{wait_ms / 1000:8.2f} s{mark}")
    if plot is not None:
        typer.echo(f"drawn: {plot}")
