"""Handles a held request: look the model up, decide, act, and repeat if that failed.

Two kinds of request travel it: calls held by the data plane (`Requests.missed`, `attempt_failed`), and `ensureLoaded`
and loads of our own (`modelmesh.control.requests.ensure`). The decision is `modelmesh.policy.attempt`.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable

from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.entry import (
    Accepted,
    Loaded,
    LoadEnd,
    LoadFailed,
    LoadMoved,
    LoadRefused,
    LoadStoreAway,
    LoadVoid,
)
from modelmesh.control.decide import Decider
from modelmesh.control.journal import Journal
from modelmesh.control.requests.answers import RETRY_HINT_MS, as_refusal, refusal, retry_later
from modelmesh.control.requests.ensure import STALE_TURNS, Ensurer
from modelmesh.control.requests.held import Held
from modelmesh.control.requests.overdue import OverdueCalls
from modelmesh.control.requests.routing import Routing
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.names import Names
from modelmesh.control.view.pulse import Pulse
from modelmesh.control.view.records import NotReadError, RecordCache, Registered, TooManyReadsError
from modelmesh.control.view.state import ClusterState
from modelmesh.policy.attempt import (
    AttemptReason,
    GiveUp,
    Journey,
    LastFailure,
    LoadHere,
    NextStep,
    Refuse,
    ReturnLast,
    SendTo,
    ServeHere,
)
from modelmesh.ports import Clock, DataPlane, Peers, StoreError
from modelmesh.values.dataplane import (
    AttemptFailed,
    Fail,
    Forward,
    Hop,
    Missed,
    Outcome,
    Reroute,
    Resolution,
    ReturnAnswer,
    Serve,
)
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision, Token, VModelId
from modelmesh.values.memory import NOTHING
from modelmesh.values.records import ModelRecord, VModelRecord
from modelmesh.values.status import Status

REMEMBERED = 16_384
"""Journeys kept for calls that were sent on; a success is not reported, so the oldest make room."""

REROUTES = 2
"""How often a call is sent after its vmodel, whose models may go as it moves."""


class Requests:
    """Drives held requests.

    Args:
        wait_for_view: Resolves when the view has reached a revision, or after a bound.

    Attributes:
        overdue: Answers a caller that waits no longer for a load.
        ensure: Makes sure that a copy is loaded or loading somewhere.
        add_copy: Starts the load of one more copy.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        state: ClusterState,
        decider: Decider,
        cache: Cache,
        routing: Routing,
        models: RecordCache[ModelId, ModelRecord],
        vmodels: RecordCache[VModelId, VModelRecord],
        names: Names,
        dataplane: DataPlane,
        peers: Peers,
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        pulse: Pulse,
        wait_for_view: "Callable[[Revision], asyncio.Future[None]]",
    ) -> None:
        self._own = own
        self._state = state
        self._decider = decider
        self._cache = cache
        self._routing = routing
        self._models = models
        self._vmodels = vmodels
        self._names = names
        self._dataplane = dataplane
        self._peers = peers
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._pulse = pulse
        self._wait_for_view = wait_for_view
        self._held: OrderedDict[Token, Held] = OrderedDict()
        ensurer = Ensurer(
            own=own,
            state=state,
            decider=decider,
            cache=cache,
            routing=routing,
            peers=peers,
            wait_for_view=wait_for_view,
        )
        overdue = OverdueCalls(
            decider=decider,
            cache=cache,
            ensurer=ensurer,
            models=models,
            dataplane=dataplane,
            clock=clock,
            journal=journal,
            tasks=tasks,
        )
        self.overdue, self.wanted = overdue.overdue, overdue.wanted
        self.ensure = ensurer.ensure
        self.add_copy = ensurer.add_copy

    def __len__(self) -> int:
        return len(self._held)

    def works_at(self, token: Token) -> bool:
        """Whether a call is being decided on; for invariants."""
        held = self._held.get(token)
        return held is not None and held.task is not None

    def waiting(self) -> Counter[str]:
        """How many calls are being decided on or wait for a load here, by model."""
        return Counter(held.model for held in self._held.values() if held.task is not None)

    # --- events of the data plane ---------------------------------------------------------------

    def missed(self, event: Missed) -> None:
        """A request found no route."""
        tried = frozenset(event.tried)
        held = Held(
            event.token,
            event.model,
            event.vmodel,
            Journey(hop=event.hop, balanced=event.balanced, load_tried=tried),
            event.priority,
            event.view,
            deadline_ms=None if event.timeout_ms is None else self._clock.monotonic_ms() + event.timeout_ms,
        )
        if (before := self._held.get(event.token)) is not None:
            held.reroutes = before.reroutes  # it was sent after its vmodel, and came back
        self._remember(held)
        self._advance(held)

    def attempt_failed(self, event: AttemptFailed) -> None:
        """An attempt of a request failed; if it is still held, decide again."""
        held = self._held.get(event.token)
        if held is None:
            held = Held(event.token, event.model, event.vmodel, Journey(), event.priority)
        failure = LastFailure(event.instance, event.outcome, event.status, event.message, begun=event.begun)
        self._learn(event)
        if not event.replayable:
            self._held.pop(event.token, None)
            return
        held.model = event.model
        held.behind = event.view if event.outcome is Outcome.MOVED else None
        held.doubted = event.outcome is Outcome.STORE_AWAY and self._pulse.answered_ms < held.sent_ms
        held.journey = held.journey.failed(failure, event.load_id or self._load_in_view(event))
        self._remember(held)
        self._journal.note("attempt_failed", event.model, event.outcome.value, f"at {event.instance}: {event.message}")
        self._advance(held)

    def cancelled(self, token: Token) -> None:
        """The caller has ended the call."""
        held = self._held.pop(token, None)
        if held is not None and held.task is not None:
            held.task.cancel()

    def _load_in_view(self, event: AttemptFailed) -> LoadId | None:
        """Which copy was not there, if the data plane had no route to it: it is not asked for again."""
        copy = self._state.model(event.model).copy_at(event.instance)
        return copy.load_id if copy is not None and event.outcome is Outcome.NOT_HERE else None

    def _learn(self, event: AttemptFailed) -> None:
        """Update the view by a failed attempt."""
        if event.outcome is Outcome.MOVED:
            self._models.forget(event.model)  # its record may be what moved
        if event.outcome is not Outcome.NOT_HERE:
            return
        if event.instance == self._own:
            self._cache.vanished(event.model, event.load_id)
        else:
            changed = self._state.refused(event.model, event.instance)
            self._routing.update(changed.models)

    def _remember(self, held: Held) -> None:
        self._held[held.token] = held
        self._held.move_to_end(held.token)
        while len(self._held) > REMEMBERED:
            token = next((token for token, other in self._held.items() if other.task is None), None)
            if token is None:
                return
            del self._held[token]

    def _advance(self, held: Held) -> None:
        held.task = self._tasks.start(
            self._drive(held),
            f"request {held.token}",
            failed=lambda error: self.give_up(held.token, f"{type(error).__name__}: {error}"),
        )

    def give_up(self, token: Token, message: str) -> None:
        """A bug prevents the answer of a request; the caller gets an error."""
        held = self._held.pop(token, None)
        fail = Fail(Status.INTERNAL, message)
        answer = as_refusal(fail) if held is not None and held.journey.hop is Hop.LOAD else fail

        async def answer_caller() -> None:
            self._dataplane.resolve([(token, answer)])

        self._tasks.persist(answer_caller, f"give up request {token}")

    async def _drive(self, held: Held) -> None:
        try:
            resolution = await self._resolution(held)
        finally:
            held.task = None
        if held.journey.hop is Hop.LOAD and isinstance(resolution, Fail):
            resolution = as_refusal(resolution)
        if not isinstance(resolution, Forward | Serve | Reroute):
            self._held.pop(held.token, None)
        self._dataplane.resolve([(held.token, resolution)])
        if held.gave_up is not None:  # the caller does not wait until that is written down
            self._journal.note("gave_up", held.model, held.gave_up.reason.value, held.gave_up.message)

    async def _resolution(self, held: Held) -> Resolution:
        if not held.model:
            return await self._resolve_vmodel(held)
        while True:
            if held.doubted and held.journey.last is not None:
                return self._later(Status.UNAVAILABLE, held.journey.last.message)
            found = await self._registered(held)
            if isinstance(found, Fail):
                if found.status is not Status.NOT_FOUND:
                    return found
                if (
                    held.journey.hop is Hop.LOAD
                ):  # the instance that asked us may know an older record: it decides again
                    return refusal(Outcome.MOVED, Status.UNAVAILABLE, found.message, self._state.revision)
                return found if held.vmodel is None else await self._resolve_vmodel(held)
            if held.behind is not None:
                held.stale_turns += 1
                await self._wait_for_view(held.behind)
                held.behind = None
            if held.stale_turns >= STALE_TURNS:
                return self._later(
                    Status.UNAVAILABLE, f"the copies of model {held.model} keep changing; repeat the call"
                )
            remaining_ms = None if held.deadline_ms is None else held.deadline_ms - self._clock.monotonic_ms()
            step = self._decider.next_step(held.journey, held.model, found, remaining_ms=remaining_ms)
            resolution = await self._act(held, step, found)
            if resolution is not None:
                return resolution
            held.stale_turns += 1

    async def _registered(self, held: Held) -> Registered | Fail:
        """The model's record, or the answer to the caller."""
        try:
            found = await self._models.get(held.model)
        except StoreError as error:
            return self._store_away(
                held, f"model {held.model} is not known here and the store cannot be asked: {error}"
            )
        except NotReadError as error:
            return self._not_read(error)
        return found if found is not None else Fail(Status.NOT_FOUND, "model not found")

    async def _resolve_vmodel(self, held: Held) -> Resolution:
        assert held.vmodel is not None
        held.reroutes += 1
        try:
            found = await self._vmodels.read(held.vmodel)
        except StoreError as error:
            return self._later(
                Status.UNAVAILABLE, f"vmodel {held.vmodel} is not known here and the store cannot be asked: {error}"
            )
        except NotReadError as error:
            return self._not_read(error)
        if found is None:
            return Fail(Status.NOT_FOUND, "vmodel not found")
        record = found.record
        if held.reroutes > REROUTES and not held.model:
            return self._later(Status.UNAVAILABLE, f"vmodel {held.vmodel} keeps changing; repeat the call")
        if held.reroutes > REROUTES:
            message = f"active model {record.active} of vmodel {held.vmodel} is not registered"
            return Fail(Status.INTERNAL, message)
        if held.model != record.active and held.model in dict(record.split):
            # Its record no longer exists, though the vmodel refers to it. Its share goes to the active model.
            self._journal.note("split_without", held.model, detail=f"{held.vmodel}: it is not registered")
            self._names.send_without(held.vmodel, found, held.model)
        return Reroute()

    async def _act(self, held: Held, step: NextStep, registered: Registered) -> Resolution | None:
        """Perform a step; None: decide again."""
        match step:
            case SendTo(instance, hop, reason, considered):
                self._journal.note("sent", held.model, reason.value, f"to {instance}; considered {list(considered)}")
                if hop is Hop.LOAD and not await self._pulse.there():
                    return self._store_away(held, f"model {held.model} cannot be loaded while the store is away")
                held.sent_ms = self._clock.monotonic_ms()
                tried = tuple(sorted(held.journey.load_tried))
                view = self._state.revision if hop is Hop.LOAD else None
                return Forward(instance, hop, tried, view)
            case ServeHere(reason) | LoadHere(reason):
                self._journal.note("local", held.model, reason.value)
                if isinstance(step, LoadHere) and held.journey.hop is None and not await self._pulse.there():
                    return self._store_away(held, f"model {held.model} cannot be loaded while the store is away")
                view = held.view if held.view is not None and held.journey.hop is Hop.LOAD else self._state.revision
                end = await self._cache.ensure(
                    held.model,
                    registered,
                    view=view,
                    caller=held.priority,
                    last_use_ms=self._clock.now_ms(),
                    stays=bool(held.journey.load_tried),
                    unload=step.unload if isinstance(step, LoadHere) else NOTHING,
                )
                return await self._local_end(held, end)
            case ReturnLast():
                return ReturnAnswer()
            case Refuse(outcome, status, message):
                return refusal(outcome, status, message)
            case GiveUp():
                return self._given_up(held, step)

    def _given_up(self, held: Held, step: GiveUp) -> Fail:
        held.gave_up = step
        match step.status:
            case Status.RESOURCE_EXHAUSTED:
                after_ms = self._decider.retry_after_ms(self._cache.learned.common_load_ms)
                return self._later(step.status, step.message, after_ms)
            case Status.UNAVAILABLE:
                return self._later(step.status, step.message)
        if step.reason is AttemptReason.RUNTIME_UNAVAILABLE:
            return Fail(step.status, f"ModelRuntime UNAVAILABLE: {step.message}")
        return Fail(step.status, step.message)

    def _store_away(self, held: Held, message: str) -> Fail:
        """The store is needed and does not answer: the caller gets this, or the instance that asked us."""
        if held.journey.hop is Hop.LOAD:
            return refusal(Outcome.STORE_AWAY, Status.UNAVAILABLE, message)
        return self._later(Status.UNAVAILABLE, message)

    def _not_read(self, error: NotReadError) -> Fail:
        if isinstance(error, TooManyReadsError):
            return self._later(Status.RESOURCE_EXHAUSTED, str(error))
        return Fail(Status.INTERNAL, str(error))

    def _later(self, status: Status, message: str, after_ms: int = RETRY_HINT_MS) -> Fail:
        return retry_later(status, message, self._decider.spread_ms(after_ms))

    async def _local_end(self, held: Held, end: LoadEnd) -> Resolution | None:
        """What the end of a wait for the own copy means for the request."""
        asked = held.journey.hop is Hop.LOAD
        match end:
            case Loaded() | Accepted():
                return Serve()
            case LoadMoved(view):
                if asked:
                    return refusal(Outcome.MOVED, Status.UNAVAILABLE, "the copies of the model changed", view)
                await self._wait_for_view(view)
                return None
            case LoadVoid():
                self._models.forget(held.model)
                return None
            case LoadStoreAway(message):
                return self._store_away(held, message)
            case LoadFailed(status, message):
                if asked:
                    return refusal(Outcome.LOAD_FAILED, Status.INTERNAL, message)
                failure = LastFailure(self._own, Outcome.LOAD_FAILED, status, message)
            case LoadRefused(outcome, message):
                if asked:
                    return refusal(outcome, Status.UNAVAILABLE, message)
                failure = LastFailure(self._own, outcome, Status.UNAVAILABLE, message)
        held.journey = held.journey.failed(failure, None)
        return None
