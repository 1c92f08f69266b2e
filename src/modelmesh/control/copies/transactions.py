"""The transactions that change copies: claim, publish, withdraw, fail.

Each is one round trip whose compares make it safe against every other instance; the design notes,
"Shared state", explain each compare.
"""

from dataclasses import dataclass

from modelmesh.control.view.keys import Keys
from modelmesh.control.view.store_identity import StoreIdentity
from modelmesh.ports import (
    Compare,
    Delete,
    Get,
    KeyValue,
    LeaseNotFoundError,
    Operation,
    Put,
    Store,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.records import CopyRecord, FailureRecord, ModelRecord


@dataclass(frozen=True, slots=True)
class Claimed:
    """The load is ours; `revision` is that of the copy's new key."""

    revision: Revision


@dataclass(frozen=True, slots=True)
class ClaimMoved:
    """Copies changed since the decision; decide again once the view has reached `view`."""

    view: Revision


@dataclass(frozen=True, slots=True)
class ClaimVoid:
    """The model's record was deleted or replaced."""


class CopyWriter:
    """Writes this instance's copies and failures."""

    def __init__(self, *, store: Store, keys: Keys, identity: StoreIdentity, own: InstanceId) -> None:
        self._store = store
        self._keys = keys
        self._identity = identity
        self._own = own

    async def claim(
        self, model: ModelId, record: CopyRecord, *, view: Revision, lease: int
    ) -> Claimed | ClaimMoved | ClaimVoid:
        """Put `copies/<model>/<own>` if no copy of the model was changed since revision `view`.

        Of any number of instances that decided on the same view exactly one succeeds.
        """
        registry = self._keys.model(model)
        copies = self._keys.copies_of(model)
        result = await self._store.transact(
            Transaction(
                compares=(
                    Compare(copies, "mod", "<", view + 1, prefix=True),
                    Compare(registry, "create", "==", record.record_revision),
                    *self._identity.compare(),
                ),
                then=(self._listed(model, record, lease),),
                otherwise=(Get(copies, prefix=True), Get(registry), Get(self._keys.alive)),
            )
        )
        if result.succeeded:
            return Claimed(result.revision)
        standing, registered, alive = (_found(answer) for answer in result.answers)
        self._identity.check(alive)
        if not registered or registered[0].create_revision != record.record_revision:
            return ClaimVoid()
        return ClaimMoved(max((item.mod_revision for item in standing), default=view))

    async def publish(
        self, model: ModelId, record: CopyRecord, *, lease: int, disproved: tuple[InstanceId, ...]
    ) -> Revision | None:
        """Publish that the copy is loaded; None if the model's record was deleted or replaced.

        Raises StoreReplacedError if the missing record proves nothing, because the store was replaced.

        The record is put again unchanged: controllers of the old system watch only that key. `disproved`: instances
        whose failures with the model this load has shown to be past.
        """
        operations: list[Operation] = [
            self._listed(model, record, lease),
            Put(self._keys.model(model), keep_value=True),
        ]
        operations += [Delete(self._keys.failure(model, instance)) for instance in disproved[:MOST_DISPROVED]]
        result = await self._store.transact(
            Transaction(
                compares=(self._registered(model, record.record_revision),),
                then=tuple(operations),
                otherwise=(Get(self._keys.alive),),
            )
        )
        if not result.succeeded:
            self._identity.check(_found(result.answers[0]))
        return result.revision if result.succeeded else None

    async def withdraw(
        self,
        model: ModelId,
        *,
        record_revision: Revision,
        relied_on: tuple[tuple[InstanceId, Revision], ...] = (),
        last: tuple[Revision, ModelRecord] | None = None,
    ) -> bool:
        """Delete our copy's key; False if a copy that was relied on no longer exists.

        Args:
            model: Whose copy.
            record_revision: Create revision of the record it was loaded for.
            relied_on: The other copies that make ours redundant, with their create revisions. Of two
                holders that drop at once one wins.
            last: The record as it should be after this use, written if it still has that mod revision.
        """
        registry = self._keys.model(model)
        touch = Transaction(
            compares=(self._registered(model, record_revision),), then=(Put(registry, keep_value=True),)
        )
        if last is not None:
            revision, record = last
            touch = Transaction(
                compares=(Compare(registry, "mod", "==", revision),),
                then=(Put(registry, record.encode()),),
                otherwise=(touch,),
            )
        guards = tuple(
            Compare(self._keys.copy(model, instance), "create", "==", revision) for instance, revision in relied_on
        )
        result = await self._store.transact(
            Transaction(compares=guards, then=(Delete(self._keys.copy(model, self._own)), touch))
        )
        return result.succeeded

    async def fail(self, model: ModelId, failure: FailureRecord) -> Revision:
        """Delete our copy's key and remember why, unless the record was deleted or replaced."""
        own = self._keys.copy(model, self._own)
        result = await self._store.transact(
            Transaction(
                compares=(self._registered(model, failure.record_revision),),
                then=(
                    Delete(own),
                    Put(self._keys.failure(model, self._own), failure.encode()),
                    Put(self._keys.model(model), keep_value=True),
                ),
                otherwise=(Delete(own),),
            )
        )
        return result.revision

    async def remember(self, model: ModelId, failure: FailureRecord) -> Revision:
        """Remember a failure here, whatever happens to the copy, unless the model's record was deleted or replaced."""
        result = await self._store.transact(
            Transaction(
                compares=(self._registered(model, failure.record_revision),),
                then=(Put(self._keys.failure(model, self._own), failure.encode()),),
            )
        )
        return result.revision

    async def relist(self, copies: list[tuple[ModelId, CopyRecord]], *, lease: int) -> list[ModelId]:
        """Put copies again under a new lease; returns those whose record was deleted or replaced."""
        void: list[ModelId] = []
        for start in range(0, len(copies), BATCH):
            batch = copies[start : start + BATCH]
            result: TransactionResult = await self._store.transact(
                Transaction(
                    compares=(),
                    then=(
                        Get(self._keys.alive),
                        *(
                            Transaction(
                                compares=(self._registered(model, record.record_revision),),
                                then=(self._listed(model, record, lease),),
                            )
                            for model, record in batch
                        ),
                    ),
                )
            )
            self._identity.check(_found(result.answers[0]))
            for (model, _), answer in zip(batch, result.answers[1:], strict=True):
                assert isinstance(answer, TransactionResult)
                if not answer.succeeded:
                    void.append(model)
        return void

    def _listed(self, model: ModelId, record: CopyRecord, lease: int) -> Put:
        """The key of our copy. Without a lease (0) it would outlive us, so that is refused: LeaseNotFoundError."""
        if not lease:
            raise LeaseNotFoundError("this instance has no lease at the moment")
        return Put(self._keys.copy(model, self._own), record.encode(), lease)

    def _registered(self, model: ModelId, create_revision: Revision) -> Compare:
        return Compare(self._keys.model(model), "create", "==", create_revision)


MOST_DISPROVED = 64
BATCH = 64
"""Nested transactions in one; etcd's default limit is 128 operations."""


def _found(answer: object) -> tuple[KeyValue, ...]:
    assert isinstance(answer, tuple)
    return answer
