"""The objects of one kind as they were seen last."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelmesh.kubernetes.kinds import Key, Kind, Object, key_of

Changed = Callable[[Key, Object | None, Object | None], None]
"""Called for a key, the object before, and the object now; None: there was or is none."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Annotation of kubectl: a second copy of each object."""


def trim(item: Object) -> Object:
    """An object without large fields that the controller does not read."""
    metadata: dict[str, Any] = item["metadata"]
    metadata.pop("managedFields", None)
    (metadata.get("annotations") or {}).pop(LAST_APPLIED, None)
    return item


class Cache:
    """Objects by key and by namespace.

    Args:
        trimmed: Takes from an object what is not needed; it may change it.

    Attributes:
        synced: Set when a listing was taken in, or the kind turned out to be absent.
        absent: The API server does not have the kind.
        failure: Why the objects cannot be read now; empty: they can, or it was not tried yet.
    """

    def __init__(self, kind: Kind, trimmed: Callable[[Object], Object] = trim) -> None:
        self.kind = kind
        self.trimmed = trimmed
        self.synced = asyncio.Event()
        self.absent = False
        self.failure = ""
        self._items: dict[str, dict[str, Object]] = {}
        self._count = 0
        self._changed: list[Changed] = []

    def __len__(self) -> int:
        return self._count

    def follow(self, changed: Changed) -> None:
        """Call `changed` with each change from now on."""
        self._changed.append(changed)

    def get(self, key: Key) -> Object | None:
        """An object. It is shared and must not be changed."""
        return self._items.get(key.namespace, {}).get(key.name)

    def within(self, namespace: str) -> Mapping[str, Object]:
        """The objects of a namespace, by name."""
        return self._items.get(namespace, {})

    def items(self) -> Iterable[tuple[Key, Object]]:
        """All of them."""
        return [(Key(namespace, name), item) for namespace, of in self._items.items() for name, item in of.items()]

    def put(self, item: Object) -> None:
        """An object is there, or is another than before."""
        key = key_of(item)
        self._set(key, self.trimmed(item))

    def remove(self, key: Key) -> None:
        """An object no longer exists."""
        self._set(key, None)

    def take_all(self, found: Mapping[Key, Object], *, absent: bool = False) -> None:
        """Replace the content by a listing."""
        self.failure = ""
        self.absent = absent
        for key in [key for key, _ in self.items()]:
            if key not in found:
                self._set(key, None)
        for key, item in found.items():
            self._set(key, item)
        self.synced.set()

    def _set(self, key: Key, item: Object | None) -> None:
        of = self._items.setdefault(key.namespace, {})
        before = of.get(key.name)
        if item is not None:
            of[key.name] = item
            if before is not None and _revision(before) == _revision(item):
                return
        elif before is None:
            return
        else:
            del of[key.name]
            if not of:
                del self._items[key.namespace]
        self._count += (item is not None) - (before is not None)
        for changed in self._changed:
            changed(key, before, item)


def _revision(item: Object) -> Any:
    return item["metadata"].get("resourceVersion")
