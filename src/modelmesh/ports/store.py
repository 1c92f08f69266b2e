"""The store: keys and values, transactions, leases, watches."""

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from modelmesh.values.ids import Revision


class StoreError(Exception):
    """The base of what a store may raise."""


class StoreUnavailableError(StoreError):
    """The store did not answer in time, or refused the connection. Whether a write happened is unknown."""


class LeaseNotFoundError(StoreError):
    """The lease has expired or was revoked; nothing was written."""


class CompactedError(StoreError):
    """The revision asked for is no longer kept; list again."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as stored. `lease` is 0 if none is attached."""

    key: str
    value: bytes
    create_revision: Revision
    mod_revision: Revision
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on one key, or with `prefix` on every key that starts with `key`.

    A key that does not exist has create revision, mod revision and version 0, and a value that satisfies
    nothing. Of a prefix only what 0 satisfies can be asked (never its values): etcd answers for a prefix
    without keys as for one key of zeros, so that such a prefix satisfies every condition.
    """

    key: str
    target: Literal["create", "mod", "version", "value"]
    operator: Literal["==", "!=", "<", ">"]
    operand: int | bytes
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key. `keep_value` writes what is there again (the key must exist); `lease` 0: none."""

    key: str
    value: bytes = b""
    lease: int = 0
    keep_value: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key, or with `prefix` every key that starts with it."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key, or with `prefix` every key that starts with it, in key order; `limit` 0: all."""

    key: str
    prefix: bool = False
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """If all `compares` hold then `then` else `otherwise`, at one revision.

    Compares see the state before the transaction, those of nested transactions too. No key may be
    put twice, in all branches that can run together.
    """

    compares: tuple[Compare, ...]
    then: "tuple[Operation, ...]"
    otherwise: "tuple[Operation, ...]" = ()


Operation = Put | Delete | Get | Transaction


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """The outcome, and one answer per operation of the branch that ran.

    An answer is a tuple of keys for Get, the number of deleted keys for Delete, None for Put, and a
    result for a nested transaction.
    """

    succeeded: bool
    revision: Revision
    answers: "tuple[Answer, ...]"


Answer = tuple[KeyValue, ...] | int | TransactionResult | None


@dataclass(frozen=True, slots=True)
class Listing:
    """Keys of a range in key order, all as of `revision`. `more` iff `limit` cut it."""

    revision: Revision
    items: tuple[KeyValue, ...]
    more: bool


class ChangeKind(enum.Enum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """One change. For DELETE only `key` and `mod_revision` (of the deletion) of `item` have a meaning."""

    kind: ChangeKind
    item: KeyValue


class Store(Protocol):
    """A small ordered, revisioned, leased key-value store. Keys are text, compared as UTF-8 bytes.

    Every call raises `StoreUnavailableError` when the store cannot be reached within the adapter's time-out.
    """

    async def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""
        ...

    async def range(
        self, prefix: str, *, start_after: str = "", limit: int = 0, revision: Revision | None = None
    ) -> Listing:
        """List keys that start with `prefix` (and sort after `start_after`), at `revision` or now.

        Raises:
            CompactedError: `revision` is no longer kept, or was not reached yet (the store is another).
        """
        ...

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Run a transaction; one that raises has written nothing, unless it is StoreUnavailableError.

        Raises:
            LeaseNotFoundError: A put names a lease that does not exist any more.
            StoreError: A put keeps the value of a key that does not exist, or the store refuses it.
            ValueError: It is malformed: a key put twice, more than 128 operations in one list, a condition
                that cannot be asked.
        """
        ...

    def watch(self, prefix: str, *, start: Revision) -> AsyncIterator[tuple[Change, ...]]:
        """Changes from revision `start` on (inclusive), in order; a batch holds whole revisions only.

        Ends only by an exception: `StoreUnavailableError` when the connection is lost (watch again from
        the last applied revision + 1), `CompactedError` when `start` was compacted.
        """
        ...

    async def grant(self, ttl_ms: int) -> int:
        """Create a lease; returns its id, > 0."""
        ...

    async def keep_alive(self, lease: int) -> None:
        """Renew a lease for its TTL. Raises LeaseNotFoundError if it does not exist any more."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys, in one revision. Unknown leases are ignored."""
        ...

    async def close(self) -> None:
        """Release connections and files. Leases are not revoked."""
        ...
