"""When a model that is rolled out gets more calls, all of them, or none any more."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.labels import VModelRefused
from modelmesh.policy.rollout import (
    FailedLoads,
    NextStep,
    PromoteModel,
    RollBack,
    RolloutReason,
    Verdict,
    Wait,
    apply,
    failed_loads,
    judge,
    start,
    stop,
    time_us,
)
from modelmesh.policy.split import SplitRefused, resplit
from modelmesh.policy.vmodel_counts import added_up
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision, VModelId
from modelmesh.values.memory import Memory
from modelmesh.values.records import CopyState, FailureKind, FailureRecord, VModelRecord
from modelmesh.values.rollout import (
    BUCKETS,
    MOST_STEPS,
    ModelCounts,
    Rollout,
    RolloutState,
    bucket,
    bucket_bounds_us,
)
from modelmesh.values.status import Status
from modelmesh.values.stored import RecordError
from modelmesh.values.view import Copy, Failure, ModelView
from modelmesh.values.vmodel_counts import VModelCounts

V = VModelId("v")
A, B, C = ModelId("a"), ModelId("b"), ModelId("c")
RECORD = VModelRecord(active=A, target=A, owner="o")
PLAN = Rollout(B, (5, 25, 50), minimum_calls=100, minimum_ms=60_000, error_hundredths=100, slower_percent=20)
SECOND = 1_000


def begun(record: VModelRecord = RECORD, plan: Rollout = PLAN, now_ms: int = 1_000) -> VModelRecord:
    after = start(V, record, plan, now_ms=now_ms)
    assert isinstance(after, VModelRecord), after
    return after


def rollout_of(record: VModelRecord) -> Rollout:
    assert record.rollout is not None
    return record.rollout


def counts(model: ModelId, calls: int, *, failed: int = 0, ms: float = 10) -> ModelCounts:
    times = [0] * BUCKETS
    times[bucket(round(ms * 1000))] = calls - failed
    return ModelCounts(model, calls, failed, tuple(times))


def verdict(
    active: ModelCounts,
    model: ModelCounts,
    *,
    record: VModelRecord | None = None,
    after_s: int = 60,
    silent: int = 0,
    failed: FailedLoads | None = None,
) -> Verdict:
    record = record or begun()
    rollout = rollout_of(record)
    now_ms = rollout.since_ms + after_s * SECOND
    return judge(rollout, record, [active, model], silent=silent, now_ms=now_ms, failed=failed)


def test_a_rollout_begins_with_its_first_share_before_all_others() -> None:
    record = begun(replace(RECORD, split=((C, 10),)))
    assert record.split == ((B, 5), (C, 10))
    assert (rollout_of(record).since_ms, rollout_of(record).running) == (1_000, True)
    assert VModelRecord.decode(record.encode()) == record


def test_a_model_that_is_as_good_gets_more_calls_step_by_step_and_then_all() -> None:
    record = begun()
    for percent in (25, 50):
        answer = verdict(counts(A, 1000), counts(B, 100), record=record)
        assert isinstance(answer, NextStep)
        record = apply(answer, rollout_of(record), record, now_ms=rollout_of(record).since_ms + 60_000)
        assert record.split == ((B, percent),)
    answer = verdict(counts(A, 1000), counts(B, 100), record=record)
    assert isinstance(answer, PromoteModel)
    record = apply(answer, rollout_of(record), record, now_ms=0)
    assert (record.active, record.target, record.split) == (A, B, ((B, 50),)), "it moves as any vmodel"
    moved = record.moved(B)
    assert (moved.active, moved.split) == (B, ())
    assert rollout_of(moved).state is RolloutState.PROMOTED
    assert rollout_of(moved).why == answer.text


def test_too_few_calls_of_either_prove_nothing() -> None:
    for active, model in ((1000, 99), (99, 1000), (0, 0)):
        assert isinstance(verdict(counts(A, active), counts(B, model)), Wait)
    answer = verdict(counts(A, 1000), counts(B, 99))
    assert answer == Wait(RolloutReason.FEW_CALLS, "b answered 99 calls and a 1000, 100 of each are compared")


def test_a_step_takes_its_time() -> None:
    answer = verdict(counts(A, 1000), counts(B, 100), after_s=59)
    assert answer == Wait(RolloutReason.TOO_SOON, "the step takes 1 s more")


def test_nothing_goes_on_while_the_counts_of_an_instance_are_missing() -> None:
    answer = verdict(counts(A, 1000), counts(B, 100), silent=1)
    assert isinstance(answer, Wait)
    assert answer.reason is RolloutReason.SILENT


def test_more_errors_than_those_of_the_active_model_roll_it_back_at_once() -> None:
    record = begun(replace(RECORD, split=((C, 10),)))
    answer = verdict(counts(A, 1000, failed=10), counts(B, 100, failed=3), record=record, after_s=1, silent=3)
    text = "3 of 100 calls of b failed, 10 of 1000 calls of a failed: more than 1 more per 100 calls are not allowed"
    assert answer == RollBack(RolloutReason.ERRORS, text)
    after = apply(answer, rollout_of(record), record, now_ms=0)
    assert after.split == ((C, 10),)
    assert rollout_of(after).state is RolloutState.ROLLED_BACK
    assert rollout_of(after).why == text


def test_errors_of_both_are_no_reason() -> None:
    assert isinstance(verdict(counts(A, 1000, failed=500), counts(B, 100, failed=51)), NextStep)


def test_what_cannot_become_good_any_more_is_not_waited_for() -> None:
    answer = verdict(counts(A, 1000), counts(B, 2, failed=2), after_s=1)
    assert isinstance(answer, RollBack)
    assert isinstance(verdict(counts(A, 1000), counts(B, 1, failed=1), after_s=1), Wait), "one may still be chance"
    assert isinstance(verdict(counts(A, 99), counts(B, 50, failed=50)), Wait), "nothing to compare it with"


def test_longer_times_roll_it_back_when_the_step_has_had_its_time() -> None:
    slow = counts(B, 100, ms=20)
    assert isinstance(verdict(counts(A, 1000), slow, after_s=59), Wait)
    answer = verdict(counts(A, 1000), slow)
    assert isinstance(answer, RollBack)
    assert answer.reason is RolloutReason.SLOWER
    assert "20 % longer are allowed" in answer.text
    assert isinstance(verdict(counts(A, 1000, ms=20), counts(B, 100)), NextStep), "it may be faster"


def test_a_model_that_cannot_be_loaded_is_rolled_back_when_a_step_would_have_been_over() -> None:
    text = "no copy of b is loaded, and its loads have failed for {} s: no such file"
    failed = FailedLoads(B, since_ms=11_000, message="no such file")  # ten seconds after the step began
    answer = verdict(counts(A, 1000), counts(B, 0), after_s=30, failed=failed)
    assert answer == Wait(RolloutReason.NOT_LOADED, f"{text.format(20)}; it is rolled back in 40 s unless it is loaded")
    assert verdict(counts(A, 1000), counts(B, 0), after_s=70, failed=failed) == RollBack(
        RolloutReason.NOT_LOADED, text.format(60)
    )
    answer = verdict(counts(A, 0), counts(B, 0), after_s=70, failed=replace(failed, again=True))
    assert answer == Wait(RolloutReason.NOT_LOADED, f"{text.format(60)}; it is being loaded again")
    old = replace(failed, since_ms=1)
    assert isinstance(verdict(counts(A, 1000), counts(B, 0), after_s=59, failed=old), Wait), "of an earlier step"


@pytest.mark.parametrize(("step_ms", "patience_s"), [(0, 60), (300_000, 300), (86_400_000, 600)])
def test_that_takes_a_minute_at_least_and_ten_at_most(step_ms: int, patience_s: int) -> None:
    record = begun(plan=replace(PLAN, minimum_ms=step_ms))
    failed = FailedLoads(B, since_ms=0, message="x")
    for after_s, kind in ((patience_s - 1, Wait), (patience_s, RollBack)):
        assert isinstance(verdict(counts(A, 9), counts(B, 0), record=record, after_s=after_s, failed=failed), kind)


def test_errors_of_a_model_that_is_not_loaded_are_judged_first() -> None:
    failed = FailedLoads(B, since_ms=0, message="x")
    answer = verdict(counts(A, 1000), counts(B, 100, failed=100), after_s=1, failed=failed)
    assert isinstance(answer, RollBack)
    assert answer.reason is RolloutReason.ERRORS


def failure(instance: str, since_ms: int, *, until_ms: int = 900_000) -> Failure:
    record = FailureRecord(FailureKind.BAD_MODEL, f"at {instance}", 1, since_ms, until_ms, Revision(1))
    return Failure(InstanceId(instance), record)


def copy(state: CopyState) -> Copy:
    return Copy(InstanceId("z"), state, 0, LoadId(1), Memory(1), Revision(1), Revision(1), Revision(1))


def test_loads_fail_while_no_copy_is_loaded_and_one_has_failed() -> None:
    view = ModelView(B, (), (failure("x", 70_000), failure("y", 50_000)))
    found = failed_loads(view, None, now_ms=100_000)
    assert found == FailedLoads(B, 50_000, "at x"), "since the first, and what the last one said"
    assert failed_loads(ModelView(B), None, now_ms=0) is None, "no load has failed"
    loading = replace(view, copies=(copy(CopyState.LOADING),))
    assert failed_loads(loading, None, now_ms=100_000) == replace(found, again=True)
    assert failed_loads(replace(view, copies=(copy(CopyState.LOADED),)), found, now_ms=100_000) is None


def test_failures_that_are_forgotten_count_on() -> None:
    before = FailedLoads(B, 10_000, "at x")
    assert failed_loads(ModelView(B), before, now_ms=100_000) == before
    view = ModelView(B, (), (failure("x", 20_000, until_ms=30_000), failure("y", 80_000)))
    assert failed_loads(view, before, now_ms=100_000) == FailedLoads(B, 10_000, "at y")
    assert failed_loads(ModelView(C), before, now_ms=100_000) is None, "that was another model"


def test_while_the_vmodel_moves_elsewhere_nothing_is_decided() -> None:
    record = replace(begun(), target=C)
    answer = verdict(counts(A, 1000), counts(B, 100, failed=100), record=record)
    assert answer == Wait(RolloutReason.MOVING, "the vmodel is moving to c")
    assert record.moved(C).rollout is None
    assert record.moved(C).split == (), "its share ends with it"


def test_a_vmodel_that_is_moved_there_by_hand_is_promoted() -> None:
    rollout = rollout_of(begun().moved(B))
    assert (rollout.state, rollout.why) == (RolloutState.PROMOTED, "the vmodel was moved there")


def test_steps_of_a_vmodel_never_begin_at_the_same_time() -> None:
    first = begun(now_ms=5_000)
    again = begun(first, now_ms=4_000)
    assert rollout_of(again).since_ms == 5_001
    assert rollout_of(first).next_step(0, "").since_ms == 5_001


def test_a_rollout_that_is_ended_takes_its_share_back() -> None:
    record = begun(replace(RECORD, split=((C, 10),)))
    assert stop(V, record) == replace(RECORD, split=((C, 10),))
    ended = replace(record, rollout=rollout_of(record).ended(RolloutState.ROLLED_BACK, "x"), split=((B, 7),))
    assert stop(V, ended) == replace(ended, rollout=None), "a share that was given since stays"
    assert stop(V, None) == VModelRefused(Status.NOT_FOUND, "vmodel v not found")
    other = VModelRefused(Status.FAILED_PRECONDITION, 'vmodel v has another owner, "o"')
    assert stop(V, record, owner="p") == start(V, record, PLAN, now_ms=0, owner="p") == other


@pytest.mark.parametrize(
    ("plan", "wrong"),
    [
        (replace(PLAN, steps=()), f"the rollout has 0 steps, 1 to {MOST_STEPS} are possible"),
        (replace(PLAN, steps=(0,)), "a step of the rollout is 0 percent, 1 to 99 are possible"),
        (replace(PLAN, steps=(5, 100)), "a step of the rollout is 100 percent, 1 to 99 are possible"),
        (replace(PLAN, steps=(5, 5)), "the steps of the rollout do not grow: 5 percent after 5"),
        (replace(PLAN, minimum_calls=0), "0 calls are asked for, 1 to 1000000 are possible"),
        (replace(PLAN, error_hundredths=-1), "-1 hundredths of a percent of errors are asked for"),
        (replace(PLAN, model=A), "model a is the active model of vmodel v: it gets the calls"),
        (replace(PLAN, steps=(90,)), "90 percent of the calls of vmodel v shall go to b and 10 to others"),
    ],
)
def test_what_no_plan_can_be(plan: Rollout, wrong: str) -> None:
    refused = start(V, replace(RECORD, split=((C, 10),)), plan, now_ms=0)
    assert isinstance(refused, VModelRefused)
    assert (refused.status, refused.message[: len(wrong)]) == (Status.INVALID_ARGUMENT, wrong)


def test_no_rollout_begins_while_the_vmodel_moves() -> None:
    refused = start(V, replace(RECORD, target=C), PLAN, now_ms=0)
    assert isinstance(refused, VModelRefused)
    assert refused.status is Status.FAILED_PRECONDITION


def test_shares_are_not_set_by_hand_while_a_rollout_sets_them() -> None:
    refused = resplit(V, begun(), [(C, 5)])
    text = "model b is being rolled out for vmodel v, which sets its shares; end that first"
    assert refused == SplitRefused(Status.FAILED_PRECONDITION, text)


@pytest.mark.parametrize(
    "stored",
    ["1", "{}x", '{"model":"b"}', '{"model":"b","steps":[]}', '{"model":"b","steps":[100]}', '{"steps":[5]}'],
)
def test_a_stored_rollout_that_is_none_is_an_error(stored: str) -> None:
    with pytest.raises(RecordError):
        VModelRecord.decode(b'{"amid":"a","rollout":' + stored.encode() + b"}")


def test_a_state_of_a_later_version_is_an_end() -> None:
    stored = b'{"amid":"a","rollout":{"model":"b","steps":[5],"step":7,"state":"paused"}}'
    rollout = rollout_of(VModelRecord.decode(stored))
    assert (rollout.running, rollout.step) == (False, 0)


def test_counts_of_a_step_are_those_of_instances_that_know_it() -> None:
    one = VModelCounts(step=7, models=(counts(A, 10), counts(B, 5, failed=1)))
    other = VModelCounts(step=7, models=(ModelCounts(B, 1, 0, (1,)),))
    late = VModelCounts(step=6, models=(counts(B, 1000),))
    total = added_up([one, other, late])
    assert [(one.model, one.calls, one.failed) for one in total.models] == [(A, 10, 0), (B, 6, 1)]
    assert sum(total.models[1].times) == 5


@given(st.integers(0, 1 << 34))
def test_a_time_is_in_its_bucket(time_us: int) -> None:
    index = bucket(time_us)
    low, high = bucket_bounds_us(index)
    assert low <= time_us
    assert time_us < high or index == BUCKETS - 1


@given(st.lists(st.integers(64, 500_000_000), min_size=1, max_size=200))
def test_the_time_of_nineteen_of_twenty_calls_is_known_to_a_quarter(times_us: list[int]) -> None:
    counted = [0] * BUCKETS
    for one in times_us:
        counted[bucket(one)] += 1
    exact = sorted(times_us)[-(-len(times_us) * 95 // 100) - 1]
    assert exact / 1.26 <= time_us(ModelCounts(B, len(times_us), 0, tuple(counted))) <= exact * 1.26
