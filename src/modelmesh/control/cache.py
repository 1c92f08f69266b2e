"""The copies of this instance: who is loaded, loading, leaving, and in whose memory.

Each copy is a `model_copy` machine; this module feeds it and performs its effects. Waiters get a
`LoadEnd`; what they do with it is decided by `modelmesh.policy.attempt`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

from modelmesh.control.decide import Decider
from modelmesh.control.enact import Claimed, ClaimMoved, CopyWriter
from modelmesh.control.journal import Journal
from modelmesh.control.link import RuntimeParameters
from modelmesh.control.records import Registered
from modelmesh.control.tasks import Tasks
from modelmesh.control.usage import Learned, UsageBook
from modelmesh.machines.load_queue import LoadQueue
from modelmesh.machines.memory import MemoryLedger, reserve_bytes
from modelmesh.machines.model_copy import CopyEffect, CopyInput, CopyState, ModelCopyMachine
from modelmesh.machines.retention import Retention
from modelmesh.policy.admission import AdmissionReason, LoadCondition, admit, settled
from modelmesh.policy.eviction import HeldCopy
from modelmesh.policy.failure import believe
from modelmesh.ports import (
    Clock,
    DataPlane,
    LeaseNotFoundError,
    ModelSource,
    Runtime,
    RuntimeCallError,
    StoreError,
)
from modelmesh.values import records
from modelmesh.values.dataplane import LocalCopy, Outcome, Usage
from modelmesh.values.explanation import Rehearsal, RehearsedVictim
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.status import Status
from modelmesh.values.view import Copy

IDLE_BOUND_MS = 10_000
"""How long a leaving copy may finish what runs on it before the rest is ended."""

MEMORY_BOUND_MS = 180_000
"""How long a load waits for memory."""

ABANDONED_MS = 10_000
"""How long a load waits for its turn or for memory when every caller that asked for it has gone."""

PRESSURE_MS = 50
"""How often victims are looked for again while every copy is in use."""

CLAIM_BOUND_MS = 900
"""How long a claim waits for the store; callers get an answer within a second."""

RETRY_MS = 500
UNLOAD_RETRY_MAX_MS = 10_000
NEVER = Revision(0)
STALE_USE_MS = 1_800_000
"""A model loaded for a use longer ago says nothing about what is used now."""
PUBLISH_BOUND_MS = 1_000
SPARE_COPIES = 2
"""A record says when a copy went if more than so many are left: what the old system wrote."""


# --- how a wait for a load ends ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """The copy is ready."""

    load_id: LoadId


@dataclass(frozen=True, slots=True)
class Accepted:
    """The load is claimed, at revision `written`, and will run; for callers who do not wait for its end."""

    written: Revision


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The runtime could not load it; the failure is recorded."""

    status: Status
    message: str


@dataclass(frozen=True, slots=True)
class LoadMoved:
    """Copies changed since the decision: decide again once the view has reached `view`."""

    view: Revision


@dataclass(frozen=True, slots=True)
class LoadVoid:
    """The model's record is gone or another one."""


@dataclass(frozen=True, slots=True)
class LoadRefused:
    """Not here, and why; nobody's fault."""

    outcome: Outcome
    message: str


@dataclass(frozen=True, slots=True)
class LoadStoreAway:
    """The store is needed and does not answer."""

    message: str


LoadEnd = Loaded | Accepted | LoadFailed | LoadMoved | LoadVoid | LoadRefused | LoadStoreAway

# Copies others may join or use; the rest only goes.
_JOINABLE = frozenset({CopyState.CLAIMING, CopyState.QUEUED, CopyState.WAITING, CopyState.LOADING})
_OPEN = frozenset({CopyState.SIZING, CopyState.READY})
_USABLE = _JOINABLE | _OPEN
_LISTED = frozenset({CopyState.QUEUED, CopyState.WAITING, CopyState.LOADING, *_OPEN})


@dataclass(slots=True)
class _Entry:
    model: ModelId
    load_id: LoadId
    registered: Registered
    view: Revision
    waited_for: bool
    last_use_ms: int
    since_ms: int
    machine: ModelCopyMachine = field(default_factory=ModelCopyMachine)
    size_bytes: int = 0
    max_concurrency: int = 0
    written: Revision = NEVER
    waiters: dict[int, asyncio.Future[LoadEnd]] = field(default_factory=dict)
    claim_waiters: dict[int, asyncio.Future[LoadEnd]] = field(default_factory=dict)
    end: LoadEnd | None = None
    failed_before: bool = False
    drop_reason: str = ""
    forced: bool = False
    idle: bool = False
    missed: bool = False
    wanted: bool = False
    abandoned_ms: int | None = None
    ready_ms: int = 0
    relied_on: tuple[tuple[InstanceId, Revision], ...] = ()
    relied_in_vain: tuple[tuple[InstanceId, Revision], ...] = ()
    loading: asyncio.Task[None] | None = None
    removal: asyncio.Task[None] | None = None
    entered_ms: int = 0
    queued_ms: int = 0
    publishing: bool = False
    publish_again: bool = False
    published: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> CopyState:
        return self.machine.state


class LoadEnded(Protocol):
    """Told of the end of a load."""

    def __call__(self, model: ModelId, *, failed: bool) -> None:
        """The load of `model` succeeded or failed."""


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
        self._ended = ended
        self._runtime = runtime
        self._dataplane = dataplane
        self._writer = writer
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._lease = lease
        self._lease_lost = lease_lost
        self._in_flight_max = in_flight_max
        self._route_changed = route_changed
        self._store_there = store_there
        self._wait_for_view = wait_for_view
        self._pin = pin
        self._unpin = unpin
        self._failure_expiry_ms = failure_expiry_ms
        self._read_only = read_only
        self._decider: Decider | None = None
        self._parameters: RuntimeParameters | None = None
        self.ledger = MemoryLedger(capacity_bytes=2, reserve=1)
        self._learned = Learned()
        self.usage = UsageBook(self._learned, retention)
        self._entries: dict[ModelId, _Entry] = {}
        self._loads: dict[LoadId, _Entry] = {}
        self._queue = LoadQueue()
        self._running: dict[LoadId, None] = {}
        self._leaving: dict[LoadId, None] = {}
        self._granted: deque[LoadId] = deque()
        self._depth = 0
        self._pressed = False
        self._waiter_numbers = count()
        self._last_load_id = 0
        self._offered = False
        self.draining = False
        self.stale_keys: dict[ModelId, Revision] = {}
        """Copies that went while the store was away: their keys are deleted when it is back."""

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

    def copy(self, model: ModelId) -> Copy | None:
        """The copy here that may be used or joined."""
        entry = self._entries.get(model)
        if entry is None or entry.state not in _USABLE:
            return None
        loaded = entry.state in _OPEN
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
        if entry.state in _OPEN or entry.state is CopyState.WITHDRAWING:
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
        return next((entry.model for entry in self._entries.values() if entry.state in _OPEN), None)

    @property
    def loads(self) -> int:
        """Loads that run or wait here."""
        return len(self._queue) + len(self._running)

    def models(self) -> tuple[ModelId, ...]:
        """Models with an entry, in order of their load."""
        return tuple(self._entries)

    def ready(self) -> tuple[ModelId, ...]:
        """Models whose copy here is open, in order of their load."""
        return tuple(model for model, entry in self._entries.items() if entry.state in _OPEN)

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
        refused = self._refusal(model, size_bytes, last_use_ms=None)
        if refused is not None:
            return Rehearsal(refused.message)
        assert self._decider is not None
        needed = max(0, self.ledger.used_bytes + self.ledger.reserve + size_bytes - self.ledger.capacity_bytes)
        leaving = self._decider.victims(self._oldest_first(None), need_bytes=needed, forced=False)
        return Rehearsal(
            evict_bytes=needed,
            victims=tuple(
                RehearsedVictim(
                    victim.model, victim.size_bytes, self.usage.last_use_ms(victim.model), victim.reason.value
                )
                for victim in leaving
            ),
        )

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
            self.drop(model, "record_replaced")
        elif waited_for:
            entry.waited_for = True
            self._queue.promote(entry.load_id, now_ms=self._clock.now_ms())
        if entry.state in _OPEN:
            self.usage.touch(model, last_use_ms)
            if waited_for:
                self.usage.expect(model, self._clock.now_ms())
            return Loaded(entry.load_id)
        if entry.state in _JOINABLE:
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
    ) -> _Entry:
        now_ms = self._clock.now_ms()
        self._last_load_id = max(self._last_load_id + 1, now_ms)
        entry = _Entry(
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
        if entry.state in _USABLE:
            entry.drop_reason = reason
            entry.relied_on = relied_on
            entry.end = end or LoadRefused(Outcome.NOT_HERE, f"the load was given up: {reason}")
        entry.forced = entry.forced or forced
        entry.last_use_ms = max(entry.last_use_ms, self.usage.last_use_ms(model))
        self._step(entry, CopyInput.DROPPED)

    def vanished(self, model: ModelId, load_id: LoadId) -> None:
        """The runtime says that it does not have a copy it should have."""
        entry = self._entries.get(model)
        if entry is not None and entry.load_id == load_id and entry.state in _OPEN and self._offered:
            self._journal.note("vanished", model, detail="the runtime answered that it does not know the model")
            self.drop(model, "vanished")

    def key_deleted(self, model: ModelId, revision: Revision) -> None:
        """Somebody deleted our copy's key: an order to unload."""
        entry = self._entries.get(model)
        if entry is not None and entry.state in _LISTED and entry.written < revision:
            self.drop(model, "unload_asked")

    def record_changed(self, model: ModelId, create_revision: Revision) -> None:
        """The model's record was deleted (0) or is a new one."""
        entry = self._entries.get(model)
        if entry is not None and entry.registered.create_revision != create_revision:
            self.drop(model, "unregistered", end=LoadVoid())

    def record_moved(self, model: ModelId, registered: Registered) -> None:
        """The same record stands again after the store was emptied, with a new create revision."""
        entry = self._entries.get(model)
        if entry is None:
            return
        if entry.registered.record.same_attributes(registered.record):
            entry.registered = registered
        else:
            self.drop(model, "record_replaced")

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

    def _abandon(self, entry: _Entry, now_ms: int) -> None:
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
            if entry.state in _OPEN or entry.state is CopyState.WITHDRAWING:
                self._route_changed(model)

    # --- the store ----------------------------------------------------------------------------

    def listed(self) -> list[tuple[ModelId, records.CopyRecord]]:
        """The keys that should stand for this instance's copies."""
        return [(entry.model, self._record(entry)) for entry in self._entries.values() if entry.state in _LISTED]

    def settled_copies(self) -> tuple[dict[ModelId, LoadId], dict[ModelId, LoadId]]:
        """Open copies whose key has been written, and all others here, each with its load."""
        settled: dict[ModelId, LoadId] = {}
        changing: dict[ModelId, LoadId] = {}
        for entry in self._entries.values():
            listed = entry.state in _OPEN and entry.published.is_set() and not entry.publishing
            (settled if listed else changing)[entry.model] = entry.load_id
        return settled, changing

    def list_again(self, model: ModelId) -> None:
        """Put the key of an open copy once more."""
        entry = self._entries.get(model)
        if entry is not None and entry.state in _OPEN:
            self._publish(entry)

    def _record(self, entry: _Entry) -> records.CopyRecord:
        return records.CopyRecord(
            state=records.CopyState.LOADED if entry.state in _OPEN else records.CopyState.LOADING,
            since_ms=entry.since_ms,
            load_id=entry.load_id,
            size_bytes=entry.size_bytes,
            record_revision=entry.registered.create_revision,
        )

    # --- stepping -----------------------------------------------------------------------------

    def _step(self, entry: _Entry, given: CopyInput) -> None:
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

    def _perform(self, entry: _Entry, effect: CopyEffect) -> None:  # noqa: C901, PLR0912, PLR0915 - one row per effect
        match effect:
            case CopyEffect.CLAIM:
                self._tasks.start(self._claim(entry), f"claim {entry.model}")
            case CopyEffect.RELEASE:
                self._release(entry)
            case CopyEffect.ENQUEUE:
                self._queue.push(
                    entry.load_id,
                    waited_for=entry.waited_for,
                    last_use_ms=entry.last_use_ms,
                    now_ms=self._clock.now_ms(),
                )
                _answer(entry.claim_waiters, Accepted(entry.written))
                self._pump()
            case CopyEffect.DEQUEUE:
                self._queue.remove(entry.load_id)
            case CopyEffect.RESERVE:
                if entry.waited_for:
                    entry.missed = True
                    self.look_at_usage()  # what was used before this miss counts before it
                    self.usage.missed(entry.model, entry.size_bytes)
                self._grant(self.ledger.ask(entry.load_id, entry.size_bytes))
                self._make_room(entry)
            case CopyEffect.LOAD:
                entry.loading = self._tasks.start(self._load(entry), f"load {entry.model}")
            case CopyEffect.CANCEL_LOAD:
                if entry.loading is not None:
                    entry.loading.cancel()
                self._slot_free(entry)
            case CopyEffect.OPEN:
                self._hold(entry)
                entry.ready_ms = self._clock.monotonic_ms()
                if entry.waited_for and entry.waiters:
                    # Before the slot is free: the next load must not evict this copy under its callers.
                    self.usage.expect(entry.model, self._clock.now_ms())
                self._route_changed(entry.model)
                self._slot_free(entry)
            case CopyEffect.PUBLISH:
                self._publish(entry)
            case CopyEffect.MEASURE:
                self._tasks.start(self._measure(entry), f"measure {entry.model}")
            case CopyEffect.SETTLE:
                self._grant(self.ledger.settle(entry.load_id, entry.size_bytes))
                self._learned.measured(entry.model, entry.registered.record.type, entry.size_bytes)
                self._journal.note(
                    "settled", entry.model, detail=f"{entry.size_bytes} bytes", size_bytes=entry.size_bytes
                )
                self._make_room(entry)
            case CopyEffect.RECORD_FAILURE:
                entry.removal = self._tasks.start(self._record_failure(entry), f"record failure {entry.model}")
                self._slot_free(entry)
            case CopyEffect.LEAVE:
                self.usage.remove(entry.model)
                self._grant(self.ledger.leave(entry.load_id))
            case CopyEffect.STAY:
                entry.missed = True
                self._hold(entry)
                self._grant(self.ledger.stay(entry.load_id))
                self._make_room(entry)
            case CopyEffect.WITHDRAW:
                self._journal.note(
                    "evicted" if entry.drop_reason in _EVICTIONS else "dropped", entry.model, entry.drop_reason
                )
                self._tasks.start(self._withdraw(entry), f"withdraw {entry.model}")
            case CopyEffect.REMOVE_KEY:
                entry.removal = self._tasks.start(self._remove_key(entry), f"remove key {entry.model}")
            case CopyEffect.CLOSE:
                self._route_changed(entry.model)
            case CopyEffect.AWAIT_IDLE:
                self._leaving[entry.load_id] = None
                if entry.idle:
                    asyncio.get_running_loop().call_soon(self.idle, entry.model, entry.load_id)
            case CopyEffect.UNLOAD:
                self._leaving.pop(entry.load_id, None)
                self._tasks.start(self._unload(entry), f"unload {entry.model}")
            case CopyEffect.FREE:
                self.usage.remove(entry.model)
                self._grant(self.ledger.free(entry.load_id))
                self._slot_free(entry)
            case CopyEffect.FORGET:
                self._forget(entry)

    def _hold(self, entry: _Entry) -> None:
        self.usage.add(
            entry.model,
            entry.load_id,
            entry.last_use_ms,
            max(1, entry.size_bytes),
            missed=entry.missed or self._clock.now_ms() - entry.last_use_ms > STALE_USE_MS,
        )

    def _forget(self, entry: _Entry) -> None:
        self._leaving.pop(entry.load_id, None)
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

    def _release(self, entry: _Entry) -> None:
        end = Loaded(entry.load_id) if entry.state in _OPEN else entry.end
        assert end is not None
        _answer(entry.waiters, end)
        _answer(entry.claim_waiters, end)

    def _slot_free(self, entry: _Entry) -> None:
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

    # --- memory -------------------------------------------------------------------------------

    def _make_room(self, cause: _Entry) -> None:
        """Evict until every load can have its grant and the reserve stands."""
        excess = self.ledger.excess_bytes()
        if excess == 0:
            return
        forced = self.ledger.forced_bytes() > 0
        if not forced and not self._store_there():
            self._press()
            return
        assert self._decider is not None
        self.look_at_usage()
        gained = 0
        for victim in self._decider.victims(self._oldest_first(cause), need_bytes=excess, forced=forced):
            relied_on = self.others(victim.model) if victim.reason.value == "redundant" else ()
            self._journal.note(
                "victim",
                victim.model,
                victim.reason.value,
                f"{victim.size_bytes} bytes of {excess} wanted for {cause.model}; "
                f"{self.ledger.free_bytes} free of {self.ledger.capacity_bytes}",
                cause=cause.model,
                idle_ms=max(0, self._clock.now_ms() - self.usage.last_use_ms(victim.model)),
            )
            self.drop(victim.model, victim.reason.value, forced=forced, relied_on=relied_on)
            gained += victim.size_bytes
        if gained < excess:
            self._press()

    def _oldest_first(self, cause: _Entry | None) -> Iterator[HeldCopy]:
        now_ms = self._clock.monotonic_ms()
        for model in self.usage.leaving_order():
            entry = self._entries[model]
            if entry.state in _OPEN and entry is not cause:
                yield HeldCopy(
                    model=model,
                    load_id=entry.load_id,
                    size_bytes=max(1, entry.size_bytes),
                    last_use_ms=self.usage.last_use_ms(model),
                    busy=self.usage.busy(model),
                    redundant=bool(self.others(model)),
                    pinned=entry.registered.record.pinned,
                    settled=settled(loaded_ago_ms=now_ms - entry.ready_ms, load_ms=self._learned.load_ms(model)),
                )

    def others(self, model: ModelId) -> tuple[tuple[InstanceId, Revision], ...]:
        """Ready copies elsewhere, with their create revisions; none if the store has denied just these."""
        assert self._decider is not None
        if not self._decider.elsewhere(model):
            return ()
        entry = self._entries[model]
        view = self._decider.model_view(model, entry.registered)
        cluster = self._decider.cluster_view()
        standing = tuple(
            (copy.instance, copy.create_revision)
            for copy in view.copies
            if copy.instance != self._own
            and copy.ready
            and not copy.unlisted
            and (place := cluster.instance(copy.instance)) is not None
            and place.available
        )
        return () if standing == entry.relied_in_vain else standing

    def _press(self) -> None:
        """Look for victims again soon: every copy is in use, or the store is away."""
        if not self._pressed:
            self._pressed = True
            self._tasks.start(self._press_again(), "look for victims again")

    async def _press_again(self) -> None:
        await self._clock.sleep(PRESSURE_MS)
        self._pressed = False
        waiting = next((entry for entry in self._entries.values() if entry.state is CopyState.WAITING), None)
        cause = waiting or next(iter(self._entries.values()), None)
        if cause is not None:
            self._make_room(cause)

    # --- effects that take time ---------------------------------------------------------------

    def _source(self, entry: _Entry) -> ModelSource:
        record = entry.registered.record
        return ModelSource(entry.model, record.type, record.path, record.key)

    async def _claim(self, entry: _Entry) -> None:
        end = await self._try_claim(entry)
        if end is None:
            self._step(entry, CopyInput.CLAIMED)
        else:
            entry.end = end
            self._step(entry, CopyInput.CLAIM_REFUSED)

    async def _try_claim(self, entry: _Entry) -> LoadEnd | None:
        """Predict, admit, claim; None if the load is ours."""
        size = self._learned.size(entry.model)
        if size is None and self._offered:
            size = await self._runtime.predict_size(self._source(entry))
        entry.size_bytes = max(1, size or self.predicted_bytes(entry.model, entry.registered.record.type))
        refused = self._admission(entry)
        if refused is not None:
            return refused
        for _ in range(2):
            if not self._store_there():
                return LoadStoreAway(f"model {entry.model} cannot be loaded while the store is away")
            try:
                async with asyncio.timeout(CLAIM_BOUND_MS / 1000):
                    claim = await self._writer.claim(
                        entry.model, self._record(entry), view=entry.view, lease=self._lease()
                    )
            except LeaseNotFoundError:
                self._lease_lost()
                await self._clock.sleep(RETRY_MS)
                continue
            except (StoreError, TimeoutError) as error:
                # Perhaps it was written all the same.
                self.stale_keys[entry.model] = entry.registered.create_revision
                why = str(error) or "it does not answer"
                return LoadStoreAway(f"model {entry.model} cannot be loaded while the store is away: {why}")
            if isinstance(claim, Claimed):
                entry.written = claim.revision
                return None
            return LoadMoved(claim.view) if isinstance(claim, ClaimMoved) else LoadVoid()
        return LoadStoreAway(f"model {entry.model} cannot be loaded: this instance has no lease at the moment")

    def _admission(self, entry: _Entry) -> LoadRefused | None:
        return self._refusal(entry.model, entry.size_bytes, last_use_ms=None if entry.waited_for else entry.last_use_ms)

    def _refusal(self, model: ModelId, size_bytes: int, *, last_use_ms: int | None) -> LoadRefused | None:
        """Why a load is not taken; None if it is. `last_use_ms`: of a model that no caller waits for."""
        condition = LoadCondition(
            capacity_bytes=self.ledger.capacity_bytes,
            reserve_bytes=self.ledger.reserve,
            used_bytes=self.ledger.used_bytes,
            oldest_use_ms=self.usage.oldest_use_ms(),
            draining=self.draining,
            runtime_ready=self._offered,
        )
        own = self._own
        match admit(condition, size_bytes=size_bytes, last_use_ms=last_use_ms):
            case AdmissionReason.ADMITTED:
                return None
            case AdmissionReason.DRAINING:
                return LoadRefused(Outcome.DRAINING, f"instance {own} is draining")
            case AdmissionReason.RUNTIME_AWAY:
                return LoadRefused(Outcome.BUSY, f"the runtime of instance {own} is not connected")
            case AdmissionReason.TOO_LARGE:
                return LoadRefused(
                    Outcome.NO_ROOM,
                    f"model {model} needs {size_bytes} bytes, instance {own} holds {condition.capacity_bytes} in all",
                )
            case AdmissionReason.OLDER_THAN_ALL:
                return LoadRefused(
                    Outcome.NO_ROOM, f"instance {own} is full of models that were used more recently than {model}"
                )

    async def _load(self, entry: _Entry) -> None:
        timeout_ms = self.parameters.load_timeout_ms
        began_ms = self._clock.monotonic_ms()
        self._journal.note(
            "load_started", entry.model, detail=f"{entry.size_bytes} bytes predicted", queued_ms=entry.queued_ms
        )
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                loaded = await self._runtime.load(self._source(entry))
        except TimeoutError:
            message = f"Load of model {entry.model} timed out after {timeout_ms // 1000}sec"
            self._load_failed(entry, Status.DEADLINE_EXCEEDED, message)
            return
        except RuntimeCallError as error:
            if error.status is Status.UNAVAILABLE:
                entry.end = LoadRefused(Outcome.BUSY, f"the runtime of instance {self._own} is not connected: {error}")
                self._journal.note("load_not_begun", entry.model, detail=str(error))
                self._step(entry, CopyInput.LOAD_NOT_BEGUN)
            else:
                message = error.message if error.status is Status.UNKNOWN and error.message else str(error)
                self._load_failed(entry, error.status, message)
            return
        limited = self.parameters.limits_concurrency
        entry.max_concurrency = max(1, loaded.max_concurrency) if limited else 0
        elapsed_ms = self._clock.monotonic_ms() - began_ms
        self._journal.note("loaded", entry.model, detail=f"in {elapsed_ms} ms")
        self._learned.loaded(entry.model, elapsed_ms)
        self._ended(entry.model, failed=False)
        if loaded.size_bytes > 0:
            entry.size_bytes = loaded.size_bytes
            self._step(entry, CopyInput.LOADED)
        else:
            self._step(entry, CopyInput.LOADED_UNSIZED)

    def _load_failed(self, entry: _Entry, status: Status, message: str) -> None:
        entry.end = LoadFailed(status, message)
        self._journal.note("load_failed", entry.model, status.name.lower(), message)
        self._ended(entry.model, failed=True)
        self._step(entry, CopyInput.LOAD_FAILED)

    async def _record_failure(self, entry: _Entry) -> None:
        end = entry.end
        assert isinstance(end, LoadFailed)
        assert self._decider is not None
        view = self._decider.model_view(entry.model, entry.registered)
        previous = next((failure.record for failure in view.failures if failure.instance == self._own), None)
        failure = believe(
            end.status,
            end.message,
            previous=previous,
            record_revision=entry.registered.create_revision,
            now_ms=self._clock.now_ms(),
            expiry_ms=self._failure_expiry_ms,
        )
        try:
            revision = await self._writer.fail(entry.model, failure)
            await self._wait_for_view(revision)
        except StoreError:
            self.stale_keys[entry.model] = entry.registered.create_revision
        self._release(entry)

    async def _measure(self, entry: _Entry) -> None:
        try:
            entry.size_bytes = max(1, await self._runtime.measure_size(entry.model))
        except RuntimeCallError as error:
            self._journal.note("not_measured", entry.model, detail=f"the predicted size is kept: {error}")
        if entry.machine.accepts(CopyInput.SIZED):
            self._step(entry, CopyInput.SIZED)

    def _publish(self, entry: _Entry) -> None:
        if entry.publishing:
            entry.publish_again = True
            return
        entry.publishing = True
        self._tasks.start(self._publish_until_done(entry), f"publish {entry.model}")

    async def _publish_until_done(self, entry: _Entry) -> None:
        try:
            while entry.state in _OPEN:
                entry.publish_again = False
                if await self._publish_once(entry) and not entry.publish_again:
                    return
        finally:
            entry.publishing = False

    async def _publish_once(self, entry: _Entry) -> bool:
        assert self._decider is not None
        view = self._decider.model_view(entry.model, None)
        failed_before = any(failure.instance == self._own for failure in view.failures)
        try:
            revision = await self._writer.publish(
                entry.model, self._record(entry), lease=self._lease(), failed_before=failed_before
            )
        except LeaseNotFoundError:
            self._lease_lost()
        except StoreError:
            pass
        else:
            if revision is None:
                self.drop(entry.model, "unregistered")
            else:
                entry.written = revision
                entry.published.set()
            return True
        await self._clock.sleep(RETRY_MS)
        return False

    async def _withdraw(self, entry: _Entry) -> None:
        while True:
            try:
                gone = await self._writer.withdraw(
                    entry.model,
                    record_revision=entry.registered.create_revision,
                    relied_on=entry.relied_on,
                    last=self._last(entry),
                )
            except StoreError:
                if entry.forced:
                    self.stale_keys[entry.model] = entry.registered.create_revision
                    gone = True
                else:
                    await self._clock.sleep(RETRY_MS)
                    continue
            if not gone:
                entry.relied_in_vain = entry.relied_on
            if entry.state is CopyState.WITHDRAWING:
                self._step(entry, CopyInput.WITHDRAWN if gone else CopyInput.KEPT)
            return

    def _last(self, entry: _Entry) -> "tuple[Revision, records.ModelRecord] | None":
        """The record with what this copy knows of its use."""
        if self._read_only:
            return None
        now_ms = self._clock.now_ms()
        registered = entry.registered
        record = registered.record.used(min(entry.last_use_ms, now_ms))
        remain = len(self.others(entry.model))
        return registered.mod_revision, replace(record, last_unload_ms=now_ms if remain > SPARE_COPIES else 0)

    async def _remove_key(self, entry: _Entry) -> None:
        try:
            await self._writer.withdraw(entry.model, record_revision=entry.registered.create_revision)
        except StoreError:
            self.stale_keys[entry.model] = entry.registered.create_revision

    async def _unload(self, entry: _Entry) -> None:
        delay_ms = RETRY_MS
        while True:
            try:
                await self._runtime.unload(entry.model)
            except RuntimeCallError as error:
                self._journal.note("unload_failed", entry.model, error.status.name.lower(), str(error))
                await self._clock.sleep(delay_ms)
                delay_ms = min(UNLOAD_RETRY_MAX_MS, delay_ms * 2)
            else:
                self._journal.note("unloaded", entry.model, entry.drop_reason)
                self._step(entry, CopyInput.UNLOADED)
                return


def _answer(waiters: "dict[int, asyncio.Future[LoadEnd]]", end: LoadEnd) -> None:
    for future in waiters.values():
        if not future.done():
            future.set_result(end)


_EVICTIONS = frozenset({"redundant", "oldest_idle", "oldest_busy"})
