"""The rollout of a model: it gets more of a vmodel's calls step by step, as long as it answers as well as the active model."""

import enum
from dataclasses import dataclass, replace
from typing import Any

from modelmesh.values import bounds
from modelmesh.values.bounds import Range
from modelmesh.values.ids import ModelId
from modelmesh.values.stored import RecordError, enumerated, measure, take

STEP_PERCENT = Range(1, 99)
"""Of the calls that the model gets in a step; at 100 there would be nothing to compare it with."""

MOST_STEPS = 32

CALLS = Range(1, 1_000_000)
"""Of each of both models in a step."""

ERROR_HUNDREDTHS = Range(0, 10_000)
"""Of a percent of the calls."""

SLOWER_PERCENT = Range(0, 10_000)

STEP_MS = Range(0, 30 * 86_400_000)
"""How long a step takes at least; up to 30 days."""

_FINEST_US = 64
_PER_POWER = 4
BUCKETS = 93
"""Of times: the first is below 64 µs, then four for each power of two, the last has what takes longer. `crates/core/src/routing/trial.rs`
counts into them."""


class RolloutState(enum.Enum):
    """How far it is. A word of a later version counts as an end."""

    RUNNING = "running"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"

    @classmethod
    def _missing_(cls, value: object) -> "RolloutState | None":
        return cls.ROLLED_BACK if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Rollout:
    """A plan, and how far it is.

    model: It is rolled out.
    steps: Percents of the calls that it gets, one after the other.
    minimum_calls: So many calls of each model are compared in each step, at least.
    minimum_ms: A step takes at least so long.
    error_hundredths: So many more of its calls may fail than of the active model's, in hundredths of a percent of the calls.
    slower_percent: So much longer it may take than the active model; of 95 % of the calls.
    step: Index of the step under way, or of the last one.
    since_ms: When that began, epoch milliseconds; no two steps of a vmodel have the same.
    why: Why the last step began, or the rollout ended.
    """

    model: ModelId
    steps: tuple[int, ...]
    minimum_calls: int
    minimum_ms: int
    error_hundredths: int
    slower_percent: int
    step: int = 0
    since_ms: int = 0
    state: RolloutState = RolloutState.RUNNING
    why: str = ""

    @property
    def running(self) -> bool:
        """Whether steps are still to come."""
        return self.state is RolloutState.RUNNING

    @property
    def percent(self) -> int:
        """Of the calls, in this step."""
        return self.steps[self.step]

    def next_step(self, now_ms: int, why: str) -> "Rollout":
        """With the next step, which begins now."""
        return replace(self, step=self.step + 1, since_ms=max(now_ms, self.since_ms + 1), why=why)

    def ended(self, state: RolloutState, why: str) -> "Rollout":
        """With its end."""
        return replace(self, state=state, why=why)

    def fields(self) -> dict[str, Any]:
        """The stored form."""
        return {
            "model": self.model,
            "steps": list(self.steps),
            "calls": self.minimum_calls,
            "ms": self.minimum_ms,
            "errors": self.error_hundredths,
            "slower": self.slower_percent,
            "step": self.step,
            "since": self.since_ms,
            "state": self.state.value,
            "why": self.why,
        }

    @classmethod
    def of_fields(cls, value: object) -> "Rollout | None":
        """Read the stored form; what is absent or empty is no rollout. Raises RecordError."""
        if not value:
            return None
        if not isinstance(value, dict):
            raise RecordError("rollout is not an object")
        known = dict(value)
        model, steps = take(known, "model", str, ""), known.pop("steps", None)
        if not model or not isinstance(steps, list) or not 1 <= len(steps) <= MOST_STEPS:
            raise RecordError(f"rollout has no model, or not 1 to {MOST_STEPS} steps")
        if not all(type(percent) is int and STEP_PERCENT.clamp(percent) == percent for percent in steps):
            raise RecordError("rollout has a step that is not 1 to 99 percent")
        return cls(
            ModelId(model),
            tuple(steps),
            minimum_calls=measure(known, "calls", CALLS),
            minimum_ms=measure(known, "ms", STEP_MS),
            error_hundredths=measure(known, "errors", ERROR_HUNDREDTHS),
            slower_percent=measure(known, "slower", SLOWER_PERCENT),
            step=Range(0, len(steps) - 1).clamp(take(known, "step", int, 0)),
            since_ms=measure(known, "since", bounds.TIME_MS),
            state=enumerated(RolloutState, known, "state"),
            why=take(known, "why", str, ""),
        )


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Calls of a vmodel that one model answered in a step.

    failed: Those that ended with another status than OK; calls that their callers gave up do not count.
    times: How many of the others took how long, by `BUCKETS`.
    """

    model: ModelId
    calls: int = 0
    failed: int = 0
    times: tuple[int, ...] = ()

    def plus(self, other: "ModelCounts") -> "ModelCounts":
        """Both together, of the same model."""
        longer, shorter = sorted((self.times, other.times), key=len, reverse=True)
        times = tuple(count + (shorter[index] if index < len(shorter) else 0) for index, count in enumerate(longer))
        return ModelCounts(self.model, self.calls + other.calls, self.failed + other.failed, times)


def bucket(time_us: int) -> int:
    """Where a time is counted, in microseconds."""
    if time_us < _FINEST_US:
        return 0
    power = time_us.bit_length() - 1
    part = (time_us >> (power - 2)) & (_PER_POWER - 1)
    return min(1 + (power - (_FINEST_US.bit_length() - 1)) * _PER_POWER + part, BUCKETS - 1)


def bucket_bounds_us(index: int) -> tuple[int, int]:
    """Times of a bucket: from, and up to which (excluded), in microseconds."""
    if index == 0:
        return 0, _FINEST_US
    powers, part = divmod(index - 1, _PER_POWER)
    width = (_FINEST_US << powers) // _PER_POWER
    return (_PER_POWER + part) * width, (_PER_POWER + part + 1) * width
