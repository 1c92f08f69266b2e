"""How many copies a model should have, as sentences."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.copies import (
    AddCopies,
    ClusterRoom,
    CopiesReason,
    DropCopy,
    KeepCopies,
    ModelLoad,
    fewer_copies,
    more_copies,
    regular_use,
)
from modelmesh.values.memory import Memory

MINUTE = 60_000
HOUR = 60 * MINUTE
ROOMY = ClusterRoom(capacity=Memory(1000), free=Memory(500), leaving_age_ms=HOUR)
FULL = ClusterRoom(capacity=Memory(1000), free=Memory(10), leaving_age_ms=10 * HOUR)
IDLE = ModelLoad(ready=1, loading=0, places=4, rate=0, threshold=2000, size=Memory(100), fits=True)
SPARE = AddCopies(1, CopiesReason.REGULAR_USE, displaces=False)
TRIPLE = ModelLoad(ready=3, loading=0, places=0, rate=10, threshold=2000, newest_ms=HOUR)


def test_a_model_with_little_to_do_keeps_its_copy() -> None:
    assert more_copies(IDLE, ROOMY) == KeepCopies(CopiesReason.ENOUGH)
    assert fewer_copies(IDLE, FULL) == KeepCopies(CopiesReason.ENOUGH)


def test_copies_are_added_for_the_rate_of_all_holders_together() -> None:
    assert more_copies(replace(IDLE, rate=1999), ROOMY) == KeepCopies(CopiesReason.ENOUGH)
    assert more_copies(replace(IDLE, rate=2000), ROOMY) == AddCopies(1, CopiesReason.RATE)
    assert more_copies(replace(IDLE, rate=7000), ROOMY) == AddCopies(3, CopiesReason.RATE)
    assert more_copies(replace(IDLE, ready=2, rate=3999), ROOMY) == KeepCopies(CopiesReason.ENOUGH)


def test_no_more_copies_than_places_and_than_the_maximum() -> None:
    assert more_copies(replace(IDLE, rate=70_000, places=2), ROOMY) == AddCopies(2, CopiesReason.RATE)
    assert more_copies(replace(IDLE, rate=70_000, maximum=2), ROOMY) == AddCopies(1, CopiesReason.RATE)
    assert more_copies(replace(IDLE, rate=70_000, places=0), ROOMY) == KeepCopies(CopiesReason.NO_PLACE)


def test_nothing_is_added_while_a_copy_is_loading() -> None:
    assert more_copies(replace(IDLE, rate=9000, loading=1), ROOMY) == KeepCopies(CopiesReason.CHANGING)


def test_a_saturated_copy_gets_a_second_whatever_the_rate() -> None:
    load = replace(IDLE, rate=20, threshold=None, saturated=True)
    assert more_copies(load, ROOMY) == AddCopies(1, CopiesReason.SATURATED)


def test_a_minimum_is_kept_also_for_a_model_without_use() -> None:
    assert more_copies(replace(IDLE, minimum=3), FULL) == AddCopies(2, CopiesReason.BELOW_MINIMUM)
    assert fewer_copies(replace(TRIPLE, minimum=3, unused_ms=100 * HOUR), FULL) == KeepCopies(CopiesReason.ENOUGH)


def test_regular_use_is_worth_a_spare_where_there_is_room() -> None:
    assert more_copies(replace(IDLE, regular=True), ROOMY) == SPARE
    assert more_copies(replace(IDLE, regular=True), FULL) == KeepCopies(CopiesReason.NO_ROOM)
    assert more_copies(replace(IDLE, regular=True, ready=2), ROOMY) == KeepCopies(CopiesReason.ENOUGH)


def test_a_spare_leaves_a_tenth_of_the_room_free() -> None:
    regular = replace(IDLE, regular=True)
    assert more_copies(regular, replace(ROOMY, free=Memory(200))) == SPARE
    assert more_copies(regular, replace(ROOMY, free=Memory(199))) == KeepCopies(CopiesReason.NO_ROOM)
    under_way = replace(ROOMY, free=Memory(299), promised=Memory(100))
    assert more_copies(regular, under_way) == KeepCopies(CopiesReason.NO_ROOM)


def test_a_spare_displaces_nothing_unless_that_is_very_old() -> None:
    regular = replace(IDLE, regular=True)
    scattered = replace(regular, fits=False, displaced_ms=20 * HOUR)
    assert more_copies(scattered, ROOMY) == KeepCopies(CopiesReason.NO_ROOM)
    old = replace(regular, fits=False, displaced_ms=21 * HOUR)
    assert more_copies(old, FULL) == AddCopies(1, CopiesReason.REGULAR_USE, displaces=True)


def test_a_spare_that_was_given_up_is_not_added_again_for_a_while() -> None:
    regular = replace(IDLE, regular=True)
    assert more_copies(replace(regular, spared_ago_ms=7 * MINUTE - 1), ROOMY) == KeepCopies(CopiesReason.GIVEN_UP)
    assert more_copies(replace(regular, spared_ago_ms=7 * MINUTE), ROOMY) == SPARE
    hot = replace(regular, spared_ago_ms=0, rate=2000)
    assert more_copies(hot, ROOMY) == AddCopies(1, CopiesReason.RATE)


def test_copies_above_the_maximum_go_at_once() -> None:
    assert fewer_copies(replace(TRIPLE, maximum=2, rate=9000), ROOMY) == DropCopy(CopiesReason.ABOVE_MAXIMUM)


def test_a_third_copy_goes_when_the_cluster_is_full_and_it_has_little_to_do() -> None:
    assert fewer_copies(TRIPLE, FULL) == DropCopy(CopiesReason.LITTLE_USED)
    assert fewer_copies(TRIPLE, ROOMY) == KeepCopies(CopiesReason.ENOUGH)
    assert fewer_copies(replace(TRIPLE, newest_ms=MINUTE), FULL) == KeepCopies(CopiesReason.ENOUGH)
    assert fewer_copies(replace(TRIPLE, heavy_ago_ms=MINUTE), FULL) == KeepCopies(CopiesReason.ENOUGH)
    assert fewer_copies(replace(TRIPLE, dropped_ago_ms=10_000), FULL) == KeepCopies(CopiesReason.CHANGING)
    assert fewer_copies(replace(TRIPLE, rate=3000), FULL) == KeepCopies(CopiesReason.ENOUGH)


def test_the_spare_of_a_pair_goes_when_it_is_long_unused() -> None:
    pair = replace(TRIPLE, ready=2, rate=0)
    assert fewer_copies(replace(pair, unused_ms=HOUR - 1), FULL) == KeepCopies(CopiesReason.ENOUGH)
    assert fewer_copies(replace(pair, unused_ms=HOUR + 1), FULL) == DropCopy(CopiesReason.LONG_UNUSED)


def test_the_spare_of_a_model_that_was_heavily_used_lately_may_stay_longer() -> None:
    ancient = replace(FULL, leaving_age_ms=200 * HOUR)
    pair = replace(TRIPLE, ready=2, rate=0, unused_ms=11 * HOUR)
    assert fewer_copies(pair, ancient) == DropCopy(CopiesReason.LONG_UNUSED)
    assert fewer_copies(replace(pair, heavy_ago_ms=12 * HOUR), ancient) == KeepCopies(CopiesReason.ENOUGH)


def test_a_copy_that_was_loaded_while_this_instance_was_cut_off_makes_one_superfluous() -> None:
    pair = replace(TRIPLE, ready=2, duplicated=True, newest_ms=10)
    assert fewer_copies(pair, ROOMY) == DropCopy(CopiesReason.DUPLICATED)
    assert fewer_copies(replace(pair, rate=1500), ROOMY) == KeepCopies(CopiesReason.ENOUGH)


loads = st.builds(
    ModelLoad,
    ready=st.integers(1, 8),
    loading=st.integers(0, 2),
    places=st.integers(0, 8),
    rate=st.integers(0, 50_000),
    threshold=st.none() | st.integers(10, 5000),
    saturated=st.booleans(),
    regular=st.booleans(),
    unused_ms=st.integers(0, 100 * HOUR),
    heavy_ago_ms=st.none() | st.integers(0, 10 * HOUR),
    newest_ms=st.integers(0, 10 * HOUR),
    dropped_ago_ms=st.none() | st.integers(0, HOUR),
    duplicated=st.booleans(),
    minimum=st.integers(0, 4),
    maximum=st.none() | st.integers(4, 8),
    size=st.integers(1, 400).map(Memory),
    fits=st.booleans(),
    displaced_ms=st.integers(0, 300 * HOUR),
    spared_ago_ms=st.none() | st.integers(0, HOUR),
)
rooms = st.builds(
    ClusterRoom,
    capacity=st.just(Memory(1000)),
    free=st.integers(0, 1000).map(Memory),
    leaving_age_ms=st.integers(0, 300 * HOUR),
    promised=st.integers(0, 400).map(Memory),
)


@given(loads, rooms)
def test_the_bounds_of_the_operator_hold(load: ModelLoad, room: ClusterRoom) -> None:
    more = more_copies(load, room)
    if isinstance(more, AddCopies):
        assert 1 <= more.count <= load.places
        assert load.maximum is None or load.ready + more.count <= load.maximum
    if isinstance(fewer_copies(load, room), DropCopy):
        assert load.ready > max(1, load.minimum)


@given(loads, rooms)
def test_a_dropped_copy_is_not_wanted_back_by_the_same_load(load: ModelLoad, room: ClusterRoom) -> None:
    if isinstance(fewer_copies(load, room), DropCopy):
        after = replace(load, ready=load.ready - 1, places=load.places + 1, loading=0)
        more = more_copies(after, room)
        above = load.maximum is not None and load.ready > load.maximum
        assert isinstance(more, KeepCopies) or above or more.reason is CopiesReason.REGULAR_USE


@given(loads, rooms)
def test_what_was_added_is_not_dropped_by_the_same_load(load: ModelLoad, room: ClusterRoom) -> None:
    more = more_copies(load, room)
    if isinstance(more, AddCopies):
        after = replace(load, ready=load.ready + more.count, newest_ms=0, duplicated=False, unused_ms=0)
        assert isinstance(fewer_copies(after, room), KeepCopies)


def test_use_counts_as_regular_when_it_was_used_seven_to_forty_minutes_ago() -> None:
    uses = (None, None)
    hits = []
    for minute in (1000, 1003, 1008, 1020, 1100, 1101):
        hit, *uses = regular_use(*uses, minute * MINUTE)
        hits.append(hit)
    assert hits == [False, False, True, True, False, False]


def test_constant_use_is_regular_from_its_eighth_minute_on() -> None:
    """The old system never gave a spare to a model that was used all the time: each use replaced the one before."""
    uses = (None, None)
    hits = {}
    for second in range(0, 60 * 60, 10):
        hits[second], *uses = regular_use(*uses, second * 1000)
    assert not any(hits[second] for second in range(0, 7 * 60, 10))
    assert all(hits[second] for second in range(7 * 60, 40 * 60, 10))
    assert hits[59 * 60]


def test_the_first_use_is_not_regular_whatever_the_clock_shows() -> None:
    """A clock that began ten minutes ago made every model regularly used with its first call."""
    assert regular_use(None, None, 10 * MINUTE) == (False, None, 10 * MINUTE)
    assert regular_use(None, 10 * MINUTE, 11 * MINUTE) == (False, 10 * MINUTE, 11 * MINUTE)
    assert regular_use(None, 10 * MINUTE, 20 * MINUTE) == (True, 10 * MINUTE, 20 * MINUTE)
