"""Locks between processes: `flock` on small files. The system releases them when a process ends, however it ends."""

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_S = 0.05
"""`flock` cannot wait on an event loop, and a thread that waits in it cannot be cancelled."""


class FileLock:
    """A lock that is held. It is released by `release`, by leaving the context, and by the end of the process."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def release(self) -> None:
        """Release it; a second call has no effect."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def remove_and_release(self) -> None:
        """Release an exclusive lock and remove its file: its waiters take a new one."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """The lock, or None if another process or task holds it.

    Raises:
        OSError: The file cannot be made, or the file system has no locks.
    """
    for _ in range(100):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # If the file was removed while we opened it, no other process will see this lock.
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return FileLock(path, fd)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise OSError(errno.EAGAIN, "the lock file is removed again and again", str(path))


async def lock(path: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None) -> FileLock:
    """Wait for the lock. Its holder's end is the bound, and the caller's cancellation.

    Args:
        path: Of the lock's file.
        shared: Others may share it.
        waiting: Called at each try while it is held.

    Raises:
        OSError: As `try_lock`.
    """
    while True:
        found = try_lock(path, shared=shared)
        if found is not None:
            return found
        if waiting is not None:
            waiting()
        await asyncio.sleep(POLL_S)
