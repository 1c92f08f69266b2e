"""May a load begin here: now, after a wait, or not at all.

Called by `modelmesh.control.copies.loading` before it claims a load.
"""

import enum
from dataclasses import dataclass
from random import Random

from modelmesh.values.memory import Memory
from modelmesh.values.view import ClusterView

SOONEST_MS = 100
LATEST_MS = 60_000
"""Bounds of the retry delay that a caller gets when there is no room."""

RESIDENCE_DIVISOR = 4
LONGEST_RESIDENCE_MS = 5_000


class AdmissionReason(enum.Enum):
    """Why a load is admitted or refused."""

    ADMITTED = "admitted"
    TOO_LARGE = "too_large"
    BESIDE_PINNED = "beside_pinned"
    DISPLACES_NEWER = "displaces_newer"
    DRAINING = "draining"
    RUNTIME_AWAY = "runtime_away"


@dataclass(frozen=True, slots=True)
class LoadCondition:
    """The state of this instance that the decision needs. `next_victim_use_ms`: last use of the copy that would leave next, or 0."""

    capacity: Memory
    reserve: Memory
    pinned: Memory
    used: Memory
    next_victim_use_ms: int
    draining: bool
    runtime_ready: bool


def admit(condition: LoadCondition, *, size: Memory, last_use_ms: int | None) -> AdmissionReason:
    """Decide on a load.

    Args:
        condition: This instance.
        size: Predicted size.
        last_use_ms: When the model was last used, for loads that no caller waits for; None for a
            load on behalf of a waiting call, which is newer than everything.
    """
    if condition.draining:
        return AdmissionReason.DRAINING
    if not condition.runtime_ready:
        return AdmissionReason.RUNTIME_AWAY
    if not size.fits(condition.capacity):
        return AdmissionReason.TOO_LARGE
    if not size.fits(condition.capacity - condition.pinned):
        return AdmissionReason.BESIDE_PINNED
    fits = (condition.used + size + condition.reserve).fits(condition.capacity)
    if last_use_ms is not None and not fits and 0 < last_use_ms < condition.next_victim_use_ms:
        return AdmissionReason.DISPLACES_NEWER
    return AdmissionReason.ADMITTED


def retry_after_ms(view: ClusterView, *, load_ms: int) -> int:
    """How long a caller that found no room should wait: until the shortest queue has moved on by one turn.

    Args:
        view: The cluster.
        load_ms: How long loads commonly take.
    """
    turns = [
        1 + entry.record.loads // max(1, entry.record.loading_slots) for entry in view.instances if entry.available
    ]
    return min(LATEST_MS, max(SOONEST_MS, min(turns, default=LATEST_MS) * load_ms))


def spread_ms(after_ms: int, rng: Random) -> int:
    """The delay for one of many callers: up to half as long again.

    Callers that are refused at the same time would otherwise all retry at the same time.

    Args:
        after_ms: The earliest useful retry.
        rng: The only randomness.
    """
    return after_ms + rng.randrange(after_ms // 2 + 1)


def settled(*, loaded_ago_ms: int, load_ms: int) -> bool:
    """Whether a copy has been there for a quarter of the time that its load took.

    Evicting it before would only make callers take turns; keeping it much longer would make the policy's better
    victims leave in its place.

    Args:
        loaded_ago_ms: Since it became ready.
        load_ms: What its load took.
    """
    return loaded_ago_ms >= min(load_ms // RESIDENCE_DIVISOR, LONGEST_RESIDENCE_MS)
