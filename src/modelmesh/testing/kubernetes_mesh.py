"""The mesh of a namespace in tests of the controller: a simulated cluster, called without a network."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as wire
from modelmesh.kubernetes.ports import MeshCalls, MeshError
from modelmesh.management.admin import Admin
from modelmesh.management.batches import Batches
from modelmesh.management.calls import Call, CallError
from modelmesh.management.watch_status import WatchStatus
from modelmesh.ports import StoreError
from modelmesh.testing.cluster import SimulatedInstance
from modelmesh.values.ids import Token
from modelmesh.values.status import Status

NO_ANSWER_S = 20.0
"""How long a call to an instance that hangs takes to fail."""


class SimulatedMeshCalls(MeshCalls):
    """Implements `MeshCalls` for one simulated instance.

    Attributes:
        hangs: Calls get no answer, and the stream brings nothing.
        old: It is an instance of the archived project: it has no streams of statuses and no batches.
        batches: The sizes of the batches that were set.
        reported: Figures of instances that it reports, by instance and field, in place of the true ones.
    """

    def __init__(self, instance: SimulatedInstance) -> None:
        self._instance = instance
        self._watching = WatchStatus(instance.plane)
        self._broken = asyncio.Event()
        self.hangs = False
        self.old = False
        self.batches: list[int] = []
        self.reported: dict[str, dict[str, int]] = {}
        self.deleted: list[str] = []

    def cut(self) -> None:
        """Streams that are open break."""
        self._broken.set()
        self._broken = asyncio.Event()

    async def watch(self, request: pb.WatchStatusRequest) -> AsyncGenerator[pb.StatusUpdate, None]:
        """See `MeshCalls`."""
        self._check_age()
        answers: asyncio.Queue[pb.StatusUpdate] = asyncio.Queue()
        requests: asyncio.Queue[pb.WatchStatusRequest] = asyncio.Queue()
        requests.put_nowait(request)
        broken = self._broken

        async def asked() -> AsyncIterator[pb.WatchStatusRequest]:
            while True:
                yield await requests.get()

        call = Call(Token(0), "modelmesh.v1.Admin/WatchStatus", {}, send=answers.put_nowait)  # type: ignore[arg-type]
        serving = asyncio.ensure_future(self._watching.watch(call, asked()))
        breaking = asyncio.ensure_future(broken.wait())
        answer: asyncio.Future[pb.StatusUpdate] = asyncio.ensure_future(answers.get())
        try:
            while True:
                waited: list[asyncio.Future[Any]] = [answer, serving, breaking]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if not answer.done():
                    if serving.done():
                        serving.result()
                    raise MeshError(Status.UNAVAILABLE, "the connection broke")
                if self.hangs:
                    await asyncio.Event().wait()
                yield answer.result()
                requests.put_nowait(pb.WatchStatusRequest(acknowledged=answer.result().number))
                answer = asyncio.ensure_future(answers.get())
        except (CallError, StoreError) as error:
            raise _failure(error) from error
        finally:
            for task in (serving, breaking, answer):
                task.cancel()
            await asyncio.gather(serving, breaking, answer, return_exceptions=True)

    async def set_vmodels(self, request: pb.SetVModelsRequest) -> pb.SetVModelsResponse:
        """See `MeshCalls`."""
        self._check_age()
        await self._answers()
        self.batches.append(len(request.requests))
        try:
            return await Batches(self._instance.models, self._instance.vmodels).set_vmodels(
                _call("SetVModels"), request
            )
        except (CallError, StoreError) as error:
            raise _failure(error) from error

    async def set_vmodel(self, request: wire.SetVModelRequest) -> wire.VModelStatusInfo:
        """See `MeshCalls`."""
        await self._answers()
        try:
            return await self._instance.vmodels.set_vmodel(_call("setVModel"), request)
        except (CallError, StoreError) as error:
            raise _failure(error) from error

    async def vmodel_status(self, request: wire.GetVModelStatusRequest) -> wire.VModelStatusInfo:
        """See `MeshCalls`."""
        await self._answers()
        try:
            return await self._instance.vmodels.vmodel_status(_call("getVModelStatus"), request)
        except (CallError, StoreError) as error:
            raise _failure(error) from error

    async def delete_vmodel(self, request: wire.DeleteVModelRequest) -> None:
        """See `MeshCalls`."""
        await self._answers()
        self.deleted.append(request.vModelId)
        try:
            await self._instance.vmodels.delete_vmodel(_call("deleteVModel"), request)
        except (CallError, StoreError) as error:
            raise _failure(error) from error

    async def instances(self) -> pb.ListInstancesResponse:
        """See `MeshCalls`. What `reported` says of an instance replaces what it says itself."""
        self._check_age()
        await self._answers()
        answer = await Admin(self._instance.plane).list_instances(_call("ListInstances"), pb.ListInstancesRequest())
        for one in answer.instances:
            for name, value in self.reported.get(one.id, {}).items():
                setattr(one, name, value)
        return answer

    async def close(self) -> None:
        """See `MeshCalls`."""

    def _check_age(self) -> None:
        if self.old:
            raise MeshError(Status.UNIMPLEMENTED, "Method not found: modelmesh.v1.Admin")

    async def _answers(self) -> None:
        await asyncio.sleep(0.001)
        if self.hangs:
            await asyncio.sleep(NO_ANSWER_S)
            raise MeshError(Status.DEADLINE_EXCEEDED, "no answer")


def _call(method: str) -> Call:
    return Call(Token(0), method, {}, send=lambda _: None)


def _failure(error: CallError | StoreError) -> MeshError:
    return MeshError(error.status if isinstance(error, CallError) else Status.UNAVAILABLE, str(error))
