"""`modelmesh tenants`: what tenants have registered and loaded, beside their quotas."""

import json
from typing import TYPE_CHECKING

import typer

from modelmesh.cli.models import LOCAL, Address, AsJson, Authority, table
from modelmesh.values.sizes import format_size

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2

HEADER = ("TENANT", "MODELS", "OF", "LOADED", "OF", "CALLS/S", "CALLS AT ONCE")


def tenants(address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False) -> None:
    """List tenants: models registered and memory loaded in the cluster, and their quotas. Quotas of calls are those of each instance."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    with connect(address, ca) as client:
        found = client.call("modelmesh.v1.Admin/ListTenants", pb.ListTenantsRequest(), pb.ListTenantsResponse).tenants
    if as_json:
        typer.echo(json.dumps({"tenants": [_as_json(tenant) for tenant in found]}))
        return
    table(HEADER, [_row(tenant) for tenant in found])


def _row(tenant: "admin_pb2.Tenant") -> tuple[str, ...]:
    return (
        tenant.name,
        str(tenant.models),
        str(tenant.models_limit) if tenant.HasField("models_limit") else "-",
        format_size(tenant.loaded_bytes),
        format_size(tenant.loaded_bytes_limit) if tenant.HasField("loaded_bytes_limit") else "-",
        f"{tenant.calls_per_second_limit:g}" if tenant.HasField("calls_per_second_limit") else "-",
        str(tenant.calls_at_once_limit) if tenant.HasField("calls_at_once_limit") else "-",
    )


def _as_json(tenant: "admin_pb2.Tenant") -> dict[str, object]:
    limits = {field.name: value for field, value in tenant.ListFields() if field.name.endswith("_limit")}
    return {"tenant": tenant.name, "models": tenant.models, "loaded_bytes": tenant.loaded_bytes, **limits}
