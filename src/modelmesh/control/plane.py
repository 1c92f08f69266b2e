"""The control plane of one instance, put together: what there is, how it starts, how it ends."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from modelmesh.control.answers import RETRY_HINT_MS, refusal, retry_later
from modelmesh.control.cache import Cache
from modelmesh.control.census import Census
from modelmesh.control.copy_steps import CopySteps
from modelmesh.control.decide import Decider
from modelmesh.control.drain import Drain, Drained
from modelmesh.control.enact import CopyWriter
from modelmesh.control.identity import StoreIdentity
from modelmesh.control.journal import Journal
from modelmesh.control.keys import Keys, RegistryKey, VModelKey
from modelmesh.control.lead import Leader
from modelmesh.control.link import RuntimeLink, RuntimeParameters
from modelmesh.control.live_config import LiveConfig
from modelmesh.control.membership import Membership
from modelmesh.control.mover import Mover
from modelmesh.control.observe import Observer
from modelmesh.control.pulse import Pulse
from modelmesh.control.rates import RateBook
from modelmesh.control.ready import Ready
from modelmesh.control.recall import Recall
from modelmesh.control.records import RecordCache
from modelmesh.control.requests import Requests
from modelmesh.control.rounds import Rounds
from modelmesh.control.routing import Routing
from modelmesh.control.scale import Scaler
from modelmesh.control.state import Changed, ClusterState
from modelmesh.control.tasks import Tasks
from modelmesh.control.transitions import Transitions
from modelmesh.control.vmodels import VModels
from modelmesh.machines.member import MemberState
from modelmesh.machines.retention import Retention
from modelmesh.policy.constraints import TypeConstraints
from modelmesh.policy.copies import CopiesLimits
from modelmesh.policy.methods import AllowedMethods, RuntimeMethods, combine
from modelmesh.policy.readiness import ReadinessReason
from modelmesh.ports import (
    Change,
    ChangeKind,
    Clock,
    DataPlane,
    Peers,
    PeerUnreachableError,
    Put,
    Runtime,
    Store,
    StoreError,
    Transaction,
)
from modelmesh.ports import Compare as StoreCompare
from modelmesh.values.dataplane import (
    AttemptFailed,
    Called,
    CallMessage,
    Cancelled,
    CopyIdle,
    DataPlaneEvent,
    Hop,
    LinkBack,
    LinkLost,
    Missed,
    Outcome,
    PeerAddress,
    Rules,
)
from modelmesh.values.ids import InstanceId, ModelId, Revision, Token, VModelId
from modelmesh.values.records import HotCopy, MemberRecord, ModelRecord, VModelRecord
from modelmesh.values.status import Status

TICK_MS = 1_000

PEER_GONE_MS = 60_000
"""How long an instance without an entry keeps its address: it may only have lost its lease."""
STARTING = "this instance is starting"
HEALTH = "grpc.health.v1.Health/"

EARLY_MS = 5_000
"""How long a request that came before this instance had started waits for that."""

ASK_AFTER_MS = 2_000
"""How long an instance that lost its entry may take to say that it is still there."""

LEAST_RATE = 10
"""Requests per minute; a live setting below is a mistake."""

LINK_NOTICED_MS = 10_000
"""No lost link goes unnoticed for longer."""

VIEW_BOUND_MS = 1_000
"""How long anyone waits for the view to reach a revision."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this instance is. `address` is where others reach its peer port."""

    instance: InstanceId
    address: str
    tls_name: str = ""
    labels: tuple[str, ...] = ()
    zone: str = ""
    location: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """What an operator sets of the control plane's behaviour."""

    failure_expiry_ms: int = 900_000
    default_vmodel_owner: str = ""
    copies: CopiesLimits = field(default_factory=CopiesLimits)
    bandwidth_percent: int = 90
    """In latency mode: how much of what a copy can do it should do before one more is added."""

    eviction: Literal["adaptive", "lru"] = "adaptive"
    """Which copies leave: those that the best of several policies would not hold, or those unused longest."""

    in_flight_max: int = 0
    """Calls that run at or wait for a copy whose concurrency is limited; 0: eight times it, negative: no bound."""

    read_only: bool = False
    """Nothing is registered, changed or cleaned up; models are loaded and served."""

    bootstrap_ms: int = 180_000
    """Failing loads in so long after the start keep this instance from becoming ready; 0: they never do."""


@dataclass(frozen=True, slots=True)
class CallHandlers:
    """Who answers calls of the services that Python serves."""

    called: Callable[[Called], None]
    message: Callable[[CallMessage], None]
    cancelled: Callable[[Cancelled], None]


class ControlPlane:
    """Everything that decides, of one instance."""

    routing: Routing
    _ready: Ready

    def __init__(
        self,
        *,
        identity: Identity,
        keys: Keys,
        store: Store,
        runtime: Runtime,
        peers: Peers,
        dataplane: DataPlane,
        clock: Clock,
        rng: Random,
        limits: ControlLimits,
        crashed: Callable[[str, BaseException], None],
        forgotten: Callable[[ModelId], None] = lambda _: None,
    ) -> None:
        """Put the parts together; nothing runs yet.

        `crashed` is told of every background task that ended by an unexpected exception, `forgotten` of every
        model that is no longer registered.
        """
        self._forgotten = forgotten
        own = identity.instance
        store = self.pulse = Pulse(store, clock, probe=keys.alive)
        self.identity = identity
        self.limits = limits
        self.keys = keys
        self.store = store
        self.clock = clock
        self.dataplane = dataplane
        self.peers = peers
        self.journal = Journal(own, clock)
        self.tasks = Tasks(crashed)
        self.state = ClusterState(own, keys)
        self.config = LiveConfig(keys, self.journal)
        self._store_identity = StoreIdentity(keys.alive, rng)
        self.models: RecordCache[ModelId, ModelRecord] = RecordCache(
            store=store,
            identity=self._store_identity,
            clock=clock,
            prefix=keys.registry,
            kind=ModelRecord,
            store_there=lambda: self.observer.connected,
        )
        self.vmodel_records: RecordCache[VModelId, VModelRecord] = RecordCache(
            store=store,
            identity=self._store_identity,
            clock=clock,
            prefix=keys.vmodels,
            kind=VModelRecord,
            store_there=lambda: self.observer.connected,
        )
        self.observer = Observer(
            store=store,
            keys=keys,
            state=self.state,
            identity=self._store_identity,
            clock=clock,
            journal=self.journal,
            rng=rng,
            viewed=self._viewed,
            registry_changed=self._registry_changed,
            vmodel_changed=self._vmodel_changed,
            config_changed=self.config.changed,
            relisted=self._relisted,
        )
        self.membership = Membership(
            store=store,
            keys=keys,
            own=own,
            clock=clock,
            journal=self.journal,
            record=self._member_record,
            relist=self._relist,
        )
        self.rates = RateBook(limits.copies)
        self._hot: tuple[HotCopy, ...] = ()
        self._writer = CopyWriter(store=store, keys=keys, identity=self._store_identity, own=own)
        self._copies = CopySteps(
            own=own,
            runtime=runtime,
            dataplane=dataplane,
            writer=self._writer,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            lease=lambda: self.membership.lease,
            lease_lost=self.membership.lease_lost,
            route_changed=lambda model: self.routing.update((model,)),
            store_there=lambda: self.observer.connected,
            wait_for_view=self.wait_for_view,
            pin=self.models.pin,
            unpin=self.models.unpin,
            used=self.rates.apply,
            ended=lambda model, *, failed: self._ready.load_ended(model, failed=failed),
            failure_expiry_ms=limits.failure_expiry_ms,
            read_only=limits.read_only,
            retention=Retention(1) if limits.eviction == "adaptive" else None,
        )
        self.cache = Cache(
            own=own, steps=self._copies, clock=clock, journal=self.journal, in_flight_max=limits.in_flight_max
        )
        self.recall = Recall(journal=self.journal, cache=self.cache)
        self.routing = Routing(state=self.state, dataplane=dataplane, local_copy=self.cache.local_copy)
        self.decider = Decider(
            state=self.state,
            clock=clock,
            rng=rng,
            own_copy=self.cache.copy,
            own_record=lambda: self.cache.foresee(self._member_record()),
            predicted_bytes=self.cache.predicted_bytes,
            load_ms=self.cache.learned.load_ms,
            failure_expiry_ms=limits.failure_expiry_ms,
        )
        self._copies.decide_with(self.decider)
        self.requests = Requests(
            own=own,
            state=self.state,
            decider=self.decider,
            cache=self.cache,
            routing=self.routing,
            models=self.models,
            vmodels=self.vmodel_records,
            dataplane=dataplane,
            peers=peers,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            pulse=self.pulse,
            wait_for_view=self.wait_for_view,
        )
        self.link = RuntimeLink(
            runtime=runtime,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            held=self.cache.held,
            opened=self._copies.runtime_opened,
            closed=self._copies.runtime_closed,
            emptied=self._copies.runtime_emptied,
            reported=self._runtime_reported,
        )
        self.vmodels = VModels(
            store=store, keys=keys, models=self.models, vmodels=self.vmodel_records, journal=self.journal
        )
        self.census = Census(store=store, keys=keys, clock=clock)
        self.leader = Leader(
            store=store,
            keys=keys,
            state=self.state,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            failure_expiry_ms=limits.failure_expiry_ms,
            read_only=limits.read_only,
        )
        self.transitions = Transitions(
            store=store,
            keys=keys,
            vmodels=self.vmodels,
            models=self.models,
            decider=self.decider,
            add_copy=self.requests.add_copy,
            fence=self.leader.fence,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
        )
        self.scaler = Scaler(
            own=own,
            cache=self.cache,
            rates=self.rates,
            decider=self.decider,
            requests=self.requests,
            models=self.models,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            limits=limits.copies,
            bandwidth_percent=limits.bandwidth_percent,
        )
        mover = Mover(own=own, cache=self.cache, decider=self.decider, requests=self.requests, models=self.models)
        self.rounds = Rounds(
            own=own,
            store=store,
            keys=keys,
            state=self.state,
            observer=self.observer,
            cache=self.cache,
            decider=self.decider,
            requests=self.requests,
            mover=mover,
            models=self.models,
            scaler=self.scaler,
            leader=self.leader,
            census=self.census,
            transitions=self.transitions,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            rng=rng,
            read_only=limits.read_only,
            cut_off_since_ms=self._cut_off_since_ms,
        )
        self._ready = Ready(
            state=self.state,
            cache=self.cache,
            link=self.link,
            clock=clock,
            journal=self.journal,
            bootstrap_ms=limits.bootstrap_ms,
        )
        self.config.follow("scaleup_rpm_threshold", self._set_scaleup_rate)
        self._drain = Drain(
            own=own,
            cache=self.cache,
            decider=self.decider,
            mover=mover,
            rate=self.rates.rate,
            clock=clock,
            journal=self.journal,
        )
        self._calls: CallHandlers | None = None
        self._services: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._allowed_methods = AllowedMethods()
        self._runtime_methods = RuntimeMethods()
        self._missing_since: dict[InstanceId, int] = {}
        self._started_ms = clock.now_ms()
        self._started = False
        self._early: OrderedDict[Token, Missed] = OrderedDict()
        """Requests that came while this instance started: it listens before it can serve."""

    # --- life -----------------------------------------------------------------------------------

    def answer_calls(
        self, handlers: CallHandlers, *, serving_services: tuple[str, ...], peer_services: tuple[str, ...]
    ) -> None:
        """Give the services that Python serves, on either port; before `start` they say that this instance starts."""
        self._calls = handlers
        self._services = (serving_services, peer_services)
        self._set_rules()

    async def start(self) -> RuntimeParameters:
        """Come up: store, runtime, membership, and only then calls.

        The data plane must be listening already, with nothing to serve.

        Raises:
            StoreUnavailableError: The store cannot be reached.
            RuntimeRejectedError: The runtime does not come up, or cannot be worked with.
        """
        await self.observer.begin()
        self.config.check_start()
        parameters = await self.link.begin()
        self.tasks.start(self.observer.run(), "observe the store")
        listed = await self.membership.join()
        self.tasks.start(self.membership.run(), "keep the lease")
        self.tasks.start(self._run_ticks(), "tick")
        while self.identity.instance not in self.state.members:
            await self.wait_for_view(listed)
            await self.clock.sleep(0)
        self._started = True
        while self._early:
            _, event = self._early.popitem(last=False)
            self.requests.missed(event)
        return parameters

    def open(self) -> None:
        """What had to be done before traffic from outside is done."""
        self._ready.open()

    def allow_methods(self, allowed: AllowedMethods) -> None:
        """From now on clients may call these methods, with ids where it says."""
        self._allowed_methods = allowed
        self._set_rules()
        self.journal.note("methods_changed", detail=f"{len(allowed.methods)} methods are configured")

    def _set_rules(self) -> None:
        rules = combine(self._runtime_methods, self._allowed_methods)
        self.dataplane.set_rules(
            Rules(
                serving_services=self._services[0],
                peer_services=self._services[1],
                methods=rules.methods,
                allow_others=rules.allow_others,
            )
        )

    def _runtime_reported(self, parameters: RuntimeParameters) -> None:
        self._copies.runtime_reported(parameters)
        self._runtime_methods = RuntimeMethods(parameters.injection_paths, parameters.allows_any_method)
        self._set_rules()

    def constrain(self, constraints: TypeConstraints) -> None:
        """From now on models of a type may be only where its labels are; copies elsewhere move."""
        self.decider.constraints = constraints
        self.journal.note(
            "constraints_changed", detail=f"types with constraints: {sorted(constraints.by_type) or 'none'}"
        )

    def _set_scaleup_rate(self, value: str | None) -> None:
        rate = int(value) if value is not None else self.limits.copies.rate
        if value is not None and rate < LEAST_RATE:
            raise ValueError(f"{rate} is below {LEAST_RATE} requests per minute")
        self.rates.limits = self.scaler.limits = replace(self.scaler.limits, rate=rate)

    @property
    def ready(self) -> bool:
        """Whether this instance should get traffic from outside."""
        return self.readiness() is ReadinessReason.READY

    def readiness(self) -> ReadinessReason:
        """The same, with the reason."""
        return self._ready.reason()

    async def predecessor(self) -> tuple[PeerAddress, int] | None:
        """The address and lease of an entry under our id from before; None if there is none."""
        item = await self.store.get(self.keys.member(self.identity.instance))
        if item is None:
            return None
        record = MemberRecord.decode(item.value)
        return PeerAddress(record.address, record.tls_name or None), item.lease

    async def drain(self, timeout_ms: int) -> Drained:
        """Take no more loads, and have what is used here loaded elsewhere; this instance goes on serving.

        Args:
            timeout_ms: What is not moved by then is left, and named in the answer.
        """
        self.cache.drain()
        self.journal.note("draining")
        with suppress(StoreError):  # then the others learn it when we leave
            await self.membership.drain()
        return await self._drain.run(timeout_ms)

    async def leave(self) -> None:
        """Leave the cluster: nobody sends calls here any more, those that came are served."""
        await self.membership.leave()

    async def stop(self) -> None:
        """Leave the cluster and end all work; the data plane is closed by its owner."""
        await self.membership.leave()
        await self.tasks.close()

    def receive(self, events: Sequence[DataPlaneEvent]) -> None:  # noqa: C901, PLR0912 - one row per event
        """Take the data plane's events."""
        for event in events:
            match event:
                case Missed(token, hop=Hop.LOAD) if not self._started:
                    self.dataplane.resolve([(token, refusal(Outcome.BUSY, Status.UNAVAILABLE, STARTING))])
                case Missed(token) if not self._started:
                    self._early[token] = event
                    self.tasks.start(self._refuse_early(token), f"request {token} before the start")
                case Missed():
                    self.requests.missed(event)
                case AttemptFailed():
                    self.requests.attempt_failed(event)
                case Cancelled(token):
                    self._early.pop(token, None)
                    self.requests.cancelled(token)
                    if self._calls is not None:
                        self._calls.cancelled(event)
                case Called(token) if not self._started and not event.method.startswith(HEALTH):
                    answer = retry_later(Status.UNAVAILABLE, STARTING, self.decider.spread_ms(RETRY_HINT_MS))
                    self.dataplane.finish(token, answer.status, answer.message, answer.trailers)
                case Called():
                    if self._calls is not None:
                        self._calls.called(event)
                case CallMessage():
                    if self._calls is not None:
                        self._calls.message(event)
                case CopyIdle(model, load_id):
                    self._copies.idle(model, load_id)
                case LinkLost(instance):
                    self._link(instance, lost=True)
                case LinkBack(instance):
                    self._link(instance, lost=False)

    async def _refuse_early(self, token: Token) -> None:
        await self.clock.sleep(EARLY_MS)
        if self._early.pop(token, None) is not None:
            self.dataplane.resolve(
                [(token, retry_later(Status.UNAVAILABLE, STARTING, self.decider.spread_ms(RETRY_HINT_MS)))]
            )

    def wait_for_view(self, revision: Revision) -> "asyncio.Future[None]":
        """Resolves when the view has reached `revision`, or after a second."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def reached() -> None:
            if not future.done():
                future.set_result(None)

        give_up = self.observer.wait_for(revision, reached)
        if not future.done():
            timer = loop.call_later(VIEW_BOUND_MS / 1000, reached)

            def ended(_: asyncio.Future[None]) -> None:
                timer.cancel()
                give_up()

            future.add_done_callback(ended)
        return future

    # --- changes --------------------------------------------------------------------------------

    def _viewed(self, changed: Changed) -> None:
        self.routing.update_peers(changed.members)
        self._ready.members_changed(changed.members)
        for instance in changed.members:
            if instance in self.state.members:
                self._missing_since.pop(instance, None)
            elif instance not in self._missing_since:
                self._missing_since[instance] = self.clock.monotonic_ms()
                self.tasks.start(self._ask_after(instance), f"ask after {instance}")
        self.routing.update(changed.models)
        self.transitions.viewed(changed.models)
        self.leader.viewed(changed)
        if changed.lost and self.leader.leads:
            bereft = dict.fromkeys(lost.model for lost in changed.lost if not self.state.model(lost.model).copies)
            self.tasks.start(self.scaler.keep_minimum(bereft), "keep the minimum of copies")
        for model, revision in changed.own_deleted:
            self.cache.key_deleted(model, revision)

    def _registry_changed(self, change: Change) -> None:
        parsed = self.keys.parse(change.item.key)
        assert isinstance(parsed, RegistryKey)
        self.census.changed(change)
        stored = self.models.changed(parsed.model, change)
        if stored is not None and self.clock.now_ms() < self._store_identity.doubted_until_ms:
            # The store was replaced: somebody puts records back, and what we hold may be just that.
            self.cache.record_moved(parsed.model, stored)
            return
        if stored is not None:
            self.cache.record_edited(parsed.model, stored)
        if change.kind is ChangeKind.DELETE:
            self._forgotten(parsed.model)
        created = Revision(0) if change.kind is ChangeKind.DELETE else change.item.create_revision
        self.cache.record_changed(parsed.model, created)

    def _vmodel_changed(self, change: Change) -> None:
        parsed = self.keys.parse(change.item.key)
        assert isinstance(parsed, VModelKey)
        stored = self.vmodel_records.changed(parsed.vmodel, change)
        self.dataplane.set_vmodels([(parsed.vmodel, stored.record.active if stored is not None else None)])
        self.vmodels.changed(parsed.vmodel)
        self.transitions.changed(parsed.vmodel, change)

    def _link(self, instance: InstanceId, *, lost: bool) -> None:
        if instance == self.identity.instance:
            (self.link.lost if lost else self.link.back)()
            return
        self.journal.note("peer_lost" if lost else "peer_back", detail=instance)
        self._viewed(self.state.link(instance, lost=lost))

    async def _ask_after(self, instance: InstanceId) -> None:
        """A member's entry went: if it does not answer either, it took its copies with it.

        Without this a dead instance that nobody calls would count as a holder until somebody does.
        """
        address = self.routing.address(instance)
        if address is None or instance == self.identity.instance:
            return
        try:
            answered = await self.peers.ping(address, timeout_ms=ASK_AFTER_MS)
        except PeerUnreachableError:
            answered = None
        if answered != instance:
            self._viewed(self.state.gone(instance))

    def _relisted(self, *, replaced: bool) -> None:
        """After a new listing: put back what should stand, let go what should not."""
        self.census.stop()
        if replaced:
            self.models.rebase()
            self.vmodel_records.rebase()
        self.tasks.start(self._put_back(replaced=replaced), "put back")

    async def _put_back(self, *, replaced: bool) -> None:
        while True:
            try:
                if replaced:
                    await self._put_back_records()
                    self.membership.lease_lost()
                else:
                    await self._relist(self.membership.lease)
                    await self.membership.publish_now()
            except StoreError:
                await self.clock.sleep(TICK_MS)
            else:
                return

    async def _put_back_records(self) -> None:
        """The store was emptied: the records of held models are put back, each if absent."""
        for model, stored in self.models.kept().items():
            key = self.keys.model(model)
            result = await self.store.transact(
                Transaction(compares=(StoreCompare(key, "create", "==", 0),), then=(Put(key, stored.record.encode()),))
            )
            found = await self.models.read(model)
            if found is not None:
                self.cache.record_moved(model, found)
            if result.succeeded:
                self.journal.note("record_put_back", model)

    async def _relist(self, lease: int) -> None:
        for model in await self._writer.relist(self.cache.listed(), lease=lease):
            self.cache.drop(model, "unregistered")

    def _member_record(self) -> MemberRecord:
        identity = self.identity
        return self.cache.describe(
            MemberRecord(
                address=identity.address,
                tls_name=identity.tls_name,
                started_ms=self._started_ms,
                labels=identity.labels,
                zone=identity.zone,
                location=identity.location,
                version=identity.version,
                hot=self._hot,
            )
        )

    # --- periodic -------------------------------------------------------------------------------

    async def _run_ticks(self) -> None:
        while True:
            await self.clock.sleep(TICK_MS)
            await self.rounds.turn()
            self._hot = self.rates.hottest(self.scaler.limits.rate // 2)
            await self._delete_stale_keys()
            self._forget_peers()

    def _cut_off_since_ms(self) -> int | None:
        if self.state.cut_from():
            return self.clock.now_ms() - LINK_NOTICED_MS
        if not self.observer.connected or self.membership.state is MemberState.ADRIFT:
            return self.membership.contact_ms
        return None

    async def _delete_stale_keys(self) -> None:
        """Keys of copies that went while the store was away."""
        if not self.observer.connected:
            return
        for model, record_revision in tuple(self.cache.stale_keys.items()):
            if self.cache.copy(model) is not None:
                del self.cache.stale_keys[model]  # it is loaded again under the same key
                continue
            try:
                await self._writer.withdraw(model, record_revision=record_revision)
            except StoreError:
                return
            self.cache.stale_keys.pop(model, None)

    def _forget_peers(self) -> None:
        now_ms = self.clock.monotonic_ms()
        gone = [instance for instance, since in self._missing_since.items() if now_ms - since >= PEER_GONE_MS]
        for instance in gone:
            del self._missing_since[instance]
        self.routing.forget_peers(gone)
        for instance in gone:
            self._viewed(self.state.gone(instance))
