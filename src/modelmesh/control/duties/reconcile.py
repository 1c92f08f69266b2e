"""Holds the keys of this instance against its copies, now and then."""

from modelmesh.control.copies.cache import Cache
from modelmesh.control.journal import Journal
from modelmesh.control.view.observe import Observer
from modelmesh.control.view.state import ClusterState
from modelmesh.policy.reconcile import reconcile

LOOK_TICKS = 10


class Reconciler:
    """Deletes keys without a copy and lists copies without a key again.

    A difference counts only if it is found twice: in between, the view receives what was just written.
    """

    def __init__(self, *, state: ClusterState, cache: Cache, observer: Observer, journal: Journal) -> None:
        self._state = state
        self._cache = cache
        self._observer = observer
        self._journal = journal
        self._ticks = 0
        self._before = reconcile({}, {}, {})

    def tick(self) -> None:
        """Look; about once a second."""
        self._ticks += 1
        if self._ticks % LOOK_TICKS or not self._observer.connected:
            return
        settled, changing = self._cache.settled_copies()
        found = reconcile(self._state.own_keys(), settled, changing)
        before, self._before = self._before, found
        for model in found.orphans:
            if model in before.orphans:
                self._journal.note("orphan_key", model, detail="its key had no copy here; it is deleted")
                self._cache.stale_keys[model] = self._state.record_revision(model)
        for model in found.missing:
            if model in before.missing:
                self._journal.note("missing_key", model, detail="the copy here had no key; it is listed again")
                self._cache.list_again(model)
