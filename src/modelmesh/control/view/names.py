"""Sends the data plane the models of each vmodel, always as in the records in memory."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from modelmesh.control.tasks import Tasks
from modelmesh.control.view.feed import Relisting
from modelmesh.control.view.keys import Keys, VModelKey
from modelmesh.control.view.records import RecordCache, Stored
from modelmesh.ports import Change, DataPlane, KeyValue
from modelmesh.values.dataplane import Naming
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord


def naming_of(record: VModelRecord) -> Naming:
    """What the data plane needs to know of a vmodel."""
    rollout = record.rollout
    return Naming(
        record.active,
        record.split,
        record.target,
        record.labels,
        record.kept,
        record.fallback,
        record.shadow,
        rollout.since_ms if rollout is not None and rollout.running else None,
    )


class Names:
    """The names that the data plane knows: those whose records are remembered, and no others."""

    def __init__(self, dataplane: DataPlane, tasks: Tasks) -> None:
        self._dataplane = dataplane
        self._tasks = tasks
        self._unsent: dict[VModelId, Naming | None] = {}
        self._without: dict[ModelId, dict[VModelId, Stored[VModelRecord]]] = {}
        """Vmodels sent without the share of a model that is not registered, though the record has it."""

    def send(self, vmodel: VModelId, stored: Stored[VModelRecord] | None) -> None:
        """This is remembered of a name from now on; None: nothing, so that its next call asks."""
        naming = naming_of(stored.record) if stored is not None else None
        for names in self._without.values():
            names.pop(vmodel, None)
        self._set(vmodel, naming)

    def send_without(self, vmodel: VModelId, stored: Stored[VModelRecord], model: ModelId) -> None:
        """As `send`, but the share of a model that is not registered goes to the active one until it is."""
        self._without.setdefault(model, {})[vmodel] = stored
        self._set(vmodel, naming_of(replace(stored.record, split=stored.record.split_without(model))))

    def _set(self, vmodel: VModelId, naming: Naming | None) -> None:
        """Inform the data plane. What it cannot take is sent again later; until then the vmodel has no model."""
        self._unsent[vmodel] = naming
        for sent in (naming, None):
            try:
                self._dataplane.set_vmodels([(vmodel, sent)])
            except Exception as error:  # noqa: BLE001 - it costs this name alone
                self._tasks.report(f"name {vmodel}", error)
            else:
                if sent == naming:
                    del self._unsent[vmodel]
                return

    def send_again(self) -> None:
        """Send the vmodels that the data plane did not take; about once a second."""
        for vmodel, naming in tuple(self._unsent.items()):
            self._set(vmodel, naming)

    def registered(self, model: ModelId) -> None:
        """A model is registered: it gets its shares again."""
        for vmodel, stored in self._without.pop(model, {}).items():
            self.send(vmodel, stored)


class VModelFeed:
    """Feeds the records of vmodels (`modelmesh.control.view.feed.Fed`).

    Args:
        changed: Called for each change of a vmodel's record, in order.
        relisted: Called after a listing: any of them may have changed.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        vmodels: RecordCache[VModelId, VModelRecord],
        changed: Callable[[VModelId, Change], None],
        relisted: Callable[[], None],
    ) -> None:
        self._keys = keys
        self._vmodels = vmodels
        self._changed = changed
        self._relisted = relisted
        self._listed = False

    def ranges(self) -> tuple[str, ...]:
        """None: only names that are called are known."""
        return ()

    def remembered(self) -> Sequence[str]:
        """The names that are known, so that a listing does not make all their next calls wait for a read."""
        return [self._keys.vmodel(vmodel) for vmodel in self._vmodels.remembered()]

    def apply(self, changes: Sequence[Change]) -> None:
        """See `Fed`."""
        for change in changes:
            parsed = self._keys.parse(change.item.key)
            if isinstance(parsed, VModelKey):
                self._vmodels.changed(parsed.vmodel, change)
                self._changed(parsed.vmodel, change)

    def replace(self, listing: Relisting) -> None:
        """See `Fed`."""
        found = dict(self._found(listing.again.values()))
        self._vmodels.replace(found, listing.revision, keep=listing.replaced)
        self._listed = True

    def _found(self, items: Iterable[KeyValue | None]) -> Iterable[tuple[VModelId, KeyValue]]:
        for item in items:
            parsed = self._keys.parse(item.key) if item is not None else None
            if item is not None and isinstance(parsed, VModelKey):
                yield parsed.vmodel, item

    def settle(self) -> None:
        """See `Fed`."""
        if self._listed:
            self._listed = False
            self._relisted()
