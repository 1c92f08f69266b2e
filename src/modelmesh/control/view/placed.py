"""The other instances, with facts that their entries do not have yet: loads sent there from here, and whether they will be replaced.

Without the former all misses of a second would choose the same instance.
"""

import bisect
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from modelmesh.policy.upgrade import outdated
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.view import ClusterView, InstanceView

ENTRY_LAG_MS = 2_000
"""A load sent to an instance shows in its entry by then: it publishes a change within a second."""

OUTDATED_LOOK_MS = 10_000
"""How often it is decided which instances are being replaced, besides whenever instances are added or removed."""


class Placed:
    """Loads placed from here. Times are monotonic milliseconds unless named otherwise.

    Made for clusters of a thousand instances that each publish an entry every second, and for many loads at once:
    an entry is adjusted again only if it, or the loads sent there, changed.
    """

    def __init__(self) -> None:
        self._sent: deque[tuple[int, InstanceId, Memory]] = deque()
        self._sums: dict[InstanceId, tuple[Memory, int]] = {}
        self._under_way: dict[tuple[ModelId, InstanceId], int] = {}
        """Loads that were sent and whose keys have not been seen, and until when they are waited for."""
        self._adjusted: dict[InstanceId, tuple[InstanceView, InstanceView]] = {}
        self._replaced: frozenset[InstanceId] = frozenset()
        self._members: tuple[InstanceId, ...] = ()
        self._look_ms = 0

    def sent(self, model: ModelId, instance: InstanceId, size: Memory, now_ms: int) -> None:
        """A load of about this size was sent to an instance."""
        self._under_way[model, instance] = now_ms + ENTRY_LAG_MS
        self._sent.append((now_ms + ENTRY_LAG_MS, instance, size))
        self._add(instance, size, 1)

    def loading(
        self, seen: Mapping[InstanceId, int], has_copy: Callable[[ModelId, InstanceId], bool], now_ms: int
    ) -> Mapping[InstanceId, int]:
        """Loads of each instance: those seen by their keys, and those sent whose keys have not come yet."""
        if not self._under_way:
            return seen
        self._under_way = {
            load: until_ms for load, until_ms in self._under_way.items() if until_ms > now_ms and not has_copy(*load)
        }
        loading = dict(seen)
        for _, instance in self._under_way:
            loading[instance] = loading.get(instance, 0) + 1
        return loading

    def is_replaced(self, instance: InstanceId) -> bool:
        """Whether it is being replaced by a newer one."""
        return instance in self._replaced

    def look(self, view: ClusterView, now_ms: int, *, epoch_ms: int) -> tuple[tuple[InstanceView, ...], int]:
        """The instances of `view`, adjusted, and until when they can be taken so if nothing is sent."""
        while self._sent and self._sent[0][0] <= now_ms:
            _, instance, size = self._sent.popleft()
            self._add(instance, NOTHING - size, -1)
        members = tuple(entry.instance for entry in view.instances)
        if now_ms >= self._look_ms or members != self._members:
            self._members = members
            self._look_ms = now_ms + OUTDATED_LOOK_MS
            replaced = outdated(view.instances, now_ms=epoch_ms)
            if replaced != self._replaced:
                self._replaced = replaced
                self._adjusted.clear()
        until_ms = min(self._look_ms, self._sent[0][0]) if self._sent else self._look_ms
        touched = dict.fromkeys((*self._sums, *sorted(self._replaced)))
        if not touched:
            return view.instances, until_ms
        entries = list(view.instances)
        for instance in touched:
            at = bisect.bisect_left(members, instance)
            if at < len(members) and members[at] == instance:
                entries[at] = self._adjust(entries[at])
        return tuple(entries), until_ms

    def _add(self, instance: InstanceId, size: Memory, loads: int) -> None:
        all_sizes, all_loads = self._sums.get(instance, (NOTHING, 0))
        if all_loads + loads:
            self._sums[instance] = (all_sizes + size, all_loads + loads)
        else:
            del self._sums[instance]
        self._adjusted.pop(instance, None)

    def _adjust(self, entry: InstanceView) -> InstanceView:
        known = self._adjusted.get(entry.instance)
        if known is not None and known[0] is entry:
            return known[1]
        size, loads = self._sums.get(entry.instance, (NOTHING, 0))
        record = entry.record
        if loads:
            record = replace(record, used=record.used + size, copies=record.copies + loads, loads=record.loads + loads)
        adjusted = replace(entry, record=record, outdated=entry.instance in self._replaced)
        self._adjusted[entry.instance] = (entry, adjusted)
        return adjusted
