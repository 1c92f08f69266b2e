"""Every metric there is: name, kind, labels, bounds, meaning. The reference page is made from this list.

Those of the old system keep its names, labels and bounds. Source: `spec/api-config-tests.md` 5.2.
"""

import enum
from dataclasses import dataclass
from functools import partial

TIMES_MS = (0.5, 1, 2, 5, 10, 20, 50, 75, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 6e4, 1.2e5, 3e5)
AGES_MS = (3e4, 3e5, 9e5, 3.6e6, 1.44e7, 4.32e7, 8.64e7, 6.048e8, 2.592e9, 7.776e9)
"""30 s, 5 min, 15 min, 1 h, 4 h, 12 h, 1 d, 7 d, 30 d, 90 d."""
MODEL_BYTES = tuple(262_144.0 * 4**power for power in range(8))
PAYLOAD_BYTES = tuple(128.0 * 4**power for power in range(8))

MODEL_LABELS = ("modelId", "vModelId")


class Kind(enum.Enum):
    """What a metric's numbers mean."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Source(enum.Enum):
    """Who counts it: the data plane's threads, or the control plane."""

    CORE = "core"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    `per_model`: has the labels of `MODEL_LABELS` too if models have labels of their own. `plain`: a counter whose name
    has no `_total`, as the old system wrote it. `statsd_counter` and `statsd_legacy`: names that StatsD knows it by.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    per_model: bool = False
    source: Source = Source.CONTROL
    plain: bool = False
    statsd_counter: str = ""
    statsd_legacy: str = ""

    @property
    def exposed(self) -> str:
        """The name of its samples, but for a histogram's suffixes."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER and not self.plain else self.name


_core = partial(Family, source=Source.CORE)

_CALL = ("method", "code")
_HISTOGRAM, _COUNTER, _GAUGE = Kind.HISTOGRAM, Kind.COUNTER, Kind.GAUGE

FAMILIES: tuple[Family, ...] = (
    # --- calls ---
    _core(
        "modelmesh_api_request_milliseconds",
        _HISTOGRAM,
        "Inference calls of clients of this instance, from the first header to the last.",
        _CALL,
        bounds=TIMES_MS,
        per_model=True,
        statsd_counter="modelmesh_api_request",
        statsd_legacy="api-",
    ),
    _core(
        "modelmesh_invoke_model_milliseconds",
        _HISTOGRAM,
        "Calls to the local runtime that it answered, without the wait for a load or a turn.",
        _CALL,
        bounds=TIMES_MS,
        per_model=True,
        statsd_counter="modelmesh_invoke_model",
        statsd_legacy="invoke-",
    ),
    _core(
        "modelmesh_request_size_bytes",
        _HISTOGRAM,
        "Message bytes of inference calls of clients of this instance.",
        _CALL,
        bounds=PAYLOAD_BYTES,
        per_model=True,
        statsd_legacy="reqSize-",
    ),
    _core(
        "modelmesh_response_size_bytes",
        _HISTOGRAM,
        "Message bytes of the answers to successful inference calls of clients of this instance.",
        _CALL,
        bounds=PAYLOAD_BYTES,
        per_model=True,
        statsd_legacy="respSize-",
    ),
    _core(
        "modelmesh_req_queue_delay_milliseconds",
        _HISTOGRAM,
        "Wait for a turn at a copy whose concurrency is limited.",
        bounds=TIMES_MS,
        per_model=True,
        statsd_legacy="queueDelay",
    ),
    _core(
        "modelmesh_cache_miss_milliseconds",
        _HISTOGRAM,
        "Inference calls that waited more than 10 ms for their model to be loaded here, and how long.",
        bounds=TIMES_MS,
        per_model=True,
        statsd_counter="modelmesh_cache_miss",
        statsd_legacy="cacheMiss",
    ),
    _core(
        "modelmesh_management_milliseconds",
        _HISTOGRAM,
        "Calls of the services that the control plane answers.",
        _CALL,
        bounds=TIMES_MS,
        statsd_counter="modelmesh_management",
    ),
    _core(
        "modelmesh_hold_milliseconds",
        _HISTOGRAM,
        "Requests that waited for a decision of the control plane, and how long.",
        ("end",),
        bounds=TIMES_MS,
    ),
    _core(
        "modelmesh_rejected_requests",
        _COUNTER,
        "Calls refused before it was looked at what model they are about.",
        ("reason",),
    ),
    _core(
        "modelmesh_rest_faults",
        _COUNTER,
        "Requests by REST that were answered with an error, by HTTP status.",
        ("status",),
    ),
    _core(
        "modelmesh_shadow_calls",
        _COUNTER,
        "Calls of vmodels that were to be copied to their shadows, by the result of the copy.",
        ("result",),
        per_model=True,
    ),
    _core(
        "modelmesh_fallback_calls",
        _COUNTER,
        "Calls of vmodels that went to their fallbacks, by the reason.",
        ("reason",),
        per_model=True,
    ),
    _core(
        "modelmesh_tenant_calls",
        _COUNTER,
        "Inference calls of a tenant that have ended.",
        ("tenant",),
    ),
    _core(
        "modelmesh_tenant_refused_calls",
        _COUNTER,
        "Inference calls of a tenant that were refused because of its quotas of calls.",
        ("tenant",),
    ),
    _core(
        "modelmesh_tenant_call_milliseconds",
        _COUNTER,
        "How long the inference calls of a tenant took together.",
        ("tenant",),
    ),
    _core(
        "modelmesh_tenant_bytes",
        _COUNTER,
        "Message bytes of the inference calls of a tenant and of their answers.",
        ("tenant",),
    ),
    _core(
        "modelmesh_usage_calls",
        _COUNTER,
        "Inference calls of clients of this instance that have ended, by calling tenant and model.",
        ("tenant", "modelId"),
    ),
    _core(
        "modelmesh_usage_failed_calls",
        _COUNTER,
        "Those of them that ended with another status than OK.",
        ("tenant", "modelId"),
    ),
    _core(
        "modelmesh_usage_call_milliseconds",
        _COUNTER,
        "How long they took together.",
        ("tenant", "modelId"),
    ),
    _core(
        "modelmesh_usage_bytes",
        _COUNTER,
        "Message bytes of them and of their answers.",
        ("tenant", "modelId"),
    ),
    _core(
        "modelmesh_usage_loads",
        _COUNTER,
        "Loads at this instance that ended well, by the tenant that registered the model.",
        ("tenant", "modelId"),
    ),
    # --- loads ---
    Family(
        "modelmesh_loadmodel_milliseconds",
        _HISTOGRAM,
        "Successful loads: how long the runtime took.",
        bounds=TIMES_MS,
        per_model=True,
        statsd_counter="modelmesh_loadmodel",
        statsd_legacy="loadModel",
    ),
    Family(
        "modelmesh_loadmodel_failure",
        _COUNTER,
        "Loads that the runtime began and did not finish, time-outs included.",
        plain=True,
        statsd_legacy="loadModel-failed",
    ),
    Family(
        "modelmesh_unloadmodel_milliseconds",
        _HISTOGRAM,
        "Unloads, from the first attempt to success.",
        bounds=TIMES_MS,
        per_model=True,
        statsd_counter="modelmesh_unloadmodel",
        statsd_legacy="unloadModel",
    ),
    Family(
        "modelmesh_unloadmodel_failure",
        _COUNTER,
        "Unloads given up. None ever is; the name is kept for dashboards.",
        plain=True,
        statsd_legacy="unloadModel-failure",
    ),
    Family(
        "modelmesh_unloadmodel_attempt_failure",
        _COUNTER,
        "Attempts to unload that failed; each is repeated.",
        plain=True,
        statsd_legacy="unloadModel-attemptFailed",
    ),
    Family(
        "modelmesh_loading_queue_delay_milliseconds",
        _HISTOGRAM,
        "Wait of a load for its turn, without the wait for memory.",
        bounds=TIMES_MS,
        per_model=True,
        statsd_legacy="loadModelQueueDelay",
    ),
    Family(
        "modelmesh_model_sizing_milliseconds",
        _HISTOGRAM,
        "How long the runtime took to measure a loaded model.",
        bounds=TIMES_MS,
        per_model=True,
        statsd_legacy="sizeModel",
    ),
    Family(
        "modelmesh_loaded_model_size_bytes",
        _HISTOGRAM,
        "Sizes of models, when they are known after a load.",
        bounds=MODEL_BYTES,
        per_model=True,
        statsd_legacy="mmModelSizeBytes",
    ),
    Family(
        "modelmesh_age_at_eviction_milliseconds",
        _HISTOGRAM,
        "Copies evicted to make room: how long ago they were used.",
        bounds=AGES_MS,
        per_model=True,
        statsd_counter="modelmesh_model_evicted",
        statsd_legacy="cache_evictModel",
    ),
    # --- this instance ---
    Family(
        "modelmesh_instance_lru_seconds",
        _GAUGE,
        "When the copy that was unused longest was used, in epoch seconds; 9223372036854775 without copies.",
        statsd_legacy="localLruTimestamp",
    ),
    Family(
        "modelmesh_instance_lru_age_seconds",
        _GAUGE,
        "How long ago that was; 0 without copies.",
        statsd_legacy="localLruAge",
    ),
    Family(
        "modelmesh_instance_capacity_bytes", _GAUGE, "Memory of the runtime for models.", statsd_legacy="totalCapacity"
    ),
    Family("modelmesh_instance_used_bytes", _GAUGE, "Memory in use or promised.", statsd_legacy="totalUsed"),
    Family(
        "modelmesh_instance_used_bps",
        _GAUGE,
        "Memory in use or promised, of 10000 parts.",
        statsd_legacy="capacityUsage",
    ),
    Family("modelmesh_instance_models_total", _GAUGE, "Copies at this instance.", statsd_legacy="modelCount"),
    Family("modelmesh_instance_loads", _GAUGE, "Loads that run or wait for their turn."),
    Family("modelmesh_loading_bytes", _GAUGE, "Bytes of the loads that run, as far as their runtimes report them."),
    Family("modelmesh_loading_bytes_done", _GAUGE, "Of these, bytes that are there."),
    # --- the cluster; only the leader reports these ---
    Family(
        "modelmesh_models_loaded_total", _GAUGE, "Models with a copy; at the leader only.", statsd_legacy="modelsLoaded"
    ),
    Family(
        "modelmesh_models_with_failure_total",
        _GAUGE,
        "Models with a failure; at the leader only.",
        statsd_legacy="modelsWithLoadFailure",
    ),
    Family(
        "modelmesh_models_managed_total",
        _GAUGE,
        "Registered models; at the leader only.",
        statsd_legacy="modelsManaged",
    ),
    # --- decisions ---
    Family("modelmesh_placements", _COUNTER, "Decisions where to send a request that missed, by reason.", ("reason",)),
    Family("modelmesh_failed_attempts", _COUNTER, "Attempts that another copy may cure, by outcome.", ("outcome",)),
    Family("modelmesh_given_up", _COUNTER, "Requests that no copy could serve, by reason.", ("reason",)),
    Family("modelmesh_evictions", _COUNTER, "Copies chosen to make room, by reason.", ("reason",)),
    Family("modelmesh_events", _COUNTER, "Entries of the journal, by kind and reason.", ("kind", "reason")),
    # --- the store ---
    Family(
        "modelmesh_store_milliseconds",
        _HISTOGRAM,
        "Answers of the store, by operation.",
        ("operation",),
        bounds=TIMES_MS,
    ),
    Family(
        "modelmesh_store_errors",
        _COUNTER,
        "Operations that the store refused or did not answer.",
        ("operation", "error"),
    ),
    # --- rollouts of vmodels; the leader reports them ---
    Family(
        "modelmesh_rollout_state",
        _GAUGE,
        "1 for the state of the last rollout of a vmodel: running, promoted or rolled_back. The leader reports it.",
        ("vModelId", "modelId", "state"),
    ),
    Family(
        "modelmesh_rollout_step",
        _GAUGE,
        "The step of the last rollout of a vmodel, from 1. The leader reports it.",
        ("vModelId", "modelId"),
    ),
    Family(
        "modelmesh_rollout_share",
        _GAUGE,
        "Percent of the calls of a vmodel that go to the model of its last rollout. The leader reports it.",
        ("vModelId", "modelId"),
    ),
    # --- payloads, logs, traces ---
    _core("modelmesh_tapped_calls", _COUNTER, "Calls whose payloads were handed to the control plane."),
    _core(
        "modelmesh_tapped_calls_dropped",
        _COUNTER,
        "Calls whose payloads were wanted and dropped, because too many wait.",
    ),
    Family(
        "modelmesh_payloads",
        _COUNTER,
        "Payloads by processor (1 is the first) and result: sent, failed, dropped.",
        ("processor", "outcome"),
    ),
    # --- queues ---
    _core("modelmesh_held_requests", _GAUGE, "Requests that wait for a decision."),
    _core("modelmesh_held_bytes", _GAUGE, "Bytes of requests that wait for a decision."),
    _core("modelmesh_held_requests_refused", _COUNTER, "Requests refused because too many wait for a decision."),
    _core("modelmesh_replay_bytes", _GAUGE, "Bytes of replay copies."),
    _core("modelmesh_tapped_bytes", _GAUGE, "Bytes of payloads that wait for the control plane to take them."),
    _core("modelmesh_shadow_bytes", _GAUGE, "Bytes that copies of calls for shadows of vmodels hold."),
    _core("modelmesh_core_events", _GAUGE, "Events that wait for the control plane to take them."),
    _core("modelmesh_core_events_refused", _COUNTER, "Events refused because the control plane is behind."),
    _core(
        "modelmesh_core_events_dropped",
        _COUNTER,
        "Events for payloads, logs or traces dropped because the control plane is behind.",
    ),
    _core("modelmesh_connections", _GAUGE, "Open connections of clients and instances."),
    _core("modelmesh_open_calls", _GAUGE, "Calls that run, wait, or are being answered by the control plane."),
    _core("modelmesh_client_bytes", _GAUGE, "Bytes that connections of clients and their calls hold."),
    _core(
        "modelmesh_peer_bytes", _GAUGE, "Bytes that connections of other instances to this one and their calls hold."
    ),
    _core("modelmesh_neighbour_bytes", _GAUGE, "Bytes that connections to the runtime and to other instances hold."),
    _core(
        "modelmesh_expelled_connections",
        _COUNTER,
        "Connections ended because more was held for them than for others.",
        ("side",),
    ),
)

BY_NAME = {family.name: family for family in FAMILIES}
