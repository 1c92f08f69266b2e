"""`modelmesh explain`: why a model is where it is, and what one more load would do."""

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.events import event_line
from modelmesh.cli.models import LOCAL, Address, AsJson, Authority, ModelIdArgument
from modelmesh.cli.text import say
from modelmesh.values.sizes import format_size

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2


SIZE_SOURCES = {
    "measured": "measured at an earlier load",
    "predicted": "predicted by the runtime",
    "elsewhere": "as another instance has it",
    "type_mean": "the mean of models of its type, until it has been loaded",
    "default": "the runtime's default, until it has been loaded",
}


def explain(
    model: ModelIdArgument,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Also show where one more copy would be loaded now, and what would be evicted for it."
        ),
    ] = False,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Show where a model is and why, what was considered, what was evicted for it, and its failures and until when they count."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect, described

    with connect(address, ca) as client:
        request = pb.ExplainRequest(model_id=model, dry_run=dry_run)
        answer = client.call("modelmesh.v1.Admin/Explain", request, pb.ExplainResponse)
    if as_json:
        typer.echo(json.dumps(described(answer)))
        return
    for line in lines(answer, now_s=time.time(), dry_run=dry_run):
        say(line)


def lines(answer: "admin_pb2.ExplainResponse", *, now_s: float, dry_run: bool) -> list[str]:
    """The answer for people."""
    model = answer.model
    text = [f"{answer.vmodel_id} is a vmodel; calls go to the model {model.id}", ""] if answer.vmodel_id else []
    known = SIZE_SOURCES.get(answer.size_source, answer.size_source)
    text.append(f"{model.id}: type {model.type}, {format_size(answer.size_bytes)} ({known})")
    wanted = []
    if model.minimum_copies:
        wanted.append(f"at least {model.minimum_copies} copies")
    if model.maximum_copies:
        wanted.append(f"at most {model.maximum_copies}")
    if model.pinned:
        wanted.append("pinned")
    if wanted:
        text.append(f"wanted: {', '.join(wanted)}")
    text += ["", *_places(answer.places), ""]
    text.append("what happened, oldest first")
    text += [f"  {event_line(event, about=model.id)}" for event in answer.events] or [
        "  no instance has recent events of it"
    ]
    if answer.silent_instance_ids:
        text.append(f"  (no answer from {', '.join(answer.silent_instance_ids)})")
    if dry_run:
        text.append("")
        text += _plan(answer.plan, now_s)
    return text


def fits(
    size: Annotated[str, typer.Option("--size", help="Size of the model when it is loaded, like 1GiB.")],
    model_type: Annotated[str, typer.Option("--type", help="Its type, as the runtime knows it.")] = "",
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Show where a model of a size would be loaded now, and what would be evicted for it; exit status 1: nowhere."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect, described
    from modelmesh.values.sizes import parse_size

    try:
        request = pb.FitRequest(size_bytes=parse_size(size), type=model_type)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from error
    with connect(address, ca) as client:
        answer = client.call("modelmesh.v1.Admin/Fit", request, pb.FitResponse)
    if as_json:
        typer.echo(json.dumps(described(answer)))
    else:
        for line in [*_places(answer.places), "", *_plan(answer.plan, time.time())]:
            say(line)
    if answer.plan.refusal:
        raise typer.Exit(1)


def _places(places: "Iterable[admin_pb2.Place]") -> list[str]:
    return [
        "instances",
        *(
            f"  {place.instance_id}: {place.verdict.replace('_', ' ')}{f' ({place.detail})' if place.detail else ''}"
            for place in places
        ),
    ]


def _plan(plan: "admin_pb2.Plan", now_s: float) -> list[str]:
    if not plan.instance_id:
        return [f"no instance can load one more copy: {plan.refusal}", "  the reason of each instance is shown above"]
    text = [f"one more copy would go to {plan.instance_id} ({plan.reason.replace('_', ' ')})"]
    others = [instance for instance in plan.considered_instance_ids if instance != plan.instance_id]
    if others:
        text.append(f"  as good: {', '.join(others)}")
    if plan.refusal:
        text.append(f"  it would be refused: {plan.refusal}")
    elif plan.evict_bytes:
        text.append(f"  {format_size(plan.evict_bytes)} would have to go:")
        for victim in plan.victims:
            ago = max(0, round(now_s - victim.last_use_ms / 1000))
            text.append(f"    {victim.model_id}: {format_size(victim.size_bytes)}, used {ago} s ago ({victim.reason})")
        short = plan.evict_bytes - sum(victim.size_bytes for victim in plan.victims)
        if short > 0:
            text.append(f"    and {format_size(short)} once copies that are in use now become idle")
    else:
        text.append("  it fits; nothing would leave")
    return text
