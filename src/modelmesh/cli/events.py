"""`modelmesh events`: what happened with a model, and what happens at an instance now."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.models import LOCAL, Address, AsJson, Authority
from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2


def events(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only events of this model.")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show what happens at the instance from now on, until Ctrl-C.")
    ] = False,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened with a model at all instances, or with --follow what happens at one instance."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    if not follow and not model:
        raise typer.BadParameter("name a MODEL to see what happened with it, or follow an instance with --follow")
    with connect(address, ca) as client:
        if not follow:
            request = pb.ExplainRequest(model_id=model)
            for event in client.call("modelmesh.v1.Admin/Explain", request, pb.ExplainResponse).events:
                _show(event, as_json=as_json)
            return
        try:
            for event in client.stream(
                "modelmesh.v1.Admin/WatchEvents", pb.WatchEventsRequest(model_id=model), pb.Event
            ):
                _show(event, as_json=as_json)
        except KeyboardInterrupt:
            return


def event_line(event: "admin_pb2.Event", *, about: str = "") -> str:
    """One event for people. `about`: the model that is known from what is written before."""
    moment = datetime.fromtimestamp(event.time_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]
    other = f" {event.model_id}" if event.model_id and event.model_id != about else ""
    reason = f" ({event.reason})" if event.reason else ""
    detail = f": {event.detail}" if event.detail else ""
    times = f" [{event.times} times, this is the last]" if event.times > 1 else ""
    return f"{moment} {event.instance_id} {event.kind.replace('_', ' ')}{other}{reason}{detail}{times}"


def _show(event: "admin_pb2.Event", *, as_json: bool) -> None:
    if as_json:
        from modelmesh.cli.client import described

        typer.echo(json.dumps(described(event)))
    else:
        say(event_line(event))
