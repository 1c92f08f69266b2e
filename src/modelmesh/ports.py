"""The ports: what the control plane needs from the outside, as protocols.

Implementations stand in `modelmesh.adapters` (the real ones) and `modelmesh.testing` (public fakes);
one contract suite per port, in `tests/contracts`, runs over both.
"""

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from modelmesh.values import bounds
from modelmesh.values.dataplane import DataPlaneEvent, Naming, PeerAddress, Resolution, Route, Rules, Usage
from modelmesh.values.explanation import Recollection
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision, Token, VModelId
from modelmesh.values.status import Status

# --- Store ------------------------------------------------------------------------------------


class StoreError(Exception):
    """The base of what a store may raise."""


class StoreUnavailableError(StoreError):
    """The store did not answer in time, or refused the connection. Whether a write happened is unknown."""


class LeaseNotFoundError(StoreError):
    """The lease has expired or was revoked; nothing was written."""


class CompactedError(StoreError):
    """The revision asked for is no longer kept; list again."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as stored. `lease` is 0 if none is attached."""

    key: str
    value: bytes
    create_revision: Revision
    mod_revision: Revision
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on one key, or with `prefix` on every key that starts with `key`.

    A key that does not exist has create revision, mod revision and version 0, and a value that satisfies
    nothing. Of a prefix only what 0 satisfies can be asked (never its values): etcd answers for a prefix
    without keys as for one key of zeros, so that such a prefix satisfies every condition.
    """

    key: str
    target: Literal["create", "mod", "version", "value"]
    operator: Literal["==", "!=", "<", ">"]
    operand: int | bytes
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key. `keep_value` writes what is there again (the key must exist); `lease` 0: none."""

    key: str
    value: bytes = b""
    lease: int = 0
    keep_value: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key, or with `prefix` every key that starts with it."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key, or with `prefix` every key that starts with it, in key order; `limit` 0: all."""

    key: str
    prefix: bool = False
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """If all `compares` hold then `then` else `otherwise`, at one revision.

    Compares see the state before the transaction, those of nested transactions too. No key may be
    put twice, in all branches that can run together.
    """

    compares: tuple[Compare, ...]
    then: "tuple[Operation, ...]"
    otherwise: "tuple[Operation, ...]" = ()


Operation = Put | Delete | Get | Transaction


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """The outcome, and one answer per operation of the branch that ran.

    An answer is a tuple of keys for Get, the number of deleted keys for Delete, None for Put, and a
    result for a nested transaction.
    """

    succeeded: bool
    revision: Revision
    answers: "tuple[Answer, ...]"


Answer = tuple[KeyValue, ...] | int | TransactionResult | None


@dataclass(frozen=True, slots=True)
class Listing:
    """Keys of a range in key order, all as of `revision`. `more` iff `limit` cut it."""

    revision: Revision
    items: tuple[KeyValue, ...]
    more: bool


class ChangeKind(enum.Enum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """One change. For DELETE only `key` and `mod_revision` (of the deletion) of `item` have a meaning."""

    kind: ChangeKind
    item: KeyValue


class Store(Protocol):
    """A small ordered, revisioned, leased key-value store. Keys are text, compared as UTF-8 bytes.

    Every call raises `StoreUnavailableError` when the store cannot be reached within the adapter's time-out.
    """

    async def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""
        ...

    async def range(
        self, prefix: str, *, start_after: str = "", limit: int = 0, revision: Revision | None = None
    ) -> Listing:
        """List keys that start with `prefix` (and sort after `start_after`), at `revision` or now.

        Raises:
            CompactedError: `revision` is no longer kept, or was not reached yet (the store is another).
        """
        ...

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Run a transaction; one that raises has written nothing, unless it is StoreUnavailableError.

        Raises:
            LeaseNotFoundError: A put names a lease that is gone.
            StoreError: A put keeps the value of a key that does not exist, or the store refuses it.
            ValueError: It is malformed: a key put twice, more than 128 operations in one list, a condition
                that cannot be asked.
        """
        ...

    def watch(self, prefix: str, *, start: Revision) -> AsyncIterator[tuple[Change, ...]]:
        """Changes from revision `start` on (inclusive), in order; a batch holds whole revisions only.

        Ends only by an exception: `StoreUnavailableError` when the connection is lost (watch again from
        the last applied revision + 1), `CompactedError` when `start` is gone.
        """
        ...

    async def grant(self, ttl_ms: int) -> int:
        """Create a lease; returns its id, > 0."""
        ...

    async def keep_alive(self, lease: int) -> None:
        """Renew a lease for its TTL. Raises LeaseNotFoundError if it is gone."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys, in one revision. Unknown leases are ignored."""
        ...

    async def close(self) -> None:
        """Release connections and files. Leases are not revoked."""
        ...


# --- Runtime ----------------------------------------------------------------------------------


class RuntimeCallError(Exception):
    """The runtime answered with an error, or could not be reached (UNAVAILABLE).

    Attributes:
        status: Its status.
        message: What it says.
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
    """What a runtime says of itself."""

    STARTING = "starting"
    READY = "ready"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """A runtime's answer to `runtimeStatus`; `control.copies.runtime_link` says whether it can be worked with."""

    state: RuntimeState
    capacity_bytes: int = 0
    default_size_bytes: int = 0
    loading_concurrency: int = 0
    load_timeout_ms: int = 0
    limits_concurrency: bool = False
    allows_any_method: bool = False
    injection_paths: tuple[tuple[str, tuple[int, ...]], ...] = ()
    version: str = ""

    @classmethod
    def said(
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
        """What a runtime says, with every number in its range; 0 stays 0, so that it can be told that it is missing."""
        return cls(
            state,
            capacity_bytes=bounds.BYTES.clamp(capacity_bytes),
            default_size_bytes=bounds.BYTES.clamp(default_size_bytes),
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
    """Answer to a load. `size_bytes` 0: unknown, measure it. `max_concurrency` None: not said; 0: no bound."""

    size_bytes: int
    max_concurrency: int | None

    @classmethod
    def said(cls, *, size_bytes: int, max_concurrency: int) -> "RuntimeLoaded":
        """What a runtime says, with every number in its range. On the wire 0 means that it says nothing of concurrency."""
        return cls(bounds.BYTES.clamp(size_bytes), bounds.concurrency(max_concurrency) if max_concurrency > 0 else None)


class Runtime(Protocol):
    """The model server beside this instance. Every call raises RuntimeCallError; cancelling it cancels the RPC."""

    async def status(self) -> RuntimeStatus:
        """Ask `runtimeStatus`. Existing runtimes drop every model when they answer: never a health probe."""
        ...

    async def answers(self) -> None:
        """Ask for a sign of life, wherever it takes loads and calls. Any answer is one, an error too.

        Raises RuntimeCallError: DEADLINE_EXCEEDED if it takes the question and does not answer, UNAVAILABLE if it cannot be
        reached.
        """
        ...

    async def load(self, source: ModelSource) -> RuntimeLoaded:
        """Load a model; no time-out of its own."""
        ...

    async def unload(self, model: ModelId) -> None:
        """Unload a model. NOT_FOUND of the runtime is success."""
        ...

    async def predict_size(self, source: ModelSource) -> int | None:
        """Predicted bytes, or None if the runtime cannot say (UNIMPLEMENTED, error, later than 500 ms).

        Raises RuntimeCallError only if the connection was lost under the call.
        """
        ...

    async def measure_size(self, model: ModelId) -> int:
        """Bytes of a loaded model; bounded by 30 s. NOT_FOUND if it is not loaded."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


# --- Peers ------------------------------------------------------------------------------------


class PeerState(enum.Enum):
    """How a peer answered EnsureLoaded."""

    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """Answer to EnsureLoaded. `refusal` is a value of `Outcome`, or "" unless REFUSED."""

    state: PeerState
    message: str = ""
    refusal: str = ""
    view: Revision | None = None


class PeerUnreachableError(Exception):
    """The peer did not answer. `begun`: the connection ended under the call, perhaps because of it."""

    def __init__(self, message: str, *, begun: bool = False) -> None:
        super().__init__(message)
        self.begun = begun


class Peers(Protocol):
    """Control calls to other instances; inference between instances goes through the data plane."""

    async def ensure_loaded(
        self,
        address: PeerAddress,
        model: ModelId,
        *,
        last_use_ms: int,
        sync: bool,
        retry: bool,
        view: Revision | None,
        timeout_ms: int,
    ) -> PeerAnswer:
        """Ask a peer to load a model; `retry`: although it failed there. Raises PeerUnreachableError."""
        ...

    async def recall(self, address: PeerAddress, model: ModelId, *, load_bytes: int, timeout_ms: int) -> Recollection:
        """Ask what a peer remembers of a model, and, above 0 bytes, what a load there would do.

        Raises PeerUnreachableError.
        """
        ...

    async def ping(self, address: PeerAddress, *, timeout_ms: int) -> InstanceId:
        """Ask who answers at an address. Raises PeerUnreachableError."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


# --- Data plane -------------------------------------------------------------------------------


class DataPlane(Protocol):
    """Moves the bytes. Calls return at once and never raise for a token or model that has gone."""

    def listen(self, receive: Callable[[Sequence[DataPlaneEvent]], None]) -> None:
        """Deliver events, in order and in batches, on the event loop's thread. Called once, before `start`."""
        ...

    def start(self) -> None:
        """Bind and begin. Raises OSError naming an address that is in use."""
        ...

    @property
    def serving_port(self) -> int | None:
        """The bound port; None if there is no serving listener."""
        ...

    @property
    def peer_port(self) -> int | None:
        """The bound port; None if there is no peer listener."""
        ...

    def set_routes(self, routes: Sequence[tuple[ModelId, Route | None]]) -> None:
        """Replace the routes of some models; None drops one. Applied in order."""
        ...

    def set_vmodels(self, vmodels: Sequence[tuple[VModelId, Naming | None]]) -> None:
        """Replace what vmodels stand for; None drops one.

        A call belongs to the same share each time it is looked up: by chance, or by the client's `mm-split-key`.
        """
        ...

    def set_peers(self, peers: Sequence[tuple[InstanceId, PeerAddress | None]]) -> None:
        """Replace addresses of instances; None closes the connections to one."""
        ...

    def set_rules(self, rules: Rules) -> None:
        """Replace which methods exist and who answers them."""
        ...

    def resolve(self, resolutions: Sequence[tuple[Token, Resolution]]) -> None:
        """Say what happens next to held requests."""
        ...

    def reply(self, token: Token, message: bytes, *, last: bool) -> None:
        """Send an answer message of a call; `last` ends it with OK."""
        ...

    def finish(
        self, token: Token, status: Status, message: str = "", trailers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """End a call with a status."""
        ...

    def end_copy(self, model: ModelId, load_id: LoadId) -> None:
        """End what still runs on a local copy, as failed attempts."""
        ...

    def is_idle(self, model: ModelId, load_id: LoadId) -> bool:
        """Whether a local copy is closed and nothing runs on it; if something does, `CopyIdle` follows."""
        ...

    def runtime_hangs(self) -> None:
        """The runtime does not answer: calls on it that can be repeated, and were not yet, end as failed attempts."""
        ...

    def usage(self) -> Sequence[Usage]:
        """Use of the routes used since the last call or in use now."""
        ...

    def held(self) -> tuple[int, int]:
        """Held requests and their bytes."""
        ...

    def thread_ages_ms(self) -> Sequence[int]:
        """Milliseconds since each thread last turned."""
        ...

    def drain(self) -> None:
        """Take no new connections and tell the open ones; running calls go on."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


# --- Clock ------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time. Two hosts' `now_ms` are never compared for correctness."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds that never go back; only differences mean anything."""
        ...

    async def sleep(self, ms: int) -> None:
        """Sleep; 0 yields once."""
        ...
