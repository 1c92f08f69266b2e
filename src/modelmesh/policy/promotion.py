"""May a vmodel move to its target, and what is missing until then.

Called by `modelmesh.control.duties.vmodel_moves` at the leader, and by setVModel for the switch that needs no
transition. Source: the INTENT of `spec/cluster-state.md` 10.5: as many copies of the target as the
active model has are loaded before the switch.
"""

import enum
from dataclasses import dataclass


class PromotionReason(enum.Enum):
    """Why the vmodel moves, waits or fails."""

    ACTIVE_UNUSED = "active_unused"
    PARITY = "parity"
    AS_MANY_AS_FIT = "as_many_as_fit"
    COPIES_MISSING = "copies_missing"
    COPIES_LOADING = "copies_loading"
    LOAD_FAILED = "load_failed"


@dataclass(frozen=True, slots=True)
class Promote:
    """The target becomes the active model."""

    reason: PromotionReason


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """`missing` more copies of the target are wanted."""

    missing: int
    reason: PromotionReason


@dataclass(frozen=True, slots=True)
class AwaitTarget:
    """Enough copies are loading."""

    reason: PromotionReason


@dataclass(frozen=True, slots=True)
class FailTransition:
    """No copy of the target can be loaded at present; tried again when its failures are forgotten."""

    reason: PromotionReason


PromotionStep = Promote | LoadTarget | AwaitTarget | FailTransition


def promote(
    *, active_copies: int, target_ready: int, target_loading: int, places: int, refused: bool = False
) -> PromotionStep:
    """Decide the next step of a transition.

    Args:
        active_copies: Ready and loading copies of the active model.
        target_ready: Ready copies of the target.
        target_loading: Copies of the target that are loading.
        places: Instances that may hold the target, its holders included.
        refused: The latest try to load one more copy failed everywhere.
    """
    if active_copies == 0:
        return Promote(PromotionReason.ACTIVE_UNUSED)
    wanted = max(1, min(active_copies, places))
    if target_ready >= wanted:
        return Promote(PromotionReason.PARITY)
    if target_loading and (refused or target_ready + target_loading >= wanted):
        return AwaitTarget(PromotionReason.COPIES_LOADING)
    if refused and target_ready:
        return Promote(PromotionReason.AS_MANY_AS_FIT)
    if refused:
        return FailTransition(PromotionReason.LOAD_FAILED)
    return LoadTarget(wanted - target_ready - target_loading, PromotionReason.COPIES_MISSING)
