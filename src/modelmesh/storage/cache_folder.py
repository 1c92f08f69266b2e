"""The folder of a disk cache: its layout, its size, and what may be deleted. No waiting here.

entries/<id>/files/…      complete, never changed
entries/<id>/manifest     names and sizes of the files
partial/<id>/…            being pulled, or left by a process that was killed
locks/<id>.use            shared by all who use or pull it; its time of change is the last use
locks/<id>.pull           of the one who pulls
trash/…                   being removed
structure.lock            held while room is made
"""

import errno
import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelmesh.storage.errors import StorageError
from modelmesh.storage.file_locks import FileLock, try_lock
from modelmesh.values.status import Status

_KINDS = ("entries", "partial", "locks", "trash")


@dataclass(frozen=True, slots=True)
class Entry:
    """Complete files. `size_bytes`: their sum. `files`: how many."""

    folder: Path
    size_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in the folder. `held_bytes`: of that, what is in use or being pulled and cannot go."""

    used_bytes: int
    held_bytes: int
    entries: int


class CacheFolder:
    """One folder, shared by any number of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sizes: dict[str, int] = {}

    def make(self) -> None:
        """Make the folders, also after they were removed. Raises OSError."""
        for name in _KINDS:
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def structure(self) -> Path:
        """The lock of those who make room."""
        return self.root / "structure.lock"

    def use_lock(self, content_id: str) -> Path:
        """The lock that keeps files from being removed."""
        return self.root / "locks" / f"{content_id}.use"

    def pull_lock(self, content_id: str) -> Path:
        """The lock of who pulls."""
        return self.root / "locks" / f"{content_id}.pull"

    def partial(self, content_id: str) -> Path:
        """Where a pull writes."""
        return self.root / "partial" / content_id

    def entry(self, content_id: str) -> Entry | None:
        """The complete files, or None if they are not here or not whole."""
        folder = self.root / "entries" / content_id
        try:
            manifest = json.loads((folder / "manifest").read_bytes())
            files = folder / "files"
            for name, size in manifest:
                if os.stat(f"{files}/{name}").st_size != size:  # noqa: PTH116 - a third of the time, 100,000 times
                    return None
        except (OSError, ValueError):
            return None
        return Entry(files, sum(size for _, size in manifest), len(manifest))

    def touch(self, content_id: str) -> None:
        """Note that it was used now. A failure is ignored: the file is then removed earlier."""
        with suppress(OSError):
            os.utime(self.use_lock(content_id))

    def reserved(self, content_id: str) -> int:
        """Bytes kept for a pull."""
        try:
            return int((self.partial(content_id) / "reserved").read_bytes() or b"0")
        except (OSError, ValueError):
            return 0

    def reserve(self, content_id: str, size_bytes: int) -> None:
        """Keep bytes for a pull; the structure's lock is held. Raises OSError."""
        folder = self.partial(content_id)
        folder.mkdir(exist_ok=True)
        _write(folder / "reserved", str(size_bytes).encode())

    def publish(self, content_id: str, expected: Mapping[str, int | None] | None) -> Entry:
        """Make what was pulled complete: from now on it has its final name.

        Args:
            content_id: Of the files.
            expected: Their names, and sizes where they are known; None: all that are there.

        Raises:
            OSError: The disk does not do it, or something was removed.
        """
        partial = self.partial(content_id)
        files = partial / "files"
        found = sorted(_files(files))
        if expected is not None and (
            len(found) != len(expected) or any(expected.get(name, -1) not in {None, size} for name, size in found)
        ):
            raise FileNotFoundError(errno.ENOENT, "files are no longer what was written", str(files))
        _write(partial / "manifest", json.dumps(found).encode())
        (partial / "done").unlink(missing_ok=True)
        shutil.rmtree(partial / "parts", ignore_errors=True)
        for folder in {files, partial, *((files / name).parent for name, _ in found)}:
            sync_folder(folder)
        final = self.root / "entries" / content_id
        if final.exists():  # incomplete, else it would not have been pulled
            self.discard(final)
        partial.rename(final)
        sync_folder(final.parent)
        (final / "reserved").unlink(missing_ok=True)  # until now it counted
        return Entry(final / "files", sum(size for _, size in found), len(found))

    def discard(self, folder: Path) -> Path | None:
        """Take a folder out of sight, at once; `empty_trash` removes it."""
        trash = self.root / "trash" / f"{folder.name}.{secrets.token_hex(4)}"
        try:
            folder.rename(trash)
        except FileNotFoundError:
            return None
        return trash

    def empty_trash(self) -> None:
        """Remove what was discarded, by whomever; may take long."""
        for folder in (self.root / "trash").glob("*"):
            shutil.rmtree(folder, ignore_errors=True)

    def make_room(self, content_id: str, size_bytes: int, budget_bytes: int) -> None:
        """Discard what is not used, the longest unused first, until so many bytes fit; the structure's lock is held.

        Nothing is discarded if that would not be enough.

        Args:
            content_id: What the room is for; what it has reserved already counts.
            size_bytes: Of all its files.
            budget_bytes: Of the whole cache.

        Raises:
            StorageError: RESOURCE_EXHAUSTED: it does not fit beside what is in use, or on the disk.
            OSError: The folder cannot be read.
        """
        others = [(name, size) for name, size in self._standing() if name.name != content_id]
        used = sum(size for _, size in others)
        free = _free_bytes(self.root)
        short = max(used + size_bytes - budget_bytes, size_bytes - self.reserved(content_id) - free)
        if short <= 0:
            return
        victims: list[tuple[Path, FileLock]] = []
        freed = 0
        try:
            for folder, size, lock in self._unused(others):
                victims.append((folder, lock))
                freed += size
                if freed >= short:
                    break
            if freed < short:
                raise StorageError(
                    Status.RESOURCE_EXHAUSTED,
                    f"{size_bytes} bytes do not fit into the disk cache {self.root}: of its budget of {budget_bytes} bytes"
                    f" {used - freed} are held by models that are loaded or being pulled, and the disk has {free} bytes"
                    " free; unload models, or give the cache more",
                )
            for folder, lock in victims:
                self._discard_unused(folder, lock)
        finally:
            for _, lock in victims:
                lock.release()

    def trim(self, keep_bytes: int) -> None:
        """Discard what is not used, the longest unused first, down to so many bytes; the structure's lock is held.

        Raises:
            OSError: The folder cannot be read.
        """
        standing = self._standing()
        used = sum(size for _, size in standing)
        if used <= keep_bytes:
            return
        for folder, size, lock in self._unused(standing):
            self._discard_unused(folder, lock)
            used -= size
            if used <= keep_bytes:
                return

    def usage(self) -> Usage:
        """What is here. Raises OSError."""
        standing = self._standing()
        held = 0
        for folder, size in standing:
            lock = try_lock(self.use_lock(folder.name))
            if lock is None:
                held += size
            else:
                lock.release()
        return Usage(sum(size for _, size in standing), held, len(standing))

    def _unused(self, standing: list[tuple[Path, int]]) -> Iterator[tuple[Path, int, FileLock]]:
        """What is not in use, what may go first before the rest, each with the lock that keeps it so."""
        waiting = deque(sorted(standing, key=self._last_use))
        while waiting:
            folder, size = waiting.popleft()
            lock = try_lock(self.use_lock(folder.name))
            if lock is None:
                continue
            entry = self.root / "entries" / folder.name
            if folder.parent.name == "partial" and entry.exists():  # since it was listed: now it is the one used last
                lock.release()
                waiting.append((entry, size))
            else:
                yield folder, size, lock

    def _discard_unused(self, folder: Path, lock: FileLock) -> None:
        """Discard what is not in use, by `lock`, and its locks."""
        self.discard(folder)
        self._sizes.pop(folder.name, None)
        self.pull_lock(folder.name).unlink(missing_ok=True)
        lock.remove_and_release()

    def _standing(self) -> list[tuple[Path, int]]:
        """Entries and pulls, with what they take.

        Pulls first: one that becomes an entry meanwhile is then seen as a pull, as an entry or as both, and counts once.
        """
        found = {folder.name: (folder, self.reserved(folder.name)) for folder in (self.root / "partial").iterdir()}
        for folder in (self.root / "entries").iterdir():
            if folder.name not in self._sizes:
                with suppress(OSError, ValueError, TypeError):  # removed meanwhile, or damaged
                    manifest = json.loads((folder / "manifest").read_bytes())
                    self._sizes[folder.name] = sum(size for _, size in manifest)
            found[folder.name] = (folder, self._sizes.get(folder.name, 0))
        return list(found.values())

    def _last_use(self, standing: tuple[Path, int]) -> tuple[bool, float]:
        """First what killed processes left incomplete, then the longest unused."""
        folder, _ = standing
        try:
            used_at = self.use_lock(folder.name).stat().st_mtime
        except OSError:
            used_at = 0.0
        return (folder.parent.name != "partial", used_at)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes of all files below a folder; there is nothing else in it."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as found:
            for one in found:
                name = f"{below}{one.name}"
                if one.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                else:
                    yield name, one.stat(follow_symlinks=False).st_size


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
