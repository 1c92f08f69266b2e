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


class VModelTasks:
    """The tasks of one kind.

    Args:
        name: What a task does, before "vmodel" and its id.
        under_way: Whether a vmodel with this record needs a task.
        run: The work of a task. It ends when nothing is under way any more, or this instance does not lead.
        fence: The condition that this instance is still the leader; None: it is not.
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
    ) -> None:
        self._name = name
        self._under_way = under_way
        self._run = run
        self._fence = fence
        self._vmodels = vmodels
        self._tasks = tasks
        self._running: dict[VModelId, asyncio.Task[None]] = {}
        self.due = False
        """Whether something may have begun unseen: `sweep` finds it."""

    def __len__(self) -> int:
        return len(self._running)

    def changed(self, vmodel: VModelId, change: Change) -> None:
        """The watch brought a new record, or its deletion."""
        if change.kind is ChangeKind.PUT and self._wanted(change.item.value) and self._fence() is not None:
            self._start(vmodel)

    async def sweep(self) -> None:
        """Start a task for every vmodel that needs one; on becoming leader, and now and then. Raises StoreError."""
        async for vmodel in self._vmodels.every(self._wanted):
            self._start(vmodel)
        self.due = False

    def stop(self) -> None:
        """Another instance leads."""
        for task in tuple(self._running.values()):
            task.cancel()

    def _wanted(self, value: bytes) -> bool:
        try:
            return self._under_way(VModelRecord.decode(value))
        except RecordError:
            return False

    def _start(self, vmodel: VModelId) -> None:
        if vmodel in self._running:
            return
        task = self._tasks.start(
            self._run(vmodel), f"{self._name} vmodel {vmodel}", failed=lambda _: setattr(self, "due", True)
        )
        self._running[vmodel] = task
        task.add_done_callback(lambda _: self._running.pop(vmodel, None))
