"""`modelmesh explain`: why a model is where it is, and what one more load would do."""

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.models import LOCAL, Address, AsJson, Authority, ModelIdArgument
from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2


def explain(
    model: ModelIdArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Also say where one more copy would go now, and what would leave for it.")
    ] = False,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Say where a model is and why, what was considered, what left for it, and what failed until when."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    with connect(address, ca) as client:
        request = pb.ExplainRequest(model_id=model, dry_run=dry_run)
        answer = client.call("modelmesh.v1.Admin/Explain", request, pb.ExplainResponse)
    if as_json:
        from google.protobuf.json_format import MessageToDict

        typer.echo(json.dumps(MessageToDict(answer, preserving_proto_field_name=True)))
        return
    for line in lines(answer, now_s=time.time(), dry_run=dry_run):
        say(line)


def lines(answer: "admin_pb2.ExplainResponse", *, now_s: float, dry_run: bool) -> list[str]:
    """The answer for people."""
    model = answer.model
    known = "measured" if answer.size_is_measured else "the runtime's default, until it has been loaded"
    text = [f"{model.id}: type {model.type}, {answer.size_bytes} bytes ({known})"]
    wanted = []
    if model.minimum_copies:
        wanted.append(f"at least {model.minimum_copies} copies")
    if model.maximum_copies:
        wanted.append(f"at most {model.maximum_copies}")
    if model.pinned:
        wanted.append("pinned")
    if wanted:
        text.append(f"wanted: {', '.join(wanted)}")
    text.append("")
    text.append("instances")
    text += [
        f"  {place.instance_id}: {place.verdict.replace('_', ' ')}{f' ({place.detail})' if place.detail else ''}"
        for place in answer.places
    ]
    text.append("")
    text.append("what happened, oldest first")
    text += [f"  {_event(event, model.id)}" for event in answer.events] or ["  nothing that anybody remembers"]
    if answer.silent_instance_ids:
        text.append(f"  (no answer from {', '.join(answer.silent_instance_ids)})")
    if dry_run:
        text.append("")
        text += _plan(answer.plan, now_s)
    return text


def _event(event: "admin_pb2.Event", model: str) -> str:
    moment = datetime.fromtimestamp(event.time_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]
    other = f" {event.model_id}" if event.model_id != model else ""
    reason = f" ({event.reason})" if event.reason else ""
    detail = f": {event.detail}" if event.detail else ""
    return f"{moment} {event.instance_id} {event.kind.replace('_', ' ')}{other}{reason}{detail}"


def _plan(plan: "admin_pb2.Plan", now_s: float) -> list[str]:
    if not plan.instance_id:
        return [f"one more copy would go nowhere: {plan.refusal}", "  what speaks against each instance is said above"]
    text = [f"one more copy would go to {plan.instance_id} ({plan.reason.replace('_', ' ')})"]
    others = [instance for instance in plan.considered_instance_ids if instance != plan.instance_id]
    if others:
        text.append(f"  as good: {', '.join(others)}")
    if plan.refusal:
        text.append(f"  it would be refused: {plan.refusal}")
    elif plan.evict_bytes:
        text.append(f"  {plan.evict_bytes} bytes would have to go:")
        for victim in plan.victims:
            ago = max(0, round(now_s - victim.last_use_ms / 1000))
            text.append(f"    {victim.model_id}: {victim.size_bytes} bytes, used {ago} s ago ({victim.reason})")
        short = plan.evict_bytes - sum(victim.size_bytes for victim in plan.victims)
        if short > 0:
            text.append(f"    and {short} bytes once copies that are in use now become idle")
    else:
        text.append("  it fits; nothing would leave")
    return text
