"""Whether an object in the cluster is as it was rendered. Pure.

The API server adds defaults and writes quantities in its own way; neither is a difference.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from modelmesh.kubernetes.kinds import Object
from modelmesh.kubernetes.quantities import parse_quantity

APPLIED = "modelmesh.io/applied"
"""Annotation: what was applied last, as a digest. It shows which fields are not wanted any more."""

_KEYS = ("name", "mountPath", "containerPort", "port", "type", "uid", "key")
"""By which the items of a list are found, if each item of both lists has one."""


def marked(item: Object) -> Object:
    """The object with the digest of itself."""
    digest = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:16]
    metadata = item["metadata"]
    annotations = {**(metadata.get("annotations") or {}), APPLIED: digest}
    return {**item, "metadata": {**metadata, "annotations": annotations}}


def mark_of(item: Object) -> str:
    """The digest that an object has; empty if it was not applied by this controller."""
    annotations = item["metadata"].get("annotations") or {}
    return str(annotations.get(APPLIED, ""))


def differences(wanted: Any, live: Any, path: str = "") -> Iterator[str]:
    """The paths where a live value has not what is wanted. What it has beyond that is not looked at."""
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            if wanted:
                yield path
            return
        for name, value in wanted.items():
            yield from differences(value, live.get(name), f"{path}.{name}" if path else name)
    elif isinstance(wanted, list):
        yield from _of_lists(wanted, live, path)
    elif wanted != live and not _same_quantity(wanted, live, path) and not (live is None and not wanted):
        yield path


def _of_lists(wanted: list[Any], live: Any, path: str) -> Iterator[str]:
    if not isinstance(live, list):
        if wanted:
            yield path
        return
    key = next((key for key in _KEYS if _all_have(wanted, key) and _all_have(live, key)), None)
    if key is None or len({item[key] for item in wanted}) < len(wanted):
        if len(wanted) != len(live):
            yield path
            return
        for number, (value, there) in enumerate(zip(wanted, live, strict=True)):
            yield from differences(value, there, f"{path}[{number}]")
        return
    found = {item[key]: item for item in live}
    for item in wanted:
        yield from differences(item, found.get(item[key]), f"{path}[{item[key]}]")


def _all_have(items: list[Any], key: str) -> bool:
    return bool(items) and all(isinstance(item, dict) and key in item for item in items)


def _same_quantity(wanted: Any, live: Any, path: str) -> bool:
    """Whether two texts are one amount, where amounts stand."""
    if live is None or not (".limits." in path or ".requests." in path or path.endswith(".sizeLimit")):
        return False
    amount = parse_quantity(wanted)
    return amount is not None and amount == parse_quantity(live)
