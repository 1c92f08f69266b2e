"""The Open Inference Protocol, version 2, over an author's `infer`."""

import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from modelmesh._core._server import QuickModels
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.runtime import tensors
from modelmesh.runtime.batches import Batcher, only
from modelmesh.runtime.calls import Context, Method
from modelmesh.runtime.contract import Batching, ModelRuntime
from modelmesh.runtime.errors import RequestError, RuntimeFault, describe
from modelmesh.runtime.held import Held
from modelmesh.runtime.loaded import LoadedModels, Use, call, call_now
from modelmesh.runtime.pace import SLOW_US
from modelmesh.runtime.service import CallGate, service_methods

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor


class Inference:
    """Answers the protocol for one author's runtime.

    The model of a call is that of its metadata, else its `model_name`; a mesh in between writes the metadata, so
    that `model_name` may be the name the client knows. Versions are ignored: a ModelMesh model is immutable.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def __init__(
        self, runtime: ModelRuntime[Any], models: LoadedModels[Any], pool: Executor, gate: CallGate, *, threads: int
    ) -> None:
        self._runtime = runtime
        self._models = models
        self._pool = pool
        self._threads = threads
        self._gate = gate
        self.quick = QuickModels(f"/{self.descriptor.full_name}/ModelInfer")
        """Those whose calls the native core reads: it calls quick models itself, and holds the calls of those that take batches."""
        models.on_leave = self.quick.remove

    def methods(self) -> dict[str, Method]:
        """By path. The mesh loads and unloads, so two repository methods are left out."""
        return service_methods(
            self.descriptor,
            {
                "ServerLive": self._live,
                "ServerReady": self._ready,
                "ModelReady": self._model_ready,
                "ServerMetadata": self._metadata,
                "ModelMetadata": self._model_metadata,
                "ModelInfer": self._infer,
                "ModelStreamInfer": self._stream,
                "RepositoryIndex": self._index,
            },
            now={"ModelInfer": self._infer_now},
            after={"ModelInfer": self._after},
        )

    async def _live(self, _request: pb.ServerLiveRequest, _context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, _request: pb.ServerReadyRequest, _context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._runtime.is_ready())

    async def _metadata(self, _request: pb.ServerMetadataRequest, _context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=self._runtime.name, version=self._runtime.version)

    async def _model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        with self._models.use(_id(context, request.name)):
            return pb.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        with self._models.use(_id(context, request.name)) as use:
            signature = use.signature
        answer = pb.ModelMetadataResponse(name=request.name or use.id, platform=signature.platform)
        for tensor_list, specs in ((answer.inputs, signature.inputs), (answer.outputs, signature.outputs)):
            for spec in specs:
                tensor_list.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return answer

    async def _index(self, _request: pb.RepositoryIndexRequest, _context: Context) -> pb.RepositoryIndexResponse:
        answer = pb.RepositoryIndexResponse()
        for id_ in self._models.ids():
            answer.models.add(name=id_, state="READY")
        return answer

    async def _infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        with self._gate, self._models.use(_id(context, request.model_name)) as use:
            return _response(request, use, await only(await self._outputs(request, use)))

    async def _stream(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answers in the order of the requests. An error is an answer with its message, and the stream continues."""
        async for request in requests:
            try:
                with self._gate, self._models.use(_id(context, request.model_name)) as use:
                    outputs = await self._outputs(request, use)
                    if not isinstance(outputs, AsyncGenerator):
                        yield pb.ModelStreamInferResponse(infer_response=_response(request, use, outputs))
                        continue
                    async with aclosing(outputs) as answers:
                        async for one in answers:
                            yield pb.ModelStreamInferResponse(infer_response=_response(request, use, one))
            except Exception as error:  # noqa: BLE001 - answered
                failed = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                yield pb.ModelStreamInferResponse(error_message=describe(error), infer_response=failed)

    def _infer_now(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse | None:
        """The answer of a model whose calls run on the event loop; None: this call has to run elsewhere."""
        with self._gate, self._models.use(_id(context, request.model_name)) as use:
            if not use.pace.on_loop or use.batching is not None:
                return None
            inputs, parameters = _inputs(request, use), tensors.parameters_of(request)
            outputs, took = call_now(_timed, self._runtime.infer, use.model, inputs, parameters)
            self._note(use, took)
            return _response(request, use, outputs)

    def _after(
        self, request: pb.ModelInferRequest, context: Context, outputs: Callable[[], Any]
    ) -> pb.ModelInferResponse:
        """The answer of a model that the native core has had run."""
        with self._models.used(_id(context, request.model_name)) as use:
            return _response(request, use, call_now(outputs))

    def _note(self, use: Use[Any], took: tuple[float, float]) -> None:
        """A call of the model took that long: where does its next one run?"""
        was_on_loop = use.pace.on_loop
        use.pace.note(*took)
        if use.pace.on_loop != was_on_loop and use.batching is None:
            self._place(use)

    def _place(self, use: Use[Any]) -> None:
        """Have the native core call the model, or not."""
        pace, id_ = use.pace, use.id
        if not pace.on_loop or not use.stays:
            self.quick.remove(id_)
            return

        def was_slow(calls: int, took_us: float, computed_us: float) -> None:
            pace.note(took_us, computed_us, calls=calls)
            if not pace.on_loop:
                self.quick.remove(id_)

        native = getattr(self._runtime, "native", lambda _: None)(use.model)
        inputs, outputs = _specs(use)
        self.quick.put(
            id_,
            infer=native or partial(self._runtime.infer, use.model),
            inputs=inputs,
            outputs=outputs,
            slow_us=int(SLOW_US),
            was_slow=was_slow,
        )

    async def _outputs(
        self, request: pb.ModelInferRequest, use: Use[Any]
    ) -> "Mapping[str, Tensor] | AsyncGenerator[Mapping[str, Tensor], None]":
        """The model's answer; its answers, if its `infer` is a generator."""
        inputs, parameters = _inputs(request, use), tensors.parameters_of(request)
        batcher = use.batcher(lambda batching: self._batcher(use, batching))
        if batcher is not None:
            return await batcher.infer(inputs, parameters)
        return await self._answered(use, inputs, parameters)

    def _batcher(self, use: Use[Any], batching: Batching) -> Batcher:
        id_, again = use.id, use.again

        async def run(inputs: "Mapping[str, Tensor]", parameters: Mapping[str, Any]) -> Any:
            with again() as own:  # the callers of a batch may all go while it runs
                return await self._answered(own, inputs, parameters)

        def take(calls: Sequence[Held]) -> None:
            batcher.add([call for call in calls if self._enter(call, again())])

        batcher = Batcher(id_, run, batching, self._threads, turned_off=lambda: self.quick.remove(id_))
        if use.stays:
            inputs, outputs = _specs(use)
            self.quick.hold(id_, inputs=inputs, outputs=outputs, take=take)
        return batcher

    def _enter(self, call: Held, use: Use[Any]) -> bool:
        """Have a call count as one that uses the model, until it is over. False: there are too many, and it was refused."""
        gate = self._gate
        try:
            gate.__enter__()
        except RuntimeFault as error:
            call.stop(error.status, describe(error))
            return False

        def left() -> None:
            use.__exit__()
            gate.__exit__()

        use.__enter__()
        call.left = left
        return True

    async def _answered(
        self, use: Use[Any], inputs: "Mapping[str, Tensor]", parameters: Mapping[str, Any]
    ) -> "Mapping[str, Tensor] | AsyncGenerator[Mapping[str, Tensor], None]":
        infer: Any = self._runtime.infer
        if use.is_async:
            outputs = infer(use.model, inputs, parameters)
        else:
            timed = (_timed, infer, use.model, inputs, parameters)
            on_loop = use.pace.on_loop and use.batching is not None
            outputs, took = call_now(*timed) if on_loop else await call(self._pool, *timed)
            use.pace.never_on_loop |= not isinstance(outputs, Mapping)
            self._note(use, took)
        if inspect.isgenerator(outputs):
            outputs = self._in_threads(outputs)
        elif inspect.isawaitable(outputs):
            outputs = await outputs
        found: Mapping[str, Tensor] | AsyncGenerator[Mapping[str, Tensor], None] = outputs
        return found

    async def _in_threads(self, answers: "Generator[Any, Any, Any]") -> "AsyncGenerator[Mapping[str, Tensor], None]":
        """What a plain generator yields, each time from a thread of the pool."""
        try:
            while (one := await call(self._pool, next, answers, None)) is not None:
                yield one
        finally:
            await call(self._pool, answers.close)


def _timed(infer: Callable[..., Any], *arguments: object) -> tuple[Any, tuple[float, float]]:
    """What the method returns, how many microseconds it took, and how many of them its thread computed."""
    began_ns, computed_ns = time.perf_counter_ns(), time.thread_time_ns()
    outputs = infer(*arguments)
    return outputs, ((time.perf_counter_ns() - began_ns) / 1000, (time.thread_time_ns() - computed_ns) / 1000)


def _specs(use: Use[Any]) -> tuple[list[tuple[str, tuple[str, ...], tuple[int, ...]]], list[tuple[str, str]]]:
    """The inputs and outputs of a model, as the native core takes them."""
    inputs = [(spec.name, (spec.datatype, *spec.accepts), spec.shape) for spec in use.signature.inputs]
    return inputs, [(spec.name, spec.datatype) for spec in use.signature.outputs]


def _inputs(request: pb.ModelInferRequest, use: Use[Any]) -> "dict[str, Tensor]":
    tensors.check_inputs(request, use.signature.inputs)
    return tensors.inputs_of(request)


def _response(request: pb.ModelInferRequest, use: Use[Any], outputs: "Mapping[str, Tensor]") -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(
        model_name=request.model_name or use.id, model_version=request.model_version, id=request.id
    )
    tensors.fill_response(
        response,
        outputs,
        specs=use.signature.outputs,
        wanted=[output.name for output in request.outputs],
        raw=bool(request.raw_input_contents),
    )
    return response


def _id(context: Context, name: str) -> str:
    id_ = context.model_id() or name
    if not id_:
        raise RequestError("the request names no model: neither model_name nor metadata mm-model-id")
    return id_
