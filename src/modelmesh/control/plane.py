"""The control plane of one instance, put together: what there is, how it starts, how it ends."""

from collections.abc import Callable
from contextlib import suppress
from random import Random

from modelmesh.control.copies.bounded_runtime import BoundedRuntime
from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.losses import Losses
from modelmesh.control.copies.registry import RegistryFeed
from modelmesh.control.copies.runtime_link import RuntimeLink, RuntimeParameters
from modelmesh.control.copies.steps import CopySteps
from modelmesh.control.copies.transactions import CopyWriter
from modelmesh.control.decide import Decider
from modelmesh.control.duties.leader import Leader
from modelmesh.control.duties.missing import Missing
from modelmesh.control.duties.put_back import PutBack
from modelmesh.control.duties.rates import RateBook
from modelmesh.control.duties.recall import Recall
from modelmesh.control.duties.rounds import Rounds
from modelmesh.control.duties.scale import Scaler
from modelmesh.control.duties.vmodel_moves import Transitions
from modelmesh.control.journal import Journal
from modelmesh.control.life.drain import Drain, Drained
from modelmesh.control.life.membership import Membership
from modelmesh.control.life.ready import Ready
from modelmesh.control.requests.journeys import Requests
from modelmesh.control.requests.mover import Mover
from modelmesh.control.requests.receive import CallHandlers, Receiver
from modelmesh.control.requests.routing import Routing
from modelmesh.control.requests.rules import CallRules
from modelmesh.control.settings import ControlLimits, InstanceIdentity
from modelmesh.control.supervise import Supervisor
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.census import Census
from modelmesh.control.view.feed import ViewFeed
from modelmesh.control.view.keys import Keys
from modelmesh.control.view.live_config import LiveConfig
from modelmesh.control.view.names import Names, VModelFeed
from modelmesh.control.view.observe import Observer
from modelmesh.control.view.pulse import Pulse
from modelmesh.control.view.records import RecordCache
from modelmesh.control.view.state import Changed, ClusterState
from modelmesh.control.view.store_identity import StoreIdentity
from modelmesh.control.view.vmodels import VModels
from modelmesh.machines.member import MemberState
from modelmesh.machines.retention import Retention
from modelmesh.policy.constraints import TypeConstraints
from modelmesh.policy.methods import AllowedMethods
from modelmesh.policy.readiness import ReadinessReason
from modelmesh.ports import Change, Clock, DataPlane, Peers, Runtime, Store, StoreError
from modelmesh.values.ids import InstanceId, ModelId, VModelId
from modelmesh.values.records import MemberRecord, ModelRecord, VModelRecord

OBSERVE = "observe the store"
KEEP_LEASE = "keep the lease"
GO_ROUND = "go round"
"""The loops without which an instance is none."""

LINK_NOTICED_MS = 10_000
"""No lost link goes unnoticed for longer."""


class ControlPlane:
    """Everything that decides, of one instance.

    Attributes:
        receive: Takes the data plane's events.
    """

    routing: Routing
    _ready: Ready

    def __init__(
        self,
        *,
        identity: InstanceIdentity,
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
        own = identity.instance
        runtime = self._runtime = BoundedRuntime(runtime)
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
        self._rules = CallRules(dataplane=dataplane, journal=self.journal)
        self.supervisor = Supervisor(tasks=self.tasks, clock=clock, journal=self.journal, gave_up=self.leave)
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
        names = Names(dataplane, self.tasks)
        self.vmodel_records: RecordCache[VModelId, VModelRecord] = RecordCache(
            store=store,
            identity=self._store_identity,
            clock=clock,
            prefix=keys.vmodels,
            kind=VModelRecord,
            store_there=lambda: self.observer.connected,
            told=names.tell,
        )
        self.observer = Observer(
            store=store,
            keys=keys,
            state=self.state,
            identity=self._store_identity,
            clock=clock,
            journal=self.journal,
            rng=rng,
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
            turned=lambda: self.supervisor.turned(KEEP_LEASE),
        )
        self.rates = RateBook(limits.copies)
        writer = CopyWriter(store=store, keys=keys, identity=self._store_identity, own=own)
        self._copies = CopySteps(
            own=own,
            runtime=runtime,
            dataplane=dataplane,
            writer=writer,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            lease=lambda: self.membership.lease,
            lease_lost=self.membership.lease_lost,
            route_changed=lambda model: self.routing.update((model,)),
            store_there=lambda: self.observer.connected,
            wait_for_view=self.observer.wait_for_view,
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
        self.census = Census(store=store, keys=keys, clock=clock)
        self.observer.feed(
            ViewFeed(
                state=self.state,
                keys=keys,
                viewed=self._viewed,
                unreadable=lambda text: self.journal.note("unreadable_key", detail=text),
            ),
            RegistryFeed(
                keys=keys,
                models=self.models,
                cache=self.cache,
                census=self.census,
                identity=self._store_identity,
                clock=clock,
                registered=names.registered,
                forgotten=forgotten,
            ),
            VModelFeed(
                keys=keys, vmodels=self.vmodel_records, changed=self._vmodel_changed, relisted=self._vmodels_relisted
            ),
            self.config,
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
            exact_eviction=limits.eviction == "lru",
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
            names=names,
            dataplane=dataplane,
            peers=peers,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            pulse=self.pulse,
            wait_for_view=self.observer.wait_for_view,
        )
        self._losses = Losses(
            own=own,
            cache=self.cache,
            listing=self._copies.listing,
            decider=self.decider,
            clock=clock,
            tasks=self.tasks,
        )
        self.link = RuntimeLink(
            runtime=runtime,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            held=self.cache.held,
            opened=self._copies.runtime_opened,
            loads=lambda: len(self._copies.slots.taken()),
            closed=self._copies.runtime_closed,
            hung=dataplane.runtime_hangs,
            emptied=self._copies.runtime_emptied,
            reported=self._runtime_reported,
        )
        self.vmodels = VModels(
            store=store, keys=keys, models=self.models, vmodels=self.vmodel_records, journal=self.journal
        )
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
        self._put_back = PutBack(
            store=store,
            keys=keys,
            cache=self.cache,
            models=self.models,
            membership=self.membership,
            writer=writer,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            store_there=lambda: self.observer.connected,
        )
        self._missing = Missing(
            state=self.state, routing=self.routing, peers=peers, clock=clock, tasks=self.tasks, viewed=self._looked
        )
        mover = Mover(own=own, cache=self.cache, decider=self.decider, requests=self.requests, models=self.models)
        self.rounds = Rounds(
            own=own,
            store=store,
            keys=keys,
            state=self.state,
            observer=self.observer,
            cache=self.cache,
            steps=self._copies,
            decider=self.decider,
            requests=self.requests,
            mover=mover,
            models=self.models,
            rates=self.rates,
            scaler=self.scaler,
            put_back=self._put_back,
            missing=self._missing,
            leader=self.leader,
            census=self.census,
            transitions=self.transitions,
            clock=clock,
            journal=self.journal,
            tasks=self.tasks,
            rng=rng,
            read_only=limits.read_only,
            cut_off_since_ms=self._cut_off_since_ms,
            turned=lambda: self.supervisor.turned(GO_ROUND),
            tell_again=(self.routing.tell_again, names.tell_again),
        )
        self._ready = Ready(
            state=self.state,
            cache=self.cache,
            link=self.link,
            clock=clock,
            journal=self.journal,
            bootstrap_ms=limits.bootstrap_ms,
            alive=self.supervisor.alive,
        )
        self.config.follow("scaleup_rpm_threshold", self.scaler.set_rate)
        self._drain = Drain(
            own=own,
            cache=self.cache,
            decider=self.decider,
            mover=mover,
            rate=self.rates.rate,
            journal=self.journal,
        )
        self._receiver = Receiver(
            dataplane=dataplane,
            requests=self.requests,
            losses=self._losses,
            decider=self.decider,
            clock=clock,
            tasks=self.tasks,
            idle=self._copies.idle,
            linked=self._linked,
        )
        self.receive = self._receiver.receive
        self._started_ms = clock.now_ms()

    # --- life -----------------------------------------------------------------------------------

    def answer_calls(
        self,
        handlers: CallHandlers,
        *,
        serving_services: tuple[str, ...],
        peer_services: tuple[str, ...],
        serving_methods: tuple[str, ...] = (),
    ) -> None:
        """Give the services that Python serves, on either port; before `start` they say that this instance starts."""
        self._receiver.handlers = handlers
        self._rules.answer(
            serving_services=serving_services, peer_services=peer_services, serving_methods=serving_methods
        )

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
        self.supervisor.run(OBSERVE, self.observer.run, again=self.observer.distrust)
        listed = await self.membership.join()
        self.supervisor.run(KEEP_LEASE, self.membership.run)
        self.supervisor.run(GO_ROUND, self.rounds.run)
        while self.identity.instance not in self.state.members:
            await self.observer.wait_for_view(listed)
            await self.clock.sleep(0)
        self._receiver.start()
        return parameters

    def open(self) -> None:
        """What had to be done before traffic from outside is done."""
        self._ready.open()

    def allow_methods(self, allowed: AllowedMethods) -> None:
        """From now on clients may call these methods, with ids where it says."""
        self._rules.allow(allowed)

    def _runtime_reported(self, parameters: RuntimeParameters) -> None:
        self._runtime.load_timeout_ms = parameters.load_timeout_ms
        self._copies.runtime_reported(parameters)
        self._rules.runtime_reported(parameters)

    def constrain(self, constraints: TypeConstraints) -> None:
        """From now on models of a type may be only where its labels are; copies elsewhere move."""
        self.decider.constraints = constraints
        self.journal.note(
            "constraints_changed", detail=f"types with constraints: {sorted(constraints.by_type) or 'none'}"
        )

    @property
    def ready(self) -> bool:
        """Whether this instance should get traffic from outside."""
        return self.readiness() is ReadinessReason.READY

    def readiness(self) -> ReadinessReason:
        """The same, with the reason."""
        return self._ready.reason()

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

    # --- changes --------------------------------------------------------------------------------

    def _viewed(self, changed: Changed) -> None:
        self.routing.update_peers(changed.members)
        self._ready.members_changed(changed.members)
        self._missing.members_changed(changed.members)
        self.routing.update(changed.models)
        self.transitions.viewed(changed.models)
        self.leader.viewed(changed)
        self._losses.viewed(changed.models)
        if changed.lost and self.leader.leads:
            bereft = dict.fromkeys(lost.model for lost in changed.lost if not self.state.model(lost.model).copies)
            self.tasks.start(self.scaler.keep_minimum(bereft), "keep the minimum of copies")
        for model, revision in changed.own_deleted:
            self.cache.key_deleted(model, revision)

    def _looked(self, changed: Changed) -> None:
        """As `_viewed`, of what the watch did not tell."""
        try:
            self._viewed(changed)
        except Exception as error:  # noqa: BLE001 - a listing puts right what was not done
            self.observer.doubt(error)

    def _vmodel_changed(self, vmodel: VModelId, change: Change) -> None:
        self.vmodels.changed(vmodel)
        self.transitions.changed(vmodel, change)

    def _vmodels_relisted(self) -> None:
        self.vmodels.relisted()
        self.transitions.relisted()

    def _linked(self, instance: InstanceId, *, lost: bool) -> None:
        if instance == self.identity.instance:
            (self.link.lost if lost else self.link.back)()
            return
        self.journal.note("peer_lost" if lost else "peer_back", detail=instance)
        self._looked(self.state.link(instance, lost=lost))

    def _relisted(self, *, replaced: bool) -> None:
        self._put_back.begin(replaced=replaced)

    async def _relist(self, lease: int) -> None:
        await self._put_back.relist(lease)  # made after the membership, which it needs

    def _member_record(self) -> MemberRecord:
        return self.cache.describe(self.identity, started_ms=self._started_ms, hot=self.rounds.hot)

    def _cut_off_since_ms(self) -> int | None:
        if self.state.cut_from():
            return self.clock.now_ms() - LINK_NOTICED_MS
        if not self.observer.connected or self.membership.state is MemberState.ADRIFT:
            return self.membership.contact_ms
        return None
