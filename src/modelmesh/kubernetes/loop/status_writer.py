"""Writes the status of a resource if it is another than before."""

from typing import Any

from modelmesh.kubernetes.kinds import Kind, Object, key_of
from modelmesh.kubernetes.ports import Api, NotFoundError
from modelmesh.kubernetes.status.conditions import patch_of


class StatusWriter:
    """Writes by a merge patch on the revision that was read, so that no change is lost."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._unknown: dict[Kind, set[str]] = {}
        """Fields that the schema of a kind does not have: the API server drops them, which is no difference."""
        self._without: set[Kind] = set()
        """Kinds that have no status."""
        self.writes = 0

    async def write(self, kind: Kind, item: Object, status: dict[str, Any]) -> bool:
        """Write `status` if the status that was read differs; returns whether it was written. Raises ApiError."""
        if kind in self._without:
            return False
        before = item.get("status")
        patch = patch_of(before if isinstance(before, dict) else {}, status)
        for name in self._unknown.get(kind, ()):
            patch.pop(name, None)
        if not patch:
            return False
        key = key_of(item)
        metadata = {"resourceVersion": item["metadata"]["resourceVersion"]}
        try:
            written = await self._api.merge(kind, key, {"metadata": metadata, "status": patch}, subresource="status")
        except NotFoundError:
            if await self._api.read(kind, key) is not None:
                self._without.add(kind)
            return False
        self.writes += 1
        kept = written.get("status") or {}
        lost = {name for name, value in patch.items() if value is not None and name not in kept}
        if lost:
            self._unknown.setdefault(kind, set()).update(lost)
        return True
