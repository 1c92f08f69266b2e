"""Which claims the pods of a runtime mount. Pure. Source: spec/serving-controller.md 7.4."""

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claims:
    """`mounted` in order; `missing` are named but not there, and `unreadable` are keys of the Secret that are no entries."""

    mounted: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


def claims_of(
    data: object,
    asked: Collection[str],
    existing: Collection[str],
    *,
    any_claim: bool,
    keys: Collection[str] | None = None,
) -> Claims:
    """Choose.

    Args:
        data: Of the storage Secret: base64 of one JSON object for each key.
        asked: Claims that models of the runtime name.
        existing: Claims of the namespace. One that is not there would keep all pods from starting.
        any_claim: Whether claims are mounted because models name them.
        keys: Of the Secret, that models of the runtime name; only their claims are mounted, and those that models name. None:
            those of all keys.
    """
    named: set[str] = set(asked) if any_claim else set()
    unreadable = []
    for key, text in sorted(data.items()) if isinstance(data, Mapping) else ():
        entry = _entry(text)
        if entry is None:
            unreadable.append(str(key))
        elif (claim := _claim(entry)) and (keys is None or key in keys or claim in asked):
            named.add(claim)
    return Claims(tuple(sorted(named & set(existing))), tuple(sorted(named - set(existing))), tuple(unreadable))


def _claim(entry: Mapping[str, object]) -> str:
    """The claim that an entry is of; empty: of none."""
    name = entry.get("name")
    return name if entry.get("type") == "pvc" and isinstance(name, str) else ""


def _entry(text: object) -> Mapping[str, object] | None:
    """One entry; it does not depend on the others."""
    try:
        found = json.loads(base64.b64decode(str(text), validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return found if isinstance(found, dict) else None
