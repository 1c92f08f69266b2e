"""Whether an instance should get traffic from outside."""

from dataclasses import replace

from modelmesh.policy.readiness import OTHERS_DRAIN_MS, STORE_AWAY_MS, Condition, ReadinessReason, readiness

UP = Condition(started=True, runtime_ready=True)


def test_each_trouble_has_its_reason() -> None:
    assert readiness(UP) is ReadinessReason.READY
    assert readiness(replace(UP, started=False)) is ReadinessReason.STARTING
    assert readiness(replace(UP, runtime_ready=False)) is ReadinessReason.RUNTIME_AWAY
    assert readiness(replace(UP, draining=True)) is ReadinessReason.DRAINING
    assert readiness(replace(UP, loads_fail=True)) is ReadinessReason.LOADS_FAIL


def test_a_new_instance_waits_for_those_that_leave() -> None:
    assert readiness(replace(UP, was_ready=False, drains_ms=(5_000,))) is ReadinessReason.OTHERS_DRAIN


def test_one_that_is_stuck_in_leaving_is_not_waited_for() -> None:
    stuck = replace(UP, was_ready=False, drains_ms=(OTHERS_DRAIN_MS,))
    assert readiness(stuck) is ReadinessReason.READY
    assert readiness(replace(stuck, drains_ms=(OTHERS_DRAIN_MS, 1))) is ReadinessReason.OTHERS_DRAIN


def test_one_that_was_ready_stays_so_while_others_leave() -> None:
    assert readiness(replace(UP, was_ready=True, drains_ms=(5_000,))) is ReadinessReason.READY


def test_one_that_alone_has_no_store_is_not_ready_once_a_restart_of_the_store_is_ruled_out() -> None:
    assert readiness(replace(UP, cut_off_ms=STORE_AWAY_MS - 1)) is ReadinessReason.READY
    assert readiness(replace(UP, cut_off_ms=STORE_AWAY_MS)) is ReadinessReason.STORE_AWAY
