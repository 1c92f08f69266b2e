"""How long a failed load is believed, and whose fault it was."""

from modelmesh.policy.failure import DEFAULT_EXPIRY_MS, believe, forgotten, losses, lost, resting
from modelmesh.values.ids import Revision
from modelmesh.values.records import FailureKind, FailureRecord
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


def losing(kind: FailureKind, times: int) -> list[FailureRecord]:
    """What is remembered after so many losses, each at another instance and when the rest before it was over."""
    known: list[FailureRecord] = []
    for _ in range(times):
        now_ms = known[-1].until_ms if known else 0
        known.append(lost(kind, "why", known=known, record_revision=Revision(1), now_ms=now_ms))
    return known


def lifetimes(records: list[FailureRecord]) -> list[float]:
    return [(record.until_ms - record.since_ms) / (DEFAULT_EXPIRY_MS / 15) for record in records]


def test_a_model_that_ends_runtimes_rests_everywhere_from_the_second_on_longer_each_time() -> None:
    assert lifetimes(losing(FailureKind.LOST_WHILE_LOADING, 9)) == [1, 15, 30, 60, 120, 240, 480, 480, 480]
    assert lifetimes(losing(FailureKind.LOST_IN_USE, 9)) == [1, 1, 2, 4, 8, 16, 32, 32, 32]
    first, second = losing(FailureKind.LOST_WHILE_LOADING, 2)
    assert resting([first], first.since_ms) is None
    assert resting([first, second], second.since_ms) is second
    assert resting([first, second], second.until_ms) is None


def test_two_losses_at_once_of_which_neither_knew_the_other_are_two() -> None:
    first = losing(FailureKind.LOST_WHILE_LOADING, 1)[0]
    also = lost(FailureKind.LOST_WHILE_LOADING, "why", known=[], record_revision=Revision(1), now_ms=0)
    assert losses([first, also], FailureKind.LOST_WHILE_LOADING) == 2
    assert resting([first, also], 0) is not None


def test_what_other_failures_say_counts_for_nothing_and_a_new_record_starts_anew() -> None:
    called = losing(FailureKind.LOST_IN_USE, 3)
    assert losses([remember(), *called], FailureKind.LOST_WHILE_LOADING) == 0
    known = losing(FailureKind.LOST_WHILE_LOADING, 3)
    again = lost(FailureKind.LOST_WHILE_LOADING, "why", known=known, record_revision=Revision(2), now_ms=0)
    assert again.count == 1


def test_what_was_lost_is_counted_for_as_long_as_a_failed_load_is_believed() -> None:
    """Else a model that rests for a minute would be as new after two."""
    record = losing(FailureKind.LOST_IN_USE, 2)[1]
    assert not forgotten(record, record.until_ms + DEFAULT_EXPIRY_MS)
    assert forgotten(record, record.until_ms + DEFAULT_EXPIRY_MS + 1)
    assert forgotten(remember(), 2 * DEFAULT_EXPIRY_MS + 1)
