"""`mmesh.ModelRuntime`: the service that the instance calls."""

import asyncio
import logging
from typing import Any

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.runtime.calls import Context, Method
from modelmesh.runtime.contract import ModelRuntime, ModelService, ModelSource
from modelmesh.runtime.errors import LoadError, RuntimeFault
from modelmesh.runtime.loaded import LoadedModels
from modelmesh.runtime.service import service_methods
from modelmesh.values.status import Status

_log = logging.getLogger("modelmesh.runtime")

PURGE_PATIENCE_S = 1.0
"""How long `runtimeStatus` waits for models to be unloaded before it answers STARTING; the mesh asks again after 2 s."""


class Management:
    """Answers the management calls for one author's runtime."""

    def __init__(
        self, runtime: ModelRuntime[Any], models: LoadedModels[Any], services: list[ModelService[Any]]
    ) -> None:
        self._runtime = runtime
        self._models = models
        self._services = services
        self._purge: asyncio.Task[None] | None = None

    def methods(self) -> dict[str, Method]:
        """By path."""
        return service_methods(
            pb.DESCRIPTOR.services_by_name["ModelRuntime"],
            {
                "runtimeStatus": self.status,
                "loadModel": self.load,
                "unloadModel": self.unload,
                "predictModelSize": self.predict_size,
                "modelSize": self.size,
            },
        )

    async def status(self, _request: pb.RuntimeStatusRequest, _context: Context) -> pb.RuntimeStatusResponse:
        """READY with the parameters, once nothing is loaded any more.

        The mesh asks at its own start only, and takes READY to mean an empty runtime: what an earlier mesh had
        loaded is unloaded first.
        """
        if not self._runtime.is_ready():
            return pb.RuntimeStatusResponse(status=pb.RuntimeStatusResponse.STARTING)
        if self._purge is None:
            self._purge = asyncio.create_task(self._models.purge(), name="purge")
        await asyncio.wait([self._purge], timeout=PURGE_PATIENCE_S)
        if not self._purge.done():
            return pb.RuntimeStatusResponse(status=pb.RuntimeStatusResponse.STARTING)
        purge, self._purge = self._purge, None
        if purge.exception() is not None:
            _log.error("runtimeStatus answers STARTING: %s", purge.exception())
            return pb.RuntimeStatusResponse(status=pb.RuntimeStatusResponse.STARTING)
        return self._ready()

    def _ready(self) -> pb.RuntimeStatusResponse:
        runtime = self._runtime
        answer = pb.RuntimeStatusResponse(
            status=pb.RuntimeStatusResponse.READY,
            capacityInBytes=runtime.capacity_bytes,
            defaultModelSizeInBytes=runtime.default_size_bytes,
            maxLoadingConcurrency=runtime.loading_concurrency,
            modelLoadingTimeoutMs=runtime.load_timeout_ms,
            runtimeVersion=runtime.version,
            limitModelConcurrency=runtime.limits_concurrency,
        )
        for service in self._services:
            for method, path in service.id_paths.items():
                answer.methodInfos[f"{service.descriptor.full_name}/{method}"].idInjectionPath.extend(path)
        # A non-empty list is an allow-list, unless this is set.
        answer.allowAnyMethod = bool(answer.methodInfos)
        return answer

    async def load(self, request: pb.LoadModelRequest, _context: Context) -> pb.LoadModelResponse:
        """Load a model; the answer carries its measured size."""
        source = _source(request)
        if not self._runtime.is_ready():
            raise RuntimeFault(f"the runtime is starting; load model {source.id!r} later", status=Status.UNAVAILABLE)
        loaded = await self._models.load(source)
        return pb.LoadModelResponse(sizeInBytes=loaded.size_bytes, maxConcurrency=loaded.max_concurrency)

    async def unload(self, request: pb.UnloadModelRequest, _context: Context) -> pb.UnloadModelResponse:
        """Unload a model; one that is not loaded is a success."""
        await self._models.unload(request.modelId)
        return pb.UnloadModelResponse()

    async def predict_size(self, request: pb.PredictModelSizeRequest, _context: Context) -> pb.PredictModelSizeResponse:
        """Predict a size. UNIMPLEMENTED, if the author left it out, stops the mesh from asking again."""
        source = _source(request)
        if type(self._runtime).predict_size is ModelRuntime.predict_size:
            raise RuntimeFault("this runtime predicts no sizes", status=Status.UNIMPLEMENTED)
        size_bytes = await self._models.tell_size(source)
        if size_bytes is None:
            raise RuntimeFault(f"the size of model {source.id!r} is not known", status=Status.FAILED_PRECONDITION)
        return pb.PredictModelSizeResponse(sizeInBytes=size_bytes)

    async def size(self, request: pb.ModelSizeRequest, _context: Context) -> pb.ModelSizeResponse:
        """The measured size of a loaded model."""
        return pb.ModelSizeResponse(sizeInBytes=self._models.size(request.modelId))


def _source(request: pb.LoadModelRequest | pb.PredictModelSizeRequest) -> ModelSource:
    if not request.modelId:
        raise LoadError("the request names no model: modelId is empty")
    return ModelSource(request.modelId, request.modelType, request.modelPath, request.modelKey)
