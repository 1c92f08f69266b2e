"""Schemas of fields, as a CustomResourceDefinition has them."""

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

MAX_NAME = 63
MAX_TEXT = 4096
"""Bounds of texts keep the estimated cost of rules within what the API server allows."""


def text(
    description: str = "", *, most: int = MAX_TEXT, choices: Sequence[str] = (), default: str | None = None
) -> Schema:
    """A text of at most `most` characters."""
    found: Schema = {"type": "string", **_described(description)}
    if choices:
        found["enum"] = list(choices)
    else:
        found["maxLength"] = most
    return found if default is None else {**found, "default": default}


def number(description: str = "", *, least: int | None = None, most: int | None = None) -> Schema:
    """A whole number of 64 bits."""
    found: Schema = {"type": "integer", "format": "int64", **_described(description)}
    if least is not None:
        found["minimum"] = least
    return found if most is None else {**found, "maximum": most}


def flag(description: str = "") -> Schema:
    """A boolean."""
    return {"type": "boolean", **_described(description)}


def texts(description: str = "") -> Schema:
    """A mapping of texts."""
    return {"type": "object", "additionalProperties": {"type": "string"}, **_described(description)}


def mapping(
    properties: dict[str, Schema], description: str = "", *, required: Sequence[str] = (), open_: bool = False
) -> Schema:
    """A mapping. `open_`: further fields are kept as they are."""
    found: Schema = {"type": "object", **_described(description), "properties": properties}
    if required:
        found["required"] = list(required)
    return {**found, "x-kubernetes-preserve-unknown-fields": True} if open_ else found


def listing(item: Schema, description: str = "", *, most: int) -> Schema:
    """A list of at most `most` items."""
    return {"type": "array", **_described(description), "maxItems": most, "items": item}


def anything(description: str = "") -> Schema:
    """A mapping whose fields the API server checks elsewhere, where a pod is made of it."""
    return {"type": "object", **_described(description), "x-kubernetes-preserve-unknown-fields": True}


def conditions() -> Schema:
    """Conditions as Kubernetes has them."""
    condition = mapping(
        {
            "type": text(most=316),
            "status": text(choices=("True", "False", "Unknown")),
            "reason": text(most=1024),
            "message": text(most=32768),
            "observedGeneration": number(least=0),
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "severity": text(most=64),
        },
        required=("type", "status"),
    )
    return {
        **listing(condition, "What is true of it, and why.", most=32),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }


def _described(description: str) -> Schema:
    return {"description": description} if description else {}
