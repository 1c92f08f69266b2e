"""Whether a load may begin here."""

from random import Random

import pytest

from modelmesh.policy.admission import AdmissionReason as R
from modelmesh.policy.admission import LoadCondition, admit, retry_after_ms, settled, spread_ms
from modelmesh.values.ids import InstanceId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import MemberRecord
from modelmesh.values.view import ClusterView, InstanceView


def condition(*, used=0, pinned=0, oldest=0, draining=False, ready=True) -> LoadCondition:
    return LoadCondition(Memory(1000), Memory(100), Memory(pinned), Memory(used), oldest, draining, ready)


@pytest.mark.parametrize(
    ("state", "size", "last_use", "reason"),
    [
        (condition(), 10, None, R.ADMITTED),
        (condition(), 1000, None, R.ADMITTED),
        (condition(), 1001, None, R.TOO_LARGE),
        (condition(pinned=300), 700, None, R.ADMITTED),
        (condition(pinned=300), 701, None, R.BESIDE_PINNED),
        (condition(draining=True), 10, None, R.DRAINING),
        (condition(ready=False), 10, None, R.RUNTIME_AWAY),
        (condition(used=900, oldest=50), 10, 49, R.DISPLACES_NEWER),
        (condition(used=900, oldest=50), 10, 51, R.ADMITTED),
        (condition(used=900, oldest=50), 10, None, R.ADMITTED),
        (condition(used=100, oldest=50), 10, 49, R.ADMITTED),
    ],
)
def test_admission(state, size, last_use, reason) -> None:
    assert admit(state, size=Memory(size), last_use_ms=last_use) is reason


def place(name: str, *, loads: int, slots: int = 2, **more) -> InstanceView:
    record = MemberRecord(
        address=name, capacity=Memory(1000), loads=loads, loading_slots=slots, runtime_ready=True, **more
    )
    return InstanceView(InstanceId(name), record)


def test_a_caller_is_told_to_come_back_when_the_shortest_queue_has_moved_on() -> None:
    view = ClusterView(InstanceId("a"), Revision(1), (place("a", loads=8), place("b", loads=4)))
    assert retry_after_ms(view, load_ms=500) == 3 * 500
    leaving = ClusterView(InstanceId("a"), Revision(1), (place("a", loads=8), place("b", loads=4, draining=True)))
    assert retry_after_ms(leaving, load_ms=500) == 5 * 500


def test_what_a_caller_is_told_is_bounded() -> None:
    idle = ClusterView(InstanceId("a"), Revision(1), (place("a", loads=0),))
    nobody = ClusterView(InstanceId("a"), Revision(1))
    assert retry_after_ms(idle, load_ms=1) == 100
    assert retry_after_ms(idle, load_ms=10_000_000) == retry_after_ms(nobody, load_ms=500) == 60_000


def test_callers_refused_together_do_not_come_back_together_and_never_too_early() -> None:
    told = [spread_ms(1_000, Random(seed)) for seed in range(100)]
    assert len(set(told)) > 50
    assert min(told) >= 1_000
    assert max(told) <= 1_500
    assert spread_ms(0, Random(0)) == 0


def test_a_copy_stays_for_a_quarter_of_its_load_time_and_five_seconds_at_most() -> None:
    assert not settled(loaded_ago_ms=499, load_ms=2_000)
    assert settled(loaded_ago_ms=500, load_ms=2_000)
    assert settled(loaded_ago_ms=5_000, load_ms=600_000)
    assert settled(loaded_ago_ms=0, load_ms=0)
