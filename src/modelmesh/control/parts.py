"""The parts of an instance's control plane, grouped by purpose; one function builds each group.

A group knows the groups before it. What a part must say to a later group is a function that the plane gives it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from modelmesh.control.copies.bounded_runtime import BoundedRuntime
from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.loading import LoadEnded
from modelmesh.control.copies.losses import Losses
from modelmesh.control.copies.runtime_link import RuntimeLink, RuntimeParameters
from modelmesh.control.copies.steps import CopySteps
from modelmesh.control.copies.transactions import CopyWriter
from modelmesh.control.decide import Decider
from modelmesh.control.duties.leader import Leader
from modelmesh.control.duties.missing import Missing
from modelmesh.control.duties.put_back import PutBack
from modelmesh.control.duties.rates import RateBook
from modelmesh.control.duties.recall import Recall
from modelmesh.control.duties.rollouts import Rollouts
from modelmesh.control.duties.rounds import Rounds
from modelmesh.control.duties.scale import Scaler
from modelmesh.control.duties.tallies import Tallies
from modelmesh.control.duties.vmodel_moves import Transitions
from modelmesh.control.journal import Journal
from modelmesh.control.life.drain import Drain
from modelmesh.control.life.membership import Membership
from modelmesh.control.life.ready import Ready
from modelmesh.control.requests.journeys import Requests
from modelmesh.control.requests.mover import Mover
from modelmesh.control.requests.others import OtherInstances
from modelmesh.control.requests.routing import Routing
from modelmesh.control.settings import ControlLimits, InstanceIdentity
from modelmesh.control.supervise import Supervisor
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.census import Census
from modelmesh.control.view.keys import Keys
from modelmesh.control.view.live_config import LiveConfig
from modelmesh.control.view.names import Names
from modelmesh.control.view.observe import Observer, Relisted
from modelmesh.control.view.pulse import Pulse
from modelmesh.control.view.records import RecordCache
from modelmesh.control.view.state import Changed, ClusterState
from modelmesh.control.view.store_identity import StoreIdentity
from modelmesh.control.view.tenants import Tenants
from modelmesh.control.view.vmodels import VModels
from modelmesh.machines.retention import Retention
from modelmesh.ports import Clock, DataPlane, Peers
from modelmesh.values.ids import InstanceId, ModelId, VModelId
from modelmesh.values.records import MemberRecord, ModelRecord, VModelRecord


@dataclass(frozen=True)
class Base:
    """What every part works with."""

    identity: InstanceIdentity
    limits: ControlLimits
    keys: Keys
    store: Pulse
    dataplane: DataPlane
    peers: Peers
    clock: Clock
    rng: Random
    journal: Journal
    tasks: Tasks
    supervisor: Supervisor

    @property
    def own(self) -> InstanceId:
        """This instance."""
        return self.identity.instance


@dataclass(frozen=True)
class ViewParts:
    """What this instance knows of the store."""

    state: ClusterState
    config: LiveConfig
    store_identity: StoreIdentity
    observer: Observer
    models: RecordCache[ModelId, ModelRecord]
    vmodel_records: RecordCache[VModelId, VModelRecord]
    vmodels: VModels
    names: Names
    census: Census
    tenants: Tenants


def view_parts(base: Base, *, relisted: Relisted) -> ViewParts:
    """Put the view together; `relisted` is called when all of it was read again."""
    state = ClusterState(base.own, base.keys)
    store_identity = StoreIdentity(base.keys.alive, base.rng)
    names = Names(base.dataplane, base.tasks)
    observer = Observer(
        store=base.store,
        keys=base.keys,
        state=state,
        identity=store_identity,
        clock=base.clock,
        journal=base.journal,
        rng=base.rng,
        relisted=relisted,
    )
    models: RecordCache[ModelId, ModelRecord] = RecordCache(
        store=base.store,
        identity=store_identity,
        clock=base.clock,
        prefix=base.keys.registry,
        kind=ModelRecord,
        store_available=lambda: observer.connected,
    )
    vmodel_records: RecordCache[VModelId, VModelRecord] = RecordCache(
        store=base.store,
        identity=store_identity,
        clock=base.clock,
        prefix=base.keys.vmodels,
        kind=VModelRecord,
        store_available=lambda: observer.connected,
        changed=names.send,
    )
    return ViewParts(
        state=state,
        config=LiveConfig(base.keys, base.journal),
        store_identity=store_identity,
        observer=observer,
        models=models,
        vmodel_records=vmodel_records,
        vmodels=VModels(store=base.store, keys=base.keys, models=models, vmodels=vmodel_records, journal=base.journal),
        names=names,
        census=Census(store=base.store, keys=base.keys, clock=base.clock),
        tenants=Tenants(base.keys, state),
    )


@dataclass(frozen=True)
class CopyParts:
    """What this instance holds, and what it decides by."""

    writer: CopyWriter
    steps: CopySteps
    cache: Cache
    rates: RateBook
    routing: Routing
    decider: Decider
    others: OtherInstances
    losses: Losses
    link: RuntimeLink


def copy_parts(
    base: Base,
    view: ViewParts,
    *,
    runtime: BoundedRuntime,
    membership: Membership,
    member_record: Callable[[], MemberRecord],
    load_ended: LoadEnded,
    runtime_reported: Callable[[RuntimeParameters], None],
) -> CopyParts:
    """Put together what holds copies.

    Args:
        base: What every part works with.
        view: What is known of the store.
        runtime: The runtime, with every wait for it bounded.
        membership: Has the lease under which copies are listed.
        member_record: This instance's entry as of now.
        load_ended: Called for every load that ended here.
        runtime_reported: Called for the runtime's parameters whenever it reports them.
    """
    limits, own, state = base.limits, base.own, view.state
    rates = RateBook(limits.copies)
    writer = CopyWriter(store=base.store, keys=base.keys, identity=view.store_identity, own=own)
    steps = CopySteps(
        own=own,
        runtime=runtime,
        dataplane=base.dataplane,
        writer=writer,
        clock=base.clock,
        journal=base.journal,
        tasks=base.tasks,
        lease=lambda: membership.lease,
        lease_lost=membership.lease_lost,
        route_changed=lambda model: routing.update((model,)),
        store_available=lambda: view.observer.connected,
        wait_for_view=view.observer.wait_for_view,
        pin=view.models.pin,
        unpin=view.models.unpin,
        used=rates.apply,
        ended=load_ended,
        failure_expiry_ms=limits.failure_expiry_ms,
        read_only=limits.read_only,
        retention=Retention(1) if limits.eviction == "adaptive" else None,
    )
    cache = Cache(own=own, steps=steps, clock=base.clock, journal=base.journal, in_flight_max=limits.in_flight_max)
    routing = Routing(state=state, dataplane=base.dataplane, local_copy=cache.local_copy)
    decider = Decider(
        state=state,
        clock=base.clock,
        rng=base.rng,
        own_copy=cache.copy,
        own_record=lambda: cache.with_decided_loads(member_record()),
        predicted_size=cache.predicted_size,
        load_ms=cache.learned.load_ms,
        failure_expiry_ms=limits.failure_expiry_ms,
        exact_eviction=limits.eviction == "lru",
        load_quota=view.tenants.load_quota,
        idle_of=cache.idle_of,
    )
    steps.decide_with(decider)
    losses = Losses(
        own=own,
        steps=steps,
        in_flight=rates.in_flight,
        decider=decider,
        clock=base.clock,
        tasks=base.tasks,
    )

    def opened() -> None:
        losses.runtime_ready()
        steps.runtime_opened()

    def hung() -> None:
        losses.runtime_hung()
        base.dataplane.runtime_hangs()

    def emptied() -> None:
        losses.runtime_restarted()
        steps.runtime_emptied()

    return CopyParts(
        writer=writer,
        steps=steps,
        cache=cache,
        rates=rates,
        routing=routing,
        decider=decider,
        others=OtherInstances(own=own, decider=decider, routing=routing),
        losses=losses,
        link=RuntimeLink(
            runtime=runtime,
            clock=base.clock,
            journal=base.journal,
            tasks=base.tasks,
            held=cache.held,
            opened=opened,
            loads=lambda: len(steps.slots.taken()),
            closed=steps.runtime_closed,
            hung=hung,
            emptied=emptied,
            reported=runtime_reported,
        ),
    )


def request_parts(base: Base, view: ViewParts, copies: CopyParts) -> Requests:
    """Put together what decides where a call goes."""
    return Requests(
        own=base.own,
        state=view.state,
        decider=copies.decider,
        cache=copies.cache,
        routing=copies.routing,
        models=view.models,
        vmodels=view.vmodel_records,
        names=view.names,
        dataplane=base.dataplane,
        peers=base.peers,
        clock=base.clock,
        journal=base.journal,
        tasks=base.tasks,
        pulse=base.store,
        wait_for_view=view.observer.wait_for_view,
    )


@dataclass(frozen=True)
class LifeParts:
    """How this instance comes up and leaves."""

    ready: Ready
    drain: Drain


def life_parts(base: Base, view: ViewParts, copies: CopyParts, *, mover: Mover) -> LifeParts:
    """Put together readiness and drain of this instance."""
    return LifeParts(
        ready=Ready(
            state=view.state,
            cache=copies.cache,
            link=copies.link,
            clock=base.clock,
            journal=base.journal,
            bootstrap_ms=base.limits.bootstrap_ms,
            alive=base.supervisor.alive,
            has_store=lambda: view.observer.connected,
        ),
        drain=Drain(
            own=base.own,
            cache=copies.cache,
            decider=copies.decider,
            mover=mover,
            rate=copies.rates.rate,
            journal=base.journal,
        ),
    )


@dataclass(frozen=True)
class DutyParts:
    """What this instance does again and again, without being asked."""

    recall: Recall
    leader: Leader
    transitions: Transitions
    tallies: Tallies
    rollouts: Rollouts
    scaler: Scaler
    put_back: PutBack
    missing: Missing
    rounds: Rounds


def duty_parts(
    base: Base,
    view: ViewParts,
    copies: CopyParts,
    requests: Requests,
    *,
    mover: Mover,
    membership: Membership,
    viewed: Callable[[Changed], None],
    cut_off_since_ms: Callable[[], int | None],
    turned: Callable[[], None],
) -> DutyParts:
    """Put the duties together.

    Args:
        base: What every part works with.
        view: What is known of the store.
        copies: What is held here.
        requests: Has copies loaded, here or elsewhere.
        mover: Has copies moved away from here.
        membership: This instance's entry.
        viewed: Called for changes that did not come by the watch.
        cut_off_since_ms: Since when the view may be old, as epoch milliseconds; None: it is not.
        turned: Called for every round.
    """
    limits, clock, journal, tasks = base.limits, base.clock, base.journal, base.tasks
    leader = Leader(
        store=base.store,
        keys=base.keys,
        state=view.state,
        clock=clock,
        journal=journal,
        tasks=tasks,
        failure_expiry_ms=limits.failure_expiry_ms,
        read_only=limits.read_only,
    )
    transitions = Transitions(
        vmodels=view.vmodels,
        models=view.models,
        decider=copies.decider,
        add_copy=requests.add_copy,
        fence=leader.fence,
        clock=clock,
        journal=journal,
        tasks=tasks,
    )
    tallies = Tallies(dataplane=base.dataplane, others=copies.others, peers=base.peers)
    rollouts = Rollouts(
        vmodels=view.vmodels,
        tallies=tallies,
        view=lambda model: copies.decider.model_view(model, None),
        fence=leader.fence,
        clock=clock,
        journal=journal,
        tasks=tasks,
    )
    scaler = Scaler(
        own=base.own,
        cache=copies.cache,
        rates=copies.rates,
        decider=copies.decider,
        requests=requests,
        models=view.models,
        clock=clock,
        journal=journal,
        tasks=tasks,
        limits=limits.copies,
        bandwidth_percent=limits.bandwidth_percent,
    )
    put_back = PutBack(
        store=base.store,
        keys=base.keys,
        cache=copies.cache,
        models=view.models,
        membership=membership,
        writer=copies.writer,
        clock=clock,
        journal=journal,
        tasks=tasks,
        store_available=lambda: view.observer.connected,
    )
    missing = Missing(
        state=view.state, routing=copies.routing, peers=base.peers, clock=clock, tasks=tasks, viewed=viewed
    )
    rounds = Rounds(
        own=base.own,
        store=base.store,
        keys=base.keys,
        state=view.state,
        observer=view.observer,
        cache=copies.cache,
        steps=copies.steps,
        decider=copies.decider,
        requests=requests,
        mover=mover,
        models=view.models,
        rates=copies.rates,
        scaler=scaler,
        put_back=put_back,
        missing=missing,
        leader=leader,
        census=view.census,
        vmodel_tasks=(transitions.tasks, rollouts.tasks),
        clock=clock,
        journal=journal,
        tasks=tasks,
        rng=base.rng,
        read_only=limits.read_only,
        cut_off_since_ms=cut_off_since_ms,
        turned=turned,
        send_again=(copies.routing.send_again, view.names.send_again),
    )
    return DutyParts(
        recall=Recall(journal=journal, cache=copies.cache),
        leader=leader,
        transitions=transitions,
        tallies=tallies,
        rollouts=rollouts,
        scaler=scaler,
        put_back=put_back,
        missing=missing,
        rounds=rounds,
    )
