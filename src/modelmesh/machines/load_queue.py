"""The order in which queued loads begin.

Loads that callers wait for come before all others, the longest waiting first, so that none starves;
the rest (preloads, registrations with load-now) most recently used first.
"""

from dataclasses import dataclass
from itertools import count, islice

from sortedcontainers import SortedDict

from modelmesh.values.ids import LoadId


@dataclass(frozen=True, slots=True, order=True)
class _Rank:
    kind: int
    order: int
    tie: int


class LoadQueue:
    """A priority queue whose entries may be promoted and removed; O(log n) per change."""

    def __init__(self) -> None:
        self._ranks: dict[LoadId, _Rank] = {}
        self._order: SortedDict[_Rank, LoadId] = SortedDict()
        self._ties = count()

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, load: LoadId) -> bool:
        return load in self._ranks

    def push(self, load: LoadId, *, waited_for: bool, last_use_ms: int, now_ms: int) -> None:
        """Add a load."""
        assert load not in self._ranks
        kind, order = (0, now_ms) if waited_for else (1, -last_use_ms)
        self._insert(load, _Rank(kind, order, next(self._ties)))

    def promote(self, load: LoadId, *, now_ms: int) -> None:
        """A caller waits for a load now: it overtakes those without a waiting caller."""
        rank = self._ranks.get(load)
        if rank is not None and rank.kind != 0:
            self.remove(load)
            self._insert(load, _Rank(0, now_ms, next(self._ties)))

    def remove(self, load: LoadId) -> None:
        """Take a load out; nothing happens if it is not queued."""
        rank = self._ranks.pop(load, None)
        if rank is not None:
            del self._order[rank]

    def first(self) -> LoadId | None:
        """The next load; it stays."""
        if not self._ranks:
            return None
        load: LoadId = self._order.peekitem(0)[1]
        return load

    def last(self, most: int) -> tuple[LoadId, ...]:
        """The loads that come last, the very last first; they stay."""
        return tuple(islice(reversed(self._order.values()), most))

    def _insert(self, load: LoadId, rank: _Rank) -> None:
        self._ranks[load] = rank
        self._order[rank] = load
