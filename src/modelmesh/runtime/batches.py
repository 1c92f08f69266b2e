"""Dynamic batches: requests for one model that wait together are answered by one call of its `infer`.

Requests go together if their inputs have the same names, datatypes and shapes behind the first axis, and if their parameters
are the same. The first axis of every input and output counts rows. While a batch runs, further requests wait for the next one,
so batches grow with the load and a single request does not wait.

Callers that were answered together ask again together, a moment later. A batch that began at once with those that waited meanwhile
would split them from these, again and again. So it lingers for them, for a small part of the time that they would otherwise wait.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Self

import numpy as np

from modelmesh.runtime.contract import Batching
from modelmesh.runtime.errors import RequestError

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Outputs, Tensor

    Answered = Outputs | AsyncGenerator[Outputs, None]

_log = logging.getLogger("modelmesh.runtime")

Parameters = Mapping[str, bool | int | float | str]
Run = Callable[["Mapping[str, Tensor]", Parameters], Awaitable["Answered"]]
"""Has the model answer."""


LINGERS = 0.1
"""Of the time that the last batch took, a batch waits at most for callers that may ask again."""
TIMER_S = 0.002
"""Timers of asyncio are late by up to a millisecond: for less than this time the event loop is asked again and again."""


@dataclass(frozen=True, slots=True)
class Last:
    """The batch that ended last.

    Attributes:
        crowd: Its requests, and those that waited when it ended.
    """

    ended_s: float
    took_s: float
    crowd: int


class NoBatchError(Exception):
    """What the model answered cannot be divided among the requests; the message has the reason."""


class Waiting(ABC):
    """A request that waits.

    Attributes:
        rows: Of each input; 0: it cannot be in a batch.
        kind: Equal for requests that can be in one batch. They are of one class then.
        since_s: When it came, in the event loop's time.
    """

    __slots__ = ("kind", "parameters", "rows", "since_s")

    def __init__(self, rows: int, kind: object, since_s: float, parameters: Parameters) -> None:
        self.rows = rows
        self.kind = kind
        self.since_s = since_s
        self.parameters = parameters

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether it was answered, or its caller has gone."""

    @abstractmethod
    def joined(self, chosen: Sequence[Self]) -> "Mapping[str, Tensor]":
        """The inputs of all chosen requests as one, row after row. This one is the first of them."""

    @abstractmethod
    def divide(self, outputs: "Answered", chosen: Sequence[Self]) -> None:
        """Answer each of the chosen requests with its rows. Raises NoBatchError."""

    @abstractmethod
    async def answer_alone(self, run: Run) -> None:
        """Have the model answer this request, or fail it. Raises nothing."""


class Asked(Waiting):
    """A request whose inputs are arrays of its own."""

    __slots__ = ("answer", "inputs")

    def __init__(
        self, inputs: "Mapping[str, Tensor]", parameters: Parameters, since_s: float, answer: "asyncio.Future[Answered]"
    ) -> None:
        super().__init__(rows_of(inputs), kind_of(inputs, parameters), since_s, parameters)
        self.inputs = inputs
        self.answer = answer

    @property
    def is_over(self) -> bool:
        """Whether its future is done."""
        return self.answer.done()

    def joined(self, chosen: Sequence[Self]) -> "Mapping[str, Tensor]":
        """Read-only arrays."""
        arrays = {name: np.concatenate([one.inputs[name] for one in chosen]) for name in self.inputs}
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def divide(self, outputs: "Answered", chosen: Sequence[Self]) -> None:
        """Set the result of each future."""
        for one, part in zip(chosen, divided(outputs, [one.rows for one in chosen]), strict=True):
            one.give(part)

    async def answer_alone(self, run: Run) -> None:
        """Set the result of its future, or its exception."""
        try:
            self.give(await run(self.inputs, self.parameters))
        except Exception as error:  # noqa: BLE001 - the model may raise anything
            if not self.answer.done():
                self.answer.set_exception(error)

    def give(self, outputs: "Answered") -> None:
        """Set the result of its future."""
        if not self.answer.done():  # else its caller has gone
            self.answer.set_result(outputs)


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
        for other in islice(waiting, 1, None):
            if other.kind == first.kind and other.rows and rows + other.rows <= max_rows:
                chosen.append(other)
                rows += other.rows
    return chosen


def begins_in_s(
    chosen: Sequence[Waiting],
    batching: Batching,
    *,
    now_s: float,
    running: int,
    at_once: int,
    waiting: int,
    last: Last | None = None,
) -> float | None:
    """When a batch begins, in seconds from now; None: not before another one ends.

    A full batch begins as soon as a thread is free. One that is not full begins if no other runs, after the wait that the
    model permits, and when as many wait as there were lately, or a part of the last batch's time has passed.

    Args:
        chosen: Its requests.
        batching: Limits of the model.
        now_s: On the clock of the requests.
        running: Batches that run.
        at_once: Batches that may run at once.
        waiting: Requests that wait, the chosen among them.
        last: The batch before.
    """
    full = chosen[0].rows == 0 or sum(one.rows for one in chosen) >= batching.max_rows
    if running >= (at_once if full else 1):
        return None
    if full:
        return 0.0
    begins_s = chosen[0].since_s + batching.max_wait_ms / 1000
    if last is not None and waiting < last.crowd:
        begins_s = max(begins_s, last.ended_s + LINGERS * last.took_s)
    return max(0.0, begins_s - now_s)


def arrays_of(outputs: "Answered", rows: int) -> "dict[str, Tensor]":
    """The outputs of a batch as contiguous arrays.

    Raises:
        NoBatchError: An output has another number of rows, or there are several answers.
    """
    if isinstance(outputs, AsyncGenerator):
        raise NoBatchError("it answers more than once")
    arrays = {name: np.asarray(array) for name, array in outputs.items()}
    for name, array in arrays.items():
        if not array.ndim or array.shape[0] != rows:
            raise NoBatchError(f"output {name!r} has shape {list(array.shape)} for {rows} rows")
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def divided(outputs: "Answered", rows: Sequence[int]) -> "list[Outputs]":
    """The rows of each request, of which there are so many. Raises NoBatchError as `arrays_of`."""
    arrays = arrays_of(outputs, sum(rows))
    ends = np.cumsum(rows)[:-1]
    parts = {name: np.split(array, ends) for name, array in arrays.items()}
    return [{name: parts[name][at] for name in parts} for at in range(len(rows))]


async def only(answered: "Answered") -> "Outputs":
    """The one answer of a model that may give several. Raises RequestError: it gives another number of them."""
    if not isinstance(answered, AsyncGenerator):
        return answered
    async with aclosing(answered) as answers:
        found = await anext(answers, None)
        if found is None or await anext(answers, None) is not None:
            raise RequestError("the model answers more than once, or not at all: call it by ModelStreamInfer")
        return found


class Batcher:
    """The batches of one model. Everything happens on the event loop.

    Args:
        name: Of the model, for the log.
        run: Has the model answer.
        batching: Limits of a batch.
        at_once: Batches that may run at once.
        turned_off: Called when the model takes no batches any more.
    """

    def __init__(
        self, name: str, run: Run, batching: Batching, at_once: int, *, turned_off: Callable[[], None] = lambda: None
    ) -> None:
        self._turned_off = turned_off
        self._name = name
        self._run = run
        self._batching = batching
        self._at_once = at_once
        self._waiting: deque[Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._last: Last | None = None
        self.is_off = False
        """The model has given answers that cannot be divided, so each request runs alone."""

    async def infer(self, inputs: "Mapping[str, Tensor]", parameters: Parameters) -> "Answered":
        """The model's answer to this request, from whichever batch it gets into. Raises what the model raises."""
        if self.is_off:
            return await self._run(inputs, parameters)
        loop = asyncio.get_running_loop()
        request = Asked(inputs, parameters, loop.time(), loop.create_future())
        self.add((request,))
        return await request.answer

    def add(self, requests: Iterable[Waiting]) -> None:
        """Have requests answered that came together."""
        self._waiting.extend(requests)
        self._begin()

    def _begin(self) -> None:
        """Start what may begin now, and look again when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while True:
            while self._waiting and self._waiting[0].is_over:
                self._waiting.popleft()
            if not self._waiting:
                return
            chosen = [one for one in together(self._waiting, self._batching.max_rows) if not one.is_over]
            now_s = loop.time()
            in_s = begins_in_s(
                chosen,
                self._batching,
                now_s=now_s,
                running=len(self._running),
                at_once=self._at_once,
                waiting=len(self._waiting),
                last=self._last,
            )
            if in_s is None:
                return
            if in_s > 0:
                again = loop.call_soon if in_s < TIMER_S else partial(loop.call_later, in_s)
                self._timer = again(self._begin)
                return
            taken = {id(one) for one in chosen}
            self._waiting = deque(one for one in self._waiting if id(one) not in taken)
            task = loop.create_task(self._answer(chosen), name=f"batch of {self._name}")
            self._running.add(task)
            task.add_done_callback(partial(self._ended, now_s, len(chosen)))

    def _ended(self, began_s: float, requests: int, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        now_s = asyncio.get_running_loop().time()
        self._last = Last(now_s, now_s - began_s, requests + len(self._waiting))
        self._begin()

    async def _answer(self, chosen: Sequence[Waiting]) -> None:
        """Answer requests together; if that fails, each alone, so that an error is that of its own request only."""
        chosen = [one for one in chosen if not one.is_over]  # without callers, the model may be unloaded
        if len(chosen) > 1 and not self.is_off and await self._answered_together(chosen):
            return
        for one in chosen:
            if not one.is_over:
                await one.answer_alone(self._run)

    async def _answered_together(self, chosen: Sequence[Waiting]) -> bool:
        first = chosen[0]
        try:
            first.divide(await self._run(first.joined(chosen), first.parameters), chosen)
        except NoBatchError as error:
            self.is_off = True
            self._turned_off()
            _log.warning("model %s takes no batches any more: %s", self._name, error)
            return False
        except Exception as error:  # noqa: BLE001 - the model may raise anything
            _log.debug("a batch of %d requests for model %s failed: %s", len(chosen), self._name, error)
            return False
        return True
