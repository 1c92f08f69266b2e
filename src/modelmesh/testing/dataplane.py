"""A small data plane in Python, for the simulator and for tests. Never a fallback for the native one.

Calls are `FakeCall`s put in by `SimulatedDataPlane.call`; between instances they travel over a
`FakeNetwork`. It has the same events, outcomes and order as the core, and none of its bytes: what is
carried is a payload object. `tests/contracts/test_dataplane.py` holds both to the same behaviour.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

from modelmesh.policy.route import choose_copy
from modelmesh.ports import RuntimeCallError
from modelmesh.testing.network import FakeNetwork
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
    Usage,
)
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision, Token, VModelId
from modelmesh.values.status import Status

HELD_REQUESTS = 4096
ENDLESS = 100
"""Turns of one call beyond which it counts as a loop: eight attempts, with stale views between them, are far fewer."""

LINK_DETECTION_MS = 5_000
"""How long a silent peer takes to be noticed while calls are open."""

Infer = Callable[[ModelId, object], Awaitable[object]]
"""The runtime's inference: model and payload in, answer out; raises RuntimeCallError."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended. `held`: it found no ready copy, or its first attempt failed."""

    status: Status
    message: str = ""
    payload: object = None
    trailers: tuple[tuple[str, bytes], ...] = ()
    served_by: InstanceId | None = None
    held: bool = False


class _AttemptEnded(Exception):  # noqa: N818 - carries an outcome, it is no error of ours
    def __init__(self, outcome: Outcome, answer: Answer, view: Revision | None = None) -> None:
        self.outcome = outcome
        self.answer = answer
        self.view = view


@dataclass(slots=True)
class _Counters:
    requests: int = 0
    in_flight: int = 0
    last_use_ms: int = 0
    service_us: int = 0
    told: bool = False


@dataclass(slots=True)
class _HeldCall:
    model: ModelId
    vmodel: VModelId | None
    resolution: "asyncio.Future[Resolution]"
    answer: Answer | None = None


class SimulatedDataPlane:
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
        self._infer = infer
        self._now_ms = now_ms
        self._rng = rng
        self._receive: Callable[[Sequence[DataPlaneEvent]], None] | None = None
        self._routes: dict[ModelId, Route] = {}
        self._vmodels: dict[VModelId, ModelId] = {}
        self._peers: dict[InstanceId, PeerAddress] = {}
        self._counters: dict[ModelId, _Counters] = {}
        self._running: dict[tuple[ModelId, LoadId], int] = {}
        self._peer_in_flight: dict[tuple[ModelId, InstanceId], int] = {}
        self._tokens = count(1)
        self._held: dict[Token, _HeldCall] = {}
        self._answered: dict[Token, None] = {}
        self._lost: dict[InstanceId, asyncio.Task[None]] = {}
        self._ended: dict[tuple[ModelId, LoadId], asyncio.Event] = {}
        self._runtime_up = True
        self._open = False
        self.rules: Rules | None = None

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
        for model, route in routes:
            before = self._routes.get(model)
            if route is None:
                self._routes.pop(model, None)
            else:
                self._routes[model] = route
            if before is not None and before.local is not None:
                after = route.local if route is not None else None
                closed = after is None or not after.ready or after.load_id != before.local.load_id
                if before.local.ready and closed and not self._running.get((model, before.local.load_id)):
                    self._emit_soon(CopyIdle(model, before.local.load_id))

    def set_vmodels(self, vmodels: Sequence[tuple[VModelId, ModelId | None]]) -> None:
        """See `ports.DataPlane`."""
        for vmodel, model in vmodels:
            if model is None:
                self._vmodels.pop(vmodel, None)
            else:
                self._vmodels[vmodel] = model

    def set_peers(self, peers: Sequence[tuple[InstanceId, PeerAddress | None]]) -> None:
        """See `ports.DataPlane`."""
        for instance, address in peers:
            if address is None:
                self._peers.pop(instance, None)
                probe = self._lost.pop(instance, None)
                if probe is not None:
                    probe.cancel()
            else:
                self._peers[instance] = address

    def set_rules(self, rules: Rules) -> None:
        """See `ports.DataPlane`."""
        self.rules = rules

    def resolve(self, resolutions: Sequence[tuple[Token, Resolution]]) -> None:
        """See `ports.DataPlane`."""
        for _, resolution in resolutions:
            if isinstance(resolution, Fail):
                _refuse_malformed(resolution.trailers)
        for token, resolution in resolutions:
            held = self._held.get(token)
            if token in self._answered or (held is not None and held.resolution.done() and self._open):
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
        ended = self._ended.get((model, load_id))
        if ended is not None:
            ended.set()

    def usage(self) -> Sequence[Usage]:
        """See `ports.DataPlane`."""
        result = []
        for model, counters in self._counters.items():
            if counters.requests or counters.in_flight:
                result.append(
                    Usage(model, counters.last_use_ms, counters.requests, counters.service_us, counters.in_flight, 0)
                )
                counters.requests = 0
                counters.service_us = 0
        return result

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
        for probe in self._lost.values():
            probe.cancel()
        self._lost.clear()

    # --- what tests and the simulator do ----------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether it takes calls."""
        return self._open

    def in_flight(self, model: ModelId) -> int:
        """Requests that run on copies of the model here."""
        return sum(running for (name, _), running in self._running.items() if name == model)

    def held_calls(self) -> tuple[tuple[Token, ModelId], ...]:
        """Calls that wait for a resolution."""
        return tuple((token, held.model) for token, held in self._held.items())

    def route(self, model: ModelId) -> Route | None:
        """The route of a model, as told last."""
        return self._routes.get(model)

    def runtime_link(self, *, up: bool) -> None:
        """The connection to the runtime breaks or is back."""
        if up != self._runtime_up:
            self._runtime_up = up
            self._emit_soon(LinkBack(self.instance) if up else LinkLost(self.instance))

    async def call(
        self,
        model: ModelId | VModelId,
        payload: object = None,
        *,
        vmodel: bool = False,
        balanced: bool = False,
        timeout_ms: int | None = None,
    ) -> Answer:
        """A client's call, entering at this instance."""
        if not self._open:
            return Answer(Status.UNAVAILABLE, "nobody listens")
        token = Token(next(self._tokens))
        call = self._ingress(token, model, payload, vmodel=vmodel, balanced=balanced, timeout_ms=timeout_ms)
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
    ) -> Answer:
        label = VModelId(name) if vmodel else None
        resolution: Resolution = Reroute()
        was_held = False
        for turn in count(1):
            if turn == ENDLESS:
                self._network.problems.append(f"{self.instance}: call {token} for {name} goes round without end")
            model = self._vmodels.get(VModelId(name), ModelId("")) if vmodel else ModelId(name)
            try:
                if isinstance(resolution, Reroute):
                    attempt = self._hit(model, payload, balanced=balanced)
                    if attempt is None:
                        was_held = True
                        resolution = await self._hold(
                            token,
                            model,
                            label,
                            Missed(token, model, label, "/test/infer", timeout_ms, None, (), None, balanced),
                        )
                        continue
                    answer = await attempt
                    return replace(answer, held=was_held)
                answer = await self._perform(model, payload, resolution, token)
            except _AttemptEnded as failure:
                was_held = True
                resolution = await self._failed(token, model, label, failure)
            else:
                return replace(answer, held=was_held)
        raise AssertionError("unreachable")

    async def _failed(
        self, token: Token, model: ModelId, vmodel: VModelId | None, failure: _AttemptEnded
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

    async def _perform(self, model: ModelId, payload: object, resolution: Resolution, token: Token) -> Answer:
        match resolution:
            case Fail(status, message, trailers):
                return Answer(status, message, trailers=trailers, served_by=self.instance)
            case Serve():
                local = self._local(model)
                if local is None:
                    raise _AttemptEnded(
                        Outcome.NOT_HERE, Answer(Status.UNAVAILABLE, "no ready copy", served_by=self.instance)
                    )
                return await self._serve(model, local, payload)
            case Forward(instance, hop, tried, view):
                return await self._forward(model, payload, instance, hop, tried, view)
            case _:
                raise AssertionError((resolution, token))

    def _hit(self, model: ModelId, payload: object, *, balanced: bool) -> Awaitable[Answer] | None:
        route = self._routes.get(model)
        if route is None:
            return None
        local = self._local(model)
        if local is not None and balanced:
            return self._serve(model, local, payload)
        choices: list[LocalCopy | RemoteCopy] = [local] if local is not None else []
        choices += [copy for copy in route.remote if copy.instance in self._peers and copy.instance not in self._lost]
        if not choices:
            return None
        loads = [
            self._running.get((model, copy.load_id), 0)
            if isinstance(copy, LocalCopy)
            else self._peer_in_flight.get((model, copy.instance), 0)
            for copy in choices
        ]
        chosen = choices[choose_copy(loads, (self._rng.getrandbits(32), self._rng.getrandbits(32)))]
        if isinstance(chosen, LocalCopy):
            return self._serve(model, chosen, payload)
        return self._forward(model, payload, chosen.instance, Hop.HIT, (), None)

    def _local(self, model: ModelId) -> LocalCopy | None:
        route = self._routes.get(model)
        local = route.local if route is not None else None
        return local if local is not None and local.ready and self._runtime_up else None

    async def _serve(self, model: ModelId, copy: LocalCopy, payload: object) -> Answer:
        key = (model, copy.load_id)
        counters = self._counters.setdefault(model, _Counters())
        counters.in_flight += 1
        counters.requests += 1
        counters.last_use_ms = self._now_ms()
        self._running[key] = self._running.get(key, 0) + 1
        ended = self._ended.setdefault(key, asyncio.Event())
        work = asyncio.ensure_future(self._infer(model, payload))
        stop = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _AttemptEnded(
                    Outcome.ENDED, Answer(Status.UNAVAILABLE, "the copy was taken away", served_by=self.instance)
                )
            return Answer(Status.OK, payload=work.result(), served_by=self.instance)
        except RuntimeCallError as error:
            answer = Answer(error.status, error.message, served_by=self.instance)
            outcome = _outcome(error.status, runtime_up=self._runtime_up)
            if outcome is None:
                return answer
            raise _AttemptEnded(outcome, answer) from error
        finally:
            work.cancel()
            stop.cancel()
            counters.in_flight -= 1
            self._finished(key)

    def _finished(self, key: tuple[ModelId, LoadId]) -> None:
        left = self._running[key] - 1
        if left:
            self._running[key] = left
            return
        del self._running[key]
        self._ended.pop(key, None)
        route = self._routes.get(key[0])
        local = route.local if route is not None else None
        if local is None or local.load_id != key[1] or not local.ready:
            self._emit_soon(CopyIdle(*key))

    async def _forward(
        self,
        model: ModelId,
        payload: object,
        instance: InstanceId,
        hop: Hop,
        tried: tuple[InstanceId, ...],
        view: Revision | None,
    ) -> Answer:
        key = (model, instance)
        self._peer_in_flight[key] = self._peer_in_flight.get(key, 0) + 1
        try:
            peer = self._reach(instance)
            await asyncio.sleep(self._network.latency_ms / 1000)
            answer = await self._at_peer(peer, model, payload, hop, tried, view)
            await asyncio.sleep(self._network.latency_ms / 1000)
        finally:
            left = self._peer_in_flight[key] - 1
            if left:
                self._peer_in_flight[key] = left
            else:
                del self._peer_in_flight[key]
        refused = dict(answer.trailers).get("mm-refused")
        if refused is not None:
            seen = dict(answer.trailers).get("mm-view")
            outcome = Outcome(refused.decode())
            raise _AttemptEnded(
                outcome,
                Answer(answer.status, answer.message, served_by=instance),
                Revision(int(seen)) if seen is not None else None,
            )
        if answer.status is Status.UNAVAILABLE:
            raise _AttemptEnded(Outcome.UNAVAILABLE, Answer(answer.status, answer.message, served_by=instance))
        if answer.status is Status.RESOURCE_EXHAUSTED:
            raise _AttemptEnded(Outcome.EXHAUSTED, Answer(answer.status, answer.message, served_by=instance))
        return answer

    async def _at_peer(
        self,
        peer: "SimulatedDataPlane",
        model: ModelId,
        payload: object,
        hop: Hop,
        tried: tuple[InstanceId, ...],
        view: Revision | None,
    ) -> Answer:
        """The peer's part; a connection that breaks meanwhile is noticed after the detection time."""
        work = asyncio.ensure_future(peer.serve_hop(model, payload, hop, tried, view))
        try:
            silent_ms = 0
            while True:
                await asyncio.wait({work}, timeout=0.25)
                if work.done() and peer.open:
                    break
                if peer.open and self._network.plane(self.instance, peer.address) is peer:
                    silent_ms = 0
                    continue
                silent_ms += 250
                if not peer.open or silent_ms >= LINK_DETECTION_MS:  # the dead answer nothing
                    self._lose(peer.instance)
                    raise _AttemptEnded(
                        Outcome.LOST,
                        Answer(Status.UNAVAILABLE, f"connection to {peer.instance} lost", served_by=peer.instance),
                    )
            return work.result()
        finally:
            work.cancel()

    @property
    def address(self) -> str:
        """Where peers reach it."""
        return self._address

    def _reach(self, instance: InstanceId) -> "SimulatedDataPlane":
        address = self._peers.get(instance)
        peer = self._network.plane(self.instance, address.address) if address is not None else None
        if peer is None:
            self._lose(instance)
            raise _AttemptEnded(
                Outcome.LOST, Answer(Status.UNAVAILABLE, f"{instance} cannot be reached", served_by=instance)
            )
        return peer

    async def serve_hop(
        self,
        model: ModelId,
        payload: object,
        hop: Hop,
        tried: tuple[InstanceId, ...],
        view: Revision | None,
    ) -> Answer:
        """A call that another instance forwarded."""
        token = Token(next(self._tokens))
        try:
            local = self._local(model)
            if local is None and hop is Hop.HIT:
                return _refused(Outcome.NOT_HERE, "no ready copy here", self.instance)
            resolution: Resolution = Serve()
            if local is None:
                missed = Missed(token, model, None, "/test/infer", None, hop, tried, view, balanced=True)
                resolution = await self._hold(token, model, None, missed)
            if isinstance(resolution, Forward):
                self._network.problems.append(
                    f"{self.instance}: a hop for {model} was forwarded to {resolution.instance}"
                )
            return await self._perform(model, payload, resolution, token)
        except _AttemptEnded as failure:
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
                )
            )
            return _refused(Outcome.NOT_HERE, failure.answer.message, self.instance)
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

    def _gone(self, token: Token) -> None:
        self._emit_soon(Cancelled(token))

    def _emit_soon(self, event: DataPlaneEvent) -> None:
        asyncio.get_running_loop().call_soon(self._emit, event)

    def _emit(self, event: DataPlaneEvent) -> None:
        if self._open and self._receive is not None:
            self._receive((event,))

    def _lose(self, instance: InstanceId) -> None:
        if instance in self._lost or instance not in self._peers:
            return
        self._lost[instance] = asyncio.get_running_loop().create_task(self._probe(instance))
        self._emit_soon(LinkLost(instance))

    async def _probe(self, instance: InstanceId) -> None:
        delay = 0.04
        while True:
            await asyncio.sleep(delay)
            delay = min(2.0, delay * 2)
            address = self._peers.get(instance)
            if address is not None and self._network.plane(self.instance, address.address) is not None:
                self._lost.pop(instance, None)
                self._emit_soon(LinkBack(instance))
                return


def _outcome(status: Status, *, runtime_up: bool) -> Outcome | None:
    """What a runtime's error means to the request; None: it is the client's answer."""
    match status:
        case Status.NOT_FOUND:
            return Outcome.NOT_HERE
        case Status.UNAVAILABLE:
            return Outcome.UNAVAILABLE if runtime_up else Outcome.LOST
        case Status.RESOURCE_EXHAUSTED:
            return Outcome.EXHAUSTED
        case _:
            return None


def _refused(outcome: Outcome, message: str, instance: InstanceId) -> Answer:
    return Answer(Status.UNAVAILABLE, message, trailers=(("mm-refused", outcome.value.encode()),), served_by=instance)


def _refuse_malformed(trailers: Sequence[tuple[str, bytes]]) -> None:
    """As the native core does: values are printable text, those of `-bin` in base64. Raises ValueError."""
    for name, value in trailers:
        try:
            text = value.decode("ascii")
            if name.endswith("-bin"):
                base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError as error:
            raise ValueError(f"{name!r} is no valid trailer in wire form") from error
