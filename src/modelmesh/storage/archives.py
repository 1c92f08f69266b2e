"""Unpack untrusted archives (`.tar`, `.tar.gz` and `.zip`) within limits. Runs in a thread."""

import gzip
import os
import posixpath
import re
import shutil
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelmesh.storage.errors import StorageError
from modelmesh.storage.listing import Limits
from modelmesh.storage.names import check_name, shown
from modelmesh.values.status import Status

MIB = 1024 * 1024
SLACK_BYTES = 64 * MIB
"""What any archive may come to, however small it is."""

MAX_HEADER_BYTES = MIB
"""Of a long name or an extended header; the library reads it into memory."""

MAX_DIRECTORY_BYTES = 64 * MIB
"""Of a zip file's table of contents, which the library reads into memory."""


class Stopped(Exception):  # noqa: N818 - it is no failure
    """The load that needed the files was cancelled."""


@dataclass(slots=True)
class Unpacking:
    """Bounds and progress of all archives of one model.

    Attributes:
        place: Where they come from, in errors.
        limits: Of one model.
        room: Called before bytes beyond what was kept are written, with the sum; raises if there is no room.
        wrote: Called after each piece with its bytes.
        stop: Set when no load needs the files any more.
    """

    place: str
    limits: Limits
    room: Callable[[int], None]
    wrote: Callable[[int], None]
    stop: threading.Event
    bytes_out: int = 0
    files_out: int = 0
    kept: int = 0

    def begin_file(self) -> None:
        """Count a file or folder."""
        self.files_out += 1
        if self.files_out > self.limits.max_files:
            raise StorageError(
                Status.RESOURCE_EXHAUSTED,
                f"{self.place}: the archive has more than {self.limits.max_files} files; pack fewer",
            )

    def take(self, size_bytes: int, bound: int) -> None:
        """Count bytes before they are written."""
        if self.stop.is_set():
            raise Stopped
        self.bytes_out += size_bytes
        if self.bytes_out > bound:
            raise StorageError(
                Status.RESOURCE_EXHAUSTED,
                f"{self.place}: the archive comes to more than {bound} bytes, which no model of its size does; is it a bomb?",
            )
        if self.bytes_out > self.kept:
            self.kept = self.bytes_out + SLACK_BYTES
            self.room(self.kept)


def unpack(archive: Path, name: str, into: Path, work: Unpacking, *, layer_below: str = "") -> None:
    """Unpack an archive over what is in a folder.

    Args:
        archive: The file.
        name: Its name; the kind of archive follows from its suffix, else from its first bytes.
        into: The folder.
        work: Bounds, also of earlier archives.
        layer_below: Not empty: the archive is a layer of an image. What lies below this folder counts, and what it
            says of earlier layers' files.

    Raises:
        StorageError: INVALID_ARGUMENT: it is damaged, or has names or kinds of files that will not do.
            RESOURCE_EXHAUSTED: it comes to too much.
        Stopped: No load needs it any more.
        OSError: The disk does not do it.
    """
    bound = work.bytes_out + archive.stat().st_size * work.limits.max_unpacked_ratio + SLACK_BYTES
    bound = min(bound, work.limits.max_bytes)
    try:
        if name.lower().endswith(".zip"):
            _unzip(archive, into, work, bound)
        else:
            _untar(archive, into, work, bound, layer_below)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, NotImplementedError) as error:
        raise StorageError(
            Status.INVALID_ARGUMENT, f"{work.place}: the archive is damaged ({error}); upload it again"
        ) from None
    except RuntimeError as error:  # zipfile's error for encrypted archives
        raise StorageError(
            Status.INVALID_ARGUMENT, f"{work.place}: the archive cannot be read ({error}); pack it without a password"
        ) from None


class _BoundedHeader(tarfile.TarInfo):
    """A header that does not make the library read gigabytes into memory."""

    _READ_WHOLE = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K"})

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_BoundedHeader":
        """As the library's, with a bound."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in cls._READ_WHOLE and found.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header is too long")
        return found


def _untar(archive: Path, into: Path, work: Unpacking, bound: int, below: str) -> None:
    with archive.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        source: IO[bytes] = gzip.GzipFile(fileobj=raw, mode="rb") if packed else raw  # type: ignore[assignment]
        with tarfile.open(fileobj=source, mode="r|", bufsize=MIB, tarinfo=_BoundedHeader) as found:
            for member in found:
                work.begin_file()
                name = _member_name(_in_layer(member.name, below) if below else member.name, work)
                if not name:
                    continue
                if below and _taken_away(into, name):
                    continue
                if member.isdir():
                    _folder(into, name, work)
                elif member.isreg():
                    content = found.extractfile(member)
                    assert content is not None
                    _write(content, into, name, work, bound)
                elif member.issym() or member.islnk():
                    raise StorageError(
                        Status.INVALID_ARGUMENT,
                        f"{work.place}: {shown(name)!r} in the archive is a link; pack the file that it means",
                    )
                else:
                    raise StorageError(
                        Status.INVALID_ARGUMENT,
                        f"{work.place}: {shown(name)!r} in the archive is no file, but a device; leave it out",
                    )


def _unzip(archive: Path, into: Path, work: Unpacking, bound: int) -> None:
    _check_directory(archive, work)
    with zipfile.ZipFile(archive) as found:
        for member in found.infolist():
            work.begin_file()
            name = _member_name(member.filename, work)
            if not name:
                continue
            kind = member.external_attr >> 28  # of the file's mode, where Unix made the archive
            if member.is_dir():
                _folder(into, name, work)
            elif kind in {0, 0o10}:
                with found.open(member) as content:
                    _write(content, into, name, work, bound)
            else:
                raise StorageError(
                    Status.INVALID_ARGUMENT,
                    f"{work.place}: {shown(name)!r} in the archive is a link or a device; pack the file that it means",
                )


_END = re.compile(rb"PK\x05\x06.{8}(?P<size>.{4}).{4}.{2}", re.DOTALL)
_END_64 = re.compile(rb"PK\x06\x06.{36}(?P<size>.{8})", re.DOTALL)


def _check_directory(archive: Path, work: Unpacking) -> None:
    """Bound the table of contents before the library reads it."""
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 66_000))
        tail = file.read()
    for end in (*_END.finditer(tail), *_END_64.finditer(tail)):
        told = int.from_bytes(end["size"], "little")
        if told > MAX_DIRECTORY_BYTES and (len(end["size"]) == 8 or told != 0xFFFFFFFF):
            raise StorageError(
                Status.RESOURCE_EXHAUSTED,
                f"{work.place}: the archive's table of contents has {told} bytes, too many; store the model unpacked",
            )


def _member_name(name: str, work: Unpacking) -> str:
    """A name in an archive; empty for the archive's own root."""
    plain = "/".join(part for part in name.rstrip("/").split("/") if part != ".")
    if name.startswith("/"):
        raise StorageError(
            Status.INVALID_ARGUMENT,
            f"{work.place}: {shown(name)!r} in the archive is an absolute path; pack relative ones",
        )
    return check_name(plain, f"{work.place}, in the archive") if plain else ""


def _folder(into: Path, name: str, work: Unpacking) -> None:
    try:
        (into / name).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _clash(name, work) from None


def _write(content: IO[bytes], into: Path, name: str, work: Unpacking, bound: int) -> None:
    """One file. A later one of the same name takes its place, as in layers."""
    path = into / name
    if path.is_dir():
        raise _clash(name, work)
    _folder(into, posixpath.dirname(name), work)
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        while piece := content.read(MIB):
            work.take(len(piece), bound)
            file.write(piece)
            work.wrote(len(piece))
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o444)


def _in_layer(name: str, below: str) -> str:
    """A name in an image's layer as seen from a folder of the image; empty: it is elsewhere."""
    plain = "/".join(part for part in name.split("/") if part not in {"", "."})
    if plain == f"{posixpath.dirname(below)}/.wh.{posixpath.basename(below)}".lstrip("/"):
        return ".wh..wh..opq"  # the whole folder was taken away
    return plain[len(below) + 1 :] if plain.startswith(f"{below}/") else ""


def _taken_away(into: Path, name: str) -> bool:
    """Whether a name of a layer deletes files of earlier layers; then they are deleted."""
    parent, _, last = name.rpartition("/")
    if not last.startswith(".wh."):
        return False
    folder = into / parent
    gone = (
        list(folder.iterdir()) if last == ".wh..wh..opq" and folder.is_dir() else [folder / last.removeprefix(".wh.")]
    )
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return True


def _clash(name: str, work: Unpacking) -> StorageError:
    return StorageError(
        Status.INVALID_ARGUMENT,
        f"{work.place}: {shown(name)!r} in the archive is a file and a folder at once; rename one",
    )
