"""The process of one model: it loads the model, and answers calls until the runtime closes the socket."""

import contextlib
import gc
import importlib
import inspect
import os
import socket
import sys
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from modelmesh.runtime.errors import LoadError
from modelmesh.runtime.workers.frames import (
    HEAD,
    Kind,
    frame,
    read_head,
    read_request,
    write_answer,
    write_error,
    write_loaded,
)

if TYPE_CHECKING:
    from modelmesh.runtime.formats import LoadedFile

LOAD_NICE = 10
"""Added for a load, which computes as much as it can: calls of other models would wait for its turns of milliseconds."""
END_NICE = 19
"""For the end: a model of gigabytes takes long to be freed."""


def main(connection: socket.socket, reference: str, path: str, threads: int) -> None:
    """Load a file and serve it.

    Args:
        connection: To the runtime.
        reference: Of the format, as `module:Class`.
        path: Of the file.
        threads: Calls at once.
    """
    _settle()
    side = _Side(connection)
    try:
        model = _loaded(reference, path)
        side.send(frame(Kind.LOADED, 0, write_loaded(model.signature, getattr(model, "batching", None), own_bytes())))
    except Exception as error:  # noqa: BLE001 - answered
        side.send(frame(Kind.FAILED, 0, write_error(error)))
        return
    except BaseException as error:  # noqa: BLE001 - SystemExit too
        side.send(frame(Kind.FAILED, 0, write_error(LoadError(f"{path}: {type(error).__name__}: {error}"))))
        return
    _Calls(side, model, threads).serve()
    if sys.platform == "linux":
        _set_nice(0, END_NICE)
    with contextlib.suppress(Exception):  # it ends anyway
        model.close()


def _loaded(reference: str, path: str) -> "LoadedFile":
    """The model, loaded in a thread that gives way to calls of other models. Raises what the format raises."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    lower = usual + LOAD_NICE
    gives_way = _may_be_raised_again(usual, lower)

    def load() -> "LoadedFile":
        if gives_way:
            _set_nice(threading.get_native_id(), lower)
        module, _, name = reference.partition(":")
        loaded: LoadedFile = getattr(importlib.import_module(module), name)().load(Path(path))
        gc.collect()
        return loaded

    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
        loaded = pool.submit(load).result()
    if gives_way:
        for task in Path("/proc/self/task").iterdir():
            _set_nice(int(task.name), usual)  # threads that the load has started answer calls now
    return loaded


def _may_be_raised_again(usual: int, lower: int) -> bool:
    """Whether this process may take back a priority that it has given up: it needs CAP_SYS_NICE, or a limit that permits it."""

    def tried() -> bool:
        thread = threading.get_native_id()
        return _set_nice(thread, lower) and _set_nice(thread, usual)

    if sys.platform != "linux":  # elsewhere a priority is not of one thread
        return False
    with ThreadPoolExecutor(1) as pool:  # in a thread that ends with it
        return pool.submit(tried).result()


def _set_nice(thread: int, nice: int) -> bool:
    """Of a thread of this process; 0: the calling one. False: that is not permitted, or it has ended."""
    try:
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    except OSError:
        return False
    return True


def own_bytes() -> int:
    """Memory of this process that no other shares; what the system gets back when it ends."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
        return (
            sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))) * 1024
        )
    return 0


def _settle() -> None:
    """Have the system end this process before its runtime if memory runs out; what a model prints goes out line by line."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # Those that are there were made for other files, which perhaps were no pipes.
    sys.stdout, sys.stderr = (_lines_to(descriptor) for descriptor in (1, 2))


def _lines_to(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


class _Side:
    """This side of the socket. Frames of several threads do not mix."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, whole: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):  # the runtime has gone, and so will this process
            self._connection.sendall(whole)

    def frames(self) -> Iterator[tuple[Kind, int, bytes]]:
        """Until the runtime closes the socket."""
        with self._connection.makefile("rb") as stream:
            while len(head := stream.read(HEAD.size)) == HEAD.size:
                length, kind, call = read_head(head)
                yield kind, call, stream.read(length)


class _Call:
    """A call that waits or runs."""

    def __init__(self) -> None:
        self.running: Future[None] | None = None
        self.given_up = False
        self.wanted = threading.Semaphore(0)
        """Released when its next answer is wanted, or none any more."""


class _Calls:
    """The calls of the model."""

    def __init__(self, side: _Side, model: "LoadedFile", threads: int) -> None:
        self._side = side
        self._model = model
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="infer")
        self._lock = threading.Lock()
        self._calls: dict[int, _Call] = {}

    def serve(self) -> None:
        """Until the runtime closes the socket."""
        for kind, id_, payload in self._side.frames():
            with self._lock:
                if kind is Kind.INFER:
                    call = self._calls[id_] = _Call()
                    call.running = self._pool.submit(self._run, id_, call, payload)
                    continue
                found = self._calls.get(id_)
            if found is None:  # it has ended
                continue
            found.given_up |= kind is Kind.CANCEL
            found.wanted.release()
            if found.given_up and found.running is not None and found.running.cancel():
                self._end(id_, frame(Kind.END, id_))

    def _run(self, id_: int, call: _Call, payload: bytes) -> None:
        try:
            last = self._answer(id_, call, payload)
        except Exception as error:  # noqa: BLE001 - answered
            last = frame(Kind.ERROR, id_, write_error(error))
        except BaseException as error:  # noqa: BLE001 - SystemExit of a call is an error of it
            last = frame(Kind.ERROR, id_, write_error(RuntimeError(f"{type(error).__name__}: {error}")))
        self._end(id_, last)

    def _answer(self, id_: int, call: _Call, payload: bytes) -> bytes:
        """The last frame of a call; those before it are sent."""
        inputs, parameters = read_request(payload)
        found: Any = self._model.infer(inputs, parameters)
        if not inspect.isgenerator(found):
            return frame(Kind.ANSWER, id_, write_answer(found))
        answers: Generator[Any, Any, Any] = found
        with contextlib.closing(answers):
            for one in answers:
                self._side.send(frame(Kind.PART, id_, write_answer(one)))
                call.wanted.acquire()
                if call.given_up:
                    break
        return frame(Kind.END, id_)

    def _end(self, id_: int, last: bytes) -> None:
        with self._lock:
            del self._calls[id_]
        self._side.send(last)
