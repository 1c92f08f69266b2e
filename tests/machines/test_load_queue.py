"""The order in which loads begin."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.machines.load_queue import RAISED_AFTER, LoadQueue, QueueReason, Standing
from modelmesh.values.ids import LoadId
from modelmesh.values.priority import Priority

PRELOAD = 0


def push(
    queue: LoadQueue,
    load: int,
    *,
    callers: int = 1,
    priority: Priority = Priority.NORMAL,
    expected_ms: int = 100,
    last_use_ms: int = 0,
) -> None:
    queue.push(
        LoadId(load),
        callers=callers,
        priority=priority if callers else None,
        last_use_ms=last_use_ms,
        expected_ms=expected_ms,
    )


def drain(queue: LoadQueue) -> list[int]:
    order = []
    while (load := queue.first()) is not None:
        queue.begin(load)
        order.append(int(load))
    return order


def test_loads_that_callers_wait_for_overtake_the_rest() -> None:
    queue = LoadQueue()
    push(queue, 1, callers=PRELOAD, last_use_ms=500)
    push(queue, 2, callers=PRELOAD, last_use_ms=900)
    push(queue, 3)
    push(queue, 4)
    assert drain(queue) == [3, 4, 2, 1]


def test_most_callers_for_each_millisecond_of_load_go_first() -> None:
    queue = LoadQueue()
    push(queue, 1, callers=1, expected_ms=1_000)
    push(queue, 2, callers=1, expected_ms=100)
    push(queue, 3, callers=30, expected_ms=500)
    assert queue.standing(LoadId(1)) == Standing(2, 1, QueueReason.CALLERS_PER_LOAD_TIME)
    assert drain(queue) == [3, 2, 1]


def test_callers_who_join_move_a_load_forward() -> None:
    queue = LoadQueue()
    for load in (1, 2, 3):
        push(queue, load, callers=PRELOAD, last_use_ms=10 - load)
    push(queue, 4)
    queue.join(LoadId(3), Priority.NORMAL)
    queue.join(LoadId(3), Priority.NORMAL)
    queue.join(LoadId(99), Priority.NORMAL)
    assert drain(queue) == [3, 4, 1, 2]


def test_a_load_that_was_overtaken_for_long_enough_is_overtaken_no_more() -> None:
    queue = LoadQueue()
    push(queue, 1, expected_ms=1_000)
    for load in range(2, 12):
        push(queue, load, expected_ms=100)
        assert queue.first() == LoadId(load)
        queue.begin(LoadId(load))
    push(queue, 5000, callers=50, expected_ms=1)
    assert queue.standing(LoadId(1)) == Standing(0, 1, QueueReason.OVERDUE)


def test_plain_order_is_first_come_first_served() -> None:
    queue = LoadQueue(by_value=False)
    push(queue, 1, callers=PRELOAD)
    push(queue, 2, expected_ms=9_000)
    push(queue, 3, callers=90, expected_ms=1)
    assert queue.standing(LoadId(3)) == Standing(1, 90, QueueReason.FIRST_COME)
    queue.join(LoadId(1), Priority.NORMAL)
    assert drain(queue) == [2, 3, 1]


def test_a_removed_load_does_not_begin() -> None:
    queue = LoadQueue()
    push(queue, 1)
    push(queue, 2)
    queue.remove(LoadId(1))
    queue.remove(LoadId(1))
    assert LoadId(1) not in queue
    assert len(queue) == 1
    assert queue.waited_for_ms == 100
    assert drain(queue) == [2]


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 5), st.integers(1, 1_000), st.integers(0, 2)), min_size=1, max_size=60
    )
)
def test_no_load_waits_longer_than_twice_as_first_come_first_served(steps: list[tuple[bool, int, int, int]]) -> None:
    """What begins before a load is at most twice what stood before it when it came, and its own time and one load more."""
    queue = LoadQueue()
    begun_ms = 0
    arrived: dict[LoadId, tuple[int, int, int]] = {}
    longest_ms = max(expected_ms for _, _, expected_ms, _ in steps)

    def begin() -> None:
        nonlocal begun_ms
        first = queue.first()
        if first is None:
            return
        queue.begin(first)
        at_ms, ahead_ms, expected_ms = arrived[first]
        assert begun_ms - at_ms <= 2 * ahead_ms + expected_ms + longest_ms
        begun_ms += expected_ms

    for number, (joins, callers, expected_ms, begins) in enumerate(steps):
        load = LoadId(number)
        arrived[load] = (begun_ms, queue.waited_for_ms, expected_ms)
        queue.push(load, callers=callers, priority=Priority.NORMAL, last_use_ms=0, expected_ms=expected_ms)
        if joins:
            queue.join(LoadId(number // 2), Priority.NORMAL)
        for _ in range(begins):
            begin()
    while len(queue):
        begin()
    assert queue.waited_for_ms == 0


def test_a_load_that_a_higher_class_waits_for_goes_first() -> None:
    queue = LoadQueue()
    push(queue, 1, callers=PRELOAD)
    push(queue, 2, callers=50, priority=Priority.LOW)
    push(queue, 3, callers=20)
    push(queue, 4, priority=Priority.HIGH)
    assert queue.standing(LoadId(4)) == Standing(0, 1, QueueReason.CALLERS_PER_LOAD_TIME, Priority.HIGH)
    assert drain(queue) == [4, 3, 2, 1]


def test_the_highest_class_of_its_callers_counts() -> None:
    queue = LoadQueue(by_value=False)
    for load in (1, 2, 3):
        push(queue, load, priority=Priority.LOW)
    queue.join(LoadId(3), Priority.HIGH)
    queue.join(LoadId(3), Priority.LOW)
    queue.join(LoadId(2), Priority.NORMAL)
    assert queue.standing(LoadId(3)) == Standing(0, 3, QueueReason.FIRST_COME, Priority.HIGH)
    assert drain(queue) == [3, 2, 1]


def test_an_overdue_load_is_overtaken_by_a_higher_class_until_it_is_raised() -> None:
    queue = LoadQueue()
    push(queue, 1, expected_ms=100, priority=Priority.LOW)
    for load in (2, 3, 4, 5):
        push(queue, load, expected_ms=100, priority=Priority.HIGH)
        assert queue.first() == LoadId(load)
        queue.begin(LoadId(load))
        reason = QueueReason.RAISED if load == 5 else QueueReason.OVERDUE
        assert queue.standing(LoadId(1)) == Standing(0, 1, reason, Priority.LOW)
    push(queue, 6, callers=50, expected_ms=1, priority=Priority.HIGH)
    queue.join(LoadId(1), Priority.NORMAL)
    assert drain(queue) == [1, 6]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Priority),
            st.sampled_from(Priority),
            st.integers(1, 5),
            st.integers(1, 1_000),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=60,
    ),
    st.booleans(),
)
def test_no_class_starves(steps: list[tuple[Priority, Priority, int, int, int]], by_value: bool) -> None:
    """What begins before a load: of higher classes four times what stood before it when it came and its own time, of its own
    class twice that, and two loads more."""
    queue = LoadQueue(by_value=by_value)
    begun_ms = 0
    arrived: dict[LoadId, tuple[int, int, int]] = {}
    longest_ms = max(expected_ms for _, _, _, expected_ms, _ in steps)

    def begin() -> None:
        nonlocal begun_ms
        first = queue.first()
        if first is None:
            return
        at_ms, patience_ms, expected_ms = arrived[first]
        queue.begin(first)
        assert begun_ms - at_ms <= (RAISED_AFTER + 2) * patience_ms + 2 * longest_ms
        begun_ms += expected_ms

    for number, (priority, joins, callers, expected_ms, begins) in enumerate(steps):
        load = LoadId(number)
        arrived[load] = (begun_ms, queue.waited_for_ms + expected_ms, expected_ms)
        queue.push(load, callers=callers, priority=priority, last_use_ms=0, expected_ms=expected_ms)
        queue.join(LoadId(number // 2), joins)
        for _ in range(begins):
            begin()
    while len(queue):
        begin()
    assert queue.waited_for_ms == 0


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 1_000)), min_size=2, max_size=7))
def test_of_loads_that_came_together_all_callers_together_wait_least(loads: list[tuple[int, int]]) -> None:
    """Until one is overdue the order is Smith's: no exchange of two neighbours would make the sum of waits shorter."""
    queue = LoadQueue()
    for number, (callers, expected_ms) in enumerate(loads):
        push(queue, number, callers=callers, expected_ms=expected_ms)
    order: list[int] = []
    while (load := queue.first()) is not None:
        standing = queue.standing(load)
        assert standing is not None
        if standing.reason is QueueReason.OVERDUE:
            break
        queue.begin(load)
        order.append(int(load))
    for earlier, later in itertools.pairwise(order):
        assert loads[earlier][0] * loads[later][1] >= loads[later][0] * loads[earlier][1]
