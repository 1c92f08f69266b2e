"""The periodic tasks of an instance, in their order: about once a second."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random

from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.steps import CopySteps
from modelmesh.control.decide import Decider
from modelmesh.control.duties.balance import Balance
from modelmesh.control.duties.last_use import LastUses
from modelmesh.control.duties.leader import Leader
from modelmesh.control.duties.misplaced import Misplaced
from modelmesh.control.duties.missing import Missing
from modelmesh.control.duties.put_back import PutBack
from modelmesh.control.duties.rates import RateBook
from modelmesh.control.duties.reconcile import Reconciler
from modelmesh.control.duties.requeue import Requeue
from modelmesh.control.duties.scale import Scaler
from modelmesh.control.duties.survey import Survey
from modelmesh.control.duties.vmodel_tasks import VModelTasks
from modelmesh.control.journal import Journal
from modelmesh.control.requests.journeys import Requests
from modelmesh.control.requests.mover import Mover
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.census import Census
from modelmesh.control.view.keys import Keys
from modelmesh.control.view.observe import Observer
from modelmesh.control.view.records import RecordCache
from modelmesh.control.view.state import ClusterState
from modelmesh.ports import Clock, Store, StoreError
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.records import HotCopy, ModelRecord

TICK_MS = 1_000

SWEEP_TICKS = 5
"""How often the leader removes failures that expired."""

TRANSITION_TICKS = 60
"""How often the leader looks through all vmodels for transitions and rollouts that it may have missed."""

SURVEY_TICKS = 420
FIRST_SURVEY_TICKS = 120
"""When the leader looks through the registry: two minutes after it started, then every seven."""

LAST_USE_STALE_MS = 21_600_000
"""How far a record's last use may lag behind, and up to a sixth more: instances must not all write at once."""


class Rounds:
    """Every instance's periodic work, and the leader's.

    Args:
        vmodel_tasks: What the leader does for vmodels.
        cut_off_since_ms: Since when this instance is out of touch with others (epoch milliseconds); None: it is not.
        turned: Called before each round.
        send_again: Sends the data plane again what it did not take.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        store: Store,
        keys: Keys,
        state: ClusterState,
        observer: Observer,
        cache: Cache,
        steps: CopySteps,
        decider: Decider,
        requests: Requests,
        mover: Mover,
        models: RecordCache[ModelId, ModelRecord],
        rates: RateBook,
        scaler: Scaler,
        put_back: PutBack,
        missing: Missing,
        leader: Leader,
        census: Census,
        vmodel_tasks: Sequence[VModelTasks],
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        rng: Random,
        read_only: bool,
        cut_off_since_ms: Callable[[], int | None],
        turned: Callable[[], None],
        send_again: tuple[Callable[[], None], ...],
    ) -> None:
        self._send_again = send_again
        self._turned = turned
        self._journal = journal
        self._clock = clock
        self._cache = cache
        self._rates = rates
        self._scaler = scaler
        self._put_back = put_back
        self._missing = missing
        self._leader = leader
        self._census = census
        self._vmodel_tasks = vmodel_tasks
        self._tasks = tasks
        self._read_only = read_only
        self._cut_off_since_ms = cut_off_since_ms
        self._reconciler = Reconciler(state=state, cache=cache, observer=observer, journal=journal)
        self._misplaced = Misplaced(
            own=own, cache=cache, decider=decider, mover=mover, models=models, journal=journal, tasks=tasks
        )
        self._balance = Balance(cache=cache, decider=decider, mover=mover, journal=journal, tasks=tasks)
        self._requeue = Requeue(steps=steps, decider=decider, journal=journal)
        self._last_uses = LastUses(
            store=store,
            keys=keys,
            cache=cache,
            models=models,
            clock=clock,
            tasks=tasks,
            stale_ms=LAST_USE_STALE_MS + rng.randrange(LAST_USE_STALE_MS // 6),
        )
        self._survey = Survey(
            store=store,
            keys=keys,
            decider=decider,
            models=models,
            requests=requests,
            scaler=scaler,
            fence=leader.fence,
            default_size=lambda: cache.parameters.default_size,
            clock=clock,
            journal=journal,
        )
        self._surveying = False
        self._ticks = 0
        self.hot: tuple[HotCopy, ...] = ()
        """The copies here that are used most, as they were after the latest round."""

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            self._turned()
            await self._clock.sleep(TICK_MS)
            await self._turn()

    async def _turn(self) -> None:
        """Every duty, in its turn: one that raises keeps none of the others from theirs."""
        self._ticks += 1
        for duty in (
            self._cache.look_at_usage,
            self._cache.tick,
            self._look_around,
            self._scaler.tick,
            self._reconciler.tick,
            self._misplaced.tick,
            self._balance.tick,
            self._requeue.tick,
            self._write_last_uses,
            self._lead,
            self._look_at_hot,
            *self._send_again,
            self._put_back.delete_stale_keys,
            self._missing.forget,
        ):
            await self._do(duty)

    async def _do(self, duty: Callable[[], "Awaitable[None] | None"]) -> None:
        name = getattr(duty, "__qualname__", "duty").replace("_", "").lower()
        try:
            done = duty()
            if done is not None:
                await done
        except Exception as error:  # noqa: BLE001 - a bug; the next turn tries again
            self._tasks.report(f"the duty {name}", error)
            self._journal.note("duty_failed", reason=name, detail=f"{type(error).__name__}: {error}")

    def _look_around(self) -> None:
        since_ms = self._cut_off_since_ms()
        if since_ms is None:
            self._scaler.rejoined()
        else:
            self._scaler.cut_off(since_ms)

    def _write_last_uses(self) -> None:
        if not self._read_only:
            self._last_uses.tick()

    def _look_at_hot(self) -> None:
        self.hot = self._rates.hottest(self._scaler.limits.rate // 2)

    async def _lead(self) -> None:
        """The leader's duties; nothing at the others."""
        won = self._leader.changed_hands() and self._leader.leads
        if not self._leader.leads:
            for work in self._vmodel_tasks:
                work.stop()
            self._census.stop()
            return
        if won:
            for work in self._vmodel_tasks:
                work.due = True
        for duty in (self._count, self._sweep_vmodels, self._sweep_failures, self._begin_survey):
            await self._do(duty)

    def _count(self) -> None:
        if self._census.models is None and not self._census.counting:
            self._tasks.start(self._census.take(), "count the models")

    async def _sweep_vmodels(self) -> None:
        for work in self._vmodel_tasks:
            if work.due or self._ticks % TRANSITION_TICKS == 0:
                with suppress(StoreError):
                    await work.sweep()

    async def _sweep_failures(self) -> None:
        if self._ticks % SWEEP_TICKS == 0:
            await self._leader.sweep()

    def _begin_survey(self) -> None:
        if self._ticks % SURVEY_TICKS == FIRST_SURVEY_TICKS and not self._surveying:
            self._surveying = True
            self._tasks.start(self._run_survey(), "look through the registry")

    async def _run_survey(self) -> None:
        try:
            await self._survey.run()
        finally:
            self._surveying = False
