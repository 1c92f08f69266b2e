"""The native data plane, as Python sees it.

One object, `Core`, owns the listeners, the routing table, the upstream connections and the threads
that move bytes. No call blocks on I/O and every call releases the interpreter while it works; core
threads never take the interpreter lock. All ids are `str`; all messages are `bytes`.

Beside it `ClientConnection`: calls of the control plane itself, on the thread of its event loop. Each of its
methods takes microseconds and holds the interpreter for them. The classes for servers are declared in `_server.pyi`.

Source of the contract: the architecture notes, "The contract between core and control plane".
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, final

from modelmesh.values.dataplane import Naming, Observing, PeerAddress, Resolution, Route, Rules

BUILD_PROFILE: Final[str]
"""`release` or `debug`; a debug build warns when it is imported."""

# --- events, core → Python -------------------------------------------------------------------
# `Core.events` returns them. Only the core makes them.
@final
class Missed:
    """The request is held until `resolve`."""

    token: Final[int]
    model: Final[str]
    vmodel: Final[str | None]
    method: Final[str]
    timeout_ms: Final[int | None]
    hop: Final[Literal["hit", "load"] | None]
    tried: Final[list[str]]
    view: Final[int | None]
    balanced: Final[bool]
    priority: Final[Literal["high", "normal", "low"]]

@final
class Overdue:
    """The client of a call waits no longer for its load (`mm-wait`, or its deadline). It is held until resolved, with how the load
    stands."""

    token: Final[int]
    model: Final[str]
    vmodel: Final[str | None]
    until_deadline: Final[bool]

@final
class Wanted:
    """No copy of `model` is ready, or it failed (`failure`: the code and the message), and `fallback` answers the calls of `vmodel`
    meanwhile. Told once a second. `fallback` None: the model is the shadow of the vmodel, and copies of calls are dropped."""

    model: Final[str]
    vmodel: Final[str | None]
    fallback: Final[str | None]
    failure: Final[str | None]

@final
class AttemptFailed:
    """If `replayable` the request is held until `resolve`; `begun`: the other side may have begun the attempt."""

    token: Final[int]
    model: Final[str]
    vmodel: Final[str | None]
    instance: Final[str]
    load_id: Final[int]
    outcome: Final[str]
    """One of the words below."""
    replayable: Final[bool]
    begun: Final[bool]
    status: Final[int]
    message: Final[str]
    view: Final[int | None]
    priority: Final[Literal["high", "normal", "low"]]

@final
class Called:
    """A call of a service that Python answers has begun."""

    token: Final[int]
    port: Final[Literal["serving", "peer"]]
    listener: Final[Literal["grpc", "rest"]]
    peer_address: Final[str]
    method: Final[str]
    metadata: Final[list[tuple[str, bytes]]]
    timeout_ms: Final[int | None]
    identity: Final[tuple[str, list[str], str] | None]
    """Name, groups and tenant of the caller; None: there are no access rules."""

@final
class Asked:
    """A call has a credential that the core does not know; calls with it wait until `accept` or `reject` answers.

    A token may be empty: the call has none, and no certificate either. A certificate is DER.
    """

    token: Final[int]
    certificate: Final[bool]
    credential: Final[bytes]

@final
class CallMessage:
    """None: the caller half-closed."""

    token: Final[int]
    message: Final[bytes | None]

@final
class Cancelled:
    """The caller has gone or its deadline passed; the core has answered already."""

    token: Final[int]

@final
class CopyIdle:
    """Nothing runs any more on a local copy that was closed."""

    model: Final[str]
    load_id: Final[int]

@final
class LinkLost:
    """The own instance id stands for the local runtime."""

    instance: Final[str]

@final
class LinkBack:
    """As `LinkLost`."""

    instance: Final[str]

@final
class Tapped:
    """Bit n of `taps`: the n-th tap wants it. Messages are (compressed, bytes).

    `model` is empty for a call with several ids or an unknown vmodel. Only told: dropped and counted when the queue is not
    nearly empty.
    """

    id: Final[str]
    taps: Final[int]
    model: Final[str]
    vmodel: Final[str | None]
    method: Final[str]
    status: Final[int]
    began_ms: Final[int]
    """Epoch milliseconds."""
    duration_us: Final[int]
    request_headers: Final[list[tuple[str, bytes]]]
    response_headers: Final[list[tuple[str, bytes]]]
    request_encoding: Final[str]
    response_encoding: Final[str]
    request: Final[list[tuple[bool, bytes]]]
    response: Final[list[tuple[bool, bytes]]]

@final
class Logged:
    """`invocation`: the runtime is about to be called; else the call has ended. Only told, as `Tapped`."""

    invocation: Final[bool]
    id: Final[str]
    model: Final[str]
    vmodel: Final[str | None]
    method: Final[str]
    status: Final[int]
    message: Final[str]
    duration_us: Final[int]
    attempts: Final[int]
    request_bytes: Final[int]
    response_bytes: Final[int]
    headers: Final[list[tuple[str, bytes]]]

@final
class Span:
    """Stages are call, hold (detail: what was decided), queue (wait for a turn at the copy), hop and infer (detail: the
    instance). Times in epoch nanoseconds; `parent` 0: none."""

    stage: Final[str]
    id: Final[int]
    parent: Final[int]
    start_ns: Final[int]
    end_ns: Final[int]
    status: Final[int | None]
    detail: Final[str]

@final
class Traced:
    """A traced call has ended here. Only told, as `Tapped`."""

    trace: Final[int]
    model: Final[str]
    vmodel: Final[str | None]
    method: Final[str]
    spans: Final[list[Span]]

_Event: TypeAlias = (
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
    | Tapped
    | Logged
    | Traced
)

# --- outcomes of an attempt (`AttemptFailed`) -------------------------------------------------
NOT_HERE: Final = "not-here"
"""The copy has gone: refused by the peer (`mm-refused: not-here`), the local copy is not ready, or the
runtime answered NOT_FOUND (or Triton's or MLServer's imitation of it)."""
MOVED: Final = "moved"
"""`mm-refused: moved`: decide again once the view has reached `view`."""
BUSY: Final = "busy"
DRAINING: Final = "draining"
NO_ROOM: Final = "no-room"
LOAD_FAILED: Final = "load-failed"
"""`mm-refused: load-failed`: status and message are those of the failed load."""
STORE_AWAY: Final = "store-away"
"""`mm-refused: store-away`: the peer needs the store for the load, and the store does not answer it."""
UNAVAILABLE: Final = "unavailable"
"""The runtime answered UNAVAILABLE (locally or through a peer); the message begins with the method."""
EXHAUSTED: Final = "exhausted"
"""RESOURCE_EXHAUSTED of the runtime, or "Model queue overload" of the copy's gate."""
LOST: Final = "lost"
"""The connection was refused, lost, or reset before an answer."""
HUNG: Final = "hung"
"""The runtime or the peer does not answer: neither a ping nor, for `runtime_hangs`, what it is asked. Not said in `mm-refused`."""
ENDED: Final = "ended"
"""The copy was taken away under the request (bound of `end_copy`)."""

@final
class Tls:
    """Certificates of one listener (and, for the peer listener, of the calls to peers). PEM."""

    def __new__(
        cls, *, certificate_chain: bytes, private_key: bytes, trusted: bytes | None = None, client_auth: str = "none"
    ) -> Tls:
        """Raises ValueError if the material does not fit together. `client_auth`: none, optional, require.

        `trusted` holds the certificate authorities for client certificates (serving) or for both
        directions (peer); None: the bundled web roots. `private_key` is not encrypted.
        """

@final
class Core:
    """The data plane of one instance."""

    def __new__(
        cls,
        *,
        instance: str,
        runtime: str,
        serving: str | None,
        peer: str | None,
        management: str | None = None,
        rest: str | None = None,
        rest_origins: Sequence[str] = ...,
        console: bool = ...,
        serving_tls: Tls | None = None,
        peer_tls: Tls | None = None,
        threads: int = 0,
        max_message_bytes: int = 16_777_216,
        max_header_bytes: int = 65_536,
        connections_max: int | None = None,
        max_connection_age_ms: int | None = None,
        max_connection_age_grace_ms: int | None = None,
        memory_max: int | None = None,
        held_requests_max: int = 4096,
        held_bytes_max: int = 268_435_456,
        replay_bytes_max: int = 268_435_456,
        events_max: int = 65_536,
        multi_parallelism: int = 4,
        tapped_bytes_max: int = 67_108_864,
        shadow_bytes_max: int = 67_108_864,
        metrics: bool = True,
        metrics_per_model: bool = False,
        metrics_full_names: bool = False,
        metrics_models_max: int = 1000,
    ) -> Core:
        """Nothing is bound or connected before `start`.

        Args:
            instance: Id of this instance; stands for the local runtime in routes and link events.
            runtime: Inference endpoint of the runtime: `host:port` or `unix:///path`.
            serving: `host:port` to listen on, or None for no serving listener. Port 0: any free port.
            peer: As `serving`, for calls between instances.
            management: As `serving`, for `Rules.management_services`, with the TLS of `serving`. None: these are answered at `serving`.
            rest: As `serving`, for HTTP and JSON; TLS is that of `serving`.
            rest_origins: Pages of these origins may call there; `*`: all.
            console: The REST listener serves the console at `/console`.
            threads: Data threads; 0 = max(1, min(cores // 2, 4)).
            max_message_bytes: Largest message either way; larger is RESOURCE_EXHAUSTED before it is buffered.
            max_header_bytes: Largest request header list; larger is RESOURCE_EXHAUSTED.
            connections_max: Connections of clients; more are closed at once. None: three quarters of the
                descriptors this process may have, at most 16,384.
            memory_max: Bytes that connections of clients may make this instance hold; as many those of other instances,
                and those to the runtime and to them. None: an eighth of the memory, 64 MiB to 1 GiB.
            held_requests_max: Requests held for Python at a time; one model may take a quarter of it.
            held_bytes_max: Bytes of held requests; beyond that RESOURCE_EXHAUSTED at once. At most `memory_max`.
            replay_bytes_max: Bytes of replay copies in all; a call beyond that is not replayed. At most `memory_max`.
            events_max: Bound of the event queue. A miss that finds it full is RESOURCE_EXHAUSTED.
            tapped_bytes_max: Bytes of payloads that wait for `events`; calls beyond that are not told.
            shadow_bytes_max: Bytes that copies of calls for shadows of vmodels hold; beyond that they are dropped. At most
                `memory_max`.
            metrics: Whether calls are counted.
            metrics_per_model: Labels `modelId` and `vModelId`.
            metrics_full_names: The label `method` is `package.Service/Method`, else the part after the slash.
            metrics_models_max: Models with series of their own; the others share one label.
        """
    def start(self) -> None:
        """Bind the listeners and start the threads.

        Raises:
            OSError: An address is in use or not ours; the message names it.
        """
    @property
    def event_fd(self) -> int:
        """Readable when `events` has something (an eventfd; `events` resets it)."""
    @property
    def serving_port(self) -> int | None: ...
    @property
    def management_port(self) -> int | None: ...
    @property
    def peer_port(self) -> int | None: ...
    @property
    def rest_port(self) -> int | None: ...
    def events(self, most: int = 256) -> list[_Event]:
        """Take up to `most` events. If more are waiting the descriptor stays readable.

        For `Tapped`, `Logged` and `Traced` alone it becomes readable within a quarter of a second."""
    # What is given is read field by field. AttributeError, TypeError or OverflowError names a field that is missing, of another
    # type or out of range, and then nothing of the whole is done.
    def set_routes(self, routes: Sequence[tuple[str, Route | None]]) -> list[int]:
        """Replace the routes of some models; returns each model's slot (0xFFFFFFFF for a dropped one).

        Applied in order. Counters of a copy that stays (same load id) go on. A local copy that turns from ready to not ready,
        or whose route is set not ready while requests run, gives `CopyIdle` once nothing runs on it.
        """
    def set_vmodels(self, vmodels: Sequence[tuple[str, Naming | None]]) -> None:
        """Say what vmodels stand for. None: forget it.

        With a choice a call is drawn by chance, or by the client's `mm-split-key`: the same key, the same model.
        """
    def set_peers(self, peers: Sequence[tuple[str, PeerAddress | None]]) -> None:
        """Say where instances are. None: forget it and close its connections."""
    def set_runtime(self, runtime: str) -> None: ...
    def set_tls(self, serving: Tls | None, peer: Tls | None) -> None:
        """Swap certificates: new handshakes use them, open connections go on. None: leave as it is."""
    def set_rules(self, rules: Rules) -> None:
        """Which methods exist. Refused ones answer UNIMPLEMENTED before any routing."""
    def set_access(self, tenants: Sequence[tuple[str, float | None, int | None]] | None) -> None:
        """(Name, calls a second, calls at once) of each tenant. From now on calls of clients need a credential; None: they need
        none any more. What is known of credentials is forgotten. ValueError for a rate that is not above 0."""
    def accept(
        self,
        token: int,
        identity: tuple[str, list[str], str],
        rights: Sequence[tuple[str, bool, list[str]]],
        highest: str,
        valid_ms: int | None,
    ) -> bool:
        """Answer `Asked`: name, groups and tenant; (pattern, whether of vmodels, listeners) to infer with; the highest class that
        its calls may have; how long that holds (None: until `set_access`). False for a token that has gone; ValueError for an
        unknown listener or class."""
    def reject(self, token: int, status: int, message: str, kept: bool) -> bool:
        """Answer `Asked`: no principal has the credential. `kept`: for seconds without asking again."""
    def resolve(self, resolutions: Sequence[tuple[int, Resolution]]) -> list[bool]:
        """What happens next to held requests; False for a token that has gone. ValueError for trailers that cannot be sent."""
    def reply(self, token: int, message: bytes, last: bool) -> bool:
        """Send one answer message of a `Called` call; `last` also ends it with status OK."""
    def finish(self, token: int, status: int, message: str, trailers: list[tuple[str, bytes]]) -> bool: ...
    def end_copy(self, model: str, load_id: int) -> None:
        """End what still runs on a local copy: each request becomes a failed attempt (`ended`), or
        UNAVAILABLE to its client where it cannot be replayed. `CopyIdle` follows."""
    def is_idle(self, model: str, load_id: int) -> bool:
        """Whether a local copy is closed and nothing runs on it. If something does, `CopyIdle` follows."""
    def runtime_hangs(self) -> None:
        """The runtime does not answer: requests on local copies that can be repeated, and were not yet, become failed
        attempts (`hung`). The others stay where they are."""
    def usage(self) -> bytes:
        """Routes used since the last call or with requests in flight, packed little-endian:
        slot u32, in_flight u32, waiting u32, reserved u32, last_use_ms u64 (epoch), requests u64
        (since the last call), service_us u64 (summed, since the last call): 40 bytes each.
        Counts only what the local copy served; a route used only through peers has requests = 0."""
    def held(self) -> tuple[int, int]:
        """(held requests, held bytes): zero when nothing waits; for tests and metrics."""
    def open_calls(self) -> int:
        """Calls that are open: running, held, or being answered by Python."""
    def connections(self) -> int:
        """Open connections of clients and of other instances."""
    def observe(self, observing: Observing) -> None:
        """What is noted down of calls beyond counters, from the next call on. At most 64 taps (ValueError)."""
    def metrics(self, *, open_metrics: bool = False, names: list[str] = ...) -> bytes:
        """Counters and histograms in Prometheus text format (0.0.4), or OpenMetrics without its end mark.
        `names`: only the families of these names, if there are any."""
    def take_metrics(self) -> list[tuple[str, list[tuple[str, str]], list[tuple[int, float]]]]:
        """Histograms since the last call: (name, labels, [(observations, sum) of each bucket that has any]).
        They are forgotten here, so this and `metrics` exclude each other."""
    def forget_series(self, model: str) -> None:
        """The model is no longer registered: its series go."""
    def count_load(self, tenant: str, model: str) -> None:
        """A model has been loaded here that the tenant registered ("": none)."""
    def consumption(self) -> list[tuple[str, str, int, int, int, int, int]]:
        """Since the core began, for each tenant and model: (tenant, model, calls that ended, those of them that did not end well,
        how long they took in µs, bytes of their messages, loads). What is beyond the bound of 4,096 is told of the model `(other)`, and so is
        what was used of a model before `forget_series`."""
    def shadows(self) -> list[tuple[str, str, list[int]]]:
        """Since the core began, for each vmodel and the model that was to get copies of its calls: (vmodel, model, how many copies
        ended so): answered, equal, different, failed, cold, dropped, stream. At most 4,096 are told apart; `forget_series` ends one."""
    def tallies_of(self, vmodel: str) -> tuple[int, list[tuple[str, int, int, list[int]]]] | None:
        """What was counted of the models of a vmodel since its `trial` has this id: (id, [(model, calls of clients that ended, those of
        them that did not end well, how many of the others took how long)]). Calls that were given up do not count, nor do those that
        chose a version. `modelmesh.values.rollout` has the bounds of the times. None: nothing is counted."""
    def thread_ages_ms(self) -> list[int]:
        """Milliseconds since each core thread last turned; for `/live`."""
    def drain(self) -> None:
        """Send GOAWAY on every connection and take no new ones; running calls go on."""
    def close(self) -> None:
        """Stop: cancel what runs, join the threads. Idempotent."""

@final
class ClientTls:
    """What a connection of the control plane needs to speak TLS. PEM."""

    def __new__(
        cls, *, trusted: bytes | None = None, certificate_chain: bytes | None = None, private_key: bytes | None = None
    ) -> ClientTls:
        """Raises ValueError if the material does not fit together.

        `trusted`: certificate authorities, or the server's own certificate; None: the bundled web roots.
        The chain and its key: who we are, for servers that ask; both or none.
        """

@final
class ClientConnection:
    """The client's side of one gRPC connection, without a socket.

    Whoever has the socket hands in what it read (`receive`), and sends what `take` has after each other call.
    """

    def __new__(
        cls, *, authority: str, max_message_bytes: int, tls: ClientTls | None = None, tls_name: str = ""
    ) -> ClientConnection:
        """Raises ValueError if a name cannot be one. `tls_name` is the name in the server's certificate."""
    def open(self, path: str, metadata: list[tuple[str, str]], timeout_ms: int | None) -> int:
        """Begin a call; returns its id. `metadata` in wire form (`-bin` values in base64).

        Raises:
            ConnectionError: Nothing was sent: the connection has ended, or the server lets it end.
            ValueError: Path or metadata cannot be sent.
        """
    def send(self, call: int, message: bytes, last: bool) -> None:
        """Send a message; `last` ends the request. Nothing happens if the call has ended."""
    def next(self, call: int) -> bytes | tuple[int, str, bool] | None:
        """The next message of a call, or how it ended: (status, message, nothing of it was processed). After
        that the call is forgotten. None: nothing yet, and `receive` names the call once there is."""
    def cancel(self, call: int) -> None:
        """End a call and forget it."""
    def receive(self, data: bytes) -> list[int]:
        """Take in what came; returns the calls about which there is news."""
    def lost(self, why: str) -> list[int]:
        """The socket has been closed or broke. `next` has what came before, then UNAVAILABLE with `why`."""
    def close(self, why: str) -> list[int]:
        """End all calls, UNAVAILABLE with `why`, and the connection; `take` has the last bytes."""
    def take(self) -> bytes:
        """What is to be sent now."""
    def ping(self) -> None:
        """Ask the server whether it is there. Whatever comes from it is an answer."""
    @property
    def answered(self) -> int:
        """Frames of answers that have come. While it stands still the server serves nothing, whatever else it says."""
    @property
    def held_bytes(self) -> int:
        """What the connection holds: answers that were not asked for yet, and what waits for the server to read."""
    @property
    def is_settled(self) -> bool:
        """Whether the server has said that it speaks HTTP/2."""
    @property
    def takes_calls(self) -> bool:
        """Whether calls can be begun: it has not ended, and the server does not let it end."""
    @property
    def failure(self) -> str | None:
        """Why the connection has ended; None: it has not."""

def choose_copy(loads: list[int], draws: tuple[int, int]) -> int:
    """Index of the copy that gets a request: the less loaded of two drawn ones.

    Args:
        loads: Requests in flight per copy, not empty.
        draws: Two uniform 32-bit numbers. First = draws[0] % n; second = draws[1] % (n - 1), one more
            if it is not below the first. On equal load the first wins. One copy: 0.
    """
