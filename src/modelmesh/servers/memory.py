"""The memory of a process and its children, as the kernel counts it."""

import contextlib
import os
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"
_PAGE = os.sysconf("SC_PAGE_SIZE")


def listening_process(port: int) -> int | None:
    """The process that listens on a TCP port; None: there is none, or it is not ours to see (another container's)."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{words[9]}]")
    if not sockets:
        return None
    for name in _numbers():
        if _has_one_of(name, sockets):
            return _eldest(int(name), sockets)
    return None


def _has_one_of(process: str, sockets: set[str]) -> bool:
    folder = f"/proc/{process}/fd"
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(_target(entry.path) in sockets for entry in entries)
    return False


def _eldest(process: int, sockets: set[str]) -> int:
    """Children may hold a socket that they inherited: the first parent that has it is the server."""
    while (parent := parent_of(process)) is not None and parent > 1 and _has_one_of(str(parent), sockets):
        process = parent
    return process


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - many of them
    except OSError:
        return ""  # closed meanwhile


def _numbers() -> list[str]:
    with os.scandir(_PROC) as entries:
        return [entry.name for entry in entries if entry.name.isdecimal()]


def parent_of(process: int) -> int | None:
    """The parent of a process; None: it has ended."""
    fields = _stat(process)
    return int(fields[1]) if fields else None


def started(process: int) -> int | None:
    """When a process began, in ticks since the machine started: distinguishes it from a later process with the same id."""
    fields = _stat(process)
    return int(fields[19]) if fields else None


def _stat(process: int) -> list[str]:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # a program's name may hold anything, ) too


def command_line(process: int) -> list[bytes]:
    """The words that a process was started with; empty: it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def resident(process: int) -> int | None:
    """Bytes of a process that are in memory; None: it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return None


def descendants(process: int) -> list[int]:
    """The children of a process, and theirs."""
    found, waiting = [], [process]
    while waiting:
        below = _children(waiting.pop())
        found.extend(below)
        waiting.extend(below)
    return found


def _children(process: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                found.extend(map(int, (task / "children").read_text().split()))
    return found


def resident_tree(process: int) -> int | None:
    """Bytes of a process and all below it; None: it has ended."""
    own = resident(process)
    if own is None:
        return None
    return own + sum(resident(child) or 0 for child in descendants(process))


class ServerMemory:
    """The memory of the server that listens on a port.

    Args:
        port: On this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._found: tuple[int, int] | None = None

    def read(self) -> int | None:
        """Bytes of its whole process tree; None: it cannot be seen. Takes some milliseconds."""
        process = self.process()
        return None if process is None else resident_tree(process)

    def process(self) -> int | None:
        """The server's process, looked for again when it has ended."""
        if self._found is not None and started(self._found[0]) == self._found[1]:
            return self._found[0]
        process = listening_process(self._port)
        began = None if process is None else started(process)
        self._found = None if process is None or began is None else (process, began)
        return None if self._found is None else self._found[0]
