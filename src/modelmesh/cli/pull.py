"""`modelmesh pull`: model files from anywhere, into the disk cache or a folder."""

import asyncio
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.text import console, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelmesh.storage import Pulled, Report

Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder of the disk cache. Default: MODELMESH_CACHE, or modelmesh/models in the user's cache folder.",
        file_okay=False,
    ),
]
Budget = Annotated[str, typer.Option("--cache-size", help="Bytes that the disk cache may hold.")]


def pull(
    uri: Annotated[
        str,
        typer.Argument(
            help="Where the model is: s3:// gs:// az:// http(s):// hf:// oci:// pvc:// file://, or an absolute path."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Put the files into this folder. Default: they stay in the disk cache.", file_okay=False
        ),
    ] = None,
    cache: Cache = None,
    cache_size: Budget = "20GiB",
    as_json: Annotated[bool, typer.Option("--json", help="Print path, bytes and files as JSON.")] = False,
) -> None:
    """Pull a model's files and print where they are. What the disk cache has is not fetched again."""
    from modelmesh.storage import StorageError
    from modelmesh.values.sizes import parse_size

    try:
        budget_bytes = parse_size(cache_size)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cache-size") from error
    try:
        path, size_bytes, files = asyncio.run(_pull(uri, to, cache, budget_bytes))
    except StorageError as error:
        say(f"modelmesh pull: {error.code.name}: {error}", error=True)
        raise typer.Exit(1) from error
    except OSError as error:
        say(f"modelmesh pull: {error}", error=True)
        raise typer.Exit(1) from error
    if as_json:
        say(json.dumps({"path": str(path), "bytes": size_bytes, "files": files}))
    else:
        say(str(path))


async def _pull(uri: str, to: Path | None, cache: Path | None, budget_bytes: int) -> tuple[Path, int, int]:
    from modelmesh.storage import DiskCache, Places, Puller, default_cache_folder, parse_location

    location = parse_location(uri)
    if to is not None:
        _check_free(to / location.name)
    claims = os.environ.get("PVC_MOUNTS_DIR", "/pvc_mounts")
    # The permissions of the user decide what can be read.
    places = Places(Path(claims), (Path("/"),))
    # A folder on the same file system: the files are moved, not copied.
    folder = to / ".modelmesh-pull" if to is not None else cache or default_cache_folder(os.environ)
    try:
        async with Puller(DiskCache(folder, sys.maxsize if to is not None else budget_bytes), places=places) as puller:
            with _shown(location.text) as report, await puller.pull(location, report) as pulled:
                path = pulled.path
                if to is not None:
                    path = to / location.name
                    await asyncio.to_thread(_put, pulled, path)
                return path, pulled.size_bytes, pulled.files
    finally:
        if to is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists; remove it, or name another folder")


def _put(pulled: "Pulled", path: Path) -> None:
    """Move what was fetched; copy local files, which belong to the user."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_free(path)
    if pulled.plan.folder is None:
        pulled.path.rename(path)
        for file in (path, *path.rglob("*")):
            if file.is_file():
                file.chmod(0o644)
    elif pulled.path.is_dir():
        shutil.copytree(pulled.path, path)
    else:
        shutil.copyfile(pulled.path, path)


@contextmanager
def _shown(what: str) -> "Iterator[Report]":
    """A bar on the terminal; nothing where there is none."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from modelmesh.storage import Progress as Report
    from modelmesh.storage import silent

    if not sys.stderr.isatty():
        yield silent
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(error=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def report(progress: Report) -> None:
            files = f", {progress.files_done} of {progress.files_total} files" if progress.files_total > 1 else ""
            bar.update(
                task,
                description=f"{progress.stage.value}{files}",
                completed=progress.bytes_done,
                total=progress.bytes_total or None,
            )

        yield report
