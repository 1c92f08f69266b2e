"""The model server beside this instance."""

import enum
from dataclasses import dataclass
from typing import Protocol

from modelmesh.values import bounds
from modelmesh.values.ids import ModelId
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.status import Status


class RuntimeCallError(Exception):
    """The runtime answered with an error, or could not be reached (UNAVAILABLE).

    Attributes:
        status: Its status.
        message: Its text.
        unprocessed: It has done nothing of the call.
        lost: The connection ended under the call, perhaps because of it: what it did is not known.
    """

    def __init__(self, status: Status, message: str, *, unprocessed: bool = False, lost: bool = False) -> None:
        super().__init__(f"{status.name}: {message}" if message else status.name)
        self.status = status
        self.message = message
        self.unprocessed = unprocessed
        self.lost = lost


class RuntimeState(enum.Enum):
    """The state that a runtime reports."""

    STARTING = "starting"
    READY = "ready"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """A runtime's answer to `runtimeStatus`; `control.copies.runtime_link` decides whether it is usable."""

    state: RuntimeState
    capacity: Memory = NOTHING
    default_size: Memory = NOTHING
    loading_concurrency: int = 0
    load_timeout_ms: int = 0
    limits_concurrency: bool = False
    allows_any_method: bool = False
    injection_paths: tuple[tuple[str, tuple[int, ...]], ...] = ()
    version: str = ""

    @classmethod
    def decoded(
        cls,
        state: RuntimeState,
        *,
        capacity_bytes: int = 0,
        default_size_bytes: int = 0,
        loading_concurrency: int = 0,
        load_timeout_ms: int = 0,
        limits_concurrency: bool = False,
        allows_any_method: bool = False,
        injection_paths: tuple[tuple[str, tuple[int, ...]], ...] = (),
        version: str = "",
    ) -> "RuntimeStatus":
        """A runtime's answer, with every number in its range; 0 stays 0, so that a missing value can be reported."""
        return cls(
            state,
            capacity=Memory(bounds.BYTES.clamp(capacity_bytes)),
            default_size=Memory(bounds.BYTES.clamp(default_size_bytes)),
            loading_concurrency=min(loading_concurrency, bounds.SLOTS.most),
            load_timeout_ms=bounds.DURATION_MS.clamp(load_timeout_ms),
            limits_concurrency=limits_concurrency,
            allows_any_method=allows_any_method,
            injection_paths=injection_paths,
            version=version,
        )


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a runtime needs to load a model. `path` and `key` are empty if not given."""

    model: ModelId
    type: str
    path: str
    key: str


@dataclass(frozen=True, slots=True)
class RuntimeLoaded:
    """Answer to a load. `size` is nothing if it is unknown: measure it. `max_concurrency` None: not reported; 0: no bound."""

    size: Memory
    max_concurrency: int | None

    @classmethod
    def decoded(cls, *, size_bytes: int, max_concurrency: int) -> "RuntimeLoaded":
        """A runtime's answer, with every number in its range. On the wire a concurrency of 0 means that none is reported."""
        return cls(
            Memory(bounds.BYTES.clamp(size_bytes)), bounds.concurrency(max_concurrency) if max_concurrency > 0 else None
        )


class Runtime(Protocol):
    """The model server beside this instance. Every call raises RuntimeCallError; cancelling it cancels the RPC."""

    async def status(self) -> RuntimeStatus:
        """Ask `runtimeStatus`. Existing runtimes drop every model when they answer: never a health probe."""
        ...

    async def answers(self) -> None:
        """Ping the runtime where it takes loads and calls. Any answer counts, also an error.

        Raises RuntimeCallError: DEADLINE_EXCEEDED if it accepts the ping and does not answer, UNAVAILABLE if it cannot be
        reached.
        """
        ...

    async def load(self, source: ModelSource) -> RuntimeLoaded:
        """Load a model; no time-out of its own. Meanwhile `progress` may report how far it is."""
        ...

    async def unload(self, model: ModelId) -> None:
        """Unload a model. NOT_FOUND of the runtime is success."""
        ...

    async def predict_size(self, source: ModelSource) -> Memory | None:
        """The predicted size, or None if the runtime does not report it (UNIMPLEMENTED, error, later than 500 ms).

        Raises RuntimeCallError only if the connection was lost under the call.
        """
        ...

    async def measure_size(self, model: ModelId) -> Memory:
        """The size of a loaded model; bounded by 30 s. NOT_FOUND if it is not loaded."""
        ...

    async def progress(self, model: ModelId) -> LoadProgress | None:
        """How far a load is that runs now; None if the runtime does not report it (UNIMPLEMENTED, error, later than 500 ms)."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...
