"""`modelmesh.v1.Admin/SetVModels`: many vmodels in one call."""

import asyncio
from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.management.calls import Call, CallError, Method, repeatable
from modelmesh.management.vmodels import VModelCalls
from modelmesh.ports import StoreError
from modelmesh.values.status import Status

MOST = 500
"""VModels of one call."""

AT_ONCE = 16
"""VModels of one call that are set at a time; each takes a few reads and a transaction of the store."""


class VModelBatches:
    """The handler of the method."""

    def __init__(self, vmodels: VModelCalls) -> None:
        self._vmodels = vmodels

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/SetVModels": Method(pb.SetVModelsRequest, self.set_vmodels)}

    async def set_vmodels(self, call: Call, request: pb.SetVModelsRequest) -> pb.SetVModelsResponse:
        """Set each, and say of each how that went."""
        asked = list(request.requests)
        if len(asked) > MOST:
            raise CallError(Status.INVALID_ARGUMENT, f"{len(asked)} vmodels in one call, {MOST} are allowed")
        names = {one.vModelId for one in asked}
        if len(names) < len(asked):
            raise CallError(Status.INVALID_ARGUMENT, "a vmodel is in the call twice")
        if any(one.sync for one in asked):
            raise CallError(Status.INVALID_ARGUMENT, "`sync` is for single calls; watch the statuses instead")
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(wanted: mesh.SetVModelRequest) -> pb.SetVModelResult:
            async with slots:
                return await self._set(call, wanted)

        return pb.SetVModelsResponse(results=await asyncio.gather(*map(one, asked)))

    async def _set(self, call: Call, wanted: mesh.SetVModelRequest) -> pb.SetVModelResult:
        try:
            status = await self._vmodels.set_vmodel(call, wanted)
        except StoreError as error:
            failure = repeatable(Status.UNAVAILABLE, f"the store does not answer: {error}")
        except CallError as error:
            failure = error
        else:
            return pb.SetVModelResult(vmodel_id=wanted.vModelId, status=status)
        return pb.SetVModelResult(vmodel_id=wanted.vModelId, code=failure.status.value, message=failure.message)
