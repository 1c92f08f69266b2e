"""`ports.Peers` over gRPC: `modelmesh.v1.Peer` at other instances' peer ports."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from modelmesh._proto import admin_pb2 as admin
from modelmesh._proto import peer_pb2 as pb
from modelmesh.adapters.channel import CallError, Channel, ClientTls, Target
from modelmesh.ports import PeerAnswer, PeerState, PeerUnreachableError
from modelmesh.values import bounds
from modelmesh.values.dataplane import Consumption, PeerAddress
from modelmesh.values.events import Event
from modelmesh.values.explanation import ModelHistory, Rehearsal, RehearsedVictim
from modelmesh.values.ids import InstanceId, ModelId, Revision, VModelId
from modelmesh.values.memory import Memory
from modelmesh.values.rollout import BUCKETS, ModelCounts
from modelmesh.values.shadow import ShadowCounts
from modelmesh.values.vmodel_counts import VModelCounts

CHANNELS = 64
"""Peers with an open connection for control calls; the one unused longest is closed beyond that."""

IDLE_S = 60.0
"""A connection that no call has used for so long is closed: its peer may have removed permanently."""

_STATES = {
    pb.EnsureLoadedResponse.LOADING: PeerState.LOADING,
    pb.EnsureLoadedResponse.LOADED: PeerState.LOADED,
    pb.EnsureLoadedResponse.FAILED: PeerState.FAILED,
    pb.EnsureLoadedResponse.REFUSED: PeerState.REFUSED,
}

Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class PeerCertificates:
    """PEM material for mutual TLS between instances."""

    trusted: bytes | None
    private_key: bytes
    certificate_chain: bytes


@dataclass(slots=True, eq=False)
class _Connection:
    """A channel, and how many calls run on it: a retired one is closed when none does."""

    channel: Channel
    used_s: float
    """When a call last used it, by the event loop's clock."""
    calls: int = 0


class GrpcPeers:
    """Implements `ports.Peers`. `certificates` None: clear text."""

    def __init__(self, certificates: PeerCertificates | None = None) -> None:
        self._tls = None if certificates is None else _tls(certificates)
        self._connections: OrderedDict[PeerAddress, _Connection] = OrderedDict()
        self._retired: list[_Connection] = []
        self._sweeping: asyncio.Task[None] | None = None

    def set_certificates(self, certificates: PeerCertificates) -> None:
        """Use these for new connections; calls that run end on the connections they have."""
        self._tls = _tls(certificates)
        while self._connections:
            self._retired.append(self._connections.popitem()[1])

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
        """Ask a peer to load a model."""
        request = pb.EnsureLoadedRequest(
            model_id=model, last_use_ms=last_use_ms, sync=sync, view=view or 0, retry=retry
        )
        answer = await self._call(address, "EnsureLoaded", request, pb.EnsureLoadedResponse, timeout_ms)
        return peer_answer(answer)

    async def recall(self, address: PeerAddress, model: ModelId, *, load: Memory, timeout_ms: int) -> ModelHistory:
        """Ask what a peer remembers of a model."""
        request = pb.RecallRequest(model_id=model, load_bytes=load.bytes)
        answer = await self._call(address, "Recall", request, pb.RecallResponse, timeout_ms)
        return model_history(answer, asked=bool(load))

    async def count_usage(self, address: PeerAddress, *, timeout_ms: int) -> tuple[Sequence[Consumption], int]:
        """Ask what was used at a peer."""
        answer = await self._call(address, "CountUsage", pb.CountUsageRequest(), pb.CountUsageResponse, timeout_ms)
        return peer_usage(answer)

    async def count_vmodel(self, address: PeerAddress, vmodel: VModelId, *, timeout_ms: int) -> VModelCounts:
        """Ask what was counted at a peer of the calls of a vmodel."""
        request = admin.CountVModelRequest(vmodel_id=vmodel)
        return peer_counts(await self._call(address, "CountVModel", request, admin.CountVModelResponse, timeout_ms))

    async def ping(self, address: PeerAddress, *, timeout_ms: int) -> InstanceId:
        """Ask who answers at an address."""
        answer = await self._call(address, "Ping", pb.PingRequest(), pb.PingResponse, timeout_ms)
        return InstanceId(answer.instance_id)

    async def close(self) -> None:
        """Close all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in (*self._connections.values(), *self._retired):
            await connection.channel.close()
        self._connections.clear()
        self._retired.clear()

    async def _call(
        self, address: PeerAddress, name: str, request: Message, kind: type[Answer], timeout_ms: int
    ) -> Answer:
        connection = self._connection(address)
        connection.calls += 1
        try:
            data = await connection.channel.unary(
                f"/modelmesh.v1.Peer/{name}", request.SerializeToString(), timeout_s=timeout_ms / 1000
            )
            return kind.FromString(data)
        except (CallError, DecodeError) as error:
            message = f"the instance at {address.address} did not answer {name}: {error}"
            raise PeerUnreachableError(message, begun=isinstance(error, CallError) and error.lost) from error
        finally:
            connection.calls -= 1
            connection.used_s = asyncio.get_running_loop().time()
            await self._close_retired()

    async def _sweep(self) -> None:
        """Close unused connections, until none is open."""
        loop = asyncio.get_running_loop()
        while self._connections:
            await asyncio.sleep(IDLE_S / 2)
            idle = [
                address
                for address, connection in self._connections.items()
                if connection.calls == 0 and loop.time() - connection.used_s >= IDLE_S
            ]
            self._retired += [self._connections.pop(address) for address in idle]
            await self._close_retired()

    async def _close_retired(self) -> None:
        for connection in [one for one in self._retired if one.calls == 0]:
            if connection in self._retired:  # another call may have closed it meanwhile
                self._retired.remove(connection)
                await connection.channel.close()

    def _connection(self, address: PeerAddress) -> _Connection:
        connection = self._connections.get(address)
        if connection is not None:
            self._connections.move_to_end(address)
            return connection
        channel = Channel(Target(address.address, address.address, self._tls, address.tls_name or ""))
        connection = self._connections[address] = _Connection(channel, asyncio.get_running_loop().time())
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep(), name="close idle connections to peers")
        if len(self._connections) > CHANNELS:
            self._retired.append(self._connections.popitem(last=False)[1])
        return connection


def _tls(certificates: PeerCertificates) -> ClientTls:
    return ClientTls(
        trusted=certificates.trusted,
        certificate_chain=certificates.certificate_chain,
        private_key=certificates.private_key,
    )


def peer_answer(answer: pb.EnsureLoadedResponse) -> PeerAnswer:
    """The wire form as a value; a state from the future counts as a refusal."""
    return PeerAnswer(
        state=_STATES.get(answer.state, PeerState.REFUSED),
        message=answer.message,
        refusal=answer.refusal or "busy",
        view=Revision(bounds.REVISION.clamp(answer.view)) if answer.view else None,
    )


def peer_usage(answer: pb.CountUsageResponse) -> tuple[Sequence[Consumption], int]:
    """The wire form as values, and since when."""
    found = [
        Consumption(
            one.tenant,
            ModelId(one.model_id),
            calls=bounds.TOTAL.clamp(one.calls),
            failed=bounds.TOTAL.clamp(one.failed_calls),
            call_us=1000 * bounds.TOTAL.clamp(one.call_ms),
            size=bounds.TOTAL.clamp(one.bytes),
            loads=bounds.TOTAL.clamp(one.loads),
        )
        for one in answer.usages
    ]
    return found, bounds.TIME_MS.clamp(answer.since_ms)


def peer_counts(answer: admin.CountVModelResponse) -> VModelCounts:
    """The wire form as a value."""
    count = bounds.TOTAL.clamp
    return VModelCounts(
        tuple(
            ShadowCounts(
                ModelId(one.model_id),
                answered=count(one.answered),
                equal=count(one.equal),
                different=count(one.different),
                failed=count(one.failed),
                cold=count(one.cold),
                dropped=count(one.dropped),
                stream=count(one.stream),
            )
            for one in answer.shadows
        ),
        tuple(
            ModelCounts(
                ModelId(one.model_id),
                calls=count(one.calls),
                failed=count(one.failed),
                times=tuple(map(count, one.times[:BUCKETS])),
            )
            for one in answer.models
        ),
        bounds.TIME_MS.clamp(answer.step_since_ms),
    )


def model_history(answer: pb.RecallResponse, *, asked: bool) -> ModelHistory:
    """The wire form as a value; `asked`: about a load as well."""
    rehearsal = Rehearsal(
        refusal=answer.refusal,
        evict=Memory(bounds.BYTES.clamp(answer.evict_bytes)),
        victims=tuple(
            RehearsedVictim(
                ModelId(victim.model_id),
                Memory(bounds.BYTES.clamp(victim.size_bytes)),
                bounds.TIME_MS.clamp(victim.last_use_ms),
                victim.reason,
            )
            for victim in answer.victims
        ),
    )
    events = tuple(
        Event(
            bounds.TIME_MS.clamp(event.time_ms),
            InstanceId(event.instance_id),
            ModelId(event.model_id),
            event.kind,
            event.reason,
            event.detail,
            cause=ModelId(event.cause_model_id) if event.cause_model_id else None,
        )
        for event in answer.events
    )
    return ModelHistory(events, rehearsal if asked else None)
