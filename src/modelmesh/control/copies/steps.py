"""Runs the state machine of each copy here and performs its effects. A slow effect is a task; its result is the next input."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from modelmesh.control.copies.backlog import Backlog
from modelmesh.control.copies.entry import (
    OPEN,
    USABLE,
    Accepted,
    DropReason,
    Entry,
    LeavingReason,
    LoadEnd,
    LoadRefused,
    answer,
)
from modelmesh.control.copies.listing import CopyListing
from modelmesh.control.copies.loading import LoadEnded, Loading
from modelmesh.control.copies.more_room import MoreRoom
from modelmesh.control.copies.room import Room
from modelmesh.control.copies.runtime_link import RuntimeParameters
from modelmesh.control.copies.slots import LoadingSlots
from modelmesh.control.copies.transactions import CopyWriter
from modelmesh.control.copies.usage import Learned, UsageBook
from modelmesh.control.copies.work import CopyTasks
from modelmesh.control.decide import Decider
from modelmesh.control.journal import Journal
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import Registered
from modelmesh.machines.memory import MemoryLedger
from modelmesh.machines.model_copy import CopyEffect, CopyInput, CopyState
from modelmesh.machines.retention import Retention
from modelmesh.policy.failure import LOSSES
from modelmesh.policy.victims import EvictionReason
from modelmesh.ports import Clock, DataPlane, Runtime
from modelmesh.values.dataplane import Outcome, Usage
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.priority import Priority

IDLE_BOUND_MS = 10_000
"""How long a leaving copy may finish what runs on it before the rest is ended."""

MEMORY_BOUND_MS = 180_000
"""How long a load waits for memory."""

STALE_USE_MS = 1_800_000
"""A model loaded for a use longer ago is no evidence of present use."""


class CopySteps:
    """The copies here as machines, and the memory they are in.

    Args:
        lease: The current lease of this instance's keys.
        lease_lost: Called when a write finds that it does not exist any more.
        route_changed: Called when the local copy of a model was opened, closed or removed.
        store_available: Whether the store answers.
        wait_for_view: Resolves when the view has reached a revision, or after a bound.
        pin, unpin: Called when a model begins and ceases to have a copy here, in any state.
        used: Called with every batch of usage.
        ended: Called for every load that succeeded or failed.
        retention: The order of eviction; None: least recently used first.

    Attributes:
        entries: The copies here, in order of their load; others only read it.
        parameters: The runtime's; set before anything is loaded.
        offered: Whether loads and calls may go to the runtime.
        draining: Whether no more loads are taken, because this instance leaves.
    """

    parameters: RuntimeParameters
    _decider: Decider

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
        store_available: Callable[[], bool],
        wait_for_view: "Callable[[Revision], asyncio.Future[None]]",
        pin: Callable[[ModelId], None],
        unpin: Callable[[ModelId], None],
        used: Callable[[Sequence[Usage]], None],
        ended: LoadEnded,
        failure_expiry_ms: int,
        read_only: bool,
        retention: Retention | None,
    ) -> None:
        self._used = used
        self._dataplane = dataplane
        self._clock = clock
        self._journal = journal
        self._route_changed = route_changed
        self._pin = pin
        self._unpin = unpin
        self.offered = False
        self.draining = False
        self.ledger = MemoryLedger(capacity=Memory(2), reserve=Memory(1))
        self.learned = Learned()
        self.usage = UsageBook(self.learned, retention)
        self.entries: dict[ModelId, Entry] = {}
        self._loads: dict[LoadId, Entry] = {}
        self._leaving: dict[LoadId, None] = {}
        self._granted: deque[LoadId] = deque()
        self._depth = 0
        self._last_load_id = 0
        self.slots = LoadingSlots(
            by_value=retention is not None,
            offered=lambda: self.parameters.loading_slots if self.offered else 0,
            begin=self._slot_taken,
        )
        self.backlog = Backlog(
            slots=self.slots,
            entry_of=self.entry_of,
            learned=self.learned,
            clock=clock,
            parameters=lambda: self.parameters,
        )
        self.room = Room(
            own=own,
            entries=self.entries,
            ledger=self.ledger,
            usage=self.usage,
            learned=self.learned,
            decider=self._policies,
            clock=clock,
            journal=journal,
            tasks=tasks,
            store_available=store_available,
            look_at_usage=self.look_at_usage,
            drop=self.drop,
        )
        self.listing = CopyListing(
            own=own,
            entries=self.entries,
            writer=writer,
            clock=clock,
            journal=journal,
            tasks=tasks,
            lease=lease,
            lease_lost=lease_lost,
            wait_for_view=wait_for_view,
            view=lambda model, registered: self._policies().model_view(model, registered),
            others=self.room.others,
            step=self.step,
            drop=self.drop,
            failure_expiry_ms=failure_expiry_ms,
            read_only=read_only,
        )
        self._work = CopyTasks(tasks=tasks, stale=self.listing.stale, step=self.step, drop=self.drop)
        self.loading = Loading(
            own=own,
            runtime=runtime,
            writer=writer,
            learned=self.learned,
            clock=clock,
            journal=journal,
            lease=lease,
            lease_lost=lease_lost,
            store_available=store_available,
            condition=lambda: self.room.condition(draining=self.draining, runtime_ready=self.offered),
            parameters=lambda: self.parameters,
            offered=lambda: self.offered,
            predicted_size=self.predicted_size,
            step=self.step,
            ended=ended,
            uncertain=self.listing.stale.__setitem__,
            lost=self.listing.lost_at,
            more_room=MoreRoom(entries=self.entries, ledger=self.ledger, room=self.room, grant=self._grant),
        )

    def decide_with(self, decider: Decider) -> None:
        """Give the policies; they need what is here, so they come after it."""
        self._decider = decider

    def _policies(self) -> Decider:
        return self._decider

    def entry_of(self, load: LoadId) -> Entry:
        """The copy that a load is for."""
        return self._loads[load]

    def predicted_size(self, model: ModelId, model_type: str) -> Memory:
        """The best estimate of a model's size without asking anyone."""
        return self.learned.best_size(model, model_type, default=self.parameters.default_size)[0]

    # --- from the request to the end --------------------------------------------------------------

    def begin(
        self, model: ModelId, registered: Registered, view: Revision, *, caller: Priority | None, last_use_ms: int
    ) -> Entry:
        """A copy is wanted; `view` is the revision on which that was decided, `last_use_ms` epoch milliseconds."""
        now_ms = self._clock.now_ms()
        self._last_load_id = max(self._last_load_id + 1, now_ms)
        entry = Entry(
            model=model,
            load_id=LoadId(self._last_load_id),
            registered=registered,
            view=view,
            priority=caller,
            last_use_ms=last_use_ms,
            since_ms=now_ms,
        )
        self.entries[model] = entry
        self._loads[entry.load_id] = entry
        self.room.look_at_pin(model)
        self._pin(model)
        self.room.promise(entry.load_id, self.predicted_size(model, registered.record.type))
        self.step(entry, CopyInput.REQUESTED)
        return entry

    def drop(
        self,
        model: ModelId,
        reason: LeavingReason,
        *,
        forced: bool = False,
        end: LoadEnd | None = None,
        relied_on: tuple[tuple[InstanceId, Revision], ...] = (),
    ) -> None:
        """Drop a copy, in any state it is.

        Args:
            model: Whose copy; nothing happens if there is none.
            reason: Why, for the journal.
            forced: Also while the store is away.
            end: What callers that wait for its load get.
            relied_on: Other copies that must still exist when the key is deleted.
        """
        entry = self.entries.get(model)
        if entry is None or not entry.machine.accepts(CopyInput.DROPPED):
            return
        if entry.state in USABLE:
            entry.drop_reason = reason
            entry.relied_on = relied_on
            entry.end = end or LoadRefused(Outcome.NOT_HERE, f"the load was given up: {reason.value}")
        entry.forced = entry.forced or forced
        entry.last_use_ms = max(entry.last_use_ms, self.usage.last_use_ms(model))
        self.step(entry, CopyInput.DROPPED)

    def suspected(self, entry: Entry) -> bool:
        """Whether a runtime ended that worked at the model. It is loaded alone: should it do that again, it was not another."""
        return self.suspects(entry.model, entry.registered)

    def suspects(self, model: ModelId, registered: Registered) -> bool:
        """Whether a runtime ended that worked at a model."""
        failures = self._policies().model_view(model, registered).failures
        return any(failure.record.kind in LOSSES for failure in failures)

    # --- events of the runtime and the data plane ----------------------------------------------

    def runtime_reported(self, parameters: RuntimeParameters) -> None:
        """The runtime has reported its parameters (again)."""
        self.parameters = parameters
        self._grant(self.room.resize(parameters))

    def runtime_opened(self) -> None:
        """Loads and calls may go to the runtime."""
        self.offered = True
        self._reroute()
        self.slots.fill()

    def runtime_closed(self) -> None:
        """They may not."""
        self.offered = False
        self._reroute()

    def runtime_emptied(self) -> None:
        """The runtime has lost every model."""
        for entry in tuple(self.entries.values()):
            if entry.machine.accepts(CopyInput.RUNTIME_EMPTIED):
                entry.drop_reason = DropReason.RUNTIME_RESTARTED
                self.step(entry, CopyInput.RUNTIME_EMPTIED)

    def idle(self, model: ModelId, load_id: LoadId) -> None:
        """Unload a copy that leaves if nothing runs on it.

        The data plane is asked, because its event may be about an earlier time at which the copy was closed.
        """
        entry = self.entries.get(model)
        if entry is None or entry.load_id != load_id or entry.state is not CopyState.LEAVING:
            return
        if self._dataplane.is_idle(model, load_id):
            self.step(entry, CopyInput.IDLE)

    def _reroute(self) -> None:
        for model, entry in self.entries.items():
            if entry.state in OPEN or entry.state is CopyState.WITHDRAWING:
                with self._work.guarded(model):
                    self._route_changed(model)

    # --- once a second -------------------------------------------------------------------------

    def look_at_usage(self) -> None:
        """Take in what the data plane counted."""
        batch = list(self._dataplane.usage())
        for use in batch:
            if use.requests and (entry := self.entries.get(use.model)) is not None:
                entry.requests += use.requests
        self.usage.apply(batch, self._clock.now_ms(), lambda model: self.entries[model].size)
        self._used(batch)

    def tick(self) -> None:
        """Enforce the bounds on waiting for memory and for idleness; keep the reserve that pays."""
        if self.offered:
            self._grant(self.room.resize(self.parameters))
        now_ms = self._clock.monotonic_ms()
        for load in self.slots.taken():
            entry = self._loads[load]
            if entry.state is CopyState.WAITING and now_ms - entry.entered_ms >= MEMORY_BOUND_MS:
                message = f"no memory became free for model {entry.model} within {MEMORY_BOUND_MS // 1000} s"
                self.drop(entry.model, DropReason.NO_MEMORY, end=LoadRefused(Outcome.NO_ROOM, message))
        for entry in tuple(self.entries.values()):
            if entry.given_up(now_ms):
                self.drop(entry.model, DropReason.UNWANTED)
        for load in tuple(self._leaving):
            entry = self._loads[load]
            self.idle(entry.model, load)
            if entry.state is CopyState.LEAVING and now_ms - entry.entered_ms >= IDLE_BOUND_MS:
                self._journal.note("ended", entry.model, detail=f"calls still ran after {IDLE_BOUND_MS // 1000} s")
                self._dataplane.end_copy(entry.model, entry.load_id)

    # --- stepping -----------------------------------------------------------------------------

    def step(self, entry: Entry, given: CopyInput) -> None:
        """Step a machine and perform its effects; loads whose memory is complete begin at the end.

        An effect that fails takes its copy with it and nothing else: the other effects happen, so that what is held is
        released, and then the copy leaves as others do.
        """
        failed = False
        self._depth += 1
        try:
            effects = entry.machine.step(given)
            entry.entered_ms = self._clock.monotonic_ms()
            for effect in effects:
                try:
                    self._perform(entry, effect)
                except Exception as error:  # noqa: BLE001 - it concerns only this copy
                    self._journal.note("effect_failed", entry.model, effect.value, f"{type(error).__name__}: {error}")
                    failed = True
        finally:
            self._depth -= 1
        if failed:
            self._work.give_up(entry)
        if self._depth == 0:
            self._begin_granted()

    def _begin_granted(self) -> None:
        while self._granted:
            entry = self._loads.get(self._granted.popleft())
            if entry is not None and entry.state is CopyState.WAITING:
                self.step(entry, CopyInput.MEMORY_GRANTED)

    def _grant(self, complete: list[LoadId]) -> None:
        self._granted.extend(complete)
        if self._depth == 0:
            self._begin_granted()

    def _perform(self, entry: Entry, effect: CopyEffect) -> None:  # noqa: C901, PLR0912, PLR0915 - one row per effect
        match effect:
            case CopyEffect.CLAIM:
                self._work.claim(entry, self.loading.claim)
            case CopyEffect.RELEASE:
                entry.answer_waiters()
            case CopyEffect.ENQUEUE:
                self.slots.enqueue(
                    entry.load_id,
                    callers=max(1, len(entry.waiters)) if entry.waited_for else 0,
                    priority=entry.priority,
                    last_use_ms=entry.last_use_ms,
                    alone=self.suspected(entry),
                    expected_ms=self.learned.expected_load_ms(entry.model, entry.size),
                )
                answer(entry.claim_waiters, Accepted(entry.written))
                self.slots.fill()
                if (queued := self.backlog.standing(entry.load_id)) is not None:
                    self._journal.note("queued", entry.model, *queued)
            case CopyEffect.DEQUEUE:
                self.slots.dequeue(entry.load_id)
            case CopyEffect.RESERVE:
                self.room.redeem(entry.load_id)
                if entry.waited_for:
                    entry.missed = True
                    self.look_at_usage()  # what was used before this miss counts before it
                    self.usage.missed(entry.model, entry.size)
                self._grant(self.ledger.ask(entry.load_id, entry.size))
                self.room.make(entry)
            case CopyEffect.LOAD:
                self._work.load(entry, self.loading.load)
            case CopyEffect.CANCEL_LOAD:
                if entry.loading is not None:
                    entry.loading.cancel()
                self.slots.release(entry.load_id)
            case CopyEffect.OPEN:
                self._open(entry)
            case CopyEffect.PUBLISH:
                self.listing.publish(entry)
            case CopyEffect.MEASURE:
                self._work.measure(entry, self.loading.measure)
            case CopyEffect.SETTLE:
                self._grant(self.ledger.settle(entry.load_id, entry.size))
                self.learned.measured(entry.model, entry.registered.record.type, entry.size)
                self.room.make(entry)
            case CopyEffect.RECORD_FAILURE:
                self._work.remove(entry, self.listing.record_failure, "record failure")
                self.slots.release(entry.load_id)
            case CopyEffect.LEAVE:
                self.usage.remove(entry.model)
                self._grant(self.ledger.leave(entry.load_id))
            case CopyEffect.STAY:
                entry.missed = True
                self._hold(entry)
                self._grant(self.ledger.stay(entry.load_id))
                self.room.make(entry)
            case CopyEffect.WITHDRAW:
                kind = "evicted" if isinstance(entry.drop_reason, EvictionReason) else "dropped"
                self._journal.note(kind, entry.model, entry.drop_word)
                self._work.remove(entry, self.listing.withdraw, "withdraw")
            case CopyEffect.REMOVE_KEY:
                self._work.remove(entry, self.listing.remove, "remove key")
            case CopyEffect.CLOSE:
                self._route_changed(entry.model)
            case CopyEffect.AWAIT_IDLE:
                self._leaving[entry.load_id] = None
                # Closed with its runtime before: the data plane has reported that already.
                asyncio.get_running_loop().call_soon(self.idle, entry.model, entry.load_id)
            case CopyEffect.UNLOAD:
                self._leaving.pop(entry.load_id, None)
                self._work.unload(entry, self.loading.unload)
            case CopyEffect.FREE:
                self._free(entry)
            case CopyEffect.FORGET:
                self._forget(entry)

    def _open(self, entry: Entry) -> None:
        try:
            self._hold(entry)
            entry.ready_ms = self._clock.monotonic_ms()
            if entry.waited_for and entry.waiters:
                # Before the slot is free: the next load must not evict this copy under its callers.
                self.usage.expect(entry.model, self._clock.now_ms())
            self._route_changed(entry.model)
        finally:
            self.slots.release(entry.load_id)

    def _free(self, entry: Entry) -> None:
        try:
            self.usage.remove(entry.model)
        finally:
            self._grant(self.ledger.release(entry.load_id))
            self.slots.release(entry.load_id)

    def _hold(self, entry: Entry) -> None:
        self.usage.add(
            entry.model,
            entry.load_id,
            entry.last_use_ms,
            entry.size,
            missed=entry.missed or self._clock.now_ms() - entry.last_use_ms > STALE_USE_MS,
        )

    def _forget(self, entry: Entry) -> None:
        self._leaving.pop(entry.load_id, None)
        self.room.redeem(entry.load_id)
        if entry.unloading is not None and entry.unloading is not asyncio.current_task():
            entry.unloading.cancel()  # the copy to unload ended with its runtime
        if entry.removal is not None and not entry.removal.done():
            # A new claim must not be overtaken by the removal of this copy's key.
            removal, entry.removal = entry.removal, None
            removal.add_done_callback(lambda _: self._forget(entry))
            return
        self.entries.pop(entry.model, None)
        self.room.look_at_pin(entry.model)
        self._loads.pop(entry.load_id, None)
        self.slots.release(entry.load_id)
        self._unpin(entry.model)
        with self._work.guarded(entry.model):
            self._route_changed(entry.model)
        entry.gone.set()

    def _slot_taken(self, load: LoadId) -> None:
        entry = self._loads[load]
        entry.queued_ms = self._clock.monotonic_ms() - entry.entered_ms
        self.step(entry, CopyInput.SLOT_FREE)
