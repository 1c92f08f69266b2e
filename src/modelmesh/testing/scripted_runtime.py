"""`ScriptedRuntime`: a real gRPC model server that does what a test says.

It behaves as ModelMesh's example runtime: model paths `SIZE_<bytes>_<loadMs>_<unloadMs>` and `FAIL_<message>`, inference
by `mmesh.ExamplePredictor`, magic texts `test:purge-models` and `test:error:code=<CODE>:message=<text>`.

    async with ScriptedRuntime(capacity_bytes=10_000) as runtime:
        channel = grpc.aio.insecure_channel(runtime.address)

`modelmesh.testing.runtime` is the same as a program.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self

import grpc
from google.protobuf.message import Message

from modelmesh._proto import example_predictor_pb2 as predictor_pb
from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import runtime_events_pb2 as events_pb
from modelmesh.runtime.introspection import Health, Reflection
from modelmesh.testing.grpc_handlers import CODES, generic_handlers
from modelmesh.testing.model_paths import MIB, ModelScript, script_of
from modelmesh.values import legacy
from modelmesh.values.status import Status

MANAGEMENT = "mmesh.ModelRuntime"
LEGACY_MANAGEMENT = legacy.RUNTIME_SERVICE
PREDICTOR = "mmesh.ExamplePredictor"

GARBAGE = b"\xff\xff\xff\xff not a message"


class ScriptedError(Exception):
    """Answered with this status and message."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(f"{status.name}: {message}")
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Prediction:
    """An inference call as it arrived. Metadata values of `-bin` keys are bytes."""

    method: str
    model: str
    metadata: tuple[tuple[str, str | bytes], ...]
    request: predictor_pb.PredictRequest


class ScriptedRuntime:
    """A runtime on a socket whose every answer a test decides. Attributes may be changed while it serves.

    Args:
        listen: `host:port` (0: free), a port, or `unix:///path`. Two of them: management at the first, inference at
            the second.
        load_ms, unload_ms, size_bytes: Of models whose path does not say; None draws them as the example
            runtime does (64 to 128 MiB, 100 to 1100 ms).
        slow: Times of the example runtime's slow mode.
        max_concurrency: > 0: `limitModelConcurrency`, and the `maxConcurrency` of every load answer.
        start_ms: How long it answers STARTING after `start`.
        never_ready, failing: STARTING forever; FAILING.
        method_infos: Full method name to id injection path.
        load_answers_size: The load's answer has the size; otherwise `modelSize` is asked.
        reported_size: What is said for a true size; lies if told to.
        predicts: `predictModelSize`: UNIMPLEMENTED, or this of the true size.
        not_found: How an inference call for an unknown model fails: NOT_FOUND, as Triton, or as MLServer.
        service_name: `LEGACY_MANAGEMENT` for a runtime that knows only the older name.
        seed: Of what is drawn.

    Attributes:
        counts: Calls by method name, management and inference.
        load_counts: Loads that began, by model id.
        predictions: The last 1000 inference calls.
        loaded: What is loaded, in the order of loading.
        garbage: Methods that answer bytes which are no message.
        load_failures: Errors for every load of a model.
        predict_failures: Errors for every inference call of a model.
        progress: What `LoadProgress` tells of a model's load; NOT_FOUND for others.
        tells_progress: Without it `LoadProgress` is UNIMPLEMENTED.
    """

    def __init__(
        self,
        *,
        listen: str | Sequence[str] = "127.0.0.1:0",
        capacity_bytes: int = 1024 * MIB,
        default_size_bytes: int = 50 * MIB,
        loading_concurrency: int = 6,
        load_timeout_ms: int = 90_000,
        load_ms: int | None = 0,
        unload_ms: int | None = 0,
        size_bytes: int | None = None,
        slow: bool = False,
        max_concurrency: int = 0,
        start_ms: int = 0,
        never_ready: bool = False,
        failing: bool = False,
        method_infos: Mapping[str, Sequence[int]] | None = None,
        allow_any_method: bool = False,
        load_answers_size: bool = False,
        measure_ms: int = 0,
        reported_size: Callable[[int], int] = lambda size_bytes: size_bytes,
        predicts: Callable[[int], int] | None = None,
        unload_not_found: bool = False,
        not_found: Literal["plain", "triton", "mlserver"] = "plain",
        predict_ms: int = 0,
        service_name: str = MANAGEMENT,
        version: str = "scripted",
        seed: int = 0,
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.default_size_bytes = default_size_bytes
        self.loading_concurrency = loading_concurrency
        self.load_timeout_ms = load_timeout_ms
        self.load_ms = load_ms
        self.unload_ms = unload_ms
        self.size_bytes = size_bytes
        self.slow = slow
        self.max_concurrency = max_concurrency
        self.start_ms = start_ms
        self.never_ready = never_ready
        self.failing = failing
        self.method_infos = dict(method_infos or {})
        self.allow_any_method = allow_any_method
        self.load_answers_size = load_answers_size
        self.measure_ms = measure_ms
        self.reported_size = reported_size
        self.predicts = predicts
        self.unload_not_found = unload_not_found
        self.not_found = not_found
        self.predict_ms = predict_ms
        self.version = version
        self.counts: Counter[str] = Counter()
        self.load_counts: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        self.predictions: deque[Prediction] = deque(maxlen=1000)
        self.loaded: dict[str, ModelScript] = {}
        self.garbage: set[str] = set()
        self.load_failures: dict[str, ScriptedError] = {}
        self.predict_failures: dict[str, ScriptedError] = {}
        self.progress: dict[str, events_pb.LoadProgressResponse] = {}
        self.tells_progress = False
        self._failures: dict[str, list[ScriptedError]] = {}
        self._listen = [listen] if isinstance(listen, str) else list(listen)
        self._service_name = service_name
        self._random = Random(seed)  # noqa: S311 - draws test data
        self._servers: list[grpc.aio.Server] = []
        self._addresses: list[str] = []
        self._locks: dict[str, asyncio.Lock] = {}
        self._ready_at = 0.0
        self._gates: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()

    # --- life ---------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The management address, as a gRPC target."""
        return self._addresses[0]

    @property
    def serving_address(self) -> str:
        """The inference address; the management address if there is only one."""
        return self._addresses[-1]

    async def start(self) -> None:
        """Listen; again at the same addresses after `die`."""
        listen = self._addresses or [_target(one) for one in self._listen]
        self._ready_at = monotonic() + self.start_ms / 1000
        bound = []
        for target in listen:
            kinds = (target == listen[0], target == listen[-1])
            server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 * MIB)))
            server.add_generic_rpc_handlers(self._handlers(management=kinds[0], inference=kinds[1]))
            if target.startswith("unix:"):
                socket = Path(target.removeprefix("unix:").removeprefix("//"))
                socket.parent.mkdir(parents=True, exist_ok=True)
            port = server.add_insecure_port(target)
            await server.start()
            self._servers.append(server)
            bound.append(target if target.startswith("unix:") else f"{target.rpartition(':')[0]}:{port}")
            if len(listen) == 2 and listen[0] == listen[1]:
                break
        self._addresses = bound

    async def stop(self, grace_s: float | None = None) -> None:
        """Stop listening; calls that run are cancelled after `grace_s`, without it at once."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server.stop(grace_s)

    async def die(self) -> None:
        """End like a killed process: connections break, models are gone. `start` brings it back, empty."""
        await self.stop()
        self.loaded.clear()
        self._locks.clear()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- knobs --------------------------------------------------------------------------------

    def hold(self, method: str = "loadModel") -> None:
        """Let no call of a method (`loadModel`, `predict`, …) be answered until `release`."""
        self._gates.setdefault(method, asyncio.Event())

    def release(self, method: str = "loadModel") -> None:
        """Let held calls continue."""
        gate = self._gates.pop(method, None)
        if gate is not None:
            gate.set()

    def fail_next(self, method: str, status: Status, message: str = "scripted failure") -> None:
        """Fail the next call of a method; several queue up."""
        self._failures.setdefault(method, []).append(ScriptedError(status, message))

    def vanish(self, model: str | None = None) -> None:
        """Lose one model, or all, without being told to."""
        if model is None:
            self.loaded.clear()
        else:
            self.loaded.pop(model, None)

    def used_bytes(self) -> int:
        """True bytes of what is loaded."""
        return sum(script.size_bytes for script in self.loaded.values())

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until a condition on this object holds; it is looked at whenever a call begins or ends.

        Raises:
            TimeoutError: It did not come to hold.
        """
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(condition)

    # --- management ---------------------------------------------------------------------------

    async def _status(self, _request: pb.RuntimeStatusRequest, _context: Any) -> Message:
        states = pb.RuntimeStatusResponse
        if self.failing:
            return states(status=states.FAILING)
        if self.never_ready or monotonic() < self._ready_at:
            return states(status=states.STARTING)
        for model in list(self.loaded):
            await self._unload(model)
        answer = states(
            status=states.READY,
            capacityInBytes=self.capacity_bytes,
            defaultModelSizeInBytes=self.default_size_bytes,
            maxLoadingConcurrency=self.loading_concurrency,
            modelLoadingTimeoutMs=self.load_timeout_ms,
            runtimeVersion=self.version,
            limitModelConcurrency=self.max_concurrency > 0,
            allowAnyMethod=self.allow_any_method,
        )
        for method, path in self.method_infos.items():
            answer.methodInfos[method].idInjectionPath.extend(path)
        return answer

    async def _load_model(self, request: pb.LoadModelRequest, _context: Any) -> Message:
        if not request.modelId:
            raise ScriptedError(Status.INVALID_ARGUMENT, "the request names no model: modelId is empty")
        async with self._lock(request.modelId):
            if request.modelId not in self.loaded:
                self.loaded[request.modelId] = await self._load(request)
            true_bytes = self.loaded[request.modelId].size_bytes
        return pb.LoadModelResponse(
            sizeInBytes=self.reported_size(true_bytes) if self.load_answers_size else 0,
            maxConcurrency=self.max_concurrency,
        )

    async def _load(self, request: pb.LoadModelRequest) -> ModelScript:
        script = self._script(request.modelPath)
        model = request.modelId
        self.load_counts[model] += 1
        first = self.load_counts[model] == 1
        await self._notify()
        await asyncio.sleep(script.load_ms / 1000)
        await self._pass("loadModel")
        if model in self.load_failures:
            raise self.load_failures[model]
        if first and script.failure is not None:
            raise ScriptedError(Status.INTERNAL, script.failure)
        return script

    def _script(self, path: str) -> ModelScript:
        drawn = script_of(path, self._random, slow=self.slow)
        if path.startswith("SIZE_"):
            return drawn
        return ModelScript(
            drawn.size_bytes if self.size_bytes is None else self.size_bytes,
            drawn.load_ms if self.load_ms is None else self.load_ms,
            drawn.unload_ms if self.unload_ms is None else self.unload_ms,
            drawn.failure,
        )

    async def _unload_model(self, request: pb.UnloadModelRequest, _context: Any) -> Message:
        async with self._lock(request.modelId):
            await self._pass("unloadModel")
            if not await self._unload(request.modelId) and self.unload_not_found:
                raise ScriptedError(Status.NOT_FOUND, f"model {request.modelId!r} is not loaded")
        return pb.UnloadModelResponse()

    async def _unload(self, model: str) -> bool:
        script = self.loaded.pop(model, None)
        if script is None:
            return False
        await asyncio.sleep(script.unload_ms / 1000)
        return True

    async def _predict_size(self, request: pb.PredictModelSizeRequest, _context: Any) -> Message:
        if self.predicts is None:
            raise ScriptedError(Status.UNIMPLEMENTED, "this runtime predicts no sizes")
        return pb.PredictModelSizeResponse(sizeInBytes=self.predicts(self._script(request.modelPath).size_bytes))

    async def _model_size(self, request: pb.ModelSizeRequest, _context: Any) -> Message:
        await asyncio.sleep(self.measure_ms / 1000)
        script = self.loaded.get(request.modelId)
        if script is None:
            raise ScriptedError(Status.NOT_FOUND, f"model {request.modelId!r} is not loaded")
        return pb.ModelSizeResponse(sizeInBytes=self.reported_size(script.size_bytes))

    def _lock(self, model: str) -> asyncio.Lock:
        return self._locks.setdefault(model, asyncio.Lock())

    # --- inference ----------------------------------------------------------------------------

    async def _predict(self, request: predictor_pb.PredictRequest, context: Any) -> Message:
        return (await self._answer("predict", request, context))[1]

    async def _multi_predict(self, request: predictor_pb.PredictRequest, context: Any) -> Message:
        model, answer = await self._answer("multiPredict", request, context)
        return predictor_pb.MultiPredictResponse(perModelResults={model: answer})

    async def _answer(
        self, method: str, request: predictor_pb.PredictRequest, context: Any
    ) -> tuple[str, predictor_pb.PredictResponse]:
        metadata = tuple((str(key), value) for key, value in context.invocation_metadata() or ())
        model = _model_id(metadata)
        self.predictions.append(Prediction(method, model, metadata, request))
        if model not in self.loaded:
            raise self._unknown(model)
        async with self._counted(model):
            delay_ms = self.predict_ms + (self._random.randrange(200) if self.slow else 0)
            await asyncio.sleep(delay_ms / 1000)
            await self._pass(method)
        if model in self.predict_failures:
            raise self.predict_failures[model]
        if request.text == "test:purge-models":
            self.loaded.clear()
        wanted = re.fullmatch(r"test:error:code=(\w+):message=(.*)", request.text, re.DOTALL)
        if wanted:
            raise ScriptedError(Status[wanted[1]], wanted[2])
        answer = predictor_pb.PredictResponse()
        answer.results.add(category=f"classification for {request.text} by model {model}", confidence=1.0)
        answer.results.add(category=request.modelName)
        return model, answer

    @asynccontextmanager
    async def _counted(self, model: str) -> AsyncIterator[None]:
        self.in_flight[model] += 1
        self.most_in_flight[model] = max(self.most_in_flight[model], self.in_flight[model])
        try:
            await self._notify()
            yield
        finally:
            self.in_flight[model] -= 1

    def _unknown(self, model: str) -> ScriptedError:
        if self.not_found == "triton":
            return ScriptedError(Status.UNAVAILABLE, f"Request for unknown model: '{model}' is not found")
        if self.not_found == "mlserver":
            return ScriptedError(Status.INVALID_ARGUMENT, f"Model {model} with version  not found")
        return ScriptedError(Status.NOT_FOUND, f"model {model!r} is not loaded")

    async def _load_progress(self, request: events_pb.LoadProgressRequest, _context: Any) -> Message:
        if not self.tells_progress:
            raise ScriptedError(Status.UNIMPLEMENTED, "this runtime tells no progress")
        if request.model_id not in self.progress:
            raise ScriptedError(Status.NOT_FOUND, f"no load of model {request.model_id!r} runs")
        return self.progress[request.model_id]

    # --- wiring -------------------------------------------------------------------------------

    def _handlers(self, *, management: bool, inference: bool) -> "list[grpc.GenericRpcHandler[Any, Any]]":
        handlers: list[grpc.GenericRpcHandler[Any, Any]] = []
        descriptors = []
        if management:
            calls = {
                "runtimeStatus": (self._status, pb.RuntimeStatusRequest),
                "loadModel": (self._load_model, pb.LoadModelRequest),
                "unloadModel": (self._unload_model, pb.UnloadModelRequest),
                "predictModelSize": (self._predict_size, pb.PredictModelSizeRequest),
                "modelSize": (self._model_size, pb.ModelSizeRequest),
            }
            handlers.append(self._service(self._service_name, calls))
            events = {"LoadProgress": (self._load_progress, events_pb.LoadProgressRequest)}
            handlers.append(self._service("modelmesh.v1.RuntimeEvents", events))
            if self._service_name == MANAGEMENT:
                descriptors.append(pb.DESCRIPTOR.services_by_name["ModelRuntime"])
        if inference:
            calls = {
                "predict": (self._predict, predictor_pb.PredictRequest),
                "multiPredict": (self._multi_predict, predictor_pb.PredictRequest),
            }
            handlers.append(self._service(PREDICTOR, calls))
            descriptors.append(predictor_pb.DESCRIPTOR.services_by_name["ExamplePredictor"])
        health = Health([descriptor.full_name for descriptor in descriptors])
        return [*handlers, *generic_handlers(health.methods() | Reflection(descriptors).methods())]

    def _service(self, name: str, calls: Mapping[str, tuple[Any, Any]]) -> "grpc.GenericRpcHandler[Any, Any]":
        return grpc.method_handlers_generic_handler(
            name,
            {
                method: grpc.unary_unary_rpc_method_handler(
                    self._scripted(method, answer),
                    request_deserializer=request.FromString,
                    response_serializer=lambda message: (
                        message if isinstance(message, bytes) else message.SerializeToString()
                    ),
                )
                for method, (answer, request) in calls.items()
            },
        )

    def _scripted(self, method: str, answer: Callable[[Any, Any], Awaitable[Message]]) -> Any:
        held_inside = ("loadModel", "unloadModel", "predict", "multiPredict")

        async def scripted(request: Any, context: Any) -> Message | bytes:
            self.counts[method] += 1
            await self._notify()
            try:
                queued = self._failures.get(method)
                if queued:
                    raise queued.pop(0)
                if method not in held_inside:
                    await self._pass(method)
                message = await answer(request, context)
            except ScriptedError as error:
                await context.abort(CODES[error.status], error.message)
            finally:
                await self._notify()
            return GARBAGE if method in self.garbage else message

        return scripted

    async def _pass(self, method: str) -> None:
        """Wait while a method is held."""
        gate = self._gates.get(method)
        if gate is not None:
            await gate.wait()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _model_id(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    found = dict(metadata)
    value = found.get("mm-model-id-bin", found.get("mm-model-id", ""))
    return value.decode() if isinstance(value, bytes) else value


def _target(listen: str) -> str:
    """A gRPC target of a listen text: a bare port is on loopback."""
    return f"127.0.0.1:{listen}" if listen.isdecimal() else listen
