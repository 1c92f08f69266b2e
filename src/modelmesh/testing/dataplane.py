"""A small data plane in Python, for the simulator and for tests. Never a fallback for the native one.

Calls are put in by `SimulatedDataPlane.call`; between instances they travel over a `FakeNetwork`. It has the same
events, outcomes and order as the core, and none of its bytes: what is carried is a payload object.
`tests/contracts/test_dataplane.py` holds both to the same behaviour.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

from modelmesh.policy.attempt import GONE
from modelmesh.policy.route import choose_copy
from modelmesh.testing.attempts import Answer, AttemptEnded, refused
from modelmesh.testing.consumed import Consumed
from modelmesh.testing.dataplane_checks import refuse_malformed, refuse_out_of_range
from modelmesh.testing.fallbacks import CalledModels, Fallback
from modelmesh.testing.local_copies import Infer, LocalCopies
from modelmesh.testing.network import FakeNetwork
from modelmesh.testing.peer_links import PeerLinks
from modelmesh.values.dataplane import (
    AttemptFailed,
    Cancelled,
    CopyIdle,
    DataPlaneEvent,
    Fail,
    Forward,
    Hop,
    LinkBack,
    LinkLost,
    LocalCopy,
    Missed,
    Outcome,
    PeerAddress,
    RemoteCopy,
    Reroute,
    Resolution,
    ReturnAnswer,
    Route,
    Rules,
    Serve,
    TenantLimits,
    Usage,
    Verdict,
)
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision, Token, VModelId
from modelmesh.values.priority import Priority
from modelmesh.values.status import Status

HELD_REQUESTS = 4096
ENDLESS = 100
"""Turns of one call beyond which it counts as a loop: eight attempts, with stale views between them, are far fewer."""


@dataclass(slots=True)
class _HeldCall:
    model: ModelId
    vmodel: VModelId | None
    resolution: "asyncio.Future[Resolution]"
    answer: Answer | None = None


class SimulatedDataPlane(Consumed, CalledModels):
    """Implements `ports.DataPlane` for one simulated instance."""

    def __init__(
        self,
        *,
        instance: InstanceId,
        address: str,
        network: FakeNetwork,
        infer: Infer,
        now_ms: Callable[[], int],
        rng: Random,
    ) -> None:
        self.instance = instance
        self.draining = False
        self._address = address
        self._network = network
        self._rng = rng
        self._receive: Callable[[Sequence[DataPlaneEvent]], None] | None = None
        self._routes: dict[ModelId, Route] = {}
        self._tokens = count(1)
        self._held: dict[Token, _HeldCall] = {}
        self._answered: dict[Token, None] = {}
        self._copies = LocalCopies(instance=instance, infer=infer, now_ms=now_ms, idle=self._ran_empty)
        self._links = PeerLinks(instance=instance, network=network, emit=self._emit_soon)
        self._open = False
        self.rules: Rules | None = None
        self.tenants: Sequence[TenantLimits] | None = None
        self.verdicts: dict[Token, Verdict] = {}
        self.consumed = {}
        self.shadowed, self.tallied, self._vmodels = {}, {}, {}
        self._now_ms = now_ms

    # --- ports.DataPlane ------------------------------------------------------------------------

    def listen(self, receive: Callable[[Sequence[DataPlaneEvent]], None]) -> None:
        """Deliver events to `receive`."""
        self._receive = receive

    def start(self) -> None:
        """Appear on the network."""
        self._open = True
        self._network.attach(self._address, self)

    @property
    def serving_port(self) -> int | None:
        """None: calls come by `call`."""
        return None

    @property
    def peer_port(self) -> int | None:
        """None: peers come over the network."""
        return None

    def set_routes(self, routes: Sequence[tuple[ModelId, Route | None]]) -> None:
        """See `ports.DataPlane`."""
        for _, route in routes:
            refuse_out_of_range(route)
        for model, route in routes:
            before = self._routes.get(model)
            if route is None:
                self._routes.pop(model, None)
            else:
                self._routes[model] = route
            if before is not None and before.local is not None:
                after = route.local if route is not None else None
                closed = after is None or not after.ready or after.load_id != before.local.load_id
                if before.local.ready and closed and not self._copies.running(model, before.local.load_id):
                    self._emit_soon(CopyIdle(model, before.local.load_id))

    def set_peers(self, peers: Sequence[tuple[InstanceId, PeerAddress | None]]) -> None:
        """See `ports.DataPlane`."""
        self._links.set_peers(peers)

    def set_rules(self, rules: Rules) -> None:
        """See `ports.DataPlane`."""
        self.rules = rules

    def set_access(self, tenants: Sequence[TenantLimits] | None) -> None:
        """See `ports.DataPlane`. Calls of the fake have no caller."""
        self.tenants = tenants

    def answer_asked(self, token: Token, verdict: Verdict) -> None:
        """See `ports.DataPlane`."""
        self.verdicts[token] = verdict

    def resolve(self, resolutions: Sequence[tuple[Token, Resolution]]) -> None:
        """See `ports.DataPlane`."""
        for _, resolution in resolutions:
            if isinstance(resolution, Fail):
                refuse_malformed(resolution.trailers)
        for token, resolution in resolutions:
            held = self._held.get(token)
            waits = (
                held is None or held.resolution.cancelled() or not held.resolution.done()
            )  # cancelled: its caller went
            if token in self._answered or (self._open and not waits):
                self._network.problems.append(f"{self.instance}: call {token} was resolved after its answer")
            if held is not None and not held.resolution.done():
                held.resolution.set_result(resolution)

    def reply(self, token: Token, message: bytes, *, last: bool) -> None:
        """Calls of our services are not simulated."""

    def finish(
        self, token: Token, status: Status, message: str = "", trailers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Calls of our services are not simulated."""

    def end_copy(self, model: ModelId, load_id: LoadId) -> None:
        """See `ports.DataPlane`."""
        self._copies.end(model, load_id)

    def is_idle(self, model: ModelId, load_id: LoadId) -> bool:
        """See `ports.DataPlane`."""
        route = self._routes.get(model)
        local = route.local if route is not None else None
        is_open = local is not None and local.load_id == load_id and local.ready
        return not is_open and not self._copies.running(model, load_id)

    def runtime_hangs(self) -> None:
        """See `ports.DataPlane`."""
        self._copies.hang()

    def usage(self) -> Sequence[Usage]:
        """See `ports.DataPlane`."""
        return self._copies.usage()

    def held(self) -> tuple[int, int]:
        """See `ports.DataPlane`."""
        return len(self._held), 0

    def thread_ages_ms(self) -> Sequence[int]:
        """There are no threads."""
        return ()

    def drain(self) -> None:
        """See `ports.DataPlane`."""
        self.draining = True

    def close(self) -> None:
        """Leave the network; what runs ends with UNAVAILABLE."""
        self._open = False
        self._network.detach(self._address)
        for held in self._held.values():
            if not held.resolution.done():
                held.resolution.set_result(Fail(Status.UNAVAILABLE, "the instance has stopped"))
        self._links.close()

    # --- what tests and the simulator do ----------------------------------------------------------

    @property
    def address(self) -> str:
        """Where peers reach it."""
        return self._address

    @property
    def open(self) -> bool:
        """Whether it takes calls."""
        return self._open

    def in_flight(self, model: ModelId) -> int:
        """Requests that run on copies of the model here."""
        return self._copies.in_flight(model)

    def held_calls(self) -> tuple[tuple[Token, ModelId], ...]:
        """Calls that wait for a resolution."""
        return tuple((token, held.model) for token, held in self._held.items())

    def route(self, model: ModelId) -> Route | None:
        """The route of a model, as told last."""
        return self._routes.get(model)

    def runtime_link(self, *, up: bool) -> None:
        """The connection to the runtime breaks or is back."""
        if up != self._copies.runtime_up:
            self._copies.runtime_up = up
            self._emit_soon(LinkBack(self.instance) if up else LinkLost(self.instance))

    async def call(
        self,
        model: ModelId | VModelId,
        payload: object = None,
        *,
        vmodel: bool = False,
        balanced: bool = False,
        timeout_ms: int | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> Answer:
        """A client's call, entering at this instance."""
        if not self._open:
            return Answer(Status.UNAVAILABLE, "no process listens")
        token = Token(next(self._tokens))
        call = self._ingress(
            token, model, payload, vmodel=vmodel, balanced=balanced, timeout_ms=timeout_ms, priority=priority
        )
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                return await call
        except TimeoutError:
            self._gone(token)
            return Answer(Status.DEADLINE_EXCEEDED, "")
        except asyncio.CancelledError:
            self._gone(token)
            raise

    # --- a call's way -----------------------------------------------------------------------------

    async def _ingress(
        self,
        token: Token,
        name: ModelId | VModelId,
        payload: object,
        *,
        vmodel: bool,
        balanced: bool,
        timeout_ms: int | None,
        priority: Priority,
    ) -> Answer:
        label = VModelId(name) if vmodel else None
        resolution: Resolution = Reroute()
        was_held = False
        draw = self._rng.randrange(100) if vmodel else 0
        failures = 0
        fallback = Fallback()
        model = ModelId("")
        began_ms = self._now_ms()
        for turn in count(1):
            if turn == ENDLESS:
                self._network.problems.append(f"{self.instance}: call {token} for {name} goes round without end")
            try:
                if isinstance(resolution, Reroute):  # only then: a decision is about the model that it was asked for
                    model, attempt = self._routed(name, label, draw, fallback, payload, balanced, may_move=not failures)
                    if attempt is None:
                        was_held = True
                        resolution = await self._hold(
                            token,
                            model,
                            label,
                            Missed(token, model, label, "/test/infer", timeout_ms, None, (), None, balanced, priority),
                        )
                        continue
                    answer = await attempt
                else:
                    answer = await self._perform(model, payload, resolution, priority, may_move=not failures)
            except AttemptEnded as failure:
                was_held = True
                failures += 1
                if failure.outcome in GONE and failure.begun:
                    fallback.suspect()
                resolution = await self._failed(token, model, label, failure, priority)
            else:
                failed = isinstance(resolution, Fail) or answer.status is Status.INTERNAL
                if failed and label is not None and fallback.goes_on(answer, self.fallback_of(label, model)):
                    model = self._told_of_failure(label, model, answer, fallback)
                    self._answered.pop(token, None)  # to the control plane it is another call
                    resolution = Reroute()
                    continue
                if label is not None and fallback.instead is None:
                    self.tally_call(label, model, answer.status, self._now_ms() - began_ms)
                return replace(fallback.told(answer, failed=failed), held=was_held)
        raise AssertionError("unreachable")

    async def _failed(
        self, token: Token, model: ModelId, vmodel: VModelId | None, failure: AttemptEnded, priority: Priority
    ) -> Resolution:
        assert failure.answer.served_by is not None
        event = AttemptFailed(
            token,
            model,
            vmodel,
            failure.answer.served_by,
            self._load_at(model, failure.answer.served_by),
            failure.outcome,
            replayable=True,
            status=failure.answer.status,
            message=failure.answer.message,
            view=failure.view,
            begun=failure.begun,
            priority=priority,
        )
        return await self._hold(token, model, vmodel, event, failure.answer)

    async def _hold(
        self,
        token: Token,
        model: ModelId,
        vmodel: VModelId | None,
        event: DataPlaneEvent,
        answer: Answer | None = None,
    ) -> Resolution:
        if len(self._held) >= HELD_REQUESTS or sum(held.model == model for held in self._held.values()) >= (
            HELD_REQUESTS // 4
        ):
            return Fail(Status.RESOURCE_EXHAUSTED, "too many requests are held")
        future: asyncio.Future[Resolution] = asyncio.get_running_loop().create_future()
        self._held[token] = _HeldCall(model, vmodel, future, answer)
        self._emit_soon(event)
        try:
            resolution = await future
        finally:
            held = self._held.pop(token)
        if isinstance(resolution, Fail | ReturnAnswer):
            self._answered[token] = None
        if isinstance(resolution, ReturnAnswer):
            assert held.answer is not None
            last = held.answer
            return Fail(last.status, last.message, last.trailers)
        return resolution

    async def _perform(
        self, model: ModelId, payload: object, resolution: Resolution, priority: Priority, *, may_move: bool
    ) -> Answer:
        match resolution:
            case Fail(status, message, trailers):
                return Answer(status, message, trailers=trailers, served_by=self.instance)
            case Serve():
                local = self._local(model)
                if local is None:
                    raise AttemptEnded(
                        Outcome.NOT_HERE, Answer(Status.UNAVAILABLE, "no ready copy", served_by=self.instance)
                    )
                return await self._copies.serve(model, local, payload, may_move=may_move)
            case Forward(instance, hop, tried, view):
                return await self._links.forward(model, payload, instance, hop, tried, view, priority)
            case _:
                raise AssertionError(resolution)

    def _hit(self, model: ModelId, payload: object, *, balanced: bool, may_move: bool) -> Awaitable[Answer] | None:
        route = self._routes.get(model)
        if route is None:
            return None
        local = self._local(model)
        if local is not None and balanced:
            return self._copies.serve(model, local, payload, may_move=may_move)
        choices: list[LocalCopy | RemoteCopy] = [local] if local is not None else []
        choices += [copy for copy in route.remote if self._links.usable(copy.instance)]
        if not choices:
            return None
        loads = [
            self._copies.running(model, copy.load_id)
            if isinstance(copy, LocalCopy)
            else self._links.in_flight(model, copy.instance)
            for copy in choices
        ]
        chosen = choices[choose_copy(loads, (self._rng.getrandbits(32), self._rng.getrandbits(32)))]
        if isinstance(chosen, LocalCopy):
            return self._copies.serve(model, chosen, payload, may_move=may_move)
        return self._links.forward(model, payload, chosen.instance, Hop.HIT, (), None)

    def _local(self, model: ModelId) -> LocalCopy | None:
        route = self._routes.get(model)
        local = route.local if route is not None else None
        return local if local is not None and local.ready and self._copies.runtime_up else None

    async def serve_hop(
        self,
        model: ModelId,
        payload: object,
        hop: Hop,
        tried: tuple[InstanceId, ...],
        view: Revision | None,
        priority: Priority,
    ) -> Answer:
        """A call that another instance forwarded."""
        token = Token(next(self._tokens))
        try:
            local = self._local(model)
            if local is None and hop is Hop.HIT:
                return refused(Outcome.NOT_HERE, "no ready copy here", self.instance)
            resolution: Resolution = Serve()
            if local is None:
                missed = Missed(
                    token, model, None, "/test/infer", None, hop, tried, view, balanced=True, priority=priority
                )
                resolution = await self._hold(token, model, None, missed)
            if isinstance(resolution, Forward):
                self._network.problems.append(
                    f"{self.instance}: a hop for {model} was forwarded to {resolution.instance}"
                )
            return await self._perform(model, payload, resolution, priority, may_move=not tried)
        except AttemptEnded as failure:
            if failure.outcome in {Outcome.UNAVAILABLE, Outcome.EXHAUSTED}:
                return failure.answer
            self._emit_soon(
                AttemptFailed(
                    token,
                    model,
                    None,
                    self.instance,
                    self._load_at(model, self.instance),
                    failure.outcome,
                    replayable=False,
                    status=failure.answer.status,
                    message=failure.answer.message,
                    begun=failure.begun,
                )
            )
            outcome = Outcome.NOT_HERE
            if failure.outcome in GONE:
                outcome = Outcome.LOST if failure.begun else Outcome.BUSY
            return refused(outcome, failure.answer.message, self.instance)
        except asyncio.CancelledError:
            self._gone(token)
            raise

    # --- parts --------------------------------------------------------------------------------------

    def _load_at(self, model: ModelId, instance: InstanceId) -> LoadId:
        route = self._routes.get(model)
        if route is None:
            return LoadId(0)
        if instance == self.instance:
            return route.local.load_id if route.local is not None else LoadId(0)
        return next((copy.load_id for copy in route.remote if copy.instance == instance), LoadId(0))

    def _ran_empty(self, model: ModelId, load_id: LoadId) -> None:
        """Nothing runs on a copy any more: told if it is closed."""
        route = self._routes.get(model)
        local = route.local if route is not None else None
        if local is None or local.load_id != load_id or not local.ready:
            self._emit_soon(CopyIdle(model, load_id))

    def _gone(self, token: Token) -> None:
        self._emit_soon(Cancelled(token))

    def _emit_soon(self, event: DataPlaneEvent) -> None:
        asyncio.get_running_loop().call_soon(self._emit, event)

    def _emit(self, event: DataPlaneEvent) -> None:
        if self._open and self._receive is not None:
            self._receive((event,))
