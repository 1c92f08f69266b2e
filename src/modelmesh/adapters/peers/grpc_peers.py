"""`ports.Peers` over gRPC: `modelmesh.v1.Peer` at other instances' peer ports."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

import grpc.aio
from google.protobuf.message import Message

from modelmesh._proto import peer_pb2 as pb
from modelmesh.ports import PeerAnswer, PeerState, PeerUnreachableError
from modelmesh.values.dataplane import PeerAddress
from modelmesh.values.ids import InstanceId, ModelId, Revision

CHANNELS = 64
"""Peers with an open connection for control calls; the one unused longest is closed beyond that."""

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


class GrpcPeers:
    """Implements `ports.Peers`. `certificates` None: clear text."""

    def __init__(self, certificates: PeerCertificates | None = None) -> None:
        self._certificates = certificates
        self._channels: OrderedDict[PeerAddress, grpc.aio.Channel] = OrderedDict()
        self._closing: list[grpc.aio.Channel] = []

    async def ensure_loaded(
        self,
        address: PeerAddress,
        model: ModelId,
        *,
        last_use_ms: int,
        sync: bool,
        view: Revision | None,
        timeout_ms: int,
    ) -> PeerAnswer:
        """Ask a peer to load a model."""
        request = pb.EnsureLoadedRequest(model_id=model, last_use_ms=last_use_ms, sync=sync, view=view or 0)
        answer = await self._call(address, "EnsureLoaded", request, pb.EnsureLoadedResponse, timeout_ms)
        return peer_answer(answer)

    async def ping(self, address: PeerAddress, *, timeout_ms: int) -> InstanceId:
        """Ask who answers at an address."""
        answer = await self._call(address, "Ping", pb.PingRequest(), pb.PingResponse, timeout_ms)
        return InstanceId(answer.instance_id)

    async def close(self) -> None:
        """Close all connections."""
        for channel in (*self._channels.values(), *self._closing):
            await channel.close(None)
        self._channels.clear()
        self._closing.clear()

    async def _call(
        self, address: PeerAddress, name: str, request: Message, kind: type[Answer], timeout_ms: int
    ) -> Answer:
        call = self._channel(address).unary_unary(
            f"/modelmesh.v1.Peer/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=kind.FromString,
        )
        while self._closing:
            await self._closing.pop().close(None)
        try:
            answer: Answer = await call(request, timeout=timeout_ms / 1000)
        except grpc.aio.AioRpcError as error:
            raise PeerUnreachableError(
                f"the instance at {address.address} did not answer {name}: {error.code().name}: {error.details()}"
            ) from error
        return answer

    def _channel(self, address: PeerAddress) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is not None:
            self._channels.move_to_end(address)
            return channel
        options: list[tuple[str, object]] = [("grpc.enable_retries", 0)]
        if self._certificates is None:
            channel = grpc.aio.insecure_channel(address.address, options=options)
        else:
            if address.tls_name:
                options.append(("grpc.ssl_target_name_override", address.tls_name))
            credentials = grpc.ssl_channel_credentials(
                root_certificates=self._certificates.trusted,
                private_key=self._certificates.private_key,
                certificate_chain=self._certificates.certificate_chain,
            )
            channel = grpc.aio.secure_channel(address.address, credentials, options=options)
        self._channels[address] = channel
        if len(self._channels) > CHANNELS:
            self._closing.append(self._channels.popitem(last=False)[1])
        return channel


def peer_answer(answer: pb.EnsureLoadedResponse) -> PeerAnswer:
    """The wire form as a value; a state from the future counts as a refusal."""
    return PeerAnswer(
        state=_STATES.get(answer.state, PeerState.REFUSED),
        message=answer.message,
        refusal=answer.refusal or "busy",
        view=Revision(answer.view) if answer.view else None,
    )
