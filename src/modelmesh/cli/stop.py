"""`modelmesh stop`: stop the instance of an anchor file, as the old container's `stop.sh` did."""

import os
from pathlib import Path
from typing import Annotated

import typer


def stop(
    anchor_file: Annotated[
        Path | None, typer.Option("--anchor-file", help="Its anchor file. Default: MM_ANCHOR_FILE.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
) -> None:
    """Stop the instance on this machine that was started with an anchor file: it moves its models and ends."""
    from modelmesh.instance.anchor import AnchorError, stop_holder
    from modelmesh.instance.main import EXIT_ANCHOR, EXIT_USAGE

    path = anchor_file or (Path(named) if (named := os.environ.get("MM_ANCHOR_FILE")) else None)
    if path is None:
        typer.echo("modelmesh stop: which instance? Give --anchor-file, or set MM_ANCHOR_FILE", err=True)
        raise typer.Exit(EXIT_USAGE)
    try:
        process = stop_holder(path, wait=wait)
    except AnchorError as error:
        typer.echo(f"modelmesh stop: {error}", err=True)
        raise typer.Exit(EXIT_ANCHOR) from error
    typer.echo(f"process {process} {'has stopped' if wait else 'is stopping'}")
