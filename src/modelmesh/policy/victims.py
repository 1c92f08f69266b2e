"""Choose which copies to evict to free memory.

Called by `modelmesh.control.decide` when a load needs more memory than is free. The caller walks its
copies in the order of the policy in force (least recently used first) and passes them on lazily, so
that a choice costs what it looks at, not what is held.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from modelmesh.values.ids import LoadId, ModelId
from modelmesh.values.memory import NOTHING, Memory


class EvictionReason(enum.Enum):
    """Why a copy was chosen to leave."""

    REDUNDANT = "redundant"
    OLDEST_IDLE = "oldest_idle"
    OLDEST_BUSY = "oldest_busy"
    OVER_QUOTA = "over_quota"


class HeldCopy(NamedTuple):
    """A copy that could leave. `redundant`: another instance holds a ready one; `pinned`: an operator wants it kept.

    A named tuple because one is made for each copy that is looked at: a quarter of the cost of a frozen dataclass.
    """

    model: ModelId
    load_id: LoadId
    size: Memory
    last_use_ms: int
    busy: bool
    redundant: bool
    pinned: bool = False
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Victim:
    """A copy to evict, and why."""

    model: ModelId
    load_id: LoadId
    size: Memory
    reason: EvictionReason


LOOKAHEAD = 16
"""How many copies beyond the oldest are looked at for a better victim. Bounds the cost of a choice; a
busy copy among the 16 oldest is rare."""


def choose_victims(
    oldest_first: Iterable[HeldCopy], *, need: Memory, forced: bool = False, exact_order: bool = False
) -> tuple[Victim, ...]:
    """Choose copies whose sizes add up to `need`, in the order given.

    Idle copies go first, and among them redundant ones that are within the same look-ahead; a copy
    with requests in flight, pinned, or just loaded, leaves only when `forced` (the runtime holds more than it may).
    The answer may fall short: then the load waits. Where a large copy follows small ones that alone are too
    little, those small ones stay that need not go beside it, unless `exact_order` is asked for.
    """
    if not need:
        return ()
    chosen: list[Victim] = []
    busy: list[HeldCopy] = []
    gained = NOTHING
    window: list[HeldCopy] = []
    source = iter(oldest_first)
    while not need.fits(gained):
        while len(window) < LOOKAHEAD:
            copy = next(source, None)
            if copy is None:
                break
            (busy if copy.busy or copy.pinned or not copy.settled else window).append(copy)
            if len(busy) > LOOKAHEAD * 16:
                break
        if not window:
            break
        index = next((index for index, copy in enumerate(window) if copy.redundant), 0)
        copy = window.pop(index)
        reason = EvictionReason.REDUNDANT if copy.redundant else EvictionReason.OLDEST_IDLE
        chosen.append(Victim(copy.model, copy.load_id, copy.size, reason))
        gained += copy.size
    if forced:
        for copy in busy:
            if need.fits(gained):
                break
            chosen.append(Victim(copy.model, copy.load_id, copy.size, EvictionReason.OLDEST_BUSY))
            gained += copy.size
    return tuple(_needed(chosen, spare=gained - need) if not exact_order else chosen)


def _needed(chosen: list[Victim], *, spare: Memory) -> list[Victim]:
    """Without those that need not leave because a larger one leaves too; the copies most worth keeping are spared first."""
    needed = []
    for victim in reversed(chosen):
        if victim.reason is EvictionReason.OLDEST_IDLE and victim.size.fits(spare):
            spare -= victim.size
        else:
            needed.append(victim)
    needed.reverse()
    return needed
