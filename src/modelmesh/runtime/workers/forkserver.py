"""A process that forks the processes of models, so that each begins with the packages of its format imported.

`multiprocessing` has a fork server, too. Its processes import the main module of the program, which the authors of runtimes do
not expect: a program without `if __name__ == "__main__"` would start itself again in each.

    python -m modelmesh.runtime.workers.forkserver DESCRIPTOR MODULE…

The descriptor is a socket of packets. Requests are JSON: `{"start": [reference, path, threads]}`, with the descriptor of the
socket of the new process, and `{"kill": pid}`. Answers are JSON: `{"started": pid}`, in the order of the requests, and
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
from collections.abc import Sequence
from typing import Any

from modelmesh.runtime.workers import child

PACKET = 65_536
"""Bytes of the largest request."""
PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Serve until the runtime goes."""
    commands = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runtime
    end_with_parent()
    for module in arguments[1:]:
        with contextlib.suppress(Exception):  # a load that needs it says what is wrong
            importlib.import_module(module)
    gc.freeze()  # memory that is not touched stays shared
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
            packet, descriptors, _, _ = socket.recv_fds(commands, PACKET, 1)
            if not packet:
                return
            request = json.loads(packet)
            if "kill" in request:
                if request["kill"] in alive:
                    os.kill(request["kill"], signal.SIGKILL)
                continue
            pid = os.fork()
            if not pid:
                for descriptor in (woken, wake):
                    os.close(descriptor)
                commands.close()
                _become(socket.socket(fileno=descriptors[0]), request["start"])
            os.close(descriptors[0])
            alive.add(pid)
            _send(commands, {"started": pid})


def end_with_parent() -> None:
    """Have the system end this process when the one that started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _become(connection: socket.socket, start: Sequence[Any]) -> None:
    """Be the process of a model, to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_with_parent()
    code = 1
    try:
        child.main(connection, str(start[0]), str(start[1]), int(start[2]))
        code = 0
    finally:
        # Not by the interpreter's end: it would wait for threads whose calls hang, and go on in the fork server's loop.
        sys.stderr.flush()
        os._exit(code)


def _reap(commands: socket.socket, alive: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            alive.discard(pid)
            _send(commands, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _send(commands: socket.socket, answer: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # the runtime has gone
        commands.send(json.dumps(answer).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
