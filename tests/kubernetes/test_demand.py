"""How many pods a runtime needs: examples as rules, then properties."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.kubernetes.demand import (
    FEWER_AFTER_MS,
    GROWN_MS,
    MOST_COST,
    Demand,
    InstanceLoad,
    Limits,
    Trend,
    Why,
    decide_demand,
    deletion_costs,
    settled,
)

GIB = 1 << 30
LIMITS = Limits(least=1, most=10)


def instances(number: int, *, used: float = 0.5, **fields: float) -> list[InstanceLoad]:
    """Instances of 4 GiB. `used`: the part of it."""
    one = InstanceLoad("", 4 * GIB, int(used * 4 * GIB), **fields)  # type: ignore[arg-type]
    return [replace(one, instance=f"i{place}") for place in range(number)]


def test_calls_say_how_many_pods_there_must_be() -> None:
    busy = instances(2, calls=30.0, worth_ms=9_000)
    assert decide_demand(busy, standing=2, limits=LIMITS) == Demand(4, Why.CALLS)
    assert decide_demand(busy, standing=4, limits=LIMITS) == Demand(4, Why.STARTING)
    assert decide_demand(instances(4, calls=15.0, worth_ms=9_000), standing=4, limits=LIMITS).pods == 4


def test_full_memory_asks_for_a_pod_only_if_callers_wait_for_what_is_evicted() -> None:
    full = instances(2, used=1.0)
    assert decide_demand([replace(one, worth_ms=2_000) for one in full], standing=2, limits=LIMITS) == Demand(
        3, Why.MEMORY
    )
    assert decide_demand([replace(one, worth_ms=1_000) for one in full], standing=2, limits=LIMITS) == Demand(
        2, Why.ENOUGH
    )
    cheap = replace(LIMITS, saved_ms=1_000)
    assert decide_demand([replace(one, worth_ms=1_000) for one in full], standing=2, limits=cheap).why is Why.MEMORY
    roomy = instances(2, used=0.9, worth_ms=9_000)
    assert decide_demand(roomy, standing=2, limits=LIMITS).pods == 2


def test_while_pods_start_memory_asks_for_no_more() -> None:
    full = instances(2, used=1.0, worth_ms=60_000)
    assert decide_demand(full, standing=3, limits=LIMITS) == Demand(3, Why.STARTING)
    with_new = [*full, InstanceLoad("new", 4 * GIB, 0)]
    assert decide_demand(with_new, standing=3, limits=LIMITS).pods == 3  # it has room now
    assert decide_demand([], standing=0, limits=LIMITS) == Demand(1, Why.STARTING)


def test_loads_that_wait_everywhere_ask_for_a_pod() -> None:
    waiting = instances(3, load_wait_ms=12_000)
    assert decide_demand(waiting, standing=3, limits=LIMITS) == Demand(4, Why.LOADS)
    waiting[0] = replace(waiting[0], load_wait_ms=4_000)
    assert decide_demand(waiting, standing=3, limits=LIMITS) == Demand(3, Why.ENOUGH)


def test_large_clusters_grow_by_a_tenth() -> None:
    full = instances(40, used=1.0, worth_ms=5_000)
    assert decide_demand(full, standing=40, limits=Limits()) == Demand(44, Why.MEMORY)


def test_a_pod_goes_if_the_others_have_room_for_what_is_worth_keeping() -> None:
    assert decide_demand(instances(3, used=0.3, worth_ms=9_000), standing=3, limits=LIMITS) == Demand(2, Why.SPARE)
    assert decide_demand(instances(3, used=1.0), standing=3, limits=LIMITS) == Demand(2, Why.SPARE)
    assert decide_demand(instances(3, used=0.9, worth_ms=900), standing=3, limits=LIMITS).why is Why.ENOUGH
    assert decide_demand(instances(3, used=0.1, calls=9.0), standing=3, limits=LIMITS).why is Why.ENOUGH
    assert decide_demand(instances(3, used=0.1, load_wait_ms=1), standing=3, limits=LIMITS).why is Why.ENOUGH


def test_what_leaves_or_has_no_runtime_does_not_count() -> None:
    busy = instances(2, calls=15.0, used=0.9, worth_ms=5_000)
    leaving = InstanceLoad("old", 4 * GIB, 0, calls=50.0, draining=True)
    without = InstanceLoad("bare", 0, 0)
    assert decide_demand([*busy, leaving, without], standing=2, limits=LIMITS) == Demand(2, Why.ENOUGH)


def test_the_limits_hold() -> None:
    assert decide_demand(instances(1, calls=900.0), standing=1, limits=LIMITS) == Demand(10, Why.MOST)
    least = Limits(least=3, most=3)
    assert decide_demand(instances(3), standing=3, limits=least) == Demand(3, Why.LEAST)
    assert decide_demand([], standing=0, limits=least) == Demand(3, Why.LEAST)


def test_fewer_pods_come_after_a_while_and_more_at_once() -> None:
    trend = Trend()
    fewer, enough = Demand(2, Why.SPARE), Demand(3, Why.ENOUGH)
    pods, trend = settled(fewer, trend, standing=3, now_ms=0)
    assert pods == 3
    assert settled(fewer, trend, standing=3, now_ms=FEWER_AFTER_MS - 1)[0] == 3
    assert settled(fewer, trend, standing=3, now_ms=FEWER_AFTER_MS)[0] == 2
    _, again = settled(enough, trend, standing=3, now_ms=1_000)  # they are needed in between
    assert settled(fewer, again, standing=3, now_ms=FEWER_AFTER_MS)[0] == 3
    assert settled(Demand(5, Why.CALLS), trend, standing=3, now_ms=1)[0] == 5
    assert settled(Demand(2, Why.MOST), Trend(), standing=3, now_ms=1)[0] == 2  # somebody said so


def test_no_pod_goes_soon_after_memory_asked_for_one() -> None:
    _, trend = settled(Demand(3, Why.MEMORY), Trend(), standing=2, now_ms=0)
    _, trend = settled(Demand(2, Why.SPARE), trend, standing=3, now_ms=1_000)
    assert settled(Demand(2, Why.SPARE), trend, standing=3, now_ms=GROWN_MS - 1)[0] == 3
    assert settled(Demand(2, Why.SPARE), trend, standing=3, now_ms=GROWN_MS)[0] == 2


def test_the_cheapest_pod_has_what_nobody_waits_for() -> None:
    costs = deletion_costs(
        [
            InstanceLoad("hot", 4 * GIB, 4 * GIB, worth_ms=8_000),
            InstanceLoad("large", 4 * GIB, 4 * GIB),
            InstanceLoad("small", 4 * GIB, GIB),
            InstanceLoad("empty", 4 * GIB, 0, worth_ms=8_000),
        ]
    )
    assert sorted(costs, key=lambda name: costs[name]) == ["empty", "small", "large", "hot"]
    assert costs["hot"] == 36_000


loads = st.builds(
    InstanceLoad,
    instance=st.text("abc", min_size=1, max_size=3),
    capacity_bytes=st.integers(0, 1 << 50),
    used_bytes=st.integers(0, 1 << 51),
    calls=st.integers(0, 1_000_000).map(float),
    load_wait_ms=st.integers(0, 1 << 40),
    worth_ms=st.integers(0, 2**31 - 1),
    draining=st.booleans(),
)


several = st.lists(loads, max_size=8, unique_by=lambda one: one.instance)


@given(several, st.integers(0, 70_000), st.integers(0, 9), st.randoms(use_true_random=False))
def test_any_figures_give_a_number_within_the_limits(
    found: list[InstanceLoad], standing: int, least: int, rng: Random
) -> None:
    limits = Limits(least=least, most=least + 5)
    demand = decide_demand(found, standing=standing, limits=limits)
    assert limits.least <= demand.pods <= limits.most
    shuffled = list(found)
    rng.shuffle(shuffled)
    assert decide_demand(shuffled, standing=standing, limits=limits) == demand
    assert all(0 <= cost <= MOST_COST for cost in deletion_costs(found).values())


@given(several, st.integers(1, 10_000))
def test_more_calls_never_need_fewer_pods(found: list[InstanceLoad], more: int) -> None:
    standing = len(found)
    before = decide_demand(found, standing=standing, limits=Limits())
    busier = [replace(one, calls=one.calls + more) for one in found]
    assert decide_demand(busier, standing=standing, limits=Limits()).pods >= before.pods
