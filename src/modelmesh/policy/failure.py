"""How long is a failed load believed, and whose fault was it.

Called by `modelmesh.control.copy_listing` when a load fails. A runtime that cannot be reached, or has no
memory, says nothing about the model.
"""

from modelmesh.values.ids import InstanceId, Revision
from modelmesh.values.records import FailureKind, FailureRecord
from modelmesh.values.status import Status

DEFAULT_EXPIRY_MS = 900_000
MAX_BACKOFF_DOUBLINGS = 5

_INSTANCE_FAULTS = frozenset({Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.CANCELLED})


def classify(status: Status) -> FailureKind:
    """Tell a bad model from a bad instance by the status of the failed load."""
    return FailureKind.BAD_INSTANCE if status in _INSTANCE_FAULTS else FailureKind.BAD_MODEL


def believe(
    status: Status,
    message: str,
    *,
    previous: FailureRecord | None,
    record_revision: Revision,
    now_ms: int,
    expiry_ms: int = DEFAULT_EXPIRY_MS,
) -> FailureRecord:
    """The failure to remember. Each repetition for the same record doubles how long it is believed.

    A fault of the instance is believed for a fifteenth of the time, without growing.
    """
    kind = classify(status)
    count = _count(kind, previous, record_revision)
    lifetime_ms = _doubled(expiry_ms, count) if kind is FailureKind.BAD_MODEL else expiry_ms // 15
    return FailureRecord(kind, message, count, now_ms, now_ms + lifetime_ms, record_revision)


def lost_while_loading(
    instance: InstanceId,
    *,
    previous: FailureRecord | None,
    record_revision: Revision,
    now_ms: int,
    expiry_ms: int = DEFAULT_EXPIRY_MS,
) -> FailureRecord:
    """The failure to remember when an instance went while it loaded the model.

    It counts like a failure of the model: one that kills its instance must not kill all of them, one
    after another.
    """
    kind = FailureKind.LOST_WHILE_LOADING
    count = _count(kind, previous, record_revision)
    message = f"instance {instance} went away while it loaded the model"
    return FailureRecord(kind, message, count, now_ms, now_ms + _doubled(expiry_ms, count), record_revision)


def _count(kind: FailureKind, previous: FailureRecord | None, record_revision: Revision) -> int:
    """Which one in a row it is, of this kind and for the same record; from 1."""
    if previous is None or previous.record_revision != record_revision or previous.kind is not kind:
        return 1
    return previous.count + 1


def _doubled(expiry_ms: int, count: int) -> int:
    return expiry_ms << min(count - 1, MAX_BACKOFF_DOUBLINGS)
