"""`modelmesh adapter`: our process beside a foreign model server."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from modelmesh.servers.driver import Driver
    from modelmesh.servers.files import Files
    from modelmesh.servers.settings import AdapterSettings

Value = TypeVar("Value")

adapter = typer.Typer(
    help="Run beside a model server, and load, unload and measure its models for the mesh.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Listen = Annotated[
    str | None,
    typer.Option(help="Where to listen: port, host:port or unix:///path. Default: ADAPTER_PORT, 8085, on loopback."),
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--models",
        help="Folder that paths of models on this machine may lie in, again for more. Default: ROOT_MODEL_DIR and"
        " PVC_MOUNTS_DIR; with USE_EMBEDDED_PULLER none.",
        exists=True,
        file_okay=False,
    ),
]


@adapter.command()
def mlserver(listen: Listen = None, models: Models = None) -> None:
    """Run beside MLServer. Settings are the environment of a ServingRuntime's adapter."""
    from modelmesh.servers.mlserver import MLServer
    from modelmesh.servers.settings import Variables

    metrics_port = _checked(lambda: Variables(os.environ).number("MLSERVER_METRICS_PORT", 8082, least=1, most=65535))

    def driver(settings: "AdapterSettings") -> MLServer:
        # The server's container may start at any time, and finds the folder that its own environment names.
        (settings.root / MLServer.folder).mkdir(parents=True, exist_ok=True)
        return MLServer(settings.server_port, metrics_port)

    _serve("mlserver", listen, models, driver)


@adapter.command()
def triton(listen: Listen = None, models: Models = None) -> None:
    """Run beside Triton in explicit model control mode. Settings are the environment of a ServingRuntime's adapter."""
    from modelmesh.servers.triton import Triton

    _serve("triton", listen, models, lambda settings: Triton(settings.server_port))


@adapter.command()
def ovms(listen: Listen = None, models: Models = None) -> None:
    """Run beside OpenVINO Model Server. RUNTIME_PORT is its REST port (8888)."""
    from modelmesh.servers.ovms import RELOAD_S, Ovms
    from modelmesh.servers.settings import Variables

    variables = Variables(os.environ)
    config = Path(variables.text("MODEL_CONFIG_FILE", "/models/model_config_list.json"))
    reload_s = _checked(lambda: variables.seconds("OVMS_RELOAD_TIMEOUT", RELOAD_S))
    _serve("ovms", listen, models, lambda settings: Ovms(settings.server_port, config, reload_s), server_port=8888)


@adapter.command()
def torchserve(listen: Listen = None, models: Models = None) -> None:
    """Run beside TorchServe. RUNTIME_PORT is its gRPC management port (7071)."""
    from modelmesh.servers.settings import Variables
    from modelmesh.servers.torchserve import TorchServe

    variables = Variables(os.environ)
    batch_size = _checked(lambda: variables.number("REQUEST_BATCH_SIZE", 0, least=0, most=2**31 - 1))
    batch_delay_ms = _checked(lambda: variables.number("MAX_BATCH_DELAY_SECS", 0, least=0, most=2**31 - 1))

    def driver(settings: "AdapterSettings") -> TorchServe:
        return TorchServe(
            settings.server_port,
            settings.root / TorchServe.folder,
            workers=max(1, settings.concurrency_limit),
            batch_size=batch_size,
            batch_delay_ms=batch_delay_ms,
        )

    _serve("torchserve", listen, models, driver, server_port=7071, factor=2.75)


def _serve(
    server: str,
    listen: str | None,
    models: list[Path] | None,
    driver: "Callable[[AdapterSettings], Driver]",
    *,
    server_port: int = 8001,
    factor: float = 1.25,
) -> None:
    from modelmesh.servers.adapter import AdapterRuntime
    from modelmesh.servers.epochs import serve_lives, stop_on_signals
    from modelmesh.servers.settings import read_settings
    from modelmesh.servers.sizes_file import SizesFile

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = _checked(lambda: read_settings(os.environ, server_port=server_port, factor=factor))
    # In the disk cache's folder, whose entries are the contents that most of these sizes are of.
    file = SizesFile(settings.cache / f"sizes-{server}.jsonl")
    sizes = file.remembered(settings.factor, settings.default_size_bytes)

    async def main() -> None:
        async with _files(settings, models) as files:

            def life() -> AdapterRuntime:
                return AdapterRuntime(driver(settings), files, settings, sizes)

            await serve_lives(life, listen or f"127.0.0.1:{settings.port}", stop_on_signals())

    try:
        asyncio.run(main())
    except (OSError, ValueError) as error:
        typer.echo(f"modelmesh adapter: {error}", err=True)
        raise typer.Exit(1) from error


def _files(settings: "AdapterSettings", models: list[Path] | None) -> "AbstractAsyncContextManager[Files]":
    folders = tuple(path.absolute() for path in models or ())
    if settings.pulls:
        from modelmesh.servers.pulled_files import pulled_files

        return pulled_files(settings, folders)
    from modelmesh.servers.files import LocalFiles

    return contextlib.nullcontext(LocalFiles(folders or (settings.root, settings.claims)))


def _checked(read: Callable[[], Value]) -> Value:
    from modelmesh.servers.settings import SettingsError

    try:
        return read()
    except SettingsError as error:
        typer.echo(f"modelmesh adapter: {error}", err=True)
        raise typer.Exit(1) from error
