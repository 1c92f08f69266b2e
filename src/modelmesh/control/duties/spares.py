"""Spares that this instance adds for regular use: the room they will take, and whether they stayed.

Facts for `modelmesh.policy.copies`, kept by `modelmesh.control.duties.scale`. Times are monotonic milliseconds.
"""

from collections.abc import Callable, Iterable

from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import NOTHING, Memory, total
from modelmesh.values.view import ClusterView, InstanceView


class Spares:
    """What to remember of them.

    Args:
        changing: Whether a copy of the model is being added or loaded somewhere.
        again_ms: For how long it is remembered that a spare was added.
    """

    def __init__(self, *, changing: Callable[[ModelId], bool], again_ms: int) -> None:
        self._changing = changing
        self._again_ms = again_ms
        self._added_ms: dict[ModelId, int] = {}
        self._under_way: dict[ModelId, Memory] = {}
        self._free: dict[InstanceId, Memory] = {}
        self._available: dict[InstanceId, None] = {}
        self._gone_ms: int | None = None

    def look(self, cluster: ClusterView, now_ms: int) -> None:
        """Take in the instances as they are, and forget what is outdated."""
        available = {entry.instance: None for entry in cluster.instances if entry.available}
        if any(instance not in available for instance in self._available):
            self._gone_ms = now_ms
        self._available = available
        self._free = {
            entry.instance: entry.free for entry in cluster.instances if entry.available and not entry.outdated
        }
        self._added_ms = {model: at for model, at in self._added_ms.items() if now_ms - at < self._again_ms}
        self._under_way = {model: size for model, size in self._under_way.items() if self._changing(model)}

    def begins(self, model: ModelId, size: Memory) -> None:
        """One is wanted, of this size."""
        self._under_way[model] = size

    def full(self, model: ModelId, cluster: ClusterView) -> frozenset[InstanceId]:
        """Instances that have no room for the one that is wanted, or are being replaced."""
        size = self._under_way.get(model, NOTHING)
        return frozenset(entry.instance for entry in cluster.instances if entry.outdated or not size.fits(entry.free))

    def added(self, model: ModelId, now_ms: int) -> None:
        """It was found a place."""
        self._added_ms[model] = now_ms

    def was_added(self, model: ModelId) -> bool:
        """Whether one was added, not long ago."""
        return model in self._added_ms

    def added_ago_ms(self, model: ModelId, now_ms: int) -> int | None:
        """Since one was last added; None if that was long ago.

        Also None if an instance has left since: a missing spare may have been lost with it, which is what spares are for.
        """
        added_ms = self._added_ms.get(model)
        if added_ms is None or (self._gone_ms is not None and self._gone_ms >= added_ms):
            return None
        return now_ms - added_ms

    @property
    def promised(self) -> Memory:
        """What those under way will take; some of it may show in the instances' entries already."""
        return total(self._under_way.values())

    def fits(self, size: Memory, places: Iterable[InstanceView]) -> bool:
        """Whether one of the places has so much room. Those that are being replaced are none."""
        return any(size.fits(self._free.get(place.instance, NOTHING)) for place in places)
