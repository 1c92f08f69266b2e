"""More memory for a load for which the books had room and the runtime did not.

The books have the predicted size of a copy until it is loaded and measured, and predictions can be late or wrong. A load beside
such copies can be refused by the runtime although nothing is wrong with its model.
"""

from collections.abc import Callable, Mapping

from modelmesh.control.copies.entry import Entry
from modelmesh.control.copies.room import Room
from modelmesh.machines.memory import MemoryLedger
from modelmesh.machines.model_copy import CopyState
from modelmesh.values.ids import LoadId, ModelId
from modelmesh.values.memory import NOTHING

UNSIZED = frozenset({CopyState.LOADING, CopyState.SIZING})
"""Copies of which only a prediction is known."""


class MoreRoom:
    """Asks for more memory for loads, and tells when it is there.

    Args:
        entries: The copies here; read only.
        room: Evicts for a load.
        grant: Begins loads whose memory is complete.
    """

    def __init__(
        self,
        *,
        entries: Mapping[ModelId, Entry],
        ledger: MemoryLedger,
        room: Room,
        grant: Callable[[list[LoadId]], None],
    ) -> None:
        self._entries = entries
        self._ledger = ledger
        self._room = room
        self._grant = grant

    def ask(self, entry: Entry) -> frozenset[LoadId] | None:
        """Ask for the size that the entry has now.

        Returns:
            The loads whose sizes must be known first. None if nothing explains the refusal: no size beside the load is unknown,
            and its own is not larger than what it had. Then nothing is evicted for it.
        """
        others = (other for other in self._entries.values() if other is not entry)
        unsized = frozenset(other.load_id for other in others if other.state in UNSIZED)
        is_larger = bool(entry.size.beyond(self._ledger.booked(entry.load_id)))
        if not (unsized or is_larger) or not entry.size.fits(self._ledger.capacity - self._room.pinned()):
            return None
        self._grant(self._ledger.widen(entry.load_id, entry.size))
        self._room.make(entry)
        return unsized

    def is_there(self, entry: Entry, unsized: frozenset[LoadId]) -> bool:
        """Whether the load has all that was asked for, and the sizes of the loads that `ask` returned are known."""
        if any(other.load_id in unsized and other.state in UNSIZED for other in self._entries.values()):
            return False
        return NOTHING.fits(self._ledger.free) and entry.size.fits(self._ledger.booked(entry.load_id))
