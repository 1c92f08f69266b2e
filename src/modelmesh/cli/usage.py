"""`modelmesh usage`: what tenants have used of models."""

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.client import connect
from modelmesh.cli.models import LOCAL, Address, AsJson, Authority, table
from modelmesh.values.sizes import format_size

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2

HEADER = ("TENANT", "MODEL", "CALLS", "FAILED", "SECONDS", "BYTES", "LOADS")


def usage(
    model: Annotated[str, typer.Argument(help="Only this model; not given: all.")] = "",
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant; empty: calls without one.")] = None,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """List what each tenant has used of each model at all instances: calls and how long they took, bytes, loads. Each instance counts since it started."""
    from modelmesh._proto import admin_pb2 as pb

    with connect(address, ca) as client:
        request = pb.GetUsageRequest(tenant=tenant, model_id=model)
        found = client.call("modelmesh.v1.Admin/GetUsage", request, pb.GetUsageResponse)
    if as_json:
        typer.echo(json.dumps(_as_json(found)))
        return
    table(HEADER, [_row(one) for one in found.usages])
    for silent in found.silent_instance_ids:
        typer.echo(f"{silent} does not answer: what it counted is missing", err=True)
    latest = max((one.since_ms for one in found.countings), default=0)
    typer.echo(f"{len(found.countings)} instances; the last one started at {_time(latest)}", err=True)


def _row(one: "admin_pb2.Usage") -> tuple[str, ...]:
    return (
        one.tenant or "-",
        one.model_id,
        str(one.calls),
        str(one.failed_calls),
        f"{one.call_ms / 1000:.1f}",
        format_size(one.bytes),
        str(one.loads),
    )


def _as_json(found: "admin_pb2.GetUsageResponse") -> dict[str, object]:
    return {
        "usage": [
            {
                "tenant": one.tenant,
                "model": one.model_id,
                "calls": one.calls,
                "failed_calls": one.failed_calls,
                "call_ms": one.call_ms,
                "bytes": one.bytes,
                "loads": one.loads,
            }
            for one in found.usages
        ],
        "instances": {one.instance_id: one.since_ms for one in found.countings},
        "silent_instances": list(found.silent_instance_ids),
    }


def _time(epoch_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(epoch_ms / 1000))
