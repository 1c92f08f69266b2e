"""Values that the data plane and the control plane exchange.

Down: routes and resolutions. Up: events, in the past tense. The native stub
(`modelmesh/_core/_native.pyi`) documents what the core makes of it.
"""

import enum
from dataclasses import dataclass

from modelmesh.values import legacy
from modelmesh.values.access import Identity, InferRight, Listener
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision, Token, VModelId
from modelmesh.values.priority import Priority
from modelmesh.values.shadow import Shadow
from modelmesh.values.status import Status


class Hop(enum.Enum):
    """What the sender of a forwarded request expects (`mm-hop`)."""

    HIT = "hit"
    LOAD = "load"


class Outcome(enum.Enum):
    """How an attempt ended that another copy may cure. Also the values of `mm-refused`.

    A word that only later versions know: not here and now, for whatever reason; another instance may.
    """

    NOT_HERE = "not-here"
    MOVED = "moved"
    BUSY = "busy"
    DRAINING = "draining"
    NO_ROOM = "no-room"
    LOAD_FAILED = "load-failed"
    STORE_AWAY = "store-away"
    UNAVAILABLE = "unavailable"
    EXHAUSTED = "exhausted"
    LOST = "lost"
    HUNG = "hung"
    ENDED = "ended"

    @classmethod
    def _missing_(cls, value: object) -> "Outcome | None":
        return cls.BUSY if isinstance(value, str) else None


# --- down -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Naming:
    """The models of a vmodel: `active`, and in `split` other models with their percent of the calls.

    A call may choose another: by a label, or by the id of one of its models. `target` None: the vmodel does not move. `fallback`
    answers while no copy of the wanted model is ready; None: no model does. `shadow` gets copies of calls.
    `trial`: how `active` and the models of `split` answer is counted, and goes on as long as this id is the same; None: it is not.
    """

    active: ModelId
    split: tuple[tuple[ModelId, int], ...] = ()
    target: ModelId | None = None
    labels: tuple[tuple[str, ModelId], ...] = ()
    kept: tuple[ModelId, ...] = ()
    fallback: ModelId | None = None
    shadow: Shadow | None = None
    trial: int | None = None


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """The copy at this instance. Bounds: 0 means none."""

    load_id: LoadId
    ready: bool
    max_concurrency: int = 0
    max_waiting: int = 0


@dataclass(frozen=True, slots=True)
class RemoteCopy:
    """A ready copy elsewhere."""

    instance: InstanceId
    load_id: LoadId


@dataclass(frozen=True, slots=True)
class Route:
    """Where calls for a model may go."""

    local: LocalCopy | None
    remote: tuple[RemoteCopy, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where an instance's peer port is; `tls_name` is the name its certificate must carry."""

    address: str
    tls_name: str | None = None


@dataclass(frozen=True, slots=True)
class Serve:
    """The local copy serves the request."""


@dataclass(frozen=True, slots=True)
class Reroute:
    """Look in the routing table again, as if the request had just come."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request to another instance."""

    instance: InstanceId
    hop: Hop
    tried: tuple[InstanceId, ...] = ()
    view: Revision | None = None


@dataclass(frozen=True, slots=True)
class ReturnAnswer:
    """The client gets the failed attempt's own answer, whole."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The client gets this status; `trailers` in wire form."""

    status: Status
    message: str
    trailers: tuple[tuple[str, bytes], ...] = ()


Resolution = Serve | Reroute | Forward | ReturnAnswer | Fail


@dataclass(frozen=True, slots=True)
class MethodRule:
    """Rules of one method; paths are field numbers, empty meaning none.

    `header_first`: a header that names a model wins over the message, which is then not looked into. `version_field`: where messages
    have a version of a vmodel; 0: nowhere. `ours`: Python answers it on the serving port, though its service is that of models.
    """

    method: str
    extraction_path: tuple[int, ...] = ()
    extracts_vmodel: bool = False
    header_first: bool = False
    injection_path: tuple[int, ...] = ()
    version_field: int = 0
    idempotent: bool = True
    ours: bool = False


OPEN_METHODS = (
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "inference.GRPCInferenceService/ServerLive",
    "inference.GRPCInferenceService/ServerReady",
)
"""That take no credential, whatever the access rules: those who watch a process have none."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which methods exist, who answers them, and which need no credential.

    `management_services` are those of `serving_services` that are answered at the management listener only.
    """

    serving_services: tuple[str, ...]
    peer_services: tuple[str, ...]
    methods: tuple[MethodRule, ...] = ()
    allow_others: bool = True
    forbidden_services: tuple[str, ...] = ("mmesh.ModelRuntime", legacy.RUNTIME_SERVICE)
    open_methods: tuple[str, ...] = OPEN_METHODS
    management_services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may use of calls at this instance; None: as much as there is."""

    name: str
    calls_per_second: float | None = None
    calls_at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Whose credential it is, with what they may infer, and the highest class that their calls may have.

    `valid_ms` None: until the access rules change.
    """

    identity: Identity
    rights: tuple[InferRight, ...] = ()
    highest: Priority = Priority.NORMAL
    valid_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """No principal has the credential. `kept`: the core refuses it for some seconds without asking again."""

    status: Status
    message: str
    kept: bool = True


Verdict = Accepted | Rejected


@dataclass(frozen=True, slots=True)
class Usage:
    """Use of one route since the last look. Times in epoch milliseconds and microseconds."""

    model: ModelId
    last_use_ms: int
    requests: int
    service_us: int
    in_flight: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Consumption:
    """What a tenant has used of a model at one instance since that started; the tenant "": calls without one.

    Calls are counted under the tenant that calls, loads under the tenant that registered the model. `call_us`: how long
    the calls took together, in microseconds; `size`: bytes of the messages of requests and answers.
    """

    tenant: str
    model: ModelId
    calls: int = 0
    failed: int = 0
    call_us: int = 0
    size: int = 0
    loads: int = 0


@dataclass(frozen=True, slots=True)
class Tap:
    """Calls whose payloads are wanted; None: any. `method`: a full name, or the part after the slash."""

    model: ModelId | None = None
    vmodel: VModelId | None = None
    method: str | None = None
    fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class Observing:
    """What is noted down of calls beyond counters. `traced`: share of the calls that come without a trace."""

    taps: tuple[Tap, ...] = ()
    tap_headers: frozenset[str] | None = None
    tap_secrets: frozenset[str] = frozenset()
    traced: float | None = None
    log_failed: bool = False
    log_all: bool = False
    log_invocations: bool = False
    log_headers: tuple[str, ...] = ()


# --- up ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missed:
    """A request found no route, or names an unknown vmodel; it is held until resolved.

    `hop` is None at the ingress. `model` is empty iff `vmodel` is unknown.
    """

    token: Token
    model: ModelId
    vmodel: VModelId | None
    method: str
    timeout_ms: int | None
    hop: Hop | None
    tried: tuple[InstanceId, ...]
    view: Revision | None
    balanced: bool
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt ended in something another copy may cure. Held until resolved iff `replayable`.

    `begun`: the other side may have begun it; with LOST the runtime or the instance may have ended because of it.
    """

    token: Token
    model: ModelId
    vmodel: VModelId | None
    instance: InstanceId
    load_id: LoadId
    outcome: Outcome
    replayable: bool
    status: Status
    message: str
    view: Revision | None = None
    begun: bool = False
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class Overdue:
    """The client of a call stops waiting for its load. The call is held until it is resolved with the state of the load.

    `model` is empty iff `vmodel` is unknown. `until_deadline`: the deadline of the call is near; else its client said how long it
    waits for a load.
    """

    token: Token
    model: ModelId
    vmodel: VModelId | None
    until_deadline: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """No copy of a model is ready, or it failed, and the fallback of a vmodel answers its calls meanwhile. Reported once a second.

    `fallback` None: the model is the shadow of the vmodel, and the copies of calls that it was to get are dropped. `failure`: what
    the model ended a call with, a status code and a message; None: no copy of it was ready.
    """

    model: ModelId
    vmodel: VModelId
    fallback: ModelId | None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Called:
    """A call of a service that Python answers began. `identity` None: there are no access rules."""

    token: Token
    port: str
    peer_address: str
    method: str
    metadata: tuple[tuple[str, bytes], ...]
    timeout_ms: int | None
    listener: Listener = Listener.GRPC
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A call has a credential that the data plane does not know.

    `certificate`: it is one (DER); else it is an API key or a token, and empty if there is no credential at all.
    """

    token: Token
    certificate: bool
    credential: bytes


@dataclass(frozen=True, slots=True)
class CallMessage:
    """A message of such a call; None: the caller half-closed."""

    token: Token
    message: bytes | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client of a held or called request has ended it, or its deadline passed; it has been answered."""

    token: Token


@dataclass(frozen=True, slots=True)
class CopyIdle:
    """A local copy that was made not ready has no request in flight."""

    model: ModelId
    load_id: LoadId


@dataclass(frozen=True, slots=True)
class LinkLost:
    """An instance cannot be reached; the own id means the local runtime."""

    instance: InstanceId


@dataclass(frozen=True, slots=True)
class LinkBack:
    """It can be reached again."""

    instance: InstanceId


Headers = tuple[tuple[str, bytes], ...]
"""Names and values as on the wire (`-bin` values in base64)."""


@dataclass(frozen=True, slots=True)
class Tapped:
    """Payloads of a call that has ended. `model` is empty for a call with several ids or an unknown vmodel.

    Bit n of `taps` is set if the n-th tap wants it; messages are (compressed, bytes).
    """

    id: str
    taps: int
    model: ModelId
    vmodel: VModelId | None
    method: str
    status: Status
    began_ms: int
    duration_us: int
    request_headers: Headers
    response_headers: Headers
    request_encoding: str
    response_encoding: str
    request: tuple[tuple[bool, bytes], ...]
    response: tuple[tuple[bool, bytes], ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all messages."""
        return sum(len(message) for _, message in (*self.request, *self.response))


@dataclass(frozen=True, slots=True)
class Logged:
    """A call to be logged: it has ended, or (`invocation`) the runtime is about to be called."""

    invocation: bool
    id: str
    model: ModelId
    vmodel: VModelId | None
    method: str
    status: Status
    message: str
    duration_us: int
    attempts: int
    request_bytes: int
    response_bytes: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Span:
    """A stage of a traced call: call, hold, queue, hop or infer. `parent` 0: none; times in epoch nanoseconds."""

    stage: str
    id: int
    parent: int
    start_ns: int
    end_ns: int
    status: Status | None
    detail: str


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced call has ended here; `trace` is its trace id."""

    trace: int
    model: ModelId
    vmodel: VModelId | None
    method: str
    spans: tuple[Span, ...]


Observation = Tapped | Logged | Traced
"""Events without a waiting call: dropped and counted if there are too many."""

DataPlaneEvent = (
    Missed
    | AttemptFailed
    | Overdue
    | Wanted
    | Called
    | Asked
    | CallMessage
    | Cancelled
    | CopyIdle
    | LinkLost
    | LinkBack
    | Observation
)
