"""What a runtime and the process of a model send each other over a socket: frames of a length, a kind, an id and a payload."""

import enum
import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.runtime.contract import Batching, ModelSignature, TensorSpec
from modelmesh.runtime.errors import RuntimeFault, describe, status_of
from modelmesh.runtime.tensors import fill_response, inputs_of, parameters_of
from modelmesh.tensors import datatype_of, decode_raw, encode_raw
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Outputs, Tensor

HEAD = struct.Struct("!IBI")
"""Bytes of the payload, kind, id of the call."""
MOST_BYTES = 1 << 30
"""Of a payload."""


class Kind(enum.IntEnum):
    """What a frame is."""

    LOADED = 1
    """The model is there: JSON of `Description`."""
    FAILED = 2
    """It could not be loaded: JSON of an error."""
    INFER = 3
    """A call: a `ModelInferRequest`."""
    CANCEL = 4
    """No caller waits for the call any more."""
    ANSWER = 5
    """The answer of a call: a `ModelInferResponse`."""
    PART = 6
    """One of several answers; the model waits for NEXT before it makes another."""
    END = 7
    """There are no more of them."""
    ERROR = 8
    """The call failed: JSON of an error."""
    NEXT = 9
    """The answer was taken."""


KINDS = {int(kind): kind for kind in Kind}


class BadFrameError(Exception):
    """The other side has sent what is no frame; the message says what."""


def frame(kind: Kind, call: int = 0, payload: bytes = b"") -> bytes:
    """A frame. Raises RuntimeFault: RESOURCE_EXHAUSTED, the payload is too large."""
    if len(payload) > MOST_BYTES:
        raise RuntimeFault(f"{len(payload)} bytes are too much for one call", status=Status.RESOURCE_EXHAUSTED)
    return HEAD.pack(len(payload), kind, call) + payload


def read_head(head: bytes) -> tuple[int, Kind, int]:
    """Bytes of the payload, kind, and id of the call. Raises BadFrameError."""
    length, kind, call = HEAD.unpack(head)
    if length > MOST_BYTES or kind not in KINDS:
        raise BadFrameError(f"a frame of kind {kind} and {length} bytes")
    return length, KINDS[kind], call


# --- payloads ---------------------------------------------------------------------------------


def write_request(inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]) -> bytes:
    """The inputs of a call."""
    request = pb.ModelInferRequest()
    for name, array in inputs.items():
        datatype = datatype_of(array)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(encode_raw(array, datatype))
    for name, value in parameters.items():
        fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
        setattr(request.parameters[name], fields[type(value)], value)
    return request.SerializeToString()


def read_request(payload: bytes) -> "tuple[dict[str, Tensor], dict[str, bool | int | float | str]]":
    """As it was written."""
    request = pb.ModelInferRequest.FromString(payload)
    return inputs_of(request), parameters_of(request)


def write_answer(outputs: "Outputs") -> bytes:
    """The outputs of a call. Raises RuntimeFault: INTERNAL, one is no tensor."""
    response = pb.ModelInferResponse()
    fill_response(response, outputs)
    return response.SerializeToString()


def read_answer(payload: bytes) -> "dict[str, Tensor]":
    """As it was written. Raises BadFrameError."""
    try:
        response = pb.ModelInferResponse.FromString(payload)
        contents = zip(response.outputs, response.raw_output_contents, strict=True)
        return {one.name: decode_raw(one.name, one.datatype, one.shape, raw) for one, raw in contents}
    except Exception as error:  # whatever protobuf and numpy raise
        raise BadFrameError(f"an answer that cannot be read: {error}") from error


def write_error(error: Exception) -> bytes:
    """An error of the model."""
    return json.dumps({"status": int(status_of(error)), "message": describe(error)}).encode()


def read_error(payload: bytes) -> RuntimeFault:
    """As it was written. Raises BadFrameError."""
    found = _read_json(payload)
    try:
        return RuntimeFault(str(found["message"]), status=Status(found["status"]))
    except (KeyError, ValueError) as error:
        raise BadFrameError(f"an error that cannot be read: {error}") from error


def write_loaded(signature: ModelSignature, batching: Batching | None, own_bytes: int) -> bytes:
    """What is known of a loaded model; `own_bytes` is the memory of its process that no other shares."""
    specs = {
        key: [[one.name, one.datatype, list(one.shape), list(one.accepts)] for one in found]
        for key, found in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }
    batches = None if batching is None else [batching.max_rows, batching.max_wait_ms]
    return json.dumps({**specs, "platform": signature.platform, "batching": batches, "bytes": own_bytes}).encode()


def read_loaded(payload: bytes) -> tuple[ModelSignature, Batching | None, int]:
    """As it was written. Raises BadFrameError."""
    found = _read_json(payload)
    try:
        inputs, outputs = (
            tuple(TensorSpec(str(a), str(b), tuple(map(int, c)), tuple(map(str, d))) for a, b, c, d in found[key])
            for key in ("inputs", "outputs")
        )
        batches = None if found["batching"] is None else Batching(*found["batching"])
        return ModelSignature(inputs, outputs, str(found["platform"])), batches, int(found["bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadFrameError(f"a description that cannot be read: {error}") from error


def _read_json(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadFrameError(f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadFrameError(f"a {type(found).__name__} instead of an object")
    return found
