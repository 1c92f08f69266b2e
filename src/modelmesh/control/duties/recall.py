"""The recent events of each model at this instance, and what a load here would do."""

import itertools
from collections import OrderedDict, deque
from dataclasses import replace

from modelmesh.control.copies.cache import Cache
from modelmesh.control.journal import Journal
from modelmesh.values.events import Event
from modelmesh.values.explanation import ModelHistory
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import NOTHING, Memory

EVENTS = 64
"""Kept of one model."""

CYCLE = 8
"""A repeated call may leave several different events; each is looked for among so many of the last."""

MODELS = 4096
"""Models remembered; the one without events for longest is forgotten. At most about 60 MB, commonly far less."""


class Recall:
    """A bounded history per model, of what happened with it and for it.

    What happens again and again, as calls do that are refused and repeated, is one entry with a count: it must not
    push the rest out.
    """

    def __init__(self, *, journal: Journal, cache: Cache) -> None:
        self._cache = cache
        self._events: OrderedDict[ModelId, deque[Event]] = OrderedDict()
        journal.subscribe(self._take)

    def history(self, model: ModelId, *, load_size: Memory = NOTHING) -> ModelHistory:
        """All that is known; with `load_size` also what a load of that size would do.

        Of a load that is in the queue it says where it stands there now.
        """
        rehearsal = self._cache.rehearse(model, load_size) if load_size else None
        events = tuple(self._events.get(model, ()))
        if (queued := self._cache.queued(model)) is not None:
            reason, detail = queued
            last = max((event.time_ms for event in events if event.kind == "queued"), default=None)
            events = tuple(
                replace(event, reason=reason, detail=detail)
                if event.kind == "queued" and event.time_ms == last
                else event
                for event in events
            )
        return ModelHistory(events, rehearsal)

    def _take(self, event: Event) -> None:
        for model in (event.model, event.cause):
            if model is not None and model:
                self._add(self._events.setdefault(model, deque(maxlen=EVENTS)), event)
                self._events.move_to_end(model)
        while len(self._events) > MODELS:
            self._events.popitem(last=False)

    @staticmethod
    def _add(events: deque[Event], event: Event) -> None:
        for known in itertools.islice(reversed(events), CYCLE):
            if known.about == event.about:
                events.remove(known)
                event = replace(event, times=known.times + 1)
                break
        events.append(event)
