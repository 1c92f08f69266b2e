"""Where an adapter gets model files: from a puller in front of it, or from this machine."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from modelmesh.runtime.contract import ModelSource
from modelmesh.runtime.errors import LoadError
from modelmesh.servers.tree import scan
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.storage import Progress


@dataclass(frozen=True, slots=True)
class Brought:
    """A model's files on this machine.

    Attributes:
        path: Of its file or folder, absolute.
        schema: Of its schema file, if it has one.
        size_bytes: Of its files, without the schema; 0: not known.
        content: The same for the same files, independent of the model's id.
    """

    path: Path
    schema: Path | None
    size_bytes: int
    content: str


class Files(Protocol):
    """Pulls the files of models, and releases them."""

    async def bring(self, source: ModelSource, report: "Callable[[Progress], None]") -> Brought:
        """The files of a model. Cancelled or failed, it leaves nothing behind. `report`: called with the progress.

        Raises:
            RuntimeFault: They cannot be had; nothing was loaded.
        """
        ...

    async def drop(self, model_id: str) -> None:
        """A model's files are not needed any more; none is a success."""
        ...

    async def sizes(self, source: ModelSource) -> Mapping[str, int]:
        """The files that a model will have: bytes by path below its folder, one file by its name. Empty: not found out quickly."""
        ...

    async def clear(self) -> None:
        """Forget the files of all models that an earlier process pulled."""
        ...


class LocalFiles:
    """Files that are here already and belong to another owner: a puller in front of the adapter, or the user.

    Args:
        folders: What a path must lie in, links followed. Relative paths begin in the first.
    """

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders

    async def bring(self, source: ModelSource, report: "Callable[[Progress], None]") -> Brought:
        """Find the files. Raises LoadError: the path leaves the folders, or nothing is there."""
        del report
        return await asyncio.to_thread(self._find, source)

    async def drop(self, model_id: str) -> None:
        """They are not ours to remove."""

    async def sizes(self, source: ModelSource) -> Mapping[str, int]:
        """As they are here."""
        found = await asyncio.to_thread(self._find, source)
        tree = await asyncio.to_thread(scan, found.path)
        return {found.path.name: found.size_bytes} if tree.is_file else tree.files

    async def clear(self) -> None:
        """They are not ours to remove."""

    def _find(self, source: ModelSource) -> Brought:
        if not source.path:
            raise LoadError(f"model {source.id!r} has no path; register it with the path of its files")
        path = self._inside(source.path)
        schema_path, told_bytes = read_key(source.key)
        schema = self._inside(schema_path) if schema_path else None
        real = path.resolve()
        size_bytes, newest = _weigh(real)
        return Brought(path, schema, told_bytes or size_bytes, f"{real} {size_bytes} {newest}")

    def _inside(self, text: str) -> Path:
        """The path meant, as it is named; what it links to lies in one of the folders."""
        if "://" in text:
            uri = urlsplit(text)
            if uri.scheme != "file" or uri.netloc not in {"", "localhost"}:
                raise LoadError(
                    f"{text.partition('?')[0]}: only local files are found here; start the adapter with"
                    " USE_EMBEDDED_PULLER=true, or a puller in front of it"
                )
            text = unquote(uri.path)
        if "\0" in text or len(os.fsencode(text)) > 4096:
            raise LoadError(f"{text[:64]!r} is no path")
        path = Path(os.path.normpath(self._folders[0] / text))
        try:
            real = path.resolve(strict=True)
        except FileNotFoundError as error:
            raise LoadError(f"{path}: no such file or folder", status=Status.FAILED_PRECONDITION) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise LoadError(f"{path}: cannot be followed", status=Status.FAILED_PRECONDITION) from error
        if not any(real.is_relative_to(folder.resolve()) for folder in self._folders):
            allowed = ", ".join(map(str, self._folders))
            raise LoadError(f"{path}: lies outside of {allowed}", status=Status.PERMISSION_DENIED)
        return path


def read_key(text: str) -> tuple[str, int]:
    """Schema path (empty: none) and bytes on disk (0: not given) of a model key.

    Raises:
        LoadError: The schema path is no text. A key that is not a JSON object is ignored.
    """
    try:
        key = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return "", 0
    if not isinstance(key, dict):
        return "", 0
    schema, size = key.get("schema_path"), key.get("disk_size_bytes")
    if schema is not None and not isinstance(schema, str):
        raise LoadError("the model key's schema_path must be a text")
    if isinstance(size, int | float) and not isinstance(size, bool) and 0 < size < 2**62:
        return schema or "", int(size)
    return schema or "", 0


def _weigh(path: Path) -> tuple[int, int]:
    """Bytes of all files, and when the newest of them was changed, in ns."""
    about = path.stat()
    if path.is_file():
        return about.st_size, about.st_mtime_ns
    size_bytes, newest = 0, about.st_mtime_ns
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                about = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - many files, and a path is slow to make
            except OSError:
                continue  # the scan of the tree will report the problem
            size_bytes += about.st_size
            newest = max(newest, about.st_mtime_ns)
    return size_bytes, newest
