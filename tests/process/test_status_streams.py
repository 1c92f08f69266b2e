"""Statuses of vmodels over real sockets: a stream of them, and many vmodels set in one call."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from conftest import Mesh, StartMesh, eventually

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh_pb

pytestmark = pytest.mark.process
V, M = mesh_pb.VModelStatusInfo, mesh_pb.ModelStatusInfo


class Reader:
    """Reads one stream, and acknowledges each answer."""

    def __init__(self, channel: grpc.aio.Channel, request: pb.WatchStatusRequest) -> None:
        self.known: dict[str, Any] = {}
        self.answers: list[pb.StatusUpdate] = []
        self._requests: asyncio.Queue[pb.WatchStatusRequest] = asyncio.Queue()
        self._requests.put_nowait(request)
        self._stream = channel.stream_stream(
            "/modelmesh.v1.Admin/WatchStatus",
            request_serializer=pb.WatchStatusRequest.SerializeToString,
            response_deserializer=pb.StatusUpdate.FromString,
        )(self._asked())
        self.task = asyncio.ensure_future(self._read())

    async def _asked(self) -> AsyncIterator[pb.WatchStatusRequest]:
        while True:
            yield await self._requests.get()

    async def _read(self) -> None:
        async for answer in self._stream:
            self.answers.append(answer)
            self.known |= {one.id: one.status for one in answer.vmodels}
            self._requests.put_nowait(pb.WatchStatusRequest(acknowledged=answer.number))

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def set_vmodels(mesh: Mesh, *names: str, version: int = 1, load: bool = False, via: int = 0) -> Any:
    requests = [
        mesh_pb.SetVModelRequest(
            vModelId=name,
            targetModelId=f"{name}-{version}",
            owner="isvc",
            loadNow=load,
            autoDeleteTargetModel=True,
            modelInfo=mesh_pb.ModelInfo(type="example", path="SIZE_1000_0_0"),
        )
        for name in names
    ]
    request = pb.SetVModelsRequest(requests=requests)
    return await mesh.call("modelmesh.v1.Admin/SetVModels", request, pb.SetVModelsResponse, via=via)


async def test_a_thousand_vmodels_are_set_and_watched_and_the_stream_continues_elsewhere(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(2)
    names = [f"v{number:04}" for number in range(1_000)]
    for start in (0, 500):
        answer = await set_vmodels(mesh, *names[start : start + 500])
        assert {result.code for result in answer.results} == {0}
    reader = Reader(mesh.channels[0], pb.WatchStatusRequest(owners=["isvc"]))
    try:

        async def complete() -> bool:
            return bool(reader.answers) and reader.answers[-1].part == pb.StatusUpdate.SNAPSHOT_END

        await eventually(complete)
        assert sorted(reader.known) == names
        await set_vmodels(mesh, "v0007", version=2, load=True, via=1)

        async def moved() -> bool:
            status = reader.known["v0007"]
            return status.activeModelId == "v0007-2" and status.activeModelStatus.status == M.LOADED

        await eventually(moved)
    finally:
        await reader.stop()
    await mesh.call(
        "mmesh.ModelMesh/deleteVModel",
        mesh_pb.DeleteVModelRequest(vModelId="v0009"),
        mesh_pb.DeleteVModelResponse,
    )
    again = Reader(mesh.channels[1], pb.WatchStatusRequest(owners=["isvc"], revision=reader.answers[-1].revision))
    try:

        async def gone() -> bool:
            return "v0009" in again.known and again.known["v0009"].status == V.NOT_FOUND

        await eventually(gone)
        assert all(answer.part == pb.StatusUpdate.CHANGES for answer in again.answers)
    finally:
        await again.stop()


async def test_a_message_that_is_none_ends_the_stream_with_the_reason(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    stream = mesh.channels[0].stream_stream("/modelmesh.v1.Admin/WatchStatus")(iter([b"", b"\xff"]))
    with pytest.raises(grpc.aio.AioRpcError, match="not a modelmesh"):
        async for _ in stream:
            pass
    assert stream.done()
