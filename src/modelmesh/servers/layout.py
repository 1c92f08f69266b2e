"""The layout of a model's files that a server needs: computed as a value, then written in one step."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from modelmesh.servers.schema import Schema
from modelmesh.servers.tree import Tree

WRITING = ".writing-"
"""Leads the name of a folder that is not complete; servers pass over names that begin with a dot."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a layout is made from.

    Attributes:
        model_id: As it is registered.
        format: Lower case; empty if nothing names one.
        tree: The model's files.
        schema: Its inputs and outputs, if it has a schema.
        folder: Absolute path where the layout will stand.
    """

    model_id: str
    format: str
    tree: Tree
    schema: Schema | None
    folder: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The content of a model's folder: links to absolute paths, and files. Names are relative, with `/`."""

    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def write_layout(folder: Path, layout: Layout) -> None:
    """Make the folder hold the layout and nothing else. It appears whole, or not at all.

    Raises:
        OSError: It cannot be written.
    """
    making = folder.with_name(f"{WRITING}{folder.name}")
    remove(making)
    making.mkdir(parents=True)
    try:
        for name, target in layout.links.items():
            place = making / _inside(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)
        for name, content in layout.files.items():
            place = making / _inside(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        remove(folder)
        making.rename(folder)
    except BaseException:
        remove(making)
        raise


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it; of links only the links. Nothing there is a success."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass


def empty(folder: Path) -> None:
    """Make a folder if it is not there, and remove all that is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in list(folder.iterdir()):
        remove(path)


def clipped(path: str) -> str:
    """A relative path inside of a folder, for any text: `..` stops at the folder, `/` begins there."""
    parts: list[str] = []
    for part in PurePosixPath("/", path.lstrip("/")).parts[1:]:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
    return "/".join(parts)


def _inside(name: str) -> str:
    assert clipped(name) == name, name
    return name
