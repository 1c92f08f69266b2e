"""Tensors of the Open Inference Protocol to numpy arrays and back. Needs numpy.

| datatype | array | typed field |
|---|---|---|
| BOOL | bool | `bool_contents` |
| INT8 INT16 INT32 | the same | `int_contents` |
| UINT8 UINT16 UINT32 | the same | `uint_contents` |
| INT64, UINT64 | the same | `int64_contents`, `uint64_contents` |
| FP16 | float16 | none: raw only |
| BF16 | float32 (numpy has no bfloat16) | none: raw only |
| FP32, FP64 | the same | `fp32_contents`, `fp64_contents` |
| BYTES | object, of `bytes` | `bytes_contents` |

Raw tensors are little-endian and without padding; an element of BYTES is preceded by its length as 4 bytes.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.runtime.contract import TensorSpec
from modelmesh.runtime.errors import RequestError, RuntimeFault

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

_LITTLE = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_NAMES = {np.dtype(code): name for name, code in _LITTLE.items()}

_OBJECTS: dict[str, tuple[type, ...]] = {
    "BYTES": (str, bytes),
    "BOOL": (bool, np.bool_),
    "INT64": (int, np.integer),
    "FP64": (float, np.floating),
}

DATATYPES = (*_LITTLE, "BF16", "BYTES")
"""Every datatype of the protocol."""

_MAX_ELEMENTS = 2**31
"""More cannot come in one message; a shape that says so is wrong, or an attack on the multiplication."""


# --- one tensor -------------------------------------------------------------------------------


def decode_raw(name: str, datatype: str, shape: Sequence[int], data: bytes) -> "Tensor":
    """An array over raw bytes; not copied except for BF16 and BYTES, and read-only.

    Raises:
        RequestError: Names the tensor and what is wrong: its datatype, its shape, the number of bytes.
    """
    count = _elements(name, shape)
    if datatype == "BYTES":
        return _objects(_split(name, data, count), shape)
    width = 2 if datatype == "BF16" else _dtype(name, datatype).itemsize
    if len(data) != count * width:
        raise RequestError(
            f"tensor {name!r}: {datatype} of shape {list(shape)} takes {count * width} bytes, not {len(data)}"
        )
    if datatype == "BF16":
        return _readonly((np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32), shape)
    return np.frombuffer(data, _LITTLE[datatype]).reshape(tuple(shape))


def decode_typed(name: str, datatype: str, shape: Sequence[int], contents: pb.InferTensorContents) -> "Tensor":
    """An array of the typed contents of a tensor.

    Raises:
        RequestError: The elements are in another field, are not as many as the shape says, or out of the
            datatype's range.
    """
    count = _elements(name, shape)
    field = _FIELDS.get(datatype)
    if field is None:
        if datatype in DATATYPES:
            raise RequestError(f"tensor {name!r}: {datatype} has no typed contents, send it in raw_input_contents")
        raise _unknown(name, datatype)
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if filled and filled != [field]:
        raise RequestError(f"tensor {name!r}: elements of {datatype} belong in {field}, not in {', '.join(filled)}")
    values = getattr(contents, field)
    if len(values) != count:
        raise RequestError(f"tensor {name!r}: shape {list(shape)} has {count} elements, {field} has {len(values)}")
    if datatype == "BYTES":
        return _objects(values, shape)
    dtype = np.dtype(_LITTLE[datatype])
    wide = np.array(values, dtype="<i8" if dtype.kind == "i" else "<u8" if dtype.kind == "u" else dtype)
    if dtype.kind in "iu" and count and not (np.iinfo(dtype).min <= wide.min() and wide.max() <= np.iinfo(dtype).max):
        raise RequestError(f"tensor {name!r}: an element is out of the range of {datatype}")
    return _readonly(wide.astype(dtype), shape)


def datatype_of(array: "Tensor") -> str:
    """The protocol's name for an array's type; text and bytes are BYTES, and objects what all of them are.

    Raises:
        ValueError: The protocol has none (complex numbers, dates), or objects are of several kinds.
    """
    if array.dtype.kind == "O":
        return _datatype_of_objects(array)
    if array.dtype.kind in "SUT":
        return "BYTES"
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise ValueError(f"the Open Inference Protocol has no datatype for {array.dtype}")
    return name


def _datatype_of_objects(array: "Tensor") -> str:
    kinds = {type(item) for item in array.ravel().tolist()}
    for datatype, taken in _OBJECTS.items():
        if kinds and all(issubclass(kind, taken) for kind in kinds) and (bool not in kinds or datatype == "BOOL"):
            return datatype
    if not kinds:
        return "BYTES"
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(f"objects of the kinds {names} are no tensor; make them text or numbers of one kind")


def encode_raw(array: "Tensor", datatype: str) -> bytes:
    """The raw bytes of an array as that datatype."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in _to_bytes(array))
    if datatype == "BF16":
        bits = np.ascontiguousarray(array, "<f4").view("<u4")
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        # Rounding could carry a NaN into infinity; keep it a NaN.
        nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        return np.where(nan, np.uint32(0x7FC0), rounded).astype("<u2").tobytes()
    return np.ascontiguousarray(array, _LITTLE[datatype]).tobytes()


def encode_typed(array: "Tensor", datatype: str) -> pb.InferTensorContents:
    """The typed contents of an array as that datatype, which is neither FP16 nor BF16."""
    contents = pb.InferTensorContents()
    values: Iterable[Any] = (
        _to_bytes(array) if datatype == "BYTES" else array.astype(_LITTLE[datatype]).ravel().tolist()
    )
    getattr(contents, _FIELDS[datatype]).extend(values)
    return contents


def _dtype(name: str, datatype: str) -> "np.dtype[Any]":
    code = _LITTLE.get(datatype)
    if code is None:
        raise _unknown(name, datatype)
    return np.dtype(code)


def _unknown(name: str, datatype: str) -> RequestError:
    return RequestError(f"tensor {name!r}: unknown datatype {datatype!r}; known are {', '.join(DATATYPES)}")


def _elements(name: str, shape: Sequence[int]) -> int:
    if any(size < 0 for size in shape):
        raise RequestError(f"tensor {name!r}: shape {list(shape)} has a negative size")
    count = math.prod(shape)
    if count > _MAX_ELEMENTS:
        raise RequestError(f"tensor {name!r}: shape {list(shape)} has {count} elements, more than a message can hold")
    return count


def _split(name: str, data: bytes, count: int) -> list[bytes]:
    items, position = [], 0
    while position < len(data):
        if position + 4 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, position)
        if position + 4 + length > len(data):
            break
        items.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    if position != len(data):
        raise RequestError(f"tensor {name!r}: raw BYTES end within an element, at byte {position} of {len(data)}")
    if len(items) != count:
        raise RequestError(f"tensor {name!r}: the shape has {count} elements, the raw BYTES have {len(items)}")
    return items


def _objects(items: Iterable[bytes], shape: Sequence[int]) -> "Tensor":
    listed = list(items)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return _readonly(array, shape)


def _readonly(array: "Tensor", shape: Sequence[int]) -> "Tensor":
    shaped = array.reshape(tuple(shape))
    shaped.flags.writeable = False
    return shaped


def _to_bytes(array: "Tensor") -> list[bytes]:
    return [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]


# --- whole messages ---------------------------------------------------------------------------


def inputs_of(request: pb.ModelInferRequest) -> "dict[str, Tensor]":
    """The inputs of a request by name.

    Raises:
        RequestError: Raw and typed contents are mixed, a raw entry is missing or superfluous, a name comes twice,
            or a tensor does not fit its shape and datatype.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(
            f"the request has {len(request.inputs)} inputs and {len(raw)} raw_input_contents; send one per input"
        )
    arrays: dict[str, Tensor] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise RequestError(f"tensor {tensor.name!r} comes twice")
        if not raw:
            arrays[tensor.name] = decode_typed(tensor.name, tensor.datatype, tensor.shape, tensor.contents)
        elif tensor.HasField("contents"):
            raise RequestError(f"tensor {tensor.name!r} has contents, but the request has raw_input_contents; send one")
        else:
            arrays[tensor.name] = decode_raw(tensor.name, tensor.datatype, tensor.shape, raw[index])
    return arrays


def check_inputs(request: pb.ModelInferRequest, specs: Sequence[TensorSpec]) -> None:
    """Compare names, datatypes and shapes of a request with a model's signature.

    Raises:
        RequestError: Names the first tensor that does not fit, and what the model wants.
    """
    if not specs:
        return
    wanted = {spec.name: spec for spec in specs}
    for tensor in request.inputs:
        spec = wanted.pop(tensor.name, None)
        if spec is None:
            known = ", ".join(repr(one.name) for one in specs)
            raise RequestError(f"the model has no input {tensor.name!r}; its inputs are {known}")
        if tensor.datatype != spec.datatype and tensor.datatype not in spec.accepts:
            raise RequestError(f"tensor {tensor.name!r} is {tensor.datatype}, the model wants {spec.datatype}")
        if len(tensor.shape) != len(spec.shape) or any(
            want not in {-1, got} for got, want in zip(tensor.shape, spec.shape, strict=True)
        ):
            raise RequestError(
                f"tensor {tensor.name!r} has shape {list(tensor.shape)}, the model wants {list(spec.shape)} (-1: any)"
            )
    if wanted:
        raise RequestError(f"input {next(iter(wanted))!r} is missing")


def parameters_of(request: pb.ModelInferRequest) -> dict[str, bool | int | float | str]:
    """The parameters of a request as Python values."""
    values = {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            values[name] = getattr(parameter, kind)
    return values


def fill_response(
    response: pb.ModelInferResponse,
    outputs: "Mapping[str, Tensor]",
    *,
    specs: Sequence[TensorSpec] = (),
    wanted: Sequence[str] = (),
    raw: bool = True,
) -> None:
    """Put arrays into a response.

    Args:
        response: Gets the outputs.
        outputs: By name, in order.
        specs: Of the outputs; those named there get their datatype.
        wanted: Names to answer, in this order; empty: all.
        raw: As raw contents; typed ones otherwise, unless FP16 or BF16 is among them, which have none.

    Raises:
        RequestError: `wanted` names no output.
        RuntimeFault: INTERNAL, an array is no tensor, or cannot be what its spec says without a loss.
    """
    datatypes = {spec.name: spec.datatype for spec in specs}
    chosen: list[tuple[str, Tensor, str]] = []
    for name in wanted or outputs:
        if name not in outputs:
            known = ", ".join(repr(one) for one in outputs)
            raise RequestError(f"the model has no output {name!r}; its outputs are {known}")
        try:
            array = np.asarray(outputs[name])
            if array.dtype.kind == "O" and (found := datatype_of(array)) != "BYTES":
                array = array.astype(_LITTLE[found])
            datatype = _output_datatype(name, array, datatypes.get(name))
        except (ValueError, TypeError, OverflowError) as error:  # of the model, not of the request
            raise RuntimeFault(f"output {name!r} cannot be sent: {error}") from error
        chosen.append((name, array, datatype))
    raw = raw or any(datatype not in _FIELDS for _, _, datatype in chosen)
    for name, array, datatype in chosen:
        tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(encode_raw(array, datatype))
        else:
            tensor.contents.CopyFrom(encode_typed(array, datatype))


def _output_datatype(name: str, array: "Tensor", spec: str | None) -> str:
    actual = datatype_of(array)
    if spec is None or spec == actual:
        return actual
    if "BYTES" in (spec, actual) or (spec != "BF16" and not np.can_cast(array.dtype, _LITTLE[spec], "same_kind")):
        raise RuntimeFault(f"output {name!r} is {actual}, the model's signature says {spec}")
    if not _keeps_values(array, spec):
        raise RuntimeFault(
            f"output {name!r} has a value that {spec}, the datatype of the model's signature, cannot hold"
        )
    return spec


def _keeps_values(array: "Tensor", datatype: str) -> bool:
    """Whether whole numbers stay what they are, and finite ones finite; rounding is what a smaller float is for."""
    if datatype == "BF16" or array.size == 0:
        return True
    with np.errstate(over="ignore"):
        cast = array.astype(_LITTLE[datatype])
    if cast.dtype.kind in "iu":
        return bool((cast == array).all())
    return bool((np.isfinite(cast) | ~np.isfinite(array.astype(np.float64))).all()) if cast.dtype.kind == "f" else True
