"""Dynamic batches: requests for one model that wait together are answered by one call of its `infer`.

Requests go together if their inputs have the same names, datatypes and shapes behind the first axis, and if their parameters
are the same. The first axis of every input and output counts rows. While a batch runs, further requests wait for the next one,
so batches grow with the load and a single request does not wait.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelmesh.runtime.contract import Batching

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Outputs, Tensor

    Answered = Outputs | AsyncGenerator[Outputs, None]

_log = logging.getLogger("modelmesh.runtime")

Parameters = Mapping[str, bool | int | float | str]
Run = Callable[["Mapping[str, Tensor]", Parameters], Awaitable["Answered"]]
"""Has the model answer."""


class NoBatchError(Exception):
    """What the model answered cannot be divided among the requests; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits.

    Attributes:
        rows: Of each input; 0: it cannot be in a batch.
        kind: Equal for requests that can be in one batch.
    """

    inputs: "Mapping[str, Tensor]"
    parameters: Parameters
    rows: int
    kind: object
    answer: "asyncio.Future[Answered]"
    since_s: float


def rows_of(inputs: "Mapping[str, Tensor]") -> int:
    """The rows of each input; 0 if the inputs differ in that, or have none."""
    found = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return found.pop() if len(found) == 1 else 0


def kind_of(inputs: "Mapping[str, Tensor]", parameters: Parameters) -> object:
    """Equal for requests that can be in one batch."""
    tensors = sorted((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items())
    return tuple(tensors), tuple(sorted(parameters.items()))


def together(waiting: Sequence[Waiting], max_rows: int) -> list[Waiting]:
    """The requests of the next batch: the one that waited longest, and those of its kind behind it, as many as fit."""
    first = waiting[0]
    chosen, rows = [first], first.rows
    if first.rows:
        for other in list(waiting)[1:]:
            if other.kind == first.kind and other.rows and rows + other.rows <= max_rows:
                chosen.append(other)
                rows += other.rows
    return chosen


def begins_in_s(
    chosen: Sequence[Waiting], batching: Batching, *, now_s: float, running: int, at_once: int
) -> float | None:
    """When a batch begins, in seconds from now; None: not before another one ends.

    A full batch begins as soon as a thread is free. One that is not full begins if no other runs, after the wait that the
    model permits.
    """
    full = chosen[0].rows == 0 or sum(one.rows for one in chosen) >= batching.max_rows
    if running >= (at_once if full else 1):
        return None
    return 0.0 if full else max(0.0, chosen[0].since_s + batching.max_wait_ms / 1000 - now_s)


def joined(chosen: Sequence[Waiting]) -> "dict[str, Tensor]":
    """The inputs of all requests as one, row after row."""
    arrays = {name: np.concatenate([one.inputs[name] for one in chosen]) for name in chosen[0].inputs}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def divided(outputs: "Answered", chosen: Sequence[Waiting]) -> "list[Outputs]":
    """The rows of each request.

    Raises:
        NoBatchError: An output has another number of rows than the inputs, or there are several answers.
    """
    if isinstance(outputs, AsyncGenerator):
        raise NoBatchError("it answers more than once")
    rows = sum(one.rows for one in chosen)
    arrays = {name: np.asarray(array) for name, array in outputs.items()}
    for name, array in arrays.items():
        if not array.ndim or array.shape[0] != rows:
            raise NoBatchError(f"output {name!r} has shape {list(array.shape)} for {rows} rows")
    ends = np.cumsum([one.rows for one in chosen])[:-1]
    parts = {name: np.split(array, ends) for name, array in arrays.items()}
    return [{name: parts[name][at] for name in parts} for at in range(len(chosen))]


class Batcher:
    """The batches of one model. Everything happens on the event loop.

    Args:
        name: Of the model, for the log.
        run: Has the model answer.
        batching: Limits of a batch.
        at_once: Batches that may run at once.
    """

    def __init__(self, name: str, run: Run, batching: Batching, at_once: int) -> None:
        self._name = name
        self._run = run
        self._batching = batching
        self._at_once = at_once
        self._waiting: deque[Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.is_off = False
        """The model has given answers that cannot be divided, so each request runs alone."""

    async def infer(self, inputs: "Mapping[str, Tensor]", parameters: Parameters) -> "Answered":
        """The model's answer to this request, from whichever batch it gets into. Raises what the model raises."""
        if self.is_off:
            return await self._run(inputs, parameters)
        loop = asyncio.get_running_loop()
        rows = rows_of(inputs)
        kind = kind_of(inputs, parameters)
        request = Waiting(inputs, parameters, rows, kind, loop.create_future(), loop.time())
        self._waiting.append(request)
        self._begin()
        return await request.answer

    def _begin(self) -> None:
        """Start what may begin now, and look again when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while True:
            while self._waiting and self._waiting[0].answer.done():  # its caller has ended the call
                self._waiting.popleft()
            if not self._waiting:
                return
            chosen = [one for one in together(self._waiting, self._batching.max_rows) if not one.answer.done()]
            in_s = begins_in_s(
                chosen, self._batching, now_s=loop.time(), running=len(self._running), at_once=self._at_once
            )
            if in_s is None:
                return
            if in_s > 0:
                self._timer = loop.call_later(in_s, self._begin)
                return
            taken = {id(one) for one in chosen}
            self._waiting = deque(one for one in self._waiting if id(one) not in taken)
            task = loop.create_task(self._answer(chosen), name=f"batch of {self._name}")
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._begin()

    async def _answer(self, chosen: Sequence[Waiting]) -> None:
        """Answer requests together; if that fails, each alone, so that an error is that of its own request only."""
        chosen = [one for one in chosen if not one.answer.done()]  # without callers, the model may be unloaded
        if len(chosen) > 1 and await self._answered_together(chosen):
            return
        for one in chosen:
            if one.answer.done():
                continue
            try:
                _give(one, await self._run(one.inputs, one.parameters))
            except Exception as error:  # noqa: BLE001 - the model may raise anything
                if not one.answer.done():
                    one.answer.set_exception(error)

    async def _answered_together(self, chosen: Sequence[Waiting]) -> bool:
        try:
            parts = divided(await self._run(joined(chosen), chosen[0].parameters), chosen)
        except NoBatchError as error:
            self.is_off = True
            _log.warning("model %s takes no batches any more: %s", self._name, error)
            return False
        except Exception as error:  # noqa: BLE001 - the model may raise anything
            _log.debug("a batch of %d requests for model %s failed: %s", len(chosen), self._name, error)
            return False
        for one, part in zip(chosen, parts, strict=True):
            _give(one, part)
        return True


def _give(one: Waiting, outputs: "Answered") -> None:
    if not one.answer.done():  # else its caller has gone
        one.answer.set_result(outputs)
