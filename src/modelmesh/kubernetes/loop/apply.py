"""Applies one rendered object, and writes only if it differs."""

from collections.abc import Callable

from modelmesh.kubernetes.differences import differences, mark_of, marked
from modelmesh.kubernetes.kinds import Key, Kind, Object, key_of, kind_of
from modelmesh.kubernetes.ports import MANAGER, Api

HANDED_OVER = "modelmesh-handover"
"""Field manager that keeps a value without another owner."""


class Applier:
    """Applies and deletes, through caches of what is there.

    Args:
        find: An object as it was seen last.
    """

    def __init__(self, api: Api, find: Callable[[Kind, Key], Object | None]) -> None:
        self._api = api
        self._find = find
        self._unseen: dict[tuple[Kind, Key], tuple[str | None, str]] = {}
        """Digests that were applied, and the revision that the cache had then: it has not seen the write while it has that."""
        self.writes = 0

    def live(self, item: Object) -> Object | None:
        """The object as it was seen last."""
        return self._find(kind_of(item), key_of(item))

    async def apply(self, item: Object) -> bool:
        """Apply an object if it is not so; whether that was written. Raises ApiError."""
        kind, key = kind_of(item), key_of(item)
        item = marked(item)
        live = self._find(kind, key)
        revision = live["metadata"]["resourceVersion"] if live is not None else None
        if self._unseen.get((kind, key)) == (revision, mark_of(item)):
            return False
        self._unseen.pop((kind, key), None)
        if live is not None and not any(differences(item, live)):
            return False
        await self._api.apply(kind, item)
        self.writes += 1
        self._unseen[kind, key] = (revision, mark_of(item))
        return True

    async def delete(self, kind: Kind, key: Key) -> bool:
        """Delete an object if it is there; whether that was written. Raises ApiError."""
        live = self._find(kind, key)
        if live is None or "deletionTimestamp" in live["metadata"]:
            return False
        await self._api.delete(kind, key, uid=live["metadata"]["uid"])
        self.writes += 1
        return True

    async def give_replicas(self, kind: Kind, live: Object) -> None:
        """Leave the number of pods to others: from now on applying without it keeps it. Raises ApiError.

        A field that only we own would be removed, and the default be one pod.
        """
        owners = owners_of_replicas(live)
        if owners == {MANAGER}:
            key = key_of(live)
            metadata = {"name": key.name, "namespace": key.namespace}
            metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
            item = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}
            await self._api.apply(kind, {**item, "spec": {"replicas": live["spec"]["replicas"]}}, manager=HANDED_OVER)
            self.writes += 1


def owners_of_replicas(item: Object) -> set[str]:
    """The field managers that own `spec.replicas`."""
    return {
        str(entry.get("manager"))
        for entry in item["metadata"].get("managedFields") or ()
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    }


def is_ours(item: Object) -> bool:
    """Whether this controller applied it before."""
    return bool(mark_of(item))
