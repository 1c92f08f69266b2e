"""The ledger of what the control plane counts: counters and histograms by label.

One ledger per instance, handed to who counts; nothing is global. Adapters read it.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from modelmesh.values.metrics import BY_NAME, FAMILIES, Family, Kind, Source

GaugeValues = Mapping[str, float | Mapping[tuple[str, ...], float]]
"""Present values by the name of their family: one number, or one for each of its series, by the values of their labels."""

OTHER_MODEL = "(other)"
"""The label of models beyond the bound."""


@dataclass(slots=True)
class Histogram:
    """Observations and their sum, by bucket; the last bucket has no upper bound."""

    counts: list[int]
    sums: list[float]


@dataclass(frozen=True, slots=True)
class Reading:
    """One series as of now. `buckets` of a histogram are not cumulative."""

    family: Family
    labels: tuple[tuple[str, str], ...]
    value: float = 0
    buckets: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class _Series:
    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    histograms: dict[tuple[str, ...], Histogram] = field(default_factory=dict)


class Meter:
    """Counters and histograms of one instance.

    Args:
        per_model: Whether models have labels of their own where a family allows it.
        models_max: Models with series of their own; the others share one label.
        gauges: Called at each reading; a family that is not in its answer is not reported.
    """

    def __init__(
        self, *, per_model: bool = False, models_max: int = 1000, gauges: Callable[[], GaugeValues] = dict
    ) -> None:
        self._per_model = per_model
        self._models_max = models_max
        self._gauges = gauges
        self._models: dict[str, None] = {}
        self._series = {
            family.name: _Series()
            for family in FAMILIES
            if family.source is Source.CONTROL and family.kind is not Kind.GAUGE
        }
        for name, series in self._series.items():
            if BY_NAME[name].kind is Kind.COUNTER and not BY_NAME[name].labels:
                series.values[()] = 0

    def read_gauges_from(self, gauges: Callable[[], GaugeValues]) -> None:
        """Give what is asked for gauges; it needs the control plane, which comes after the ledger."""
        self._gauges = gauges

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        values = self._series[name].values
        values[labels] = values.get(labels, 0) + by

    def observe(self, name: str, value: float, *labels: str, model: str = "") -> None:
        """Add an observation, in the unit of the name."""
        family = BY_NAME[name]
        if family.per_model and self._per_model:
            labels = (*labels, self._model_label(model), "")
        histograms = self._series[name].histograms
        histogram = histograms.get(labels)
        if histogram is None:
            size = len(family.bounds) + 1
            histogram = histograms[labels] = Histogram([0] * size, [0.0] * size)
        bucket = bisect_left(family.bounds, value)
        histogram.counts[bucket] += 1
        histogram.sums[bucket] += value

    def _model_label(self, model: str) -> str:
        if model in self._models:
            return model
        if len(self._models) >= self._models_max:
            return OTHER_MODEL
        self._models[model] = None
        return model

    def forget(self, model: str) -> None:
        """The model is no longer registered: its series go."""
        if self._models.pop(model, 0) is None:
            for name, series in self._series.items():
                if BY_NAME[name].per_model:
                    for labels in [labels for labels in series.histograms if labels[-2] == model]:
                        del series.histograms[labels]

    def readings(self) -> list[Reading]:
        """Every series as of now, by family."""
        return [*self._read(reset=False)]

    def take(self) -> list[Reading]:
        """What was counted since the last call; it is forgotten here. Gauges as they are."""
        return [*self._read(reset=True)]

    def _read(self, *, reset: bool) -> Iterator[Reading]:
        gauges = self._gauges()
        for family in FAMILIES:
            match gauges.get(family.name):
                case None:
                    pass
                case int() | float() as value:
                    yield Reading(family, (), value)
                case by_labels:
                    for labels, value in by_labels.items():
                        yield Reading(family, tuple(zip(family.labels, labels, strict=True)), value)
            series = self._series.get(family.name)
            if series is None:
                continue
            names = (*family.labels, *(("modelId", "vModelId") if family.per_model and self._per_model else ()))
            for labels, value in series.values.items():
                yield Reading(family, tuple(zip(names, labels, strict=True)), value)
            for labels, histogram in series.histograms.items():
                buckets = tuple(zip(histogram.counts, histogram.sums, strict=True))
                yield Reading(family, tuple(zip(names, labels, strict=True)), buckets=buckets)
            if reset:
                series.values.clear()
                series.histograms.clear()
