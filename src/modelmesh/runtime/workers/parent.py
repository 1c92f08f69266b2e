"""What a runtime knows of the processes of its models: it starts them, hands calls to them, and ends them.

Everything happens on the event loop, but for `IsolatedModel.close`.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelmesh.runtime.contract import Batching, ModelSignature
from modelmesh.runtime.errors import LoadError, ModelNotLoadedError, RuntimeFault
from modelmesh.runtime.workers.frames import (
    HEAD,
    BadFrameError,
    Kind,
    frame,
    read_answer,
    read_error,
    read_head,
    read_loaded,
    write_request,
)
from modelmesh.runtime.workers.memory import LOOK_S, may_grow_bytes, taken_bytes, takes_too_much
from modelmesh.runtime.workers.output import Output
from modelmesh.runtime.workers.processes import ForkServer, Process
from modelmesh.runtime.workers.restarts import hangs, starts_again_in_s
from modelmesh.values.exit_codes import how_it_ended
from modelmesh.values.sizes import format_size
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Outputs, Tensor

_log = logging.getLogger("modelmesh.runtime")

HUNG_S = 10.0
LATE_S = 0.1
"""Later than that it is looked whether a process hangs: clocks are read one after the other."""
HELD_S = 2.0
"""Calls wait for a start that comes within this time."""
CLOSE_S = 20.0
"""How long the end of a model may take: longer than a process has to end."""
REMEMBERED_ENDS = 16

HasEnded = Callable[[str | None], None]
"""Called when a process ends by itself: at once with None, then with how it ended."""
Frames = asyncio.Queue["tuple[Kind, bytes] | RuntimeFault"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the processes of models.

    Attributes:
        threads: Calls that one model answers at once.
        load_s: How long a process that is started again may take to load. The first load is bounded by who asks for it.
        load_bytes: What a process may take while it loads.
        growth_bytes: What all processes together may take beyond what each took after its load.
        hung_s: How long calls may run on that their callers gave up, before the process is ended.
        look_s: How often the memory of a process is looked at.
    """

    threads: int
    load_s: float
    load_bytes: int
    growth_bytes: int
    hung_s: float = HUNG_S
    look_s: float = LOOK_S

    @classmethod
    def of(cls, threads: int, load_s: float, *, capacity_bytes: int, machine_bytes: int) -> "Limits":
        """Those of a runtime with so much memory for models, on a machine with so much memory."""
        growth_bytes = may_grow_bytes(capacity_bytes, machine_bytes)
        return cls(threads, load_s, load_bytes=capacity_bytes + growth_bytes, growth_bytes=growth_bytes)


@dataclass(frozen=True, slots=True)
class Origin:
    """What the process of a model is made of.

    Attributes:
        reference: Of the format, as `module:Class`.
        path: Of the file.
        environment: In which it runs; empty: that of this process.
    """

    reference: str
    path: Path
    environment: str = ""


class Workers:
    """Loads models in processes of their own.

    Args:
        servers: What starts the processes, by the name of the environment.
        limits: Of each process.
    """

    def __init__(self, servers: Mapping[str, ForkServer], limits: Limits) -> None:
        self._servers = servers
        self.limits = limits
        self._loaded: set[Worker] = set()

    async def load(self, model: str, origin: Origin) -> "IsolatedModel":
        """Load a file in a process of its own. Given up, the process is ended. `model`: its id, for messages.

        Raises:
            LoadError: As the format's `load`. INTERNAL: the process ended while it loaded.
        """
        isolated = IsolatedModel(self, model, origin)
        await isolated.load()
        return isolated

    async def start(self, model: str, origin: Origin, has_ended: HasEnded) -> "Worker":
        """A process that has loaded the file. Raises as `load`."""
        try:
            process, own, output = await self._forked(model, origin)
        except OSError as error:
            raise LoadError(f"no process for model {model}: {error}", status=Status.INTERNAL) from error
        worker = Worker(model, process, await asyncio.open_unix_connection(sock=own), output, self, has_ended)
        try:
            await worker.loaded()
        except BaseException:
            process.kill()  # what it loads is not wanted any more
            await worker.end()
            raise
        self._loaded.add(worker)
        return worker

    async def _forked(self, model: str, origin: Origin) -> tuple[Process, socket.socket, Output]:
        """A process, the socket to it, and what it prints. Raises OSError."""
        server = self._servers[origin.environment]
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as given:
            own, other = socket.socketpair()
            kept.callback(own.close)
            given.callback(other.close)
            printed, output = os.pipe()
            kept.callback(os.close, printed)
            given.callback(os.close, output)
            process = await server.start(other, output, origin.reference, str(origin.path), self.limits.threads)
            kept.pop_all()
        return process, own, Output(model, printed)

    def has_grown(self) -> None:
        """A process has grown: end one, if all together take too much."""
        most_bytes = self.limits.growth_bytes
        worker = takes_too_much({worker: worker.grown_bytes for worker in self._loaded}, most_bytes)
        if worker is not None:
            worker.kill(
                f"was ended: it had grown by {format_size(worker.grown_bytes)} since its load, and all processes together"
                f" may grow by {format_size(most_bytes)}"
            )

    def forget(self, worker: "Worker") -> None:
        """Its process has ended."""
        self._loaded.discard(worker)


class Worker:
    """The process of a model."""

    def __init__(
        self,
        model: str,
        process: Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        output: Output,
        workers: Workers,
        has_ended: HasEnded,
    ) -> None:
        self.signature = ModelSignature()
        self.batching: Batching | None = None
        self.size_bytes = 0
        self.grown_bytes = 0
        """What it takes beyond what it took after the load."""
        self._model = model
        self._process = process
        self._reader, self._writer = streams
        self._output = output
        self._workers = workers
        self._limits = workers.limits
        self._has_ended = has_ended
        self._why: str | None = None
        """How it has ended."""
        self._killed: str | None = None
        """What is said of it if this side has ended it."""
        self._ids = itertools.count(1)
        self._calls: dict[int, Frames] = {}
        self._given_up: dict[int, float] = {}
        self._reading: asyncio.Task[None] | None = None
        self._began_with_bytes = taken_bytes(process.pid)
        self._looking = asyncio.get_running_loop().call_later(self._limits.look_s, self._look_at_memory)

    async def loaded(self) -> None:
        """Wait until the model is there. Raises LoadError."""
        try:
            kind, _, payload = await self._frame()
            if kind is Kind.FAILED:
                fault = read_error(payload)
                raise LoadError(str(fault), status=fault.status)
            self.signature, self.batching, self.size_bytes = read_loaded(payload)
        except (BadFrameError, EOFError, OSError) as error:
            why = await self._how_it_ended(error)
            message = f"the process of model {self._model} {why} while it loaded"
            raise LoadError(message, status=Status.INTERNAL) from None
        self._began_with_bytes = taken_bytes(self._process.pid)
        self._reading = asyncio.create_task(self._read(), name=f"process of model {self._model}")

    def kill(self, why: str) -> None:
        """End the process because of what it does. `why` follows its name, in the log and in the errors of its calls."""
        if self._killed is None:
            self._killed = why
            self._process.kill()

    def _look_at_memory(self) -> None:
        limits = self._limits
        self._looking = asyncio.get_running_loop().call_later(limits.look_s, self._look_at_memory)
        grown_bytes = taken_bytes(self._process.pid) - self._began_with_bytes
        if self._reading is not None:
            self.grown_bytes = grown_bytes
            self._workers.has_grown()
        elif grown_bytes > limits.load_bytes:
            self.kill(f"was ended: it took {format_size(grown_bytes)}, and may take {format_size(limits.load_bytes)}")

    async def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Outputs | AsyncGenerator[Outputs, None]":
        """The model's answer; its answers, if it gives several. Raises RuntimeFault."""
        if self._why is not None:
            raise self._fault()
        call = next(self._ids)
        frames = self._calls[call] = asyncio.Queue()
        try:
            self._writer.write(frame(Kind.INFER, call, write_request(inputs, parameters)))
            await self._writer.drain()
            kind, payload = await _next(frames)
        except OSError:
            raise self._fault() from None
        except BaseException:
            self._give_up(call)
            raise
        if kind is Kind.ANSWER:
            return _answer(payload)
        return self._parts(call, frames, kind, payload)

    async def _parts(self, call: int, frames: Frames, kind: Kind, payload: bytes) -> "AsyncGenerator[Outputs, None]":
        """Each answer of a model that gives several. The model goes on when the next one is asked for."""
        try:
            while kind is Kind.PART:
                yield _answer(payload)
                self._writer.write(frame(Kind.NEXT, call))
                kind, payload = await _next(frames)
        finally:
            self._give_up(call)

    def _give_up(self, call: int) -> None:
        """No caller waits for the call any more."""
        if self._calls.pop(call, None) is None or self._why is not None:
            return
        loop = asyncio.get_running_loop()
        self._given_up[call] = loop.time()
        with contextlib.suppress(OSError):
            self._writer.write(frame(Kind.CANCEL, call))
        loop.call_later(self._limits.hung_s + LATE_S, self._look_at_calls)

    def _look_at_calls(self) -> None:
        now_s = asyncio.get_running_loop().time()
        threads, hung_s = self._limits.threads, self._limits.hung_s
        if self._why is None and hangs(self._given_up.values(), now_s, threads=threads, hung_s=hung_s):
            self.kill(f"was ended: all its {threads} threads ran calls that had been given up {hung_s:.0f} s before")

    async def _read(self) -> None:
        try:
            while True:
                kind, call, payload = await self._frame()
                found = read_error(payload) if kind is Kind.ERROR else (kind, payload)
                frames = self._calls.get(call)
                if kind in {Kind.ANSWER, Kind.END, Kind.ERROR}:
                    self._given_up.pop(call, None)
                    self._calls.pop(call, None)
                if frames is not None:
                    frames.put_nowait(found)
        except (BadFrameError, EOFError, OSError) as error:
            self._why = "ends"
            self._has_ended(None)
            why = await self._how_it_ended(error)
            _log.error("the process of model %s %s; its %d calls fail", self._model, why, len(self._calls))
            self._output.close()
            self._fail(why)
            self._has_ended(why)

    def _fail(self, why: str) -> None:
        self._why = why
        self._workers.forget(self)
        self._looking.cancel()
        self._writer.close()
        for frames in self._calls.values():
            frames.put_nowait(self._fault())
        self._calls.clear()

    async def _frame(self) -> tuple[Kind, int, bytes]:
        """The next frame. Raises BadFrameError, EOFError or OSError."""
        length, kind, call = read_head(await self._reader.readexactly(HEAD.size))
        return kind, call, await self._reader.readexactly(length)

    def _fault(self) -> RuntimeFault:
        return RuntimeFault(f"the process of model {self._model} {self._why}", status=Status.UNAVAILABLE)

    async def _how_it_ended(self, error: Exception) -> str:
        """What happened to the process, which says nothing more, or nonsense. It has ended then."""
        if isinstance(error, BadFrameError):
            self.kill(f"sent {error}, and was ended")
        code = await self._process.wait()
        if self._killed is not None:
            return self._killed
        return "closed its connection, and was ended" if code is None else how_it_ended(code)

    async def end(self) -> None:
        """End the process; calls that are in it fail."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._fail("was ended with its model")
        await self._process.wait()
        self._output.close()


class IsolatedModel:
    """A model in a process of its own. If that ends, the calls in it fail, and another is started."""

    def __init__(self, workers: Workers, model: str, origin: Origin) -> None:
        self._workers = workers
        self._model = model
        self._origin = origin
        self._worker: Worker | None = None
        self._is_closed = False
        self._why = ""
        self._ends_s: deque[float] = deque(maxlen=REMEMBERED_ENDS)
        self._starts_s = 0.0
        self._attempt = asyncio.Event()
        """Set when the start that comes next, or runs, is over."""
        self._starting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.signature = ModelSignature()
        self.batching: Batching | None = None
        self.size_bytes = 0

    async def load(self) -> None:
        """Load it for the first time. Raises as `Workers.load`."""
        self._worker = worker = await self._workers.start(self._model, self._origin, self._has_ended)
        self.signature, self.batching, self.size_bytes = worker.signature, worker.batching, worker.size_bytes

    async def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Outputs | AsyncGenerator[Outputs, None]":
        """As the model answers. A call waits for a start that runs, or comes soon.

        Raises:
            RuntimeFault: What the model raised. UNAVAILABLE: its process ended during the call, or is started again later.
        """
        while (worker := self._worker) is None:
            if self._is_closed:
                raise ModelNotLoadedError(self._model)
            in_s = self._starts_s - self._loop.time()
            if in_s > HELD_S:
                message = f"the process of model {self._model} {self._why}; it is started again in {in_s:.0f} s"
                raise RuntimeFault(message, status=Status.UNAVAILABLE)
            await self._attempt.wait()
        return await worker.infer(inputs, parameters)

    def _has_ended(self, why: str | None) -> None:
        """Its process has ended: start another, now or after a pause."""
        self._worker = None
        if why is None:
            self._starts_s, self._attempt = 0.0, asyncio.Event()
            return
        self._why = why
        now_s = self._loop.time()
        self._ends_s.append(now_s)
        in_s = starts_again_in_s(self._ends_s, now_s)
        self._starts_s = now_s + in_s
        attempt, self._attempt = self._attempt, asyncio.Event()
        attempt.set()
        self._starting = self._loop.create_task(self._start_in(in_s), name=f"start model {self._model}")

    async def _start_in(self, in_s: float) -> None:
        await asyncio.sleep(in_s)
        attempt = self._attempt
        try:
            async with asyncio.timeout(self._workers.limits.load_s):
                self._worker = await self._workers.start(self._model, self._origin, self._has_ended)
        except TimeoutError:
            why = f"could not be started again: its load took more than {self._workers.limits.load_s:.0f} s"
            _log.error("the process of model %s %s", self._model, why)
            self._has_ended(why)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next start may do better
            _log.exception("the process of model %s could not be started again", self._model)
            self._has_ended(f"could not be started again: {error}")
        else:
            attempt.set()

    def close(self) -> None:
        """End its process. Runs in a thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(CLOSE_S)

    async def _close(self) -> None:
        worker, self._worker = self._worker, None
        self._is_closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if worker is not None:
            await worker.end()


def _answer(payload: bytes) -> "Outputs":
    """Raises RuntimeFault: INTERNAL, it cannot be read."""
    try:
        return read_answer(payload)
    except BadFrameError as error:
        raise RuntimeFault(f"the model sent {error}") from None


async def _next(frames: Frames) -> tuple[Kind, bytes]:
    """What comes next for a call. Raises what it ended with."""
    found = await frames.get()
    if isinstance(found, RuntimeFault):
        raise found
    return found
