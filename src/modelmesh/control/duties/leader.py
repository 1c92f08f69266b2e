"""The leader's task: clean up after members that cannot do it themselves.

The leader is the member with the lowest create revision that is not draining; there is no election,
and a hand-over takes as long as the watch. Its writes compare that its own entry still has that create
revision, so of two that both believe to lead only one succeeds.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress

from modelmesh.control.journal import Journal
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.keys import Keys
from modelmesh.control.view.state import Changed, ClusterState, LostCopy
from modelmesh.policy.failure import forgotten, lost
from modelmesh.ports import Clock, Compare, Delete, Operation, Put, Store, StoreError, Transaction
from modelmesh.values.ids import ModelId
from modelmesh.values.records import CopyState, FailureKind

SWEEP = 64
"""Expired failures removed in a turn."""

VOID = 32
"""Models in a turn whose failures are removed if they are not registered any more."""

FAILURES = 96
"""Operations of that transaction at most: etcd takes 128."""

BATCH = 32
"""Lost copies reported per transaction; each takes two operations."""


class Leader:
    """The leader's writes about others.

    Failures that are void or expired are removed; they live without a lease. Copies that went with
    their instance are reported: the model's record is touched, which is what existing controllers watch,
    and a load that was running counts as a failure of the instance that left.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        state: ClusterState,
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        failure_expiry_ms: int,
        read_only: bool,
    ) -> None:
        self._store = store
        self._keys = keys
        self._state = state
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._failure_expiry_ms = failure_expiry_ms
        self._read_only = read_only
        self._led = False
        self._looked_at = ModelId("")

    @property
    def leads(self) -> bool:
        """Whether this instance is the leader in its own view."""
        return self._state.leader() == self._state.own

    def fence(self) -> Compare | None:
        """The condition that this instance still leads; None if it does not, or may not write."""
        own = self._state.members.get(self._state.own)
        if own is None or self._read_only or not self.leads:
            return None
        return Compare(self._keys.member(self._state.own), "create", "==", own.create_revision)

    def changed_hands(self) -> bool:
        """Whether leadership was won or lost since the last call."""
        if self.leads == self._led:
            return False
        self._led = self.leads
        self._journal.note("leads" if self._led else "follows")
        return True

    def viewed(self, changed: Changed) -> None:
        """The view changed; the leader records the copies that were lost with their instances."""
        if changed.lost and (fence := self.fence()) is not None:
            self._tasks.start(self._record_lost(tuple(changed.lost), fence), "record lost copies")

    async def sweep(self) -> None:
        """One turn of removing failures; nothing for the others."""
        fence = self.fence()
        if fence is not None:
            with suppress(StoreError):  # the next turn tries again
                await self._remove_expired(fence)

    async def _record_lost(self, lost: tuple[LostCopy, ...], fence: Compare) -> None:
        with suppress(StoreError):
            for batch in _apart(lost):
                await self._store.transact(
                    Transaction(compares=(fence,), then=tuple(self._about(copy) for copy in batch))
                )

    def _about(self, gone: LostCopy) -> Transaction:
        copy = gone.copy
        registry = self._keys.model(gone.model)
        operations: list[Operation] = [Put(registry, keep_value=True)]
        if copy.state is CopyState.LOADING:
            failure = lost(
                FailureKind.LOST_WHILE_LOADING,
                f"instance {copy.instance} went away while it loaded the model",
                known=[known.record for known in self._state.model(gone.model).failures],
                record_revision=copy.record_revision,
                now_ms=self._clock.now_ms(),
                expiry_ms=self._failure_expiry_ms,
            )
            operations.append(Put(self._keys.failure(gone.model, copy.instance), failure.encode()))
            self._journal.note("lost_while_loading", gone.model, detail=failure.message)
        return Transaction(compares=(Compare(registry, "create", "==", copy.record_revision),), then=tuple(operations))

    async def _remove_expired(self, fence: Compare) -> None:
        """A failure long expired, or of a record that is gone, is removed."""
        now_ms = self._clock.now_ms()
        expired = [
            self._keys.failure(model, failure.instance)
            for model in self._state.failed_models()
            for failure in self._state.model(model).failures
            if forgotten(failure.record, now_ms, self._failure_expiry_ms)
        ]
        if expired:
            deletions = tuple(Delete(key) for key in expired[:SWEEP])
            await self._store.transact(Transaction(compares=(fence,), then=deletions))
        models = sorted(self._state.failed_models())
        if models:
            first = bisect_right(models, self._looked_at)
            models = [*models[first:], *models[:first]][:VOID]
            await self._remove_void(models, fence)

    async def _remove_void(self, models: Iterable[ModelId], fence: Compare) -> None:
        """Failures of models that are not registered any more: one transaction for all."""
        removals: list[Operation] = []
        room = FAILURES
        for model in models:
            failures = self._state.model(model).failures[: room - 1]
            room -= 1 + len(failures)
            unregistered = Compare(self._keys.model(model), "create", "==", 0)
            deletions = tuple(Delete(self._keys.failure(model, failure.instance)) for failure in failures)
            removals.append(Transaction(compares=(unregistered,), then=deletions))
            self._looked_at = model
            if room <= 1:
                break
        await self._store.transact(Transaction(compares=(fence,), then=tuple(removals)))


def _apart(lost: tuple[LostCopy, ...]) -> Iterator[tuple[LostCopy, ...]]:
    """Batches in which no model comes twice: a transaction writes each key once."""
    left = list(lost)
    while left:
        batch: dict[ModelId, LostCopy] = {}
        rest: list[LostCopy] = []
        for copy in left:
            if copy.model in batch or len(batch) == BATCH:
                rest.append(copy)
            else:
                batch[copy.model] = copy
        yield tuple(batch.values())
        left = rest
