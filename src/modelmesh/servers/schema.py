"""A model's schema: names, types and shapes of its tensors, as a file beside it says. Source: spec/runtime-adapters.md 9."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelmesh.runtime.errors import LoadError
from modelmesh.servers.tree import MAX_TEXT_BYTES
from modelmesh.values.status import Status

DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES", "STRING"),
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output; -1 in the shape stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Schema:
    """Inputs and outputs; None: the file does not name them."""

    inputs: tuple[Tensor, ...] | None = None
    outputs: tuple[Tensor, ...] | None = None


def read_schema(path: Path) -> Schema:
    """Read a schema file.

    Raises:
        LoadError: FAILED_PRECONDITION: it cannot be read. INVALID_ARGUMENT: it is no schema; the message says where.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise LoadError(f"the schema {path}: {error.strerror}", status=Status.FAILED_PRECONDITION) from error
    if len(text) > MAX_TEXT_BYTES:
        raise LoadError(f"the schema {path} is larger than {MAX_TEXT_BYTES} bytes")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"the schema {path} is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise LoadError(f"the schema {path} must be an object with inputs and outputs")
    return Schema(_tensors(body, "inputs", path), _tensors(body, "outputs", path))


def _tensors(body: dict[str, Any], side: str, path: Path) -> tuple[Tensor, ...] | None:
    found = body.get(side)
    if found is None:
        return None
    if not isinstance(found, list):
        raise LoadError(f"the schema {path}: {side} must be a list")
    return tuple(_tensor(entry, f"the schema {path}: {side}[{number}]") for number, entry in enumerate(found))


def _tensor(entry: object, where: str) -> Tensor:
    if not isinstance(entry, dict):
        raise LoadError(f"{where} must be an object with name, datatype and shape")
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str) or not name:
        raise LoadError(f"{where}.name must be a text")
    if datatype not in DATATYPES:
        raise LoadError(f"{where}.datatype is {datatype!r}; known are {', '.join(DATATYPES)}")
    if not isinstance(shape, list) or not all(type(size) is int and -1 <= size < 2**63 for size in shape):
        raise LoadError(f"{where}.shape must be a list of whole numbers, -1 for any size")
    return Tensor(name, datatype, tuple(shape))
