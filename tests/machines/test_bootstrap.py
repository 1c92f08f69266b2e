"""Whether loads fail at an instance that has just started."""

from modelmesh.machines.bootstrap import ENOUGH, FATAL_MOST, REDEEMED, Bootstrap


def fail(machine: Bootstrap, times: int, *, elsewhere: bool = False, before: bool = False, now_ms: int = 0) -> None:
    for _ in range(times):
        machine.failed(now_ms=now_ms, works_elsewhere=elsewhere, failed_before=before, running=0)


def test_a_few_models_that_work_elsewhere_are_enough() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, FATAL_MOST, elsewhere=True)
    assert not machine.failing
    fail(machine, 1, elsewhere=True)
    assert machine.failing


def test_of_other_models_more_than_half_of_many_must_fail() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, ENOUGH)
    assert not machine.failing
    fail(machine, 1)
    assert machine.failing
    half = Bootstrap(until_ms=1000)
    for _ in range(ENOUGH):
        half.loaded()
        fail(half, 1)
    assert not half.failing


def test_models_that_failed_long_ago_say_nothing() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, 10 * ENOUGH, before=True)
    assert not machine.failing


def test_nor_do_failures_after_the_first_minutes() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, 10 * ENOUGH, elsewhere=True, now_ms=1000)
    assert not machine.failing


def test_loads_that_succeed_lift_the_verdict() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, 9, elsewhere=True)
    for number in range(REDEEMED):
        assert machine.failing, number
        machine.loaded()
    assert not machine.failing
