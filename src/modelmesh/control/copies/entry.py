"""One copy at this instance, from the request for it to its end, and the callers that wait for it."""

import asyncio
import enum
from dataclasses import dataclass, field

from modelmesh.control.view.records import Registered
from modelmesh.machines.model_copy import CopyState, ModelCopyMachine
from modelmesh.policy.copies import CopiesReason
from modelmesh.policy.victims import EvictionReason
from modelmesh.ports import ModelSource
from modelmesh.values import records
from modelmesh.values.dataplane import Outcome
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.priority import Priority
from modelmesh.values.status import Status

NEVER = Revision(0)

ABANDONED_MS = 10_000
"""How long a load waits for its turn or for memory when every caller that asked for it has ended its call."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The copy is ready."""

    load_id: LoadId


@dataclass(frozen=True, slots=True)
class Accepted:
    """The load is claimed, at revision `written`, and will run; for callers that do not wait for its end."""

    written: Revision


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The runtime could not load it; the failure is recorded. `lost`: the runtime ended meanwhile."""

    status: Status
    message: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class LoadMoved:
    """Copies changed since the decision: decide again once the view has reached `view`."""

    view: Revision


@dataclass(frozen=True, slots=True)
class LoadVoid:
    """The model's record was deleted or replaced."""


@dataclass(frozen=True, slots=True)
class LoadRefused:
    """It was not loaded here, and why; this is no failure of the model or the instance."""

    outcome: Outcome
    message: str


@dataclass(frozen=True, slots=True)
class LoadStoreAway:
    """The store is needed and does not answer."""

    message: str


LoadEnd = Loaded | Accepted | LoadFailed | LoadMoved | LoadVoid | LoadRefused | LoadStoreAway


class DropReason(enum.Enum):
    """Why a copy is dropped without a decision of an eviction policy."""

    BEGINS_ELSEWHERE = "begins_elsewhere"
    ENDS_RUNTIMES = "ends_runtimes"
    MISPLACED = "misplaced"
    MOVED = "moved"
    NO_MEMORY = "no_memory"
    RECORD_REPLACED = "record_replaced"
    RUNTIME_RESTARTED = "runtime_restarted"
    STEP_FAILED = "step_failed"
    UNLOAD_ASKED = "unload_asked"
    UNREGISTERED = "unregistered"
    UNWANTED = "unwanted"
    VANISHED = "vanished"


LeavingReason = DropReason | EvictionReason | CopiesReason

# Copies that other calls may join or use; the rest is leaving.
JOINABLE = frozenset({CopyState.CLAIMING, CopyState.QUEUED, CopyState.WAITING, CopyState.LOADING})
OPEN = frozenset({CopyState.SIZING, CopyState.READY})
USABLE = JOINABLE | OPEN
LISTED = frozenset({CopyState.QUEUED, CopyState.WAITING, CopyState.LOADING, *OPEN})


def source_of(model: ModelId, registered: Registered) -> ModelSource:
    """What the runtime gets to load a model."""
    record = registered.record
    return ModelSource(model, record.type, record.path, record.key)


@dataclass(slots=True)
class Entry:
    """What this instance knows of one of its copies. Times without another word are monotonic milliseconds."""

    model: ModelId
    load_id: LoadId
    registered: Registered
    view: Revision
    priority: Priority | None
    """The highest class of the calls that it is loaded for; None: no call waited for it."""
    last_use_ms: int
    since_ms: int
    machine: ModelCopyMachine = field(default_factory=ModelCopyMachine)
    stays: bool = False
    """It is not sent on to another instance: a load moves once."""
    size: Memory = NOTHING
    max_concurrency: int = 0
    written: Revision = NEVER
    waiters: dict[int, asyncio.Future[LoadEnd]] = field(default_factory=dict)
    claim_waiters: dict[int, asyncio.Future[LoadEnd]] = field(default_factory=dict)
    end: LoadEnd | None = None
    drop_reason: LeavingReason | None = None
    forced: bool = False
    missed: bool = False
    wanted: bool = False
    requests: int = 0
    abandoned_ms: int | None = None
    ready_ms: int = 0
    relied_on: tuple[tuple[InstanceId, Revision], ...] = ()
    denied_copies: tuple[tuple[InstanceId, Revision], ...] = ()
    loading: asyncio.Task[None] | None = None
    unloading: asyncio.Task[None] | None = None
    removal: asyncio.Task[None] | None = None
    entered_ms: int = 0
    queued_ms: int = 0
    progress: LoadProgress | None = None
    """Of its load while that runs, if the runtime reports it."""
    publishing: bool = False
    publish_again: bool = False
    published: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> CopyState:
        """Of its machine."""
        return self.machine.state

    @property
    def waited_for(self) -> bool:
        """Whether it is loaded for a call."""
        return self.priority is not None

    def join(self, caller: Priority) -> None:
        """A call of this class waits for it, too."""
        self.priority = caller if self.priority is None else max(self.priority, caller)

    @property
    def drop_word(self) -> str:
        """Why it leaves, for the journal."""
        return self.drop_reason.value if self.drop_reason is not None else ""

    @property
    def source(self) -> ModelSource:
        """What the runtime gets to load the model."""
        return source_of(self.model, self.registered)

    def stored(self) -> records.CopyRecord:
        """The copy's key as it should be."""
        return records.CopyRecord(
            state=records.CopyState.LOADED if self.state in OPEN else records.CopyState.LOADING,
            since_ms=self.since_ms,
            load_id=self.load_id,
            size=self.size,
            record_revision=self.registered.create_revision,
            tenant=self.registered.record.tenant,
        )

    def given_up(self, now_ms: int) -> bool:
        """Whether its load has not begun and has had no waiting caller for some time.

        Not at once: a caller whose deadline passed often comes again, and would find itself at the end of the queue.
        """
        if self.wanted or self.waiters or self.state not in {CopyState.QUEUED, CopyState.WAITING}:
            self.abandoned_ms = None
        elif self.abandoned_ms is None:
            self.abandoned_ms = now_ms
        return self.abandoned_ms is not None and now_ms - self.abandoned_ms >= ABANDONED_MS

    def answer_waiters(self) -> None:
        """Give the result to all waiters."""
        end = Loaded(self.load_id) if self.state in OPEN else self.end
        assert end is not None
        answer(self.waiters, end)
        answer(self.claim_waiters, end)


def answer(waiters: "dict[int, asyncio.Future[LoadEnd]]", end: LoadEnd) -> None:
    """Give the same end to all who wait."""
    for future in waiters.values():
        if not future.done():
            future.set_result(end)
