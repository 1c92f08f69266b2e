"""What happens next to a request that has no ready copy, or whose attempt failed.

The one decision of the request path, for inference, `ensureLoaded` and loads on behalf of peers alike.
Called by `modelmesh.control.requests.journeys`; asks `modelmesh.policy.placement` where to load.
Source: the INTENT of `invokeModel`, `spec/request-path.md` 2; the bounds are its bounds.
"""

import enum
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from modelmesh.policy.away import may_be_back, why_not
from modelmesh.policy.constraints import TypeConstraints
from modelmesh.policy.failure import LOSSES, MOST_LOSSES, losses, resting
from modelmesh.policy.placement import LoadOn, NoPlacement, NoPlacementReason, choose_instance
from modelmesh.policy.quota import LoadQuota, own_to_unload, refuse_load, where_to_replace
from modelmesh.values.dataplane import Hop, Outcome
from modelmesh.values.ids import InstanceId, LoadId
from modelmesh.values.memory import NOTHING, Memory, largest
from modelmesh.values.records import FailureKind
from modelmesh.values.status import Status
from modelmesh.values.view import ClusterView, Copy, Failure, ModelView

GONE = frozenset({Outcome.LOST, Outcome.HUNG})
"""The runtime or instance that processed the request has ended or hangs."""


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """Retry limits of one request.

    Source: the old system. Eight attempts in all; a model that failed recently at three instances, or
    has an unusable copy at five, is not loaded again; the second RESOURCE_EXHAUSTED is the answer. Our own: a call
    under which two runtimes or instances ended is not sent to a third, and one for a model that is suspected not to
    a second.
    """

    attempts: int = 8
    failures: int = 3
    unusable_copies: int = 5
    exhausted: int = 2
    losses: int = MOST_LOSSES
    losses_of_suspects: int = 1


@dataclass(frozen=True, slots=True)
class LastFailure:
    """How the latest attempt ended. `begun`: the other side may have started to process it."""

    instance: InstanceId
    outcome: Outcome
    status: Status
    message: str
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Journey:
    """The attempts of a request so far.

    Attributes:
        hop: None at the ingress; LOAD at an instance that was asked to load.
        balanced: The caller spreads its calls itself, so the own instance is preferred.
        extra: One more copy is wanted, however many there are.
        retry: A person asked to try again: of the remembered failures only those of the last seconds, and losses, count.
        spent: Copies that this request has tried, as (instance, load).
        load_tried: Instances that this request has asked to load.
        attempts: Failed attempts so far; a stale view does not count.
        exhausted: How many of them were RESOURCE_EXHAUSTED.
        lost: Instances that were lost, or whose runtime was, while they processed this request.
        last: The latest failure.
        load_failure: The latest failure that was a failed load.
    """

    hop: Hop | None = None
    balanced: bool = False
    extra: bool = False
    retry: bool = False
    spent: frozenset[tuple[InstanceId, LoadId]] = frozenset()
    load_tried: frozenset[InstanceId] = frozenset()
    attempts: int = 0
    exhausted: int = 0
    lost: tuple[InstanceId, ...] = ()
    last: LastFailure | None = None
    load_failure: LastFailure | None = None

    def failed(self, failure: LastFailure, load_id: LoadId | None) -> "Journey":
        """The journey after one more failed attempt on the copy `load_id` (None: no copy was reached)."""
        if failure.outcome is Outcome.MOVED:
            return self
        spent = self.spent if load_id is None else self.spent | {(failure.instance, load_id)}
        loads = _LOAD_REFUSALS | GONE
        load_tried = self.load_tried | {failure.instance} if failure.outcome in loads else self.load_tried
        return replace(
            self,
            spent=spent,
            load_tried=load_tried,
            attempts=self.attempts + 1,
            exhausted=self.exhausted + (failure.outcome is Outcome.EXHAUSTED),
            lost=(*self.lost, failure.instance) if failure.begun and failure.outcome in GONE else self.lost,
            last=failure,
            load_failure=failure if failure.outcome is Outcome.LOAD_FAILED else self.load_failure,
        )


_LOAD_REFUSALS = frozenset({Outcome.LOAD_FAILED, Outcome.NO_ROOM, Outcome.BUSY, Outcome.DRAINING, Outcome.STORE_AWAY})


class AttemptReason(enum.Enum):
    """Why this is next. Also a metric label."""

    OWN_COPY = "own_copy"
    JOINS_OWN_LOAD = "joins_own_load"
    COPY_ELSEWHERE = "copy_elsewhere"
    JOINS_LOAD_ELSEWHERE = "joins_load_elsewhere"
    PLACED_HERE = "placed_here"
    PLACED_ELSEWHERE = "placed_elsewhere"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    EXHAUSTED = "exhausted"
    RUNTIME_UNAVAILABLE = "runtime_unavailable"
    FAILED_RECENTLY = "failed_recently"
    UNUSABLE_COPIES = "unusable_copies"
    NOWHERE = "nowhere"
    TOO_LARGE = "too_large"
    OVER_QUOTA = "over_quota"
    REPLACES_OWN = "replaces_own"
    NO_LABELS = "no_labels"
    NO_TIME = "no_time"
    ENDS_RUNTIMES = "ends_runtimes"
    NOT_PROVEN = "not_proven"


@dataclass(frozen=True, slots=True)
class ServeHere:
    """The own copy serves, as soon as it is ready."""

    reason: AttemptReason


@dataclass(frozen=True, slots=True)
class LoadHere:
    """Load a copy at this instance. `unload`: so much of the idle copies of its tenant here is unloaded for it."""

    reason: AttemptReason
    considered: tuple[InstanceId, ...] = ()
    unload: Memory = NOTHING


@dataclass(frozen=True, slots=True)
class SendTo:
    """Forward: HIT to a ready copy, LOAD to an instance that loads or joins its load."""

    instance: InstanceId
    hop: Hop
    reason: AttemptReason
    considered: tuple[InstanceId, ...] = ()


@dataclass(frozen=True, slots=True)
class ReturnLast:
    """The client gets the complete answer of the failed attempt."""

    reason: AttemptReason


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The client gets this status."""

    status: Status
    message: str
    reason: AttemptReason


@dataclass(frozen=True, slots=True)
class Refuse:
    """The instance that asked for the load gets a refusal with its reason."""

    outcome: Outcome
    status: Status
    message: str


NextStep = ServeHere | LoadHere | SendTo | ReturnLast | GiveUp | Refuse

RETRY_AFTER_MS = 5_000
"""A load that failed so recently is not tried again for any caller."""

_DEFAULT_LIMITS = AttemptLimits()
_UNCONSTRAINED = TypeConstraints()


def next_step(
    journey: Journey,
    model: ModelView,
    cluster: ClusterView,
    *,
    size: Memory,
    now_ms: int,
    failure_window_ms: int,
    rng: Random,
    model_type: str = "",
    constraints: TypeConstraints = _UNCONSTRAINED,
    load_ms: int = 0,
    remaining_ms: int | None = None,
    quota: LoadQuota | None = None,
    limits: AttemptLimits = _DEFAULT_LIMITS,
) -> NextStep:
    """Decide what happens next to a request for a registered model.

    Args:
        journey: Its attempts so far.
        model: Copies and failures of the model; void ones are left out.
        cluster: The instances.
        size: Predicted size of a copy, above 0.
        now_ms: Epoch milliseconds.
        failure_window_ms: A failure younger than this counts towards the bound.
        rng: The only randomness.
        model_type: The model's type.
        constraints: Where models of which type may go.
        load_ms: How long a load of the model took before; 0: not known.
        remaining_ms: Until the caller's deadline; None: it has none.
        quota: Of the tenant whose model it is; None: it has none.
        limits: The bounds.
    """
    over_quota = refuse_load(quota, model.model, size) if quota is not None else ""
    if journey.hop is Hop.LOAD:
        asked = _asked_to_load(journey, model, cluster, now_ms, model_type, constraints)
        return _within_quota(quota, over_quota, size, asked)
    if (ended := _ended(journey, model, now_ms, limits)) is not None:
        return ended
    usable = [] if journey.extra else [copy for copy in model.copies if _usable(copy, journey, cluster)]
    if (step := _serve(usable, journey, cluster, rng)) is not None:
        return step
    last = journey.last
    if last is not None and last.outcome is Outcome.UNAVAILABLE:
        # The runtime answers, so another copy of the same model would answer the same.
        return GiveUp(Status.INTERNAL, last.message, AttemptReason.RUNTIME_UNAVAILABLE)
    if last is not None and last.outcome is Outcome.EXHAUSTED:
        return ReturnLast(AttemptReason.EXHAUSTED)
    if last is not None and remaining_ms is not None and remaining_ms < load_ms:
        message = f"{last.message} (no time is left for another load, which takes about {load_ms} ms)"
        return GiveUp(Status.DEADLINE_EXCEEDED, message, AttemptReason.NO_TIME)
    if over_quota and quota is not None:
        at = None if journey.extra else where_to_replace(quota, size, cluster, journey.load_tried)
        if at is not None and at != cluster.own:
            return SendTo(at, Hop.LOAD, AttemptReason.REPLACES_OWN)
        asked = _asked_to_load(journey, model, cluster, now_ms, model_type, constraints)
        here = _within_quota(quota, over_quota, size, asked) if at is not None else None
        refused = GiveUp(Status.RESOURCE_EXHAUSTED, over_quota, AttemptReason.OVER_QUOTA)
        return here if isinstance(here, LoadHere) else refused
    return _place(
        journey,
        model,
        cluster,
        size=size,
        now_ms=now_ms,
        window=failure_window_ms,
        rng=rng,
        limits=limits,
        model_type=model_type,
        constraints=constraints,
    )


def _within_quota(quota: LoadQuota | None, over_quota: str, size: Memory, asked: NextStep) -> NextStep:
    """A load here keeps the quota of its tenant: idle copies of the tenant are unloaded for it, or it is refused."""
    if not over_quota or quota is None or not isinstance(asked, LoadHere):
        return asked
    unload = own_to_unload(quota, size)
    if unload is None:
        return Refuse(Outcome.NO_ROOM, Status.RESOURCE_EXHAUSTED, over_quota)
    return LoadHere(AttemptReason.REPLACES_OWN, unload=unload)


def _asked_to_load(
    journey: Journey, model: ModelView, cluster: ClusterView, now_ms: int, model_type: str, constraints: TypeConstraints
) -> NextStep:
    """At the instance that received a load request: join, load or refuse; never forward."""
    own = cluster.instance(cluster.own)
    if own is not None and not own.record.runtime_ready:
        return Refuse(Outcome.BUSY, Status.UNAVAILABLE, f"the runtime of instance {cluster.own} is not connected")
    if model.copy_at(cluster.own) is not None:
        return ServeHere(AttemptReason.JOINS_OWN_LOAD)
    if own is not None and own.record.draining:
        return Refuse(Outcome.DRAINING, Status.UNAVAILABLE, f"instance {cluster.own} is draining")
    if (rests := _rests(model, now_ms)) is not None:
        return Refuse(Outcome.LOAD_FAILED, Status.INTERNAL, rests.message)
    for failure in _believed(journey, model, now_ms):
        if failure.instance == cluster.own and failure.record.kind not in LOSSES:
            return Refuse(Outcome.LOAD_FAILED, Status.INTERNAL, failure.record.message)
    if own is not None and (missing := constraints.missing(model_type, own.record.labels)):
        message = f"Instance does not have all required labels for type {model_type}: [{', '.join(missing)}]"
        return Refuse(Outcome.BUSY, Status.UNAVAILABLE, message)
    return LoadHere(AttemptReason.PLACED_HERE)


def _ended(journey: Journey, model: ModelView, now_ms: int, limits: AttemptLimits) -> NextStep | None:
    """Whether the bounds of the request are reached."""
    last = journey.last
    if last is None:
        return None
    if journey.lost:
        suspect = any(failure.record.kind in LOSSES and failure.record.believed(now_ms) for failure in model.failures)
        if len(journey.lost) >= (limits.losses_of_suspects if suspect else limits.losses):
            message = (
                f"the instance or runtime that processed this request for model {model.model} ended at {' and at '.join(journey.lost)}; "
                f"it is not sent to another instance: {last.message}"
            )
            return GiveUp(Status.INTERNAL, message, AttemptReason.ENDS_RUNTIMES)
    if journey.exhausted >= limits.exhausted:
        return ReturnLast(AttemptReason.EXHAUSTED)
    if journey.attempts < limits.attempts:
        return None
    failure = journey.load_failure or last
    if failure.outcome in {Outcome.LOAD_FAILED, Outcome.UNAVAILABLE}:
        return GiveUp(Status.INTERNAL, failure.message, AttemptReason.TOO_MANY_ATTEMPTS)
    return GiveUp(Status.INTERNAL, f"{limits.attempts} retry iterations exhausted", AttemptReason.TOO_MANY_ATTEMPTS)


def _believed(journey: Journey, model: ModelView, now_ms: int) -> list[Failure]:
    """The failures that count. A retry by a person ignores all but those of the last seconds, which bound the loads that it can cause."""
    believed = [failure for failure in model.failures if failure.record.believed(now_ms)]
    if not journey.retry:
        return believed
    return [
        failure
        for failure in believed
        if failure.record.kind in LOSSES or now_ms - failure.record.since_ms < RETRY_AFTER_MS
    ]


def _rests(model: ModelView, now_ms: int) -> GiveUp | None:
    """Whether the model has ended so many runtimes that it is not tried for a while."""
    rests = resting((failure.record for failure in model.failures), now_ms)
    if rests is None:
        return None
    seconds = (rests.until_ms - now_ms + 999) // 1000
    message = f"model {model.model} is not loaded for {seconds} s, as runtimes ended that had it: {rests.message}"
    return GiveUp(Status.INTERNAL, message, AttemptReason.ENDS_RUNTIMES)


def _unproven(journey: Journey, model: ModelView, believed: list[Failure], limits: AttemptLimits) -> GiveUp | None:
    """Whether enough instances try a model of which no copy is ready: should each be lost, they are not too many."""
    loading = sum(not copy.ready for copy in model.copies)
    if loading == 0 or not journey.extra or any(copy.ready for copy in model.copies):
        return None
    lost = losses((failure.record for failure in believed), FailureKind.LOST_WHILE_LOADING)
    if loading + lost < limits.losses:
        return None
    message = f"{loading} instances load model {model.model}; more do when one has"
    return GiveUp(Status.UNAVAILABLE, message, AttemptReason.NOT_PROVEN)


def _usable(copy: Copy, journey: Journey, cluster: ClusterView) -> bool:
    if (copy.instance, copy.load_id) in journey.spent:
        return False
    place = cluster.instance(copy.instance)
    if copy.instance == cluster.own:
        return place is None or place.record.runtime_ready
    return copy.unlisted if place is None else place.reachable and place.record.runtime_ready


def _serve(usable: list[Copy], journey: Journey, cluster: ClusterView, rng: Random) -> NextStep | None:
    """A ready copy if there is one, else one that is loading already."""
    ready = [copy for copy in usable if copy.ready]
    own = next((copy for copy in usable if copy.instance == cluster.own), None)
    if own is not None and own.ready and (journey.balanced or len(ready) == 1):
        return ServeHere(AttemptReason.OWN_COPY)
    if ready:
        chosen = ready[rng.randrange(len(ready))]
        if chosen.instance == cluster.own:
            return ServeHere(AttemptReason.OWN_COPY)
        return SendTo(chosen.instance, Hop.HIT, AttemptReason.COPY_ELSEWHERE)
    if own is not None:
        return ServeHere(AttemptReason.JOINS_OWN_LOAD)
    loading = [copy for copy in usable if copy.instance not in journey.load_tried]
    if loading:
        first = min(loading, key=lambda copy: (copy.since_ms, copy.instance))
        return SendTo(first.instance, Hop.LOAD, AttemptReason.JOINS_LOAD_ELSEWHERE)
    return None


def _place(
    journey: Journey,
    model: ModelView,
    cluster: ClusterView,
    *,
    size: Memory,
    now_ms: int,
    window: int,
    rng: Random,
    limits: AttemptLimits,
    model_type: str,
    constraints: TypeConstraints,
) -> NextStep:
    """Load a new copy somewhere, unless that has failed too often."""
    believed = _believed(journey, model, now_ms)
    if (
        enough := _tried_enough(journey, model, cluster, believed, now_ms=now_ms, window=window, limits=limits)
    ) is not None:
        return enough
    failed = [failure for failure in believed if failure.record.kind not in LOSSES]
    exclude = journey.load_tried | {copy.instance for copy in model.copies} | {failure.instance for failure in failed}
    choose = partial(
        choose_instance,
        cluster,
        size=size,
        rng=rng,
        prefer_own=journey.balanced,
        holders=[entry for entry in cluster.instances if model.copy_at(entry.instance) is not None]
        if model.copies
        else (),
        model_type=model_type,
        constraints=constraints,
    )
    # A first loss may have been chance: another instance is better, the same one is not refused.
    lost = {failure.instance for failure in believed if failure.record.kind is FailureKind.LOST_WHILE_LOADING}
    placement = choose(exclude=frozenset(exclude | lost))
    if lost and isinstance(placement, NoPlacement):
        placement = choose(exclude=frozenset(exclude))
    if isinstance(placement, NoPlacement) and placement.reason is NoPlacementReason.NO_LABELS:
        labels = ", ".join(constraints.of(model_type).required)
        # Nothing may be appended: controllers match on the end. `policy.places` says what each instance lacks.
        message = f"There are no running instances that meet the label requirements of type {model_type}: [{labels}]"
        return GiveUp(Status.INTERNAL, message, AttemptReason.NO_LABELS)
    if isinstance(placement, LoadOn):
        if placement.instance == cluster.own:
            return LoadHere(AttemptReason.PLACED_HERE, placement.considered)
        return SendTo(placement.instance, Hop.LOAD, AttemptReason.PLACED_ELSEWHERE, placement.considered)
    return _nowhere(journey, model, cluster, failed, size=size, reason=placement.reason)


def _tried_enough(
    journey: Journey,
    model: ModelView,
    cluster: ClusterView,
    believed: list[Failure],
    *,
    now_ms: int,
    window: int,
    limits: AttemptLimits,
) -> GiveUp | None:
    """Whether so much has been tried with the model that one more load is not."""
    if (rests := _rests(model, now_ms)) is not None:
        return rests
    if (unproven := _unproven(journey, model, believed, limits)) is not None:
        return unproven
    recent = [
        failure
        for failure in believed
        if failure.record.kind is FailureKind.BAD_MODEL and failure.record.since_ms > now_ms - window
    ]
    if len(recent) >= limits.failures:
        newest = max(recent, key=lambda failure: failure.record.since_ms)
        return GiveUp(Status.INTERNAL, newest.record.message, AttemptReason.FAILED_RECENTLY)
    if journey.retry and journey.load_failure is not None and journey.attempts >= limits.failures:
        return GiveUp(Status.INTERNAL, journey.load_failure.message, AttemptReason.FAILED_RECENTLY)
    present = [copy for copy in model.copies if cluster.instance(copy.instance) is not None]
    if len(present) >= limits.unusable_copies and not journey.extra:
        message = journey.last.message if journey.last else "Failed to invoke model loaded in >=5 locations"
        return GiveUp(Status.INTERNAL, message, AttemptReason.UNUSABLE_COPIES)
    return None


def _nowhere(
    journey: Journey,
    model: ModelView,
    cluster: ClusterView,
    believed: list[Failure],
    *,
    size: Memory,
    reason: NoPlacementReason,
) -> GiveUp:
    """No instance can load it: the most specific of the reasons."""
    if journey.load_failure is not None:
        return GiveUp(Status.INTERNAL, journey.load_failure.message, AttemptReason.NOWHERE)
    failed = {failure.instance for failure in believed}
    coming = [entry for entry in cluster.instances if entry.instance not in failed and may_be_back(entry)]
    if believed and not coming:
        newest = max(believed, key=lambda failure: failure.record.since_ms)
        return GiveUp(Status.INTERNAL, newest.record.message, AttemptReason.FAILED_RECENTLY)
    if reason is NoPlacementReason.TOO_LARGE:
        most = largest(entry.record.capacity for entry in cluster.instances)
        message = f"Nowhere available to load: model {model.model} needs {size}, the largest instance holds {most}"
        return GiveUp(Status.INTERNAL, message, AttemptReason.TOO_LARGE)
    last = journey.last
    if last is not None and last.outcome is Outcome.NO_ROOM:
        return GiveUp(Status.RESOURCE_EXHAUSTED, last.message, AttemptReason.NOWHERE)
    if last is not None and last.outcome in {Outcome.BUSY, Outcome.STORE_AWAY}:
        return GiveUp(Status.UNAVAILABLE, last.message, AttemptReason.NOWHERE)
    away = [f"{entry.instance} {why_not(entry)}" for entry in cluster.instances if not entry.available]
    if away or (last is not None and last.outcome in GONE):
        message = f"Nowhere available to load model {model.model} at the moment: " + ", ".join(
            away or [last.message if last is not None else ""]
        )
        return GiveUp(Status.UNAVAILABLE, message, AttemptReason.NOWHERE)
    return GiveUp(Status.INTERNAL, f"Nowhere available to load model {model.model}", AttemptReason.NOWHERE)
