"""`mmesh.ModelRuntime` for a third-party server: it asks the server which models are loaded and does not rely on its own records."""

from typing import Any

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.runtime.contract import ModelService
from modelmesh.runtime.loaded import LoadedModels
from modelmesh.runtime.management import Management
from modelmesh.servers.adapter import AdapterRuntime, Placed


class AdapterManagement(Management):
    """The management calls of an adapter."""

    def __init__(
        self, runtime: AdapterRuntime, models: LoadedModels[Placed], services: list[ModelService[Any]]
    ) -> None:
        super().__init__(runtime, models, services)
        self._adapter = runtime

    async def load(self, request: pb.LoadModelRequest, context: Any) -> pb.LoadModelResponse:
        """Load a model; one that we hold for loaded is asked of the server, which may have lost it."""
        model_id = request.modelId
        if model_id in self._models.ids() and not await self._adapter.driver.holds(model_id):
            await self._models.unload(model_id)
        return await super().load(request, context)

    async def unload(self, request: pb.UnloadModelRequest, context: Any) -> pb.UnloadModelResponse:
        """Unload a model, and one that we do not know as well: the server may hold it."""
        del context
        if not await self._models.unload(request.modelId) and self._adapter.is_ready():
            await self._adapter.clear_away(request.modelId)
        return pb.UnloadModelResponse()

    def _ready(self) -> pb.RuntimeStatusResponse:
        answer = super()._ready()
        for method, path in self._adapter.driver.methods.items():
            answer.methodInfos[method].idInjectionPath.extend(path)
        # What is not listed stays forbidden: the server's port answers its control calls too.
        answer.allowAnyMethod = False
        return answer
