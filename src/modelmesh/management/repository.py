"""The model repository extension of the Open Inference Protocol, over the whole mesh: list, load, unload.

A runtime has these methods for its own models; behind a mesh they would be answered by one of many, by chance. So the
instance that is called answers them, for what is registered, wherever it is loaded. Names are those of vmodels, else of models.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from modelmesh._proto import admin_pb2 as admin
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.admin import Admin
from modelmesh.management.calls import PAGE_MAX, Call, CallError, Method, reading
from modelmesh.management.models import Models, not_registered
from modelmesh.management.rights import Need
from modelmesh.management.server import SERVICE
from modelmesh.management.splits import Splits
from modelmesh.values.access import Kind, Verb
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.status import Status

MOST = 10_000
"""Names in one index; the protocol has no pages."""

Page = TypeVar("Page", admin.ListModelsResponse, admin.ListVModelsResponse)
_Info = mesh.ModelStatusInfo
_Entry = pb.RepositoryIndexResponse.ModelIndex


class Repository:
    """Handlers of the methods.

    Args:
        plane: Whose registry it is.
        models: Loads.
        admin: Lists models, and unloads.
        splits: Lists vmodels.
    """

    def __init__(self, plane: ControlPlane, models: Models, admin: Admin, splits: Splits) -> None:
        self._plane = plane
        self._models = models
        self._admin = admin
        self._splits = splits

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            f"{SERVICE}/RepositoryIndex": Method(pb.RepositoryIndexRequest, self.index),
            f"{SERVICE}/RepositoryModelLoad": Method(pb.RepositoryModelLoadRequest, self.load),
            f"{SERVICE}/RepositoryModelUnload": Method(pb.RepositoryModelUnloadRequest, self.unload),
        }

    async def index(self, call: Call, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """All names and their states; a vmodel has that of its active model."""
        _refuse_repository(request.repository_name)
        states: dict[str, _Entry] = {}
        answer = pb.RepositoryIndexResponse()

        def models_from(token: str) -> Awaitable[admin.ListModelsResponse]:
            return self._admin.list_models(call, admin.ListModelsRequest(page_size=PAGE_MAX, page_token=token))

        def vmodels_from(token: str) -> Awaitable[admin.ListVModelsResponse]:
            return self._splits.list_vmodels(call, admin.ListVModelsRequest(page_size=PAGE_MAX, page_token=token))

        async for models in _pages(models_from):
            for model in models.models:
                states[model.id] = entry = describe(model)
                self._add(answer, entry, ready=request.ready)
        async for vmodels in _pages(vmodels_from):
            for vmodel in vmodels.vmodels:
                active = states.get(vmodel.active_model_id)
                entry = _Entry(
                    name=vmodel.id, state="UNAVAILABLE", reason=f"model {vmodel.active_model_id} is not registered"
                )
                if active is not None:
                    entry = _Entry(name=vmodel.id, state=active.state, reason=active.reason)
                self._add(answer, entry, ready=request.ready)
        return answer

    async def load(self, call: Call, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Make sure of a copy, and wait for it."""
        _refuse_repository(request.repository_name)
        if request.parameters:
            raise CallError(Status.INVALID_ARGUMENT, "a model is loaded as it is registered; there are no parameters")
        model = await self._named(call, request.model_name)
        info = await self._models.ensure(model, last_use_ms=self._plane.clock.now_ms(), sync=True)
        if info.status == _Info.NOT_FOUND:
            raise not_registered(model)
        if info.status != _Info.LOADED:
            raise CallError(Status.INTERNAL, info.errors[0] if info.errors else f"model {model} could not be loaded")
        return pb.RepositoryModelLoadResponse()

    async def unload(self, call: Call, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Unload it wherever it is. It stays registered, and the next call loads it again."""
        _refuse_repository(request.repository_name)
        model = await self._named(call, request.model_name)
        await self._admin.unload_model(call, admin.UnloadModelRequest(model_id=model))
        return pb.RepositoryModelUnloadResponse()

    async def _named(self, call: Call, name: str) -> ModelId:
        """The active model of the vmodel of this name, else the model. Raises CallError."""
        if not name:
            raise CallError(Status.INVALID_ARGUMENT, "must provide non-empty model_name")
        with reading():
            vmodel = await self._plane.vmodels.read(VModelId(name))
        call.require(Need(Verb.LOAD, name, (Kind.MODEL if vmodel is None else Kind.VMODEL,)))
        return ModelId(name) if vmodel is None else vmodel.record.active

    def _add(self, answer: pb.RepositoryIndexResponse, entry: _Entry, *, ready: bool) -> None:
        if ready and entry.state != "READY":
            return
        if len(answer.models) == MOST:
            raise CallError(
                Status.RESOURCE_EXHAUSTED,
                f"more than {MOST} names are registered; modelmesh.v1.Admin/ListModels lists them page by page",
            )
        answer.models.append(entry)


async def _pages(page_from: Callable[[str], Awaitable[Page]]) -> AsyncIterator[Page]:
    """Every page of a listing; `page_from` asks for the one at a token, the first at an empty one."""
    token, more = "", True
    while more:
        page = await page_from(token)
        yield page
        token, more = page.next_page_token, bool(page.next_page_token)


def describe(model: admin.Model) -> _Entry:
    """A model's state in the protocol's words: READY, LOADING or UNAVAILABLE, and why."""
    states = {copy.state for copy in model.copies}
    if admin.Copy.LOADED in states:
        return _Entry(name=model.id, state="READY")
    if admin.Copy.LOADING in states:
        return _Entry(name=model.id, state="LOADING")
    reason = model.failures[0].message if model.failures else "not loaded; the first call loads it"
    return _Entry(name=model.id, state="UNAVAILABLE", reason=reason)


def _refuse_repository(name: str) -> None:
    if name:
        raise CallError(Status.INVALID_ARGUMENT, "there is one repository, and it has no name")
