"""Metrics as text for Prometheus: the data plane's, rendered by the core, and the control plane's."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPEN_METRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from modelmesh.machines.meter import Meter, Reading
from modelmesh.values.metrics import Kind

_OPEN_METRICS_TYPE = "application/openmetrics-text"
_END = b"# EOF\n"


class CoreMetrics(Protocol):
    """The data plane, as far as it renders metrics."""

    def metrics(self, *, open_metrics: bool = False, names: Sequence[str] = ()) -> bytes:
        """Text, without OpenMetrics' end mark."""
        ...


@dataclass(frozen=True, slots=True)
class InfoMetric:
    """A gauge of 1 whose labels have the version."""

    name: str
    labels: tuple[tuple[str, str], ...]


class _Readings(Collector):
    def __init__(self, readings: Iterable[Reading], info: InfoMetric | None, names: frozenset[str]) -> None:
        self._readings = readings
        self._info = info
        self._names = names

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for reading in self._readings:
            family = reading.family
            if self._names and not self._names & _sample_names(family.name, family.exposed):
                continue
            metric = found.get(family.name)
            if metric is None:
                # The library adds `_total` to the name of every counter; plain ones are declared as unknown.
                kind = "unknown" if family.plain else family.kind.value
                metric = found[family.name] = Metric(family.name, family.meaning, kind)
            labels = dict(reading.labels)
            if family.kind is Kind.HISTOGRAM:
                _add_histogram(metric, reading, labels)
            else:
                metric.add_sample(family.exposed, labels, reading.value)
        yield from found.values()
        if self._info is not None and (not self._names or self._info.name in self._names):
            metric = Metric(self._info.name, "Info Metrics", "gauge")
            metric.add_sample(self._info.name, dict(self._info.labels), 1.0)
            yield metric


def _sample_names(name: str, exposed: str) -> frozenset[str]:
    return frozenset({name, exposed, *(f"{name}{suffix}" for suffix in ("_bucket", "_count", "_sum", "_created"))})


def _add_histogram(metric: Metric, reading: Reading, labels: dict[str, str]) -> None:
    name, count, total = reading.family.name, 0, 0.0
    for bound, (observed, part) in zip((*reading.family.bounds, float("inf")), reading.buckets, strict=True):
        count += observed
        total += part
        le = str(floatToGoString(bound))  # type: ignore[no-untyped-call] # the library is typed in part
        metric.add_sample(f"{name}_bucket", {**labels, "le": le}, count)
    metric.add_sample(f"{name}_count", labels, count)
    metric.add_sample(f"{name}_sum", labels, total)


class Exposition:
    """Renders all metrics of one instance.

    Args:
        core: The data plane.
        meter: What the control plane counted.
        info: The info metric, if one is configured.
        process: Whether to add metrics of this process (CPU, memory, descriptors, garbage collection).
    """

    def __init__(self, *, core: CoreMetrics, meter: Meter, info: InfoMetric | None, process: bool) -> None:
        self._core = core
        self._meter = meter
        self._info = info
        self._process: CollectorRegistry | None = None
        if process:
            self._process = CollectorRegistry()
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self._process)

    def prepare(self, accept: str, names: Sequence[str]) -> "Callable[[], tuple[bytes, str]]":
        """Read everything now; what is returned renders it, in any thread: (text, content type).

        Args:
            accept: Header of the request; OpenMetrics is given only to who asks for it.
            names: Only the metrics of these names, if there are any.
        """
        open_metrics = any(part.split(";")[0].strip() == _OPEN_METRICS_TYPE for part in accept.split(","))
        readings = self._meter.readings()

        def render() -> tuple[bytes, str]:
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_Readings(readings, self._info, frozenset(names)))
            parts = [registry] if self._process is None else [registry, _restricted(self._process, names)]
            core = self._core.metrics(open_metrics=open_metrics, names=names)
            if open_metrics:
                text = b"".join(_open_metrics(part).removesuffix(_END) for part in parts)
                return core + text + _END, OPEN_METRICS
            return core + b"".join(map(generate_latest, parts)), CONTENT_TYPE_PLAIN_0_0_4

        return render


def _restricted(registry: CollectorRegistry, names: Sequence[str]) -> Any:
    return registry.restricted_registry(names) if names else registry


def _open_metrics(part: Any) -> bytes:
    return generate_open_metrics(part)  # type: ignore[no-untyped-call,no-any-return] # the library is typed in part
