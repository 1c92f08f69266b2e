"""How long a load would wait at an instance."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.waiting import UNKNOWN_LOAD_MS, common_load_ms, usable_slots, wait_ms
from modelmesh.values.ids import InstanceId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import MemberRecord
from modelmesh.values.view import ClusterView, InstanceView


def entry(*, slots: int = 2, loads: int = 0, backlog_ms: int = 0, load_ms: int = 1_000) -> InstanceView:
    record = MemberRecord("a:1", loading_slots=slots, loads=loads, backlog_ms=backlog_ms, load_ms=load_ms)
    return InstanceView(InstanceId("a"), record)


def test_a_free_slot_is_no_wait() -> None:
    assert wait_ms(entry(loads=1, backlog_ms=90_000), 1) == 0


def test_a_queue_is_its_backlog_over_its_slots() -> None:
    assert wait_ms(entry(loads=4, backlog_ms=9_000), 4) == 4_500


def test_what_came_and_went_since_the_entry_counts_as_loads_commonly_take() -> None:
    assert wait_ms(entry(loads=4, backlog_ms=9_000), 6) == 5_500
    assert wait_ms(entry(loads=9, backlog_ms=9_000), 2) == 1_000


def test_nobody_knows_how_long_and_yet_a_queue_is_longer_than_none() -> None:
    unknown = entry(load_ms=0)
    assert wait_ms(unknown, 3) == 3 * UNKNOWN_LOAD_MS // 2


def test_who_has_told_of_no_load_is_taken_to_load_as_here() -> None:
    here = entry(load_ms=100)
    view = ClusterView(here.instance, Revision(1), (here,))
    assert common_load_ms(view) == 100
    assert wait_ms(entry(load_ms=0), 3, common_ms=common_load_ms(view)) == 150
    assert common_load_ms(ClusterView(here.instance, Revision(1))) == UNKNOWN_LOAD_MS


def test_loads_that_have_no_room_beside_each_other_wait_though_slots_are_free() -> None:
    at = entry(slots=8, loads=3, backlog_ms=3_000)
    roomy = replace(at, record=replace(at.record, capacity=Memory(800), used=Memory(300), copies=3))
    tight = replace(at, record=replace(at.record, capacity=Memory(300), used=Memory(300), copies=3))
    assert wait_ms(roomy, 3) == 0
    assert wait_ms(tight, 3) == 1_000
    assert usable_slots(replace(tight.record, used=Memory(3), capacity=Memory(0))) == 1


@given(st.integers(0, 64), st.integers(0, 1_000), st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 1_000))
def test_more_loads_are_never_a_shorter_wait(slots: int, told: int, backlog_ms: int, load_ms: int, loads: int) -> None:
    at = entry(slots=slots, loads=told, backlog_ms=backlog_ms, load_ms=load_ms)
    assert 0 <= wait_ms(at, loads) <= wait_ms(at, loads + 1)
    assert wait_ms(replace(at, record=replace(at.record, backlog_ms=0)), loads) <= wait_ms(at, loads)
