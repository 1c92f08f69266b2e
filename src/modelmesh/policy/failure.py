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
    repeated = previous is not None and previous.record_revision == record_revision and previous.kind is kind
    count = previous.count + 1 if previous is not None and repeated else 1
    if kind is FailureKind.BAD_MODEL:
        lifetime_ms = expiry_ms << min(count - 1, MAX_BACKOFF_DOUBLINGS)
    else:
        lifetime_ms = expiry_ms // 15
    return FailureRecord(
        kind=kind,
        message=message,
        count=count,
        since_ms=now_ms,
        until_ms=now_ms + lifetime_ms,
        record_revision=record_revision,
    )


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
    repeated = previous is not None and previous.record_revision == record_revision and previous.kind is kind
    count = previous.count + 1 if previous is not None and repeated else 1
    return FailureRecord(
        kind=kind,
        message=f"instance {instance} went away while it loaded the model",
        count=count,
        since_ms=now_ms,
        until_ms=now_ms + (expiry_ms << min(count - 1, MAX_BACKOFF_DOUBLINGS)),
        record_revision=record_revision,
    )
