"""The files under a model's path: read once, so that layouts are computed without disk access."""

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from modelmesh.runtime.errors import LoadError
from modelmesh.values.status import Status

MAX_ENTRIES = 100_000
MAX_DEPTH = 32
MAX_TEXT_BYTES = 1024 * 1024
"""Of a configuration file that is read whole."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A model's file or folder.

    Attributes:
        path: Absolute.
        is_file: Whether it is one file; then there is nothing else here.
        files: Bytes by path below `path`, with `/`.
        folders: Paths of folders below it. A link to a folder is neither file nor folder to those who choose versions.
        links: Paths of links to folders.
        texts: Contents of the configuration files that were asked for, at the top.
    """

    path: str
    is_file: bool = False
    files: Mapping[str, int] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    texts: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    def entries(self, below: str = "") -> list[str]:
        """Names of what lies directly in a folder, sorted."""
        prefix = f"{below}/" if below else ""
        return sorted(
            path[len(prefix) :]
            for path in (*self.files, *self.folders, *self.links)
            if path.startswith(prefix) and "/" not in path[len(prefix) :]
        )

    def size_bytes(self, below: str = "") -> int:
        """Bytes of the files below a folder of it."""
        prefix = f"{below}/" if below else ""
        return sum(size for path, size in self.files.items() if path.startswith(prefix))

    def at(self, below: str) -> str:
        """The absolute path of something in it."""
        return f"{self.path}/{below}" if below else self.path


def listed(sizes: Mapping[str, int]) -> Tree:
    """As `scan`, of files that are not on this machine: bytes by path below the model's."""
    folders = {str(folder) for path in sizes for folder in PurePosixPath(path).parents if folder.name}
    return Tree("", files=sizes, folders=frozenset(folders))


def scan(path: Path, *, texts: Collection[str] = ()) -> Tree:
    """Read a model's file or folder.

    Args:
        path: Absolute; may itself be a link, as it is in a model's folder that leads into a disk cache.
        texts: Names of configuration files whose contents are wanted, if they lie at the top.

    Raises:
        LoadError: FAILED_PRECONDITION: nothing is there, or it cannot be read. INVALID_ARGUMENT: it is no file or folder,
            has too many entries, is too deep, or has a link that leads out of it.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return Tree(str(path), is_file=True)
        if not stat.S_ISDIR(mode):
            raise LoadError(f"{path}: is neither a file nor a folder")
        return _scan_folder(path, texts)
    except FileNotFoundError as error:
        raise LoadError(f"{error.filename}: no such file", status=Status.FAILED_PRECONDITION) from error
    except OSError as error:
        raise LoadError(f"{error.filename or path}: {error.strerror}", status=Status.FAILED_PRECONDITION) from error


def _scan_folder(root: Path, texts: Collection[str]) -> Tree:
    real = root.resolve()
    files: dict[str, int] = {}
    folders: set[str] = set()
    links: set[str] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        if below.count("/") >= MAX_DEPTH:
            raise LoadError(f"{root / below}: folders are nested deeper than {MAX_DEPTH}")
        with os.scandir(root / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if len(files) + len(folders) + len(links) >= MAX_ENTRIES:
                    raise LoadError(f"{root}: holds more than {MAX_ENTRIES} files and folders")
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(real):
                    raise LoadError(f"{entry.path}: is a link that leads out of the model's folder {root}")
                if entry.is_dir(follow_symlinks=False):
                    folders.add(path)
                    waiting.append(path)
                elif entry.is_dir():
                    links.add(path)
                elif entry.is_file():
                    files[path] = entry.stat().st_size
                else:
                    raise LoadError(f"{entry.path}: is neither a file nor a folder")
    found = {name: _text(root / name) for name in texts if name in files}
    return Tree(str(root), files=files, folders=frozenset(folders), links=frozenset(links), texts=found)


def _text(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_TEXT_BYTES + 1)
    if len(text) > MAX_TEXT_BYTES:
        raise LoadError(f"{path}: is larger than {MAX_TEXT_BYTES} bytes")
    return text
