"""The controller's metrics, read when they are asked for."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from modelmesh.kubernetes.loop.controller import Controller
from modelmesh.kubernetes.loop.models import OWNERS


def exposition(controller: Controller | None, requests: Mapping[str, int], *, leads: bool) -> bytes:
    """The text that Prometheus reads.

    Args:
        controller: That works now; None: none does.
        requests: To the API server, by verb.
        leads: Whether this process has the lease.
    """
    registry = CollectorRegistry()
    registry.register(_Snapshot(controller, requests, leads=leads))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, controller: Controller | None, requests: Mapping[str, int], *, leads: bool) -> None:
        self._controller = controller
        self._requests = requests
        self._leads = leads

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("modelmesh_controller_leader", "Whether this process works.", float(self._leads))
        sent = CounterMetricFamily("modelmesh_controller_api_requests", "Requests to the API server.", labels=["verb"])
        for verb, number in sorted(self._requests.items()):
            sent.add_metric([verb], number)
        yield sent
        if self._controller is not None:
            yield from _of_loop(self._controller)


def _of_loop(controller: Controller) -> Iterator[Metric]:
    looks = CounterMetricFamily("modelmesh_controller_looks", "Looks at resources.", labels=["queue"])
    waiting = GaugeMetricFamily("modelmesh_controller_waiting", "Resources that wait for a look.", labels=["queue"])
    for name, queue in (("models", controller.models), ("objects", controller.objects)):
        looks.add_metric([name], queue.runs)
        waiting.add_metric([name], queue.depth)
    yield looks
    yield waiting
    failures = CounterMetricFamily("modelmesh_controller_failures", "What failed and was repeated.", labels=["what"])
    for what, number in sorted(controller.failures.items()):
        failures.add_metric([what], number)
    yield failures
    writes = CounterMetricFamily("modelmesh_controller_writes", "Changes of the cluster.", labels=["of"])
    writes.add_metric(["objects"], controller.services.applier.writes)
    writes.add_metric(["statuses"], controller.services.statuses.writes)
    yield writes
    resources = GaugeMetricFamily("modelmesh_controller_resources", "Resources that ask for models.", labels=["kind"])
    for kind in OWNERS:
        resources.add_metric([kind.name], len(controller.world.caches[kind]))
    yield resources
    meshes = GaugeMetricFamily(
        "modelmesh_controller_mesh_synced", "Whether all vmodels of a mesh are known.", labels=["namespace"]
    )
    for namespace, mesh in sorted(controller.meshes.items()):
        meshes.add_metric([namespace], float(mesh.synced and mesh.reachable))
    yield meshes
    pods = GaugeMetricFamily(
        "modelmesh_controller_wanted_pods",
        "Pods that a runtime needs now, and what for.",
        labels=["namespace", "runtime", "reason"],
    )
    for namespace, runtime, sample in controller.demands.known():
        pods.add_metric([namespace, runtime, sample.demand.why.value], sample.demand.pods)
    yield pods
    dropped = CounterMetricFamily("modelmesh_controller_events_dropped", "Kubernetes Events that were not written.")
    dropped.add_metric([], controller.recorder.dropped)
    yield dropped
