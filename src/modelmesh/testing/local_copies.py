"""Serves simulated calls from the copies of one instance, and counts them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from modelmesh.ports import RuntimeCallError
from modelmesh.testing.attempts import Answer, AttemptEnded, outcome_of
from modelmesh.values.dataplane import LocalCopy, Outcome, Usage
from modelmesh.values.ids import InstanceId, LoadId, ModelId
from modelmesh.values.status import Status

Infer = Callable[[ModelId, object], Awaitable[object]]
"""The runtime's inference: model and payload in, answer out; raises RuntimeCallError."""


@dataclass(slots=True, eq=False)
class _Run:
    """A request at work. `may_move`: it goes elsewhere if the runtime does not answer."""

    stopped: "asyncio.Future[Outcome]"
    may_move: bool

    def stop(self, outcome: Outcome) -> None:
        if not self.stopped.done():
            self.stopped.set_result(outcome)


@dataclass(slots=True)
class _Counters:
    requests: int = 0
    in_flight: int = 0
    last_use_ms: int = 0
    service_us: int = 0


class LocalCopies:
    """What runs on the copies of an instance.

    Args:
        idle: Called for a copy on which nothing runs any more.

    Attributes:
        runtime_up: Whether the runtime can be reached.
    """

    def __init__(
        self,
        *,
        instance: InstanceId,
        infer: Infer,
        now_ms: Callable[[], int],
        idle: Callable[[ModelId, LoadId], None],
    ) -> None:
        self._instance = instance
        self._infer = infer
        self._now_ms = now_ms
        self._idle = idle
        self.runtime_up = True
        self._counters: dict[ModelId, _Counters] = {}
        self._running: dict[tuple[ModelId, LoadId], dict[_Run, None]] = {}

    def running(self, model: ModelId, load_id: LoadId) -> int:
        """Requests that run on one copy."""
        return len(self._running.get((model, load_id), ()))

    def in_flight(self, model: ModelId) -> int:
        """Requests that run on copies of a model."""
        return sum(len(running) for (name, _), running in self._running.items() if name == model)

    def end(self, model: ModelId, load_id: LoadId) -> None:
        """End what runs on a copy as failed attempts."""
        for run in self._running.get((model, load_id), ()):
            run.stop(Outcome.ENDED)

    def hang(self) -> None:
        """The runtime does not answer: what may go elsewhere ends as failed attempts."""
        for running in self._running.values():
            for run in running:
                if run.may_move:
                    run.stop(Outcome.HUNG)

    def usage(self) -> Sequence[Usage]:
        """What was counted since the last look."""
        result = []
        for model, counters in self._counters.items():
            if counters.requests or counters.in_flight:
                result.append(
                    Usage(model, counters.last_use_ms, counters.requests, counters.service_us, counters.in_flight, 0)
                )
                counters.requests = 0
                counters.service_us = 0
        return result

    async def serve(self, model: ModelId, copy: LocalCopy, payload: object, *, may_move: bool) -> Answer:
        """Run a request on a copy. Raises AttemptEnded."""
        key = (model, copy.load_id)
        counters = self._counters.setdefault(model, _Counters())
        counters.in_flight += 1
        counters.requests += 1
        counters.last_use_ms = self._now_ms()
        run = _Run(asyncio.get_running_loop().create_future(), may_move)
        self._running.setdefault(key, {})[run] = None
        work = asyncio.ensure_future(self._infer(model, payload))
        try:
            await asyncio.wait((work, run.stopped), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                hangs = run.stopped.result() is Outcome.HUNG
                message = "the runtime does not answer" if hangs else "the copy was taken away"
                answer = Answer(Status.UNAVAILABLE, message, served_by=self._instance)
                raise AttemptEnded(run.stopped.result(), answer, begun=hangs)
            return Answer(Status.OK, payload=work.result(), served_by=self._instance)
        except RuntimeCallError as error:
            answer = Answer(error.status, error.message, served_by=self._instance)
            outcome = outcome_of(error, runtime_up=self.runtime_up)
            if outcome is None:
                return answer
            raise AttemptEnded(outcome, answer, begun=not error.unprocessed) from error
        finally:
            work.cancel()
            counters.in_flight -= 1
            self._finished(key, run)

    def _finished(self, key: tuple[ModelId, LoadId], run: _Run) -> None:
        running = self._running[key]
        del running[run]
        if not running:
            del self._running[key]
            self._idle(*key)
