"""One tensor of the Open Inference Protocol to a numpy array and back. Needs numpy.

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
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelmesh._proto import open_inference_pb2 as pb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

LITTLE = {
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
"""Datatypes to numpy's names of their elements; BF16 and BYTES have none."""

FIELDS = {
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
"""Datatypes to fields of typed contents; FP16 and BF16 have none."""

_DTYPES = {name: np.dtype(code) for name, code in LITTLE.items()}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_OBJECTS: dict[str, tuple[type, ...]] = {
    "BYTES": (str, bytes),
    "BOOL": (bool, np.bool_),
    "INT64": (int, np.integer),
    "FP64": (float, np.floating),
}

DATATYPES = (*LITTLE, "BF16", "BYTES")
"""Every datatype of the protocol."""

_MAX_ELEMENTS = 2**31
"""More elements do not fit into one message; such a shape is wrong, or an attack on the multiplication."""


class TensorError(ValueError):
    """What was received is no tensor; the message names it and the reason."""


def decode_raw(name: str, datatype: str, shape: Sequence[int], data: bytes) -> "Tensor":
    """An array over raw bytes; not copied except for BF16 and BYTES, and read-only.

    Raises:
        TensorError: Names the tensor and what is wrong: its datatype, its shape, the number of bytes.
    """
    count = _elements(name, shape)
    if datatype == "BYTES":
        return _objects(_split(name, data, count), shape)
    dtype = _DTYPES.get(datatype)
    if dtype is None and datatype != "BF16":
        raise _unknown(name, datatype)
    width = 2 if dtype is None else dtype.itemsize
    if len(data) != count * width:
        raise TensorError(
            f"tensor {name!r}: {datatype} of shape {list(shape)} takes {count * width} bytes, not {len(data)}"
        )
    if dtype is None:
        return _readonly((np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32), shape)
    return np.frombuffer(data, dtype).reshape(tuple(shape))


def decode_typed(name: str, datatype: str, shape: Sequence[int], contents: pb.InferTensorContents) -> "Tensor":
    """An array of the typed contents of a tensor.

    Raises:
        TensorError: The elements are in another field, are not as many as the shape says, or out of the
            datatype's range.
    """
    count = _elements(name, shape)
    field = FIELDS.get(datatype)
    if field is None:
        if datatype in DATATYPES:
            raise TensorError(f"tensor {name!r}: {datatype} has no typed contents, send it in raw_input_contents")
        raise _unknown(name, datatype)
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if filled and filled != [field]:
        raise TensorError(f"tensor {name!r}: elements of {datatype} belong in {field}, not in {', '.join(filled)}")
    values = getattr(contents, field)
    if len(values) != count:
        raise TensorError(f"tensor {name!r}: shape {list(shape)} has {count} elements, {field} has {len(values)}")
    if datatype == "BYTES":
        return _objects(values, shape)
    dtype = np.dtype(LITTLE[datatype])
    wide = np.array(values, dtype="<i8" if dtype.kind == "i" else "<u8" if dtype.kind == "u" else dtype)
    if dtype.kind in "iu" and count and not (np.iinfo(dtype).min <= wide.min() and wide.max() <= np.iinfo(dtype).max):
        raise TensorError(f"tensor {name!r}: an element is out of the range of {datatype}")
    return _readonly(wide.astype(dtype), shape)


def datatype_of(array: "Tensor") -> str:
    """The protocol's name for an array's type; text and bytes are BYTES, and objects what all of them are.

    Raises:
        ValueError: The protocol has none (complex numbers, dates), or objects are of several kinds.
    """
    dtype = array.dtype
    if (name := _NAMES.get(dtype)) is not None:
        return name
    if dtype.kind == "O":
        return _datatype_of_objects(array)
    if dtype.kind in "SUT":
        return "BYTES"
    name = _NAMES.get(dtype.newbyteorder("<"))
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
    return array.astype(_DTYPES[datatype], copy=False).tobytes()


def encode_typed(array: "Tensor", datatype: str) -> pb.InferTensorContents:
    """The typed contents of an array as that datatype, which is neither FP16 nor BF16."""
    contents = pb.InferTensorContents()
    values: Iterable[Any] = _to_bytes(array) if datatype == "BYTES" else array.astype(LITTLE[datatype]).ravel().tolist()
    getattr(contents, FIELDS[datatype]).extend(values)
    return contents


def _unknown(name: str, datatype: str) -> TensorError:
    return TensorError(f"tensor {name!r}: unknown datatype {datatype!r}; known are {', '.join(DATATYPES)}")


def _elements(name: str, shape: Sequence[int]) -> int:
    if min(shape, default=0) < 0:
        raise TensorError(f"tensor {name!r}: shape {list(shape)} has a negative size")
    count = math.prod(shape)
    if count > _MAX_ELEMENTS:
        raise TensorError(f"tensor {name!r}: shape {list(shape)} has {count} elements, more than a message can hold")
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
        raise TensorError(f"tensor {name!r}: raw BYTES end within an element, at byte {position} of {len(data)}")
    if len(items) != count:
        raise TensorError(f"tensor {name!r}: the shape has {count} elements, the raw BYTES have {len(items)}")
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
