"""The events of this instance, with their reasons: the source of logs, `WatchEvents` and transcripts."""

from collections import deque
from collections.abc import Callable

from modelmesh.ports import Clock
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId

HISTORY = 4096
"""Events kept for late readers; about 1 MB."""


class Journal:
    """A bounded log with subscribers. Subscribers are called at once and must not block.

    One that raises (a log on a full disk) affects neither the others nor the source of the event.
    """

    def __init__(self, instance: InstanceId, clock: Clock) -> None:
        self._instance = instance
        self._clock = clock
        self._subscribers: dict[int, Callable[[Event], None]] = {}
        self._failing: dict[int, None] = {}
        self._next = 0
        self.history: deque[Event] = deque(maxlen=HISTORY)

    def note(
        self,
        kind: str,
        model: ModelId | str = "",
        reason: str = "",
        detail: str = "",
        *,
        cause: ModelId | None = None,
        **numbers: int,
    ) -> None:
        """Write an event; `numbers` are for metrics."""
        now_ms = self._clock.now_ms()
        event = Event(now_ms, self._instance, ModelId(model), kind, reason, detail, cause, tuple(numbers.items()))
        self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        self.history.append(event)
        for number, subscriber in tuple(self._subscribers.items()):
            try:
                subscriber(event)
            except Exception as error:  # noqa: BLE001 - it does not concern the event
                if number not in self._failing:
                    self._failing[number] = None
                    self.note(
                        "sink_failed", detail=f"{type(error).__name__}: {error}; reported once until it works again"
                    )
            else:
                self._failing.pop(number, None)

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` with every event from now on; returns the function that ends it."""
        number = self._next
        self._next += 1
        self._subscribers[number] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(number, None)
            self._failing.pop(number, None)

        return unsubscribe
