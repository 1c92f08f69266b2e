"""The ledger of the control plane: buckets, labels, bounds, and what goes with a model."""

from modelmesh.machines.meter import OTHER_MODEL, Meter
from modelmesh.values.metrics import BY_NAME, FAMILIES, Kind

LOAD = "modelmesh_loadmodel_milliseconds"


def readings(meter: Meter, name: str) -> list:
    return [reading for reading in meter.readings() if reading.family.name == name]


def test_a_bound_belongs_to_its_bucket() -> None:
    meter = Meter()
    for value in (0.5, 0.51, 50, 50.4, 1e9):
        meter.observe(LOAD, value)
    (reading,) = readings(meter, LOAD)
    counts = [count for count, _ in reading.buckets]
    bounds = BY_NAME[LOAD].bounds
    assert counts[bounds.index(0.5)] == 1
    assert counts[bounds.index(1)] == 1
    assert counts[bounds.index(50)] == 1
    assert counts[bounds.index(75)] == 1, "fractions count: 50.4 is beyond 50"
    assert counts[-1] == 1
    assert reading.labels == ()


def test_models_are_told_apart_bounded_and_forgotten() -> None:
    meter = Meter(per_model=True, models_max=2)
    for model in ("a", "b", "c", "d"):
        meter.observe(LOAD, 1, model=model)
    assert [reading.labels[0][1] for reading in readings(meter, LOAD)] == ["a", "b", OTHER_MODEL]
    meter.forget("a")
    meter.forget("never seen")
    assert [reading.labels for reading in readings(meter, LOAD)] == [
        (("modelId", "b"), ("vModelId", "")),
        (("modelId", OTHER_MODEL), ("vModelId", "")),
    ]
    meter.observe(LOAD, 1, model="e")
    assert len(readings(meter, LOAD)) == 3, "there is room again"


def test_what_is_taken_is_gone() -> None:
    meter = Meter()
    meter.count("modelmesh_evictions", "redundant")
    assert any(reading.value == 1 for reading in meter.take())
    assert not [reading for reading in meter.take() if reading.family.name == "modelmesh_evictions"]


def test_a_gauge_has_one_number_or_one_for_each_of_its_series() -> None:
    steps = {("v", "m"): 2, ("w", "n"): 1}
    meter = Meter(gauges=lambda: {"modelmesh_instance_loads": 3, "modelmesh_rollout_step": steps})
    (loads,) = readings(meter, "modelmesh_instance_loads")
    assert (loads.labels, loads.value) == ((), 3)
    assert [(reading.labels, reading.value) for reading in readings(meter, "modelmesh_rollout_step")] == [
        ((("vModelId", "v"), ("modelId", "m")), 2),
        ((("vModelId", "w"), ("modelId", "n")), 1),
    ]
    assert not readings(meter, "modelmesh_rollout_share")


def test_counters_without_labels_begin_at_zero() -> None:
    (reading,) = readings(Meter(), "modelmesh_loadmodel_failure")
    assert reading.value == 0


def test_the_catalogue_is_sound() -> None:
    assert len(BY_NAME) == len(FAMILIES)
    for family in FAMILIES:
        assert family.meaning.endswith("."), family.name
        assert (family.kind is Kind.HISTOGRAM) == bool(family.bounds), family.name
        assert list(family.bounds) == sorted(family.bounds), family.name
