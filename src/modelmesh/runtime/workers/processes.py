"""The processes of models, as a runtime starts them through its fork server. Everything happens on the event loop."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from modelmesh import __version__

_log = logging.getLogger("modelmesh.runtime")

PACKET = 4096
START_S = 60.0
"""How long the fork server may take to import packages and to start a process."""
END_S = 3.0
"""How long a process may take to end by itself."""
LEADING = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})


class Process:
    """A process of a model."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self._server = server
        self.pid = pid
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """How it ended: an exit status, or a signal's number below zero."""

    def kill(self) -> None:
        """End it now."""
        self._server.kill(self.pid)

    async def wait(self) -> int | None:
        """How it has ended; None: it has not, and was killed after a while."""
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self.code), END_S)
        self.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.code), END_S)
        return None


class ForkServer:
    """Starts processes. Its own process is started by the first of them, and again if it has ended.

    Args:
        modules: Imported before a process is forked.
        python: The interpreter of another environment, which has this package installed, too; None: that of this process.
    """

    def __init__(self, modules: Sequence[str], python: Path | None = None) -> None:
        self._modules = tuple(modules)
        self._python = python
        self._popen: subprocess.Popen[bytes] | None = None
        self._commands: socket.socket | None = None
        self._started: deque[asyncio.Future[Process]] = deque()
        self._alive: dict[int, Process] = {}

    def ensure_running(self) -> None:
        """Start its process, if none runs. Returns before it has imported what it has to. Raises OSError."""
        if self._commands is not None:
            return
        loop = asyncio.get_running_loop()
        self._commands, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._commands.setblocking(False)  # noqa: FBT003 - its only argument
        with other:
            command = [
                sys.executable if self._python is None else str(self._python),
                "-m",
                "modelmesh.runtime.workers.forkserver",
                str(other.fileno()),
                __version__,
                *self._modules,
            ]
            try:
                self._popen = subprocess.Popen(  # noqa: S603
                    command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, stdout=2, env=self._variables()
                )
            except OSError:
                self._commands.close()
                self._commands = None
                raise
        loop.add_reader(self._commands, self._hear)

    def _variables(self) -> dict[str, str] | None:
        """Environment variables of its process. What leads to the packages of this one leads away from those of another."""
        if self._python is None:
            return None
        return {name: value for name, value in os.environ.items() if name not in LEADING}

    async def start(self, connection: socket.socket, output: int, reference: str, path: str, threads: int) -> Process:
        """A process that runs `child.main`.

        Args:
            connection: To the new process, its end. The caller closes it, and `output`.
            output: Where it prints.
            reference: Of the format, as `module:Class`.
            path: Of the file.
            threads: Calls at once.

        Raises:
            OSError: It cannot be started.
        """
        self.ensure_running()
        assert self._commands is not None
        started: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        packet = json.dumps({"start": [reference, path, threads]}).encode()
        socket.send_fds(self._commands, [packet], [connection.fileno(), output])
        self._started.append(started)
        try:
            return await asyncio.wait_for(asyncio.shield(started), START_S)
        except TimeoutError:
            self.close()
            raise OSError(f"no process was started within {START_S:.0f} s") from None
        except asyncio.CancelledError:
            started.add_done_callback(_kill_started)
            raise

    def kill(self, pid: int) -> None:
        """End a process, if it has not ended."""
        if pid in self._alive and self._commands is not None:
            with contextlib.suppress(OSError):
                self._commands.send(json.dumps({"kill": pid}).encode())

    def close(self) -> None:
        """End it, and with it the processes that it has started."""
        if self._commands is None or self._popen is None:
            return
        asyncio.get_running_loop().remove_reader(self._commands)
        self._commands.close()
        self._popen.kill()
        self._popen.wait()
        self._commands = self._popen = None
        for started in self._started:
            if not started.done():
                started.set_exception(OSError(self._ended()))
        self._started.clear()
        for process in self._alive.values():
            process.code.set_result(-signal.SIGKILL)
        self._alive.clear()

    def _ended(self) -> str:
        if self._python is None:
            return "the process that forks others has ended"
        return f"{self._python} has ended; is pymodelmesh {__version__} installed for it?"

    def _hear(self) -> None:
        assert self._commands is not None
        try:
            packet = self._commands.recv(PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            _log.error("%s; it is started again by the next load", self._ended())
            self.close()
            return
        answer = json.loads(packet)
        if "started" in answer:
            process = self._alive[answer["started"]] = Process(self, answer["started"])
            started = self._started.popleft()
            if not started.done():
                started.set_result(process)
        elif (ended := self._alive.pop(answer["ended"], None)) is not None:
            ended.code.set_result(answer["code"])


def _kill_started(started: "asyncio.Future[Process]") -> None:
    """This process is not needed any more."""
    if not started.cancelled() and started.exception() is None:
        started.result().kill()
