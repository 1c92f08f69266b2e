"""Loads and unloads at the runtime, and the claim before each load."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from modelmesh.control.copies.entry import (
    Entry,
    LoadEnd,
    LoadFailed,
    LoadMoved,
    LoadRefused,
    LoadStoreAway,
    LoadVoid,
    source_of,
)
from modelmesh.control.copies.more_room import MoreRoom
from modelmesh.control.copies.runtime_link import RuntimeParameters
from modelmesh.control.copies.transactions import Claimed, ClaimMoved, CopyWriter
from modelmesh.control.copies.usage import Learned
from modelmesh.control.journal import Journal
from modelmesh.control.view.records import Registered
from modelmesh.machines.model_copy import CopyInput, CopyState
from modelmesh.policy.admission import AdmissionReason, LoadCondition, admit
from modelmesh.policy.load_patience import MOST_TIMEOUTS, ends_ms, furthest, moved_on
from modelmesh.ports import Clock, LeaseNotFoundError, Runtime, RuntimeCallError, RuntimeLoaded, StoreError
from modelmesh.values.dataplane import Outcome
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.memory import SMALLEST, Memory
from modelmesh.values.records import FailureKind
from modelmesh.values.status import Status

CLAIM_BOUND_MS = 900
"""How long a claim waits for the store; callers get an answer within a second."""

RETRY_MS = 500
LOOK_MS = 1_000
"""Between two questions for the progress of a load."""

NOTE_MS = 10_000
"""Between two entries of the journal about one stage of a load."""

UNLOAD_RETRY_MAX_MS = 10_000

ROOM_BOUND_MS = 60_000
"""How long a load that the runtime had no memory for waits until there is more."""

ROOM_LOOK_MS = 100
"""Between two looks whether there is."""


class LoadEnded(Protocol):
    """Called at the end of a load."""

    def __call__(self, model: ModelId, *, tenant: str, failed: bool) -> None:
        """The load of `model`, which `tenant` registered, succeeded or failed."""


class Loading:
    """The effects of a copy's machine that take time, but for those that only write its key.

    Each ends in a step of the machine.

    Args:
        condition: This instance as the admission sees it.
        parameters: The runtime's.
        offered: Whether loads may go to the runtime.
        predicted_size: The best estimate of the size of a model and its type.
        step: Feeds the machine.
        ended: Called for every load that succeeded or failed.
        uncertain: Called for a copy whose key may exist although its claim failed, with the revision of its record.
        lost: Stores that the runtime ended while it processed a model, with the message.
        more_room: Memory for a load that the runtime refused for want of it.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        runtime: Runtime,
        writer: CopyWriter,
        learned: Learned,
        clock: Clock,
        journal: Journal,
        lease: Callable[[], int],
        lease_lost: Callable[[], None],
        store_available: Callable[[], bool],
        condition: Callable[[], LoadCondition],
        parameters: Callable[[], RuntimeParameters],
        offered: Callable[[], bool],
        predicted_size: Callable[[ModelId, str], Memory],
        step: Callable[[Entry, CopyInput], None],
        ended: LoadEnded,
        uncertain: Callable[[ModelId, Revision], None],
        lost: Callable[[ModelId, Registered, FailureKind, str], Awaitable[None]],
        more_room: MoreRoom,
    ) -> None:
        self._own = own
        self._runtime = runtime
        self._writer = writer
        self._learned = learned
        self._clock = clock
        self._journal = journal
        self._lease = lease
        self._lease_lost = lease_lost
        self._store_available = store_available
        self._condition = condition
        self._parameters = parameters
        self._offered = offered
        self._predicted_size = predicted_size
        self._step = step
        self._ended = ended
        self._uncertain = uncertain
        self._lost = lost
        self._more_room = more_room

    async def claim(self, entry: Entry) -> None:
        """Claim the load: ours, or why not.

        The runtime is asked for the size of a model never loaded here while the claim is written, which has
        the best estimate until the copy is ready. If the prediction is too large, the claim is released.
        """
        asked: asyncio.Task[None] | None = None
        if self._learned.size(entry.model) is None and self._offered():
            asked = asyncio.create_task(self._look_at(entry))
        try:
            end = await self._admitted_claim(entry, asked)
            if end is not None:
                given = CopyInput.CLAIM_REFUSED
            elif asked is None or entry.state is not CopyState.CLAIMING:
                given = CopyInput.CLAIMED
            else:
                await asked
                end = entry.end or self._admission(entry)
                given = CopyInput.CLAIMED if end is None else CopyInput.CLAIMED_TOO_LARGE
        finally:
            if asked is not None:
                asked.cancel()
        if end is not None:
            entry.end = end
        self._step(entry, given)

    async def predict(self, model: ModelId, registered: Registered) -> LoadFailed | None:
        """Let the runtime predict the size of a model, for the next estimate; the failure, if the runtime ended during that."""
        try:
            size = await self._runtime.predict_size(source_of(model, registered))
        except RuntimeCallError as error:
            message = (
                f"the runtime of instance {self._own} ended while it predicted the size of the model: {error.message}"
            )
            await self._lost(model, registered, FailureKind.LOST_WHILE_LOADING, message)
            return LoadFailed(error.status, message, lost=True)
        if size is not None:
            self._learned.predicted(model, size)
        return None

    async def _look_at(self, entry: Entry) -> None:
        entry.end = await self.predict(entry.model, entry.registered) or entry.end

    async def _admitted_claim(self, entry: Entry, asked: "asyncio.Task[None] | None") -> LoadEnd | None:
        """Admit and claim on the best estimate; None if the load is ours. An estimate does not refuse a load; only the runtime's prediction does."""
        refused: LoadEnd | None = self._admission(entry)
        if refused is not None and asked is not None:
            await asked
            refused = entry.end or self._admission(entry)
        return refused or await self._try_claim(entry)

    async def _try_claim(self, entry: Entry) -> LoadEnd | None:
        """Write the claim; None if the load is ours."""
        for _ in range(2):
            if not self._store_available():
                return LoadStoreAway(f"model {entry.model} cannot be loaded while the store is away")
            try:
                async with asyncio.timeout(CLAIM_BOUND_MS / 1000):
                    claim = await self._writer.claim(entry.model, entry.stored(), view=entry.view, lease=self._lease())
            except LeaseNotFoundError:
                self._lease_lost()
                await self._clock.sleep(RETRY_MS)
                continue
            except (StoreError, TimeoutError) as error:
                # Perhaps it was written all the same.
                self._uncertain(entry.model, entry.registered.create_revision)
                why = str(error) or "it does not answer"
                return LoadStoreAway(f"model {entry.model} cannot be loaded while the store is away: {why}")
            if isinstance(claim, Claimed):
                entry.written = claim.revision
                return None
            return LoadMoved(claim.view) if isinstance(claim, ClaimMoved) else LoadVoid()
        return LoadStoreAway(f"model {entry.model} cannot be loaded: this instance has no lease at the moment")

    def _admission(self, entry: Entry) -> LoadRefused | None:
        """Set the size to the best estimate there is now, and admit on it."""
        entry.size = self._predicted_size(entry.model, entry.registered.record.type).at_least(SMALLEST)
        return self.refusal(entry.model, entry.size, last_use_ms=None if entry.waited_for else entry.last_use_ms)

    def refusal(self, model: ModelId, size: Memory, *, last_use_ms: int | None) -> LoadRefused | None:
        """Why a load is not taken; None if it is. `last_use_ms`: of a model that no caller waits for."""
        condition = self._condition()
        own = self._own
        match admit(condition, size=size, last_use_ms=last_use_ms):
            case AdmissionReason.ADMITTED:
                return None
            case AdmissionReason.DRAINING:
                return LoadRefused(Outcome.DRAINING, f"instance {own} is draining")
            case AdmissionReason.RUNTIME_AWAY:
                return LoadRefused(Outcome.BUSY, f"the runtime of instance {own} is not connected")
            case AdmissionReason.TOO_LARGE:
                return LoadRefused(
                    Outcome.NO_ROOM,
                    f"model {model} needs {size}, instance {own} holds {condition.capacity} in all",
                )
            case AdmissionReason.BESIDE_PINNED:
                return LoadRefused(
                    Outcome.NO_ROOM,
                    f"model {model} needs {size}; {condition.pinned} of the {condition.capacity} "
                    f"of instance {own} hold pinned models",
                )
            case AdmissionReason.DISPLACES_NEWER:
                return LoadRefused(
                    Outcome.NO_ROOM,
                    f"instance {own} would have to evict a model that was used more recently than {model}",
                )

    async def load(self, entry: Entry) -> None:
        """Let the runtime load."""
        timeout_ms = self._parameters().load_timeout_ms
        began_ms = self._clock.monotonic_ms()
        self._journal.note("load_started", entry.model, detail=f"{entry.size} predicted", queued_ms=entry.queued_ms)
        try:
            loaded = await self._load_with_room(entry, began_ms, timeout_ms)
        except TimeoutError:
            self._load_failed(entry, Status.DEADLINE_EXCEEDED, self._timed_out(entry, began_ms, timeout_ms))
            return
        except RuntimeCallError as error:
            if error.lost:
                message = f"the runtime of instance {self._own} ended while it loaded the model: {error.message}"
                self._load_failed(entry, error.status, message, lost=True)
            elif error.status is Status.UNAVAILABLE and error.unprocessed:
                entry.end = LoadRefused(Outcome.BUSY, f"the runtime of instance {self._own} is not connected: {error}")
                self._journal.note("load_not_begun", entry.model, detail=str(error))
                self._step(entry, CopyInput.LOAD_NOT_BEGUN)
            else:
                message = error.message if error.status is Status.UNKNOWN and error.message else str(error)
                self._load_failed(entry, error.status, message)
            return
        limited = self._parameters().limits_concurrency
        reported = loaded.max_concurrency
        entry.max_concurrency = 0 if not limited else 1 if reported is None else reported
        elapsed_ms = self._clock.monotonic_ms() - began_ms
        self._journal.note("loaded", entry.model, detail=f"in {elapsed_ms} ms")
        self._ended(entry.model, tenant=entry.registered.record.tenant, failed=False)
        if loaded.size:
            entry.size = self._believed(entry, loaded.size)
        self._learned.loaded(entry.model, entry.size, elapsed_ms)
        if loaded.size:
            self._step(entry, CopyInput.LOADED)
        else:
            self._step(entry, CopyInput.LOADED_UNSIZED)

    async def _load_with_room(self, entry: Entry, began_ms: int, timeout_ms: int) -> RuntimeLoaded:
        """Load; once more when there is more room, if the runtime has no memory: what is loaded beside it may be larger than predicted."""
        try:
            return await self._load_while_it_moves(entry, began_ms, timeout_ms)
        except RuntimeCallError as error:
            if error.status is not Status.RESOURCE_EXHAUSTED or error.lost or not await self._has_more_room(entry):
                raise
            self._journal.note("load_again", entry.model, detail=f"there is more room than when it failed: {error}")
        return await self._load_while_it_moves(entry, self._clock.monotonic_ms(), timeout_ms)

    async def _has_more_room(self, entry: Entry) -> bool:
        """Wait until there is more room for a load; False if there will not be."""
        if await self.predict(entry.model, entry.registered) is not None:
            return False
        predicted = self._predicted_size(entry.model, entry.registered.record.type)
        entry.size = entry.size.at_least(predicted)
        unsized = self._more_room.ask(entry)
        if unsized is None:
            return False
        for _ in range(ROOM_BOUND_MS // ROOM_LOOK_MS):
            if self._more_room.is_there(entry, unsized):
                return True
            await self._clock.sleep(ROOM_LOOK_MS)
        return False

    async def _load_while_it_moves(self, entry: Entry, began_ms: int, timeout_ms: int) -> RuntimeLoaded:
        """Load; TimeoutError when the load has reported no progress for the runtime's time-out, or has taken too many time-outs."""
        async with asyncio.timeout(timeout_ms / 1000) as bound:
            following = asyncio.create_task(self._follow(entry, bound, began_ms, timeout_ms))
            try:
                return await self._runtime.load(entry.source)
            finally:
                following.cancel()

    async def _follow(self, entry: Entry, bound: asyncio.Timeout, began_ms: int, timeout_ms: int) -> None:
        """Read the progress of a load once a second, and extend its time while there is progress. Most loads have ended before the first read."""
        last: LoadProgress | None = None
        noted_ms = began_ms
        while not bound.expired():
            await self._clock.sleep(LOOK_MS)
            reported = await self._runtime.progress(entry.model)
            if reported is None or not moved_on(last, reported) or bound.expired():
                continue
            now_ms = self._clock.monotonic_ms()
            if last is None or reported.stage is not last.stage or now_ms - noted_ms >= NOTE_MS:
                self._journal.note("load_progress", entry.model, reported.stage.value, str(reported))
                noted_ms = now_ms
            last = entry.progress = furthest(last, reported)
            left_ms = ends_ms(began_ms=began_ms, moved_ms=now_ms, timeout_ms=timeout_ms) - now_ms
            bound.reschedule(asyncio.get_running_loop().time() + max(0, left_ms) / 1000)

    def _timed_out(self, entry: Entry, began_ms: int, timeout_ms: int) -> str:
        """In the words of the old system, and how far it was, if that is known."""
        if entry.progress is None:
            return f"Load of model {entry.model} timed out after {timeout_ms // 1000}sec"
        took_ms = self._clock.monotonic_ms() - began_ms
        return (
            f"Load of model {entry.model} timed out after {took_ms // 1000}sec; it moved on last at: {entry.progress}."
            f" A load may take {timeout_ms // 1000} s from its last progress, and {MOST_TIMEOUTS} times that in all"
        )

    def _believed(self, entry: Entry, size: Memory) -> Memory:
        """The size of what the runtime holds. More than all it has is none: such a model would never be loaded again."""
        capacity = self._parameters().capacity
        if size.fits(capacity):
            return size
        detail = f"the runtime reports a size of {size} and a capacity of {capacity}; the predicted size is kept"
        self._journal.note("not_measured", entry.model, "implausible", detail)
        return entry.size

    def _load_failed(self, entry: Entry, status: Status, message: str, *, lost: bool = False) -> None:
        entry.end = LoadFailed(status, message, lost)
        self._journal.note("lost_while_loading" if lost else "load_failed", entry.model, status.name.lower(), message)
        self._ended(entry.model, tenant=entry.registered.record.tenant, failed=True)
        self._step(entry, CopyInput.LOAD_FAILED)

    async def measure(self, entry: Entry) -> None:
        """Ask the runtime for the size of what it has loaded."""
        try:
            entry.size = self._believed(entry, (await self._runtime.measure_size(entry.model)).at_least(SMALLEST))
        except RuntimeCallError as error:
            self._journal.note("not_measured", entry.model, detail=f"the predicted size is kept: {error}")
            if error.lost:
                message = f"the runtime of instance {self._own} ended while it measured the model"
                await self._lost(entry.model, entry.registered, FailureKind.LOST_IN_USE, message)
        if entry.machine.accepts(CopyInput.SIZED):
            self._step(entry, CopyInput.SIZED)

    async def unload(self, entry: Entry) -> None:
        """Let the runtime unload, again and again until it has."""
        delay_ms = RETRY_MS
        began_ms = self._clock.monotonic_ms()
        while True:
            try:
                await self._runtime.unload(entry.model)
            except RuntimeCallError as error:
                self._journal.note("unload_failed", entry.model, error.status.name.lower(), str(error))
                await self._clock.sleep(delay_ms)
                delay_ms = min(UNLOAD_RETRY_MAX_MS, delay_ms * 2)
            else:
                self._learned.unloaded(self._clock.monotonic_ms() - began_ms)
                self._journal.note("unloaded", entry.model, entry.drop_word)
                self._step(entry, CopyInput.UNLOADED)
                return
