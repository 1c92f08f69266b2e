"""Writes the status of a resource if it is another than before."""

from dataclasses import dataclass
from typing import Any

from modelmesh.kubernetes.kinds import Key, Kind, Object, key_of
from modelmesh.kubernetes.ports import Api, ConflictError, NotFoundError
from modelmesh.kubernetes.status.conditions import patch_of


@dataclass(frozen=True, slots=True)
class _Written:
    """A status that was written. `behind`: revisions of the object that do not have it yet."""

    behind: frozenset[str]
    revision: str
    status: Any


class StatusWriter:
    """Writes by a merge patch on the revision that was read, so that no change is lost.

    A cache sees a write some time after it. Until then a second look at the object takes what was written for the
    present state (`latest`); with the cache's revision its write would be a conflict with the first.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._unknown: dict[Kind, set[str]] = {}
        """Fields that the schema of a kind does not have: the API server drops them, which is no difference."""
        self._without: set[Kind] = set()
        """Kinds that have no status."""
        self._written: dict[tuple[Kind, Key], _Written] = {}
        self.writes = 0

    def latest(self, kind: Kind, item: Object) -> Object:
        """The object of a cache, with the status that was written last if the cache has not seen it."""
        key = (kind, key_of(item))
        written = self._written.get(key)
        if written is None:
            return item
        if item["metadata"]["resourceVersion"] not in written.behind:
            del self._written[key]
            return item
        return {**item, "metadata": {**item["metadata"], "resourceVersion": written.revision}, "status": written.status}

    def forget(self, kind: Kind, key: Key) -> None:
        """The object is gone."""
        self._written.pop((kind, key), None)

    async def write(self, kind: Kind, item: Object, status: dict[str, Any]) -> bool:
        """Write `status` if it differs from that of `item`, which is `latest`; returns whether it was written. Raises ApiError."""
        if kind in self._without:
            return False
        before = item.get("status")
        patch = patch_of(before if isinstance(before, dict) else {}, status)
        for name in self._unknown.get(kind, ()):
            patch.pop(name, None)
        if not patch:
            return False
        key = key_of(item)
        revision = str(item["metadata"]["resourceVersion"])
        metadata = {"resourceVersion": revision}
        try:
            written = await self._api.merge(kind, key, {"metadata": metadata, "status": patch}, subresource="status")
        except ConflictError:
            self._written.pop((kind, key), None)  # somebody else was quicker, and the cache will say what they did
            raise
        except NotFoundError:
            if await self._api.read(kind, key) is not None:
                self._without.add(kind)
            return False
        self.writes += 1
        before = self._written.get((kind, key))
        behind = before.behind if before is not None and before.revision == revision else frozenset()
        self._written[kind, key] = _Written(
            behind | {revision}, str(written["metadata"]["resourceVersion"]), written.get("status")
        )
        kept = written.get("status") or {}
        lost = {name for name, value in patch.items() if value is not None and name not in kept}
        if lost:
            self._unknown.setdefault(kind, set()).update(lost)
        return True
