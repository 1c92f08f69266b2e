"""The `modelmesh` command.

One file per command; this one only names them, and imports nothing heavy, so that `--help` is quick.
"""

import io
import sys
from typing import Annotated

import typer

from modelmesh import __version__
from modelmesh.cli.access import access
from modelmesh.cli.adapter import adapter
from modelmesh.cli.apply import apply
from modelmesh.cli.controller import controller
from modelmesh.cli.events import events
from modelmesh.cli.explain import explain, fits
from modelmesh.cli.infer import infer
from modelmesh.cli.instances import instances, top
from modelmesh.cli.migrate import migrate
from modelmesh.cli.models import models
from modelmesh.cli.pull import pull
from modelmesh.cli.puller import puller
from modelmesh.cli.register_many import register_many
from modelmesh.cli.runtime import runtime
from modelmesh.cli.serve import ServeCommand, serve
from modelmesh.cli.simulate import simulate
from modelmesh.cli.stop import stop
from modelmesh.cli.tenants import tenants
from modelmesh.cli.up import up
from modelmesh.cli.usage import usage
from modelmesh.cli.vmodel_rollouts import rollout
from modelmesh.cli.vmodels import vmodels

app = typer.Typer(
    name="modelmesh",
    help="Serve many models that change often, on few machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(up)
app.command(cls=ServeCommand)(serve)
app.command()(stop)
app.command()(apply)
app.command()(runtime)
app.command()(pull)
app.command()(infer)
app.command()(instances)
app.command()(tenants)
app.command()(usage)
app.command()(top)
app.command()(events)
app.command()(puller)
app.command()(controller)
app.command()(explain)
app.command()(fits)
app.command()(simulate)
app.add_typer(access, name="access")
app.add_typer(adapter, name="adapter")
models.command("register-many")(register_many)
vmodels.command()(rollout)
app.add_typer(migrate, name="migrate")
app.add_typer(models, name="models")
app.add_typer(vmodels, name="vmodels")


def _version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    if value:
        typer.echo(f"modelmesh {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Serve many models that change often, on few machines."""
    del version


def main() -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # ids may have characters that a terminal has not
    app()
    return 0
