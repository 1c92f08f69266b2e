"""The shared store: etcd's v3 API.

Over our own channel: the clients for Python have no nested transactions, no `ignore_value`, no compares over a
range, one endpoint, and time-outs of their own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from modelmesh._proto import etcd_pb2 as rpc
from modelmesh.adapters.store.etcd_channel import (
    CALL_TIMEOUT_S,
    COMPACT,
    LEASE_GRANT,
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    RANGE,
    TXN,
    EtcdChannel,
    NotPermittedError,
)
from modelmesh.adapters.store.etcd_groups import Groups, footprint
from modelmesh.adapters.store.etcd_messages import Messages
from modelmesh.adapters.store.etcd_settings import EtcdSettings, StoreSettingError
from modelmesh.adapters.store.etcd_watch import WatchStream
from modelmesh.adapters.store.malformed import refuse_malformed
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

SILENCE_S = 2.0
"""A watch without an answer for so long pings etcd; without an answer within the call time-out it is lost."""

_PROBE = "__DUMMY_KEY_FOR_TESTING_CONNECTION"
"""Read and never written; users of etcd with roles may have to permit it, as they had for ModelMesh."""


class EtcdStore:
    """A `modelmesh.ports.Store` in an etcd cluster. Belongs to the event loop of its first call."""

    def __init__(
        self, settings: EtcdSettings, *, call_timeout_s: float = CALL_TIMEOUT_S, silence_s: float = SILENCE_S
    ) -> None:
        """Connects at the first call; `connect` makes sure of it."""
        self.settings = settings
        """How etcd is reached; `renew` changes it."""
        self._channel = EtcdChannel(settings, call_timeout_s)
        self._call_timeout_s = call_timeout_s
        self._silence_s = silence_s
        self._messages = Messages(settings.root_prefix)
        self._plain = Groups(self._transact)
        self._leased = Groups(self._transact)

    async def connect(self) -> None:
        """Make sure that etcd answers and lets us in. A user who may not read the key asked for is in.

        Raises:
            StoreUnavailableError: It does not; the message names the endpoints and the cause.
        """
        try:
            await self.get(_PROBE)
        except NotPermittedError:
            return  # an answer: the user's role is for other keys, as it should be
        except StoreError as err:
            raise StoreUnavailableError(f"Problem connecting to etcd at {self.settings.described}: {err}") from err

    async def renew(self, settings: EtcdSettings) -> None:
        """Reach etcd in another way from now on: another password, other certificates, other endpoints.

        What is under way continues over the connection it has.

        Raises:
            StoreSettingError: It would be another part of the store.
            StoreUnavailableError: etcd does not answer so, or does not let us in; nothing is changed.
        """
        if settings.root_prefix != self.settings.root_prefix:
            raise StoreSettingError("root_prefix cannot change while an instance runs; restart it")
        trial = EtcdStore(settings, call_timeout_s=self._call_timeout_s)
        try:
            await trial.connect()
        finally:
            await trial.close()
        self.settings = settings
        await self._channel.renew(settings)

    # --- the port ---

    async def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""
        answer = await self._range(rpc.RangeRequest(key=self._messages.encode(key)))
        return self._messages.item(answer.kvs[0]) if answer.kvs else None

    async def range(
        self, prefix: str, *, start_after: str = "", limit: int = 0, revision: Revision | None = None
    ) -> Listing:
        """List keys under a prefix, linearizably."""
        if revision is not None and revision <= 0:
            raise CompactedError(f"there is no revision {revision}")
        low, high = self._messages.bounds(prefix)
        if start_after:
            # The smallest key that sorts after another is that key and a zero byte.
            low = max(low, self._messages.encode(start_after) + b"\x00")
        if high != b"\x00" and low >= high:
            low = high  # etcd would take an inverted range as an error; this one is empty
        answer = await self._range(rpc.RangeRequest(key=low, range_end=high, limit=limit, revision=revision or 0))
        at = revision if revision is not None else Revision(answer.header.revision)
        return Listing(at, tuple(map(self._messages.item, answer.kvs)), answer.more)

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Run a transaction. Raises ValueError if it is malformed."""
        refuse_malformed(transaction)
        touched = footprint(transaction)
        groups = self._leased if touched.leased else self._plain
        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await groups.transact(transaction, touched)
        except TimeoutError as err:
            raise StoreUnavailableError(
                f"etcd at {self.settings.described} did not answer within {self._call_timeout_s} s"
            ) from err

    async def _transact(self, transaction: Transaction) -> TransactionResult:
        request = self._messages.transaction(transaction)
        answer = await self._channel.call(TXN, request, repeatable=False)
        return self._messages.result(transaction, answer, Revision(answer.header.revision))

    async def watch(self, prefix: str, *, start: Revision) -> AsyncIterator[tuple[Change, ...]]:
        """Changes under a prefix from a revision on. A silent connection is found dead after a few seconds."""
        low, high = self._messages.bounds(prefix)
        # Without `fragment` etcd never splits a revision over two answers.
        create = rpc.WatchCreateRequest(key=low, range_end=high, start_revision=max(1, start))
        stream = WatchStream(self._channel, answer_s=self._call_timeout_s, silence_s=self._silence_s)
        try:
            await stream.open(create)
            while True:
                answer = await stream.read()
                if answer.events:
                    yield tuple(map(self._messages.change, answer.events))
        finally:
            await stream.close()

    async def grant(self, ttl_ms: int) -> int:
        """Create a lease. etcd counts whole seconds, and raises a TTL that is too short for its elections."""
        if ttl_ms <= 0:
            raise ValueError(f"a lease of {ttl_ms} ms")
        request = rpc.LeaseGrantRequest(TTL=-(-ttl_ms // 1000))
        answer = await self._channel.call(LEASE_GRANT, request, repeatable=False)
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> None:
        """Renew a lease."""
        # A stream, of which one message is enough.
        answer = await self._channel.call(LEASE_KEEP_ALIVE, rpc.LeaseKeepAliveRequest(ID=lease), repeatable=True)
        if answer.TTL <= 0:
            raise LeaseNotFoundError(f"lease {lease} does not exist any more")

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        with contextlib.suppress(LeaseNotFoundError):
            await self._channel.call(LEASE_REVOKE, request, repeatable=True)

    async def close(self) -> None:
        """Close all connections; calls and watches under way raise StoreUnavailableError."""
        await self._plain.close()
        await self._leased.close()
        await self._channel.close()

    async def compact(self, revision: Revision) -> None:
        """Drop the history up to a revision, for the whole etcd: an operator's or a test's business."""
        request = rpc.CompactionRequest(revision=revision, physical=True)
        await self._channel.call(COMPACT, request, repeatable=True)

    # --- calls ---

    async def _range(self, request: Any) -> Any:
        return await self._channel.call(RANGE, request, repeatable=True)
