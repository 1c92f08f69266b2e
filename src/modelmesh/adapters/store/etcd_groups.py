"""Many small transactions in one: while one group is on its way to etcd, the next gathers.

A group is a transaction without conditions whose operations are the transactions of its members, which etcd
runs each for itself, at one revision. Knows transactions and nothing of gRPC.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from modelmesh.ports import (
    Compare,
    Delete,
    Get,
    Put,
    StoreError,
    StoreUnavailableError,
    Transaction,
    TransactionResult,
)

GROUP = 64
"""Transactions in one; half of what etcd takes by default, since nested lists count against the rest."""

PAUSE_S = 0.001
"""How long the next group waits at most for callers of the last one; about the time of a fast etcd for one."""

Run = Callable[[Transaction], Awaitable[TransactionResult]]


@dataclass(slots=True)
class Footprint:
    """The keys that a transaction may read or write, in any branch; prefixes apart."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    read_prefixes: list[str] = field(default_factory=list)
    write_prefixes: list[str] = field(default_factory=list)
    leased: bool = False

    def add(self, other: "Footprint") -> None:
        """Take in another's keys."""
        self.reads |= other.reads
        self.writes |= other.writes
        self.read_prefixes += other.read_prefixes
        self.write_prefixes += other.write_prefixes

    def meets(self, other: "Footprint") -> bool:
        """Whether one may write what the other reads or writes."""
        return _writes_into(self, other) or _writes_into(other, self)


def _writes_into(one: Footprint, other: Footprint) -> bool:
    if not one.writes.isdisjoint(other.writes) or not one.writes.isdisjoint(other.reads):
        return True
    if other.read_prefixes and any(key.startswith(prefix) for prefix in other.read_prefixes for key in one.writes):
        return True
    if not one.write_prefixes:
        return False
    if any(key.startswith(prefix) for prefix in one.write_prefixes for key in (*other.writes, *other.reads)):
        return True
    return any(
        first.startswith(second) or second.startswith(first)
        for first in one.write_prefixes
        for second in (*other.read_prefixes, *other.write_prefixes)
    )


def footprint(transaction: Transaction) -> Footprint:
    """What a transaction may touch."""
    found = Footprint()
    for operation in (*transaction.compares, *transaction.then, *transaction.otherwise):
        match operation:
            case Put():
                found.writes.add(operation.key)
                found.leased = found.leased or operation.lease != 0
            case Delete():
                if operation.prefix:
                    found.write_prefixes.append(operation.key)
                else:
                    found.writes.add(operation.key)
            case Get() | Compare():
                if operation.prefix:
                    found.read_prefixes.append(operation.key)
                else:
                    found.reads.add(operation.key)
            case Transaction():
                nested = footprint(operation)
                found.add(nested)
                found.leased = found.leased or nested.leased
    return found


@dataclass(slots=True)
class _Waiting:
    transaction: Transaction
    touched: Footprint
    done: "asyncio.Future[TransactionResult]"


class Groups:
    """Sends transactions, several at a time when several wait. One group is under way at a time.

    Members of a group touch different keys, so that each sees what it would have seen alone. Use two of
    them to keep writes under leases apart: a lease that does not exist makes etcd refuse the whole group.

    Args:
        run: Sends one transaction.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: deque[_Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._barred = False
        """A caller had to wait for the keys of the last group."""
        self._expected = 0
        self._gathered: asyncio.Future[None] | None = None

    async def transact(self, transaction: Transaction, touched: Footprint) -> TransactionResult:
        """Run it, alone or with others. Giving up the wait does not undo what is under way."""
        entry = _Waiting(transaction, touched, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        elif self._gathered is not None and len(self._waiting) >= self._expected:
            _resolve(self._gathered)
        return await entry.done

    async def close(self) -> None:
        """End; callers that still wait get an error."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    async def _send(self) -> None:
        group: Sequence[_Waiting] = ()
        try:
            while group := self._next_group():
                await self._perform(group)
                await self._gather(len(group))
        finally:
            # Left over only if this task was cancelled.
            for entry in (*group, *self._waiting):
                if not entry.done.done():
                    entry.done.set_exception(StoreUnavailableError("the store is closed"))
            self._waiting.clear()
            self._sender = None

    async def _gather(self, answered: int) -> None:
        """Wait for those who were answered together: callers in a loop come back at once, and share a group again.

        Without this the first of them would be sent alone, and the others after it. A single caller does not wait.
        """
        self._expected = min(GROUP, answered + len(self._waiting))
        if answered > 1 and len(self._waiting) < GROUP and not self._barred:
            loop = asyncio.get_running_loop()
            self._gathered = loop.create_future()
            timer = loop.call_later(PAUSE_S, _resolve, self._gathered)
            try:
                await self._gathered
            finally:
                timer.cancel()
                self._gathered = None

    def _next_group(self) -> list[_Waiting]:
        """The longest waiting, and all behind it that use none of the group's keys."""
        group: list[_Waiting] = []
        touched = Footprint()
        passed = Footprint()
        left: deque[_Waiting] = deque()
        while self._waiting and len(group) < GROUP:
            entry = self._waiting.popleft()
            if entry.done.done():
                continue  # given up
            # No transaction overtakes another one that uses the same keys.
            if entry.touched.meets(touched) or (left and entry.touched.meets(passed)):
                left.append(entry)
                passed.add(entry.touched)
            else:
                group.append(entry)
                touched.add(entry.touched)
        self._barred = len(left) > 0
        left.extend(self._waiting)
        self._waiting = left
        return group

    async def _perform(self, group: Sequence[_Waiting]) -> None:
        if len(group) == 1:
            await self._alone(group[0])
            return
        try:
            result = await self._run(Transaction((), then=tuple(entry.transaction for entry in group)))
        except StoreUnavailableError as error:
            # Perhaps it was executed: each member learns what it would have learnt alone.
            for entry in group:
                _fail(entry, error)
        except StoreError:
            for entry in group:
                await self._alone(entry)
        else:
            for entry, answer in zip(group, result.answers, strict=True):
                assert isinstance(answer, TransactionResult)
                if not entry.done.done():
                    entry.done.set_result(answer)

    async def _alone(self, entry: _Waiting) -> None:
        try:
            result = await self._run(entry.transaction)
        except Exception as error:  # noqa: BLE001 - all waiters get it
            _fail(entry, error)
        else:
            if not entry.done.done():
                entry.done.set_result(result)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(entry: _Waiting, error: Exception) -> None:
    if not entry.done.done():
        entry.done.set_exception(type(error)(*error.args))
