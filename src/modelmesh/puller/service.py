"""The puller's service `mmesh.ModelRuntime`: it pulls files before a load and removes them after an unload.

Source: spec/runtime-adapters.md 2.3.
"""

import asyncio
import logging

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.puller.metrics import PullerMetrics
from modelmesh.puller.turns import Turns
from modelmesh.puller.upstream import Upstream
from modelmesh.runtime.calls import Context, Method
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.runtime.load_progress import LoadsAtWork
from modelmesh.runtime.service import service_methods
from modelmesh.storage import Local, ModelFolders, Progress, Report, StorageError
from modelmesh.values.load_progress import LoadProgress, LoadStage
from modelmesh.values.status import Status

_log = logging.getLogger("modelmesh.puller")

STATUS_S = 5.0
"""How long a runtime may take to answer with its status; the mesh asks again."""

PURGE_PATIENCE_S = 1.0
"""How long `runtimeStatus` waits for old models to leave before it answers STARTING."""

UNDECIDED = frozenset({Status.CANCELLED, Status.DEADLINE_EXCEEDED, Status.UNAVAILABLE, Status.UNKNOWN})
"""After these a runtime may be at the load still: its files stay until the unload that the mesh then sends."""


class PullerService:
    """Answers the management calls, for one runtime.

    Args:
        folders: The models' files.
        upstream: The runtime.
        factor: Memory to each byte on disk, where the runtime predicts nothing.
        metrics: Counts.
    """

    def __init__(self, folders: ModelFolders, upstream: Upstream, factor: float, metrics: PullerMetrics) -> None:
        self._folders = folders
        self._upstream = upstream
        self._factor = factor
        self._metrics = metrics
        self._turns = Turns()
        self._loaded: set[str] = set()
        self._purging: asyncio.Task[None] | None = None
        self._at_work = LoadsAtWork()

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

    @property
    def loaded(self) -> tuple[str, ...]:
        """Models that the runtime has loaded, by its answers."""
        return tuple(sorted(self._loaded))

    async def load(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        """Pull the files, then let the runtime load them from there."""
        async with self._turns.one(request.modelId):
            with self._at_work.one(request.modelId) as report:
                return await self._load(request, context, report)

    async def progress(self, model_id: str) -> LoadProgress | None:
        """How far a load is that runs now: as the pull reports, then as the runtime does, if it does."""
        pulled = self._at_work.get(model_id)
        if pulled is None or pulled.stage is not LoadStage.LOADING:
            return pulled
        told = await self._upstream.progress(model_id)
        return pulled if told is None else added(pulled, told)

    async def _load(self, request: pb.LoadModelRequest, context: Context, report: Report) -> pb.LoadModelResponse:
        local = await self._bring(request, report)
        self._at_work.loading(request.modelId)
        forwarded = pb.LoadModelRequest(
            modelId=request.modelId, modelType=request.modelType, modelPath=str(local.path), modelKey=local.key
        )
        try:
            answer = await self._upstream.call("loadModel", forwarded, pb.LoadModelResponse, context.remaining_s())
        except RuntimeFault as error:
            self._metrics.loads.labels("runtime", error.status.name).inc()
            if error.status not in UNDECIDED:
                await self._drop(request.modelId)
            raise
        self._loaded.add(request.modelId)
        self._metrics.loads.labels("runtime", "OK").inc()
        return answer

    async def unload(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        """Let the runtime unload a model, then remove its files. An unknown model is a success."""
        async with self._turns.one(request.modelId):
            await self._unload(request.modelId, context.remaining_s())
        return pb.UnloadModelResponse()

    async def predict_size(self, request: pb.PredictModelSizeRequest, context: Context) -> pb.PredictModelSizeResponse:
        """What the runtime predicts; from the bytes that would be pulled, where it predicts nothing."""
        left = context.remaining_s()
        try:
            disk_bytes = (await self._folders.plan(request.modelPath, request.modelKey)).size_bytes
        except StorageError as error:
            raise RuntimeFault(error.message, status=error.code) from None
        forwarded = self._folders.planned(request.modelId, request.modelPath, request.modelKey, disk_bytes)
        try:
            return await self._upstream.call(
                "predictModelSize",
                pb.PredictModelSizeRequest(
                    modelId=request.modelId,
                    modelType=request.modelType,
                    modelPath=str(forwarded.path),
                    modelKey=forwarded.key,
                ),
                pb.PredictModelSizeResponse,
                left,
            )
        except RuntimeFault as error:
            if error.status in {Status.UNAVAILABLE, Status.CANCELLED, Status.DEADLINE_EXCEEDED}:
                raise
            return pb.PredictModelSizeResponse(sizeInBytes=max(1, round(disk_bytes * self._factor)))

    async def size(self, request: pb.ModelSizeRequest, context: Context) -> pb.ModelSizeResponse:
        """As the runtime answers."""
        return await self._upstream.call("modelSize", request, pb.ModelSizeResponse, context.remaining_s())

    async def status(self, request: pb.RuntimeStatusRequest, context: Context) -> pb.RuntimeStatusResponse:
        """As the runtime answers; STARTING while it is not reachable. READY after all models of an earlier mesh are unloaded."""
        left = context.remaining_s()
        try:
            answer = await self._upstream.call(
                "runtimeStatus", request, pb.RuntimeStatusResponse, STATUS_S if left is None else min(left, STATUS_S)
            )
        except RuntimeFault as error:
            if error.status in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}:
                _log.info("waiting for the runtime at %s: %s", self._upstream.target, error)
                return pb.RuntimeStatusResponse(status=pb.RuntimeStatusResponse.STARTING)
            raise
        if answer.status != pb.RuntimeStatusResponse.READY:
            return answer
        return await self._purged(answer)

    async def forget_lost(self) -> None:
        """The runtime is another one: what it does not know any more needs no files. Called when it is back."""
        for model_id in self.loaded:
            async with self._turns.one(model_id):
                try:
                    request = pb.ModelSizeRequest(modelId=model_id)
                    await self._upstream.call("modelSize", request, pb.ModelSizeResponse, STATUS_S)
                except RuntimeFault as error:
                    if error.status is Status.NOT_FOUND:
                        await self._drop(model_id)

    async def _bring(self, request: pb.LoadModelRequest, told: Report) -> Local:
        """The files; what fails is the load's error."""
        if not request.modelId:
            raise RuntimeFault("the request names no model: modelId is empty", status=Status.INVALID_ARGUMENT)
        with self._metrics.pull() as counted:

            def report(progress: Progress) -> None:
                counted(progress)
                told(progress)

            try:
                return await self._folders.bring(request.modelId, request.modelPath, request.modelKey, report)
            except StorageError as error:
                _log.warning("model %r: %s: %s", request.modelId, error.code.name, error)
                self._metrics.loads.labels("pull", error.code.name).inc()
                raise RuntimeFault(error.message, status=error.code) from None

    async def _unload(self, model_id: str, timeout_s: float | None) -> None:
        try:
            await self._upstream.call(
                "unloadModel", pb.UnloadModelRequest(modelId=model_id), pb.UnloadModelResponse, timeout_s
            )
        except RuntimeFault as error:
            if error.status is not Status.NOT_FOUND:
                raise
        await self._drop(model_id)

    async def _drop(self, model_id: str) -> None:
        self._loaded.discard(model_id)
        try:
            await self._folders.drop(model_id)
        except StorageError as error:
            raise RuntimeFault(error.message, status=error.code) from None

    async def _purged(self, answer: pb.RuntimeStatusResponse) -> pb.RuntimeStatusResponse:
        """READY means an empty runtime and an empty folder."""
        if self._purging is None:
            self._purging = asyncio.create_task(self._purge(), name="purge")
        await asyncio.wait([self._purging], timeout=PURGE_PATIENCE_S)
        if not self._purging.done():
            return pb.RuntimeStatusResponse(status=pb.RuntimeStatusResponse.STARTING)
        purging, self._purging = self._purging, None
        error = purging.exception()
        if error is None:
            return answer
        _log.error("runtimeStatus does not answer READY: %s", error)
        failing = isinstance(error, StorageError)  # a disk that does not do it will not do it in two seconds
        states = pb.RuntimeStatusResponse
        return pb.RuntimeStatusResponse(status=states.FAILING if failing else states.STARTING)

    async def _purge(self) -> None:
        for model_id in self._folders.left():
            async with self._turns.one(model_id):
                await self._unload(model_id, None)


def added(pulled: LoadProgress, told: LoadProgress) -> LoadProgress:
    """The progress of a runtime after a pull, in the runtime's stage.

    The counts of the pull stay in: without them a runtime that begins to report would seem to fall behind the pull, and what
    falls behind counts as no progress.
    """
    return LoadProgress(
        told.stage,
        bytes_done=pulled.bytes_done + told.bytes_done,
        bytes_total=pulled.bytes_total + told.bytes_total,
        files_done=pulled.files_done + told.files_done,
        files_total=pulled.files_total + told.files_total,
    )
