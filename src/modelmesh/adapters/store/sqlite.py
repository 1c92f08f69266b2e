"""The embedded store: one SQLite file for one instance, or memory for tests and the simulator.

In a file, all work is done by one thread, which takes everything that is queued and commits it at
once: callers that write together share the wait for the disk. In memory there is no thread; a call
is done when it returns, in the order of calls, so that a simulation repeats.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modelmesh.adapters.store.malformed import refuse_malformed
from modelmesh.adapters.store.sqlite_tables import StoreFileError, Tables
from modelmesh.ports import (
    Change,
    CompactedError,
    KeyValue,
    LeaseNotFoundError,
    Listing,
    StoreError,
    StoreUnavailableError,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import Revision

__all__ = ["MEMORY", "SqliteStore", "StoreFileError"]

MEMORY = ":memory:"

TIMEOUT_S = 3.5
"""As for etcd: a disk that hangs must not hang its callers."""

HISTORY_REVISIONS = 10_000
"""How far back a watch or a paged listing may start. At a hundred writes a second, more than a minute and a half."""

_GROUP = 256
"""Operations committed at once, at most: bounds how long the first of them waits."""

_BATCH = 1_000
"""Changes a watch delivers at once, about; a revision is never cut."""

_RECENT_CHANGES = 4_096
"""Changes kept in memory, so that watches that keep up never read the file."""

T = TypeVar("T")
_Job = tuple[Callable[[Tables], Any], "asyncio.Future[Any]"]


@dataclass(slots=True)
class _Recent:
    """The latest revisions, without gaps: `revisions[i]` is what happened at `first` + i."""

    first: int
    revisions: list[tuple[Change, ...]] = field(default_factory=list)
    changes: int = 0

    def add(self, changes: Sequence[Change]) -> None:
        """Append changes in order; each revision has at least one."""
        start = 0
        for end in range(1, len(changes) + 1):
            if end == len(changes) or changes[end].item.mod_revision != changes[start].item.mod_revision:
                self.revisions.append(tuple(changes[start:end]))
                start = end
        self.changes += len(changes)
        if self.changes > 2 * _RECENT_CHANGES:
            # Half at a time, so that removing from the front of a list stays cheap.
            keep = len(self.revisions)
            left = _RECENT_CHANGES
            while keep and left > 0:
                keep -= 1
                left -= len(self.revisions[keep])
            self.changes = sum(map(len, self.revisions[keep:]))
            self.first += keep
            del self.revisions[:keep]

    def since(self, revision: int, prefix: str) -> tuple[tuple[Change, ...], int]:
        """Changes under a prefix from a kept revision on, and the revision to continue from."""
        found: list[Change] = []
        index = revision - self.first
        while index < len(self.revisions) and len(found) < _BATCH:
            found += [change for change in self.revisions[index] if change.item.key.startswith(prefix)]
            index += 1
        return tuple(found), self.first + index


class SqliteStore:
    """A `modelmesh.ports.Store` in one SQLite file, or in memory.

    Acknowledged means committed with synchronous=FULL. The file belongs to one process at a time. Leases live
    as long as the process, unless `expires_leases`: then also no longer than their TTL by the event loop's
    clock. At open the keys of an earlier process's leases are deleted, as one revision that watches see.
    """

    def __init__(self, path: str, *, expires_leases: bool = False, history_revisions: int = HISTORY_REVISIONS) -> None:
        """Open or create the file; blocks for the time of a few disk writes.

        Raises:
            StoreFileError: The file is in use, of another format, or not ours.
        """
        self._path = path
        self._tables = Tables(path, history=history_revisions)
        self._expires_leases = expires_leases
        self._expiries: dict[int, asyncio.TimerHandle] = {}
        self._revision = self._tables.revision
        self._compacted = self._tables.compacted
        self._recent = _Recent(first=self._revision + 1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._closed = False
        self._jobs: queue.SimpleQueue[_Job | None] | None = None
        self._thread: threading.Thread | None = None
        if path != MEMORY:
            self._jobs = queue.SimpleQueue()
            # A daemon: whatever was acknowledged is on the disk, so an exit need not wait for it.
            self._thread = threading.Thread(target=self._work, args=(self._jobs,), name="store", daemon=True)
            self._thread.start()

    @property
    def orphans(self) -> tuple[KeyValue, ...]:
        """The keys deleted at open, as they were: what an earlier process held and lost by ending."""
        return self._tables.orphans

    # --- the port ---

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        return await self._run(lambda tables: tables.get(key))

    async def range(
        self, prefix: str, *, start_after: str = "", limit: int = 0, revision: Revision | None = None
    ) -> Listing:
        """List keys under a prefix."""
        return await self._run(lambda tables: tables.range(prefix, start_after, limit, revision))

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Run a transaction. Raises ValueError if it is malformed."""
        refuse_malformed(transaction)
        return await self._run(lambda tables: tables.transact(transaction))

    async def watch(self, prefix: str, *, start: Revision) -> AsyncIterator[tuple[Change, ...]]:
        """Changes under a prefix from a revision on."""
        cursor = max(1, start)
        while True:
            self._refuse_closed()
            if cursor <= self._compacted:
                raise CompactedError(f"revision {cursor} is no longer kept; list again")
            if cursor > self._revision:
                await self._advance()
                continue
            changes: tuple[Change, ...]
            if cursor >= self._recent.first:
                changes, cursor = self._recent.since(cursor, prefix)
            else:
                changes, cursor = await self._older(prefix, cursor)
            if changes:
                yield changes

    async def grant(self, ttl_ms: int) -> int:
        """Create a lease."""
        if ttl_ms <= 0:
            raise ValueError(f"a lease of {ttl_ms} ms")
        lease = await self._run(lambda tables: tables.grant(ttl_ms))
        self._expire_later(lease, ttl_ms)
        return lease

    async def keep_alive(self, lease: int) -> None:
        """Renew a lease."""
        ttl_ms = await self._run(lambda tables: tables.leases.get(lease))
        if ttl_ms is None:
            raise LeaseNotFoundError(f"lease {lease} does not exist any more")
        self._expire_later(lease, ttl_ms)

    async def revoke(self, lease: int) -> None:
        """End a lease."""
        if (expiry := self._expiries.pop(lease, None)) is not None:
            expiry.cancel()
        await self._run(lambda tables: tables.end_lease(lease))

    async def close(self) -> None:
        """End watches, finish what is queued, close the file and free its lock."""
        if self._closed:
            return
        self._closed = True
        for expiry in self._expiries.values():
            expiry.cancel()
        self._wake()
        if self._jobs is None or self._thread is None:
            self._tables.close()
        else:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    # --- faults, for tests and simulations ---

    async def compact(self, revision: Revision | None = None) -> None:
        """Drop the history up to a revision, or all of it; watches that need it end."""
        at = self._revision if revision is None else revision
        await self._run(lambda tables: tables.compact(Revision(at)))
        self._wake()

    async def expire(self, lease: int) -> None:
        """Let a lease run out now."""
        await self.revoke(lease)

    async def empty(self) -> None:
        """Become a new, empty store, as when a volume is lost. Open watches stay silent, as etcd's do."""
        await self._run(Tables.empty)
        self._recent = _Recent(first=2)

    # --- running things ---

    async def _run(self, work: Callable[[Tables], T]) -> T:
        self._refuse_closed()
        if self._jobs is None:
            return self._run_now(work)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, future))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await future
        except TimeoutError as err:
            raise StoreUnavailableError(f"the disk of {self._path} did not answer within {TIMEOUT_S} s") from err

    def _run_now(self, work: Callable[[Tables], T]) -> T:
        outcomes, changes = _run_group(self._tables, [work])
        self._publish(changes, self._tables.revision, self._tables.compacted)
        (outcome,) = outcomes
        if isinstance(outcome, BaseException):
            raise outcome
        answer: T = outcome
        return answer

    def _work(self, jobs: "queue.SimpleQueue[_Job | None]") -> None:
        """The thread: groups of jobs until None comes, then close."""
        while True:
            group: list[_Job] = []
            job = jobs.get()
            while job is not None:
                group.append(job)
                # There is no other reader of the queue, so its content does not change until the next line.
                if len(group) == _GROUP or jobs.empty():
                    break
                job = jobs.get()
            if group:
                self._commit(group)
            if job is None:
                self._tables.close()
                return

    def _commit(self, group: list[_Job]) -> None:
        outcomes, changes = _run_group(self._tables, [work for work, _ in group])
        futures = [future for _, future in group]
        # Suppressed: the loop has ended, and all waiters with it.
        with contextlib.suppress(RuntimeError):
            futures[0].get_loop().call_soon_threadsafe(
                self._deliver, futures, outcomes, changes, self._tables.revision, self._tables.compacted
            )

    def _deliver(
        self,
        futures: Sequence["asyncio.Future[Any]"],
        outcomes: Sequence[Any],
        changes: Sequence[Change],
        revision: int,
        compacted: int,
    ) -> None:
        self._publish(changes, revision, compacted)
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.done():
                continue  # its caller has ended
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _publish(self, changes: Sequence[Change], revision: int, compacted: int) -> None:
        self._revision, self._compacted = revision, compacted
        if changes:
            self._recent.add(changes)
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(None)

    async def _older(self, prefix: str, start: int) -> tuple[tuple[Change, ...], int]:
        return await self._run(lambda tables: tables.changes(prefix, start, _BATCH))

    async def _advance(self) -> None:
        """Wait until there is a new revision, or the store closes or compacts."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[id(future)] = future
        try:
            await future
        finally:
            self._waiting.pop(id(future), None)

    def _expire_later(self, lease: int, ttl_ms: int) -> None:
        if self._expires_leases:
            if (before := self._expiries.pop(lease, None)) is not None:
                before.cancel()
            self._expiries[lease] = asyncio.get_running_loop().call_later(ttl_ms / 1000, self._expire_now, lease)

    def _expire_now(self, lease: int) -> None:
        self._expiries.pop(lease, None)
        if self._jobs is None:
            self._run_now(lambda tables: tables.end_lease(lease))
        else:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda done: done.exception())  # no caller waits for it
            self._jobs.put((lambda tables: tables.end_lease(lease), future))

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreUnavailableError(f"the store {self._path} is closed")


def _run_group(tables: Tables, group: Sequence[Callable[[Tables], Any]]) -> tuple[list[Any], list[Change]]:
    """Run several jobs and commit once; returns an answer or an exception for each, and what changed.

    A job that raises a StoreError wrote nothing and leaves the others alone. Anything else ends the group: what
    was written is undone, and no caller gets a success.
    """
    outcomes: list[Any] = []
    try:
        tables.begin()
        for work in group:
            try:
                outcomes.append(work(tables))
            except StoreError as err:
                outcomes.append(err)
        return outcomes, tables.commit()
    except sqlite3.Error as err:
        tables.rollback()
        return [_unavailable(err) for _ in group], []
    except Exception as err:  # noqa: BLE001  # a bug: all waiters get it
        tables.rollback()
        return [err] * len(group), []


def _unavailable(cause: sqlite3.Error) -> StoreUnavailableError:
    error = StoreUnavailableError(f"the store's file cannot be used: {cause}")
    error.__cause__ = cause
    return error
