"""Taking over objects that the archived controller made. Pure."""

import copy
from typing import Any

from modelmesh.kubernetes.kinds import Object
from modelmesh.kubernetes.ports import MANAGER

OLD_MANAGER = "manager"
"""The field manager of the archived controller: the name of its program."""


def adopted_fields(live: Object) -> Object | None:
    """The patch that makes the old controller's fields ours; None: it owns none.

    With it, server-side apply removes what the old controller wrote and is not wanted, as a container of a sidecar. The
    number of pods and the status keep their owners.
    """
    fields = live["metadata"].get("managedFields") or []
    entries: list[dict[str, Any]] = []
    found = False
    for entry in fields:
        if entry.get("manager") == OLD_MANAGER and entry.get("operation") == "Update" and not entry.get("subresource"):
            if found or any(other.get("manager") == MANAGER for other in fields):
                continue  # an owner has one entry; what it lists beyond it has no owner then
            entry = {**copy.deepcopy(entry), "manager": MANAGER, "operation": "Apply"}  # noqa: PLW2901 - as it shall be
            found = True
        entries.append(entry)
    if not found:
        return None
    return {"metadata": {"managedFields": entries, "resourceVersion": live["metadata"]["resourceVersion"]}}
