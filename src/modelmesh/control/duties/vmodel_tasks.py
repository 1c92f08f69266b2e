"""One task for each vmodel that is on its way to another state; at the leader alone."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from modelmesh.control.tasks import Tasks
from modelmesh.control.view.vmodels import VModels
from modelmesh.ports import Change, ChangeKind, Compare
from modelmesh.values.ids import VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.stored import RecordError

MOST_KEPT = 1000


class VModelTasks:
    """The tasks of one kind.

    Args:
        name: What a task does, before "vmodel" and its id.
        under_way: Whether a vmodel with this record needs a task.
        run: The work of a task. It ends when nothing is under way any more, or this instance does not lead.
        fence: The condition that this instance is still the leader; None: it is not.
        keeps: Whether the record of a vmodel is kept in `records`.
    """

    def __init__(
        self,
        name: str,
        *,
        under_way: Callable[[VModelRecord], bool],
        run: Callable[[VModelId], Coroutine[Any, Any, None]],
        fence: Callable[[], Compare | None],
        vmodels: VModels,
        tasks: Tasks,
        keeps: Callable[[VModelRecord], bool] = lambda _: False,
    ) -> None:
        self._keeps = keeps
        self._name = name
        self._under_way = under_way
        self._run = run
        self._fence = fence
        self._vmodels = vmodels
        self._tasks = tasks
        self._running: dict[VModelId, asyncio.Task[None]] = {}
        self.records: dict[VModelId, VModelRecord] = {}
        """Records as the leader has seen them last, of a thousand vmodels at most."""

        self.due = False
        """Whether something may have begun unseen: `sweep` finds it."""

    def __len__(self) -> int:
        return len(self._running)

    def changed(self, vmodel: VModelId, change: Change) -> None:
        """The watch brought a new record, or its deletion."""
        if self._fence() is not None:
            self._see(vmodel, change.item.value if change.kind is ChangeKind.PUT else None)

    async def sweep(self) -> None:
        """Start a task for every vmodel that needs one; on becoming leader, and now and then. Raises StoreError."""
        gone = {*self.records}
        async for vmodel, value in self._vmodels.every():
            gone.discard(vmodel)
            self._see(vmodel, value)
        for vmodel in gone:
            self.records.pop(vmodel, None)
        self.due = False

    def stop(self) -> None:
        """Another instance leads."""
        self.records.clear()
        for task in tuple(self._running.values()):
            task.cancel()

    def _see(self, vmodel: VModelId, value: bytes | None) -> None:
        """The leader has read a record; None: it was deleted."""
        record = _decoded(value) if value is not None else None
        if record is None or not self._keeps(record):
            self.records.pop(vmodel, None)
        elif vmodel in self.records or len(self.records) < MOST_KEPT:
            self.records[vmodel] = record
        if record is not None and self._under_way(record):
            self._start(vmodel)

    def _start(self, vmodel: VModelId) -> None:
        if vmodel in self._running:
            return
        task = self._tasks.start(
            self._run(vmodel), f"{self._name} vmodel {vmodel}", failed=lambda _: setattr(self, "due", True)
        )
        self._running[vmodel] = task
        task.add_done_callback(lambda _: self._running.pop(vmodel, None))


def _decoded(value: bytes) -> VModelRecord | None:
    """None: it cannot be read."""
    try:
        return VModelRecord.decode(value)
    except RecordError:
        return None
