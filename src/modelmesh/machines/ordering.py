"""Names sorted by rank, for ranks that change far more often than the order is read."""

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=str)
Rank = TypeVar("Rank", float, tuple[int, int])

SLACK = 64
"""Outdated entries that are kept in any case; beyond it as many as there are names."""


class Ordering(Generic[Rank, Name]):
    """A heap whose outdated entries are skipped: a new rank costs one push, and is sorted in when it is reached.

    Of equal ranks the lower name is first.
    """

    __slots__ = ("_heap", "_ranks")

    def __init__(self) -> None:
        self._ranks: dict[Name, Rank] = {}
        self._heap: list[tuple[Rank, Name]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, name: Name) -> bool:
        return name in self._ranks

    def rank(self, name: Name) -> Rank | None:
        """Of a name; None if it is not in."""
        return self._ranks.get(name)

    def put(self, name: Name, rank: Rank) -> None:
        """Take a name in, or give it another rank."""
        self._ranks[name] = rank
        heap = self._heap
        if heap and self._ranks.get(heap[0][1]) != heap[0][0]:
            heapq.heapreplace(heap, (rank, name))  # or they pile up there, and one reader has to clear them away
        else:
            heapq.heappush(heap, (rank, name))
            if len(heap) > 2 * len(self._ranks) + SLACK:
                self._heap = [(rank, name) for name, rank in self._ranks.items()]
                heapq.heapify(self._heap)

    def remove(self, name: Name) -> Rank | None:
        """Take a name out; returns its rank, None if it was not in."""
        return self._ranks.pop(name, None)

    def first(self) -> Name | None:
        """The name of the lowest rank; None if there is none."""
        heap = self._heap
        while heap:
            rank, name = heap[0]
            if self._ranks.get(name) == rank:
                return name
            heapq.heappop(heap)
        return None

    def __iter__(self) -> Iterator[Name]:
        """All names, the lowest rank first; read on only while nothing changes. Reading k of them takes O(k log k)."""
        self.first()  # what is outdated below it would be walked through by every reader
        heap = self._heap
        ahead = [(heap[0], 0)] if heap else []
        before: tuple[Rank, Name] | None = None
        while ahead:
            entry, index = heapq.heappop(ahead)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heapq.heappush(ahead, (heap[child], child))
            if entry != before and self._ranks.get(entry[1]) == entry[0]:
                before = entry
                yield entry[1]
