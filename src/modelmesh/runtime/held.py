"""Calls of models that take batches, which the native core has read and checked.

It joins their tensors and divides the answers, so that Python does next to nothing for each call. What is unusual is answered by
Python, as that of other models.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self

from modelmesh.runtime.batches import Run, Waiting, arrays_of, divided, only
from modelmesh.runtime.calls import Method, answer_after
from modelmesh.runtime.errors import RuntimeFault, describe
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh._core._server import HeldCall, QuickModels, ServerSockets
    from modelmesh.runtime.batches import Answered
    from modelmesh.runtime.contract import Tensor


class Held(Waiting):
    """A call that waits for a batch, or is in one. Everything happens on the event loop.

    Args:
        call: What is known of it.
        method: Makes the answers that the core cannot make.
        native: The connections.
        quick: Joins the tensors.
        flush: Has the connections send what there is to send.
        ended: Called once, when it is over.
        max_message_bytes: Of an answer.
    """

    __slots__ = (
        "_ended",
        "_flush",
        "_is_over",
        "_max_message_bytes",
        "_method",
        "_native",
        "_quick",
        "_timer",
        "call",
        "left",
    )

    def __init__(
        self,
        call: "HeldCall",
        method: Method,
        native: "ServerSockets",
        quick: "QuickModels",
        *,
        flush: Callable[[], None],
        ended: Callable[["Held"], None],
        max_message_bytes: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        super().__init__(call.rows, call.kind, now_s, {})
        self.call = call
        """What the core knows of it."""
        self._method = method
        self._native = native
        self._quick = quick
        self._flush = flush
        self._ended = ended
        self._max_message_bytes = max_message_bytes
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None
        if call.timeout_ms is not None:
            self._timer = loop.call_at(now_s + call.timeout_ms / 1000, self._expire)
        self.left: Callable[[], None] | None = None
        """Called when it is over."""

    @property
    def id(self) -> int:
        """Of the call."""
        return self.call.call

    # --- as a call of the server ---

    def hear(self) -> None:
        """Its request is whole, and its answer is one message: there is no news that it waits for."""

    def give_up(self) -> None:
        """The client has given it up."""
        self.end()

    def stop(self, status: Status, details: str) -> None:
        """End it now. Nothing happens if it is over."""
        if not self._is_over:
            self._native.end(self.id, status, details)
            self._flush()
            self.end()

    def _expire(self) -> None:
        self.stop(Status.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def end(self) -> None:
        """It was answered, or is not wanted any more. Nothing happens if it is over."""
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._ended(self)
        if self.left is not None:
            self.left()

    # --- as a request of a batch ---

    @property
    def is_over(self) -> bool:
        """Whether it has ended, however."""
        return self._is_over

    def joined(self, chosen: Sequence[Self]) -> "dict[str, Tensor]":
        """Read-only arrays."""
        return self._quick.joined([one.call for one in chosen])

    def divide(self, outputs: "Answered", chosen: Sequence[Self]) -> None:
        """Answer each call."""
        rows = [one.rows for one in chosen]
        arrays = arrays_of(outputs, sum(rows))
        left = self._native.answer_together([one.call for one in chosen], arrays)
        if left:
            parts = divided(arrays, rows)
            for at in left:
                chosen[at].answer_by_python(partial(_given, parts[at]))
        self._flush()
        for one in chosen:
            one.end()

    async def answer_alone(self, run: Run) -> None:
        """Answer it, or end it with the status of what the model raises."""
        try:
            outputs = await only(await run(self.joined((self,)), self.parameters))
        except Exception as error:  # noqa: BLE001 - the model may raise anything
            self.answer_by_python(partial(_raised, error))
            return
        if self._is_over:
            return
        if self._native.answer_together((self.call,), outputs):
            self.answer_by_python(partial(_given, outputs))
        self._flush()
        self.end()

    def answer_by_python(self, outputs: Callable[[], Any]) -> None:
        """Answer it by Python. `outputs` returns or raises as the model did."""
        if self._is_over:
            return
        call = self.call
        try:
            message = answer_after(self._method, call.message, call.model, outputs, self._max_message_bytes)
        except RuntimeFault as error:
            self.stop(error.status, describe(error))
        else:
            self._native.answer(self.id, message)
            self._flush()
            self.end()


def _given(outputs: Any) -> Any:
    return outputs


def _raised(error: Exception) -> NoReturn:
    raise error
