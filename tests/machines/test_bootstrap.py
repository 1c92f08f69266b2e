"""Whether loads fail at an instance that has just started."""

from modelmesh.machines.bootstrap import ENOUGH, FATAL_MOST, REDEEMED, Bootstrap
from modelmesh.values.ids import ModelId


def model(number: int) -> ModelId:
    return ModelId(f"m{number}")


def fail(
    machine: Bootstrap,
    models: range,
    *,
    elsewhere: bool = False,
    before: bool = False,
    now_ms: int = 0,
    origins: int = 2,
) -> None:
    for number in models:
        machine.failed(
            model(number),
            origin=f"folder-{number % origins}",
            now_ms=now_ms,
            works_elsewhere=elsewhere,
            failed_before=before,
            running=0,
        )


def test_a_few_models_that_work_elsewhere_are_enough() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, range(FATAL_MOST), elsewhere=True, origins=1)
    assert not machine.failing
    fail(machine, range(FATAL_MOST, FATAL_MOST + 1), elsewhere=True, origins=1)
    assert machine.failing


def test_of_other_models_more_than_half_of_many_must_fail() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, range(ENOUGH))
    assert not machine.failing
    fail(machine, range(ENOUGH, ENOUGH + 1))
    assert machine.failing
    half = Bootstrap(until_ms=1000)
    for number in range(ENOUGH):
        half.loaded(model(1000 + number), now_ms=0)
        fail(half, range(number, number + 1))
    assert not half.failing


def test_one_model_that_is_asked_for_again_and_again_is_one() -> None:
    """A client that polls it made every instance of the cluster unready."""
    machine = Bootstrap(until_ms=1000)
    for _ in range(10 * ENOUGH):
        fail(machine, range(FATAL_MOST), elsewhere=True)
        fail(machine, range(10, 12))
    assert not machine.failing


def test_models_of_one_folder_say_nothing_about_the_instance() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, range(10 * ENOUGH), origins=1)
    assert not machine.failing


def test_models_that_failed_long_ago_say_nothing() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, range(10 * ENOUGH), before=True)
    assert not machine.failing


def test_nor_do_failures_after_the_first_minutes() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, range(10 * ENOUGH), elsewhere=True, now_ms=1000)
    assert not machine.failing


def test_loads_that_succeed_lift_the_verdict() -> None:
    machine = Bootstrap(until_ms=1000)
    fail(machine, range(9), elsewhere=True)
    for number in range(REDEEMED):
        assert machine.failing, number
        machine.loaded(model(number), now_ms=0)
    assert not machine.failing
