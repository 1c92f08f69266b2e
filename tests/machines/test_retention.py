"""Which copies are worth keeping: shadows, and the choice between them."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.control.copies.usage import Learned, UsageBook
from modelmesh.machines.eviction_policies import DecayedFrequency, FrequencyAdmission, Lru, Lru2, S3Fifo, Shadow
from modelmesh.machines.retention import REPEATED, Retention
from modelmesh.values.dataplane import Usage
from modelmesh.values.ids import LoadId, ModelId

SHADOWS = {
    "lru": Lru,
    "lru_2": Lru2,
    "s3_fifo": S3Fifo,
    "decayed_frequency": lambda room: DecayedFrequency(room, half_life_per_held=50),
    "frequency_admission": FrequencyAdmission,
}
USES = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 40)), max_size=120)


def model(number: int) -> ModelId:
    return ModelId(f"m{number}")


@pytest.mark.parametrize("name", SHADOWS)
@given(uses=USES)
def test_a_shadow_holds_no_more_than_its_room_and_what_it_holds_has_an_order(name: str, uses) -> None:
    shadow: Shadow = SHADOWS[name](100)
    sizes: dict[ModelId, int] = {}
    held: dict[ModelId, None] = {}
    for now, (number, size) in enumerate(uses, 1):
        sizes.setdefault(model(number), size)
        was = model(number) in held
        hit, left = shadow.use(model(number), sizes[model(number)], 0.0, now)
        assert hit == was
        held.update({model(number): None} if shadow.holds(model(number)) else {})
        for victim in left:
            del held[victim]
        assert sum(sizes[known] for known in held) <= 100
        assert sorted(shadow.order()) == sorted(held)
        assert all(shadow.holds(known) for known in held)


@pytest.mark.parametrize("name", SHADOWS)
def test_a_forgotten_model_leaves_no_trace(name: str) -> None:
    shadow: Shadow = SHADOWS[name](100)
    for now in range(1, 5):
        shadow.use(model(1), 10, 0.0, now)
    shadow.forget(model(1))
    assert not shadow.holds(model(1))
    assert list(shadow.order()) == []


def held(retention: Retention, count: int) -> None:
    for number in range(count):
        retention.missed(model(number), 1)
        retention.add(model(number), 1, missed=True)


def test_of_models_seen_once_the_one_unused_longest_leaves_first() -> None:
    retention = Retention(100)
    held(retention, 50)
    assert list(retention.order()) == [model(number) for number in range(50)]


def test_one_that_is_used_again_leaves_after_those_that_are_not() -> None:
    retention = Retention(100)
    held(retention, 20)
    for _ in range(5):
        retention.used(model(3), 1, 1)
    assert list(retention.order())[-1] == model(3)


def test_a_burst_in_one_batch_counts_as_a_few_uses() -> None:
    """A thousand calls in a second say no more about tomorrow than four."""
    one, other = Retention(100), Retention(100)
    for retention, count in ((one, 1000), (other, REPEATED + 1)):
        held(retention, 10)
        retention.used(model(1), 1, count)
    assert list(one.order()) == list(other.order())


def test_every_held_copy_is_in_the_order_exactly_once() -> None:
    rng = Random(3)
    retention, there = Retention(30), {}
    for _ in range(3000):
        number = min(99, int(rng.paretovariate(0.8)))
        if number in there:
            retention.used(model(number), 1, 1)
            continue
        retention.missed(model(number), 1)
        if len(there) == 30:
            victim = next(retention.order())
            retention.remove(victim)
            del there[int(victim[1:])]
        retention.add(model(number), 1, missed=True)
        there[number] = None
        assert sorted(retention.order()) == sorted(model(known) for known in there)


def cache(room: int, requests: list[int]) -> tuple[float, Retention]:
    """The hit ratio of a cache that evicts in the order given, and what it has learned."""
    retention, there, hits = Retention(room), {}, 0
    for number in requests:
        if number in there:
            hits += 1
            retention.used(model(number), 1, 1)
            continue
        retention.missed(model(number), 1)
        if len(there) == room:
            victim = next(retention.order())
            retention.remove(victim)
            del there[int(victim[1:])]
        retention.add(model(number), 1, missed=True)
        there[number] = None
    return hits / len(requests), retention


def test_it_follows_what_the_traffic_wants() -> None:
    """Where models come in turns, LRU never hits; one that keeps what it has does."""
    ratio, retention = cache(50, [number % 60 for number in range(6000)])
    assert ratio > 0.6
    assert retention.following in {"frequency_admission", "s3_fifo"}


def test_a_model_of_half_the_load_time_must_be_used_twice_as_often() -> None:
    retention = Retention(100)
    for number in range(4):
        weight = 1.0 if number == 0 else 0.0
        retention.missed(model(number), 1, weight)
        retention.add(model(number), 1, missed=True)
    assert list(retention.order())[-1] == model(0)


@given(uses=st.lists(st.integers(0, 9), max_size=60))
def test_without_a_retention_the_order_is_exactly_last_use(uses: list[int]) -> None:
    book = UsageBook(Learned())
    last = {}
    for number in range(10):
        book.add(model(number), LoadId(number + 1), number, 1, missed=False)
        last[model(number)] = number
    for now, number in enumerate(uses, 100):
        book.apply([Usage(model(number), now, 1, 10, 0, 0)], now, lambda _: 1)
        last[model(number)] = now
    assert list(book.leaving_order()) == sorted(last, key=last.__getitem__)
