"""What `modelmesh up` prints when everything runs: the addresses, and how to call a model."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import typer

from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh.instance.local_cluster import LocalCluster

FIRST_CALL = "inference.GRPCInferenceService/ModelMetadata"
"""Returns a model's inputs and outputs; an empty message is enough."""


def greet(
    cluster: "LocalCluster", commands: Sequence[str], *, header: str, name: str | None, notes: Sequence[str] = ()
) -> None:
    """Print it.

    Args:
        cluster: It runs.
        commands: Lines to try; those of `modelmesh` get the address.
        header: Names the model of a call.
        name: Of a model for the first call; None: there is none to call.
        notes: A word on each instance; none for any.
    """
    typer.echo("")
    for number, instance in enumerate(cluster.instances):
        metrics = f"metrics at port {instance.metrics_port}" if instance.metrics_port else ""
        note = notes[number] if notes else ""
        parts = (f"  {instance.name}", f"grpc://{instance.endpoint}", instance.rest_url, note, metrics)
        typer.echo("  ".join(filter(None, parts)))
    typer.echo(f"  console     {cluster.instances[0].rest_url}/console/")
    typer.echo(f"  logs        {cluster.logs}")
    endpoint = cluster.instances[0].endpoint
    typer.echo("\nTry:")
    for command in commands:
        say(f"  {command} --address {endpoint}" if command.startswith("modelmesh ") else f"  {command}")
    if name is not None:
        typer.echo("by REST, with the name of the model in the path:")
        typer.echo(f"  curl {cluster.instances[0].rest_url}/v2/models/{quote(name, safe='')}")
        typer.echo(f"and with any gRPC client, with the model in the header {header}:")
        typer.echo(f"  grpcurl -plaintext -H {header}:{shlex.quote(name)} {endpoint} {FIRST_CALL}\n")
