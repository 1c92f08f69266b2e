"""Whether a copy should move from here to an instance that has far fewer copies, because it has just joined.

Asked by `modelmesh.control.duties.balance`, one move at a time. Source: design notes; the old system left a new instance empty until misses
and its leader's reaper filled it.
"""

import enum
from dataclasses import dataclass

from modelmesh.values.ids import InstanceId
from modelmesh.values.view import ClusterView, InstanceView

CROWDED_PERCENT = 25
"""An instance with less room than this has copies to give away."""

ROOMY_PERCENT = 50
"""An instance with more room than this may be given some."""

FEWEST = 4
"""An instance with fewer copies keeps them."""


class BalanceReason(enum.Enum):
    """Why a copy moves, or none does."""

    JOINED_EMPTY = "joined_empty"
    NOT_CROWDED = "not_crowded"
    NOBODY_EMPTIER = "nobody_emptier"


@dataclass(frozen=True, slots=True)
class MoveOne:
    """Load a copy at `target`, then let it go here."""

    target: InstanceId
    reason: BalanceReason = BalanceReason.JOINED_EMPTY


@dataclass(frozen=True, slots=True)
class StayPut:
    """Nothing moves."""

    reason: BalanceReason


def next_move(view: ClusterView) -> MoveOne | StayPut:
    """Decide for the own instance of the view.

    A copy moves only to an instance that has fewer than half as many copies, and still has after the move: so
    two instances never give each other the same copy.
    """
    own = view.instance(view.own)
    if own is None or not own.available or own.record.copies < FEWEST or _room_percent(own) >= CROWDED_PERCENT:
        return StayPut(BalanceReason.NOT_CROWDED)
    targets = [
        entry
        for entry in view.instances
        if entry.instance != view.own
        and entry.available
        and _room_percent(entry) > ROOMY_PERCENT
        and 2 * (entry.record.copies + 1) < own.record.copies - 1
    ]
    if not targets:
        return StayPut(BalanceReason.NOBODY_EMPTIER)
    target = min(targets, key=lambda entry: (entry.record.zone == own.record.zone, entry.record.copies, entry.instance))
    return MoveOne(target.instance)


def _room_percent(entry: InstanceView) -> int:
    record = entry.record
    return record.capacity.beyond(record.used).parts_of(record.capacity, 100)
