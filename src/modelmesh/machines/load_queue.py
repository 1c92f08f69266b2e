"""The order in which queued loads begin.

Loads that callers wait for come before all others (preloads, registrations with load-now), which go most recently
used first. Among the former the one goes first for which most callers wait for each millisecond of load: that
order makes the sum of all waits shortest (Smith's rule). A load that others have overtaken for as long as it would have
waited first come, first served, and for as long as it takes, is overdue: it is overtaken no more, so none starves.
"""

import enum
from dataclasses import dataclass
from itertools import count, islice

from sortedcontainers import SortedDict

from modelmesh.values.ids import LoadId


class QueueReason(enum.Enum):
    """Why a load stands where it does."""

    OVERDUE = "overdue"
    CALLERS_PER_LOAD_TIME = "callers_per_load_time"
    FIRST_COME = "first_come"
    NOBODY_WAITS = "nobody_waits"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a load stands: `before` it are so many, for `callers` it is loaded."""

    before: int
    callers: int
    reason: QueueReason


class _Kind(enum.IntEnum):
    OVERDUE = 0
    WAITED_FOR = 1
    OTHERS = 2


@dataclass(frozen=True, slots=True, order=True)
class _Rank:
    kind: _Kind
    order: float
    tie: int


@dataclass(slots=True)
class _Queued:
    """A load in the queue. `due`: it is overdue when loads of so many milliseconds have begun in all."""

    rank: _Rank
    expected_ms: int
    callers: int = 0
    arrival: int = 0
    due: tuple[int, int] | None = None


class LoadQueue:
    """A priority queue whose entries gain callers and may be removed; O(log n) per change.

    Args:
        by_value: In the order above; else those that callers wait for go first come, first served.
    """

    def __init__(self, *, by_value: bool = True) -> None:
        self._by_value = by_value
        self._queued: dict[LoadId, _Queued] = {}
        self._order: SortedDict[_Rank, LoadId] = SortedDict()
        self._dues: SortedDict[tuple[int, int], LoadId] = SortedDict()
        self._ties = count()
        self._begun_ms = 0
        self.waited_for_ms = 0
        """How long the queued loads that callers wait for will take, one after the other."""

    def __len__(self) -> int:
        return len(self._queued)

    def __contains__(self, load: LoadId) -> bool:
        return load in self._queued

    def push(self, load: LoadId, *, callers: int, last_use_ms: int, expected_ms: int) -> None:
        """Add a load.

        Args:
            load: Its id.
            callers: How many wait for it; 0: it is a preload or the like.
            last_use_ms: Epoch milliseconds.
            expected_ms: How long it will take.
        """
        assert load not in self._queued
        self._queued[load] = queued = _Queued(_Rank(_Kind.OTHERS, -last_use_ms, next(self._ties)), max(1, expected_ms))
        self._order[queued.rank] = load
        if callers:
            self.join(load, callers=callers)

    def join(self, load: LoadId, *, callers: int = 1) -> None:
        """More callers wait for a load; nothing happens if it is not queued."""
        queued = self._queued.get(load)
        if queued is None:
            return
        if not queued.callers:
            ahead_ms, self.waited_for_ms = self.waited_for_ms, self.waited_for_ms + queued.expected_ms
            queued.arrival = next(self._ties)
            if self._by_value:
                queued.due = (self._begun_ms + ahead_ms + queued.expected_ms, queued.arrival)
                self._dues[queued.due] = load
        queued.callers += callers
        if queued.rank.kind is not _Kind.OVERDUE:
            order = -queued.callers / queued.expected_ms if self._by_value else 0.0
            self._move(load, queued, _Rank(_Kind.WAITED_FOR, order, queued.arrival))

    def begin(self, load: LoadId) -> None:
        """A load that is queued has a slot now; those that were overtaken for long enough become overdue."""
        self._begun_ms += self._queued[load].expected_ms
        self.remove(load)
        while self._dues and self._dues.peekitem(0)[0][0] <= self._begun_ms:
            _, late = self._dues.popitem(0)
            queued = self._queued[late]
            queued.due = None
            self._move(late, queued, _Rank(_Kind.OVERDUE, 0.0, queued.arrival))

    def remove(self, load: LoadId) -> None:
        """Take a load out; nothing happens if it is not queued."""
        queued = self._queued.pop(load, None)
        if queued is None:
            return
        del self._order[queued.rank]
        if queued.due is not None:
            del self._dues[queued.due]
        if queued.callers:
            self.waited_for_ms -= queued.expected_ms

    def first(self) -> LoadId | None:
        """The next load; it stays."""
        if not self._queued:
            return None
        load: LoadId = self._order.peekitem(0)[1]
        return load

    def last(self, most: int) -> tuple[LoadId, ...]:
        """The loads that come last, the very last first; they stay."""
        return tuple(islice(reversed(self._order.values()), most))

    def standing(self, load: LoadId) -> Standing | None:
        """Where a load stands; None: it is not queued."""
        queued = self._queued.get(load)
        if queued is None:
            return None
        match queued.rank.kind:
            case _Kind.OVERDUE:
                reason = QueueReason.OVERDUE
            case _Kind.WAITED_FOR:
                reason = QueueReason.CALLERS_PER_LOAD_TIME if self._by_value else QueueReason.FIRST_COME
            case _Kind.OTHERS:
                reason = QueueReason.NOBODY_WAITS
        return Standing(self._order.index(queued.rank), queued.callers, reason)

    def _move(self, load: LoadId, queued: _Queued, rank: _Rank) -> None:
        del self._order[queued.rank]
        queued.rank = rank
        self._order[rank] = load
