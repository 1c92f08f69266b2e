"""The control plane of one instance: its parts, how it starts, how it stops."""

from collections.abc import Callable
from contextlib import suppress
from random import Random

from modelmesh.control.copies.bounded_runtime import BoundedRuntime
from modelmesh.control.copies.registry import RegistryFeed
from modelmesh.control.copies.runtime_link import RuntimeParameters
from modelmesh.control.journal import Journal
from modelmesh.control.life.drain import Drained
from modelmesh.control.life.membership import Membership
from modelmesh.control.parts import Base, ViewParts, copy_parts, duty_parts, life_parts, request_parts, view_parts
from modelmesh.control.requests.mover import Mover
from modelmesh.control.requests.receive import CallHandlers, Receiver
from modelmesh.control.requests.rules import CallRules
from modelmesh.control.settings import ControlLimits, InstanceIdentity
from modelmesh.control.supervise import Supervisor
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.feed import ViewFeed
from modelmesh.control.view.keys import Keys
from modelmesh.control.view.names import VModelFeed
from modelmesh.control.view.pulse import Pulse
from modelmesh.control.view.state import Changed
from modelmesh.control.view.touched import Touched
from modelmesh.machines.member import MemberState
from modelmesh.policy.constraints import TypeConstraints
from modelmesh.policy.methods import AllowedMethods
from modelmesh.policy.readiness import ReadinessReason
from modelmesh.ports import Change, Clock, DataPlane, Peers, Runtime, Store, StoreError
from modelmesh.values.ids import InstanceId, ModelId, VModelId
from modelmesh.values.memory import largest
from modelmesh.values.records import MemberRecord

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

        `crashed` is called for every background task that ended by an unexpected exception, `forgotten` for every
        model that is no longer registered.
        """
        runtime = self._runtime = BoundedRuntime(runtime)
        self.identity = identity
        self.limits = limits
        self.keys = keys
        self.clock = clock
        self.dataplane = dataplane
        self.peers = peers
        self.store = self.pulse = Pulse(store, clock, probe=keys.alive)
        self.journal = Journal(identity.instance, clock)
        self.tasks = Tasks(crashed)
        self.supervisor = Supervisor(tasks=self.tasks, clock=clock, journal=self.journal, gave_up=self.leave)
        self._rules = CallRules(dataplane=dataplane, journal=self.journal)
        base = Base(
            identity=identity,
            limits=limits,
            keys=keys,
            store=self.pulse,
            dataplane=dataplane,
            peers=peers,
            clock=clock,
            rng=rng,
            journal=self.journal,
            tasks=self.tasks,
            supervisor=self.supervisor,
        )
        view = view_parts(base, relisted=self._relisted)
        self.state = view.state
        self.config = view.config
        self.observer = view.observer
        self.models = view.models
        self.vmodel_records = view.vmodel_records
        self.vmodels = view.vmodels
        self.census, self.tenants = view.census, view.tenants
        self.touched = Touched(keys, lambda: view.state.revision)
        self.membership = Membership(
            store=self.pulse,
            keys=keys,
            own=identity.instance,
            clock=clock,
            journal=self.journal,
            record=self._member_record,
            relist=self._relist,
            turned=lambda: self.supervisor.turned(KEEP_LEASE),
        )
        copies = copy_parts(
            base,
            view,
            runtime=runtime,
            membership=self.membership,
            member_record=self._member_record,
            load_ended=self._load_ended,
            runtime_reported=self._runtime_reported,
        )
        self._copies = copies.steps
        self._losses = copies.losses
        self.cache = copies.cache
        self.rates = copies.rates
        self.routing, self.others = copies.routing, copies.others
        self.decider = copies.decider
        self.link = copies.link
        self.requests = request_parts(base, view, copies)
        mover = Mover(
            own=identity.instance,
            cache=self.cache,
            decider=self.decider,
            requests=self.requests,
            models=self.models,
        )
        duties = duty_parts(
            base,
            view,
            copies,
            self.requests,
            mover=mover,
            membership=self.membership,
            viewed=self._looked,
            cut_off_since_ms=self._cut_off_since_ms,
            turned=lambda: self.supervisor.turned(GO_ROUND),
        )
        self.recall = duties.recall
        self.leader = duties.leader
        self.transitions, self.tallies, self.rollouts = duties.transitions, duties.tallies, duties.rollouts
        self.scaler = duties.scaler
        self.rounds = duties.rounds
        self._put_back = duties.put_back
        self._missing = duties.missing
        life = life_parts(base, view, copies, mover=mover)
        self._ready = life.ready
        self._drain = life.drain
        self.config.follow("scaleup_rpm_threshold", self.scaler.set_rate)
        self._feed(view, forgotten)
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

    def _feed(self, view: ViewParts, forgotten: Callable[[ModelId], None]) -> None:
        """Connect those that receive changes of the store, in this order."""
        self.observer.feed(
            ViewFeed(
                state=self.state,
                keys=self.keys,
                viewed=self._viewed,
                unreadable=lambda text: self.journal.note("unreadable_key", detail=text),
            ),
            RegistryFeed(
                keys=self.keys,
                models=self.models,
                cache=self.cache,
                census=self.census,
                identity=view.store_identity,
                clock=self.clock,
                registered=view.names.registered,
                forgotten=forgotten,
            ),
            VModelFeed(
                keys=self.keys,
                vmodels=self.vmodel_records,
                changed=self._vmodel_changed,
                relisted=self._vmodels_relisted,
            ),
            self.config,
            view.tenants,
            self.touched,
        )

    # --- life -----------------------------------------------------------------------------------

    def answer_calls(
        self,
        handlers: CallHandlers,
        *,
        serving_services: tuple[str, ...],
        peer_services: tuple[str, ...],
        management_services: tuple[str, ...] = (),
        serving_methods: tuple[str, ...] = (),
    ) -> None:
        """Give the services that Python serves, on each port; before `start` they answer that this instance starts."""
        self._receiver.handlers = handlers
        self._rules.answer(
            serving_services=serving_services,
            peer_services=peer_services,
            management_services=management_services,
            serving_methods=serving_methods,
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
        """Allow these methods to clients, with ids where the configuration says."""
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

    def pinged(self) -> None:
        """Another instance has asked who is here."""
        self._ready.pinged()

    async def drain(self, timeout_ms: int) -> Drained:
        """Take no more loads, and have what is used here loaded elsewhere; this instance continues serving.

        Args:
            timeout_ms: What is not moved by then is left, and named in the answer.
        """
        self.cache.drain()
        self.journal.note("draining")
        with suppress(StoreError):  # then the others learn it when we leave
            await self.membership.drain()
        return await self._drain.run(timeout_ms)

    async def leave(self) -> None:
        """Leave the cluster: no instance sends calls here any more; those that arrived are served."""
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
        self.touched.viewed(changed.models)
        if any(instance not in self.state.members for instance in changed.members):
            self.cache.learned.forget_heard_beyond(
                largest(member.record.capacity for member in self.state.members.values())
            )
        for model in changed.models:
            self.cache.viewed(self.state.model(model), self.state.members)
        if changed.lost and self.leader.leads:
            bereft = dict.fromkeys(lost.model for lost in changed.lost if not self.state.model(lost.model).copies)
            self.tasks.start(self.scaler.keep_minimum(bereft), "keep the minimum of copies")
        for model, revision in changed.own_deleted:
            self.cache.key_deleted(model, revision)

    def _looked(self, changed: Changed) -> None:
        """As `_viewed`, for what the watch did not report."""
        try:
            self._viewed(changed)
            self.touched.settle()
        except Exception as error:  # noqa: BLE001 - a listing corrects what was not done
            self.observer.doubt(error)

    def _vmodel_changed(self, vmodel: VModelId, change: Change) -> None:
        self.vmodels.changed(vmodel)
        self.transitions.changed(vmodel, change)
        self.rollouts.tasks.changed(vmodel, change)

    def _vmodels_relisted(self) -> None:
        self.vmodels.relisted()
        self.transitions.relisted()
        self.rollouts.tasks.due = True

    def _linked(self, instance: InstanceId, *, lost: bool) -> None:
        if instance == self.identity.instance:
            (self.link.lost if lost else self.link.back)()
            return
        self.journal.note("peer_lost" if lost else "peer_back", detail=instance)
        self._looked(self.state.link(instance, lost=lost))

    @property
    def started_ms(self) -> int:
        """When this instance started, in epoch milliseconds."""
        return self._started_ms

    def _load_ended(self, model: ModelId, *, tenant: str, failed: bool) -> None:
        if not failed:
            self.dataplane.count_load(tenant, model)
        self._ready.load_ended(model, failed=failed)

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
