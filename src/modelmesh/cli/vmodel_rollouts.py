"""`modelmesh vmodels rollout`: give a model more of a vmodel's calls step by step."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.models import LOCAL, Address, AsJson, Authority
from modelmesh.cli.text import say, word_of

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2

STEPS = "5,25,50"
START_TIMEOUT_S = 300.0


def rollout(
    vmodel: Annotated[str, typer.Argument(metavar="VMODEL", help="The stable name.")],
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="The model that gets the calls.")] = "",
    steps: Annotated[
        str, typer.Option("--steps", help="Percents of the calls that it gets, one after the other.")
    ] = STEPS,
    calls: Annotated[
        int, typer.Option("--calls", min=1, help="Calls of each model that are compared in a step.")
    ] = 500,
    seconds: Annotated[int, typer.Option("--seconds", min=0, help="How long a step takes at least.")] = 300,
    errors: Annotated[
        float,
        typer.Option("--errors", min=0, max=100, help="More errors than those of the active model, per 100 calls."),
    ] = 1.0,
    slower: Annotated[
        int, typer.Option("--slower", min=0, help="How much longer than the active model it may take, in percent.")
    ] = 20,
    end: Annotated[bool, typer.Option("--end", help="End it: the model gets no calls any more.")] = False,
    owner: Annotated[str, typer.Option("--owner", help="Refuse if it belongs to another owner.")] = "",
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Give a model more of a vmodel's calls step by step, and in the end all; one with more errors or longer times gets none any more."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    if bool(model) is end:
        raise typer.BadParameter("name MODEL, or --end")
    request = pb.SetRolloutRequest(vmodel_id=vmodel, owner=owner)
    if model:
        plan = pb.Rollout(
            model_id=model,
            steps=_percents(steps),
            minimum_calls=calls,
            minimum_ms=1000 * seconds,
            error_hundredths=round(100 * errors),
            slower_percent=slower,
        )
        request.plan.CopyFrom(plan)
    with connect(address, ca) as client:
        answer = client.call(
            "modelmesh.v1.Admin/SetRollout", request, pb.VModel, timeout_s=START_TIMEOUT_S, doing=f"loading {model}"
        )
    if as_json:
        typer.echo(json.dumps({"vmodel": vmodel, "rollout": rollout_as_json(answer) if model else None}))
    elif model:
        say(f"{vmodel}: {answer.rollout.steps[0]} % to {model}, then {_rest(answer.rollout)}")
    else:
        say(f"{vmodel}: no rollout")


def print_rollout(entry: "admin_pb2.VModel", counts: "admin_pb2.CountVModelResponse") -> None:
    """As lines below the status of the vmodel."""
    from modelmesh._proto import admin_pb2 as pb

    plan = entry.rollout
    if plan.state != pb.Rollout.RUNNING:
        say(f"  rollout of {plan.model_id}: {word_of(pb.Rollout.State, plan.state).lower()}: {plan.why}")
        return
    say(
        f"  rollout of {plan.model_id}: step {plan.step + 1} of {len(plan.steps)}, {plan.steps[plan.step]} % of the calls"
    )
    for one in counts.models:
        say(f"    {one.model_id}: {one.calls} calls, {one.failed} failed, 95 % within {one.p95_us / 1000:.3g} ms")
    say(f"    {counts.verdict}")


def rollout_as_json(vmodel: "admin_pb2.VModel") -> dict[str, object] | None:
    """The same, as a field of the vmodel; None: it has none."""
    from modelmesh._proto import admin_pb2 as pb

    if not vmodel.HasField("rollout"):
        return None
    plan = vmodel.rollout
    return {
        "model": plan.model_id,
        "steps": list(plan.steps),
        "calls": plan.minimum_calls,
        "seconds": plan.minimum_ms / 1000,
        "errors": plan.error_hundredths / 100,
        "slower": plan.slower_percent,
        "step": plan.step,
        "since_ms": plan.since_ms,
        "state": word_of(pb.Rollout.State, plan.state),
        "why": plan.why,
    }


def _percents(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 99 for word in words):
        raise typer.BadParameter(f"{text!r} is not a list of percents from 1 to 99, such as {STEPS}")
    return [int(word) for word in words]


def _rest(plan: "admin_pb2.Rollout") -> str:
    return ", ".join([*(f"{percent} %" for percent in plan.steps[1:]), "all"])
