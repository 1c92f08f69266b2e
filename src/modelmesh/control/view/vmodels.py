"""VModel records and the references they count.

Every write is one transaction over the vmodel's record and the records of all models whose count of
references changes; it succeeds only if none of them changed since it was read, so the counts are exact
under every order of calls.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

from modelmesh.control.journal import Journal
from modelmesh.control.view.keys import Keys, VModelKey
from modelmesh.control.view.records import RecordCache, Registered, Stored
from modelmesh.policy.retarget import reference_changes
from modelmesh.ports import Compare, Delete, Operation, Put, Store, Transaction
from modelmesh.values.ids import ModelId, Revision, VModelId
from modelmesh.values.records import ModelRecord, VModelRecord

StoredVModel = Stored[VModelRecord]

PAGE = 500


@dataclass(frozen=True, slots=True)
class Written:
    """The record as it is now; None: deleted."""

    record: VModelRecord | None
    revision: Revision


class VModels:
    """Reads and writes vmodel records, and wakes those that wait for a change."""

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        models: RecordCache[ModelId, ModelRecord],
        vmodels: RecordCache[VModelId, VModelRecord],
        journal: Journal,
    ) -> None:
        self._store = store
        self._keys = keys
        self._models = models
        self._vmodels = vmodels
        self._journal = journal
        self._waiters: dict[VModelId, list[asyncio.Future[None]]] = {}

    async def read(self, vmodel: VModelId) -> StoredVModel | None:
        """The record, past the cache; raises as `RecordCache.get`."""
        return await self._vmodels.read(vmodel)

    async def every(self) -> AsyncIterator[tuple[VModelId, bytes]]:
        """All vmodels with their stored records, read page by page. Raises StoreError."""
        after = ""
        while True:
            page = await self._store.range(self._keys.vmodels, start_after=after, limit=PAGE)
            for item in page.items:
                parsed = self._keys.parse(item.key)
                if isinstance(parsed, VModelKey):
                    yield parsed.vmodel, item.value
            if not page.more:
                return
            after = page.items[-1].key

    async def write(
        self,
        vmodel: VModelId,
        before: StoredVModel | None,
        after: VModelRecord | None,
        *,
        created: Mapping[ModelId, ModelRecord] | None = None,
        used: Mapping[ModelId, int] | None = None,
        fence: Compare | None = None,
    ) -> Written | None:
        """Replace the record (None deletes it) and count references again.

        Args:
            vmodel: Its id.
            before: The record as read; None: there is none.
            after: The record as it should be.
            created: Models to register in the same transaction, if their records are absent.
            used: Raises the last use of a referenced model, epoch milliseconds.
            fence: One more condition, for a writer that may have lost its leadership.

        Returns:
            None if anything it relies on changed meanwhile: read again and decide again.

        Raises:
            StoreError: The store is away.
        """
        if before is not None and after == before.record and not created:
            return Written(after, before.mod_revision)
        key = self._keys.vmodel(vmodel)
        compares = [Compare(key, "mod", "==", before.mod_revision if before is not None else 0)]
        operations: list[Operation] = [Put(key, after.encode()) if after is not None else Delete(key)]
        if fence is not None:
            compares.append(fence)
        changes = reference_changes(before.record if before is not None else None, after)
        for model in dict.fromkeys([*changes, *(created or {})]):
            found = await self._models.read(model)
            wanted = created.get(model) if created is not None and found is None else None
            compares.append(self._unchanged(model, found))
            change = changes.get(model, 0 if wanted is None else 1)
            operations += self._counted(model, found, wanted, change, (used or {}).get(model, 0))
        began = self._vmodels.listings
        result = await self._store.transact(Transaction(compares=tuple(compares), then=tuple(operations)))
        if not result.succeeded:
            return None
        if after is None:
            self._vmodels.forget(vmodel)
        else:
            created_at = before.create_revision if before is not None else result.revision
            self._vmodels.wrote(vmodel, Stored(after, created_at, result.revision), began=began)
        for model in changes:
            self._models.forget(model)
        detail = f"active {after.active}, target {after.target}" if after is not None else "deleted"
        self._journal.note("vmodel_written", detail=f"{vmodel}: {detail}")
        return Written(after, result.revision)

    def _unchanged(self, model: ModelId, found: Registered | None) -> Compare:
        return Compare(self._keys.model(model), "mod", "==", found.mod_revision if found is not None else 0)

    def _counted(
        self, model: ModelId, found: Registered | None, wanted: ModelRecord | None, change: int, used_ms: int
    ) -> tuple[Operation, ...]:
        record = found.record if found is not None else wanted
        if record is None:
            return ()  # its record was deleted by another writer; there is nothing to count on
        key = self._keys.model(model)
        record = replace(record.raised(used_ms), references=max(0, record.references + change))
        tenant_key = self._keys.tenant_model(record.tenant, model)
        if record.references == 0 and change < 0 and record.auto_delete:
            return (Delete(key), Delete(tenant_key)) if record.tenant else (Delete(key),)
        put = Put(key, record.encode())
        return (put, Put(tenant_key, b"")) if found is None and record.tenant else (put,)

    # --- waiting --------------------------------------------------------------------------------

    def changed(self, vmodel: VModelId) -> None:
        """The record changed in the store."""
        for future in self._waiters.pop(vmodel, ()):
            if not future.done():
                future.set_result(None)

    def relisted(self) -> None:
        """Any record may have changed: all waiters read again."""
        for vmodel in tuple(self._waiters):
            self.changed(vmodel)

    def next_change(self, vmodel: VModelId) -> "asyncio.Future[None]":
        """Resolves when the record changes; cancel it to give up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(vmodel, []).append(future)

        def ended(_: asyncio.Future[None]) -> None:
            waiting = self._waiters.get(vmodel)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._waiters[vmodel]

        future.add_done_callback(ended)
        return future
