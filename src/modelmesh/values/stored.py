"""The fields of stored records: JSON objects, of which each reader takes what it knows.

What is decoded here fits (`modelmesh.values.bounds`), whoever wrote it.
"""

import enum
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from modelmesh.values import bounds
from modelmesh.values.bounds import OutOfRangeError, Range
from modelmesh.values.memory import Memory

_Scalar = TypeVar("_Scalar", str, int, bool)

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""The escape of half a character beyond U+FFFF: with its other half it is text, alone it is none."""

_Kind = TypeVar("_Kind", bound=enum.Enum)


class RecordError(ValueError):
    """A stored value cannot be read as the record it should be."""


def encode_fields(fields: Mapping[str, Any]) -> bytes:
    """JSON without defaults: absent means null, 0, false or empty, as the old readers expect."""
    kept = {name: value for name, value in fields.items() if value}
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode()


def decode_fields(value: bytes) -> dict[str, Any]:
    """The fields of a JSON object. Raises RecordError."""
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise RecordError(f"a JSON object is expected, not {type(decoded).__name__}")
    if _SURROGATE.search(value):
        try:
            bounds.text("a text", json.dumps(decoded, ensure_ascii=False))
        except OutOfRangeError as error:
            raise RecordError(f"it cannot be written again: {error}") from error
    return decoded


def take(fields: dict[str, Any], name: str, kind: type[_Scalar], default: _Scalar) -> _Scalar:
    """Take a text, a number or a flag out of the fields; absent and null mean `default`. Raises RecordError."""
    value = fields.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RecordError(f"{name} is not of type {kind.__name__}")
    return value


def measure(fields: dict[str, Any], name: str, within: Range) -> int:
    """A time, a size or a count: moved into its range."""
    return within.clamp(take(fields, name, int, 0))


def memory(fields: dict[str, Any], name: str) -> Memory:
    """An amount of memory in bytes, moved into its range."""
    return Memory(measure(fields, name, bounds.BYTES))


def identity(fields: dict[str, Any], name: str, within: Range) -> int:
    """A number that identifies something: refused outside its range."""
    try:
        return within.check(name, take(fields, name, int, 0))
    except OutOfRangeError as error:
        raise RecordError(str(error)) from error


def enumerated(kind: type[_Kind], fields: dict[str, Any], name: str) -> _Kind:
    """A word of an enumeration. Raises RecordError."""
    try:
        return kind(fields.pop(name, None))
    except ValueError as error:
        raise RecordError(f"{name}: {error}") from error
