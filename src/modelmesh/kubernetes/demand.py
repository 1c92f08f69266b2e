"""How many pods a runtime needs, from what its instances report. Pure.

Three things ask for pods: calls at work, loads that wait for a slot, and memory. What memory is worth is the waiting of callers: as
long as copies are evicted that are soon called again, one more pod saves the time of those loads.

Calls say how many pods there must be. Memory and loads say only that one step more would help, so they are asked again when
the new pods are there and full.
"""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modelmesh.declared import Runtime
from modelmesh.values.rounding import two_digits

CALLS = "modelmesh.io/calls-per-pod"
SAVED = "modelmesh.io/wait-saved-per-minute"
LEAST, MOST = "serving.kserve.io/min-scale", "serving.kserve.io/max-scale"

CALLS_PER_POD = 16
SAVED_S = 6
ANY_PODS = 65_535

FULL_PARTS = 20
"""Memory is full if less than this part of it is free."""

LOAD_WAIT_MS = 10_000
"""Loads wait too long if even the instance with the shortest queue makes one wait for so long."""

STEP_PARTS = 10
"""Memory and loads add a part of the pods, and at least one."""

CALLS_SLACK = 1.2
"""One pod fewer must be enough for so many times the calls."""

SAVED_PARTS = 4
"""A pod goes only if adding it again would save less than this part of what must be saved."""

FEWER_AFTER_MS = 300_000
"""A pod goes when it was not needed for so long."""

GROWN_MS = 1_800_000
"""Nor goes one so soon after memory or loads asked for one: what is worth keeping is measured at the margin only."""

GIB = 1 << 30
MOST_COST = 2**31 - 1
"""The API server takes a cost of 32 bits."""


class Why(enum.Enum):
    """Why a runtime needs so many pods. Also a label of metrics."""

    STARTING = "starting"
    CALLS = "calls"
    LOADS = "loads"
    MEMORY = "memory"
    SPARE = "spare"
    ENOUGH = "enough"
    LEAST = "least"
    MOST = "most"


SENTENCES: Mapping[Why, str] = {
    Why.STARTING: "pods start, and what they change is not known yet",
    Why.CALLS: "so many are needed for the calls that are at work at a time",
    Why.LOADS: "loads wait for a slot on each pod",
    Why.MEMORY: "memory is full, and callers wait for what was evicted",
    Why.SPARE: "one pod fewer is enough for calls, loads and memory",
    Why.ENOUGH: "there are enough pods",
    Why.LEAST: "no fewer are allowed",
    Why.MOST: "no more are allowed",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the annotations of a runtime allow.

    Attributes:
        least, most: Pods.
        calls: At work at a time, that one pod shall take.
        saved_ms: Waiting of callers, each minute, that one more pod must save.
    """

    least: int = 1
    most: int = ANY_PODS
    calls: int = CALLS_PER_POD
    saved_ms: int = SAVED_S * 1000


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """An instance of the runtime, as the mesh knows it.

    Attributes:
        calls: At work at a time, in the mean of the last minute.
        load_wait_ms: How long a load that is sent there waits for a slot.
        worth_ms: How long callers would wait in the next minute for a GiB of what would be evicted next.
    """

    instance: str
    capacity_bytes: int
    used_bytes: int
    calls: float = 0.0
    load_wait_ms: int = 0
    worth_ms: int = 0
    draining: bool = False

    @property
    def free_bytes(self) -> int:
        """Memory for copies that is neither used nor promised."""
        return max(0, self.capacity_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class Demand:
    """The decision: how many pods, and why."""

    pods: int
    why: Why


@dataclass(frozen=True, slots=True)
class Trend:
    """What decisions before said. Monotonic milliseconds; None: it did not happen.

    Attributes:
        fewer_since_ms: Since when fewer pods are enough.
        grown_ms: When memory or loads last asked for more.
    """

    fewer_since_ms: int | None = None
    grown_ms: int | None = None


def limits_of(runtime: Runtime, *, bounded: bool) -> Limits:
    """What a runtime allows; it was read, so its annotations are numbers.

    Args:
        runtime: With its annotations.
        bounded: The controller itself sets the pods: then at most so many as at least, if it does not say otherwise.
    """

    def number(name: str, default: int) -> int:
        return int(runtime.annotations.get(name) or default)

    least = number(LEAST, 1)
    return Limits(
        least=least,
        most=max(least, number(MOST, least if bounded else ANY_PODS)),
        calls=number(CALLS, CALLS_PER_POD),
        saved_ms=number(SAVED, SAVED_S) * 1000,
    )


def decide_demand(instances: Sequence[InstanceLoad], *, standing: int, limits: Limits) -> Demand:
    """Decide how many pods are needed now.

    Args:
        instances: All of the runtime that the mesh knows, in any order.
        standing: Pods that its Deployment asks for.
        limits: Of the runtime.
    """
    serving = [one for one in instances if not one.draining and one.capacity_bytes > 0]
    wanted = _wanted(serving, standing, limits)
    if wanted.pods < limits.least:
        return Demand(limits.least, Why.LEAST)
    return Demand(limits.most, Why.MOST) if wanted.pods > limits.most else wanted


def settled(demand: Demand, trend: Trend, *, standing: int, now_ms: int) -> tuple[int, Trend]:
    """How many pods there shall be: more at once, fewer after a while.

    Args:
        demand: The decision of now.
        trend: What was returned before; new at first.
        standing: Pods that the Deployment asks for.
        now_ms: Monotonic milliseconds.
    """
    if demand.pods >= standing or demand.why is Why.MOST:
        grown = demand.pods > standing and demand.why in {Why.MEMORY, Why.LOADS}
        return demand.pods, Trend(None, now_ms if grown else trend.grown_ms)
    since_ms = now_ms if trend.fewer_since_ms is None else trend.fewer_since_ms
    grown_lately = trend.grown_ms is not None and now_ms - trend.grown_ms < GROWN_MS
    if grown_lately or now_ms - since_ms < FEWER_AFTER_MS:
        return standing, replace(trend, fewer_since_ms=since_ms)
    return demand.pods, Trend(None, trend.grown_ms)


def deletion_costs(instances: Sequence[InstanceLoad]) -> dict[str, int]:
    """What it costs to empty each instance: the waiting of callers for its copies, then the MiB that move.

    Rounded, so that small changes write nothing.
    """
    return {one.instance: two_digits(min(MOST_COST, round(_cost(one)))) for one in instances}


def _wanted(serving: Sequence[InstanceLoad], standing: int, limits: Limits) -> Demand:
    calls = sum(one.calls for one in serving)
    for_calls = math.ceil(calls / limits.calls)
    if for_calls > standing:
        return Demand(for_calls, Why.CALLS)
    if standing == 0 or len(serving) < standing:
        return Demand(max(1, standing), Why.STARTING)
    more = standing + max(1, standing // STEP_PARTS)
    shortest_ms = min(one.load_wait_ms for one in serving)
    if shortest_ms >= LOAD_WAIT_MS:
        return Demand(more, Why.LOADS)
    if _saved_ms(serving) >= limits.saved_ms:
        return Demand(more, Why.MEMORY)
    fewer = standing - 1
    if (
        fewer >= math.ceil(calls * CALLS_SLACK / limits.calls)
        and shortest_ms == 0
        and _without_one_ms(serving) * SAVED_PARTS <= limits.saved_ms
    ):
        return Demand(fewer, Why.SPARE)
    return Demand(standing, Why.ENOUGH)


def _saved_ms(serving: Sequence[InstanceLoad], moved_bytes: int = 0) -> float:
    """What one more pod would save callers in a minute; nothing while there is room. `moved_bytes`: come to what is used."""
    capacity = sum(one.capacity_bytes for one in serving)
    free = sum(one.free_bytes for one in serving) - moved_bytes
    if not serving or free * FULL_PARTS > capacity:
        return 0.0
    worth_ms = sum(one.worth_ms for one in serving) / len(serving)
    return worth_ms * capacity / len(serving) / GIB


def _without_one_ms(serving: Sequence[InstanceLoad]) -> float:
    """What it would save to add a pod again after the one that is cheapest to empty has gone."""
    leaving = min(serving, key=lambda one: (_cost(one), one.instance))
    return _saved_ms([one for one in serving if one is not leaving], leaving.used_bytes)


def _cost(one: InstanceLoad) -> float:
    return one.worth_ms * one.used_bytes / GIB + one.used_bytes / (1 << 20)
