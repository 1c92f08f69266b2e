"""How long a failed load is believed, and whose fault it was."""

from modelmesh.policy.failure import DEFAULT_EXPIRY_MS, believe
from modelmesh.values.ids import Revision
from modelmesh.values.records import FailureKind
from modelmesh.values.status import Status


def remember(status=Status.INTERNAL, previous=None, *, revision=1, now_ms=0):
    return believe(status, "why", previous=previous, record_revision=Revision(revision), now_ms=now_ms)


def test_a_bad_model_is_believed_twice_as_long_each_time_up_to_a_bound() -> None:
    record = None
    lifetimes = []
    for _ in range(8):
        record = remember(previous=record)
        lifetimes.append((record.until_ms - record.since_ms) // DEFAULT_EXPIRY_MS)
    assert lifetimes == [1, 2, 4, 8, 16, 32, 32, 32]


def test_a_new_record_starts_anew() -> None:
    assert remember(previous=remember(previous=remember()), revision=2).count == 1


def test_a_runtime_without_memory_or_connection_is_not_the_models_fault() -> None:
    for status in (Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.CANCELLED):
        record = remember(status, previous=remember(status))
        assert record.kind is FailureKind.BAD_INSTANCE
        assert record.until_ms == DEFAULT_EXPIRY_MS // 15
