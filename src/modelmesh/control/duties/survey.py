"""The leader's look through the registry: models that must have copies, cold ones that fill free room, old notes.

The old system noted in each record which of its instances hold the model. When all of them have gone the notes go.
"""

import heapq
from collections.abc import Callable

from modelmesh.control.decide import Decider
from modelmesh.control.duties.scale import Scaler
from modelmesh.control.journal import Journal
from modelmesh.control.requests.journeys import Requests
from modelmesh.control.view.keys import Keys, RegistryKey
from modelmesh.control.view.records import NotReadError, RecordCache
from modelmesh.policy.preload import ColdModel, plan_preloads, preload_begins
from modelmesh.ports import Clock, Compare, KeyValue, Put, Store, StoreError, Transaction
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import Memory
from modelmesh.values.records import ModelRecord
from modelmesh.values.stored import RecordError

PAGE = 500
PAUSE_MS = 20
"""Between pages: a survey of a million models must not be felt."""

CANDIDATES = 1000
"""Cold models that are remembered while the registry is read."""

TURN_MS = 200
"""Between two looks for a free slot."""

PRELOADING_MS = 300_000
"""Preloads that found no free slot by then are left to the next survey."""

FAILED_OFTEN = 2
"""A model that failed at so many instances is not loaded without being asked for."""


class Survey:
    """Reads the whole registry, page by page.

    Args:
        fence: The condition that this instance still leads; None if it does not, or may not write.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        decider: Decider,
        models: RecordCache[ModelId, ModelRecord],
        requests: Requests,
        scaler: Scaler,
        fence: Callable[[], Compare | None],
        default_size: Callable[[], Memory],
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._store = store
        self._keys = keys
        self._decider = decider
        self._models = models
        self._requests = requests
        self._scaler = scaler
        self._fence = fence
        self._default_size = default_size
        self._clock = clock
        self._journal = journal

    async def run(self) -> None:
        """One survey; what it finds is loaded before it ends, or at least asked for."""
        try:
            alone = not (await self._store.range(self._keys.old_instances, limit=1)).items
            kept, cold = await self._read(tidy=alone)
            await self._scaler.keep_minimum(kept)
            await self._preload(cold)
        except StoreError:
            return  # the next one is not far

    async def _read(self, *, tidy: bool) -> tuple[list[ModelId], list[ColdModel]]:
        """Models that are to have copies and have none, and cold ones; `tidy`: old notes are removed."""
        kept: list[ModelId] = []
        recent: list[tuple[int, ModelId]] = []
        after = ""
        fence = self._fence() if tidy else None
        while True:
            page = await self._store.range(self._keys.registry, start_after=after, limit=PAGE)
            for item in page.items:
                parsed = self._keys.parse(item.key)
                assert isinstance(parsed, RegistryKey)
                try:
                    record = ModelRecord.decode(item.value)
                except RecordError:
                    continue
                if fence is not None and record.names_old_instances:
                    await self._tidy(item, record, fence)
                view = self._decider.model_view(parsed.model, None)
                if any(copy.belongs_to(item.create_revision) for copy in view.copies):
                    continue
                if record.minimum_copies > 0:
                    kept.append(parsed.model)
                elif len(view.failures) < FAILED_OFTEN and record.last_use_ms > 0:
                    push = heapq.heappushpop if len(recent) >= CANDIDATES else heapq.heappush
                    push(recent, (record.last_use_ms, parsed.model))
            if not page.more:
                return kept, [ColdModel(model, last_use_ms) for last_use_ms, model in recent]
            after = page.items[-1].key
            await self._clock.sleep(PAUSE_MS)

    async def _tidy(self, item: KeyValue, record: ModelRecord, fence: Compare) -> None:
        """If another writer changed the record meanwhile, the next survey tries again."""
        value = record.without_old_instances().encode()
        await self._store.transact(
            Transaction(
                compares=(fence, Compare(item.key, "mod", "==", item.mod_revision)), then=(Put(item.key, value),)
            )
        )

    async def _preload(self, cold: list[ColdModel]) -> None:
        planned = plan_preloads(cold, self._decider.cluster_view(), default_size=self._default_size())
        if planned:
            self._journal.note("preloads", detail=f"{len(planned)} of {len(cold)} cold models")
        until_ms = self._clock.monotonic_ms() + PRELOADING_MS
        for chosen in planned:
            while not preload_begins(self._decider.cluster_view()):
                if self._clock.monotonic_ms() >= until_ms:
                    return
                await self._clock.sleep(TURN_MS)
            try:
                registered = await self._models.get(chosen.model)
            except NotReadError:
                continue
            if registered is not None:
                await self._requests.ensure(chosen.model, registered, last_use_ms=chosen.last_use_ms, sync=False)
