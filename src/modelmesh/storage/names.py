"""Checks names from outside: of objects, of files in archives, and in model keys. None leaves its folder."""

import posixpath
import re

from modelmesh.storage.errors import StorageError
from modelmesh.values.status import Status

MAX_SEGMENT_BYTES = 255
MAX_NAME_BYTES = 2048
"""Half of what the system takes for a path: the cache's own folder precedes it."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def shown(text: str) -> str:
    """A name in a message: short, on one line, without control characters."""
    safe = _CONTROL.sub("?", text.encode("utf-8", "backslashreplace").decode())
    return safe if len(safe) <= 120 else safe[:120] + "…"


def check_name(name: str, place: str) -> str:
    """A file's name below its location, as it is: segments with `/` between them.

    Raises:
        StorageError: INVALID_ARGUMENT: it would leave the folder, cannot be a file, or is too long. `place` names
            where it came from.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise StorageError(
            Status.INVALID_ARGUMENT, f"{place}: the name {shown(name)} is not UTF-8; rename the file"
        ) from None
    segments = name.split("/")
    if _CONTROL.search(name):
        why = "has control characters"
    elif any(segment in {"", ".", ".."} for segment in segments):
        why = "would leave its folder, or names none"
    elif len(encoded) > MAX_NAME_BYTES or any(len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments):
        why = f"is longer than {MAX_NAME_BYTES} bytes, or a part of it than {MAX_SEGMENT_BYTES}"
    else:
        return name
    raise StorageError(Status.INVALID_ARGUMENT, f"{place}: the name {shown(name)!r} {why}; rename the file")


def clip(path: str) -> str:
    """A path below a root, as if the root were all there is: `..` stops at it, a leading `/` means it.

    Links are not looked at. Source: spec/runtime-adapters.md 3.3.
    """
    return posixpath.normpath("/" + path).lstrip("/")


def base_name(path: str) -> str:
    """The last segment, trailing slashes ignored; empty for a path without one."""
    return path.rstrip("/").rpartition("/")[2]
