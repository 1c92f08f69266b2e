"""The state of each instance for a model: why it has a copy, could have one, or could not. Called by `modelmesh.management.explain`."""

import enum
from dataclasses import dataclass

from modelmesh.policy.constraints import TypeConstraints
from modelmesh.values.ids import InstanceId
from modelmesh.values.memory import Memory
from modelmesh.values.view import ClusterView, InstanceView, ModelView


class PlaceReason(enum.Enum):
    """In the order in which they count: the first that applies."""

    HOLDS = "holds"
    LOADS = "loads"
    UNREACHABLE = "unreachable"
    DRAINING = "draining"
    NO_RUNTIME = "no_runtime"
    LACKS_LABELS = "lacks_labels"
    FAILED = "failed"
    TOO_SMALL = "too_small"
    REPLACED = "replaced"
    HAS_ROOM = "has_room"
    MUST_EVICT = "must_evict"


@dataclass(frozen=True, slots=True)
class Place:
    """One instance. `detail` is for people."""

    instance: InstanceId
    reason: PlaceReason
    detail: str = ""


def describe_places(
    model: ModelView,
    cluster: ClusterView,
    *,
    size: Memory,
    model_type: str,
    constraints: TypeConstraints,
    now_ms: int,
) -> tuple[Place, ...]:
    """Describe every instance, in the order of the view.

    Args:
        model: Its copies and failures.
        cluster: The instances.
        size: Predicted size of a copy.
        model_type: The model's type.
        constraints: Where models of which type may go.
        now_ms: Epoch milliseconds.
    """
    return tuple(
        Place(entry.instance, *_verdict(entry, model, size, model_type, constraints, now_ms))
        for entry in cluster.instances
    )


def _verdict(
    entry: InstanceView, model: ModelView, size: Memory, model_type: str, constraints: TypeConstraints, now_ms: int
) -> tuple[PlaceReason, str]:
    copy = model.copy_at(entry.instance)
    if copy is not None:
        seconds = max(0, now_ms - copy.since_ms) // 1000
        return (PlaceReason.HOLDS if copy.ready else PlaceReason.LOADS), f"{copy.size}, since {seconds} s"
    if (out := _out_of_use(entry)) is not None:
        return out
    if missing := constraints.missing(model_type, entry.record.labels):
        return PlaceReason.LACKS_LABELS, f"type {model_type} requires [{', '.join(missing)}]"
    for failure in model.failures:
        if failure.instance == entry.instance and failure.record.believed(now_ms):
            seconds = (failure.record.until_ms - now_ms) // 1000
            tried = f"not tried again for {seconds} s, failure {failure.record.count}"
            return PlaceReason.FAILED, f"{tried}: {failure.record.message}"
    return _room(entry, size, now_ms)


def _out_of_use(entry: InstanceView) -> tuple[PlaceReason, str] | None:
    if not entry.reachable:
        return PlaceReason.UNREACHABLE, ""
    if entry.record.draining:
        return PlaceReason.DRAINING, ""
    if not entry.record.runtime_ready:
        return PlaceReason.NO_RUNTIME, "its runtime is not connected"
    return None


def _room(entry: InstanceView, size: Memory, now_ms: int) -> tuple[PlaceReason, str]:
    record = entry.record
    if not size.fits(record.capacity):
        return PlaceReason.TOO_SMALL, f"{size} are needed, it has {record.capacity} in all"
    if not size.fits(entry.evictable):
        pinned = f"{record.pinned} of its {record.capacity} are pinned"
        return PlaceReason.TOO_SMALL, f"{size} are needed, {pinned}"
    if entry.outdated:
        return PlaceReason.REPLACED, "a newer deployment is being rolled out"
    room = f"{entry.free} of {record.capacity} free, {record.copies} copies, {record.loads} loads"
    if size.fits(entry.free):
        return PlaceReason.HAS_ROOM, room
    if not record.next_victim_use_ms:
        return PlaceReason.MUST_EVICT, f"{room}; no copy there can be evicted at the moment"
    seconds = max(0, now_ms - record.next_victim_use_ms) // 1000
    return PlaceReason.MUST_EVICT, f"{room}; the copy that would leave next was used {seconds} s ago"
