"""The answer to a caller that stops waiting for a load: the state of the load, and when to retry.

Called by `modelmesh.control.requests.overdue`.
"""

from dataclasses import dataclass

from modelmesh.policy.waiting import common_load_ms, wait_ms
from modelmesh.values.ids import InstanceId
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.view import ClusterView, ModelView

SOONEST_MS = 1_000
LATEST_MS = 60_000
"""Bounds of the retry delay."""


@dataclass(frozen=True, slots=True)
class LoadWait:
    """`retry_ms`: when the load may have ended, estimated from earlier loads of the instance."""

    text: str
    retry_ms: int


def describe_wait(model: ModelView, cluster: ClusterView, *, progress: LoadProgress | None, now_ms: int) -> LoadWait:
    """The state of the load of a model that has no ready copy.

    Args:
        model: Its copies; of several loads the oldest counts.
        cluster: What instances publish about their loads.
        progress: Of the load at this instance.
        now_ms: Epoch milliseconds.
    """
    loading = min((copy for copy in model.copies if not copy.ready), key=lambda copy: copy.since_ms, default=None)
    if loading is None:
        return LoadWait(f"the load of model {model.model} has not begun", SOONEST_MS)
    ago_ms = max(0, now_ms - loading.since_ms)
    stage = f": {progress}" if progress is not None and loading.instance == cluster.own else ""
    text = f"model {model.model} is being loaded at {loading.instance} since {ago_ms // 1000} s{stage}"
    return LoadWait(text, min(max(_left_ms(loading.instance, cluster, ago_ms), SOONEST_MS), LATEST_MS))


def _left_ms(instance: InstanceId, cluster: ClusterView, ago_ms: int) -> int:
    entry = cluster.instance(instance)
    if entry is None:
        return SOONEST_MS
    common_ms = common_load_ms(cluster)
    before_ms = wait_ms(entry, cluster.loads_at(entry) - 1, common_ms=common_ms)
    return before_ms + (entry.record.load_ms or common_ms) - ago_ms
