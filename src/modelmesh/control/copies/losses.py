"""Runtimes that crashed or hung during calls: which models are suspected, and what happens to their copies here."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modelmesh.control.copies.entry import USABLE, DropReason, LoadFailed
from modelmesh.control.copies.steps import CopySteps
from modelmesh.control.decide import Decider
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import Registered
from modelmesh.policy.blame import UnderWay, suspects
from modelmesh.policy.failure import resting
from modelmesh.ports import Clock
from modelmesh.values.dataplane import AttemptFailed, Outcome
from modelmesh.values.ids import InstanceId, LoadId, ModelId
from modelmesh.values.records import FailureKind
from modelmesh.values.status import Status

TOGETHER_MS = 20
"""Calls that are lost within so short a time were lost with the same runtime."""

HUNG_MS = 120_000
"""A runtime that hangs for so long counts as ended. Some runtimes answer nothing while they work on a long call."""


@dataclass(slots=True)
class _Stuck:
    """Calls for a model that were at the runtime when it stopped answering."""

    registered: Registered
    answered: int
    """Calls that the copy had before."""
    at_work: int = 0
    """When the runtime was found to be hung."""
    failed: int = 0
    """Those that failed because it hung; most of them are among `at_work`."""


class Losses:
    """Remembers which calls were lost together, and has the suspected models remembered in the store.

    Args:
        own: This instance.
        steps: Has the copies here.
        in_flight: Returns how many calls of each model were at the runtime at the last look.
        decider: Knows what is remembered of each model.
        clock: For the time of day and waits.
        tasks: Run what takes time.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        steps: CopySteps,
        in_flight: Callable[[], dict[ModelId, int]],
        decider: Decider,
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._own = own
        self._steps = steps
        self._in_flight = in_flight
        self._decider = decider
        self._clock = clock
        self._tasks = tasks
        self._lost: Counter[tuple[ModelId, LoadId]] = Counter()
        self._stuck: dict[ModelId, _Stuck] = {}
        self._hangs = 0

    def attempt_failed(self, event: AttemptFailed) -> None:
        """An attempt failed, perhaps because the runtime beside us ended or hung under it."""
        if not event.begun or event.instance != self._own:
            return
        if event.outcome is Outcome.LOST:
            if not self._lost:
                self._tasks.persist(self._judge, "judge lost calls")
            self._lost[event.model, event.load_id] += 1
        elif event.outcome is Outcome.HUNG and (stuck := self._stuck_under(event.model)) is not None:
            stuck.failed += 1

    def runtime_hung(self) -> None:
        """The runtime does not answer: the models of the calls there are suspected if it does not recover."""
        self._steps.look_at_usage()
        for model, calls in self._in_flight().items():
            if (stuck := self._stuck_under(model)) is not None:
                stuck.at_work = calls

    def runtime_ready(self) -> None:
        """The runtime takes calls again, and has kept its models: nothing is suspected."""
        self._hangs += 1
        self._stuck = {}

    def runtime_restarted(self) -> None:
        """The runtime lost its models. If it hung before, it was ended because of that."""
        if self._stuck:
            self._judge_hang()

    def _stuck_under(self, model: ModelId) -> _Stuck | None:
        if model in self._stuck:
            return self._stuck[model]
        entry = self._steps.entries.get(model)
        if entry is None:
            return None
        if not self._stuck:
            self._hangs += 1
            number = self._hangs
            self._tasks.persist(lambda: self._wait_for_recovery(number), "wait for a hung runtime")
        self._stuck[model] = _Stuck(entry.registered, entry.requests)
        return self._stuck[model]

    async def _wait_for_recovery(self, number: int) -> None:
        await self._clock.sleep(HUNG_MS)
        if number != self._hangs:
            return
        if self._steps.offered:  # only a connection to it hung
            self.runtime_ready()
        else:
            self._judge_hang()

    def _judge_hang(self) -> None:
        stuck = self._stuck
        self.runtime_ready()
        message = f"the runtime of instance {self._own} hung under calls for the model and did not recover"
        under_way = [UnderWay(model, max(one.at_work, one.failed), one.answered) for model, one in stuck.items()]
        for model in suspects(under_way):
            self._tasks.start(
                self._steps.listing.lost_at(model, stuck[model].registered, FailureKind.LOST_IN_USE, message),
                f"remember a hang under {model}",
            )

    async def _judge(self) -> None:
        await self._clock.sleep(TOGETHER_MS)
        self._steps.look_at_usage()
        lost, self._lost = self._lost, Counter()
        under_way = [
            UnderWay(model, count, self._requests(model, load_id) - count) for (model, load_id), count in lost.items()
        ]
        for model in suspects(under_way):
            message = f"the runtime of instance {self._own} ended under calls for the model"
            await self._steps.listing.lost(model, FailureKind.LOST_IN_USE, message)

    def _requests(self, model: ModelId, load_id: LoadId) -> int:
        """Calls that the copy of a load has had; 0 if there is no such copy."""
        entry = self._steps.entries.get(model)
        return entry.requests if entry is not None and entry.load_id == load_id else 0

    def viewed(self, models: Iterable[ModelId]) -> None:
        """The failures of these models changed: copies of those that may not be loaded now are dropped."""
        for model in models:
            entry = self._steps.entries.get(model)
            if entry is None or entry.state not in USABLE:
                continue
            failures = self._decider.model_view(model, None).failures
            rests = resting((failure.record for failure in failures), self._clock.now_ms())
            if rests is not None:
                end = LoadFailed(Status.INTERNAL, rests.message)
                self._steps.drop(model, DropReason.ENDS_RUNTIMES, end=end)
