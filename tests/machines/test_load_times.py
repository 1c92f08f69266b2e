"""How long the load of a model of some size will take."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.machines.load_times import LoadTimes
from modelmesh.values.memory import Memory


def test_nothing_is_known_before_the_first_load() -> None:
    assert LoadTimes().estimate_ms(Memory(100)) == 0
    assert LoadTimes().common_ms == 0


def test_where_times_grow_with_sizes_so_does_the_estimate() -> None:
    times = LoadTimes()
    for units in (1, 2, 4, 8, 16, 4, 2, 8):
        times.observe(Memory(units * 1_000), units * 500)
    assert abs(times.estimate_ms(Memory(64_000)) - 32_000) < 1_000


def test_where_all_sizes_are_alike_the_estimate_is_what_is_common() -> None:
    times = LoadTimes()
    for took_ms in (900, 1_100, 1_000, 1_000):
        times.observe(Memory(1_000), took_ms)
    assert times.estimate_ms(Memory(64_000)) == times.common_ms


def test_a_load_of_the_common_time_weighs_nothing_and_one_eight_times_as_long_three() -> None:
    times = LoadTimes()
    for _ in range(20):
        times.observe(Memory(1_000), 1_000)
    assert times.weight(1_000) == 0
    assert times.weight(8_000) == 3


@given(
    st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 10**7)), min_size=1, max_size=50), st.integers(1, 10**12)
)
def test_an_estimate_never_falls_with_the_size_nor_grows_faster_than_it(
    loads: list[tuple[int, int]], units: int
) -> None:
    times = LoadTimes()
    for size, took_ms in loads:
        times.observe(Memory(size), took_ms)
    one, two = times.estimate_ms(Memory(units)), times.estimate_ms(Memory(2 * units))
    assert one <= two <= 2 * one + 2
