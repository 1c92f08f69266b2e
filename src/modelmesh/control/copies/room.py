"""Memory of this instance: which copies are evicted so that others can be loaded."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Protocol

from modelmesh.control.copies.entry import OPEN, Entry
from modelmesh.control.copies.runtime_link import RuntimeParameters
from modelmesh.control.copies.usage import Learned, UsageBook
from modelmesh.control.decide import Decider
from modelmesh.control.journal import Journal
from modelmesh.control.tasks import Tasks
from modelmesh.machines.memory import MemoryLedger, usual_reserve
from modelmesh.machines.model_copy import CopyState
from modelmesh.policy.admission import LoadCondition, settled
from modelmesh.policy.victims import EvictionReason, HeldCopy
from modelmesh.ports import Clock
from modelmesh.values.explanation import Rehearsal, RehearsedVictim
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import NOTHING, Memory, total

PRESSURE_MS = 50
PRESSURE_MAX_MS = 200
"""How soon victims are looked for again while none may leave, and how soon at last."""


WORTH_DIVISOR = 16
WORTH_COPIES = 16
"""How many of the copies that would leave next are read to compute their worth: a part of the capacity, and at most so many."""

WORTH_MS = 60_000
"""Uses within the next minute count, or within as long as copies stay here if that is shorter."""


LOOKED_AT = 1_000
"""Copies that are looked at, in the order in which they would leave, for those of a tenant."""

STAYS = 8
"""About so many evictions teach how long copies stay."""


class DropVictim(Protocol):
    """Drops a copy."""

    def __call__(
        self,
        model: ModelId,
        reason: EvictionReason,
        *,
        forced: bool,
        relied_on: tuple[tuple[InstanceId, Revision], ...],
    ) -> None:
        """As `Cache.drop`."""


class Room:
    """Evicts for what waits for memory.

    Args:
        entries: The copies here; read only.
        decider: Gives the policies; they come after this.
        store_available: Whether the store answers: only what the runtime forces is evicted while it does not.
        look_at_usage: Takes in what the data plane counted.
        drop: Drops a copy.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        entries: Mapping[ModelId, Entry],
        ledger: MemoryLedger,
        usage: UsageBook,
        learned: Learned,
        decider: Callable[[], Decider],
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        store_available: Callable[[], bool],
        look_at_usage: Callable[[], None],
        drop: DropVictim,
    ) -> None:
        self._own = own
        self._entries = entries
        self._ledger = ledger
        self._usage = usage
        self._learned = learned
        self._decider = decider
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._store_available = store_available
        self._look_at_usage = look_at_usage
        self._drop = drop
        self._pressed = False
        self._pressure_ms = PRESSURE_MS
        self._stay_ms: float = WORTH_MS
        """How long copies that were evicted had stayed (the latest counting most)."""
        self._pinned: set[ModelId] = set()
        self._promised: dict[LoadId, Memory] = {}
        self.promised_memory = NOTHING
        """What loads will ask for that are decided and have no turn yet: the ledger does not know them."""

    @property
    def promised(self) -> int:
        """How many such loads there are."""
        return len(self._promised)

    def promise(self, load: LoadId, size: Memory) -> None:
        """A load of about this size is decided."""
        self._promised[load] = size
        self.promised_memory += size

    def redeem(self, load: LoadId) -> None:
        """It asks the ledger now, or never will; nothing happens if it was not promised anything."""
        self.promised_memory -= self._promised.pop(load, NOTHING)

    def look_at_pin(self, model: ModelId) -> None:
        """A copy was added or removed, or its record changed: note whether it is pinned."""
        entry = self._entries.get(model)
        if entry is not None and entry.registered.record.pinned:
            self._pinned.add(model)
        else:
            self._pinned.discard(model)

    def pinned(self) -> Memory:
        """Memory of loaded copies that are never evicted to make room."""
        entries = (self._entries[model] for model in self._pinned)
        return total(entry.size for entry in entries if entry.state in OPEN)

    def next_victim_use_ms(self) -> int:
        """Last use of the copy that would leave next; 0 if none can leave."""
        for model in self._usage.leaving_order():
            entry = self._entries[model]
            if entry.state in OPEN and not entry.registered.record.pinned and not self._usage.busy(model):
                return self._usage.last_use_ms(model)
        return 0

    def condition(self, *, draining: bool, runtime_ready: bool) -> LoadCondition:
        """What decides whether a load is taken here, as of now."""
        return LoadCondition(
            capacity=self._ledger.capacity,
            reserve=self._ledger.reserve,
            pinned=self.pinned(),
            used=self._ledger.used,
            next_victim_use_ms=self.next_victim_use_ms(),
            draining=draining,
            runtime_ready=runtime_ready,
        )

    def worth(self) -> int:
        """What would leave next, per GiB: milliseconds that callers would wait for it in the next minute.

        Where copies stay for less than a minute, so long counts instead: else everything that was used once would be
        worth the same there.
        """
        ahead_ms = min(WORTH_MS, self._stay_ms)
        wanted = self._ledger.capacity // WORTH_DIVISOR
        now_ms = self._clock.now_ms()
        loss_ms = 0.0
        seen, looked = NOTHING, 0
        for copy in self._oldest_first(None):
            looked += 1
            if copy.busy or copy.pinned:
                continue
            if not copy.redundant:
                again = -math.expm1(-self._usage.rate(copy.model, now_ms) * ahead_ms)
                loss_ms += again * self._learned.expected_load_ms(copy.model, copy.size)
            seen += copy.size
            if wanted.fits(seen) or looked >= WORTH_COPIES:
                break
        return round(seen.per_gib(loss_ms))

    def idle_of(self, tenant: str) -> Memory:
        """What copies of a tenant take that may leave now; of many copies only those that would leave first are looked at."""
        return total(entry.size for entry in self._idle_entries(tenant))

    def unload_own(self, tenant: str, need: Memory, cause: ModelId) -> None:
        """Evict copies of a tenant that are idle, so that another model of the tenant keeps its quota."""
        if not need:
            return
        self._look_at_usage()
        gained = NOTHING
        for entry in list(self._idle_entries(tenant)):
            if need.fits(gained):
                return
            if entry.model == cause:
                continue
            reason = EvictionReason.OVER_QUOTA
            self._journal.note(
                "victim",
                entry.model,
                reason.value,
                f"{entry.size} of {need} that tenant {tenant} has too much for {cause}",
                cause=cause,
                idle_ms=max(0, self._clock.now_ms() - self._usage.last_use_ms(entry.model)),
            )
            self._drop(entry.model, reason, forced=False, relied_on=())
            gained += entry.size

    def _idle_entries(self, tenant: str) -> Iterator[Entry]:
        """Copies of a tenant that may leave now. That `_oldest_first` asks about each copy elsewhere is too dear here."""
        now_ms = self._clock.monotonic_ms()
        for model in islice(self._usage.leaving_order(), LOOKED_AT):
            entry = self._entries[model]
            record = entry.registered.record
            may_leave = not record.pinned and not self._usage.busy(model) and self._is_settled(entry, now_ms)
            if entry.state in OPEN and record.tenant == tenant and may_leave:
                yield entry

    def _is_settled(self, entry: Entry, now_ms: int) -> bool:
        return settled(loaded_ago_ms=now_ms - entry.ready_ms, load_ms=self._learned.load_ms(entry.model))

    def rehearse(self, size: Memory) -> Rehearsal:
        """What a load of this size would evict."""
        needed = self._ledger.excess(pinned=self.pinned(), more=size)
        leaving = self._decider().victims(self._oldest_first(None), need=needed, forced=False)
        return Rehearsal(
            evict=needed,
            victims=tuple(
                RehearsedVictim(victim.model, victim.size, self._usage.last_use_ms(victim.model), victim.reason.value)
                for victim in leaving
            ),
        )

    def resize(self, parameters: RuntimeParameters) -> list[LoadId]:
        """Take over the runtime's capacity, with the reserve that pays beside it by what loads and unloads taught.

        Returns:
            The loads that can begin by this.
        """
        capacity = parameters.capacity
        reserve = usual_reserve(
            capacity=capacity,
            default_size=parameters.default_size,
            loading_slots=parameters.loading_slots,
            typical=self._ledger.typical,
            load_ms=self._learned.common_load_ms,
            unload_ms=self._learned.common_unload_ms,
        )
        if (capacity, reserve) == (self._ledger.capacity, self._ledger.reserve):
            return []
        if self._usage.retention is not None:
            self._usage.retention.resize((capacity - reserve).bytes)
        return self._ledger.resize(capacity=capacity, reserve=reserve)

    def make(self, cause: Entry) -> None:
        """Evict until every load can have its grant and the reserve is free."""
        excess = self._ledger.excess(pinned=self.pinned())
        if not excess:
            self._pressure_ms = PRESSURE_MS
            return
        forced = bool(self._ledger.forced())
        if not forced and not self._store_available():
            self._press()
            return
        self._look_at_usage()
        gained = NOTHING
        for victim in self._decider().victims(self._oldest_first(cause), need=excess, forced=forced):
            relied_on = self.others(victim.model) if victim.reason is EvictionReason.REDUNDANT else ()
            self._journal.note(
                "victim",
                victim.model,
                victim.reason.value,
                f"{victim.size} of {excess} wanted for {cause.model}; "
                f"{self._ledger.free} free of {self._ledger.capacity}",
                cause=cause.model,
                idle_ms=max(0, self._clock.now_ms() - self._usage.last_use_ms(victim.model)),
            )
            stayed_ms = self._clock.monotonic_ms() - self._entries[victim.model].ready_ms
            self._stay_ms += (stayed_ms - self._stay_ms) / STAYS
            self._drop(victim.model, victim.reason, forced=forced, relied_on=relied_on)
            gained += victim.size
        if gained:
            self._pressure_ms = PRESSURE_MS
        if not excess.fits(gained):
            self._press()

    def _oldest_first(self, cause: Entry | None) -> Iterator[HeldCopy]:
        now_ms = self._clock.monotonic_ms()
        for model in self._usage.leaving_order():
            entry = self._entries[model]
            if entry.state in OPEN and entry is not cause:
                yield HeldCopy(
                    model=model,
                    load_id=entry.load_id,
                    size=entry.size,
                    last_use_ms=self._usage.last_use_ms(model),
                    busy=self._usage.busy(model),
                    redundant=bool(self.others(model)),
                    pinned=entry.registered.record.pinned,
                    settled=self._is_settled(entry, now_ms),
                )

    def others(self, model: ModelId) -> tuple[tuple[InstanceId, Revision], ...]:
        """Ready copies elsewhere, with their create revisions; none if the store has denied just these."""
        if not self._decider().elsewhere(model):
            return ()
        entry = self._entries[model]
        view = self._decider().model_view(model, entry.registered)
        cluster = self._decider().cluster_view()
        standing = tuple(
            (copy.instance, copy.create_revision)
            for copy in view.copies
            if copy.instance != self._own
            and copy.ready
            and not copy.unlisted
            and (place := cluster.instance(copy.instance)) is not None
            and place.available
        )
        return () if standing == entry.denied_copies else standing

    def _press(self) -> None:
        """Look for victims again soon: every copy is in use, or the store is away."""
        if not self._pressed:
            self._pressed = True
            self._tasks.start(self._press_again(), "look for victims again")

    async def _press_again(self) -> None:
        try:
            await self._clock.sleep(self._pressure_ms)
            self._pressure_ms = min(PRESSURE_MAX_MS, 2 * self._pressure_ms)
        finally:
            self._pressed = False
        waiting = next((entry for entry in self._entries.values() if entry.state is CopyState.WAITING), None)
        cause = waiting or next(iter(self._entries.values()), None)
        if cause is not None:
            self.make(cause)
