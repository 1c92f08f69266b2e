"""Whether this instance should get traffic from outside. Called by `modelmesh.control.life.ready`.

Source: the INTENT of `spec/cluster-state.md` 8.1. There one draining instance that got stuck kept all new ones unready forever;
here it counts for a bounded time.

If all instances lose the store, all stay ready: loaded models can be served without it. If one loses it alone, the others
serve everything, and this one only what it has loaded.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

STORE_AWAY_MS = 10_000
"""How long an instance may be the only one without the store before it is not ready: a store that restarts is back sooner."""

OTHERS_DRAIN_MS = 120_000
"""How long another instance's drain is waited for; a rollout gives one that long at most, by its default."""


class ReadinessReason(enum.Enum):
    """Why it is ready or not."""

    READY = "ready"
    STARTING = "starting"
    RUNTIME_AWAY = "runtime_away"
    DRAINING = "draining"
    LOADS_FAIL = "loads_fail"
    OTHERS_DRAIN = "others_drain"
    STORE_AWAY = "store_away"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Condition:
    """What matters for it.

    Attributes:
        started: Everything came up, static registrations included.
        runtime_ready: The runtime takes loads and calls.
        draining: This instance is leaving.
        loads_fail: Models that work elsewhere, or too many, fail to load here since the start, and none is loaded.
        was_ready: It has been ready before.
        broken: A loop without which it is no instance has ended.
        cut_off_ms: How long this instance has been without the store while another instance has it; None: it has the
            store, or no instance is known to have it.
        drains_ms: For each other instance that is draining, since when that has been seen here.
    """

    started: bool
    runtime_ready: bool
    draining: bool = False
    loads_fail: bool = False
    was_ready: bool = True
    drains_ms: Sequence[int] = ()
    broken: bool = False
    cut_off_ms: int | None = None


def readiness(condition: Condition) -> ReadinessReason:
    """Decide. A rolling update continues only when this is READY, so new instances wait until old ones have moved their copies."""
    if condition.broken:
        return ReadinessReason.BROKEN
    if not condition.started:
        return ReadinessReason.STARTING
    if condition.draining:
        return ReadinessReason.DRAINING
    if not condition.runtime_ready:
        return ReadinessReason.RUNTIME_AWAY
    if condition.loads_fail:
        return ReadinessReason.LOADS_FAIL
    if condition.cut_off_ms is not None and condition.cut_off_ms >= STORE_AWAY_MS:
        return ReadinessReason.STORE_AWAY
    if not condition.was_ready and any(drain_ms < OTHERS_DRAIN_MS for drain_ms in condition.drains_ms):
        return ReadinessReason.OTHERS_DRAIN
    return ReadinessReason.READY
