"""Renders docs/reference/kubernetes.md from the code: `python -m modelmesh.kubernetes.reference`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelmesh.declared.inference_services import FRAMEWORKS
from modelmesh.kubernetes.admission.definitions import definitions
from modelmesh.kubernetes.annotations import ANNOTATIONS
from modelmesh.kubernetes.config_keys import KEYS, Key

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "kubernetes.md"
_DEEPEST = 4
_SAID_ELSEWHERE = frozenset({"conditions", *FRAMEWORKS})
"""Fields whose inner ones are Kubernetes' own, or those of another field."""

_HEAD = """# Resources, annotations and configuration on Kubernetes

Rendered from the code by `make docs`. How to begin: [serve on Kubernetes](../how-to/serve-on-kubernetes.md).

Contents: [configuration](#configuration) · [annotations and labels](#annotations-and-labels) · [resources](#resources)

## Configuration

Keys of `config.yaml` in the ConfigMap `model-serving-config`. The ConfigMap of that name in the controller's namespace counts for all
namespaces, one in the namespace of the models for that namespace, and the annotation `modelmesh.io/config` of a runtime (YAML with the same keys)
for that runtime. The last of them wins. Mappings are joined, everything else is replaced. The letters of keys may be of any case. The column
*up to* says which of the three may set a key. A key that does not exist is reported and has no effect; a wrong value keeps the last
configuration that could be used in force.

| key | default | up to | |
|---|---|---|---|
"""

_ANNOTATIONS = """
## Annotations and labels

| name | of | |
|---|---|---|
"""

_RESOURCES = """
## Resources

Fields of `serving.kserve.io`. Of containers, volumes, tolerations and affinity all fields of Kubernetes may be given; here are those that the mesh looks at.
"""


def page() -> str:
    """The page."""
    keys = "".join(_key_row(key) for key in KEYS)
    annotations = "".join(f"| `{one.name}` | {one.resource} | {one.meaning} |\n" for one in ANNOTATIONS)
    return (
        _HEAD
        + keys
        + _ANNOTATIONS
        + annotations
        + _RESOURCES
        + "".join(_resource(*item) for item in definitions().items())
    )


def _key_row(key: Key) -> str:
    default = key.default if not isinstance(key.default, tuple) else list(key.default)
    shown = "" if key.default in (None, "") else f"`{json.dumps(default).strip(chr(34))}`"
    return f"| `{key.name}` | {shown} | {key.level.name.lower()} | {key.meaning} |\n"


def _resource(_plural: str, definition: dict[str, Any]) -> str:
    spec = definition["spec"]
    kind, version = spec["names"]["kind"], spec["versions"][0]
    if kind == "ClusterServingRuntime":
        return "\n### ClusterServingRuntime\n\nAs ServingRuntime, for all namespaces. A ServingRuntime of the same name hides it in its namespace.\n"
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    rows = "".join(
        f"| `{path}` | {what} | {description} |\n"
        for part in ("spec", "status")
        for path, what, description in _fields(schema[part], part)
    )
    return f"\n### {kind}\n\n`{spec['group']}/{version['name']}`\n\n| field | type | |\n|---|---|---|\n{rows}"


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        required = "required. " if name in schema.get("required", ()) else ""
        yield where, _type(field), f"{required}{field.get('description', '')}".strip()
        inner = field.get("items", field)
        if where.count(".") < _DEEPEST and name not in _SAID_ELSEWHERE:
            yield from _fields(inner, f"{where}[]" if "items" in field else where)


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{choice}`" if choice else "empty" for choice in field["enum"])
    kind = str(field["type"])
    if kind == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return "mapping of texts" if field["additionalProperties"] == {"type": "string"} else "mapping"
    named = {"string": "text", "integer": "number", "boolean": "true or false", "object": "mapping"}[kind]
    low, high = field.get("minimum"), field.get("maximum")
    bounds = f" {low} to {high}" if high is not None else f" from {low}" if low is not None else ""
    return named + bounds


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
