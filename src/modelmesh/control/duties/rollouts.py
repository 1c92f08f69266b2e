"""Looks at the rollouts of vmodels, and writes their next steps. At the leader alone.

What was counted in a step is at the instances, under the time at which the step began. So a new leader goes on where the last one was,
and of two that both believe to lead only one writes.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from modelmesh.control.duties.tallies import Tallies
from modelmesh.control.duties.vmodel_tasks import VModelTasks
from modelmesh.control.journal import Journal
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import TooManyReadsError, UnreadableRecordError
from modelmesh.control.view.vmodels import VModels
from modelmesh.policy.rollout import (
    FailedLoads,
    NextStep,
    PromoteModel,
    RollBack,
    Wait,
    apply,
    failed_loads,
    judge,
)
from modelmesh.ports import Clock, Compare, StoreError
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.rollout import Rollout
from modelmesh.values.view import ModelView

LOOK_MS = 5_000
"""How often each rollout is looked at."""

AT_ONCE = 8
"""Rollouts whose counts are asked for at a time; the others wait."""


class Shown(NamedTuple):
    """The last rollout of a vmodel, and how many percent of the calls its model gets now."""

    rollout: Rollout
    percent: int


class Rollouts:
    """The rollouts of all vmodels; idle at every instance but the leader.

    Args:
        view: Copies and failures of a model.
        fence: The condition that this instance is still the leader; None: it is none.
    """

    def __init__(
        self,
        *,
        vmodels: VModels,
        tallies: Tallies,
        view: Callable[[ModelId], ModelView],
        fence: Callable[[], Compare | None],
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
    ) -> None:
        self._vmodels = vmodels
        self._tallies = tallies
        self._view = view
        self._failed: dict[VModelId, FailedLoads] = {}
        self._fence = fence
        self._clock = clock
        self._journal = journal
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.tasks = VModelTasks(
            "roll out for",
            under_way=_is_rolled_out,
            run=self._run,
            fence=fence,
            vmodels=vmodels,
            tasks=tasks,
            keeps=lambda record: record.rollout is not None,
        )
        """One for each rollout that runs."""

    @property
    def shown(self) -> Mapping[VModelId, Shown]:
        """Rollouts that run or have ended; known to the leader alone."""
        return {
            vmodel: Shown(record.rollout, record.percent_of(record.rollout.model))
            for vmodel, record in self.tasks.records.items()
            if record.rollout is not None
        }

    async def _run(self, vmodel: VModelId) -> None:
        try:
            await self._look_on(vmodel)
        finally:
            self._failed.pop(vmodel, None)

    async def _look_on(self, vmodel: VModelId) -> None:
        while (fence := self._fence()) is not None:
            try:
                async with self._slots:
                    if not await self.look(vmodel, fence):
                        return
            except (StoreError, TooManyReadsError):
                pass  # the next look tries again
            except UnreadableRecordError as error:
                self._journal.note("vmodel_unreadable", detail=f"{vmodel}: {error}")
                return
            await self._clock.sleep(LOOK_MS)

    async def look(self, vmodel: VModelId, fence: Compare) -> bool:
        """Decide on the step under way, and write what is decided. False: there is no rollout any more."""
        found = await self._vmodels.read(vmodel)
        rollout = found.record.rollout if found is not None else None
        if found is None or rollout is None or not rollout.running:
            return False
        counts, silent = await self._tallies.everywhere(vmodel)
        now_ms = self._clock.now_ms()
        failed = failed_loads(self._view(rollout.model), self._failed.pop(vmodel, None), now_ms=now_ms)
        if failed is not None:
            self._failed[vmodel] = failed
        counted = counts.of_step(rollout.since_ms)
        verdict = judge(rollout, found.record, counted, silent=len(silent), now_ms=now_ms, failed=failed)
        if isinstance(verdict, Wait):
            return True
        wanted = apply(verdict, rollout, found.record, now_ms=now_ms)
        # It changed since it was read, or another instance leads: the next look decides again.
        if await self._vmodels.write(vmodel, found, wanted, fence=fence) is not None:
            self._tell(vmodel, rollout.model, verdict, wanted)
        return True

    def _tell(
        self, vmodel: VModelId, model: ModelId, verdict: NextStep | PromoteModel | RollBack, after: VModelRecord
    ) -> None:
        detail, reason = f"{vmodel}: {verdict.text}", verdict.reason.value
        match verdict:
            case NextStep():
                percent = dict(after.split)[model]
                self._journal.note("rollout_step", model, reason, f"{vmodel}: {percent} % of the calls; {verdict.text}")
            case PromoteModel():
                self._journal.note("rollout_promoted", model, reason, detail)
            case RollBack():
                self._journal.note("rollout_rolled_back", model, reason, detail)


def _is_rolled_out(record: VModelRecord) -> bool:
    return record.rollout is not None and record.rollout.running
