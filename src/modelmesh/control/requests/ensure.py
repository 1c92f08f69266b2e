"""Makes sure that a copy of a model is loaded or loading somewhere: `ensureLoaded`, and loads that no call waits for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.entry import (
    Accepted,
    Loaded,
    LoadFailed,
    LoadMoved,
    LoadRefused,
    LoadStoreAway,
    LoadVoid,
)
from modelmesh.control.decide import Decider
from modelmesh.control.requests.routing import Routing
from modelmesh.control.view.records import Registered
from modelmesh.control.view.state import ClusterState
from modelmesh.policy.attempt import GiveUp, Journey, LastFailure, LoadHere, SendTo, ServeHere
from modelmesh.ports import Peers, PeerState, PeerUnreachableError, StoreUnavailableError
from modelmesh.values.dataplane import Hop, Outcome
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.status import Status

STALE_TURNS = 32
"""How often a request may find its view stale before the caller must retry."""

ASKED_BOUND_MS = 5_000
"""How long another instance may take to answer that it loads a model."""


@dataclass(frozen=True, slots=True)
class Ensured:
    """How `ensure` ended. REFUSED: the record no longer exists, or with `store_away` the store is."""

    state: PeerState
    message: str = ""
    instance: InstanceId | None = None
    store_away: bool = False


class Ensurer:
    """Asks the policy where a load is to be, and has it begun there.

    Args:
        wait_for_view: Resolves when the view has reached a revision, or after a bound.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        state: ClusterState,
        decider: Decider,
        cache: Cache,
        routing: Routing,
        peers: Peers,
        wait_for_view: "Callable[[Revision], asyncio.Future[None]]",
    ) -> None:
        self._own = own
        self._state = state
        self._decider = decider
        self._cache = cache
        self._routing = routing
        self._peers = peers
        self._wait_for_view = wait_for_view

    async def ensure(
        self,
        model: ModelId,
        registered: Registered,
        *,
        last_use_ms: int,
        sync: bool,
        balanced: bool = False,
        extra: bool = False,
        retry: bool = False,
        used: bool = False,
        exclude: frozenset[InstanceId] = frozenset(),
    ) -> "Ensured":
        """Make sure that a copy is loaded or loading somewhere.

        Args:
            model: Its id.
            registered: Its record.
            last_use_ms: Epoch milliseconds; for the cache's order.
            sync: Wait until the load has ended.
            balanced: Prefer this instance.
            extra: Add one copy to those that there are. If they change meanwhile, nothing is added, and the
                one who wanted it decides again.
            retry: Try again where loads have failed, each instance once: a person asks for it.
            used: It counts as a use of the copy, wherever that is.
            exclude: Instances that are not used.
        """
        journey = Journey(balanced=balanced, extra=extra, retry=retry, load_tried=exclude)
        for _ in range(STALE_TURNS):
            step = self._decider.next_step(journey, model, registered)
            match step:
                case GiveUp(_, message):
                    return Ensured(PeerState.FAILED, message)
                case ServeHere() | LoadHere():
                    unload = step.unload if isinstance(step, LoadHere) else NOTHING
                    turn = await self._ensure_here(
                        journey, model, registered, last_use_ms=last_use_ms, sync=sync, unload=unload
                    )
                case SendTo(instance, Hop.HIT) if not used:
                    return Ensured(PeerState.LOADED, instance=instance)
                case SendTo(instance):
                    turn = await self._ensure_there(journey, model, instance, last_use_ms=last_use_ms, sync=sync)
                case _:
                    raise AssertionError(step)  # ReturnLast and Refuse belong to calls
            if isinstance(turn, Ensured):
                return turn
            if extra and turn is journey:
                return Ensured(PeerState.LOADING)
            journey = turn
        return Ensured(PeerState.FAILED, f"the copies of model {model} keep changing; repeat the call")

    async def add_copy(
        self,
        model: ModelId,
        registered: Registered,
        *,
        last_use_ms: int,
        exclude: frozenset[InstanceId] = frozenset(),
    ) -> bool:
        """Start the load of one more copy, not at those excluded; False: no instance can. Raises StoreUnavailableError."""
        ensured = await self.ensure(model, registered, last_use_ms=last_use_ms, sync=False, extra=True, exclude=exclude)
        if ensured.store_away:
            raise StoreUnavailableError(ensured.message)
        return ensured.state in {PeerState.LOADED, PeerState.LOADING}

    async def _ensure_here(
        self,
        journey: Journey,
        model: ModelId,
        registered: Registered,
        *,
        last_use_ms: int,
        sync: bool,
        unload: Memory,
    ) -> "Ensured | Journey":
        end = await self._cache.ensure(
            model,
            registered,
            view=self._state.revision,
            caller=None,
            last_use_ms=last_use_ms,
            sync=sync,
            unload=unload,
        )
        match end:
            case Loaded():
                return Ensured(PeerState.LOADED, instance=self._own)
            case Accepted():
                return Ensured(PeerState.LOADING, instance=self._own)
            case LoadMoved(view):
                await self._wait_for_view(view)
                return journey
            case LoadVoid():
                return Ensured(PeerState.REFUSED, "model not found")
            case LoadStoreAway(message):
                return Ensured(PeerState.REFUSED, message, store_away=True)
            case LoadFailed(status, message):
                return journey.failed(LastFailure(self._own, Outcome.LOAD_FAILED, status, message), None)
            case LoadRefused(outcome, message):
                return journey.failed(LastFailure(self._own, outcome, Status.UNAVAILABLE, message), None)

    async def _ensure_there(
        self, journey: Journey, model: ModelId, instance: InstanceId, *, last_use_ms: int, sync: bool
    ) -> "Ensured | Journey":
        address = self._routing.address(instance)
        if address is None:
            return replace(journey, load_tried=journey.load_tried | {instance})
        timeout_ms = 5 * self._cache.parameters.load_timeout_ms if sync else ASKED_BOUND_MS
        try:
            answer = await self._peers.ensure_loaded(
                address,
                model,
                last_use_ms=last_use_ms,
                sync=sync,
                retry=journey.retry,
                view=self._state.revision,
                timeout_ms=timeout_ms,
            )
        except PeerUnreachableError as error:
            failure = LastFailure(instance, Outcome.LOST, Status.UNAVAILABLE, str(error), begun=error.begun)
            return journey.failed(failure, None)
        match answer.state:
            case PeerState.LOADED | PeerState.LOADING:
                if answer.view is not None:
                    # What the caller asks us next about the model must show its new copy.
                    await self._wait_for_view(answer.view)
                return Ensured(answer.state, instance=instance)
            case PeerState.FAILED:
                return journey.failed(LastFailure(instance, Outcome.LOAD_FAILED, Status.INTERNAL, answer.message), None)
            case PeerState.REFUSED:
                outcome = Outcome(answer.refusal)
                if outcome is Outcome.MOVED and answer.view is not None:
                    await self._wait_for_view(answer.view)
                    return journey
                if outcome is Outcome.NOT_HERE:
                    outcome = Outcome.BUSY
                return journey.failed(LastFailure(instance, outcome, Status.UNAVAILABLE, answer.message), None)
