"""This instance's lease and its entry in `members/`.

All leased keys hang on one lease. When it is lost they are put again under a new one: copies first,
the entry last, so that others know that the copies they still see are all there are.
"""

from collections.abc import Awaitable, Callable

from modelmesh.control.journal import Journal
from modelmesh.control.view.keys import Keys
from modelmesh.machines.member import MemberEffect, MemberInput, MemberMachine, MemberState
from modelmesh.ports import (
    Clock,
    Compare,
    Get,
    LeaseNotFoundError,
    Put,
    Store,
    StoreError,
    StoreUnavailableError,
    Transaction,
)
from modelmesh.values.dataplane import PeerAddress
from modelmesh.values.ids import InstanceId, Revision
from modelmesh.values.records import MemberRecord
from modelmesh.values.stored import RecordError

LEASE_TTL_MS = 10_000
RENEW_MS = 3_000
PUBLISH_MS = 1_000
"""An entry is written when it changed, at most this often."""

STALE_MS = 30_000
"""Small changes (below `_significant`) are written after this long."""


class Membership:
    """Grants, renews and regains the lease; publishes the entry.

    Args:
        record: Builds the entry as it should be now.
        relist: Puts the keys of held copies again under the lease it is given.
        turned: Called before each turn.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        own: InstanceId,
        clock: Clock,
        journal: Journal,
        record: Callable[[], MemberRecord],
        relist: Callable[[int], Awaitable[None]],
        turned: Callable[[], None],
    ) -> None:
        self._turned = turned
        self._store = store
        self._key = keys.member(own)
        self._clock = clock
        self._journal = journal
        self._record = record
        self._relist = relist
        self._machine = MemberMachine()
        self._lease = 0
        self._created = Revision(0)
        self.contact_ms = clock.now_ms()
        """When the store last took a write of ours, epoch milliseconds."""
        self._published: MemberRecord | None = None
        self._published_ms = 0

    @property
    def lease(self) -> int:
        """The lease of this instance's keys; 0 while there is none, and then no key may be put."""
        return self._lease

    @property
    def state(self) -> MemberState:
        """Where this instance is in its life."""
        return self._machine.state

    async def predecessor(self) -> tuple[PeerAddress | None, int] | None:
        """The address and lease of an entry under our id from before; None if there is none.

        The address is None if the entry cannot be read: then it is not the entry of an instance of ours.
        """
        item = await self._store.get(self._key)
        if item is None:
            return None
        try:
            record = MemberRecord.decode(item.value)
        except RecordError:
            return None, item.lease
        return PeerAddress(record.address, record.tls_name or None), item.lease

    async def join(self) -> Revision:
        """Get a lease and appear; returns the revision of the entry. Raises StoreUnavailableError."""
        return await self._list()

    async def run(self) -> None:
        """Renew the lease and keep the entry true, until cancelled."""
        renewed_ms = self._clock.monotonic_ms()
        while True:
            self._turned()
            await self._clock.sleep(PUBLISH_MS)
            if self._machine.state is MemberState.GONE:
                return
            try:
                if self._machine.state is MemberState.ADRIFT or self._lease == 0:
                    await self._list()
                    renewed_ms = self._clock.monotonic_ms()
                if self._clock.monotonic_ms() - renewed_ms >= RENEW_MS:
                    await self._store.keep_alive(self._lease)
                    renewed_ms = self._clock.monotonic_ms()
                    self.contact_ms = self._clock.now_ms()
                await self._publish_if_changed()
            except LeaseNotFoundError:
                self.lease_lost()
            except StoreError:
                pass  # the observer reports it; the lease may or may not survive

    def lease_lost(self) -> None:
        """A write found that the lease no longer exists."""
        if self._lease == 0:
            return
        self._journal.note("lease_lost", detail="this instance's keys went with its lease; they are put again")
        self._lease = 0
        self._machine.step(MemberInput.LEASE_LOST)

    async def drain(self) -> None:
        """Publish that nothing should be loaded here any more; nothing if this instance has left."""
        if self._machine.state is MemberState.GONE:
            return
        for effect in self._machine.step(MemberInput.DRAIN_BEGUN):
            assert effect is MemberEffect.PUBLISH
            await self._publish(self._record())

    async def leave(self) -> None:
        """End the lease and with it every key of this instance; nothing happens the second time."""
        if self._machine.state is MemberState.GONE:
            return
        effects = self._machine.step(MemberInput.LEFT)
        if MemberEffect.REVOKE in effects and self._lease:
            lease, self._lease = self._lease, 0
            try:
                await self._store.revoke(lease)
            except StoreUnavailableError as error:
                self._journal.note("leave_unconfirmed", detail=f"the lease ends by itself: {error}")

    async def publish_now(self) -> None:
        """Write the entry at once, if there is a lease."""
        if self._lease:
            await self._publish(self._record())

    async def _list(self) -> Revision:
        """Put everything under a new lease. Raises LeaseNotFoundError if that is given up while it is put."""
        lease = await self._store.grant(LEASE_TTL_MS)
        if self._machine.state is MemberState.GONE:
            await self._store.revoke(lease)
            raise LeaseNotFoundError("this instance has left")
        self._lease = lease
        await self._relist(lease)
        record = self._record()
        put = Put(self._key, record.encode(), lease)
        result = await self._store.transact(Transaction(compares=(), then=(put, Get(self._key))))
        if self._lease != lease:
            raise LeaseNotFoundError("the lease was lost again, or this instance has left")
        found = result.answers[1]
        assert isinstance(found, tuple)
        self._created = found[0].create_revision
        self._wrote(record)
        self._machine.step(MemberInput.LISTED)
        return result.revision

    async def _publish_if_changed(self) -> None:
        record = self._record()
        before = self._published
        if before == record:
            return
        age_ms = self._clock.monotonic_ms() - self._published_ms
        if before is None or age_ms >= STALE_MS or _significant(before, record):
            await self._publish(record)

    async def _publish(self, record: MemberRecord) -> None:
        """Write the entry, if it is still the one that was listed.

        If not, the store was emptied or our lease has gone. An entry alone would say that we hold nothing:
        the copies must be put again before it.
        """
        if not self._lease:
            return  # the listing publishes it, under the next lease
        put = Put(self._key, record.encode(), self._lease)
        exists = Compare(self._key, "create", "==", self._created)
        result = await self._store.transact(Transaction(compares=(exists,), then=(put,)))
        if result.succeeded:
            self._wrote(record)
        else:
            self.lease_lost()

    def _wrote(self, record: MemberRecord) -> None:
        self._published = record
        self.contact_ms = self._clock.now_ms()
        self._published_ms = self._clock.monotonic_ms()


def _significant(before: MemberRecord, after: MemberRecord) -> bool:
    """Whether others would decide differently: anything but a small drift of age, busyness and worth.

    The worth of an idle copy falls all the time. No instance decides by the calls at work.
    """
    earlier, later = before.next_victim_use_ms, after.next_victim_use_ms
    if abs(earlier - later) >= 2_000 or (earlier == 0) != (later == 0):
        return True
    if _by_a_tenth(before.busyness, after.busyness, 10) or _by_a_tenth(before.worth, after.worth, 100):
        return True
    same = {"next_victim_use_ms": 0, "busyness": 0, "worth": 0, "at_once": 0}
    return _with(before, same) != _with(after, same)


def _by_a_tenth(before: int, after: int, least: int) -> bool:
    """Whether a number changed by more than a tenth of itself; one below `least` is taken for that."""
    return abs(before - after) * 10 > max(before, least)


def _with(record: MemberRecord, values: dict[str, int]) -> tuple[object, ...]:
    return tuple(values.get(name, getattr(record, name)) for name in MemberRecord.__slots__)
