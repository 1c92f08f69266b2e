"""Policies, and the rules that span them.

A policy decides one question. Here are the views that policies get and the rules that none may break:
never the last copy of a model in use, one change in flight per model.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

from modelmesh.control.view.placed import Placed
from modelmesh.control.view.records import Registered
from modelmesh.control.view.state import ClusterState
from modelmesh.policy.admission import retry_after_ms, spread_ms
from modelmesh.policy.attempt import AttemptReason, Journey, NextStep, SendTo, next_step
from modelmesh.policy.constraints import TypeConstraints
from modelmesh.policy.quota import LoadQuota, refuse_load
from modelmesh.policy.victims import HeldCopy, Victim, choose_victims
from modelmesh.ports import Clock
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import Memory
from modelmesh.values.records import MemberRecord
from modelmesh.values.view import ClusterView, Copy, InstanceView, ModelView


class Decider:
    """Builds views and asks policies.

    Args:
        own_copy: The copy here as the cache has it (None: none that may be used or joined).
        own_record: This instance's entry as it should be now; its published one may be old or deleted.
        predicted_size: The best estimate of the size of a model and its type.
        load_ms: How long a load of a model took before; 0: not known.
        exact_eviction: Copies leave in the exact order of the eviction policy.
        load_quota: What the models of a tenant may take, and take.
        idle_of: What the idle copies of a tenant take at this instance.
    """

    def __init__(
        self,
        *,
        state: ClusterState,
        clock: Clock,
        rng: Random,
        own_copy: Callable[[ModelId], Copy | None],
        own_record: Callable[[], MemberRecord],
        predicted_size: Callable[[ModelId, str], Memory],
        load_ms: Callable[[ModelId], int],
        failure_expiry_ms: int,
        exact_eviction: bool,
        load_quota: Callable[[str], LoadQuota | None],
        idle_of: Callable[[str], Memory],
    ) -> None:
        self._state = state
        self._clock = clock
        self._rng = rng
        self._own_copy = own_copy
        self._own_record = own_record
        self._predicted_size = predicted_size
        self._load_ms = load_ms
        self._failure_expiry_ms = failure_expiry_ms
        self._exact_eviction = exact_eviction
        self._load_quota = load_quota
        self._idle_of = idle_of
        self.constraints = TypeConstraints()
        """Where models of which type may go; replaced when the operator changes it."""
        self._placed = Placed()
        self._seen: tuple[InstanceView, ...] | None = None
        self._others: tuple[InstanceView, ...] = ()
        self._until_ms = 0

    def next_step(
        self, journey: Journey, model: ModelId, registered: Registered, *, remaining_ms: int | None = None
    ) -> NextStep:
        """What happens next to a request. `remaining_ms`: until its deadline."""
        step = self._ask(journey, model, registered, self._rng, remaining_ms)
        if isinstance(step, SendTo) and step.reason is AttemptReason.PLACED_ELSEWHERE:
            size = self._predicted_size(model, registered.record.type)
            self._placed.sent(model, step.instance, size, self._clock.monotonic_ms())
            self._seen = None
        return step

    def rehearse(self, model: ModelId, registered: Registered, *, size: Memory | None = None) -> NextStep:
        """Where one more copy would be loaded now, of the expected size if none is given; nothing is changed."""
        rng = Random(self._clock.now_ms())  # noqa: S311 - a draw like others
        return self._ask(Journey(extra=True), model, registered, rng, size=size)

    def retry_after_ms(self, load_ms: int) -> int:
        """When a load that is asked for again would begin, at the instance with the shortest queue."""
        return retry_after_ms(self.cluster_view(), load_ms=load_ms)

    def spread_ms(self, after_ms: int) -> int:
        """That delay or a longer one, so that callers do not all retry at once."""
        return spread_ms(after_ms, self._rng)

    def _ask(
        self,
        journey: Journey,
        model: ModelId,
        registered: Registered,
        rng: Random,
        remaining_ms: int | None = None,
        size: Memory | None = None,
    ) -> NextStep:
        size = size or self._predicted_size(model, registered.record.type)
        return next_step(
            journey,
            self.model_view(model, registered),
            self.cluster_view(),
            size=size,
            now_ms=self._clock.now_ms(),
            load_ms=self._load_ms(model),
            remaining_ms=remaining_ms,
            failure_window_ms=self._failure_expiry_ms // 2,
            rng=rng,
            model_type=registered.record.type,
            constraints=self.constraints,
            quota=self._quota(registered.record.tenant, model, size),
        )

    def _quota(self, tenant: str, model: ModelId, size: Memory) -> LoadQuota | None:
        quota = self._load_quota(tenant) if tenant else None
        if quota is None or not refuse_load(quota, model, size):
            return quota
        return replace(quota, idle=self._idle_of(tenant), holders=self._state.holders(tenant))

    def model_view(self, model: ModelId, registered: Registered | None) -> ModelView:
        """The model as stored, the own copy as the cache has it, everything of an older record left out."""
        view = self._state.model(model)
        own = self._state.own
        copies = [copy for copy in view.copies if copy.instance != own]
        failures = view.failures
        if registered is not None:
            current = registered.create_revision
            copies = [copy for copy in copies if copy.belongs_to(current)]
            failures = tuple(failure for failure in failures if failure.record.record_revision == current)
        mine = self._own_copy(model)
        if mine is not None:
            copies.append(mine)
        return ModelView(model, tuple(copies), failures)

    def elsewhere(self, model: ModelId) -> bool:
        """Whether another instance may have a copy: the cheap question before looking."""
        return self._state.elsewhere(model)

    def cluster_view(self) -> ClusterView:
        """The instances, this one as it is now."""
        view = self._state.cluster()
        now_ms = self._clock.monotonic_ms()
        if view.instances is not self._seen or now_ms >= self._until_ms:
            self._seen = view.instances
            self._others, self._until_ms = self._placed.look(view, now_ms, epoch_ms=self._clock.now_ms())
        own = InstanceView(view.own, self._own_record(), outdated=self._placed.is_replaced(view.own))
        loading = dict(self._placed.loading(self._state.loading, self._state.has_copy, now_ms))
        loading[view.own] = own.record.loads  # as it is here, with those that are not claimed yet
        return ClusterView(view.own, view.revision, self._others, loading).with_instance(own)

    def places(self, model: ModelId, registered: Registered, cluster: ClusterView) -> int:
        """How many instances may hold the model: its holders, and those where nothing prevents a load."""
        holders = {copy.instance: None for copy in self.model_view(model, registered).copies}
        return len(holders) + len(self.free_places(model, registered, cluster))

    def free_places(self, model: ModelId, registered: Registered, cluster: ClusterView) -> list[InstanceView]:
        """Instances without a copy of the model where nothing prevents a load."""
        view = self.model_view(model, registered)
        now_ms = self._clock.now_ms()
        holders = {copy.instance: None for copy in view.copies}
        failed = {failure.instance: None for failure in view.failures if failure.record.believed(now_ms)}
        size = self._predicted_size(model, registered.record.type)
        return [
            entry
            for entry in self.constraints.allowed(registered.record.type, cluster.instances)
            if entry.instance not in holders
            and entry.instance not in failed
            and entry.available
            and size.fits(entry.record.capacity)
        ]

    def victims(self, oldest_first: Iterable[HeldCopy], *, need: Memory, forced: bool) -> tuple[Victim, ...]:
        """Which copies leave. Plain LRU evicts in the exact order of use: it is for those who want to predict it."""
        exact = self._exact_eviction
        return choose_victims(oldest_first, need=need, forced=forced, exact_order=exact)
