"""How long the loads of this instance will take, and where each of them stands."""

from collections.abc import Callable

from modelmesh.control.copies.entry import Entry
from modelmesh.control.copies.runtime_link import RuntimeParameters
from modelmesh.control.copies.slots import LoadingSlots
from modelmesh.control.copies.usage import Learned
from modelmesh.machines.model_copy import CopyState
from modelmesh.ports import Clock
from modelmesh.values.ids import LoadId
from modelmesh.values.priority import Priority


class Backlog:
    """The loads at work and waiting here.

    Args:
        slots: Which loads have a slot, and which wait for one.
        entry_of: The copy that a load is for.
        learned: How long loads take.
        parameters: The runtime's.
    """

    def __init__(
        self,
        *,
        slots: LoadingSlots,
        entry_of: Callable[[LoadId], Entry],
        learned: Learned,
        clock: Clock,
        parameters: Callable[[], RuntimeParameters],
    ) -> None:
        self._slots = slots
        self._entry_of = entry_of
        self._learned = learned
        self._clock = clock
        self._parameters = parameters

    def ms(self) -> int:
        """How long they will take, one after the other."""
        return self._slots.queued_ms + self._at_work_ms()

    def standing(self, load: LoadId) -> tuple[str, str] | None:
        """Why a load stands in the queue where it does, and for people where that is; None: it is not queued."""
        standing = self._slots.standing(load)
        if standing is None:
            return None
        slots = max(1, self._parameters().loading_slots)
        wait_ms = (self._at_work_ms() + self._slots.queued_ms * standing.before // self._slots.queued) // slots
        where = f"{standing.before} before it, {len(self._slots.taken())} at work in {slots} slots"
        highest = "" if standing.priority is Priority.NORMAL else f" (highest class: {standing.priority.word})"
        return standing.reason.value, f"{where}, {standing.callers} callers{highest}; some {wait_ms} ms to wait"

    def _at_work_ms(self) -> int:
        now_ms = self._clock.monotonic_ms()
        left_ms = 0
        for load in self._slots.taken():
            entry = self._entry_of(load)
            at_work_ms = now_ms - entry.entered_ms if entry.state is CopyState.LOADING else 0
            expected_ms = self._learned.expected_load_ms(entry.model, entry.size)
            # One that takes longer than it should is taken to be half done.
            left_ms += expected_ms - at_work_ms if at_work_ms <= expected_ms else at_work_ms
        return left_ms
