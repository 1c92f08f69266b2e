"""The anchor file: it holds the process id while an instance runs, and deleting it stops the instance.

So a hook that may only run commands in the container can stop it and wait (`modelmesh stop --wait`).
"""

import asyncio
import os
import time
from pathlib import Path

POLL_S = 0.25


class AnchorError(Exception):
    """The anchor file cannot be made, or is not there; the message names it."""


class Anchor:
    """The file of this process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Write our process id; what a predecessor left is overwritten. Raises AnchorError."""
        try:
            self._path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise AnchorError(
                f"cannot write the anchor file {self._path} (MM_ANCHOR_FILE): {error.strerror}; "
                "mount a writable folder there, or name another file"
            ) from error

    async def deleted(self) -> None:
        """Wait until it is deleted."""
        while self._path.exists():  # noqa: ASYNC110 - another process deletes it
            await asyncio.sleep(POLL_S)

    def remove(self) -> None:
        """Delete it, if it is there and ours."""
        try:
            if _holder(self._path) == os.getpid():
                self._path.unlink()
        except (AnchorError, OSError):
            pass  # another process was faster


def stop_holder(path: Path, *, wait: bool) -> int:
    """Delete the anchor file of another process, and wait until that has ended if `wait`; returns its process id.

    Raises:
        AnchorError: There is no such file, or it is no anchor file.
    """
    process = _holder(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise AnchorError(f"cannot delete the anchor file {path}: {error.strerror}") from error
    while wait and _runs(process):
        time.sleep(POLL_S)
    return process


def _holder(path: Path) -> int:
    try:
        text = path.read_text()
    except OSError as error:
        raise AnchorError(
            f"there is no anchor file {path}: no instance was started with it, or that is stopping already"
        ) from error
    if not text.strip().isdecimal():
        raise AnchorError(f"{path} holds no process id; it is no anchor file")
    return int(text)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in {"Z", "X"}
