"""The reference page of metrics and the dashboard say what there is."""

import json
import re
from pathlib import Path

from modelmesh.instance.reference import metrics_page
from modelmesh.values.metrics import FAMILIES, Kind

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/modelmesh.json").read_text())

SAMPLES = {
    name: family
    for family in FAMILIES
    for name in (
        [f"{family.name}{suffix}" for suffix in ("_bucket", "_count", "_sum")]
        if family.kind is Kind.HISTOGRAM
        else [family.exposed]
    )
}
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
"""Of the library, exposed with `mem_detail`."""


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_page_is_made_from_the_catalogue() -> None:
    assert (ROOT / "docs/reference/metrics.md").read_text() == metrics_page(), "run: make docs"


def test_the_dashboard_asks_only_for_what_there_is() -> None:
    for expression in expressions():
        names = set(re.findall(r"\b(?:modelmesh|process)_\w+", expression))
        assert names, expression
        assert names <= {*SAMPLES} | PROCESS, expression


def test_the_dashboard_groups_by_labels_that_there_are() -> None:
    added_by_prometheus = {"le", "job", "instance"}
    for expression in expressions():
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        (name,) = set(re.findall(r"\bmodelmesh_\w+", expression)) or {""}
        known = {*SAMPLES[name].labels} if name else set()
        assert grouped <= known | added_by_prometheus, expression


def test_every_metric_of_calls_loads_and_queues_is_on_the_dashboard() -> None:
    shown = {SAMPLES[name].name for name in re.findall(r"\bmodelmesh_\w+", " ".join(expressions()))}
    left_out = {family.name for family in FAMILIES} - shown
    assert left_out == {
        "modelmesh_unloadmodel_failure",  # always zero
        "modelmesh_model_sizing_milliseconds",
        "modelmesh_loading_bytes",  # of loads that run now: `models status` says it of each
        "modelmesh_loading_bytes_done",
        "modelmesh_instance_lru_seconds",  # its age is shown
        "modelmesh_instance_capacity_bytes",  # its share is shown
        "modelmesh_instance_used_bytes",
        "modelmesh_instance_loads",
        "modelmesh_events",
        "modelmesh_rollout_state",  # of rollouts: `vmodels status` says it
        "modelmesh_rollout_step",
        "modelmesh_rollout_share",
        "modelmesh_tapped_calls",
        "modelmesh_held_bytes",
        "modelmesh_replay_bytes",
        "modelmesh_tapped_bytes",
        "modelmesh_shadow_bytes",
        "modelmesh_client_bytes",  # who had to go because of it is shown
        "modelmesh_peer_bytes",
        "modelmesh_neighbour_bytes",
        "modelmesh_core_events",
    }


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
