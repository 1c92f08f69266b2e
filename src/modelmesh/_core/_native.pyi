"""The native data plane, as Python sees it.

One object, `Core`, owns the listeners, the routing table, the upstream connections and the threads
that move bytes. No call blocks on I/O and every call releases the interpreter while it works; core
threads never take the interpreter lock. All ids are `str`; all messages are `bytes`.

Beside it `ClientConnection`: calls of the control plane itself, on the thread of its event loop. Each of its
methods takes microseconds and holds the interpreter for them.

Source of the contract: the architecture notes, "The contract between core and control plane".
"""

from typing import Final, final

BUILD_PROFILE: Final[str]
"""`release` or `debug`; a debug build warns when it is imported."""

# --- events, core → Python -------------------------------------------------------------------
# `Core.events` returns tuples whose first element is one of these.
MISSED: Final = 0
"""(MISSED, token, model, vmodel | None, method, timeout_ms | None, hop | None, tried: list[str],
view | None, balanced). The request is held until `resolve`."""
ATTEMPT_FAILED: Final = 1
"""(ATTEMPT_FAILED, token, model, vmodel | None, instance, load_id, outcome, replayable, begun,
status, message, view | None). If `replayable` the request is held until `resolve`; `begun`: the other side may have
begun the attempt."""
CALLED: Final = 2
"""(CALLED, token, listener: "serving" | "peer", peer_address, method, metadata: list[tuple[str, bytes]],
timeout_ms | None)."""
CALL_MESSAGE: Final = 3
"""(CALL_MESSAGE, token, message | None). None: the caller half-closed."""
CANCELLED: Final = 4
"""(CANCELLED, token). The caller has gone or its deadline passed; the core has answered already."""
COPY_IDLE: Final = 5
"""(COPY_IDLE, model, load_id)."""
LINK_LOST: Final = 6
"""(LINK_LOST, instance). The own instance id stands for the local runtime."""
LINK_BACK: Final = 7
"""(LINK_BACK, instance)."""
TAPPED: Final = 8
"""(TAPPED, id, taps, model, vmodel | None, method, status, began_ms (epoch), duration_us,
request headers: list[tuple[str, bytes]], response headers, request encoding, response encoding,
request messages: list[tuple[compressed, bytes]], response messages). Bit n of `taps`: the n-th tap wants it.
`model` is empty for a call with several ids or an unknown vmodel. Only told: dropped and counted when the
queue is not nearly empty."""
LOGGED: Final = 9
"""(LOGGED, invocation, id, model, vmodel | None, method, status, message, duration_us, attempts, request_bytes,
response_bytes, headers: list[tuple[str, bytes]]). `invocation`: the runtime is about to be called; else the call
has ended. Only told, as TAPPED."""
TRACED: Final = 10
"""(TRACED, trace id in hex, model, vmodel | None, method, spans). A span is (stage, id, parent, start_ns, end_ns
(epoch), status | None, detail); stages are call, hold (detail: what was decided), queue (wait for a turn at the
copy), hop and infer (detail: the instance). Only told, as TAPPED."""

# --- outcomes of an attempt (ATTEMPT_FAILED) ---------------------------------------------------
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
    def peer_port(self) -> int | None: ...
    def events(self, most: int = 256) -> list[tuple[object, ...]]:
        """Take up to `most` events. If more are waiting the descriptor stays readable.

        For TAPPED, LOGGED and TRACED alone it becomes readable within a quarter of a second."""
    def set_routes(
        self,
        routes: list[tuple[str, tuple[tuple[bool, int, int, int] | None, list[tuple[str, int]]] | None]],
    ) -> list[int]:
        """Replace the routes of some models; returns each model's slot (0xFFFFFFFF for a dropped one).

        A route is (local copy | None, [(instance, load_id) of each ready remote copy]); a local copy is
        (ready, load_id, max_concurrency, max_waiting), 0 meaning no bound. Applied in order. Counters of
        a copy that stays (same load id) go on. A local copy that turns from ready to not ready, or whose
        route is set not ready while requests run, gives COPY_IDLE once nothing runs on it.
        """
    def set_vmodels(self, vmodels: list[tuple[str, tuple[str, list[tuple[str, int]]] | None]]) -> None:
        """(vmodel, (active model, [(model, percent of the calls that it gets instead)]) | None). None: forget it.

        With a choice a call is drawn by chance, or by the client's `mm-split-key`: the same key, the same model.
        """
    def set_peers(self, peers: list[tuple[str, tuple[str, str | None] | None]]) -> None:
        """(instance, (address, TLS name | None) | None). None: forget it and close its connections."""
    def set_runtime(self, runtime: str) -> None: ...
    def set_tls(self, serving: Tls | None, peer: Tls | None) -> None:
        """Swap certificates: new handshakes use them, open connections go on. None: leave as it is."""
    def set_rules(
        self,
        *,
        serving_services: list[str],
        peer_services: list[str],
        methods: list[tuple[str, list[int], bool, list[int], bool, bool]],
        allow_others: bool,
        forbidden_services: list[str],
    ) -> None:
        """Which methods exist.

        Args:
            serving_services: Full names of the services Python answers on the serving port.
            peer_services: The same for the peer port.
            methods: (full method without leading slash, id extraction path, extracted id is a vmodel's,
                id injection path, idempotent, answered by Python on the serving port). Empty paths: none.
            allow_others: Whether inference methods not listed are allowed. Refused ones answer
                UNIMPLEMENTED before any routing.
            forbidden_services: Services that are never inference (`mmesh.ModelRuntime`).
        """
    def resolve(self, resolutions: list[tuple[int, tuple[object, ...]]]) -> list[bool]:
        """What happens next to held requests; False for a token that has gone. A resolution is one of

        ("serve",) - by the local copy, as if it had been a hit there;
        ("route",) - look in the routing table again, as if it had just come;
        ("forward", instance, "hit" | "load", tried: list[str], view: int | None);
        ("return",) - the client gets the failed attempt's own answer, whole;
        ("fail", status: int, message: str, trailers: list[tuple[str, bytes]]).
        """
    def reply(self, token: int, message: bytes, last: bool) -> bool:
        """Send one answer message of a `CALLED` call; `last` also ends it with status OK."""
    def finish(self, token: int, status: int, message: str, trailers: list[tuple[str, bytes]]) -> bool: ...
    def end_copy(self, model: str, load_id: int) -> None:
        """End what still runs on a local copy: each request becomes a failed attempt (`ended`), or
        UNAVAILABLE to its client where it cannot be replayed. COPY_IDLE follows."""
    def is_idle(self, model: str, load_id: int) -> bool:
        """Whether a local copy is closed and nothing runs on it. If something does, COPY_IDLE follows."""
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
    def observe(
        self,
        *,
        taps: list[tuple[str | None, str | None, str | None, float]],
        tap_headers: set[str] | None,
        tap_secrets: set[str],
        traced: float | None,
        log_failed: bool,
        log_all: bool,
        log_invocations: bool,
        log_headers: list[str],
    ) -> None:
        """What is noted down of calls beyond counters, from the next call on.

        Args:
            taps: (model, vmodel, method, fraction) of the calls whose payloads are wanted, at the ingress; None:
                any. A method is a full name or the part after the slash. At most 64.
            tap_headers: Names of headers that go with payloads; None: all.
            tap_secrets: Names of headers that never do.
            traced: Share of the calls without `traceparent` that are traced; those with one do as it says. None: off.
            log_failed: Tell of calls that failed (at most some 100 a second).
            log_all: Tell of every call.
            log_invocations: Tell of every call to the local runtime.
            log_headers: Names of headers that go with log lines.
        """
    def metrics(self, *, open_metrics: bool = False, names: list[str] = ...) -> bytes:
        """Counters and histograms in Prometheus text format (0.0.4), or OpenMetrics without its end mark.
        `names`: only the families of these names, if there are any."""
    def take_metrics(self) -> list[tuple[str, list[tuple[str, str]], list[tuple[int, float]]]]:
        """Histograms since the last call: (name, labels, [(observations, sum) of each bucket that has any]).
        They are forgotten here, so this and `metrics` exclude each other."""
    def forget_series(self, model: str) -> None:
        """The model is no longer registered: its series go."""
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
