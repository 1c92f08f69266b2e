"""Answers callers that stop waiting for a load with its state and when to retry. The load continues.

So does the load of a model for which a fallback answers, and of a shadow that gets copies of calls.
"""

from modelmesh.control.copies.cache import Cache
from modelmesh.control.decide import Decider
from modelmesh.control.journal import Journal
from modelmesh.control.requests.answers import RETRY_HINT_MS, retry_later
from modelmesh.control.requests.ensure import Ensurer
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import NotReadError, RecordCache
from modelmesh.policy.fallback import FallbackReason
from modelmesh.policy.load_wait import describe_wait
from modelmesh.ports import Clock, DataPlane, StoreError
from modelmesh.values.dataplane import Overdue, Wanted
from modelmesh.values.ids import ModelId
from modelmesh.values.records import ModelRecord
from modelmesh.values.status import Status


class OverdueCalls:
    """Describes the state of loads, and keeps them requested for callers that have ended their call."""

    def __init__(
        self,
        *,
        decider: Decider,
        cache: Cache,
        ensurer: Ensurer,
        models: RecordCache[ModelId, ModelRecord],
        dataplane: DataPlane,
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
    ) -> None:
        self._decider = decider
        self._cache = cache
        self._ensurer = ensurer
        self._models = models
        self._dataplane = dataplane
        self._clock = clock
        self._journal = journal
        self._tasks = tasks

    def overdue(self, event: Overdue) -> None:
        """A caller waits no longer."""
        if not event.model:
            text, retry_ms = f"the model of vmodel {event.vmodel} is being looked up", RETRY_HINT_MS
        else:
            wait = describe_wait(
                self._decider.model_view(event.model, None),
                self._decider.cluster_view(),
                progress=self._cache.progress(event.model),
                now_ms=self._clock.now_ms(),
            )
            text, retry_ms = wait.text, wait.retry_ms
            if not event.until_deadline:
                self._tasks.start(self._go_on(event.model), f"go on with the load of {event.model}")
        status = Status.UNAVAILABLE
        if event.until_deadline:
            status, text = Status.DEADLINE_EXCEEDED, f"Deadline Exceeded: {text}"
        self._dataplane.resolve([(event.token, retry_later(status, text, self._decider.spread_ms(retry_ms)))])

    def wanted(self, event: Wanted) -> None:
        """A fallback answers in the place of a model, or copies of calls for it are dropped: it is to be loaded meanwhile."""
        if event.fallback is not None:
            reason = FallbackReason.COLD if event.failure is None else FallbackReason.FAILED
            why = f", as the model ended with {event.failure}" if event.failure is not None else ""
            detail = f"{event.vmodel}: {event.fallback} answers{why}"
            self._journal.note("fell_back", event.model, reason.value, detail)
        else:
            self._journal.note("shadow_cold", event.model, detail=f"{event.vmodel}: copies of its calls are dropped")
        self._tasks.start(self._go_on(event.model), f"load {event.model}, which calls of {event.vmodel} want")

    async def _go_on(self, model: ModelId) -> None:
        """A load without a caller ends after a while; a caller that retries expects it to continue."""
        try:
            registered = await self._models.get(model)
            if registered is not None:
                now_ms = self._clock.now_ms()
                await self._ensurer.ensure(model, registered, last_use_ms=now_ms, sync=False, used=True)
        except (NotReadError, StoreError):
            return  # the next call finds out
