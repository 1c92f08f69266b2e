"""How long a failed load is remembered, what caused it, and how many runtimes one model may crash.

Called by `modelmesh.control.copies.listing` when a load fails, by `modelmesh.control.copies.losses` when a runtime ends under
calls, and by `modelmesh.policy.attempt` before each load. A runtime that cannot be reached, or has no memory, says
nothing about the model.
"""

from collections.abc import Iterable

from modelmesh.values.ids import Revision
from modelmesh.values.records import FailureKind, FailureRecord
from modelmesh.values.status import Status

DEFAULT_EXPIRY_MS = 900_000
MAX_BACKOFF_DOUBLINGS = 5
SHORT = 15
"""A failure that is probably not caused by the model is believed for this fraction of the time."""

MOST_LOSSES = 2
"""Runtimes and instances that one model may end before it is not loaded any more. One may be chance; a third can be avoided."""

_INSTANCE_FAULTS = frozenset({Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.CANCELLED})
LOSSES = frozenset({FailureKind.LOST_WHILE_LOADING, FailureKind.LOST_IN_USE})


def classify(status: Status) -> FailureKind:
    """Distinguish a bad model from a bad instance by the status of the failed load."""
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
    again = previous is not None and previous.record_revision == record_revision and previous.kind is kind
    count = previous.count + 1 if previous is not None and again else 1
    lifetime_ms = _doubled(expiry_ms, count - 1) if kind is FailureKind.BAD_MODEL else expiry_ms // SHORT
    return FailureRecord(kind, message, count, now_ms, now_ms + lifetime_ms, record_revision)


def lost(
    kind: FailureKind,
    message: str,
    *,
    known: Iterable[FailureRecord],
    record_revision: Revision,
    now_ms: int,
    expiry_ms: int = DEFAULT_EXPIRY_MS,
) -> FailureRecord:
    """The failure to remember when a runtime, or its instance, ended under a load or a call.

    The first may be chance and is believed for a fifteenth of the time. From the second on, wherever it was, the model
    rests everywhere: for the whole time after a load, for that fifteenth after a call, twice as long after each further.

    Args:
        kind: One of `LOSSES`.
        message: For people.
        known: What is remembered of the model, of all instances.
        record_revision: Create revision of the model's record.
        now_ms: Epoch milliseconds.
        expiry_ms: How long failures are believed.
    """
    count = losses((record for record in known if record.record_revision == record_revision), kind) + 1
    if kind is FailureKind.LOST_WHILE_LOADING and count >= MOST_LOSSES:
        lifetime_ms = _doubled(expiry_ms, count - MOST_LOSSES)
    else:
        lifetime_ms = _doubled(expiry_ms // SHORT, max(0, count - MOST_LOSSES))
    return FailureRecord(kind, message, count, now_ms, now_ms + lifetime_ms, record_revision)


def losses(known: Iterable[FailureRecord], kind: FailureKind) -> int:
    """How many runtimes and instances the model has ended in that way, as far as is remembered; other instances continue the count."""
    counts = [record.count for record in known if record.kind is kind]
    return max(len(counts), max(counts, default=0))


def resting(known: Iterable[FailureRecord], now_ms: int) -> FailureRecord | None:
    """Why the model may not be loaded or called anywhere at present; None: it may. `known`: of all instances."""
    believed = [record for record in known if record.kind in LOSSES and record.believed(now_ms)]
    enough = [record for record in believed if losses(believed, record.kind) >= MOST_LOSSES]
    return max(enough, key=lambda record: record.until_ms, default=None)


def forgotten(record: FailureRecord, now_ms: int, expiry_ms: int = DEFAULT_EXPIRY_MS) -> bool:
    """Whether it is so long past that its count does not matter any more: that makes the next one last longer."""
    lifetime_ms = record.until_ms - record.since_ms
    return now_ms > record.until_ms + (max(expiry_ms, lifetime_ms) if record.kind in LOSSES else lifetime_ms)


def _doubled(expiry_ms: int, times: int) -> int:
    return expiry_ms << min(times, MAX_BACKOFF_DOUBLINGS)
