"""Model and vmodel records, read when needed.

The registry is not mirrored: cold models cost an instance nothing. Presence may come from a bounded
cache that the watch keeps true; absence is never answered from memory.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from modelmesh.control.identity import StoreIdentity
from modelmesh.ports import (
    Change,
    ChangeKind,
    Clock,
    Compare,
    Get,
    KeyValue,
    Put,
    Store,
    StoreUnavailableError,
    Transaction,
)
from modelmesh.values.ids import ModelId, Revision, VModelId
from modelmesh.values.records import ModelRecord, RecordError, VModelRecord

CACHED = 10_000
"""Records kept; about 5 MB."""

READS = 256
"""Ids being read at a time."""

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
        store_there: Whether the store answers, as far as is known; callers do not wait for one that does not.
    """

    def __init__(
        self,
        *,
        store: Store,
        identity: StoreIdentity,
        clock: Clock,
        prefix: str,
        kind: type[Record],
        store_there: Callable[[], bool],
    ) -> None:
        self._store_there = store_there
        self._store = store
        self._identity = identity
        self._clock = clock
        self._prefix = prefix
        self._kind: type[Record] = kind
        self._cached: OrderedDict[Id, Stored[Record]] = OrderedDict()
        self._reads: dict[Id, asyncio.Task[KeyValue | None]] = {}
        self._pinned: dict[Id, None] = {}

    def cached(self, name: Id) -> Stored[Record] | None:
        """A record from memory; None says nothing."""
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
            item = await _in_time(running)
            if item is not None:
                return self._remember(name, item)
        reading = self._reads.get(name)
        if reading is None:
            if not self._store_there():
                raise StoreUnavailableError("the store is away")
            if len(self._reads) >= READS:
                raise TooManyReadsError(f"more than {READS} unknown ids are being looked up; try again")
            reading = asyncio.get_running_loop().create_task(
                self._identity.get(self._store, self._prefix + name), name=f"read {name}"
            )
            self._reads[name] = reading
            reading.add_done_callback(lambda task: self._ended(name, task))
        item = await _in_time(reading)
        if item is not None:
            return self._remember(name, item)
        if self._clock.now_ms() < self._identity.doubted_until_ms:
            raise StoreUnavailableError("the store was replaced a moment ago; its records are being put back")
        return None

    async def create(self, name: Id, record: Record) -> tuple[Stored[Record], bool]:
        """Put a record if there is none; returns the standing one and whether it is ours.

        Raises:
            StoreUnavailableError: The store is away; the record may be there or not.
            StoreReplacedError: The store is another one.
            UnreadableRecordError: There is one, and it is malformed.
        """
        key = self._prefix + name
        result = await self._store.transact(
            Transaction(
                compares=(Compare(key, "create", "==", 0),),
                then=(Put(key, record.encode()),),
                otherwise=(Get(key), Get(self._identity.key)),
            )
        )
        if result.succeeded:
            self.wrote(name, record, create_revision=result.revision, mod_revision=result.revision)
            return Stored(record, result.revision, result.revision), True
        standing, alive = result.answers
        assert isinstance(standing, tuple)
        assert isinstance(alive, tuple)
        self._identity.check(alive)
        return self._remember(name, standing[0]), False

    def changed(self, name: Id, change: Change) -> Stored[Record] | None:
        """Follow the watch: returns the new record if this one is cached or pinned and readable."""
        known = self._cached.get(name)
        if change.kind is ChangeKind.DELETE:
            if known is not None and known.mod_revision <= change.item.mod_revision:
                del self._cached[name]
            return None
        if known is None and name not in self._pinned:
            return None
        try:
            return self._remember(name, change.item)
        except UnreadableRecordError:
            self._cached.pop(name, None)
            return None

    def pin(self, name: Id) -> None:
        """Keep the record of `name` in memory whatever the bound says (a model that is held)."""
        self._pinned[name] = None

    def unpin(self, name: Id) -> None:
        """Undo `pin`."""
        self._pinned.pop(name, None)

    def kept(self) -> dict[Id, Stored[Record]]:
        """All pinned records in memory."""
        return {name: self._cached[name] for name in self._pinned if name in self._cached}

    def rebase(self) -> None:
        """The store is another one: forget all but the pinned records, and give way to whatever it says."""
        kept = {name: Stored(stored.record, Revision(0), Revision(0)) for name, stored in self.kept().items()}
        self._cached.clear()
        self._cached.update(kept)

    def wrote(self, name: Id, record: Record, *, create_revision: Revision, mod_revision: Revision) -> None:
        """This instance wrote a record."""
        known = self._cached.get(name)
        if known is None or known.mod_revision < mod_revision:
            self._insert(name, Stored(record, create_revision, mod_revision))

    def forget(self, name: Id) -> None:
        """This instance deleted a record."""
        self._cached.pop(name, None)

    def _ended(self, name: Id, task: asyncio.Task[KeyValue | None]) -> None:
        self._reads.pop(name, None)
        if not task.cancelled():
            task.exception()  # seen by every waiter; retrieved here in case all of them have gone

    def _remember(self, name: Id, item: KeyValue) -> Stored[Record]:
        known = self._cached.get(name)
        if known is not None and known.mod_revision >= item.mod_revision:
            return known
        try:
            record = self._kind.decode(item.value)
        except RecordError as error:
            raise UnreadableRecordError(f"the record of {name} cannot be read: {error}") from error
        stored = Stored(record, item.create_revision, item.mod_revision)
        self._insert(name, stored)
        return stored

    def _insert(self, name: Id, stored: Stored[Record]) -> None:
        self._cached[name] = stored
        self._cached.move_to_end(name)
        while len(self._cached) > CACHED + len(self._pinned):
            for candidate in self._cached:
                if candidate not in self._pinned:
                    del self._cached[candidate]
                    break


async def _in_time(reading: "asyncio.Task[KeyValue | None]") -> KeyValue | None:
    """A read's result, which others may wait for as well."""
    try:
        async with asyncio.timeout(READ_BOUND_S):
            return await asyncio.shield(reading)
    except TimeoutError as error:
        raise StoreUnavailableError("the store does not answer") from error
