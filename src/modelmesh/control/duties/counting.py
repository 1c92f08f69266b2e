"""Metrics from the journal and the state: what each event counts, and the values of gauges."""

from collections.abc import Mapping

from modelmesh.control.copies.cache import Cache
from modelmesh.control.duties.leader import Leader
from modelmesh.control.duties.rollouts import Rollouts, Shown
from modelmesh.control.view.census import Census
from modelmesh.control.view.state import ClusterState
from modelmesh.machines.meter import GaugeValues, Meter
from modelmesh.ports import Clock
from modelmesh.values.events import Event
from modelmesh.values.ids import VModelId
from modelmesh.values.rollout import RolloutState

EMPTY_LRU_S = 9_223_372_036_854_775
"""What the old system reported as the oldest use of an empty cache, in seconds."""

_BY_REASON = {
    "sent": "modelmesh_placements",
    "local": "modelmesh_placements",
    "attempt_failed": "modelmesh_failed_attempts",
    "gave_up": "modelmesh_given_up",
    "victim": "modelmesh_evictions",
}
_BY_NUMBER = {
    "queued_ms": "modelmesh_loading_queue_delay_milliseconds",
    "idle_ms": "modelmesh_age_at_eviction_milliseconds",
}


def count_event(meter: Meter, event: Event) -> None:
    """Count one entry of the journal."""
    meter.count("modelmesh_events", event.kind, event.reason)
    by_reason = _BY_REASON.get(event.kind)
    if by_reason is not None:
        meter.count(by_reason, event.reason)
    if event.kind == "load_failed":
        meter.count("modelmesh_loadmodel_failure")
    for name, number in event.numbers:
        meter.observe(_BY_NUMBER[name], number, model=event.model)


class Gauges:
    """The present values of gauges, by metric. Only the leader reports those of the cluster."""

    def __init__(
        self, *, cache: Cache, state: ClusterState, leader: Leader, rollouts: Rollouts, census: Census, clock: Clock
    ) -> None:
        self._cache = cache
        self._state = state
        self._leader = leader
        self._rollouts = rollouts
        self._census = census
        self._clock = clock

    def __call__(self) -> GaugeValues:
        """By name; what is not known is left out."""
        ledger = self._cache.ledger
        copies = len(self._cache.models())
        oldest_ms = self._cache.usage.oldest_use_ms() if copies else 0
        now_ms = self._clock.now_ms()
        loading = self._cache.loading()
        gauges: dict[str, float | Mapping[tuple[str, ...], float]] = {
            "modelmesh_loading_bytes": sum(max(one.bytes_total, one.bytes_done) for one in loading),
            "modelmesh_loading_bytes_done": sum(one.bytes_done for one in loading),
            "modelmesh_instance_lru_seconds": oldest_ms // 1000 if oldest_ms else EMPTY_LRU_S,
            "modelmesh_instance_lru_age_seconds": max(0, now_ms - oldest_ms) // 1000 if oldest_ms else 0,
            "modelmesh_instance_capacity_bytes": ledger.capacity.bytes,
            "modelmesh_instance_used_bytes": ledger.used.bytes,
            "modelmesh_instance_used_bps": ledger.used.parts_of(ledger.capacity, 10_000),
            "modelmesh_instance_models_total": copies,
            "modelmesh_instance_loads": self._cache.loads,
        }
        if self._leader.leads:
            gauges["modelmesh_models_loaded_total"] = sum(
                any(copy.ready for copy in self._state.model(model).copies) for model in self._state.models()
            )
            gauges["modelmesh_models_with_failure_total"] = sum(
                bool(self._state.model(model).failures) for model in self._state.failed_models()
            )
            if self._census.models is not None:
                gauges["modelmesh_models_managed_total"] = self._census.models
            gauges |= of_rollouts(self._rollouts.shown)
        return gauges


def of_rollouts(shown: Mapping[VModelId, Shown]) -> dict[str, Mapping[tuple[str, ...], float]]:
    """The gauges of rollouts, by name and by the values of their labels."""
    states: dict[tuple[str, ...], float] = {}
    steps: dict[tuple[str, ...], float] = {}
    shares: dict[tuple[str, ...], float] = {}
    for vmodel, (rollout, percent) in shown.items():
        labels = (vmodel, rollout.model)
        states |= {(*labels, state.value): state is rollout.state for state in RolloutState}
        steps[labels] = rollout.step + 1
        shares[labels] = percent
    return {
        "modelmesh_rollout_state": states,
        "modelmesh_rollout_step": steps,
        "modelmesh_rollout_share": shares,
    }
