"""Which copies must be loaded elsewhere before this instance leaves, and in which order.

Called by `modelmesh.control.life.drain`. Source: the INTENT of `spec/cluster-state.md` 7.2: hottest first,
to the copy count from before, while this instance continues to serve.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from modelmesh.values.ids import ModelId


class DrainReason(enum.Enum):
    """Why a copy is moved or left behind."""

    IN_USE = "in_use"
    LOADED = "loaded"
    ENOUGH_ELSEWHERE = "enough_elsewhere"


@dataclass(frozen=True, slots=True)
class LeavingCopy:
    """A ready copy of the instance that leaves.

    Attributes:
        in_use: Requests run on it or wait for it.
        rate: Requests per minute.
        elsewhere: Ready copies at instances that stay.
        wanted: How many copies there should be after this one has left.
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
    """It ends with the instance."""

    model: ModelId
    reason: DrainReason


def plan_drain(copies: Iterable[LeavingCopy]) -> tuple[tuple[Move, ...], tuple[LeaveBehind, ...]]:
    """Split the ready copies into those to move, hottest first, and those of which there are enough copies elsewhere.

    Whether an unused copy is worth its room is decided by the instance that is asked to take it: it refuses what
    would displace a copy used more recently.
    """
    moves: list[Move] = []
    behind: list[LeaveBehind] = []
    for copy in sorted(copies, key=lambda copy: (not copy.in_use, -copy.rate, -copy.last_use_ms, copy.model)):
        if copy.elsewhere >= copy.wanted:
            behind.append(LeaveBehind(copy.model, DrainReason.ENOUGH_ELSEWHERE))
        elif copy.in_use:
            moves.append(Move(copy.model, DrainReason.IN_USE))
        else:
            moves.append(Move(copy.model, DrainReason.LOADED))
    return tuple(moves), tuple(behind)
