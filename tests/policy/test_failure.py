"""How long a failed load is believed, and whose fault it was."""

from modelmesh.policy.failure import DEFAULT_EXPIRY_MS, believe, lost_while_loading
from modelmesh.values.ids import InstanceId, Revision
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


def test_a_model_whose_instance_dies_while_loading_it_is_to_blame_until_it_has_loaded() -> None:
    """One that kills instances must not kill all of them: it counts like a bad model, also in how long."""
    first = lost_while_loading(InstanceId("a"), previous=None, record_revision=Revision(1), now_ms=0)
    again = lost_while_loading(InstanceId("a"), previous=first, record_revision=Revision(1), now_ms=0)
    assert (first.kind, first.until_ms, again.until_ms) == (
        FailureKind.LOST_WHILE_LOADING,
        DEFAULT_EXPIRY_MS,
        2 * DEFAULT_EXPIRY_MS,
    )
    assert "a went away while it loaded the model" in first.message
    after_a_bad_load = lost_while_loading(InstanceId("a"), previous=remember(), record_revision=Revision(1), now_ms=0)
    assert after_a_bad_load.count == 1
