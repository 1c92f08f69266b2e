"""`modelmesh runtime`: the built-in model server as a program."""

import os
from pathlib import Path
from typing import Annotated

import typer

from modelmesh.values.sizes import parse_size

_PANEL = "Limits"
_FILES = "Files from elsewhere"


def _bytes(text: str) -> int:
    """A size option's value as bytes."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def runtime(
    *,
    listen: Annotated[
        str, typer.Option(help="Where to listen: a port, host:port or unix:///path. Port 0 takes a free one.")
    ] = "127.0.0.1:8085",
    models: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the models. Paths outside of it are refused. Files of formats that can run code (all but"
            " ONNX) are loaded from this folder only; without it they are not loaded at all.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            "--trust",
            metavar="PATTERN",
            help="Locations whose files may run code when they are loaded, like s3://bucket/folder/*; again for more."
            " Default: none.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    storage_config: Annotated[
        Path | None,
        typer.Option(
            help="Folder of storage configurations, one JSON file for each storage key.",
            envvar="STORAGE_CONFIG_DIR",
            file_okay=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(
            help="Folder of mounted claims, for pvc://CLAIM/PATH.",
            envvar="PVC_MOUNTS_DIR",
            file_okay=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the disk cache. Default: MODELMESH_CACHE, or modelmesh/models in the user's cache folder.",
            file_okay=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    cache_size: Annotated[
        str, typer.Option(help="Bytes that the disk cache may hold.", rich_help_panel=_FILES)
    ] = "20GiB",
    capacity: Annotated[str, typer.Option(help="Memory for models.", rich_help_panel=_PANEL)] = "512MiB",
    default_size: Annotated[
        str, typer.Option(help="What a model is taken to need if nothing is known of it.", rich_help_panel=_PANEL)
    ] = "1MiB",
    loading_concurrency: Annotated[int, typer.Option(help="Loads at once.", min=1, rich_help_panel=_PANEL)] = 2,
    load_timeout: Annotated[
        float, typer.Option(help="Seconds the mesh waits for a load.", min=0.1, rich_help_panel=_PANEL)
    ] = 60.0,
    max_message: Annotated[
        int,
        typer.Option(
            help="Largest request and answer, in bytes.",
            min=1024,
            max=2**31 - 1,
            envvar="MM_SVC_GRPC_MAX_MSG_SIZE",
            rich_help_panel=_PANEL,
        ),
    ] = 16 * 1024 * 1024,
    threads: Annotated[
        int, typer.Option(help="Inferences at once; 0: one per CPU.", min=0, rich_help_panel=_PANEL)
    ] = 0,
    isolate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT",
            help="Models of this format run in a process each, so that a crash ends one of them only; again for more.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PYTHON",
            help="An environment with packages of its own, by its Python: models of types like sklearn@NAME run in it, in a process"
            " each; again for more.",
        ),
    ] = None,
    batch_rows: Annotated[
        int,
        typer.Option(
            help="Rows of which one call of a model answers several requests; 1: each request alone.",
            min=1,
            rich_help_panel=_PANEL,
        ),
    ] = 1,
    batch_wait: Annotated[
        float,
        typer.Option(
            help="Milliseconds that a request of an idle model waits for others.",
            min=0,
            max=10_000,
            rich_help_panel=_PANEL,
        ),
    ] = 0.0,
) -> None:
    """Serve scikit-learn, ONNX, XGBoost, LightGBM, TorchScript and Python models over the Open Inference Protocol, to a mesh or directly.

    A model's path is a file of this machine, or any location that `modelmesh pull` knows.

    Ends after SIGTERM or Ctrl-C, when running calls have ended.
    """
    capacity_bytes, default_size_bytes = _bytes(capacity), _bytes(default_size)
    cache_bytes = _bytes(cache_size)
    try:
        from modelmesh.runtime.contract import Batching
        from modelmesh.runtime.environments import Environment
        from modelmesh.runtime.pulled import PullingRuntime
        from modelmesh.runtime.server import run
        from modelmesh.storage import ConfigFolder, DiskCache, default_cache_folder

        served = PullingRuntime(
            cache=DiskCache(cache or default_cache_folder(os.environ), cache_bytes),
            configs=None if storage_config is None else ConfigFolder(storage_config),
            trusted=trust or (),
            claims=claims,
            models=models,
            capacity_bytes=capacity_bytes,
            default_size_bytes=default_size_bytes,
            loading_concurrency=loading_concurrency,
            load_timeout_ms=int(load_timeout * 1000),
            isolated=isolate or (),
            environments=[Environment.parse(text) for text in environment or ()],
            isolated_threads=threads or os.cpu_count() or 1,
            batching=Batching(batch_rows, batch_wait) if batch_rows > 1 else None,
        )
        run(served, listen=listen, inference_threads=threads or None, max_message_bytes=max_message)
    except ModuleNotFoundError as error:
        typer.echo(f"The built-in runtime needs {error.name}: pip install pymodelmesh[runtime]", err=True)
        raise typer.Exit(1) from error
    except (OSError, ValueError) as error:
        typer.echo(f"{error}", err=True)
        raise typer.Exit(1) from error
