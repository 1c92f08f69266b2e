"""`modelmesh serve`: one instance, configured by the environment as a ModelMesh container is."""

from typing import Annotated

import typer


def serve(
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
    settings_help: Annotated[
        bool, typer.Option("--settings", help="List all settings and exit.", is_eager=True)
    ] = False,
) -> None:
    """Run one instance beside its runtime, until SIGTERM. Settings come from the environment.

    `modelmesh serve --settings` lists them.
    """
    if settings_help:
        _list_settings()
        return
    from modelmesh.instance.main import EXIT_USAGE, run
    from modelmesh.instance.settings import SettingsError, load_settings

    try:
        settings = load_settings(
            service_name=service_name, instance_id=instance_id, version=version, probe_port=probe_port
        )
    except SettingsError as error:
        typer.echo(f"modelmesh serve: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    raise typer.Exit(run(settings))


def _list_settings() -> None:
    from modelmesh.instance.reference import rows

    for name, old, default, meaning in rows():
        typer.echo(f"{name}  {default.strip('`*')}".rstrip())
        typer.echo(f"    {meaning}" + (f" (Old names: {', '.join(old)}.)" if old else ""))
