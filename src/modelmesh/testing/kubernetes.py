"""A Kubernetes API server in memory: revisions, watches, conflicts, owners of fields, and faults on purpose.

It has what the controller uses: lists in pages, watches with bookmarks, 404, 409 and 410, server-side apply, merge patches,
the status subresource, generations. It checks no schema and sets no defaults.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from modelmesh.kubernetes.kinds import NAMESPACE, Key, Kind, Object, key_of
from modelmesh.kubernetes.ports import (
    MANAGER,
    Api,
    ApiError,
    Change,
    ConflictError,
    GoneError,
    NotFoundError,
    Page,
    Scope,
    WatchEvent,
)
from modelmesh.ports import Clock
from modelmesh.testing.kubernetes_fields import (
    Owners,
    apply,
    copied,
    managed_fields,
    merged,
    read_managed_fields,
    wrote,
)

BOOKMARK_S = 60.0
READS = {"LIST", "WATCH", "GET"}


@dataclass(frozen=True, slots=True)
class Requested:
    """A request. `verb` is LIST, WATCH, GET, APPLY, PATCH, POST, PUT or DELETE; `fields` is the selector of a list."""

    verb: str
    kind: str
    key: Key
    subresource: str = ""
    fields: str = ""


@dataclass(slots=True)
class _Stored:
    """An object as it is kept. Nothing in it changes: each write keeps a new one."""

    item: Object
    owners: Owners
    _shown: Object | None = None

    def shown(self) -> Object:
        """A copy with `metadata.managedFields`, which are made once: reads are far more frequent than writes."""
        if self._shown is None:
            metadata = {**self.item["metadata"], "managedFields": managed_fields(self.owners)}
            self._shown = {**self.item, "metadata": metadata}
        shown: Object = copied(self._shown)
        return shown


@dataclass(slots=True, eq=False)
class _Watch:
    kind: Kind
    scope: Scope
    events: "deque[tuple[int, WatchEvent]]"
    wake: asyncio.Event
    cut: bool = False
    frozen: bool = False


class MemoryApi(Api):
    """Implements `Api`, and has knobs for tests.

    Attributes:
        down: Every request fails as without a listener.
        latency_ms: Before each answer.
        absent: Names of kinds that are not installed.
        pruned: Top fields of the status of a kind that its schema does not have: they are dropped.
        requests: Everything that was answered, oldest first.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._objects: dict[str, dict[Key, _Stored]] = {}
        self._revision = 0
        self._compacted = 0
        self._history: list[tuple[int, Kind, WatchEvent]] = []
        self._listings: dict[str, tuple[int, list[Object]]] = {}
        self._watches: list[_Watch] = []
        self._uids = 0
        self.down = False
        self.latency_ms = 0
        self.absent: set[str] = set()
        self.pruned: dict[str, set[str]] = {}
        self.refuse: Callable[[Requested], ApiError | None] = lambda _: None
        """Asked before each request; what it returns is the answer."""
        self.requests: list[Requested] = []

    # --- for tests ----------------------------------------------------------------------------------

    @property
    def writes(self) -> list[Requested]:
        """The requests that were no reads."""
        return [request for request in self.requests if request.verb not in READS]

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """An object as it is."""
        stored = self._objects.get(kind.name, {}).get(Key(namespace, name))
        return stored.shown() if stored is not None else None

    def all(self, kind: Kind) -> list[Object]:
        """All objects of a kind, by key."""
        return [stored.shown() for _, stored in sorted(self._objects.get(kind.name, {}).items())]

    def put(self, kind: Kind, item: Object, *, manager: str = "kubectl") -> Object:
        """Another client creates an object or replaces it, its status included."""
        item = {"apiVersion": kind.api_version, "kind": kind.name, **copied(item)}
        standing = self._objects.get(kind.name, {}).get(key_of(item))
        return self._store(kind, standing, item, manager, statuses=True)

    def edit(self, kind: Kind, name: str, namespace: str, patch: Object, *, manager: str = "kubectl") -> Object:
        """Another client patches an object, its status included."""
        standing = self._standing(kind, Key(namespace, name))
        return self._store(kind, standing, merged(standing.item, patch), manager, statuses=True)

    def remove(self, kind: Kind, name: str, namespace: str = "") -> None:
        """Another client deletes an object."""
        key = Key(namespace, name)
        stored = self._objects[kind.name].pop(key)
        self._revision += 1
        last = {**stored.item, "metadata": {**stored.item["metadata"], "resourceVersion": str(self._revision)}}
        self._tell(kind, Change.DELETED, last)

    def cut_watches(self) -> None:
        """Every open watch breaks."""
        for watch in self._watches:
            watch.cut = True
            watch.wake.set()

    def freeze_watches(self) -> None:
        """Every open watch stays open, and nothing comes any more."""
        for watch in self._watches:
            watch.frozen = True

    def compact(self) -> None:
        """What happened until now can no longer be watched, nor a listing be continued."""
        self._compacted = self._revision
        self._history.clear()
        self._listings.clear()

    @property
    def revision(self) -> int:
        """Of the latest change of any object."""
        return self._revision

    @property
    def watching(self) -> int:
        """Open watches."""
        return len(self._watches)

    # --- Api ----------------------------------------------------------------------------------------

    async def list(self, kind: Kind, scope: Scope, *, limit: int, after: str = "") -> Page:
        """See `Api`."""
        await self._answer(Requested("LIST", kind.name, Key(scope.namespace, ""), fields=scope.fields))
        if after:
            if after not in self._listings:
                raise GoneError(410, "the listing is no longer kept")
            revision, rest = self._listings.pop(after)
        else:
            revision, rest = self._revision, [item for item in self.all(kind) if _selects(scope, item)]
        more = ""
        if len(rest) > limit:
            more = f"{revision}-{len(rest) - limit}-{len(self.requests)}"
            self._listings[more] = (revision, rest[limit:])
        return Page(tuple(rest[:limit]), str(revision), more)

    async def watch(self, kind: Kind, scope: Scope, *, revision: str) -> AsyncGenerator[WatchEvent, None]:
        """See `Api`."""
        await self._answer(Requested("WATCH", kind.name, Key(scope.namespace, ""), fields=scope.fields))
        since = int(revision)
        if since < self._compacted:
            raise GoneError(410, "too old resource version")
        missed = [(at, event) for at, of, event in self._history if of == kind and at > since]
        watch = _Watch(kind, scope, deque(missed), asyncio.Event())
        self._watches.append(watch)
        try:
            while True:
                while watch.events and not watch.frozen:
                    _, event = watch.events.popleft()
                    if _selects(scope, event.item):
                        yield WatchEvent(event.change, copied(event.item))
                if watch.cut or self.down:
                    raise ApiError(0, "the connection broke")
                watch.wake.clear()
                try:
                    async with asyncio.timeout(BOOKMARK_S):
                        await watch.wake.wait()
                except TimeoutError:
                    if not watch.frozen:
                        yield WatchEvent(Change.BOOKMARK, {"metadata": {"resourceVersion": str(self._revision)}})
        finally:
            self._watches.remove(watch)

    async def read(self, kind: Kind, key: Key) -> Object | None:
        """See `Api`."""
        await self._answer(Requested("GET", kind.name, key))
        return self.get(kind, key.name, key.namespace)

    async def apply(self, kind: Kind, item: Object, *, manager: str = MANAGER) -> Object:
        """See `Api`."""
        key = key_of(item)
        await self._answer(Requested("APPLY", kind.name, key))
        self._check_namespace(key)
        standing = self._objects.get(kind.name, {}).get(key)
        if standing is not None:
            self._check_revision(standing, item)
        owners = _owners(standing)
        result = apply(standing.item if standing is not None else None, item, owners, manager)
        if standing is not None and result == standing.item and owners == standing.owners:
            return standing.shown()
        return self._store(kind, standing, result, manager, owners=owners)

    async def merge(
        self, kind: Kind, key: Key, patch: Object, *, subresource: str = "", manager: str = MANAGER
    ) -> Object:
        """See `Api`."""
        await self._answer(Requested("PATCH", kind.name, key, subresource))
        standing = self._standing(kind, key)
        self._check_revision(standing, patch)
        result = merged(standing.item, patch)
        if (entries := patch.get("metadata", {}).get("managedFields")) is not None:
            return self._store(kind, standing, result, manager, owners=read_managed_fields(entries))
        if subresource == "status":
            result = {**standing.item, "status": self._kept(kind, result.get("status"))}
        return self._store(kind, standing, result, manager, statuses=subresource == "status")

    async def create(self, kind: Kind, item: Object) -> Object:
        """See `Api`."""
        key = key_of(item)
        await self._answer(Requested("POST", kind.name, key))
        self._check_namespace(key)
        if key in self._objects.get(kind.name, {}):
            raise ConflictError(409, f"{kind.plural} {key} already exists")
        return self._store(kind, None, copied(item), MANAGER)

    async def replace(self, kind: Kind, item: Object) -> Object:
        """See `Api`."""
        key = key_of(item)
        await self._answer(Requested("PUT", kind.name, key))
        standing = self._standing(kind, key)
        self._check_revision(standing, item)
        return self._store(kind, standing, copied(item), MANAGER)

    async def delete(self, kind: Kind, key: Key, *, uid: str = "") -> None:
        """See `Api`."""
        await self._answer(Requested("DELETE", kind.name, key))
        stored = self._objects.get(kind.name, {}).get(key)
        if stored is None:
            return
        if uid and stored.item["metadata"]["uid"] != uid:
            raise ConflictError(409, f"{kind.plural} {key} has another uid")
        self.remove(kind, key.name, key.namespace)

    # --- parts --------------------------------------------------------------------------------------

    async def _answer(self, request: Requested) -> None:
        if self.latency_ms:
            await self._clock.sleep(self.latency_ms)
        else:
            await asyncio.sleep(0)
        if self.down:
            raise ApiError(0, "connection refused")
        refusal = self.refuse(request)
        if refusal is not None:
            raise refusal
        if request.kind in self.absent:
            raise NotFoundError(404, "the server could not find the requested resource")
        self.requests.append(request)

    def _standing(self, kind: Kind, key: Key) -> _Stored:
        stored = self._objects.get(kind.name, {}).get(key)
        if stored is None:
            raise NotFoundError(404, f"{kind.plural} {key} not found")
        return stored

    def _check_namespace(self, key: Key) -> None:
        if key.namespace and Key("", key.namespace) not in self._objects.get(NAMESPACE.name, {}):
            raise NotFoundError(404, f"namespaces {key.namespace} not found")

    @staticmethod
    def _check_revision(stored: _Stored, item: Object) -> None:
        expected = item.get("metadata", {}).get("resourceVersion")
        if expected is not None and expected != stored.item["metadata"]["resourceVersion"]:
            raise ConflictError(409, "the object has been modified; apply your changes to the latest version")

    def _kept(self, kind: Kind, status: Object | None) -> Object:
        pruned = self.pruned.get(kind.name, set())
        return {name: value for name, value in (status or {}).items() if name not in pruned}

    def _store(
        self,
        kind: Kind,
        standing: _Stored | None,
        result: Object,
        manager: str,
        *,
        statuses: bool = False,
        owners: Owners | None = None,
    ) -> Object:
        """Keep an object, unless nothing of it changed."""
        before = standing.item if standing is not None else None
        result = copied(result)
        if before is not None and not statuses:
            result.pop("status", None)
            if "status" in before:
                result["status"] = copied(before["status"])
        metadata = {**result["metadata"]}
        metadata.pop("managedFields", None)
        if before is None:
            self._uids += 1
            created = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            metadata |= {"uid": f"uid-{self._uids}", "generation": 1, "creationTimestamp": created}
        else:
            old = before["metadata"]
            kept = ("uid", "generation", "creationTimestamp", "resourceVersion")
            metadata |= {name: old[name] for name in kept}
            if result.get("spec") != before.get("spec"):
                metadata["generation"] = old["generation"] + 1
        result["metadata"] = metadata
        if owners is None:
            owners = _owners(standing)
            wrote(before, result, owners, manager)
        if before is not None and result == before and standing is not None and owners == standing.owners:
            return standing.shown()
        self._revision += 1
        metadata["resourceVersion"] = str(self._revision)
        stored = _Stored(result, owners)
        self._objects.setdefault(kind.name, {})[key_of(result)] = stored
        self._tell(kind, Change.ADDED if before is None else Change.MODIFIED, stored.shown())
        return stored.shown()

    def _tell(self, kind: Kind, change: Change, item: Object) -> None:
        event = WatchEvent(change, item)
        self._history.append((self._revision, kind, event))
        for watch in self._watches:
            if watch.kind == kind:
                watch.events.append((self._revision, event))
                watch.wake.set()


def _owners(standing: _Stored | None) -> Owners:
    """The owners of the fields of an object, to be changed."""
    return {manager: set(paths) for manager, paths in standing.owners.items()} if standing is not None else {}


def _selects(scope: Scope, item: Object) -> bool:
    metadata = item["metadata"]
    if scope.namespace and metadata.get("namespace") != scope.namespace:
        return False
    labels = metadata.get("labels") or {}
    for term in filter(None, scope.labels.split(",")):
        name, equals, value = term.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    name = scope.fields.removeprefix("metadata.name=")
    return not name or metadata["name"] == name
