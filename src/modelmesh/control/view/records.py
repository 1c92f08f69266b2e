"""Model and vmodel records, read when needed.

The registry is not mirrored: cold models cost an instance nothing. Presence may come from a bounded
cache that the watch keeps true; absence is never answered from memory.

A read and the watch are independent. What was read before a change is not remembered after the watch has reported
that change, because nothing would correct it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from modelmesh.control.view.store_identity import StoreIdentity
from modelmesh.ports import (
    Change,
    ChangeKind,
    Clock,
    Compare,
    Get,
    KeyValue,
    Operation,
    Put,
    Store,
    StoreUnavailableError,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import ModelId, Revision, VModelId
from modelmesh.values.records import ModelRecord, VModelRecord
from modelmesh.values.stored import RecordError

CACHED = 10_000
"""Records kept; about 5 MB."""

READS = 256
"""Ids being read at a time."""

OVERTAKEN = 4_096
"""Changes to records that are not in memory whose names are remembered: more than pass while one is read."""

BATCH = 100
"""Records that `read_many` reads in one transaction; etcd's default limit is 128 operations."""

READ_AGAIN = 3
"""How often a record is read that changes while it is read."""

READ_BOUND_S = 0.9
"""How long a caller waits for a read: an answer within a second, though the store be silent."""

Id = TypeVar("Id", ModelId, VModelId)
Record = TypeVar("Record", ModelRecord, VModelRecord)


class NotReadError(Exception):
    """The store answers, and yet there is no record to work with."""


class TooManyReadsError(NotReadError):
    """The bound of ids being read at a time is reached."""


class UnreadableRecordError(NotReadError):
    """The stored record cannot be read."""


@dataclass(frozen=True, slots=True)
class Stored(Generic[Record]):
    """A record and its place in the store's history."""

    record: Record
    create_revision: Revision
    mod_revision: Revision


Registered = Stored[ModelRecord]


class RecordCache(Generic[Id, Record]):
    """Records of one table of the store.

    Args:
        prefix: The table's key prefix; an id is appended as it is.
        kind: The record type of the table.
        store_available: Whether the store answers, as far as is known; callers do not wait for one that does not.
        changed: Called with each name whose remembered record has changed; None: there is none.
    """

    def __init__(
        self,
        *,
        store: Store,
        identity: StoreIdentity,
        clock: Clock,
        prefix: str,
        kind: type[Record],
        store_available: Callable[[], bool],
        changed: "Callable[[Id, Stored[Record] | None], None]" = lambda _name, _stored: None,
    ) -> None:
        self._store_available = store_available
        self._changed: Callable[[Id, Stored[Record] | None], None] = changed
        self._store = store
        self._identity = identity
        self._clock = clock
        self._prefix = prefix
        self._kind: type[Record] = kind
        self._cached: OrderedDict[Id, Stored[Record]] = OrderedDict()
        self._reads: dict[Id, asyncio.Task[_Read]] = {}
        self._pinned: dict[Id, None] = {}
        self._latest: OrderedDict[Id, Revision] = OrderedDict()
        """When names that are not in memory last changed; of what changed up to `_passed` nothing is known."""
        self._passed = Revision(0)
        self._listings = 0

    def cached(self, name: Id) -> Stored[Record] | None:
        """A record from memory; None does not prove that there is none."""
        found = self._cached.get(name)
        if found is not None:
            self._cached.move_to_end(name)
        return found

    async def get(self, name: Id) -> Stored[Record] | None:
        """A record, or None if it is registered nowhere.

        Raises:
            TooManyReadsError: Too many unknown ids at once.
            StoreUnavailableError: The store is away, or is not believed yet.
            StoreReplacedError: The store is another one.
            UnreadableRecordError: The record is malformed.
        """
        found = self.cached(name)
        return found if found is not None else await self.read(name)

    async def read(self, name: Id) -> Stored[Record] | None:
        """As `get`, past the cache. Callers of one id share a read if it began after they came."""
        running = self._reads.get(name)
        if running is not None:
            # It was sent before we came: its record will do, its absence will not.
            read = await _in_time(running)
            if read.item is not None:
                return self._take(name, read.item, read)[0]
        stored: Stored[Record] | None = None
        for _ in range(READ_AGAIN):
            read = await _in_time(self._reads.get(name) or self._begin_read(name))
            if read.item is None:
                if self._clock.monotonic_ms() < self._identity.doubted_until_ms:
                    raise StoreUnavailableError("the store was replaced just now; its records are being put back")
                return None
            stored, remembered = self._take(name, read.item, read)
            if remembered:
                break
        return stored

    async def read_many(self, names: Sequence[Id]) -> dict[Id, Stored[Record]]:
        """The records of those names that have a readable one. They are read from the store and not remembered.

        Raises:
            StoreUnavailableError: The store is away, or its absences are not believed yet.
            StoreReplacedError: The store is another one.
        """
        found: dict[Id, Stored[Record]] = {}
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            if not self._store_available():
                raise StoreUnavailableError("the store is away")
            result = await self._identity.read(self._store, *(Get(self._prefix + name) for name in batch))
            for name, answer in zip(batch, result.answers, strict=True):
                assert isinstance(answer, tuple)
                if answer:
                    with suppress(UnreadableRecordError):
                        found[name] = self._decode(name, answer[0])
        if len(found) < len(names) and self._clock.monotonic_ms() < self._identity.doubted_until_ms:
            raise StoreUnavailableError("the store was replaced just now; its records are being put back")
        return found

    def _begin_read(self, name: Id) -> "asyncio.Task[_Read]":
        if not self._store_available():
            raise StoreUnavailableError("the store is away")
        if len(self._reads) >= READS:
            raise TooManyReadsError(f"more than {READS} unknown ids are being looked up; try again")
        reading = asyncio.get_running_loop().create_task(self._read(name), name=f"read {name}")
        self._reads[name] = reading
        reading.add_done_callback(lambda task: self._ended(name, task))
        return reading

    async def _read(self, name: Id) -> "_Read":
        began = self.listings
        result = await self._identity.read(self._store, Get(self._prefix + name))
        return _Read(_one(result), result.revision, began)

    async def create(self, name: Id, record: Record, *also: Operation) -> tuple[Stored[Record], bool]:
        """Put a record if there is none, and with it do something else; returns the standing one and whether it is ours.

        Raises:
            StoreUnavailableError: The store is away; the record may be there or not.
            StoreReplacedError: The store is another one.
            UnreadableRecordError: There is one, and it is malformed.
        """
        key = self._prefix + name
        began = self.listings
        result = await self._store.transact(
            Transaction(
                compares=(Compare(key, "create", "==", 0),),
                then=(Put(key, record.encode()), *also),
                otherwise=(Get(key), Get(self._identity.key)),
            )
        )
        if result.succeeded:
            stored = Stored(record, result.revision, result.revision)
            self.wrote(name, stored, began=began)
            return stored, True
        standing, alive = result.answers
        assert isinstance(standing, tuple)
        assert isinstance(alive, tuple)
        self._identity.check(alive)
        return self._take(name, standing[0], _Read(standing[0], result.revision, began))[0], False

    def changed(self, name: Id, change: Change) -> Stored[Record] | None:
        """Follow the watch: returns the new record if this one is cached or pinned and readable."""
        known = self._cached.get(name)
        self._latest[name] = change.item.mod_revision
        self._latest.move_to_end(name)
        if len(self._latest) > OVERTAKEN:
            _, self._passed = self._latest.popitem(last=False)
        if change.kind is ChangeKind.DELETE:
            if known is not None and known.mod_revision <= change.item.mod_revision:
                self.forget(name)
            return None
        if known is None and name not in self._pinned:
            return None
        try:
            return self._remember(name, change.item)
        except UnreadableRecordError:
            self.forget(name)
            return None

    def replace(self, found: Mapping[Id, KeyValue], revision: Revision, *, keep: bool) -> None:
        """Remember what a listing found, and nothing else.

        Args:
            found: The records of names that were remembered; what is missing here is gone.
            revision: That of the listing.
            keep: It is another store. Pinned records stay, whatever it says of them, and give way to what it has.
        """
        self._listings += 1
        self._latest.clear()
        self._passed = revision
        none = Revision(0)
        kept = {name: Stored(stored.record, none, none) for name, stored in self.kept().items()} if keep else {}
        before, self._cached = tuple(self._cached), OrderedDict(kept)
        for name, item in found.items():
            try:
                self._cached[name] = self._decode(name, item)
            except UnreadableRecordError:
                self._cached.pop(name, None)
        for name in before:
            if name not in self._cached:
                self._changed(name, None)
        for name, stored in self._cached.items():
            self._changed(name, stored)  # also what is as before: perhaps it was not taken then

    def remembered(self) -> Iterable[Id]:
        """The names whose records are in memory."""
        return tuple(self._cached)

    def pinned(self) -> Iterable[Id]:
        """The names that are pinned, in memory or not."""
        return tuple(self._pinned)

    def pin(self, name: Id) -> None:
        """Keep the record of `name` in memory beyond the bound (a model that is held)."""
        self._pinned[name] = None

    def unpin(self, name: Id) -> None:
        """Undo `pin`."""
        self._pinned.pop(name, None)

    def kept(self) -> dict[Id, Stored[Record]]:
        """All pinned records in memory."""
        return {name: self._cached[name] for name in self._pinned if name in self._cached}

    @property
    def listings(self) -> int:
        """How many listings there were; what began before the latest is not remembered."""
        return self._listings

    def wrote(self, name: Id, stored: Stored[Record], *, began: int) -> None:
        """This instance wrote a record; `began`: `listings` when it began to."""
        known = self._cached.get(name)
        if (known is None or known.mod_revision < stored.mod_revision) and self._current(
            name, stored.mod_revision, began
        ):
            self._insert(name, stored)

    def forget(self, name: Id) -> None:
        """All that is remembered may be outdated."""
        if self._cached.pop(name, None) is not None:
            self._changed(name, None)

    def _ended(self, name: Id, task: "asyncio.Task[_Read]") -> None:
        self._reads.pop(name, None)
        if not task.cancelled():
            task.exception()  # seen by every waiter; retrieved here in case all of them have ended

    def _current(self, name: Id, revision: Revision, began: int) -> bool:
        """Whether no change after `revision` has passed unseen."""
        return began == self._listings and revision >= self._latest.get(name, self._passed)

    def _take(self, name: Id, item: KeyValue, read: "_Read") -> tuple[Stored[Record], bool]:
        """A record that was read, and whether it is remembered: the watch may have reported a later one already."""
        known = self._cached.get(name)
        if known is not None and known.mod_revision >= item.mod_revision:
            return known, True
        stored = self._decode(name, item)
        current = self._current(name, read.revision, read.began)
        if current:
            self._insert(name, stored)
        return stored, current

    def _remember(self, name: Id, item: KeyValue) -> Stored[Record]:
        known = self._cached.get(name)
        if known is not None and known.mod_revision >= item.mod_revision:
            return known
        stored = self._decode(name, item)
        self._insert(name, stored)
        return stored

    def _decode(self, name: Id, item: KeyValue) -> Stored[Record]:
        try:
            record = self._kind.decode(item.value)
        except RecordError as error:
            raise UnreadableRecordError(f"the record of {name} cannot be read: {error}") from error
        return Stored(record, item.create_revision, item.mod_revision)

    def _insert(self, name: Id, stored: Stored[Record]) -> None:
        self._cached[name] = stored
        self._cached.move_to_end(name)
        self._changed(name, stored)
        while len(self._cached) > CACHED + len(self._pinned):
            for candidate in self._cached:
                if candidate not in self._pinned:
                    self.forget(candidate)
                    break


@dataclass(frozen=True, slots=True)
class _Read:
    """What a read found at a revision; `began`: how many listings there had been when it was sent."""

    item: KeyValue | None
    revision: Revision
    began: int


def _one(result: TransactionResult) -> KeyValue | None:
    answer = result.answers[0]
    assert isinstance(answer, tuple)
    return answer[0] if answer else None


async def _in_time(reading: "asyncio.Task[_Read]") -> _Read:
    """A read's result, which others may wait for as well."""
    try:
        async with asyncio.timeout(READ_BOUND_S):
            return await asyncio.shield(reading)
    except TimeoutError as error:
        raise StoreUnavailableError("the store does not answer") from error
