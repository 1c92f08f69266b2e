"""`NativeDataPlane`: the native core as the `DataPlane` port.

Both sides of the border have types: down go values of `modelmesh.values.dataplane`, which the core reads field by field; up
come objects of the core, of which such values are made. Events are delivered on the event loop in which `listen` was called, in batches, whenever the core's descriptor is
readable.
"""

import asyncio
import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelmesh._core import _native
from modelmesh.adapters.dataplane.events import NativeEvent, value_of
from modelmesh.values.access import Kind
from modelmesh.values.dataplane import (
    Consumption,
    DataPlaneEvent,
    Fail,
    Naming,
    Observing,
    PeerAddress,
    Rejected,
    Resolution,
    Route,
    Rules,
    TenantLimits,
    Usage,
    Verdict,
)
from modelmesh.values.ids import InstanceId, ModelId, Token, VModelId
from modelmesh.values.rollout import ModelCounts
from modelmesh.values.shadow import ShadowCounts
from modelmesh.values.status import Status

_log = logging.getLogger(__name__)

# One usage record: slot, in flight, waiting, reserved; last use (epoch ms), requests, service time (µs).
_USAGE = struct.Struct("<IIIIQQQ")
_NO_SLOT = 0xFFFF_FFFF
# Events of one batch: enough to share the cost of a wake-up, few enough to let the loop breathe.
_BATCH = 256
# Routes handed over at once: a core call copies them while it holds the interpreter lock.
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """Certificates of one listener (and, for peers, of the calls to them), PEM, the key not encrypted.

    `trusted` None: the bundled web roots. `client_auth`: none, optional or require.
    """

    certificate_chain: bytes
    private_key: bytes
    trusted: bytes | None = None
    client_auth: str = "none"


class NativeDataPlane:
    """The data plane of one instance, moved by the threads of the native core.

    All methods must be called on the event loop's thread. After `close` none of them may be called again,
    except `close`.
    """

    def __init__(
        self,
        *,
        instance: InstanceId,
        runtime: str,
        serving: str | None,
        peer: str | None,
        management: str | None = None,
        rest: str | None = None,
        rest_origins: Sequence[str] = (),
        console: bool = False,
        serving_tls: ListenerTls | None = None,
        peer_tls: ListenerTls | None = None,
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
    ) -> None:
        """Nothing is bound or connected before `start`. The native stub documents the arguments.

        Raises:
            ValueError: Certificates do not fit together.
        """
        self._core = _native.Core(
            instance=instance,
            runtime=runtime,
            serving=serving,
            peer=peer,
            management=management,
            rest=rest,
            rest_origins=rest_origins,
            console=console,
            serving_tls=_tls(serving_tls),
            peer_tls=_tls(peer_tls),
            threads=threads,
            max_message_bytes=max_message_bytes,
            max_header_bytes=max_header_bytes,
            connections_max=connections_max,
            max_connection_age_ms=max_connection_age_ms,
            max_connection_age_grace_ms=max_connection_age_grace_ms,
            memory_max=memory_max,
            held_requests_max=held_requests_max,
            held_bytes_max=held_bytes_max,
            replay_bytes_max=replay_bytes_max,
            events_max=events_max,
            multi_parallelism=multi_parallelism,
            tapped_bytes_max=tapped_bytes_max,
            shadow_bytes_max=shadow_bytes_max,
            metrics=metrics,
            metrics_per_model=metrics_per_model,
            metrics_full_names=metrics_full_names,
            metrics_models_max=metrics_models_max,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receive: Callable[[Sequence[DataPlaneEvent]], None] | None = None
        self._model_of_slot: dict[int, ModelId] = {}
        self._slot_of_model: dict[ModelId, int] = {}
        self._closed = False

    def listen(self, receive: Callable[[Sequence[DataPlaneEvent]], None]) -> None:
        """Deliver events to `receive`, on the running event loop. Called once, before `start`."""
        assert self._loop is None, "listen was called before"
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._core.event_fd, self._deliver)

    def _deliver(self) -> bool:
        # One batch a turn of the loop: while more wait, the descriptor stays readable.
        taken = self._core.events(_BATCH)
        events = [event for one in taken if (event := self._value(one)) is not None]
        if events and self._receive is not None:
            self._receive(events)
        return bool(taken)

    def _value(self, event: NativeEvent) -> DataPlaneEvent | None:
        """An event as a value. One that is none (a bug) is answered here, and takes no other with it."""
        try:
            return value_of(event)
        except Exception as error:  # noqa: BLE001 - it is logged with its traceback
            _log.exception("an event of the data plane could not be read: %s", type(event).__name__)
            if isinstance(event, _native.Missed | _native.AttemptFailed | _native.Overdue):
                fail = Fail(Status.INTERNAL, f"{type(error).__name__}: {error}")
                self._core.resolve([(event.token, fail)])
            return None

    def deliver(self) -> None:
        """Deliver all that waits, now."""
        while self._deliver():
            pass

    def start(self) -> None:
        """Bind and begin. Raises OSError naming an address that is in use."""
        self._core.start()

    @property
    def serving_port(self) -> int | None:
        """Port of the serving listener, once started."""
        return self._core.serving_port

    @property
    def management_port(self) -> int | None:
        """Port of the management listener, once started."""
        return self._core.management_port

    @property
    def peer_port(self) -> int | None:
        """Port of the peer listener, once started."""
        return self._core.peer_port

    @property
    def rest_port(self) -> int | None:
        """Port of the REST listener, once started."""
        return self._core.rest_port

    def set_routes(self, routes: Sequence[tuple[ModelId, Route | None]]) -> None:
        """Replace the routes of some models, in order; None drops one."""
        for start in range(0, len(routes), _CHUNK):
            chunk = routes[start : start + _CHUNK]
            slots = self._core.set_routes(chunk)
            for (model, _), slot in zip(chunk, slots, strict=True):
                self._remember_slot(model, slot)

    def _remember_slot(self, model: ModelId, slot: int) -> None:
        # The core gives a dropped route's slot to the next new one, which may be in the same batch.
        known = self._slot_of_model.get(model)
        if known == slot:
            return
        if known is not None:
            del self._slot_of_model[model]
            if self._model_of_slot.get(known) == model:
                del self._model_of_slot[known]
        if slot != _NO_SLOT:
            self._slot_of_model[model] = slot
            self._model_of_slot[slot] = model

    def set_vmodels(self, vmodels: Sequence[tuple[VModelId, Naming | None]]) -> None:
        """Set the models of each vmodel; None drops one."""
        self._core.set_vmodels(vmodels)

    def set_peers(self, peers: Sequence[tuple[InstanceId, PeerAddress | None]]) -> None:
        """Set the addresses of instances; None forgets one and closes its connections."""
        self._core.set_peers(peers)

    def set_runtime(self, runtime: str) -> None:
        """Give the runtime's inference endpoint again: `host:port` or `unix:///path`."""
        self._core.set_runtime(runtime)

    def set_tls(self, serving: ListenerTls | None, peer: ListenerTls | None) -> None:
        """Swap certificates for new handshakes; None leaves them as they are.

        Raises:
            ValueError: Certificates do not fit together; nothing was swapped.
        """
        self._core.set_tls(_tls(serving), _tls(peer))

    def set_rules(self, rules: Rules) -> None:
        """Set which methods exist and who answers them."""
        self._core.set_rules(rules)

    def set_access(self, tenants: Sequence[TenantLimits] | None) -> None:
        """Check credentials from now on; None: no more. Known credentials are forgotten."""
        self._core.set_access(
            None if tenants is None else [(one.name, one.calls_per_second, one.calls_at_once) for one in tenants]
        )

    def answer_asked(self, token: Token, verdict: Verdict) -> None:
        """Answer which principal has the credential. Unknown tokens are ignored."""
        if isinstance(verdict, Rejected):
            self._core.reject(token, verdict.status, verdict.message, verdict.kept)
            return
        who = verdict.identity
        rights = [
            (right.pattern, right.kind is Kind.VMODEL, [one.value for one in right.listeners])
            for right in verdict.rights
        ]
        self._core.accept(
            token, (who.name, list(who.groups), who.tenant), rights, verdict.highest.word, verdict.valid_ms
        )

    def resolve(self, resolutions: Sequence[tuple[Token, Resolution]]) -> None:
        """Resolve held requests. Unknown tokens are ignored."""
        self._core.resolve(resolutions)

    def reply(self, token: Token, message: bytes, *, last: bool) -> None:
        """Send one answer message of a call; `last` also ends it with OK."""
        self._core.reply(token, message, last)

    def finish(
        self, token: Token, status: Status, message: str = "", trailers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """End a call with a status and trailers in wire form."""
        self._core.finish(token, status, message, [*trailers])

    def end_copy(self, model: ModelId, load_id: int) -> None:
        """End what still runs on a local copy of that load; CopyIdle follows."""
        self._core.end_copy(model, load_id)

    def is_idle(self, model: ModelId, load_id: int) -> bool:
        """Whether a local copy is closed and nothing runs on it; if something does, CopyIdle follows."""
        return self._core.is_idle(model, load_id)

    def runtime_hangs(self) -> None:
        """Repeat elsewhere what can be repeated of the calls that are at the runtime."""
        self._core.runtime_hangs()

    def usage(self) -> Sequence[Usage]:
        """Use of the routes used since the last call, or with requests in flight."""
        usages = []
        for slot, in_flight, waiting, _, last_use_ms, requests, service_us in _USAGE.iter_unpack(self._core.usage()):
            model = self._model_of_slot.get(slot)
            if model is not None:
                usages.append(
                    Usage(
                        model=model,
                        last_use_ms=last_use_ms,
                        requests=requests,
                        service_us=service_us,
                        in_flight=in_flight,
                        waiting=waiting,
                    )
                )
        return usages

    def count_load(self, tenant: str, model: ModelId) -> None:
        """A model has been loaded here that a tenant registered."""
        self._core.count_load(tenant, model)

    def consumption(self) -> Sequence[Consumption]:
        """What was used here since the start."""
        return [Consumption(tenant, ModelId(model), *numbers) for tenant, model, *numbers in self._core.consumption()]

    def shadows(self) -> Sequence[tuple[VModelId, ShadowCounts]]:
        """Results of copies of calls since the start."""
        return [
            (VModelId(vmodel), ShadowCounts(ModelId(model), *counts)) for vmodel, model, counts in self._core.shadows()
        ]

    def tallies_of(self, vmodel: VModelId) -> tuple[int, Sequence[ModelCounts]] | None:
        """What was counted of the models of a vmodel."""
        found = self._core.tallies_of(vmodel)
        if found is None:
            return None
        trial, tallies = found
        return trial, [
            ModelCounts(ModelId(model), calls, failed, tuple(times)) for model, calls, failed, times in tallies
        ]

    def held(self) -> tuple[int, int]:
        """Held requests and their bytes."""
        return self._core.held()

    def busy(self) -> bool:
        """Whether calls are open: running, held, or being answered by us."""
        return self._core.open_calls() > 0

    def connected(self) -> bool:
        """Whether clients or other instances have connections open; after `drain` they close by themselves."""
        return self._core.connections() > 0

    def observe(self, observing: Observing) -> None:
        """Set what is recorded of calls beyond counters, from the next call on."""
        self._core.observe(observing)

    def metrics(self, *, open_metrics: bool = False, names: Sequence[str] = ()) -> bytes:
        """Counters and histograms in Prometheus text format, or in OpenMetrics without its end mark."""
        return self._core.metrics(open_metrics=open_metrics, names=[*names])

    def take_metrics(self) -> Sequence[tuple[str, Sequence[tuple[str, str]], Sequence[tuple[int, float]]]]:
        """Histograms since the last call: name, labels, (observations, sum) of each bucket that has any."""
        return self._core.take_metrics()

    def forget_series(self, model: ModelId) -> None:
        """Drop the series of a model that is no longer registered."""
        self._core.forget_series(model)

    def thread_ages_ms(self) -> Sequence[int]:
        """Milliseconds since each core thread last turned."""
        return self._core.thread_ages_ms()

    def drain(self) -> None:
        """Send GOAWAY on every connection and take no new ones; running calls continue."""
        self._core.drain()

    def close(self) -> None:
        """Cancel what runs and join the threads. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._core.event_fd)
            self._core.close()


def _tls(tls: ListenerTls | None) -> _native.Tls | None:
    if tls is None:
        return None
    return _native.Tls(
        certificate_chain=tls.certificate_chain,
        private_key=tls.private_key,
        trusted=tls.trusted,
        client_auth=tls.client_auth,
    )
