"""Writes the time of last use into the records of models, rarely. A cold start uses it to choose what to load first."""

from modelmesh.control.copies.cache import Cache
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.keys import Keys
from modelmesh.control.view.records import RecordCache
from modelmesh.ports import Clock, Compare, Put, Store, StoreError, Transaction
from modelmesh.values.ids import ModelId
from modelmesh.values.records import ModelRecord

LOOK_TICKS = 60
FIRST_USE_TICKS = 5
"""How often records of never-used models are checked: more often, because people read the list after their first call."""

AT_ONCE = 64
"""Records written after one look; the rest waits for the next."""


class LastUses:
    """Keeps the records of the models held here no staler than `stale_ms`.

    Eviction writes the last use as well (`CopyWriter.withdraw`). Source: `spec/cluster-state.md` 5.3.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        cache: Cache,
        models: RecordCache[ModelId, ModelRecord],
        clock: Clock,
        tasks: Tasks,
        stale_ms: int,
    ) -> None:
        self._store = store
        self._keys = keys
        self._cache = cache
        self._models = models
        self._clock = clock
        self._tasks = tasks
        self._stale_ms = stale_ms
        self._ticks = 0
        self._writing = False

    def tick(self) -> None:
        """Look for stale records; about once a second."""
        self._ticks += 1
        if self._ticks % FIRST_USE_TICKS == 0 and not self._writing:
            all_kinds = self._ticks % LOOK_TICKS == 0
            stale = [model for model in self._cache.ready() if self._stale(model, all_kinds=all_kinds)][:AT_ONCE]
            if stale:
                self._writing = True
                self._tasks.start(self._write(stale), "write last uses")

    def _stale(self, model: ModelId, *, all_kinds: bool) -> bool:
        registered = self._models.cached(model)
        if registered is None or not (all_kinds or registered.record.unused):
            return False
        newer_ms = self._cache.usage.last_use_ms(model) - registered.record.last_use_ms
        return newer_ms >= (1 if registered.record.unused else self._stale_ms)

    async def _write(self, models: list[ModelId]) -> None:
        """One try each: if another writer changed the record meanwhile, the next round tries again."""
        try:
            for model in models:
                registered = self._models.cached(model)
                if registered is None:
                    continue
                used = registered.record.used(min(self._cache.usage.last_use_ms(model), self._clock.now_ms()))
                key = self._keys.model(model)
                await self._store.transact(
                    Transaction(
                        compares=(Compare(key, "mod", "==", registered.mod_revision),), then=(Put(key, used.encode()),)
                    )
                )
        except StoreError:
            pass
        finally:
            self._writing = False
