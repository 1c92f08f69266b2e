"""Which unloaded models to load into unused memory. Asked by the leader after its survey of the registry.

Source: the INTENT of `spec/cluster-state.md` 5.5, without replacing what is held: room is filled, nothing leaves for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from modelmesh.values.ids import ModelId
from modelmesh.values.memory import NOTHING, SMALLEST, Memory, total
from modelmesh.values.view import ClusterView

KEPT_FREE = 8
"""An eighth of each instance stays free for models that callers ask for."""

SLOTS_KEPT_FREE = 4
"""A quarter of all loading slots stays free for models that callers ask for, where there is more than one."""

PER_SLOT = 50
"""Preloads that an instance is given for each of its load slots at a time."""


@dataclass(frozen=True, slots=True)
class ColdModel:
    """A registered model without a copy, and when it was last used (epoch milliseconds)."""

    model: ModelId
    last_use_ms: int


def plan_preloads(cold: Sequence[ColdModel], view: ClusterView, *, default_size: Memory) -> list[ColdModel]:
    """The models to load, the most recently used first; empty while there is no room to spare."""
    assert default_size
    usable = [entry for entry in view.instances if entry.available]
    copies = sum(entry.record.copies for entry in usable)
    used = total(entry.record.used for entry in usable)
    size = (used // copies).at_least(SMALLEST) if copies > 10 else default_size
    space = NOTHING
    for entry in usable:
        spare = entry.free.beyond(entry.record.capacity // KEPT_FREE)
        slots = PER_SLOT * max(1, entry.record.loading_slots) - entry.record.loads
        space += spare.at_most(size * max(0, slots))
    count = (space // 2).holds(size)
    return sorted(cold, key=lambda model: (-model.last_use_ms, model.model))[:count]


def preload_begins(view: ClusterView) -> bool:
    """Whether one more preload may be given to an instance now: in a free slot, and some stay free for callers.

    A load cannot be interrupted: where preloads had all slots, each caller would wait for the end of one.
    """
    usable = [(max(1, entry.record.loading_slots), view.loads_at(entry)) for entry in view.instances if entry.available]
    slots = sum(slots for slots, _ in usable)
    busy = sum(min(slots, loads) for slots, loads in usable)
    return bool(slots) and busy < max(1, slots - -(-slots // SLOTS_KEPT_FREE))
