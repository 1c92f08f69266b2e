"""Passes changes of registered models to the records in memory, the copies here and the count of models."""

from collections.abc import Callable, Sequence

from modelmesh.control.copies.cache import Cache
from modelmesh.control.view.census import Census
from modelmesh.control.view.feed import Relisting
from modelmesh.control.view.keys import Keys, RegistryKey
from modelmesh.control.view.records import RecordCache
from modelmesh.control.view.store_identity import StoreIdentity
from modelmesh.ports import Change, ChangeKind, Clock, KeyValue
from modelmesh.values.ids import ModelId, Revision
from modelmesh.values.records import ModelRecord


class RegistryFeed:
    """Feeds whatever depends on models' records (`modelmesh.control.view.feed.Fed`).

    Args:
        registered: Called for every model whose record was put.
        forgotten: Called for every model that is no longer registered.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        models: RecordCache[ModelId, ModelRecord],
        cache: Cache,
        census: Census,
        identity: StoreIdentity,
        clock: Clock,
        registered: Callable[[ModelId], None],
        forgotten: Callable[[ModelId], None],
    ) -> None:
        self._keys = keys
        self._models = models
        self._cache = cache
        self._census = census
        self._identity = identity
        self._clock = clock
        self._registered = registered
        self._forgotten = forgotten

    def ranges(self) -> tuple[str, ...]:
        """None: registered models are not mirrored, there may be a million."""
        return ()

    def remembered(self) -> Sequence[str]:
        """The records of the models with a copy here; all others are read again when they are needed."""
        return [self._keys.model(model) for model in self._models.pinned()]

    def apply(self, changes: Sequence[Change]) -> None:
        """See `Fed`."""
        for change in changes:
            parsed = self._keys.parse(change.item.key)
            if isinstance(parsed, RegistryKey):
                self._census.changed(change)
                self._change(parsed.model, change)

    def _change(self, model: ModelId, change: Change) -> None:
        stored = self._models.changed(model, change)
        if change.kind is ChangeKind.PUT:
            self._registered(model)
        if stored is not None and self._clock.monotonic_ms() < self._identity.doubted_until_ms:
            # The store was replaced: records are being put back, and the record of a copy here may be one of them.
            self._cache.record_moved(model, stored)
            return
        if stored is not None:
            self._cache.record_edited(model, stored)
        if change.kind is ChangeKind.DELETE:
            self._forgotten(model)
        created = Revision(0) if change.kind is ChangeKind.DELETE else change.item.create_revision
        self._cache.record_changed(model, created)

    def replace(self, listing: Relisting) -> None:
        """Copies here take over the change of their records; what is not held is forgotten."""
        self._census.stop()
        asked: dict[ModelId, KeyValue | None] = {}
        for key, item in listing.again.items():
            parsed = self._keys.parse(key)
            if isinstance(parsed, RegistryKey):
                asked[parsed.model] = item
        self._models.replace(
            {model: item for model, item in asked.items() if item is not None}, listing.revision, keep=listing.replaced
        )
        for model, item in asked.items():
            stored = self._models.cached(model) if item is not None else None
            if listing.replaced:
                if stored is not None:
                    self._cache.record_moved(model, stored)
                continue  # what is absent is put back
            if stored is not None:
                self._cache.record_edited(model, stored)
            if item is None:
                self._forgotten(model)
            self._cache.record_changed(model, item.create_revision if item is not None else Revision(0))

    def settle(self) -> None:
        """All is done."""
