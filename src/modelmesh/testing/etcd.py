"""A real etcd for tests, which can be made to fail in the ways etcds do."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelmesh.instance.local_etcd import LocalEtcd

__all__ = ["FaultyEtcd", "running_etcd"]

_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  # a folder of ours is made inside


class FaultyEtcd(LocalEtcd):
    """An etcd to pause, kill, restart and wipe. Keeps its port through all of it."""

    def pause(self) -> None:
        """Stop the process where it stands: connections stay open and nobody answers."""
        self.signal(signal.SIGSTOP)
        if self.pid is not None:
            # Its threads stop one after another; until the last has, a call may still be answered.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on. It soon notices how late it is, and which leases that has ended."""
        self.signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it runs, and start it with its data."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Kill it if it runs, lose its data, and start it: an empty etcd at the same address."""
        self.kill()
        shutil.rmtree(self.data_folder, ignore_errors=True)
        self.start()


@contextlib.contextmanager
def running_etcd(*, arguments: tuple[str, ...] = ()) -> Iterator[FaultyEtcd]:
    """Start an etcd in a temporary folder, in memory where there is such a thing; nothing is left behind."""
    parent = _MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="modelmesh-etcd-", dir=parent))
    etcd = FaultyEtcd(folder, durable=False, arguments=arguments)
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.kill()
        shutil.rmtree(folder, ignore_errors=True)
