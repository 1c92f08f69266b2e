"""Files that are already on this machine: folders that the operator named, and mounted claims."""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from modelmesh.storage.errors import StorageError, of_os_error
from modelmesh.storage.listing import Limits, Plan, SourceFile, make_plan, too_many
from modelmesh.storage.locations import Kind, Location
from modelmesh.storage.names import shown
from modelmesh.values.status import Status


class FolderSource:
    """A file or folder that is used where it is: nothing is copied, and nothing fetched.

    Links are followed as long as they stay below the roots: the folder of a claim, or the folders that were named.

    Args:
        location: Of kind PVC or FILE.
        claims: Folder of mounted claims, one folder for each; None: this place has none.
        folders: What `file` locations may be in.

    Raises:
        StorageError: PERMISSION_DENIED: outside of what was named. FAILED_PRECONDITION: there are no claims here.
    """

    ranged = True

    def __init__(self, location: Location, *, claims: Path | None, folders: Sequence[Path]) -> None:
        self._location = location
        if location.kind is Kind.PVC:
            if claims is None or not (claims / location.place).is_dir():
                raise StorageError(
                    Status.FAILED_PRECONDITION,
                    f"{location}: the claim is not mounted here ({claims}/{location.place}); mount it in this pod",
                )
            self._roots: tuple[Path, ...] = ((claims / location.place).resolve(),)
            self._path = claims / location.place / location.path
        else:
            self._roots = tuple(folder.resolve() for folder in folders)
            self._path = Path(location.path)

    async def plan(self, limits: Limits, unknown: str) -> Plan:
        """What is there, each file and link looked at."""
        try:
            return await asyncio.to_thread(self._plan, limits, unknown)
        except FileNotFoundError:
            raise StorageError(
                Status.NOT_FOUND, f"{self._location}: there is no such file or folder; check the path"
            ) from None
        except OSError as error:
            raise of_os_error(error, str(self._location)) from None

    async def read(self, file: SourceFile, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """Read a file; for those who copy."""
        with self._path.open("rb") if self._path.is_file() else (self._path / file.name).open("rb") as content:
            content.seek(start)
            left = (end if end is not None else os.fstat(content.fileno()).st_size) - start
            while left > 0 and (piece := content.read(min(left, 1 << 20))):
                left -= len(piece)
                yield piece

    async def close(self) -> None:
        """Nothing is open."""

    def _plan(self, limits: Limits, unknown: str) -> Plan:
        self._inside(self._path)
        found = self._path.stat()
        if stat.S_ISREG(found.st_mode):
            name = self._location.name
            files = [SourceFile(name, str(self._path), found.st_size, _tag(found), unpack=self._location.unpack)]
        elif stat.S_ISDIR(found.st_mode):
            files = self._below(limits)
        else:
            raise StorageError(Status.INVALID_ARGUMENT, f"{self._location}: is neither a file nor a folder; name one")
        return make_plan(
            self._location,
            files,
            is_file=stat.S_ISREG(found.st_mode),
            endpoint=hashlib.sha256(str(self._roots).encode()).hexdigest() if self._location.kind is Kind.PVC else "",
            unknown=unknown,
            limits=limits,
            folder=None if self._location.unpack else self._path,
        )

    def _below(self, limits: Limits) -> list[SourceFile]:
        files: list[SourceFile] = []
        seen = {self._path.resolve()}
        waiting = [""]
        while waiting:
            below = waiting.pop()
            with os.scandir(self._path / below) as found:
                for one in found:
                    self._look(f"{below}{one.name}", one, waiting, seen, files)
                    if len(files) > limits.max_files:
                        raise too_many(self._location, limits)
        return files

    def _look(
        self, name: str, one: "os.DirEntry[str]", waiting: list[str], seen: set[Path], files: list[SourceFile]
    ) -> None:
        """One name of a folder: a file, or a folder to look into, once however many links lead to it."""
        path = self._path / name
        if one.is_symlink():
            self._inside(path)
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            files.append(SourceFile(name, str(path), found.st_size, _tag(found)))
        elif not stat.S_ISDIR(found.st_mode):
            raise StorageError(
                Status.INVALID_ARGUMENT, f"{self._location}: {shown(name)!r} is neither a file nor a folder; remove it"
            )
        elif (real := path.resolve()) not in seen:
            seen.add(real)
            waiting.append(f"{name}/")

    def _inside(self, path: Path) -> None:
        """The place that a path leads to is one that was named."""
        try:
            real = path.resolve(strict=True)
        except RuntimeError:  # links in a circle, before Python 3.13
            raise StorageError(Status.INVALID_ARGUMENT, f"{self._location}: has a link to itself; remove it") from None
        if any(real.is_relative_to(root) for root in self._roots):
            return
        if self._location.kind is Kind.PVC:
            raise StorageError(
                Status.PERMISSION_DENIED,
                f"{self._location}: has a link that leads out of the claim; copy the file there",
            )
        raise StorageError(
            Status.PERMISSION_DENIED,
            f"{self._location}: lies, or has a link that leads, outside of the folders that the operator named"
            f" ({', '.join(map(str, self._roots)) or 'none'}); move it there, or have its folder named",
        )


def _tag(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns:x}-{found.st_ino:x}"
