"""`modelmesh serve`: one instance, configured by the environment as a ModelMesh container is."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class ServeCommand(TyperCommand):
    """Lists the settings at the end of its help, from their one definition."""

    # Typer bundles its click, whose types are private.
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Called by click when it writes the help."""
        from modelmesh.instance.reference import help_rows

        super().format_epilog(ctx, formatter)
        with formatter.section("Environment"):
            formatter.write_dl(help_rows())


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings as a TOML file; the environment wins over it.")
    ] = None,
    service_name: Annotated[
        str | None, typer.Option("--service-name", help="Name of the cluster (MM_SERVICE_NAME).")
    ] = None,
    instance_id: Annotated[
        str | None, typer.Option("--instance-id", help="Id of this instance (MM_INSTANCE_ID).")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Version of the deployment (SERVICE_VERSION).")
    ] = None,
    probe_port: Annotated[
        str | None, typer.Option("--probe-port", help="Port of /ready and /live, or NONE (MM_PROBE_PORT).")
    ] = None,
    anchor_file: Annotated[
        Path | None, typer.Option("--anchor-file", help="File whose deletion stops the instance (MM_ANCHOR_FILE).")
    ] = None,
) -> None:
    """Run one instance beside its runtime, until SIGTERM. Settings come from the environment."""
    from modelmesh.instance.main import EXIT_USAGE, run
    from modelmesh.instance.settings import SettingsError
    from modelmesh.instance.sources import load_settings, remarks

    try:
        settings = load_settings(
            config=config,
            service_name=service_name,
            instance_id=instance_id,
            version=version,
            probe_port=probe_port,
            anchor_file=anchor_file,
        )
    except SettingsError as error:
        typer.echo(f"modelmesh serve: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    raise typer.Exit(run(settings, remarks()))
