"""The copies of this instance: which are loaded, loading or being unloaded, and the memory that they use.

The interface for other parts of the control plane. Each copy is a state machine that `copies.steps` drives. Waiters get a
`LoadEnd`; what follows from it is decided by `modelmesh.policy.attempt`.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count

from modelmesh.control.copies.entry import (
    JOINABLE,
    LISTED,
    NEVER,
    OPEN,
    USABLE,
    Accepted,
    DropReason,
    Entry,
    Loaded,
    LoadEnd,
    LoadMoved,
    LoadRefused,
    LoadVoid,
)
from modelmesh.control.copies.runtime_link import RuntimeParameters
from modelmesh.control.copies.steps import CopySteps
from modelmesh.control.journal import Journal
from modelmesh.control.settings import InstanceIdentity
from modelmesh.control.view.records import Registered
from modelmesh.machines.model_copy import CopyInput, CopyState
from modelmesh.ports import Clock, ModelSource
from modelmesh.values import records
from modelmesh.values.dataplane import LocalCopy, Outcome
from modelmesh.values.explanation import Rehearsal, SizeSource
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.priority import Priority
from modelmesh.values.records import Member
from modelmesh.values.view import Copy, ModelView

PUBLISH_BOUND_MS = 1_000

GONE_BOUND_MS = 15_000
"""How long a load waits here until the copy of before has left; then it is tried elsewhere."""


class Cache:
    """The copies of this instance.

    Args:
        in_flight_max: Calls that run at or wait for a copy whose concurrency is limited; 0: eight times its concurrency,
            negative: no bound.

    Attributes:
        drop: Drops a copy, in any state it is.
        predicted_size: The best estimate of the size of a model and its type.
        stale_keys: Copies that were dropped while the store was away: their keys are deleted when it is back.
    """

    def __init__(
        self, *, own: InstanceId, steps: CopySteps, clock: Clock, journal: Journal, in_flight_max: int
    ) -> None:
        self._own = own
        self._steps = steps
        self._entries = steps.entries
        self._room = steps.room
        self._clock = clock
        self._journal = journal
        self._in_flight_max = in_flight_max
        self._waiter_numbers = count()
        self._worth = 0
        self._next_victim_use_ms = 0
        self.ledger = steps.ledger
        self.usage = steps.usage
        self.learned = steps.learned
        self.drop = steps.drop
        self.predicted_size = steps.predicted_size
        self.stale_keys = steps.listing.stale

    def drain(self) -> None:
        """Take no more loads."""
        self._steps.draining = True

    @property
    def draining(self) -> bool:
        """Whether this instance leaves."""
        return self._steps.draining

    # --- what others ask ----------------------------------------------------------------------

    @property
    def parameters(self) -> RuntimeParameters:
        """The runtime's parameters; set before anything is loaded."""
        return self._steps.parameters

    def describe(
        self, identity: InstanceIdentity, *, started_ms: int, hot: tuple[records.HotCopy, ...]
    ) -> records.MemberRecord:
        """This instance's entry."""
        return records.MemberRecord(
            address=identity.address,
            tls_name=identity.tls_name,
            started_ms=started_ms,
            labels=identity.labels,
            zone=identity.zone,
            location=identity.location,
            version=identity.version,
            hot=hot,
            capacity=self.ledger.capacity,
            used=self.ledger.used,
            reserve=self.ledger.reserve,
            pinned=self._room.pinned(),
            default_size=self.parameters.default_size,
            copies=len(self._entries),
            next_victim_use_ms=self._next_victim_use_ms,
            loading_slots=self.parameters.loading_slots,
            loads=self.loads,
            backlog_ms=self._steps.backlog.ms(),
            load_ms=self.learned.common_load_ms,
            worth=self._worth,
            busyness=self.usage.requests_per_minute,
            at_once=self.usage.at_once,
            draining=self.draining,
            runtime_ready=self._steps.offered,
        )

    def with_decided_loads(self, record: records.MemberRecord) -> records.MemberRecord:
        """The entry as placement should see it here: with loads that are decided and have not asked for memory yet.

        Without them all misses of one moment would choose this instance while it seems to have room.
        """
        if not self._room.promised:
            return record
        claiming = self._room.promised - self._steps.slots.queued
        return replace(record, used=record.used + self._room.promised_memory, loads=record.loads + claiming)

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
            size=entry.size,
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
            return LocalCopy(entry.load_id, self._steps.offered, concurrency, self._waiting_bound(concurrency))
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
        """A model that is loaded, for asking the runtime after a lost connection; none that may have ended it."""
        held = (entry for entry in self._entries.values() if entry.state in OPEN)
        return next((entry.model for entry in held if not self._steps.suspected(entry)), None)

    def loading(self) -> list[LoadProgress]:
        """The progress of the running loads, as far as their runtime reports it."""
        found = (entry for entry in self._entries.values() if entry.state is CopyState.LOADING)
        return [entry.progress for entry in found if entry.progress is not None]

    def progress(self, model: ModelId) -> LoadProgress | None:
        """The progress of its load here; None: there is none, or the runtime does not report it."""
        entry = self._entries.get(model)
        return entry.progress if entry is not None and entry.state is CopyState.LOADING else None

    def idle_of(self, tenant: str) -> Memory:
        """What idle copies of a tenant take here."""
        return self._steps.room.idle_of(tenant)

    @property
    def loads(self) -> int:
        """Loads that run or wait here."""
        return len(self._steps.slots)

    def models(self) -> tuple[ModelId, ...]:
        """Models with an entry, in order of their load."""
        return tuple(self._entries)

    def ready(self) -> tuple[ModelId, ...]:
        """Models whose copy here is open, in order of their load."""
        return tuple(model for model, entry in self._entries.items() if entry.state in OPEN)

    def serves(self) -> bool:
        """Whether any copy here is open."""
        return any(entry.state in OPEN for entry in self._entries.values())

    def source(self, model: ModelId) -> ModelSource | None:
        """What the runtime gets to load a model with a copy here, in any state."""
        entry = self._entries.get(model)
        return entry.source if entry is not None else None

    def pinned(self, model: ModelId) -> bool:
        """Whether an operator wants the copy here kept."""
        entry = self._entries.get(model)
        return entry is not None and entry.registered.record.pinned

    def max_concurrency(self, model: ModelId) -> int:
        """Requests that the copy here takes at a time; 0: not limited."""
        entry = self._entries.get(model)
        return entry.max_concurrency if entry is not None else 0

    def states(self) -> dict[ModelId, CopyState]:
        """The state of every copy; for tests, status and invariants."""
        return {model: entry.state for model, entry in self._entries.items()}

    def books(self) -> dict[ModelId, Memory]:
        """The memory booked for every copy; for invariants."""
        return {model: self.ledger.booked(entry.load_id) for model, entry in self._entries.items()}

    @property
    def promised(self) -> int:
        """Loads that are decided and have not asked for memory yet; for invariants."""
        return self._room.promised

    def queued(self, model: ModelId) -> tuple[str, str] | None:
        """Why its load stands in the queue where it does, and for people where that is; None: it is not queued."""
        entry = self._entries.get(model)
        return self._steps.backlog.standing(entry.load_id) if entry is not None else None

    def rehearse(self, model: ModelId, size: Memory) -> Rehearsal:
        """What a load of this size would do here; nothing is changed."""
        refused = self._steps.loading.refusal(model, size, last_use_ms=None)
        return Rehearsal(refused.message) if refused is not None else self._room.rehearse(size)

    def size_source(self, model: ModelId, model_type: str) -> SizeSource:
        """Where `predicted_size` comes from."""
        return self.learned.best_size(model, model_type, default=self.parameters.default_size)[1]

    async def predict(self, model: ModelId, registered: Registered) -> None:
        """Let the runtime predict the size of a model that was never loaded here; nothing if it cannot be asked.

        A model that is suspected of ending runtimes is not shown to one only to explain it.
        """
        if self.learned.size(model) is None and self._steps.offered and not self._steps.suspects(model, registered):
            await self._steps.loading.predict(model, registered)

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
        caller: Priority | None,
        last_use_ms: int,
        sync: bool = True,
        stays: bool = False,
        unload: Memory = NOTHING,
    ) -> LoadEnd:
        """Load the model here, or join its load, and wait for the end.

        Cancelling the wait does not cancel the load.

        Args:
            model: Its id.
            registered: Its record; a copy of an older record is unloaded first.
            view: The revision of the view on which the load was decided.
            caller: The class of the call that waits for it; None: no call does, and loads that calls wait for go first.
            last_use_ms: Epoch milliseconds.
            sync: Wait for the end; else only until the load is claimed.
            stays: The caller was refused elsewhere before, so the load is not sent on from here.
            unload: So much of the idle copies of its tenant here is unloaded, if the load begins now.
        """
        entry = self._entries.get(model)
        if entry is None:
            self._steps.room.unload_own(registered.record.tenant, unload, model)
            entry = self._steps.begin(model, registered, view, caller=caller, last_use_ms=last_use_ms)
            entry.wanted = caller is None
            entry.stays = stays
        elif entry.registered.create_revision < registered.create_revision:
            self._void(entry, DropReason.RECORD_REPLACED)
        elif caller is not None:
            entry.join(caller)
            entry.stays = entry.stays or stays
            self._steps.slots.join(entry.load_id, caller)
        if entry.state in OPEN:
            if caller is not None:  # the data plane counts the call
                self.usage.touch(model, last_use_ms)
                self.usage.expect(model, self._clock.now_ms())
            else:
                self.usage.asked_for(model, last_use_ms, entry.size)
            return Loaded(entry.load_id)
        if entry.state in JOINABLE:
            entry.last_use_ms = max(entry.last_use_ms, last_use_ms)
            entry.wanted = entry.wanted or caller is None
            if sync:
                return await self._wait(entry.waiters)
            if entry.state is CopyState.CLAIMING:
                return await self._wait(entry.claim_waiters)
            return Accepted(entry.written)
        try:
            async with asyncio.timeout(GONE_BOUND_MS / 1000):
                await entry.gone.wait()
        except TimeoutError:
            message = f"the copy of {model} at instance {self._own} has been {entry.state.value} for long"
            return LoadRefused(Outcome.BUSY, message)
        # The reason why it left may prevent another load here.
        return LoadMoved(entry.written)

    async def _wait(self, waiters: "dict[int, asyncio.Future[LoadEnd]]") -> LoadEnd:
        future: asyncio.Future[LoadEnd] = asyncio.get_running_loop().create_future()
        number = next(self._waiter_numbers)
        waiters[number] = future
        try:
            return await future
        finally:
            waiters.pop(number, None)

    async def until_published(self, model: ModelId) -> Revision:
        """The revision at which the copy is known as loaded; waits for it a second at most."""
        entry = self._entries.get(model)
        if entry is None:
            return NEVER
        with suppress(TimeoutError):
            async with asyncio.timeout(PUBLISH_BOUND_MS / 1000):
                await entry.published.wait()
        return entry.written

    # --- changes elsewhere -----------------------------------------------------------------------------

    def viewed(self, view: ModelView, members: Mapping[InstanceId, Member]) -> None:
        """Copies of a model changed: learn its size from those that others have loaded."""
        for copy in view.copies:
            member = members.get(copy.instance)
            if member is not None and copy.instance != self._own and copy.ready:
                self.learned.heard(view.model, copy.size, capacity=member.record.capacity)

    def vanished(self, model: ModelId, load_id: LoadId) -> None:
        """The runtime reports that it does not have a copy that it should have."""
        entry = self._entries.get(model)
        if entry is not None and entry.load_id == load_id and entry.state in OPEN and self._steps.offered:
            self._journal.note("vanished", model, detail="the runtime answered that it does not know the model")
            self.drop(model, DropReason.VANISHED)

    def key_deleted(self, model: ModelId, revision: Revision) -> None:
        """Another writer deleted the key of our copy: unload it."""
        entry = self._entries.get(model)
        if entry is not None and entry.state in LISTED and entry.written < revision:
            self.drop(model, DropReason.UNLOAD_ASKED)

    def record_edited(self, model: ModelId, registered: Registered) -> None:
        """The record of a copy here was written again, and is still the same model."""
        entry = self._entries.get(model)
        if entry is not None and entry.registered.create_revision == registered.create_revision:
            entry.registered = registered
            self._room.look_at_pin(model)

    def record_changed(self, model: ModelId, create_revision: Revision) -> None:
        """The model's record was deleted (0) or is a new one."""
        entry = self._entries.get(model)
        if entry is not None and entry.registered.create_revision != create_revision:
            self._void(entry, DropReason.UNREGISTERED, end=LoadVoid())

    def record_moved(self, model: ModelId, registered: Registered) -> None:
        """The same record was written again after the store was emptied, with a new create revision."""
        entry = self._entries.get(model)
        if entry is None:
            return
        if entry.registered.record.same_attributes(registered.record):
            entry.registered = registered
            self._room.look_at_pin(model)
        else:
            self._void(entry, DropReason.RECORD_REPLACED)

    def _void(self, entry: Entry, reason: DropReason, *, end: LoadEnd | None = None) -> None:
        """Drop a copy whose record was deleted or replaced; its route closes before its key is deleted."""
        self.drop(entry.model, reason, end=end)
        if entry.machine.accepts(CopyInput.VOIDED):
            self._steps.step(entry, CopyInput.VOIDED)

    # --- once a second ------------------------------------------------------------------------

    def look_at_usage(self) -> None:
        """Take in what the data plane counted."""
        self._steps.look_at_usage()

    def tick(self) -> None:
        """Measure the rate of requests, and enforce the bounds on waiting; called about once a second."""
        self.usage.sample_rate(self._clock.monotonic_ms())
        # Both walk over copies, and an entry is described for every decision.
        self._worth = self._room.worth()
        self._next_victim_use_ms = self._room.next_victim_use_ms()
        self._steps.tick()

    # --- the store ----------------------------------------------------------------------------

    def listed(self) -> list[tuple[ModelId, records.CopyRecord]]:
        """The keys that this instance's copies should have."""
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
            self._steps.listing.publish(entry)
