"""Whether a load that waits here begins elsewhere: rules as sentences."""

from modelmesh.policy.requeue import LEAST_GAIN_MS, begins_elsewhere


def test_a_load_moves_to_where_it_begins_clearly_sooner() -> None:
    assert begins_elsewhere(here_ms=3_000, there_ms=0, load_ms=2_000)
    assert not begins_elsewhere(here_ms=3_000, there_ms=2_800, load_ms=2_000)


def test_little_is_gained_by_moving_what_is_long_or_nearly_begins() -> None:
    assert not begins_elsewhere(here_ms=3_000, there_ms=0, load_ms=20_000)
    assert not begins_elsewhere(here_ms=LEAST_GAIN_MS - 1, there_ms=0, load_ms=10)


def test_two_instances_never_give_each_other_the_same_load() -> None:
    for here_ms in range(0, 10_000, 100):
        for there_ms in range(0, 10_000, 100):
            forth = begins_elsewhere(here_ms=here_ms, there_ms=there_ms, load_ms=100)
            assert not (forth and begins_elsewhere(here_ms=there_ms, there_ms=here_ms, load_ms=100))
