"""Which instances are about to be replaced, because a newer deployment of the same kind is being rolled out.

Placement leaves them alone while others can load. Called by `modelmesh.control.view.placed`. Source: the INTENT of
`spec/cluster-state.md` 8.3; its history of each set is not needed, the members and their start times are enough.
"""

from collections.abc import Iterable

from modelmesh.values.ids import InstanceId
from modelmesh.values.view import InstanceView

ROLLOUT_MS = 1_200_000
"""A rollout is believed to continue for so long after its latest instance started."""

SET_LENGTH = 6
"""Kubernetes ends pod names with `-<hash of the set>-<5 characters>`; instance ids are the last twelve characters."""


def outdated(instances: Iterable[InstanceView], *, now_ms: int) -> frozenset[InstanceId]:
    """Instances of a set of which a newer one, with the same labels, is starting now.

    Args:
        instances: All instances.
        now_ms: Epoch milliseconds; start times are those that the instances publish, so the clocks of hosts must roughly agree.
    """
    by_labels: dict[tuple[str, ...], dict[str, list[InstanceView]]] = {}
    for entry in instances:
        name = replica_set(entry.instance)
        if name is not None:
            by_labels.setdefault(entry.record.labels, {}).setdefault(name, []).append(entry)
    found: set[InstanceId] = set()
    for sets in by_labels.values():
        newest = max(sets.values(), key=_first_start)
        if _last_start(newest) <= now_ms - ROLLOUT_MS:
            continue
        for members in sets.values():
            if members is not newest and _last_start(members) < _first_start(newest):
                found.update(entry.instance for entry in members)
    return frozenset(found)


def replica_set(instance: InstanceId) -> str | None:
    """The set that an id from a pod name belongs to; None for ids of another form."""
    if len(instance) > SET_LENGTH and instance[SET_LENGTH] == "-":
        return instance[:SET_LENGTH]
    return None


def _first_start(members: list[InstanceView]) -> int:
    return min(entry.record.started_ms for entry in members)


def _last_start(members: list[InstanceView]) -> int:
    return max(entry.record.started_ms for entry in members)
