"""`modelmesh.v1.Admin/SetVModels` and `RegisterModels`: many vmodels or models in one call, with an answer for each."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.management.calls import Call, CallError, Method, repeatable
from modelmesh.management.models import Models
from modelmesh.management.rights import NEEDS
from modelmesh.management.vmodels import VModelCalls
from modelmesh.ports import StoreError
from modelmesh.values.status import Status

MOST_VMODELS = 500
MOST_MODELS = 10_000
"""Of one call."""

AT_ONCE = 16
"""Of one call that are worked at a time; each takes a few reads and a transaction of the store."""

Asked = TypeVar("Asked")
Result = TypeVar("Result")


class Batches:
    """The handlers of the methods."""

    def __init__(self, models: Models, vmodels: VModelCalls) -> None:
        self._models = models
        self._vmodels = vmodels

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            "modelmesh.v1.Admin/SetVModels": Method(pb.SetVModelsRequest, self.set_vmodels),
            "modelmesh.v1.Admin/RegisterModels": Method(pb.RegisterModelsRequest, self.register_models),
        }

    async def set_vmodels(self, call: Call, request: pb.SetVModelsRequest) -> pb.SetVModelsResponse:
        """Set each, and answer for each with its result."""
        asked = list(request.requests)
        _check("vmodel", [one.vModelId for one in asked], MOST_VMODELS, sync=any(one.sync for one in asked))

        async def one(wanted: mesh.SetVModelRequest) -> pb.SetVModelResult:
            status, failure = await _tried(self._vmodels.set_vmodel(call, wanted))
            if failure is not None:
                return pb.SetVModelResult(vmodel_id=wanted.vModelId, code=failure.status.value, message=failure.message)
            return pb.SetVModelResult(vmodel_id=wanted.vModelId, status=status)

        return pb.SetVModelsResponse(results=await _each(asked, one))

    async def register_models(self, call: Call, request: pb.RegisterModelsRequest) -> pb.RegisterModelsResponse:
        """Register each, and answer for each with its result. A refusal does not stop the others."""
        asked = list(request.requests)
        _check("model", [one.modelId for one in asked], MOST_MODELS, sync=any(one.sync for one in asked))

        async def register(wanted: mesh.RegisterModelRequest) -> mesh.ModelStatusInfo:
            call.require(*NEEDS["mmesh.ModelMesh/registerModel"](wanted))
            return await self._models.register(call, wanted)

        async def one(wanted: mesh.RegisterModelRequest) -> pb.RegisterModelResult:
            status, failure = await _tried(register(wanted))
            if failure is not None:
                return pb.RegisterModelResult(
                    model_id=wanted.modelId, code=failure.status.value, message=failure.message
                )
            return pb.RegisterModelResult(model_id=wanted.modelId, status=status)

        return pb.RegisterModelsResponse(results=await _each(asked, one))


def _check(what: str, names: Sequence[str], most: int, *, sync: bool) -> None:
    """Raises CallError(INVALID_ARGUMENT) for a call that is none."""
    if len(names) > most:
        raise CallError(Status.INVALID_ARGUMENT, f"{len(names)} {what}s in one call, {most} are allowed")
    if len(set(names)) < len(names):
        raise CallError(Status.INVALID_ARGUMENT, f"a {what} is in the call twice")
    if sync:
        raise CallError(Status.INVALID_ARGUMENT, "`sync` is for single calls; watch the statuses instead")


async def _each(asked: Sequence[Asked], one: Callable[[Asked], Awaitable[Result]]) -> list[Result]:
    """The answer to each, in their order; some are worked at a time, and none has a task before its turn."""
    results: dict[int, Result] = {}
    waiting = iter(enumerate(asked))

    async def work() -> None:
        for number, wanted in waiting:
            results[number] = await one(wanted)

    await asyncio.gather(*(work() for _ in range(min(AT_ONCE, len(asked)))))
    return [results[number] for number in range(len(asked))]


async def _tried(work: Awaitable[Result]) -> tuple[Result | None, CallError | None]:
    """What came of it, or why nothing did."""
    try:
        return await work, None
    except StoreError as error:
        return None, repeatable(Status.UNAVAILABLE, f"the store does not answer: {error}")
    except CallError as error:
        return None, error
