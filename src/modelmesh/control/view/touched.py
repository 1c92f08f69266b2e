"""Remembers which models and vmodels changed lately, and at which revision, for those who report statuses."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from modelmesh.control.view.feed import Relisting
from modelmesh.control.view.keys import Keys, RegistryKey, VModelKey
from modelmesh.ports import Change
from modelmesh.values.ids import ModelId, Revision, VModelId

REMEMBERED = 16_384
"""Changes whose names are kept; about 2 MB."""


@dataclass(slots=True)
class Touch:
    """Names whose status may have changed (dicts as ordered sets)."""

    models: dict[ModelId, None] = field(default_factory=dict)
    vmodels: dict[VModelId, None] = field(default_factory=dict)


Take = Callable[[Touch | None], None]
"""Takes what was touched; None: anything may have changed, because the store was listed again."""


class Touched:
    """Follows the watch as one that is fed (`modelmesh.control.view.feed.Fed`), after the view.

    Args:
        revision: That of the view.
    """

    def __init__(self, keys: Keys, revision: Callable[[], Revision]) -> None:
        self._keys = keys
        self._revision = revision
        self._log: deque[tuple[Revision, ModelId | None, VModelId | None]] = deque()
        self._complete_from = Revision(0)
        """Everything that changed at this revision or later is in the log."""
        self._batch = Touch()
        self._relisted = False
        self._subscribers: dict[int, Take] = {}
        self._numbers = count()

    def subscribe(self, take: Take) -> Callable[[], None]:
        """Call `take` after each batch of changes; returns what ends that."""
        number = next(self._numbers)
        self._subscribers[number] = take

        def end() -> None:
            self._subscribers.pop(number, None)

        return end

    def since(self, revision: Revision) -> Touch | None:
        """What changed at `revision` or later; None: that is not known any more."""
        if not self._complete_from <= revision <= self._revision():
            return None
        touch = Touch()
        for at, model, vmodel in reversed(self._log):
            if at < revision:
                break
            if model is not None:
                touch.models[model] = None
            if vmodel is not None:
                touch.vmodels[vmodel] = None
        return touch

    def viewed(self, models: Iterable[ModelId]) -> None:
        """Copies or failures of these models changed; `settle` follows."""
        self._batch.models.update(dict.fromkeys(models))

    # --- as one that is fed -----------------------------------------------------------------------

    def ranges(self) -> tuple[str, ...]:
        """None: names are kept, no records."""
        return ()

    def remembered(self) -> Sequence[str]:
        """None, for the same reason."""
        return ()

    def apply(self, changes: Sequence[Change]) -> None:
        """See `Fed`."""
        for change in changes:
            match self._keys.parse(change.item.key):
                case VModelKey(vmodel):
                    self._batch.vmodels[vmodel] = None
                case RegistryKey(model):
                    self._batch.models[model] = None
                case _:
                    pass

    def replace(self, listing: Relisting) -> None:
        """See `Fed`."""
        self._log.clear()
        self._complete_from = Revision(listing.revision + 1)
        self._relisted = True

    def settle(self) -> None:
        """See `Fed`."""
        batch, self._batch = self._batch, Touch()
        relisted, self._relisted = self._relisted, False
        if relisted:
            self._tell(None)
        elif batch.models or batch.vmodels:
            now = self._revision()
            self._log.extend((now, model, None) for model in batch.models)
            self._log.extend((now, None, vmodel) for vmodel in batch.vmodels)
            while len(self._log) > REMEMBERED:
                self._complete_from = Revision(self._log.popleft()[0] + 1)
            self._tell(batch)

    def _tell(self, touch: Touch | None) -> None:
        for take in tuple(self._subscribers.values()):
            take(touch)
