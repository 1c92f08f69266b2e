"""Conditions as Kubernetes has them, and times."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MESSAGE_BYTES = 1024
"""Of a message; Kubernetes allows 32 KiB, and a status is read by people."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. `status` None: unknown."""

    type: str
    status: bool | None
    reason: str
    message: str = ""


def merged(
    old: object, conditions: Iterable[Condition], *, now_ms: int, generation: int | None = None
) -> list[dict[str, Any]]:
    """The conditions of a resource with some replaced; those of other controllers stay as they are.

    Args:
        old: `status.conditions` as it is.
        conditions: The new ones.
        now_ms: A condition whose status changes has changed now; otherwise its time stays.
        generation: Written into each; None: the resource's schema has no place for it.
    """
    standing = [dict(entry) for entry in old if isinstance(entry, Mapping)] if isinstance(old, list) else []
    for condition in conditions:
        status = {True: "True", False: "False", None: "Unknown"}[condition.status]
        before = next((entry for entry in standing if entry.get("type") == condition.type), None)
        since = before.get("lastTransitionTime") if before is not None and before.get("status") == status else None
        entry: dict[str, Any] = {"type": condition.type, "status": status, "reason": condition.reason}
        if condition.message:
            entry["message"] = shortened(condition.message)
        if generation is not None:
            entry["observedGeneration"] = generation
        entry["lastTransitionTime"] = since or time_text(now_ms)
        if before is None:
            standing.append(entry)
        else:
            standing[standing.index(before)] = entry
    return standing


def shortened(text: str) -> str:
    """A text that a status has room for."""
    data = text.encode()
    return text if len(data) <= MESSAGE_BYTES else f"{data[:MESSAGE_BYTES].decode(errors='ignore')}…"


def time_text(epoch_ms: int) -> str:
    """RFC 3339, in seconds."""
    return datetime.fromtimestamp(epoch_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def time_ms(text: object) -> int:
    """Epoch milliseconds of an RFC 3339 time; 0 if it is none."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return 0
    return int(found.timestamp() * 1000) if found.tzinfo is not None else 0


def patch_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch from one object to another; empty if they are the same."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := patch_of(before, value):
                patch[name] = inner
        elif value != before or name not in old:
            patch[name] = value
    return patch
