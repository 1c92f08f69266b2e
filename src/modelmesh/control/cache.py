"""The copies of this instance: who is loaded, loading, leaving, and in whose memory.

Each copy is a `model_copy` machine; this module feeds it and performs its effects. Memory is `room`, the runtime
`loading`, the store `copy_listing`. Waiters get a `LoadEnd`; what they do with it is decided by `modelmesh.policy.attempt`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count

from modelmesh.control.copy_entry import (
    JOINABLE,
    LISTED,
    NEVER,
    OPEN,
    USABLE,
    Accepted,
    Entry,
    Loaded,
    LoadEnd,
    LoadMoved,
    LoadRefused,
    LoadVoid,
    answer,
)
from modelmesh.control.copy_listing import CopyListing
from modelmesh.control.decide import Decider
from modelmesh.control.enact import CopyWriter
from modelmesh.control.journal import Journal
from modelmesh.control.link import RuntimeParameters
from modelmesh.control.loading import LoadEnded, Loading
from modelmesh.control.records import Registered
from modelmesh.control.room import Room
from modelmesh.control.tasks import Tasks
from modelmesh.control.usage import Learned, UsageBook
from modelmesh.machines.load_queue import LoadQueue
from modelmesh.machines.memory import MemoryLedger, reserve_bytes
from modelmesh.machines.model_copy import CopyEffect, CopyInput, CopyState
from modelmesh.machines.retention import Retention
from modelmesh.policy.admission import LoadCondition
from modelmesh.ports import Clock, DataPlane, Runtime
from modelmesh.values import records
from modelmesh.values.dataplane import LocalCopy, Outcome, Usage
from modelmesh.values.explanation import Rehearsal
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.view import Copy

IDLE_BOUND_MS = 10_000
"""How long a leaving copy may finish what runs on it before the rest is ended."""

MEMORY_BOUND_MS = 180_000
"""How long a load waits for memory."""

ABANDONED_MS = 10_000
"""How long a load waits for its turn or for memory when every caller that asked for it has gone."""

STALE_USE_MS = 1_800_000
"""A model loaded for a use longer ago says nothing about what is used now."""
PUBLISH_BOUND_MS = 1_000


class Cache:
    """The copies of this instance.

    Args:
        lease: The current lease of this instance's keys.
        lease_lost: Called when a write finds it gone.
        route_changed: Called when the local copy of a model opened, closed or went.
        store_there: Whether the store answers.
        wait_for_view: Resolves when the view has reached a revision, or after a bound.
        used: Told of every batch of usage.
        ended: Told of every load that succeeded or failed.
        in_flight_max: Calls that run at or wait for a copy whose concurrency is limited; 0: eight times its concurrency,
            negative: no bound.
        retention: What is worth keeping; None: whatever was used last.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        runtime: Runtime,
        dataplane: DataPlane,
        writer: CopyWriter,
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        lease: Callable[[], int],
        lease_lost: Callable[[], None],
        route_changed: Callable[[ModelId], None],
        store_there: Callable[[], bool],
        wait_for_view: "Callable[[Revision], asyncio.Future[None]]",
        pin: Callable[[ModelId], None],
        unpin: Callable[[ModelId], None],
        used: Callable[[Sequence[Usage]], None],
        ended: "LoadEnded",
        failure_expiry_ms: int,
        read_only: bool,
        in_flight_max: int,
        retention: Retention | None,
    ) -> None:
        self._own = own
        self._used = used
        self._dataplane = dataplane
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._in_flight_max = in_flight_max
        self._route_changed = route_changed
        self._pin = pin
        self._unpin = unpin
        self._decider: Decider | None = None
        self._parameters: RuntimeParameters | None = None
        self.ledger = MemoryLedger(capacity_bytes=2, reserve=1)
        self._learned = Learned()
        self.usage = UsageBook(self._learned, retention)
        self._entries: dict[ModelId, Entry] = {}
        self._loads: dict[LoadId, Entry] = {}
        self._queue = LoadQueue()
        self._running: dict[LoadId, None] = {}
        self._leaving: dict[LoadId, None] = {}
        self._granted: deque[LoadId] = deque()
        self._depth = 0
        self._waiter_numbers = count()
        self._last_load_id = 0
        self._offered = False
        self.draining = False
        self._room = Room(
            own=own,
            entries=self._entries,
            ledger=self.ledger,
            usage=self.usage,
            learned=self._learned,
            decider=self._policies,
            clock=clock,
            journal=journal,
            tasks=tasks,
            store_there=store_there,
            look_at_usage=self.look_at_usage,
            drop=self.drop,
        )
        self._listing = CopyListing(
            own=own,
            writer=writer,
            clock=clock,
            tasks=tasks,
            lease=lease,
            lease_lost=lease_lost,
            wait_for_view=wait_for_view,
            view=lambda model, registered: self._policies().model_view(model, registered),
            others=self._room.others,
            step=self._step,
            drop=self.drop,
            failure_expiry_ms=failure_expiry_ms,
            read_only=read_only,
        )
        self._loading = Loading(
            own=own,
            runtime=runtime,
            writer=writer,
            learned=self._learned,
            clock=clock,
            journal=journal,
            lease=lease,
            lease_lost=lease_lost,
            store_there=store_there,
            condition=self._condition,
            parameters=lambda: self.parameters,
            offered=lambda: self._offered,
            predicted_bytes=self.predicted_bytes,
            step=self._step,
            ended=ended,
            uncertain=self.stale_keys.__setitem__,
        )

    @property
    def stale_keys(self) -> dict[ModelId, Revision]:
        """Copies that went while the store was away: their keys are deleted when it is back."""
        return self._listing.stale

    def _policies(self) -> Decider:
        assert self._decider is not None
        return self._decider

    def _condition(self) -> LoadCondition:
        return LoadCondition(
            capacity_bytes=self.ledger.capacity_bytes,
            reserve_bytes=self.ledger.reserve,
            used_bytes=self.ledger.used_bytes,
            oldest_use_ms=self.usage.oldest_use_ms(),
            draining=self.draining,
            runtime_ready=self._offered,
        )

    def decide_with(self, decider: Decider) -> None:
        """Give the policies; they need this cache, so they come after it."""
        self._decider = decider

    # --- what others ask ----------------------------------------------------------------------

    @property
    def parameters(self) -> RuntimeParameters:
        """The runtime's parameters; set before anything is loaded."""
        assert self._parameters is not None
        return self._parameters

    def describe(self, record: records.MemberRecord) -> records.MemberRecord:
        """This instance's entry, with what the cache knows."""
        return replace(
            record,
            capacity_bytes=self.ledger.capacity_bytes,
            used_bytes=self.ledger.used_bytes,
            reserve_bytes=self.ledger.reserve,
            default_size_bytes=self.parameters.default_size_bytes,
            copies=len(self._entries),
            oldest_use_ms=self.usage.oldest_use_ms(),
            loading_slots=self.parameters.loading_slots,
            loads=self.loads,
            busyness=self.usage.requests_per_minute,
            draining=self.draining,
            runtime_ready=self._offered,
        )

    def foresee(self, record: records.MemberRecord) -> records.MemberRecord:
        """The entry as placement should see it here: with loads that are decided and have not asked for memory yet.

        Without them all misses of one moment would choose this instance while it seems to have room.
        """
        if not self._room.promised:
            return record
        claiming = self._room.promised - len(self._queue)
        return replace(record, used_bytes=record.used_bytes + self._room.promised_bytes, loads=record.loads + claiming)

    def copy(self, model: ModelId) -> Copy | None:
        """The copy here that may be used or joined."""
        entry = self._entries.get(model)
        if entry is None or entry.state not in USABLE:
            return None
        loaded = entry.state in OPEN
        return Copy(
            instance=self._own,
            state=records.CopyState.LOADED if loaded else records.CopyState.LOADING,
            since_ms=entry.since_ms,
            load_id=entry.load_id,
            size_bytes=entry.size_bytes,
            record_revision=entry.registered.create_revision,
            create_revision=entry.written,
            mod_revision=entry.written,
        )

    def local_copy(self, model: ModelId) -> LocalCopy | None:
        """The copy here as the data plane must see it."""
        entry = self._entries.get(model)
        if entry is None:
            return None
        if entry.state in OPEN or entry.state is CopyState.WITHDRAWING:
            concurrency = entry.max_concurrency
            return LocalCopy(entry.load_id, self._offered, concurrency, self._waiting_bound(concurrency))
        if entry.state is CopyState.LEAVING:
            return LocalCopy(entry.load_id, ready=False)
        return None

    def _waiting_bound(self, concurrency: int) -> int:
        """How many calls may wait for a copy that takes `concurrency` at a time; 0: no bound."""
        if concurrency == 0 or self._in_flight_max < 0:
            return 0
        if self._in_flight_max == 0:
            return max(16, 8 * concurrency)
        return max(1, self._in_flight_max - concurrency)

    def held(self) -> ModelId | None:
        """A model that is loaded, for asking the runtime after a lost connection."""
        return next((entry.model for entry in self._entries.values() if entry.state in OPEN), None)

    @property
    def loads(self) -> int:
        """Loads that run or wait here."""
        return len(self._queue) + len(self._running)

    def models(self) -> tuple[ModelId, ...]:
        """Models with an entry, in order of their load."""
        return tuple(self._entries)

    def ready(self) -> tuple[ModelId, ...]:
        """Models whose copy here is open, in order of their load."""
        return tuple(model for model, entry in self._entries.items() if entry.state in OPEN)

    def pinned(self, model: ModelId) -> bool:
        """Whether an operator wants the copy here kept."""
        entry = self._entries.get(model)
        return entry is not None and entry.registered.record.pinned

    def record_edited(self, model: ModelId, registered: Registered) -> None:
        """The record of a copy here was written again, and is still the same model."""
        entry = self._entries.get(model)
        if entry is not None and entry.registered.create_revision == registered.create_revision:
            entry.registered = registered

    def max_concurrency(self, model: ModelId) -> int:
        """Requests that the copy here takes at a time; 0: not limited."""
        entry = self._entries.get(model)
        return entry.max_concurrency if entry is not None else 0

    def states(self) -> dict[ModelId, CopyState]:
        """The state of every copy; for tests, status and invariants."""
        return {model: entry.state for model, entry in self._entries.items()}

    def books(self) -> dict[ModelId, int]:
        """The bytes booked for every copy; for invariants."""
        return {model: self.ledger.booked_bytes(entry.load_id) for model, entry in self._entries.items()}

    @property
    def promised(self) -> int:
        """Loads that are decided and have not asked for memory yet; for invariants."""
        return self._room.promised

    def predicted_bytes(self, model: ModelId, model_type: str) -> int:
        """The best guess of a model's size without asking anyone: its own, that of its type, the default."""
        known = self._learned.size(model) or self._learned.type_size(model_type)
        return known or self.parameters.default_size_bytes

    def load_ms(self, model: ModelId) -> int:
        """How long the latest load of a model here took; 0: not known."""
        return self._learned.load_ms(model)

    @property
    def common_load_ms(self) -> int:
        """How long loads here commonly take; 0: there was none."""
        return self._learned.common_load_ms

    def measured_bytes(self, model: ModelId) -> int | None:
        """The size of the model as it was measured here; None before its first load."""
        return self._learned.size(model)

    def rehearse(self, model: ModelId, size_bytes: int) -> Rehearsal:
        """What a load of `size_bytes` would do here; nothing comes of it."""
        refused = self._loading.refusal(model, size_bytes, last_use_ms=None)
        return Rehearsal(refused.message) if refused is not None else self._room.rehearse(size_bytes)

    def others(self, model: ModelId) -> tuple[tuple[InstanceId, Revision], ...]:
        """Ready copies elsewhere, with their create revisions; none if the store has denied just these."""
        return self._room.others(model)

    # --- loading ------------------------------------------------------------------------------

    async def ensure(
        self,
        model: ModelId,
        registered: Registered,
        *,
        view: Revision,
        waited_for: bool,
        last_use_ms: int,
        sync: bool = True,
    ) -> LoadEnd:
        """Load the model here, or join its load, and wait for the end.

        Cancelling the wait does not cancel the load.

        Args:
            model: Its id.
            registered: Its record; a copy of an older record is unloaded first.
            view: The revision of the view on which the load was decided.
            waited_for: A call waits for it, so it overtakes loads that nobody waits for.
            last_use_ms: Epoch milliseconds.
            sync: Wait for the end; else only until the load is claimed.
        """
        entry = self._entries.get(model)
        if entry is None:
            entry = self._begin(model, registered, view, waited_for=waited_for, last_use_ms=last_use_ms)
            entry.wanted = not waited_for
        elif entry.registered.create_revision < registered.create_revision:
            self._void(entry, "record_replaced")
        elif waited_for:
            entry.waited_for = True
            self._queue.promote(entry.load_id, now_ms=self._clock.now_ms())
        if entry.state in OPEN:
            self.usage.touch(model, last_use_ms)
            if waited_for:
                self.usage.expect(model, self._clock.now_ms())
            return Loaded(entry.load_id)
        if entry.state in JOINABLE:
            entry.last_use_ms = max(entry.last_use_ms, last_use_ms)
            entry.wanted = entry.wanted or not waited_for
            if sync:
                return await self._wait(entry.waiters)
            if entry.state is CopyState.CLAIMING:
                return await self._wait(entry.claim_waiters)
            return Accepted(entry.written)
        await entry.gone.wait()
        # Why it went may speak against loading it here again.
        return LoadMoved(entry.written)

    async def _wait(self, waiters: "dict[int, asyncio.Future[LoadEnd]]") -> LoadEnd:
        future: asyncio.Future[LoadEnd] = asyncio.get_running_loop().create_future()
        number = next(self._waiter_numbers)
        waiters[number] = future
        try:
            return await future
        finally:
            waiters.pop(number, None)

    def _begin(
        self, model: ModelId, registered: Registered, view: Revision, *, waited_for: bool, last_use_ms: int
    ) -> Entry:
        now_ms = self._clock.now_ms()
        self._last_load_id = max(self._last_load_id + 1, now_ms)
        entry = Entry(
            model=model,
            load_id=LoadId(self._last_load_id),
            registered=registered,
            view=view,
            waited_for=waited_for,
            last_use_ms=last_use_ms,
            since_ms=now_ms,
        )
        self._entries[model] = entry
        self._loads[entry.load_id] = entry
        self._pin(model)
        self._room.promise(entry.load_id, self.predicted_bytes(model, registered.record.type))
        self._step(entry, CopyInput.REQUESTED)
        return entry

    async def until_published(self, model: ModelId) -> Revision:
        """The revision at which the copy is known as loaded; waits for it a second at most."""
        entry = self._entries.get(model)
        if entry is None:
            return NEVER
        with suppress(TimeoutError):
            async with asyncio.timeout(PUBLISH_BOUND_MS / 1000):
                await entry.published.wait()
        return entry.written

    # --- dropping -----------------------------------------------------------------------------

    def drop(
        self,
        model: ModelId,
        reason: str,
        *,
        forced: bool = False,
        end: LoadEnd | None = None,
        relied_on: tuple[tuple[InstanceId, Revision], ...] = (),
    ) -> None:
        """Let a copy go, in whatever state it is.

        Args:
            model: Whose copy; nothing happens if there is none.
            reason: Why, for the journal.
            forced: Also while the store is away.
            end: What callers who wait for its load get.
            relied_on: Other copies that must still stand when the key is deleted.
        """
        entry = self._entries.get(model)
        if entry is None or not entry.machine.accepts(CopyInput.DROPPED):
            return
        if entry.state in USABLE:
            entry.drop_reason = reason
            entry.relied_on = relied_on
            entry.end = end or LoadRefused(Outcome.NOT_HERE, f"the load was given up: {reason}")
        entry.forced = entry.forced or forced
        entry.last_use_ms = max(entry.last_use_ms, self.usage.last_use_ms(model))
        self._step(entry, CopyInput.DROPPED)

    def vanished(self, model: ModelId, load_id: LoadId) -> None:
        """The runtime says that it does not have a copy it should have."""
        entry = self._entries.get(model)
        if entry is not None and entry.load_id == load_id and entry.state in OPEN and self._offered:
            self._journal.note("vanished", model, detail="the runtime answered that it does not know the model")
            self.drop(model, "vanished")

    def key_deleted(self, model: ModelId, revision: Revision) -> None:
        """Somebody deleted our copy's key: an order to unload."""
        entry = self._entries.get(model)
        if entry is not None and entry.state in LISTED and entry.written < revision:
            self.drop(model, "unload_asked")

    def record_changed(self, model: ModelId, create_revision: Revision) -> None:
        """The model's record was deleted (0) or is a new one."""
        entry = self._entries.get(model)
        if entry is not None and entry.registered.create_revision != create_revision:
            self._void(entry, "unregistered", end=LoadVoid())

    def record_moved(self, model: ModelId, registered: Registered) -> None:
        """The same record stands again after the store was emptied, with a new create revision."""
        entry = self._entries.get(model)
        if entry is None:
            return
        if entry.registered.record.same_attributes(registered.record):
            entry.registered = registered
        else:
            self._void(entry, "record_replaced")

    def _void(self, entry: Entry, reason: str, *, end: LoadEnd | None = None) -> None:
        """Let go a copy whose record is gone or another one; its route closes before its key is deleted."""
        self.drop(entry.model, reason, end=end)
        if entry.machine.accepts(CopyInput.VOIDED):
            self._step(entry, CopyInput.VOIDED)

    # --- events from the runtime and the data plane --------------------------------------------

    def runtime_reported(self, parameters: RuntimeParameters) -> None:
        """The runtime told its parameters (again)."""
        self._parameters = parameters
        reserve = reserve_bytes(
            capacity_bytes=parameters.capacity_bytes,
            default_size_bytes=parameters.default_size_bytes,
            loading_slots=parameters.loading_slots,
        )
        if self.usage.retention is not None:
            self.usage.retention.resize(parameters.capacity_bytes - reserve)
        self._grant(self.ledger.resize(capacity_bytes=parameters.capacity_bytes, reserve=reserve))

    def runtime_opened(self) -> None:
        """Loads and calls may go to the runtime."""
        self._offered = True
        for entry in self._entries.values():
            entry.idle = False
        self._reroute()
        self._pump()

    def runtime_closed(self) -> None:
        """They may not."""
        self._offered = False
        self._reroute()

    def runtime_emptied(self) -> None:
        """The runtime has lost every model."""
        for entry in tuple(self._entries.values()):
            if entry.machine.accepts(CopyInput.RUNTIME_EMPTIED):
                entry.drop_reason = "runtime_restarted"
                self._step(entry, CopyInput.RUNTIME_EMPTIED)

    def idle(self, model: ModelId, load_id: LoadId) -> None:
        """The data plane: nothing runs on a closed copy any more."""
        entry = self._entries.get(model)
        if entry is None or entry.load_id != load_id:
            return
        if entry.state is CopyState.LEAVING:
            self._step(entry, CopyInput.IDLE)
        else:
            entry.idle = True  # closed with its runtime; should it leave before that is back, nobody tells again

    def look_at_usage(self) -> None:
        """Take in what the data plane counted."""
        batch = list(self._dataplane.usage())
        self.usage.apply(batch, self._clock.now_ms(), lambda model: max(1, self._entries[model].size_bytes))
        self._used(batch)

    def sample_rate(self) -> None:
        """Measure the rate of requests; called about once a second."""
        self.usage.sample_rate(self._clock.monotonic_ms())

    def tick(self) -> None:
        """Enforce the bounds on waiting for memory and for idleness; called about once a second."""
        now_ms = self._clock.monotonic_ms()
        for load in tuple(self._running):
            entry = self._loads[load]
            if entry.state is CopyState.WAITING and now_ms - entry.entered_ms >= MEMORY_BOUND_MS:
                message = f"no memory became free for model {entry.model} within {MEMORY_BOUND_MS // 1000} s"
                self.drop(entry.model, "no_memory", end=LoadRefused(Outcome.NO_ROOM, message))
        for entry in tuple(self._entries.values()):
            self._abandon(entry, now_ms)
        for load in tuple(self._leaving):
            entry = self._loads[load]
            if now_ms - entry.entered_ms >= IDLE_BOUND_MS:
                self._journal.note("ended", entry.model, detail=f"calls still ran after {IDLE_BOUND_MS // 1000} s")
                self._dataplane.end_copy(entry.model, entry.load_id)

    def _abandon(self, entry: Entry, now_ms: int) -> None:
        """Give up a load that has not begun and that nobody has waited for since a while.

        Not at once: a caller whose deadline passed often comes again, and would find itself at the end of the queue.
        """
        if entry.wanted or entry.waiters or entry.state not in {CopyState.QUEUED, CopyState.WAITING}:
            entry.abandoned_ms = None
        elif entry.abandoned_ms is None:
            entry.abandoned_ms = now_ms
        elif now_ms - entry.abandoned_ms >= ABANDONED_MS:
            self.drop(entry.model, "unwanted")

    def _reroute(self) -> None:
        for model, entry in self._entries.items():
            if entry.state in OPEN or entry.state is CopyState.WITHDRAWING:
                self._route_changed(model)

    # --- the store ----------------------------------------------------------------------------

    def listed(self) -> list[tuple[ModelId, records.CopyRecord]]:
        """The keys that should stand for this instance's copies."""
        return [(entry.model, entry.stored()) for entry in self._entries.values() if entry.state in LISTED]

    def settled_copies(self) -> tuple[dict[ModelId, LoadId], dict[ModelId, LoadId]]:
        """Open copies whose key has been written, and all others here, each with its load."""
        settled: dict[ModelId, LoadId] = {}
        changing: dict[ModelId, LoadId] = {}
        for entry in self._entries.values():
            listed = entry.state in OPEN and entry.published.is_set() and not entry.publishing
            (settled if listed else changing)[entry.model] = entry.load_id
        return settled, changing

    def list_again(self, model: ModelId) -> None:
        """Put the key of an open copy once more."""
        entry = self._entries.get(model)
        if entry is not None and entry.state in OPEN:
            self._listing.publish(entry)

    # --- stepping -----------------------------------------------------------------------------

    def _step(self, entry: Entry, given: CopyInput) -> None:
        """Step a machine and perform its effects; loads whose memory is complete begin at the end."""
        self._depth += 1
        try:
            effects = entry.machine.step(given)
            entry.entered_ms = self._clock.monotonic_ms()
            for effect in effects:
                self._perform(entry, effect)
        finally:
            self._depth -= 1
        if self._depth == 0:
            self._begin_granted()

    def _begin_granted(self) -> None:
        while self._granted:
            entry = self._loads.get(self._granted.popleft())
            if entry is not None and entry.state is CopyState.WAITING:
                self._step(entry, CopyInput.MEMORY_GRANTED)

    def _grant(self, complete: list[LoadId]) -> None:
        self._granted.extend(complete)
        if self._depth == 0:
            self._begin_granted()

    def _perform(self, entry: Entry, effect: CopyEffect) -> None:  # noqa: C901, PLR0912, PLR0915 - one row per effect
        match effect:
            case CopyEffect.CLAIM:
                self._tasks.start(self._loading.claim(entry), f"claim {entry.model}")
            case CopyEffect.RELEASE:
                entry.answer_waiters()
            case CopyEffect.ENQUEUE:
                self._queue.push(
                    entry.load_id,
                    waited_for=entry.waited_for,
                    last_use_ms=entry.last_use_ms,
                    now_ms=self._clock.now_ms(),
                )
                answer(entry.claim_waiters, Accepted(entry.written))
                self._pump()
            case CopyEffect.DEQUEUE:
                self._queue.remove(entry.load_id)
            case CopyEffect.RESERVE:
                self._room.redeem(entry.load_id)
                if entry.waited_for:
                    entry.missed = True
                    self.look_at_usage()  # what was used before this miss counts before it
                    self.usage.missed(entry.model, entry.size_bytes)
                self._grant(self.ledger.ask(entry.load_id, entry.size_bytes))
                self._room.make(entry)
            case CopyEffect.LOAD:
                entry.loading = self._tasks.start(self._loading.load(entry), f"load {entry.model}")
            case CopyEffect.CANCEL_LOAD:
                if entry.loading is not None:
                    entry.loading.cancel()
                self._slot_free(entry)
            case CopyEffect.OPEN:
                self._hold(entry)
                entry.ready_ms = self._clock.monotonic_ms()
                entry.idle = not self._offered  # never offered, so nothing runs on it, and nobody will say so
                if entry.waited_for and entry.waiters:
                    # Before the slot is free: the next load must not evict this copy under its callers.
                    self.usage.expect(entry.model, self._clock.now_ms())
                self._route_changed(entry.model)
                self._slot_free(entry)
            case CopyEffect.PUBLISH:
                self._listing.publish(entry)
            case CopyEffect.MEASURE:
                self._tasks.start(self._loading.measure(entry), f"measure {entry.model}")
            case CopyEffect.SETTLE:
                self._grant(self.ledger.settle(entry.load_id, entry.size_bytes))
                self._learned.measured(entry.model, entry.registered.record.type, entry.size_bytes)
                self._room.make(entry)
            case CopyEffect.RECORD_FAILURE:
                entry.removal = self._tasks.start(self._listing.record_failure(entry), f"record failure {entry.model}")
                self._slot_free(entry)
            case CopyEffect.LEAVE:
                self.usage.remove(entry.model)
                self._grant(self.ledger.leave(entry.load_id))
            case CopyEffect.STAY:
                entry.missed = True
                self._hold(entry)
                self._grant(self.ledger.stay(entry.load_id))
                self._room.make(entry)
            case CopyEffect.WITHDRAW:
                self._journal.note(
                    "evicted" if entry.drop_reason in _EVICTIONS else "dropped", entry.model, entry.drop_reason
                )
                entry.removal = self._tasks.start(self._listing.withdraw(entry), f"withdraw {entry.model}")
            case CopyEffect.REMOVE_KEY:
                entry.removal = self._tasks.start(self._listing.remove(entry), f"remove key {entry.model}")
            case CopyEffect.CLOSE:
                self._route_changed(entry.model)
            case CopyEffect.AWAIT_IDLE:
                self._leaving[entry.load_id] = None
                if entry.idle:
                    asyncio.get_running_loop().call_soon(self.idle, entry.model, entry.load_id)
            case CopyEffect.UNLOAD:
                self._leaving.pop(entry.load_id, None)
                self._tasks.start(self._loading.unload(entry), f"unload {entry.model}")
            case CopyEffect.FREE:
                self.usage.remove(entry.model)
                self._grant(self.ledger.free(entry.load_id))
                self._slot_free(entry)
            case CopyEffect.FORGET:
                self._forget(entry)

    def _hold(self, entry: Entry) -> None:
        self.usage.add(
            entry.model,
            entry.load_id,
            entry.last_use_ms,
            max(1, entry.size_bytes),
            missed=entry.missed or self._clock.now_ms() - entry.last_use_ms > STALE_USE_MS,
        )

    def _forget(self, entry: Entry) -> None:
        self._leaving.pop(entry.load_id, None)
        self._room.redeem(entry.load_id)
        if entry.removal is not None and not entry.removal.done():
            # A new claim must not be overtaken by the removal of this copy's key.
            removal, entry.removal = entry.removal, None
            removal.add_done_callback(lambda _: self._forget(entry))
            return
        self._entries.pop(entry.model, None)
        self._loads.pop(entry.load_id, None)
        self._slot_free(entry)
        self._unpin(entry.model)
        self._route_changed(entry.model)
        entry.gone.set()

    def _slot_free(self, entry: Entry) -> None:
        if self._running.pop(entry.load_id, 0) is None:
            self._pump()

    def _pump(self) -> None:
        """Begin queued loads while slots are free."""
        while self._offered and len(self._running) < self.parameters.loading_slots:
            load = self._queue.pop()
            if load is None:
                return
            self._running[load] = None
            entry = self._loads[load]
            entry.queued_ms = self._clock.monotonic_ms() - entry.entered_ms
            self._step(entry, CopyInput.SLOT_FREE)


_EVICTIONS = frozenset({"redundant", "oldest_idle", "oldest_busy"})
