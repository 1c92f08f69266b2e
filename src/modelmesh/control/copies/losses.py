"""Runtimes that crashed during calls: which models are suspected, and what happens to their copies here."""

from collections.abc import Iterable

from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.entry import DropReason, LoadFailed
from modelmesh.control.copies.listing import CopyListing
from modelmesh.control.decide import Decider
from modelmesh.control.tasks import Tasks
from modelmesh.policy.blame import UnderWay, suspects
from modelmesh.policy.failure import resting
from modelmesh.ports import Clock
from modelmesh.values.dataplane import AttemptFailed, Outcome
from modelmesh.values.ids import InstanceId, LoadId, ModelId
from modelmesh.values.records import FailureKind
from modelmesh.values.status import Status

TOGETHER_MS = 20
"""Calls that are lost within so short a time were lost with the same runtime."""


class Losses:
    """Remembers which calls were lost together, and has the suspected models remembered in the store."""

    def __init__(
        self, *, own: InstanceId, cache: Cache, listing: CopyListing, decider: Decider, clock: Clock, tasks: Tasks
    ) -> None:
        self._own = own
        self._cache = cache
        self._listing = listing
        self._decider = decider
        self._clock = clock
        self._tasks = tasks
        self._lost: dict[tuple[ModelId, LoadId], int] = {}

    def attempt_failed(self, event: AttemptFailed) -> None:
        """An attempt failed, perhaps because the runtime beside us ended under it."""
        if event.outcome is not Outcome.LOST or not event.begun or event.instance != self._own:
            return
        if not self._lost:
            self._tasks.persist(self._judge, "judge lost calls")
        key = (event.model, event.load_id)
        self._lost[key] = self._lost.get(key, 0) + 1

    async def _judge(self) -> None:
        await self._clock.sleep(TOGETHER_MS)
        self._cache.look_at_usage()
        lost, self._lost = self._lost, {}
        under_way = [
            UnderWay(model, count, self._cache.requests(model, load_id) - count)
            for (model, load_id), count in lost.items()
        ]
        for model in suspects(under_way):
            message = f"the runtime of instance {self._own} ended under calls for the model"
            await self._listing.lost(model, FailureKind.LOST_IN_USE, message)

    def viewed(self, models: Iterable[ModelId]) -> None:
        """The failures of these models changed: copies of those that may not be loaded now are dropped."""
        for model in models:
            if self._cache.copy(model) is None:
                continue
            failures = self._decider.model_view(model, None).failures
            rests = resting((failure.record for failure in failures), self._clock.now_ms())
            if rests is not None:
                end = LoadFailed(Status.INTERNAL, rests.message)
                self._cache.drop(model, DropReason.ENDS_RUNTIMES, end=end)
