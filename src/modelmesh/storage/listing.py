"""The listing of a source: files with size and content tag, checked and limited. Pure."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modelmesh.storage.errors import StorageError
from modelmesh.storage.locations import Location
from modelmesh.storage.names import check_name, shown
from modelmesh.values.status import Status

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one model may be: more is refused before anything is fetched, or when it shows."""

    max_files: int = 100_000
    max_bytes: int = 1024 * GIB
    max_unpacked_ratio: int = 200
    """Bytes of an archive's contents to each of its own; a model's floats seldom shrink below a tenth."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a model, as its source lists it.

    Attributes:
        name: Below the location, `/` between its parts; where the location is one file, that file's own name.
        key: What the source calls it.
        size_bytes: None: not known before the file is read.
        tag: Changes with the content: an entity tag, a digest. Empty: the source has none, so the file is fetched at
            every pull.
        digest: `sha256:…` or `git-sha1:…` of the content, where the source has it; what arrives is compared.
        unpack: The file is an archive whose contents take its place.
        layer_below: Not empty: the archive is a layer of an image, and what lies below this folder counts.
    """

    name: str
    key: str
    size_bytes: int | None
    tag: str
    digest: str = ""
    unpack: bool = False
    layer_below: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull will fetch.

    Attributes:
        location: As asked.
        files: In the order of their names.
        is_file: The location is one file; else it is a folder.
        content_id: Of the contents: the same files with the same tags from the same place have the same. 64 hex digits.
        folder: The files are on this machine already and are used where they are; nothing is fetched.
    """

    location: Location
    files: tuple[SourceFile, ...]
    is_file: bool
    content_id: str
    folder: Path | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes to fetch, of those files whose size is known."""
        return sum(file.size_bytes or 0 for file in self.files)

    @property
    def unpacks(self) -> bool:
        """Whether a file is an archive, so that more bytes come out than are fetched."""
        return any(file.unpack for file in self.files)


def make_plan(
    location: Location,
    files: Iterable[SourceFile],
    *,
    is_file: bool,
    endpoint: str,
    unknown: str,
    limits: Limits,
    folder: Path | None = None,
) -> Plan:
    """Check a listing and give it an identity.

    Args:
        location: What was listed.
        files: As the source lists them, in any order.
        is_file: The location is one file.
        endpoint: Which server of that kind; part of the identity.
        unknown: In place of tags that the source does not have: different for every pull.
        limits: Of one model.
        folder: Where the files are already.

    Raises:
        StorageError: NOT_FOUND: nothing is there. RESOURCE_EXHAUSTED: over a limit. INVALID_ARGUMENT: a name will not
            do, or two files want one place.
    """
    ordered = sorted(files, key=lambda file: file.name)
    if not ordered:
        raise StorageError(Status.NOT_FOUND, f"{location}: no object is there, nor below it; check the path")
    if len(ordered) > limits.max_files:
        raise too_many(location, limits)
    total = sum(file.size_bytes or 0 for file in ordered)
    if total > limits.max_bytes:
        raise StorageError(
            Status.RESOURCE_EXHAUSTED,
            f"{location}: has {total} bytes, more than the {limits.max_bytes} of one model; name a deeper path",
        )
    _check_places(location, ordered)
    identity = [
        location.kind.value,
        endpoint,
        location.place,
        location.path,
        [[file.name, file.size_bytes, file.tag or unknown, file.unpack, file.layer_below] for file in ordered],
    ]
    content_id = hashlib.sha256(json.dumps(identity, ensure_ascii=True).encode()).hexdigest()
    return Plan(location, tuple(ordered), is_file, content_id, folder)


def too_many(location: Location, limits: Limits) -> StorageError:
    """The error for a listing that continues."""
    return StorageError(
        Status.RESOURCE_EXHAUSTED,
        f"{location}: has more than the {limits.max_files} files of one model; name a deeper path, or pack them into one"
        " archive",
    )


def _check_places(location: Location, ordered: list[SourceFile]) -> None:
    """Each file has a place of its own, in folders that are no files."""
    taken: set[str] = set()
    for file in ordered:
        check_name(file.name, location.text)
        if file.name in taken:
            raise StorageError(Status.INVALID_ARGUMENT, f"{location}: has {shown(file.name)!r} twice")
        taken.add(file.name)
        if file.size_bytes is not None and file.size_bytes < 0:
            raise StorageError(Status.INVALID_ARGUMENT, f"{location}: {shown(file.name)!r} has a size below zero")
    for name in taken:
        parent = name.rpartition("/")[0]
        while parent:
            if parent in taken:
                raise StorageError(
                    Status.INVALID_ARGUMENT,
                    f"{location}: {shown(parent)!r} is a file, and the folder of {shown(name)!r}; rename one",
                )
            parent = parent.rpartition("/")[0]
