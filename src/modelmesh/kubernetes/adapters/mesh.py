"""Calls to an instance of a mesh by gRPC: `modelmesh.kubernetes.ports.MeshCalls`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as wire
from modelmesh.client.connection import channel_options
from modelmesh.kubernetes.ports import MeshCalls, MeshError
from modelmesh.values.status import Status

CALL_BOUND_S = 20.0
KEEPALIVE_MS = 20_000
LONGEST_KEY = 16 << 10
"""As long as instances read."""

Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class MeshTls:
    """PEM of what the controller shows and trusts. `authority` is the name that the instances' certificate has."""

    certificate: bytes
    key: bytes
    trusted: bytes
    authority: str


class GrpcMesh(MeshCalls):
    """Implements `MeshCalls` for one address, `host:port`.

    Args:
        key_file: Has the API key or token that calls show. It is read for each call, because tokens are renewed.
    """

    def __init__(self, address: str, tls: MeshTls | None = None, key_file: Path | None = None) -> None:
        self._key_file = key_file
        options: list[tuple[str, int | str]] = [*channel_options(address), ("grpc.keepalive_time_ms", KEEPALIVE_MS)]
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            options.append(("grpc.ssl_target_name_override", tls.authority))
            credentials = grpc.ssl_channel_credentials(tls.trusted, tls.key, tls.certificate)
            self._channel = grpc.aio.secure_channel(address, credentials, options)

    async def watch(self, request: pb.WatchStatusRequest) -> AsyncGenerator[pb.StatusUpdate, None]:
        """See `MeshCalls`."""
        requests: asyncio.Queue[pb.WatchStatusRequest] = asyncio.Queue()
        requests.put_nowait(request)

        async def asked() -> AsyncIterator[pb.WatchStatusRequest]:
            while True:
                yield await requests.get()

        call = self._channel.stream_stream(
            "/modelmesh.v1.Admin/WatchStatus",
            request_serializer=pb.WatchStatusRequest.SerializeToString,
            response_deserializer=pb.StatusUpdate.FromString,
        )(asked(), metadata=self._credential())
        try:
            async for update in call:
                yield update
                requests.put_nowait(pb.WatchStatusRequest(acknowledged=update.number))
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        finally:
            call.cancel()

    async def set_vmodels(self, request: pb.SetVModelsRequest) -> pb.SetVModelsResponse:
        """See `MeshCalls`."""
        return await self._call("modelmesh.v1.Admin/SetVModels", request, pb.SetVModelsResponse)

    async def set_vmodel(self, request: wire.SetVModelRequest) -> wire.VModelStatusInfo:
        """See `MeshCalls`."""
        return await self._call("mmesh.ModelMesh/setVModel", request, wire.VModelStatusInfo)

    async def vmodel_status(self, request: wire.GetVModelStatusRequest) -> wire.VModelStatusInfo:
        """See `MeshCalls`."""
        return await self._call("mmesh.ModelMesh/getVModelStatus", request, wire.VModelStatusInfo)

    async def delete_vmodel(self, request: wire.DeleteVModelRequest) -> None:
        """See `MeshCalls`."""
        await self._call("mmesh.ModelMesh/deleteVModel", request, wire.DeleteVModelResponse)

    async def instances(self) -> pb.ListInstancesResponse:
        """See `MeshCalls`."""
        return await self._call("modelmesh.v1.Admin/ListInstances", pb.ListInstancesRequest(), pb.ListInstancesResponse)

    async def close(self) -> None:
        """See `MeshCalls`."""
        await self._channel.close(None)

    def _credential(self) -> tuple[tuple[str, str], ...]:
        """What a call shows of who makes it. Raises MeshError."""
        if self._key_file is None:
            return ()
        try:
            with self._key_file.open("rb") as file:
                key = file.read(LONGEST_KEY + 1).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise MeshError(Status.UNAUTHENTICATED, f"the API key cannot be read: {error}") from error
        if not key or len(key) > LONGEST_KEY or not key.isprintable():
            message = f"{self._key_file} is not an API key or a token: one line, at most {LONGEST_KEY} characters"
            raise MeshError(Status.UNAUTHENTICATED, message)
        return (("authorization", f"Bearer {key}"),)

    async def _call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        call = self._channel.unary_unary(
            f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        try:
            found: Answer = await call(request, timeout=CALL_BOUND_S, metadata=self._credential())
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        return found


def _failure(error: grpc.aio.AioRpcError) -> MeshError:
    return MeshError(Status(error.code().value[0]), error.details() or error.code().name)
