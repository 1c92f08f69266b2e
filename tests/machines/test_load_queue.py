"""The order in which loads begin."""

from modelmesh.machines.load_queue import LoadQueue
from modelmesh.values.ids import LoadId


def drain(queue: LoadQueue) -> list[int]:
    order = []
    while (load := queue.first()) is not None:
        queue.remove(load)
        order.append(int(load))
    return order


def test_loads_that_callers_wait_for_overtake_the_rest_longest_waiting_first() -> None:
    queue = LoadQueue()
    queue.push(LoadId(1), waited_for=False, last_use_ms=500, now_ms=1)
    queue.push(LoadId(2), waited_for=False, last_use_ms=900, now_ms=2)
    queue.push(LoadId(3), waited_for=True, last_use_ms=0, now_ms=3)
    queue.push(LoadId(4), waited_for=True, last_use_ms=0, now_ms=4)
    assert drain(queue) == [3, 4, 2, 1]


def test_a_load_somebody_begins_to_wait_for_is_promoted() -> None:
    queue = LoadQueue()
    for n in (1, 2, 3):
        queue.push(LoadId(n), waited_for=False, last_use_ms=10 - n, now_ms=n)
    queue.promote(LoadId(3), now_ms=9)
    queue.promote(LoadId(99), now_ms=9)
    assert drain(queue) == [3, 1, 2]


def test_a_removed_load_does_not_begin() -> None:
    queue = LoadQueue()
    queue.push(LoadId(1), waited_for=True, last_use_ms=0, now_ms=1)
    queue.push(LoadId(2), waited_for=True, last_use_ms=0, now_ms=1)
    queue.remove(LoadId(1))
    queue.remove(LoadId(1))
    assert LoadId(1) not in queue
    assert len(queue) == 1
    assert drain(queue) == [2]
