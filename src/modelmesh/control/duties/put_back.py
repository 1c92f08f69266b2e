"""Writes again what is missing in the store, and deletes keys of copies that no longer exist."""

from collections.abc import Callable
from dataclasses import replace

from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.entry import DropReason
from modelmesh.control.copies.transactions import CopyWriter
from modelmesh.control.journal import Journal
from modelmesh.control.life.membership import Membership
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.keys import Keys
from modelmesh.control.view.records import RecordCache
from modelmesh.ports import Clock, Compare, Put, Store, StoreError, Transaction
from modelmesh.values.ids import ModelId
from modelmesh.values.records import ModelRecord

RETRY_MS = 1_000


class PutBack:
    """Makes this instance's keys true again after the store was away, or emptied, or a lease was lost.

    Args:
        store_available: Whether the store answers.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        cache: Cache,
        models: RecordCache[ModelId, ModelRecord],
        membership: Membership,
        writer: CopyWriter,
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        store_available: Callable[[], bool],
    ) -> None:
        self._store = store
        self._keys = keys
        self._cache = cache
        self._models = models
        self._membership = membership
        self._writer = writer
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._store_available = store_available

    def begin(self, *, replaced: bool) -> None:
        """After a new listing: write again what is missing. `replaced`: the store is another one, or was emptied."""
        self._tasks.persist(lambda: self._put_back(replaced=replaced), "put back")

    async def _put_back(self, *, replaced: bool) -> None:
        while True:
            try:
                if replaced:
                    await self._put_back_records()
                    self._membership.lease_lost()
                else:
                    await self.relist(self._membership.lease)
                    await self._membership.publish_now()
            except StoreError:
                await self._clock.sleep(RETRY_MS)
            else:
                return

    async def _put_back_records(self) -> None:
        """The store was emptied: the records of held models are put back, each if absent.

        The vmodels that named them were deleted, and count again when they are set again.
        """
        for model, stored in self._models.kept().items():
            key = self._keys.model(model)
            unnamed = replace(stored.record, references=0)
            operations = [Put(key, unnamed.encode())]
            if unnamed.tenant:
                operations.append(Put(self._keys.tenant_model(unnamed.tenant, model), b""))
            result = await self._store.transact(
                Transaction(compares=(Compare(key, "create", "==", 0),), then=tuple(operations))
            )
            found = await self._models.read(model)
            if found is not None:
                self._cache.record_moved(model, found)
            if result.succeeded:
                self._journal.note("record_put_back", model)

    async def relist(self, lease: int) -> None:
        """Put the keys of held copies again under a lease; a copy whose model no longer exists is dropped. Raises StoreError."""
        for model in await self._writer.relist(self._cache.listed(), lease=lease):
            self._cache.drop(model, DropReason.UNREGISTERED)

    async def delete_stale_keys(self) -> None:
        """Delete the keys of copies that went while the store was away; those it does not take stay for the next time."""
        if not self._store_available():
            return
        for model, record_revision in tuple(self._cache.stale_keys.items()):
            if self._cache.copy(model) is not None:
                del self._cache.stale_keys[model]  # it is loaded again under the same key
                continue
            try:
                await self._writer.withdraw(model, record_revision=record_revision)
            except StoreError:
                return
            self._cache.stale_keys.pop(model, None)
