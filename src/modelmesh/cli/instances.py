"""`modelmesh instances` and `modelmesh top`: the instances of a cluster, and what each holds."""

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.models import LOCAL, Address, AsJson, Authority, table
from modelmesh.cli.text import console, printable
from modelmesh.values.sizes import format_size

if TYPE_CHECKING:
    from rich.table import Table

    from modelmesh._proto import admin_pb2
    from modelmesh.cli.client import Client

SHOWN_MODELS = 20
LOOKED_AT = 1000
"""Models that a picture looks at."""

HEADER = ("INSTANCE", "STATE", "MODELS", "MEMORY", "LOADING", "WAITING", "EXPECTED WAIT")


def instances(address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False) -> None:
    """List the instances of the cluster: their state, memory, loads, and how long a load would wait there."""
    from modelmesh.cli.client import connect, described

    with connect(address, ca) as client:
        found = listed(client)
    if as_json:
        typer.echo(json.dumps({"instances": [described(instance) for instance in found]}))
        return
    table(HEADER, [_row(instance) for instance in found])


def top(
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    address: Address = LOCAL,
    ca: Authority = None,
) -> None:
    """Show the instances and what they hold, again and again, until Ctrl-C."""
    from rich.live import Live

    from modelmesh.cli.client import connect

    shown = console()
    with connect(address, ca) as client:
        if once or not shown.is_terminal:
            shown.print(picture(client))
            return
        with Live(console=shown, auto_refresh=False) as live:
            try:
                while True:
                    live.update(picture(client), refresh=True)
                    time.sleep(interval)
            except KeyboardInterrupt:
                return


def listed(client: "Client") -> "list[admin_pb2.Instance]":
    """The instances, as the one that answers sees them. Raises grpc.RpcError."""
    from modelmesh._proto import admin_pb2 as pb

    request = pb.ListInstancesRequest()
    return list(client.call("modelmesh.v1.Admin/ListInstances", request, pb.ListInstancesResponse).instances)


def picture(client: "Client") -> "Table":
    """Instances with their memory, and the first models of each. Raises grpc.RpcError."""
    from rich.table import Table

    models, _ = client.models(limit=LOOKED_AT)
    drawn = Table(*HEADER, "HOLDS", box=None, pad_edge=False)
    for instance in listed(client):
        held = [model.id for model in models if any(copy.instance_id == instance.id for copy in model.copies)]
        more = f" … (+{len(held) - SHOWN_MODELS})" if len(held) > SHOWN_MODELS else ""
        drawn.add_row(*_row(instance), printable(", ".join(held[:SHOWN_MODELS]) + more))
    return drawn


def _row(instance: "admin_pb2.Instance") -> tuple[str, ...]:
    state = "unreachable" if not instance.reachable else "draining" if instance.draining else "ready"
    return (
        printable(instance.id),
        state,
        str(instance.copies),
        f"{format_size(instance.used_bytes)} of {format_size(instance.capacity_bytes)}",
        str(instance.loads_in_progress - instance.loads_waiting),
        str(instance.loads_waiting),
        f"{instance.expected_wait_ms / 1000:.1f} s" if instance.expected_wait_ms else "-",
    )
