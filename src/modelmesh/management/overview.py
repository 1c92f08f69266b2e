"""What the console shows of a cluster, as JSON: instances with their largest copies, and loads."""

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelmesh.policy.waiting import common_load_ms, wait_ms
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.view import ClusterView, Copy

SHOWN_COPIES = 24
"""Of each instance, the largest; the others are added up."""

SHOWN_LOADS = 100


def instances_now(view: ClusterView, copies: Iterable[tuple[ModelId, Copy]]) -> list[dict[str, Any]]:
    """Each instance, and what is in its memory."""
    held: dict[InstanceId, list[tuple[int, ModelId, Copy]]] = {entry.instance: [] for entry in view.instances}
    for model, copy in copies:
        if (of_instance := held.get(copy.instance)) is not None:
            of_instance.append((copy.size.bytes, model, copy))
    common_ms = common_load_ms(view)
    return [
        {
            "id": entry.instance,
            "capacity": entry.record.capacity.bytes,
            "used": entry.record.used.bytes,
            "copies": entry.record.copies,
            "loads": view.loads_at(entry),
            "queued": max(0, view.loads_at(entry) - entry.record.loading_slots),
            "wait_ms": wait_ms(entry, view.loads_at(entry), common_ms=common_ms),
            "state": _state(
                reachable=entry.reachable, draining=entry.record.draining, ready=entry.record.runtime_ready
            ),
            "zone": entry.record.zone,
            "labels": list(entry.record.labels),
            **_memory(held[entry.instance]),
        }
        for entry in view.instances
    ]


def _state(*, reachable: bool, draining: bool, ready: bool) -> str:
    if not reachable:
        return "unreachable"
    if draining:
        return "draining"
    return "serving" if ready else "without runtime"


def _memory(held: list[tuple[int, ModelId, Copy]]) -> dict[str, Any]:
    largest = heapq.nlargest(SHOWN_COPIES, held, key=lambda one: (one[0], one[1]))
    return {
        "models": [[model, size, int(copy.ready)] for size, model, copy in largest],
        "others": [len(held) - len(largest), sum(one[0] for one in held) - sum(one[0] for one in largest)],
    }


def loads_now(
    copies: Iterable[tuple[ModelId, Copy]],
    waiting: Mapping[str, int],
    progress: Callable[[ModelId], LoadProgress | None],
    own: InstanceId,
) -> list[dict[str, Any]]:
    """What is being loaded, the oldest first, with the calls that wait for it here."""
    loading = ((model, copy) for model, copy in copies if not copy.ready)
    return [
        {
            "model": model,
            "instance": copy.instance,
            "since_ms": copy.since_ms,
            "size": copy.size.bytes,
            "calls": waiting.get(model, 0),
            "stage": str(progress(model) or "") if copy.instance == own else "",
        }
        for model, copy in heapq.nsmallest(SHOWN_LOADS, loading, key=lambda one: (one[1].since_ms, one[0]))
    ]


def wire(number: int, event: Event) -> dict[str, Any]:
    """An event."""
    fields: dict[str, Any] = {
        "n": number,
        "ms": event.time_ms,
        "kind": event.kind,
        "model": event.model,
        "reason": event.reason,
        "detail": event.detail,
    }
    return fields | ({"cause": event.cause} if event.cause is not None else {})
