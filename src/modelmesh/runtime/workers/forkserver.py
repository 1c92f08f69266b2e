"""A process that forks the processes of models, so that each begins with the packages of its format imported.

`multiprocessing` has a fork server, too. Its processes import the main module of the program, which the authors of runtimes do
not expect: a program without `if __name__ == "__main__"` would start itself again in each.

    python -m modelmesh.runtime.workers.forkserver DESCRIPTOR VERSION MODULE…

The version is that of the runtime. Another one of this package has perhaps other frames, so it ends at once.

The descriptor is a socket of packets. Requests are JSON: `{"start": [reference, path, threads]}`, with two descriptors, of the
socket of the new process and of a pipe for what it prints, and `{"kill": pid}`. Answers are JSON: `{"started": pid}`, in the order of the requests, and
`{"ended": pid, "code": code}`, where a negative code is that of a signal. It ends when its runtime closes the socket, and the
processes of the models end with it.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from modelmesh import __version__
from modelmesh.runtime.workers import child

PACKET = 65_536
"""Bytes of the largest request."""
PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Serve until the runtime goes."""
    descriptor, version, *modules = arguments
    if version != __version__:
        sys.exit(f"pymodelmesh {__version__} is installed for {sys.executable}, and the runtime is {version}")
    commands = socket.socket(fileno=int(descriptor))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runtime
    end_with_parent()
    for module in modules:
        _import(module)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    alive: set[int] = set()
    while True:
        ready, _, _ = select.select([commands.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, PACKET)
            _reap(commands, alive)
        if commands.fileno() in ready:
            packet, descriptors, _, _ = socket.recv_fds(commands, PACKET, 2)
            if not packet:
                return
            request = json.loads(packet)
            if "kill" not in request:
                _import(request["start"][0].partition(":")[0])
                alive.add(_fork(commands, descriptors, request["start"], (woken, wake)))
            elif request["kill"] in alive:
                _kill_with_all(request["kill"])


def _import(module: str) -> None:
    """Import the module of a format, if it is not there yet, so that processes share it."""
    if module not in sys.modules:
        with contextlib.suppress(Exception):  # a load that needs it says what is wrong
            importlib.import_module(module)
        gc.freeze()  # memory that is not touched stays shared


def _fork(commands: socket.socket, descriptors: Sequence[int], start: Sequence[Any], own: Sequence[int]) -> int:
    """The id of a new process, which has those descriptors and not our own."""
    pid = os.fork()
    if not pid:
        for descriptor in own:
            os.close(descriptor)
        commands.close()
        _become(socket.socket(fileno=descriptors[0]), descriptors[1], start)
    for descriptor in descriptors:
        os.close(descriptor)
    _send(commands, {"started": pid})
    return pid


def end_with_parent() -> None:
    """Have the system end this process when the one that started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _become(connection: socket.socket, output: int, start: Sequence[Any]) -> None:
    """Be the process of a model, to its end."""
    os.setpgid(0, 0)  # with all that the model starts
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_with_parent()
    code = 1
    try:
        child.main(connection, str(start[0]), str(start[1]), int(start[2]))
        code = 0
    except BaseException:  # noqa: BLE001 - a bug of ours: what models raise is answered
        traceback.print_exc()
    finally:
        # Not by the interpreter's end: it would wait for threads whose calls hang, and go on in the fork server's loop.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the model may have closed it
                stream.flush()
        os._exit(code)


def _reap(commands: socket.socket, alive: set[int]) -> None:
    """Tell of the processes that have ended, and end what they have left behind."""
    with contextlib.suppress(ChildProcessError):
        # Its number belongs to no other process before it is waited for.
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            _kill_with_all(found.si_pid)
            pid, status = os.waitpid(found.si_pid, 0)
            alive.discard(pid)
            _send(commands, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _kill_with_all(pid: int) -> None:
    """End a process of a model, and all that it has started."""
    for kill in (os.kill, os.killpg):  # one that was just forked has no group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _send(commands: socket.socket, answer: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # the runtime has gone
        commands.send(json.dumps(answer).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
