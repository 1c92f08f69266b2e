"""Moves vmodels to their targets; the leader's work.

A transition is in progress while a vmodel's `active` and `target` differ. For each the leader runs one
task: load copies of the target until `modelmesh.policy.promotion` says that the vmodel may move, then
move it. Nothing is remembered but the store's records, so a new leader continues where the old one stopped.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from modelmesh.control.decide import Decider
from modelmesh.control.duties.vmodel_tasks import VModelTasks
from modelmesh.control.journal import Journal
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import (
    RecordCache,
    Registered,
    TooManyReadsError,
    UnreadableRecordError,
)
from modelmesh.control.view.vmodels import StoredVModel, VModels
from modelmesh.policy.promotion import (
    AwaitTarget,
    FailTransition,
    LoadTarget,
    Promote,
    promote,
)
from modelmesh.ports import Change, Clock, Compare, StoreError
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import ModelRecord, VModelRecord

HOUR_MS = 3_600_000
LOOK_AGAIN_MS = 2_000
"""A transition is looked at again after this long even if nothing seems to have changed."""

FAILED_AGAIN_MS = 5_000
"""How long after a failed try the target is tried again; recent failures answer without a load."""

REFUSED_AGAIN_MS = 100
"""How long after a refused write a transition is looked at again: by then the view may show what has changed."""

AT_ONCE = 32
"""Transitions being worked on at a time; the others wait."""


class AddCopy(Protocol):
    """Have one more copy of a model loaded somewhere."""

    async def __call__(self, model: ModelId, registered: Registered, *, last_use_ms: int) -> bool:
        """False: no instance can."""
        ...


class Transitions:
    """The transitions of all vmodels; idle at every instance but the leader.

    Args:
        add_copy: Starts the load of one more copy.
        fence: The condition that this instance is still the leader; None: it is none.
    """

    def __init__(
        self,
        *,
        vmodels: VModels,
        models: RecordCache[ModelId, ModelRecord],
        decider: Decider,
        add_copy: AddCopy,
        fence: Callable[[], Compare | None],
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
    ) -> None:
        self._vmodels = vmodels
        self._models = models
        self._decider = decider
        self._add_copy = add_copy
        self._fence = fence
        self._clock = clock
        self._journal = journal
        self._watched: dict[ModelId, dict[VModelId, asyncio.Event]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.tasks = VModelTasks(
            "move", under_way=_in_transition, run=self._run, fence=fence, vmodels=vmodels, tasks=tasks
        )
        """One for each transition."""

    def changed(self, vmodel: VModelId, change: Change) -> None:
        """The watch brought a new record, or its deletion."""
        self.tasks.changed(vmodel, change)
        for watching in self._watched.values():
            if vmodel in watching:
                watching[vmodel].set()

    def viewed(self, models: Iterable[ModelId]) -> None:
        """Copies or failures of these models changed."""
        for model in models:
            for event in self._watched.get(model, {}).values():
                event.set()

    def relisted(self) -> None:
        """Any record, copy or failure may have changed unseen."""
        self.tasks.due = True
        self.viewed(tuple(self._watched))

    async def _run(self, vmodel: VModelId) -> None:
        async with self._slots:
            refused = False
            while (fence := self._fence()) is not None:
                try:
                    found = await self._vmodels.read(vmodel)
                    if found is None or found.record.active == found.record.target:
                        return
                    refused = await self._turn(vmodel, found, fence, refused=refused)
                except (StoreError, TooManyReadsError):
                    await self._clock.sleep(LOOK_AGAIN_MS)
                except UnreadableRecordError as error:
                    self._journal.note("vmodel_unreadable", detail=f"{vmodel}: {error}")
                    return

    async def _turn(self, vmodel: VModelId, found: StoredVModel, fence: Compare, *, refused: bool) -> bool:
        """One step of a transition; returns whether its latest load was refused everywhere."""
        record = found.record
        registered = await self._models.get(record.target)
        if registered is None:
            await self._fail(vmodel, found, fence, "the target model is not registered")
            return False
        active = self._decider.model_view(record.active, None)
        target = self._decider.model_view(record.target, registered)
        ready = sum(copy.ready for copy in target.copies)
        step = promote(
            active_copies=len(active.copies),
            target_ready=ready,
            target_loading=len(target.copies) - ready,
            places=self._decider.places(record.target, registered, self._decider.cluster_view()),
            refused=refused,
        )
        match step:
            case Promote(reason):
                moved = record.moved(record.target)
                if await self._vmodels.write(vmodel, found, moved, fence=fence) is None:
                    await self._clock.sleep(REFUSED_AGAIN_MS)
                    return refused
                detail = f"{vmodel} from {record.active} with {ready} of {len(active.copies)} copies"
                self._journal.note("vmodel_moved", record.target, reason.value, detail)
            case LoadTarget(missing):
                # A target that found no place by the use of its active model is tried again as one that is used now. Otherwise
                # a vmodel whose model is used least of all that fill an instance would never move.
                last_use_ms = self._clock.now_ms() if record.failed else await self._last_use_ms(record.active)
                for _ in range(missing):
                    if not await self._add_copy(record.target, registered, last_use_ms=last_use_ms):
                        return True
            case AwaitTarget():
                await self._until_changed(vmodel, record, LOOK_AGAIN_MS)
            case FailTransition():
                await self._fail(vmodel, found, fence, "no copy of the target can be loaded")
                return False
        return refused

    async def _fail(self, vmodel: VModelId, found: StoredVModel, fence: Compare, why: str) -> None:
        if not found.record.failed:
            self._journal.note("vmodel_stuck", found.record.target, detail=f"{vmodel}: {why}")
            await self._vmodels.write(vmodel, found, replace(found.record, failed=True), fence=fence)
        await self._until_changed(vmodel, found.record, FAILED_AGAIN_MS)

    async def _last_use_ms(self, active: ModelId) -> int:
        found = await self._models.get(active)
        used_ms = found.record.last_use_ms if found is not None else 0
        return max(used_ms, self._clock.now_ms() - HOUR_MS)

    async def _until_changed(self, vmodel: VModelId, record: VModelRecord, bound_ms: int) -> None:
        """Until the vmodel, its active or its target model changed in the view, or the bound passed."""
        event = asyncio.Event()
        for model in (record.active, record.target):
            self._watched.setdefault(model, {})[vmodel] = event
        try:
            async with asyncio.timeout(bound_ms / 1000):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            for model in (record.active, record.target):
                watching = self._watched[model]
                del watching[vmodel]
                if not watching:
                    del self._watched[model]


def _in_transition(record: VModelRecord) -> bool:
    return record.active != record.target
