"""Tensors of the Open Inference Protocol from and to plain lists, without numpy: the command line does not need it.

Raw tensors are little-endian, in row-major order; elements of BYTES follow their length in four bytes.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from modelmesh._proto import open_inference_pb2 as pb

CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""Datatypes to codes of `struct`; BF16 and BYTES have none."""

CONTENTS = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatypes to fields of typed contents; other integers are in `int_contents` or `uint_contents`."""


def shape_of(value: Any) -> list[int]:
    """The shape of nested lists; a scalar has none. Raises ValueError if they are ragged."""
    if not isinstance(value, list):
        return []
    shapes = [shape_of(one) for one in value]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("its rows have different lengths")
    return [len(value), *(shapes[0] if shapes else [])]


def flat(value: Any) -> Iterator[Any]:
    """The elements of nested lists, in row-major order."""
    if isinstance(value, list):
        for one in value:
            yield from flat(one)
    else:
        yield value


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """A raw tensor. Raises ValueError for a value that is none of the datatype."""
    if datatype == "BYTES":
        return b"".join(_counted(_text(value)) for value in values)
    for value in values:
        if isinstance(value, bool) != (datatype == "BOOL") or not isinstance(value, bool | int | float):
            raise ValueError(f"{value!r} is no {datatype}")
    try:
        if datatype == "BF16":
            return b"".join(_bfloat16(float(value)) for value in values)
        code = CODES[datatype]
        return struct.pack(f"<{len(values)}{code}", *values)
    except KeyError:
        raise ValueError(f"{datatype!r} is no datatype") from None
    except (struct.error, OverflowError) as error:
        raise ValueError(f"a value is no {datatype}: {error}") from error


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no BYTES: give a string")  # noqa: TRY004 - of what a person wrote
    return value.encode()


def _counted(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _bfloat16(value: float) -> bytes:
    """The upper half of a FP32, rounded to even."""
    if math.isnan(value):
        return b"\xc0\x7f"
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return struct.pack("<H", (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


def unpack(datatype: str, raw: bytes) -> list[Any]:
    """The elements of a raw tensor; BYTES as text, where they are UTF-8. Raises ValueError if it is none."""
    if datatype == "BYTES":
        return [_shown(one) for one in _cut(raw)]
    if datatype == "BF16":
        halves = struct.iter_unpack("<2s", raw) if len(raw) % 2 == 0 else ()
        return [struct.unpack("<f", b"\0\0" + half)[0] for (half,) in halves]
    code = CODES.get(datatype)
    if code is None or len(raw) % struct.calcsize(f"<{code}"):
        raise ValueError(f"{len(raw)} bytes are no {datatype}")
    return [value for (value,) in struct.iter_unpack(f"<{code}", raw)]


def _cut(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise ValueError("the elements of BYTES do not fit their lengths")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4 + length
        if at > len(raw):
            raise ValueError("the elements of BYTES do not fit their lengths")
        yield raw[at - length : at]


def _shown(text: bytes) -> str:
    return text.decode(errors="backslashreplace")


def nested(values: Sequence[Any], shape: Sequence[int]) -> Any:
    """Elements as nested lists of a shape; without dimensions, the one element.

    Raises:
        ValueError: There are not as many elements as the shape has.
    """
    if any(dimension < 0 for dimension in shape) or len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} elements do not have the shape {list(shape)}")
    return _nested(iter(values), list(shape))


def _nested(values: Iterator[Any], shape: list[int]) -> Any:
    if not shape:
        return next(values)
    return [_nested(values, shape[1:]) for _ in range(shape[0])]


def outputs_of(answer: pb.ModelInferResponse) -> list[dict[str, Any]]:
    """The outputs of an answer for machines: name, datatype, shape and nested data.

    Raises:
        ValueError: The answer contradicts itself.
    """
    if answer.raw_output_contents and len(answer.raw_output_contents) != len(answer.outputs):
        raise ValueError("some outputs are raw and some are not")
    found = []
    for place, output in enumerate(answer.outputs):
        if answer.raw_output_contents:
            values = unpack(output.datatype, answer.raw_output_contents[place])
        else:
            integers = "uint_contents" if output.datatype.startswith("U") else "int_contents"
            typed = getattr(output.contents, CONTENTS.get(output.datatype, integers))
            values = [_shown(one) for one in typed] if output.datatype == "BYTES" else list(typed)
        shape = list(output.shape)
        found.append({"name": output.name, "datatype": output.datatype, "shape": shape, "data": nested(values, shape)})
    return found
