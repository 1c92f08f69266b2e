"""The loading slots of the runtime: which loads have one, and which wait."""

from collections.abc import Callable

from modelmesh.machines.load_queue import LoadQueue, Standing
from modelmesh.values.ids import LoadId
from modelmesh.values.priority import Priority


class LoadingSlots:
    """Gives free slots to queued loads, in the queue's order.

    Args:
        by_value: Loads begin in the order of `LoadQueue`; else first come, first served.
        offered: How many slots the runtime has; 0 while it takes no loads.
        begin: Called when a queued load has its slot.
    """

    def __init__(self, *, by_value: bool, offered: Callable[[], int], begin: Callable[[LoadId], None]) -> None:
        self._offered = offered
        self._begin = begin
        self._queue = LoadQueue(by_value=by_value)
        self._taken: dict[LoadId, None] = {}
        self._alone: dict[LoadId, None] = {}
        self._expected_ms: dict[LoadId, int] = {}
        self.queued_ms = 0
        """How long the loads that wait for a slot will take, one after the other."""

    def __len__(self) -> int:
        return len(self._queue) + len(self._taken)

    @property
    def queued(self) -> int:
        """Loads that wait for a slot."""
        return len(self._queue)

    @property
    def waited_for_ms(self) -> int:
        """How long those of them take that callers wait for."""
        return self._queue.waited_for_ms

    def standing(self, load: LoadId) -> Standing | None:
        """Where a load stands in the queue; None: it waits for no slot."""
        return self._queue.standing(load)

    def last_queued(self, most: int) -> tuple[LoadId, ...]:
        """The loads that will get a slot last, the very last first."""
        return self._queue.last(most)

    def taken(self) -> tuple[LoadId, ...]:
        """Loads that have a slot, in the order in which they got it."""
        return tuple(self._taken)

    def enqueue(
        self,
        load: LoadId,
        *,
        callers: int,
        priority: Priority | None,
        last_use_ms: int,
        expected_ms: int,
        alone: bool = False,
    ) -> None:
        """A load waits for a slot from now on; it has none before the next `fill`.

        `callers`, `priority`, `last_use_ms`, `expected_ms`: as `LoadQueue.push`. `alone`: while it has its slot no other load
        has one.
        """
        if alone:
            self._alone[load] = None
        self._expected_ms[load] = expected_ms
        self.queued_ms += expected_ms
        self._queue.push(load, callers=callers, priority=priority, last_use_ms=last_use_ms, expected_ms=expected_ms)

    def join(self, load: LoadId, priority: Priority) -> None:
        """One more caller waits for a load; nothing happens if it is not queued."""
        self._queue.join(load, priority)

    def dequeue(self, load: LoadId) -> None:
        """A load wants no slot any more; nothing happens if it is not queued."""
        self._queue.remove(load)
        self._alone.pop(load, None)
        self._left_queue(load)

    def release(self, load: LoadId) -> None:
        """A load needs its slot no longer; nothing happens if it has none."""
        if self._taken.pop(load, 0) is None:
            self._alone.pop(load, None)
            self.fill()

    def fill(self) -> None:
        """Begin queued loads while slots are free."""
        while len(self._taken) < self._offered():
            load = self._queue.first()
            if load is None or (
                self._taken and (load in self._alone or not self._alone.keys().isdisjoint(self._taken))
            ):
                return
            self._queue.begin(load)
            self._taken[load] = None
            self._left_queue(load)
            self._begin(load)

    def _left_queue(self, load: LoadId) -> None:
        self.queued_ms -= self._expected_ms.pop(load, 0)
