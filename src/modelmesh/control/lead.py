"""What only the leader does: clean up after members that cannot.

The leader is the member with the lowest create revision that is not draining; there is no election.
Its writes compare that its own entry still has that create revision.
"""

from contextlib import suppress

from modelmesh.control.journal import Journal
from modelmesh.control.keys import Keys
from modelmesh.control.state import ClusterState
from modelmesh.ports import Clock, Compare, Delete, Store, StoreUnavailableError, Transaction
from modelmesh.values.ids import ModelId

SWEEP = 64
"""Failures removed per transaction and turn."""


class Leader:
    """Removes failures that are void or expired; they live without a lease."""

    def __init__(self, *, store: Store, keys: Keys, state: ClusterState, clock: Clock, journal: Journal) -> None:
        self._store = store
        self._keys = keys
        self._state = state
        self._clock = clock
        self._journal = journal
        self._led = False

    @property
    def leads(self) -> bool:
        """Whether this instance is the leader in its own view."""
        return self._state.leader() == self._state.own

    async def tick(self) -> None:
        """One turn of the leader's duties; nothing for the others."""
        if self.leads != self._led:
            self._led = self.leads
            self._journal.note("leads" if self._led else "follows")
        if not self._led:
            return
        with suppress(StoreUnavailableError):  # the next turn tries again
            await self._sweep_failures()

    async def _sweep_failures(self) -> None:
        """A failure long expired, or of a record that is gone, is removed.

        One that expired a short while ago stays: its count makes the next one last longer.
        """
        now_ms = self._clock.now_ms()
        own = self._state.members.get(self._state.own)
        if own is None:
            return
        expired = []
        for model in self._state.failed_models():
            for failure in self._state.model(model).failures:
                record = failure.record
                if now_ms > record.until_ms + (record.until_ms - record.since_ms):
                    expired.append(self._keys.failure(model, failure.instance))
        if expired:
            await self._fenced(own.create_revision, [Delete(key) for key in expired[:SWEEP]])
        for model in tuple(self._state.failed_models())[:SWEEP]:
            await self._remove_if_void(model, own.create_revision)

    async def _remove_if_void(self, model: ModelId, create_revision: int) -> None:
        """Failures of a model that is not registered any more."""
        key = self._keys.model(model)
        instances = [failure.instance for failure in self._state.model(model).failures]
        await self._store.transact(
            Transaction(
                compares=(
                    Compare(self._keys.member(self._state.own), "create", "==", create_revision),
                    Compare(key, "create", "==", 0),
                ),
                then=tuple(Delete(self._keys.failure(model, instance)) for instance in instances),
            )
        )

    async def _fenced(self, create_revision: int, deletions: list[Delete]) -> None:
        await self._store.transact(
            Transaction(
                compares=(Compare(self._keys.member(self._state.own), "create", "==", create_revision),),
                then=tuple(deletions),
            )
        )
