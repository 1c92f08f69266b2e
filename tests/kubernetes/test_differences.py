"""Our Deployments beside those of the archived controller: what differs is a row of the page, and each row differs."""

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from go_controller import deployment
from golden import CUSTOM, EVERYTHING, configured, runtimes, shipped

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.quantities import parse_quantity
from modelmesh.kubernetes.render import render_runtime

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "kubernetes-differences.md").read_text()
ROWS = tuple(re.findall(r"^\| `…([^`]+)` \|", PAGE, flags=re.MULTILINE))
(CUSTOM_RUNTIME,) = runtimes(CUSTOM)
REGISTRY = runtimes("""
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {name: own-registry, namespace: models}
spec:
  supportedModelFormats: [{name: sklearn, autoSelect: true}]
  multiModel: true
  grpcEndpoint: port:8085
  containers: [{name: mlserver, image: "registry.example:5000/mlserver:1.7.1"}]
  builtInAdapter: {serverType: mlserver, runtimeManagementPort: 8001, memBufferBytes: 1, modelLoadingTimeoutMillis: 1}
""")[0]
NO_REST = "restProxy: {enabled: false}\nmetrics: {enabled: false}"
CASES: dict[str, tuple[Runtime, Config, tuple[str, ...]]] = {
    **{
        name: (shipped(name), configured(), ())
        for name in ("mlserver-1.x", "modelmesh-1.x", "ovms-1.x", "torchserve-0.x", "triton-2.x")
    },
    "everything": (shipped("triton-2.x"), configured(EVERYTHING), ("models", "more")),
    "no REST, no metrics": (shipped("mlserver-1.x"), configured(NO_REST), ()),
    "custom": (CUSTOM_RUNTIME, configured(EVERYTHING), ("scratch", "a.claim")),
    "registry with a port": (REGISTRY, configured(), ()),
}


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values. Items of lists have their names (mounts their paths) in the path instead of their number."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}")
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        key = "mountPath" if path.endswith("volumeMounts") else "name"
        if path.endswith(".containers"):
            yield f"{path} (order)", [item["name"] for item in value]
        for number, item in enumerate(value):
            yield from flat(item, f"{path}.{item.get(key, number)}")
    else:
        yield path, int(parse_quantity(value) or 0) if path.endswith("sizeLimit") else value


def differing(runtime: Runtime, config: Config, claims: tuple[str, ...]) -> set[str]:
    """Paths below the pod's spec, or whole paths elsewhere."""
    ours, *_ = render_runtime(runtime, config, namespace="models", replicas=3, claims=claims, tls_authority=True)
    old = dict(flat(deployment(runtime, config, namespace="models", replicas=3, claims=claims)))
    new = dict(flat(ours))
    return {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}


def row_of(path: str) -> str | None:
    """The row that names a path: itself, or something it lies in."""
    for row in ROWS:
        pattern = f"*.{row}" if not row.startswith(".") else f"*{row}"
        if fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}.*"):
            return row
    return None


@pytest.mark.parametrize("case", CASES)
def test_each_difference_has_a_row(case: str) -> None:
    assert sorted(path for path in differing(*CASES[case]) if row_of(path) is None) == []


def test_each_row_is_a_difference() -> None:
    seen = {row_of(path) for case in CASES.values() for path in differing(*case)}
    assert set(ROWS) - seen == set()
