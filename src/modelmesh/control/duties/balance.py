"""Moves copies to an instance that joined empty: loaded there first, then unloaded here. One at a time."""

from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.entry import DropReason
from modelmesh.control.decide import Decider
from modelmesh.control.journal import Journal
from modelmesh.control.requests.mover import Elsewhere, Mover, Unregistered
from modelmesh.control.tasks import Tasks
from modelmesh.policy.balance import MoveOne, next_move
from modelmesh.values.ids import InstanceId, ModelId, Revision

PAUSE_TICKS = 10
"""After a move that was refused."""


class Balance:
    """Gives copies of this instance away."""

    def __init__(self, *, cache: Cache, decider: Decider, mover: Mover, journal: Journal, tasks: Tasks) -> None:
        self._cache = cache
        self._decider = decider
        self._mover = mover
        self._journal = journal
        self._tasks = tasks
        self._moving = False
        self._pause = 0
        self._turn = 0

    def tick(self) -> None:
        """Look around; about once a second."""
        self._pause = max(0, self._pause - 1)
        if self._moving or self._pause or self._cache.draining:
            return
        move = next_move(self._decider.cluster_view())
        model = self._chosen() if isinstance(move, MoveOne) else None
        if isinstance(move, MoveOne) and model is not None:
            self._moving = True
            self._tasks.start(self._move(model, move), f"move {model} to {move.target}")

    def _chosen(self) -> ModelId | None:
        """A copy that is worth something and is not in use this moment: in turn from the better half."""
        order = [
            model
            for model in self._cache.usage.leaving_order()
            if not self._cache.usage.busy(model) and not self._cache.others(model) and not self._cache.pinned(model)
        ]
        better = order[len(order) // 2 :]
        if not better:
            return None
        self._turn += 1
        return better[self._turn * 7 % len(better)]

    async def _move(self, model: ModelId, move: MoveOne) -> None:
        try:
            others = {entry.instance for entry in self._decider.cluster_view().instances} - {move.target}
            match await self._mover.load_elsewhere(model, exclude=frozenset(others)):
                case Elsewhere(instance, ready=True) if standing := self._standing(model):
                    self._journal.note("moved", model, move.reason.value, f"to {instance}")
                    self._cache.drop(model, DropReason.MOVED, relied_on=standing)
                case Unregistered():
                    pass
                case _:
                    self._pause = PAUSE_TICKS
        finally:
            self._moving = False

    def _standing(self, model: ModelId) -> tuple[tuple[InstanceId, Revision], ...]:
        """The copies that the removal of the copy here can rely on; none if that copy has already left."""
        return self._cache.others(model) if model in self._cache.ready() else ()
