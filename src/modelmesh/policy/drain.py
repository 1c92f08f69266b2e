"""What must stand elsewhere before this instance leaves, and in which order.

Called by `modelmesh.control.drain`. Source: the INTENT of `spec/cluster-state.md` 7.2: hottest first,
to the copy count from before, while this instance goes on serving.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from modelmesh.values.ids import ModelId

RECENT_MS = 3_600_000
"""A copy unused for this long is not worth a load elsewhere; its next call loads it."""


class DrainReason(enum.Enum):
    """Why a copy is moved or left behind."""

    IN_USE = "in_use"
    USED_RECENTLY = "used_recently"
    NOT_USED = "not_used"
    ENOUGH_ELSEWHERE = "enough_elsewhere"


@dataclass(frozen=True, slots=True)
class LeavingCopy:
    """A ready copy of the instance that leaves.

    Attributes:
        in_use: Requests run on it or wait for it.
        rate: Requests per minute.
        elsewhere: Ready copies at instances that stay.
        wanted: How many copies should stand when this one has gone.
    """

    model: ModelId
    last_use_ms: int
    in_use: bool
    rate: int
    elsewhere: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Move:
    """Load a copy elsewhere first."""

    model: ModelId
    reason: DrainReason


@dataclass(frozen=True, slots=True)
class LeaveBehind:
    """Let it go with the instance."""

    model: ModelId
    reason: DrainReason


def plan_drain(copies: Iterable[LeavingCopy], *, now_ms: int) -> tuple[tuple[Move, ...], tuple[LeaveBehind, ...]]:
    """Split the copies into those to move, hottest first, and those to leave behind.

    Args:
        copies: The ready copies here.
        now_ms: Epoch milliseconds.
    """
    moves: list[Move] = []
    behind: list[LeaveBehind] = []
    for copy in sorted(copies, key=lambda copy: (not copy.in_use, -copy.rate, -copy.last_use_ms, copy.model)):
        if copy.elsewhere >= copy.wanted:
            behind.append(LeaveBehind(copy.model, DrainReason.ENOUGH_ELSEWHERE))
        elif copy.in_use:
            moves.append(Move(copy.model, DrainReason.IN_USE))
        elif now_ms - copy.last_use_ms <= RECENT_MS:
            moves.append(Move(copy.model, DrainReason.USED_RECENTLY))
        else:
            behind.append(LeaveBehind(copy.model, DrainReason.NOT_USED))
    return tuple(moves), tuple(behind)
