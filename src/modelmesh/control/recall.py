"""What this instance remembers of each model, and what a load here would do."""

from collections import OrderedDict, deque

from modelmesh.control.cache import Cache
from modelmesh.control.journal import Journal
from modelmesh.values.events import Event
from modelmesh.values.explanation import Recollection
from modelmesh.values.ids import ModelId

EVENTS = 64
"""Kept of one model."""

MODELS = 4096
"""Models remembered; the one of which nothing was heard longest is forgotten. At most about 60 MB, commonly far less."""


class Recall:
    """A bounded history per model, of what happened with it and for it."""

    def __init__(self, *, journal: Journal, cache: Cache) -> None:
        self._cache = cache
        self._events: OrderedDict[ModelId, deque[Event]] = OrderedDict()
        journal.subscribe(self._take)

    def recollect(self, model: ModelId, *, load_bytes: int = 0) -> Recollection:
        """All that is known; with `load_bytes` also what a load of so many bytes would do."""
        rehearsal = self._cache.rehearse(model, load_bytes) if load_bytes > 0 else None
        return Recollection(tuple(self._events.get(model, ())), rehearsal)

    def _take(self, event: Event) -> None:
        for model in (event.model, event.cause):
            if model is not None and model:
                self._events.setdefault(model, deque(maxlen=EVENTS)).append(event)
                self._events.move_to_end(model)
        while len(self._events) > MODELS:
            self._events.popitem(last=False)
