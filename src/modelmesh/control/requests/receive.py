"""Passes events of the data plane to their handlers; before this instance has started, they wait."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelmesh.control.copies.losses import Losses
from modelmesh.control.decide import Decider
from modelmesh.control.requests.answers import RETRY_HINT_MS, refusal, retry_later
from modelmesh.control.requests.journeys import Requests
from modelmesh.control.tasks import Tasks
from modelmesh.ports import Clock, DataPlane
from modelmesh.values.dataplane import (
    Asked,
    AttemptFailed,
    Called,
    CallMessage,
    Cancelled,
    CopyIdle,
    DataPlaneEvent,
    Hop,
    LinkBack,
    LinkLost,
    Missed,
    Outcome,
    Overdue,
    Rejected,
    Wanted,
)
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Token
from modelmesh.values.status import Status

STARTING = "this instance is starting"
HEALTH = "grpc.health.v1.Health/"

EARLY_MS = 5_000
"""How long a request that came before this instance had started waits for that."""


@dataclass(frozen=True, slots=True)
class CallHandlers:
    """Who answers calls of the services that Python serves, and whose credentials callers show."""

    called: Callable[[Called], None]
    message: Callable[[CallMessage], None]
    cancelled: Callable[[Cancelled], None]
    asked: Callable[[Asked], None]


class Linked(Protocol):
    """Called for a link that was lost or is back."""

    def __call__(self, instance: InstanceId, *, lost: bool) -> None:
        """The link to `instance`; this instance's is that to its runtime."""


class Receiver:
    """Hands the data plane's events on.

    Args:
        idle: Called for a closed copy on which nothing runs any more.
        linked: Called for links.

    Attributes:
        handlers: Who answers calls of our services; None: none yet.
    """

    def __init__(
        self,
        *,
        dataplane: DataPlane,
        requests: Requests,
        losses: Losses,
        decider: Decider,
        clock: Clock,
        tasks: Tasks,
        idle: Callable[[ModelId, LoadId], None],
        linked: Linked,
    ) -> None:
        self._dataplane = dataplane
        self._requests = requests
        self._losses = losses
        self._decider = decider
        self._clock = clock
        self._tasks = tasks
        self._idle = idle
        self._linked = linked
        self.handlers: CallHandlers | None = None
        self._started = False
        self._early: OrderedDict[Token, Missed] = OrderedDict()
        """Requests that came while this instance started: it listens before it can serve."""

    def start(self) -> None:
        """This instance has started: what came before is worked at now."""
        self._started = True
        while self._early:
            _, event = self._early.popitem(last=False)
            self.receive((event,))

    def receive(self, events: Sequence[DataPlaneEvent]) -> None:
        """Take events, in their order. One that cannot be worked at takes none of the others with it."""
        for event in events:
            try:
                self._receive(event)
            except Exception as error:  # noqa: BLE001 - the caller gets an answer in any case
                self._tasks.report(f"event {type(event).__name__}", error)
                self._answer(event, f"{type(error).__name__}: {error}")

    def _answer(self, event: DataPlaneEvent, message: str) -> None:
        """No code handles the event: its waiters get an error."""
        try:
            match event:
                case Missed(token) | AttemptFailed(token, replayable=True) | Overdue(token):
                    self._requests.give_up(token, message)
                case Asked(token):
                    self._dataplane.answer_asked(token, Rejected(Status.INTERNAL, message, kept=False))
                case Called(token) | CallMessage(token):
                    self._dataplane.finish(token, Status.INTERNAL, message)
                case _:
                    pass
        except Exception as error:  # noqa: BLE001 - the data plane itself cannot be informed
            self._tasks.report(f"answer to {type(event).__name__}", error)

    def _receive(self, event: DataPlaneEvent) -> None:  # noqa: C901, PLR0912 - one row per event
        match event:
            case Missed(token, hop=Hop.LOAD) if not self._started:
                self._dataplane.resolve([(token, refusal(Outcome.BUSY, Status.UNAVAILABLE, STARTING))])
            case Missed(token) if not self._started:
                self._early[token] = event
                self._tasks.start(self._refuse_early(token), f"request {token} before the start")
            case Missed():
                self._requests.missed(event)
            case AttemptFailed():
                self._losses.attempt_failed(event)
                self._requests.attempt_failed(event)
            case Cancelled(token):
                self._early.pop(token, None)
                self._requests.cancelled(token)
                if self.handlers is not None:
                    self.handlers.cancelled(event)
            case Called(token) if not self._started and not event.method.startswith(HEALTH):
                answer = retry_later(Status.UNAVAILABLE, STARTING, self._decider.spread_ms(RETRY_HINT_MS))
                self._dataplane.finish(token, answer.status, answer.message, answer.trailers)
            case Called():
                if self.handlers is not None:
                    self.handlers.called(event)
            case Overdue():
                self._requests.overdue(event)
            case Wanted():
                self._requests.wanted(event)
            case Asked():
                if self.handlers is not None:
                    self.handlers.asked(event)
            case CallMessage():
                if self.handlers is not None:
                    self.handlers.message(event)
            case CopyIdle(model, load_id):
                self._idle(model, load_id)
            case LinkLost(instance):
                self._linked(instance, lost=True)
            case LinkBack(instance):
                self._linked(instance, lost=False)

    async def _refuse_early(self, token: Token) -> None:
        await self._clock.sleep(EARLY_MS)
        if self._early.pop(token, None) is not None:
            self._dataplane.resolve(
                [(token, retry_later(Status.UNAVAILABLE, STARTING, self._decider.spread_ms(RETRY_HINT_MS)))]
            )
