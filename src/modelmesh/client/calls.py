"""Each call of the client as a value: what is sent where, and how its answer is read. No I/O."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.message import Message

from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.client.errors import DeadlineExceededError, ModelMeshError
from modelmesh.client.models import ModelStatus, status_of
from modelmesh.values.priority import Priority
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")
Header = tuple[str, str | bytes]

DEFAULT_TIMEOUT_S = 60.0
"""For a whole call, the load of its model and repetitions with it."""
FIRST_POLL_S = 0.05
LONGEST_POLL_S = 1.0
"""Between two questions whether a model is ready; each pause is twice as long as the one before."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A unary call.

    Args:
        method: Its path, `/pkg.Service/Method`.
        request: What is sent.
        answer: The message that comes back.
        read: What the caller gets of it. Raises ValueError if the answer contradicts itself.
        headers: Beside those of the client.
    """

    method: str
    request: Message
    answer: type[Message]
    read: Callable[[Any], T]
    headers: tuple[Header, ...] = ()

    def result(self, answer: Message) -> T:
        """What the caller gets. Raises ModelMeshError (INTERNAL) if the answer cannot be read."""
        try:
            return self.read(answer)
        except ValueError as error:
            raise ModelMeshError(Status.INTERNAL, f"the answer cannot be read: {error}") from error


def infer(
    model: str,
    inputs: "Mapping[str, ArrayLike]",
    *,
    vmodel: bool,
    outputs: Sequence[str] | None,
    bfloat16: Collection[str],
    priority: str | None,
) -> "Call[dict[str, NDArray[Any]]]":
    """An inference; see `Client.infer`."""
    request = infer_request(model, inputs, outputs=outputs or (), bfloat16=bfloat16)
    headers = _infer_headers(model, vmodel=vmodel, priority=priority)
    return Call(_inference("ModelInfer"), request, pb.ModelInferResponse, arrays_of, headers)


def stream(
    model: str,
    inputs: "Mapping[str, ArrayLike]",
    *,
    vmodel: bool,
    outputs: Sequence[str] | None,
    bfloat16: Collection[str],
    priority: str | None,
) -> "Call[dict[str, NDArray[Any]]]":
    """An inference that is answered more than once; see `Client.stream`. `read` is for each answer."""
    request = infer_request(model, inputs, outputs=outputs or (), bfloat16=bfloat16)
    headers = _infer_headers(model, vmodel=vmodel, priority=priority)
    return Call(_inference("ModelStreamInfer"), request, pb.ModelStreamInferResponse, _arrays_of_one, headers)


def _arrays_of_one(answer: pb.ModelStreamInferResponse) -> "dict[str, NDArray[Any]]":
    if answer.error_message:
        raise ModelMeshError(Status.UNKNOWN, answer.error_message)
    return arrays_of(answer.infer_response)


def ready(model: str, *, vmodel: bool) -> Call[bool]:
    """Whether a model is ready; a mesh loads it first."""
    headers = _vmodel_header(model) if vmodel else ()
    request = pb.ModelReadyRequest(name=model)
    return Call(_inference("ModelReady"), request, pb.ModelReadyResponse, lambda answer: bool(answer.ready), headers)


def status(model: str) -> Call[ModelStatus]:
    """Where a model is."""
    return _management("getModelStatus", mesh.GetStatusRequest(modelId=model), model)


def register(model: str, *, kind: str, path: str, key: str, load: bool, wait: bool) -> Call[ModelStatus]:
    """A registration; see `Client.register`."""
    info = mesh.ModelInfo(type=kind, path=path, key=key)
    request = mesh.RegisterModelRequest(modelId=model, modelInfo=info, loadNow=load, sync=wait)
    return _management("registerModel", request, model)


def ensure_loaded(model: str, *, wait: bool) -> Call[ModelStatus]:
    """A load; see `Client.ensure_loaded`."""
    return _management("ensureLoaded", mesh.EnsureLoadedRequest(modelId=model, sync=wait), model)


def unregister(model: str) -> Call[None]:
    """The end of a registration."""
    request = mesh.UnregisterModelRequest(modelId=model)
    return Call("/mmesh.ModelMesh/unregisterModel", request, mesh.UnregisterModelResponse, lambda _: None)


def infer_request(
    model: str, inputs: "Mapping[str, ArrayLike]", *, outputs: Sequence[str] = (), bfloat16: Collection[str] = ()
) -> pb.ModelInferRequest:
    """The message of an inference, its tensors raw.

    Args:
        model: Its name.
        inputs: By name; what is no array becomes one as `numpy.asarray` has it.
        outputs: Which to answer; empty: all.
        bfloat16: Inputs to send as BF16, which numpy does not have; the arrays are of floats.

    Raises:
        ValueError: Names the input that is no tensor.
    """
    np, tensors = _numpy()
    missing = sorted(set(bfloat16) - inputs.keys())
    if missing:
        raise ValueError(f"bfloat16 names {missing[0]!r}, which is no input")
    request = pb.ModelInferRequest(model_name=model)
    for name, value in inputs.items():
        try:
            array = np.asarray(value)
            datatype = tensors.datatype_of(array)
            if name in bfloat16:
                datatype = _as_bfloat16(datatype)
            raw = tensors.encode_raw(array, datatype)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"input {name!r}: {error}") from error
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _as_bfloat16(datatype: str) -> str:
    if datatype not in {"FP16", "FP32", "FP64"}:
        raise ValueError(f"{datatype} is not sent as BF16, only floats are")
    return "BF16"


def arrays_of(answer: pb.ModelInferResponse) -> "dict[str, NDArray[Any]]":
    """The outputs of an answer by name, raw or typed; the arrays are read-only.

    Raises:
        ValueError: The answer contradicts itself.
    """
    _, tensors = _numpy()
    raw = answer.raw_output_contents
    if raw and len(raw) != len(answer.outputs):
        raise ValueError(f"it has {len(answer.outputs)} outputs and {len(raw)} raw contents")
    arrays: dict[str, NDArray[Any]] = {}
    for place, output in enumerate(answer.outputs):
        if output.name in arrays:
            raise ValueError(f"output {output.name!r} comes twice")
        if raw:
            arrays[output.name] = tensors.decode_raw(output.name, output.datatype, output.shape, raw[place])
        else:
            arrays[output.name] = tensors.decode_typed(output.name, output.datatype, output.shape, output.contents)
    return arrays


def checked_timeout(timeout_s: float) -> float:
    """A time-out as it was given. Raises ValueError if it is none."""
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s is {timeout_s}; it is a number of seconds above 0")
    return timeout_s


def not_ready(model: str, timeout_s: float) -> DeadlineExceededError:
    """The error of a wait that was without success."""
    return DeadlineExceededError(Status.DEADLINE_EXCEEDED, f"{model} was not ready after {timeout_s:g} s")


def _numpy() -> tuple[Any, Any]:
    """Imported when tensors are needed: management does without numpy."""
    try:
        import numpy as np

        from modelmesh import tensors
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("infer needs numpy: pip install pymodelmesh[client]", name=error.name) from error
    return np, tensors


def _inference(method: str) -> str:
    return f"/inference.GRPCInferenceService/{method}"


def _vmodel_header(name: str) -> tuple[Header, ...]:
    return (("mm-vmodel-id-bin", name.encode()),)


def _infer_headers(model: str, *, vmodel: bool, priority: str | None) -> tuple[Header, ...]:
    headers = _vmodel_header(model) if vmodel else ()
    return headers if priority is None else (*headers, ("mm-priority", Priority.parse(priority).word))


def _management(method: str, request: Message, model: str) -> Call[ModelStatus]:
    return Call(f"/mmesh.ModelMesh/{method}", request, mesh.ModelStatusInfo, lambda info: status_of(model, info))
