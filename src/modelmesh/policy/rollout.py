"""Does a model that is rolled out get more calls, all of them, or none any more.

`judge` is called by `modelmesh.control.duties.rollouts` at the leader, and by `modelmesh.management.rollouts` to explain; `start` and `stop`
say how SetRollout changes the record of a vmodel.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelmesh.policy.labels import VModelRefused
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import WHOLE_PERCENT, VModelRecord
from modelmesh.values.rollout import (
    CALLS,
    ERROR_HUNDREDTHS,
    MOST_STEPS,
    SLOWER_PERCENT,
    STEP_MS,
    STEP_PERCENT,
    ModelCounts,
    Rollout,
    RolloutState,
    bucket_bounds_us,
)
from modelmesh.values.status import Status
from modelmesh.values.view import ModelView

LEAST_PATIENCE_MS, MOST_PATIENCE_MS = 60_000, 600_000
"""Bounds of how long a step goes on while no copy of the model can be loaded."""

COMPARED = 0.95
"""Part of the calls whose time is compared: the slowest twentieth is not."""


class RolloutReason(enum.Enum):
    """Why it waits, goes on or ends."""

    MOVING = "moving"
    NOT_LOADED = "not_loaded"
    SILENT = "silent"
    FEW_CALLS = "few_calls"
    TOO_SOON = "too_soon"
    ERRORS = "errors"
    SLOWER = "slower"
    AS_GOOD = "as_good"


@dataclass(frozen=True, slots=True)
class Wait:
    """The step goes on."""

    reason: RolloutReason
    text: str


@dataclass(frozen=True, slots=True)
class NextStep:
    """The model gets more calls."""

    reason: RolloutReason
    text: str


@dataclass(frozen=True, slots=True)
class PromoteModel:
    """All steps are passed: the vmodel moves to the model."""

    reason: RolloutReason
    text: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """The model gets no calls any more."""

    reason: RolloutReason
    text: str


@dataclass(frozen=True, slots=True)
class FailedLoads:
    """Loads of a model have failed since then (epoch milliseconds), and no copy of it is loaded. `again`: a load runs or waits."""

    model: ModelId
    since_ms: int
    message: str
    again: bool = False


Verdict = Wait | NextStep | PromoteModel | RollBack


def failed_loads(view: ModelView, before: FailedLoads | None, *, now_ms: int) -> FailedLoads | None:
    """Find out whether loads of a model fail; None: one of its copies is loaded, or no load has failed.

    Args:
        view: Of the model.
        before: What was found at the last look, perhaps of another model. Failures are forgotten after a while, and then the loads that failed count on.
        now_ms: Epoch milliseconds.
    """
    if any(copy.ready for copy in view.copies):
        return None
    records = [failure.record for failure in view.failures if failure.record.believed(now_ms)]
    again = bool(view.copies)
    if before is not None and before.model != view.model:
        before = None
    if not records:
        return None if before is None else replace(before, again=again)
    since_ms = min(record.since_ms for record in records)
    message = max(records, key=lambda record: record.since_ms).message
    return FailedLoads(view.model, since_ms if before is None else min(before.since_ms, since_ms), message, again)


def judge(
    rollout: Rollout,
    record: VModelRecord,
    counted: Sequence[ModelCounts],
    *,
    silent: int,
    now_ms: int,
    failed: FailedLoads | None = None,
) -> Verdict:
    """Decide on a step under way.

    Errors are judged at once, and also when fewer calls than are wanted have failed too often already. A model that cannot be loaded
    gets no calls that could be counted where a fallback answers them: it is rolled back when that has lasted as long as a step,
    within bounds. Times are judged when the step has taken as long as it must, because new copies begin slowly.

    Args:
        rollout: The running rollout of the record.
        record: Of the vmodel.
        counted: What was counted in this step of the active model and of the model that is rolled out.
        silent: Instances whose counts are missing.
        now_ms: Epoch milliseconds.
        failed: Whether loads of the model fail.
    """
    if record.active != record.target:
        return Wait(RolloutReason.MOVING, f"the vmodel is moving to {record.target}")
    by_model = {counts.model: counts for counts in counted}
    active = by_model.get(record.active, ModelCounts(record.active))
    model = by_model.get(rollout.model, ModelCounts(rollout.model))
    comparable = active.calls >= rollout.minimum_calls
    if comparable and _fails_more(active, model, rollout):
        text = (
            f"{_errors(model)}, {_errors(active)}: "
            f"more than {rollout.error_hundredths / 100:g} more per 100 calls are not allowed"
        )
        return RollBack(RolloutReason.ERRORS, text)
    if failed is not None:
        return _not_loaded(rollout, failed, now_ms)
    if not comparable or model.calls < rollout.minimum_calls:
        text = f"{model.model} answered {model.calls} calls and {active.model} {active.calls}, {rollout.minimum_calls} of each are compared"
        return Wait(RolloutReason.FEW_CALLS, text)
    left_ms = rollout.since_ms + rollout.minimum_ms - now_ms
    if left_ms > 0:
        return Wait(RolloutReason.TOO_SOON, f"the step takes {-(-left_ms // 1000)} s more")
    model_us, active_us = time_us(model), time_us(active)
    text = f"{_time(model)}, {_time(active)}"
    if active_us and model_us * WHOLE_PERCENT > active_us * (WHOLE_PERCENT + rollout.slower_percent):
        return RollBack(RolloutReason.SLOWER, f"{text}: {rollout.slower_percent} % longer are allowed")
    text = f"{_errors(model)}, {_errors(active)}; {text}"
    if silent:
        return Wait(RolloutReason.SILENT, f"{silent} instances do not answer, and their counts are missing")
    if rollout.step + 1 < len(rollout.steps):
        return NextStep(RolloutReason.AS_GOOD, text)
    return PromoteModel(RolloutReason.AS_GOOD, text)


def _not_loaded(rollout: Rollout, failed: FailedLoads, now_ms: int) -> Wait | RollBack:
    since_ms = max(failed.since_ms, rollout.since_ms)
    text = f"no copy of {rollout.model} is loaded, and its loads have failed for {max(0, now_ms - since_ms) // 1000} s: {failed.message}"
    if failed.again:
        return Wait(RolloutReason.NOT_LOADED, f"{text}; it is being loaded again")
    patience_ms = min(max(rollout.minimum_ms, LEAST_PATIENCE_MS), MOST_PATIENCE_MS)
    if (left_ms := since_ms + patience_ms - now_ms) > 0:
        return Wait(
            RolloutReason.NOT_LOADED, f"{text}; it is rolled back in {-(-left_ms // 1000)} s unless it is loaded"
        )
    return RollBack(RolloutReason.NOT_LOADED, text)


def time_us(counts: ModelCounts) -> int:
    """How long 95 % of the calls that did not fail took at most, in microseconds; 0: there were none."""
    wanted = sum(counts.times) * COMPARED
    passed = 0
    for index, count in enumerate(counts.times):
        if count and passed + count >= wanted:
            low, high = bucket_bounds_us(index)
            return low + round((high - low) * (wanted - passed) / count)
        passed += count
    return 0


def _fails_more(active: ModelCounts, model: ModelCounts, rollout: Rollout) -> bool:
    """Whether too many more of its calls failed, even if all that are missing were to succeed."""
    calls = max(model.calls, rollout.minimum_calls)
    more = model.failed * active.calls - active.failed * calls
    return 100 * WHOLE_PERCENT * more > rollout.error_hundredths * calls * active.calls


def _errors(counts: ModelCounts) -> str:
    return f"{counts.failed} of {counts.calls} calls of {counts.model} failed"


def _time(counts: ModelCounts) -> str:
    return f"95 % of the calls of {counts.model} took at most {time_us(counts) / 1000:.3g} ms"


def apply(verdict: Verdict, rollout: Rollout, record: VModelRecord, *, now_ms: int) -> VModelRecord:
    """What the record becomes."""
    match verdict:
        case Wait():
            return record
        case NextStep(_, text):
            return _with_share(record, rollout.next_step(now_ms, text))
        case PromoteModel(_, text):
            return replace(
                record, target=rollout.model, failed=False, rollout=rollout.ended(RolloutState.PROMOTED, text)
            )
        case RollBack(_, text):
            split = record.split_without(rollout.model)
            return replace(record, split=split, rollout=rollout.ended(RolloutState.ROLLED_BACK, text))


def _with_share(record: VModelRecord, rollout: Rollout) -> VModelRecord:
    """The model gets its share before all others, so that callers with a key stay with it when the share grows."""
    split = ((rollout.model, rollout.percent), *record.split_without(rollout.model))
    return replace(record, split=split, rollout=rollout)


def start(
    vmodel: VModelId, existing: VModelRecord | None, rollout: Rollout, *, now_ms: int, owner: str = ""
) -> VModelRecord | VModelRefused:
    """Decide what the record becomes when a rollout shall begin; one that runs is replaced."""
    if (refused := _not_theirs(vmodel, existing, owner)) is not None:
        return refused
    assert existing is not None
    if wrong := _wrong(vmodel, existing, rollout):
        return VModelRefused(Status.INVALID_ARGUMENT, wrong)
    if existing.active != existing.target:
        message = (
            f"vmodel {vmodel} is moving to {existing.target}; wait until it has moved, or give it up with rollback"
        )
        return VModelRefused(Status.FAILED_PRECONDITION, message)
    before = existing.rollout
    others = (
        existing
        if before is None or not before.running
        else replace(existing, split=existing.split_without(before.model))
    )
    since_ms = max(now_ms, before.since_ms + 1 if before is not None else 0)
    return _with_share(others, replace(rollout, step=0, since_ms=since_ms, state=RolloutState.RUNNING, why=""))


def stop(vmodel: VModelId, existing: VModelRecord | None, *, owner: str = "") -> VModelRecord | VModelRefused:
    """Decide what the record becomes when there shall be no rollout; the model of one that runs gets no calls any more."""
    if (refused := _not_theirs(vmodel, existing, owner)) is not None:
        return refused
    assert existing is not None
    rollout = existing.rollout
    if rollout is None or not rollout.running:
        return replace(existing, rollout=None)
    return replace(existing, rollout=None, split=existing.split_without(rollout.model))


def running_model(record: VModelRecord) -> ModelId | None:
    """The model that is being rolled out."""
    return record.rollout.model if record.rollout is not None and record.rollout.running else None


def _not_theirs(vmodel: VModelId, existing: VModelRecord | None, owner: str) -> VModelRefused | None:
    if existing is None:
        return VModelRefused(Status.NOT_FOUND, f"vmodel {vmodel} not found")
    if owner and owner != existing.owner:
        return VModelRefused(Status.FAILED_PRECONDITION, f'vmodel {vmodel} has another owner, "{existing.owner}"')
    return None


def _wrong(vmodel: VModelId, existing: VModelRecord, rollout: Rollout) -> str:
    """What is wrong with a plan; empty if nothing is."""
    steps = rollout.steps
    if not 1 <= len(steps) <= MOST_STEPS:
        return f"the rollout has {len(steps)} steps, 1 to {MOST_STEPS} are possible"
    for before, percent in zip((0, *steps), steps, strict=False):
        if STEP_PERCENT.clamp(percent) != percent:
            return f"a step of the rollout is {percent} percent, 1 to 99 are possible: after the last step the vmodel moves to the model"
        if percent <= before:
            return f"the steps of the rollout do not grow: {percent} percent after {before}"
    for name, value, within in (
        ("calls", rollout.minimum_calls, CALLS),
        ("ms for each step", rollout.minimum_ms, STEP_MS),
        ("hundredths of a percent of errors", rollout.error_hundredths, ERROR_HUNDREDTHS),
        ("percent of longer times", rollout.slower_percent, SLOWER_PERCENT),
    ):
        if within.clamp(value) != value:
            return f"{value} {name} are asked for, {within.least} to {within.most} are possible"
    if rollout.model == existing.active:
        return f"model {rollout.model} is the active model of vmodel {vmodel}: it gets the calls"
    others = sum(percent for model, percent in existing.split if model not in {rollout.model, running_model(existing)})
    if others + steps[-1] >= WHOLE_PERCENT:
        return f"{steps[-1]} percent of the calls of vmodel {vmodel} shall go to {rollout.model} and {others} to others: none is left to compare with"
    return ""
