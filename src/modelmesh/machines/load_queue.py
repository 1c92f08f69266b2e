"""The order in which queued loads begin.

Loads that callers wait for come before all others (preloads, registrations with load-now), which go most recently
used first. Among the former those go first for which a caller of a higher class waits, and of one class the one for which most
callers wait for each millisecond of load: that order makes the sum of all waits shortest (Smith's rule). A load that others
have overtaken for as long as it would have waited first come, first served, and for as long as it takes, is overdue: none of
its class overtakes it any more. One that loads of higher classes have overtaken for four times as long is raised: nothing
overtakes it any more. So none starves.
"""

import enum
from dataclasses import dataclass
from itertools import count, islice

from sortedcontainers import SortedDict

from modelmesh.values.ids import LoadId
from modelmesh.values.priority import Priority

RAISED_AFTER = 4
"""A load is raised when higher classes have overtaken it for so many times as long as makes it overdue."""


class QueueReason(enum.Enum):
    """Why a load stands where it does."""

    RAISED = "raised"
    OVERDUE = "overdue"
    CALLERS_PER_LOAD_TIME = "callers_per_load_time"
    FIRST_COME = "first_come"
    NOBODY_WAITS = "nobody_waits"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a load stands: `before` it are so many, for `callers` it is loaded, the highest of them of class `priority`."""

    before: int
    callers: int
    reason: QueueReason
    priority: Priority = Priority.NORMAL


class _Kind(enum.IntEnum):
    OVERDUE = 0
    WAITED_FOR = 1
    OTHERS = 2


_FIRST = -Priority.HIGH
_LAST = 1 - Priority.LOW


@dataclass(frozen=True, slots=True, order=True)
class _Rank:
    """`level`: `_FIRST` for the highest class and what is raised, `_LAST` for what no caller waits for."""

    level: int
    kind: _Kind
    order: float
    tie: int


@dataclass(slots=True)
class _Queued:
    """A load in the queue.

    `due`: it is overdue when loads of so many milliseconds have begun in all; `raise_due`: it is raised when so many of higher
    classes have. `patience_ms`: what stood before it when it came, and its own time.
    """

    rank: _Rank
    expected_ms: int
    callers: int = 0
    arrival: int = 0
    patience_ms: int = 0
    priority: Priority = Priority.LOW
    due: tuple[int, int] | None = None
    raise_due: tuple[int, int] | None = None


class LoadQueue:
    """A priority queue whose entries gain callers and may be removed; O(log n) per change.

    Args:
        by_value: In the order above; else those that callers of one class wait for go first come, first served.
    """

    def __init__(self, *, by_value: bool = True) -> None:
        self._by_value = by_value
        self._queued: dict[LoadId, _Queued] = {}
        self._order: SortedDict[_Rank, LoadId] = SortedDict()
        self._dues: SortedDict[tuple[int, int], LoadId] = SortedDict()
        self._raise_dues: dict[Priority, SortedDict[tuple[int, int], LoadId]] = {one: SortedDict() for one in Priority}
        self._ties = count()
        self._begun_ms = 0
        self._begun_above_ms = dict.fromkeys(Priority, 0)
        self.waited_for_ms = 0
        """How long the queued loads that callers wait for will take, one after the other."""

    def __len__(self) -> int:
        return len(self._queued)

    def __contains__(self, load: LoadId) -> bool:
        return load in self._queued

    def push(
        self, load: LoadId, *, callers: int, priority: Priority | None, last_use_ms: int, expected_ms: int
    ) -> None:
        """Add a load.

        Args:
            load: Its id.
            callers: How many wait for it.
            priority: The highest class of them; None: no caller waits, it is a preload or the like.
            last_use_ms: Epoch milliseconds.
            expected_ms: How long it will take.
        """
        assert load not in self._queued
        rank = _Rank(_LAST, _Kind.OTHERS, -last_use_ms, next(self._ties))
        self._queued[load] = _Queued(rank, max(1, expected_ms))
        self._order[rank] = load
        if priority is not None:
            self.join(load, priority, callers=callers)

    def join(self, load: LoadId, priority: Priority, *, callers: int = 1) -> None:
        """More callers wait for a load; nothing happens if it is not queued."""
        queued = self._queued.get(load)
        if queued is None:
            return
        is_first = not queued.callers
        if is_first:
            queued.patience_ms = self.waited_for_ms + queued.expected_ms
            self.waited_for_ms += queued.expected_ms
            queued.arrival = next(self._ties)
            if self._by_value:
                queued.due = (self._begun_ms + queued.patience_ms, queued.arrival)
                self._dues[queued.due] = load
        queued.callers += callers
        if is_first or priority > queued.priority:
            self._forget_raise(queued)
            queued.priority = priority
            if priority is not Priority.HIGH and not self._is_raised(queued):
                due_ms = self._begun_above_ms[priority] + RAISED_AFTER * queued.patience_ms
                queued.raise_due = (due_ms, queued.arrival)
                self._raise_dues[priority][queued.raise_due] = load
        if queued.rank.kind is _Kind.OVERDUE:
            self._move(
                load, queued, _Rank(min(queued.rank.level, -queued.priority), _Kind.OVERDUE, 0.0, queued.arrival)
            )
        else:
            order = -queued.callers / queued.expected_ms if self._by_value else 0.0
            self._move(load, queued, _Rank(-queued.priority, _Kind.WAITED_FOR, order, queued.arrival))

    def begin(self, load: LoadId) -> None:
        """A load that is queued has a slot now; those that were overtaken for long enough become overdue, or are raised."""
        begun = self._queued[load]
        self._begun_ms += begun.expected_ms
        self.remove(load)
        while self._dues and self._dues.peekitem(0)[0][0] <= self._begun_ms:
            _, late = self._dues.popitem(0)
            queued = self._queued[late]
            queued.due = None
            self._move(late, queued, _Rank(queued.rank.level, _Kind.OVERDUE, 0.0, queued.arrival))
        for lower, dues in self._raise_dues.items():
            if begun.rank.level >= -lower:
                continue
            self._begun_above_ms[lower] += begun.expected_ms
            while dues and dues.peekitem(0)[0][0] <= self._begun_above_ms[lower]:
                _, late = dues.popitem(0)
                queued = self._queued[late]
                queued.raise_due = None
                self._forget_due(queued)
                self._move(late, queued, _Rank(_FIRST, _Kind.OVERDUE, 0.0, queued.arrival))

    def remove(self, load: LoadId) -> None:
        """Take a load out; nothing happens if it is not queued."""
        queued = self._queued.pop(load, None)
        if queued is None:
            return
        del self._order[queued.rank]
        self._forget_due(queued)
        self._forget_raise(queued)
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
                reason = QueueReason.RAISED if self._is_raised(queued) else QueueReason.OVERDUE
            case _Kind.WAITED_FOR:
                reason = QueueReason.CALLERS_PER_LOAD_TIME if self._by_value else QueueReason.FIRST_COME
            case _Kind.OTHERS:
                return Standing(self._order.index(queued.rank), queued.callers, QueueReason.NOBODY_WAITS)
        return Standing(self._order.index(queued.rank), queued.callers, reason, queued.priority)

    def _is_raised(self, queued: _Queued) -> bool:
        """Whether it stands before its class. A load that is raised stays so."""
        return queued.rank.level < -queued.priority

    def _forget_due(self, queued: _Queued) -> None:
        if queued.due is not None:
            del self._dues[queued.due]
            queued.due = None

    def _forget_raise(self, queued: _Queued) -> None:
        if queued.raise_due is not None:
            del self._raise_dues[queued.priority][queued.raise_due]
            queued.raise_due = None

    def _move(self, load: LoadId, queued: _Queued, rank: _Rank) -> None:
        del self._order[queued.rank]
        queued.rank = rank
        self._order[rank] = load
