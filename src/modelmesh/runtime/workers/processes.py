"""The processes of models, as a runtime starts them through its fork server. Everything happens on the event loop."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence

_log = logging.getLogger("modelmesh.runtime")

PACKET = 4096
START_S = 60.0
"""How long the fork server may take to import packages and to start a process."""
END_S = 3.0
"""How long a process may take to end by itself."""


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
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._popen: subprocess.Popen[bytes] | None = None
        self._commands: socket.socket | None = None
        self._started: deque[asyncio.Future[Process]] = deque()
        self._alive: dict[int, Process] = {}

    def ensure_running(self) -> None:
        """Start its process, if none runs. Returns before it has imported what it has to."""
        if self._commands is not None:
            return
        loop = asyncio.get_running_loop()
        self._commands, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._commands.setblocking(False)  # noqa: FBT003 - its only argument
        with other:
            command = [
                sys.executable,
                "-m",
                "modelmesh.runtime.workers.forkserver",
                str(other.fileno()),
                *self._modules,
            ]
            self._popen = subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, stdout=2)  # noqa: S603
        loop.add_reader(self._commands, self._hear)

    async def start(self, connection: socket.socket, reference: str, path: str, threads: int) -> Process:
        """A process that runs `child.main` with these arguments.

        Raises:
            OSError: It cannot be started.
        """
        self.ensure_running()
        assert self._commands is not None
        started: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        packet = json.dumps({"start": [reference, path, threads]}).encode()
        socket.send_fds(self._commands, [packet], [connection.fileno()])
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
                started.set_exception(OSError("the process that forks others has ended"))
        self._started.clear()
        for process in self._alive.values():
            process.code.set_result(-signal.SIGKILL)
        self._alive.clear()

    def _hear(self) -> None:
        assert self._commands is not None
        try:
            packet = self._commands.recv(PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            _log.error("the process that forks those of models has ended; it is started again by the next load")
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
