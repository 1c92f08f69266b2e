"""ONNX models through onnxruntime, on the CPU.

Names, types and shapes of inputs and outputs are those of the file. Maps of class probabilities (the ZipMap that
scikit-learn converters add) become a tensor [batch, classes] in the order of the classes.
"""

import functools
import logging
import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from modelmesh._core._server import OnnxSession
from modelmesh.runtime.contract import ModelSignature, TensorSpec
from modelmesh.runtime.errors import LoadError, RequestError, RuntimeFault
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

_log = logging.getLogger("modelmesh.runtime")

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_TYPES = {datatype: name for name, datatype in _DATATYPES.items()}

_NUMPY = {
    **{
        name: np.dtype(name.lower())
        for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
    },
    "BOOL": np.dtype(bool),
    "FP16": np.dtype("f2"),
    "FP32": np.dtype("f4"),
    "FP64": np.dtype("f8"),
    "BYTES": np.dtype(object),
}
_SOURCE = re.compile(r"\S+\.(?:h|cc|cpp):\d+ (?:[^()]*\([^()]*\)|\w+) ")
"""A place in onnxruntime's source and the function there."""

TRIED_ELEMENTS = 16 * 1024 * 1024
"""Inputs of one answer to be tried; more would take longer than a load should."""

# Calibrated on 11 files of 0.5 kB to 7 MB against the growth of the process's memory. Weights take 1.2 to 1.6 times
# their size (some are packed again for the matrix kernels); the content of attributes, above all trees and support
# vectors, takes 4.8 to 6.8 times its size in the file; an empty session takes 60 to 130 kB.
WEIGHT_FACTOR = 1.5
ATTRIBUTE_FACTOR = 6
SESSION_BYTES = 128 * 1024


class OnnxFormat:
    """Files of the ONNX standard; weights may lie in files beside them.

    Args:
        intra_op_threads: Threads of one inference. One, so that concurrent requests do not fight for the CPUs.
    """

    suffixes = (".onnx",)
    runs_code = False

    def __init__(self, intra_op_threads: int = 1) -> None:
        self._intra_op_threads = intra_op_threads

    def predict_size(self, path: Path) -> int:
        """From the file: weights and attributes apart. The measured size is the same number.

        The memory of the process is not asked: other loads change it meanwhile, and one file must have one size.
        """
        weight_bytes, file_bytes = _weights(path)
        attribute_bytes = max(0, file_bytes - weight_bytes)
        external_bytes = sum(file.stat().st_size for file in _external_files(path))
        weights = (min(weight_bytes, file_bytes) + external_bytes) * WEIGHT_FACTOR
        return int(weights) + attribute_bytes * ATTRIBUTE_FACTOR + SESSION_BYTES

    def load(self, path: Path) -> "OnnxModel":
        """Load a file.

        Raises:
            LoadError: INVALID_ARGUMENT: the file is broken, or uses a type or an operator that is not supported.
                FAILED_PRECONDITION: it cannot be read.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._intra_op_threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena never gives memory back before the session ends
        options.log_severity_level = 3
        try:
            path.open("rb").close()
        except OSError as error:
            raise LoadError(f"{path}: cannot be read ({error.strerror})", status=Status.FAILED_PRECONDITION) from error
        if (native := opened_natively(path, self._intra_op_threads)) is not None:
            return OnnxModel(path, native, self.predict_size(path))
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's own exceptions share no base
            cause = f"{type(error).__name__}: {_cause(error)}"
            raise LoadError(f"{path}: is no ONNX model that can be loaded here ({cause})") from error
        return OnnxModel(path, session, self.predict_size(path))


class OnnxModel:
    """An inference session."""

    def __init__(self, path: Path, session: Any, size_bytes: int) -> None:
        self._session = session
        self.size_bytes = size_bytes
        self._outputs = [output.name for output in session.get_outputs()]
        self.signature = ModelSignature(
            tuple(_spec(path, one) for one in session.get_inputs()),
            tuple(_spec(path, one) for one in session.get_outputs()),
            "onnx",
        )
        self._texts = {spec.name for spec in self.signature.inputs if spec.datatype == "BYTES"}
        self._maps = {spec.name: spec.datatype for spec in self.signature.outputs}
        self._tied = tied_sizes({one.name: one.shape for one in session.get_inputs()})
        self._try(path)
        self.native = session.native if isinstance(session, NativeSession) and not self._tied else None
        """Answers as `infer` does, without Python."""

    def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor]":
        """Run the session.

        Raises:
            RequestError: Sizes do not fit each other, or an operator refuses what it is given.
        """
        del parameters
        _check_tied(self._tied, inputs)
        feed = inputs
        if self._texts:
            feed = {name: _as_text(array) if name in self._texts else array for name, array in inputs.items()}
        try:
            values = self._session.run(self._outputs, feed)
        except Exception as error:
            if isinstance(error, MemoryError) or "allocat" in str(error).lower():
                raise
            # It answered when it was loaded, so what is left is the request: sizes that operators tie together.
            shapes = ", ".join(f"{name!r} {list(array.shape)}" for name, array in inputs.items())
            raise RequestError(
                f"the model cannot take inputs of these shapes and values: {shapes} ({_cause(error)})"
            ) from error
        return {
            name: _as_array(name, value, self._maps[name]) for name, value in zip(self._outputs, values, strict=True)
        }

    def _try(self, path: Path) -> None:
        """Let the model answer zeros of the smallest shapes, so that it is known to work here.

        Where more than the first size of an input is open, 1 may be too small for the model: that is no fault.
        """
        shapes = {spec.name: tuple(max(1, size) for size in spec.shape) for spec in self.signature.inputs}
        if sum(math.prod(shape) for shape in shapes.values()) > TRIED_ELEMENTS:
            return
        kinds = {spec.name: spec.datatype for spec in self.signature.inputs}
        feed = {
            name: np.full(shape, "", dtype=object) if name in self._texts else np.zeros(shape, _NUMPY[kinds[name]])
            for name, shape in shapes.items()
        }
        try:
            values = self._session.run(self._outputs, feed)
        except Exception as error:
            if any(-1 in spec.shape[1:] for spec in self.signature.inputs):
                _log.info("%s was not tried, it is open which sizes it takes (%s)", path, _cause(error))
                return
            raise LoadError(f"{path}: the model cannot answer ({_cause(error)})") from error
        for name, value in zip(self._outputs, values, strict=True):
            _as_array(name, value, self._maps[name])

    def close(self) -> None:
        """End the session."""
        session, self._session, self.native = self._session, None, None
        if isinstance(session, NativeSession):
            session.native.close()


class NativeSession:
    """What is used of `onnxruntime.InferenceSession`, by the shared library of its package and without its Python.

    Raises:
        RuntimeError: The model cannot be loaded, or takes or gives what is no plain tensor.
    """

    def __init__(self, library: Path, path: Path, threads: int) -> None:
        self.native = OnnxSession(library=library, model=path, threads=threads)
        if any(not shape for _, _, shape in self.native.inputs()):
            raise RuntimeError("an input has no axis")

    def get_inputs(self) -> "list[Described]":
        """Names, types and shapes."""
        return [Described(*one) for one in self.native.inputs()]

    def get_outputs(self) -> "list[Described]":
        """Names, types and shapes."""
        return [Described(*one) for one in self.native.outputs()]

    def run(self, _outputs: Sequence[str], feed: "Mapping[str, Tensor]") -> "list[Tensor]":
        """All outputs."""
        return self.native.run(dict(feed))


class Described:
    """An input or output, as onnxruntime's own class has it."""

    def __init__(self, name: str, datatype: str, shape: "list[int | str | None]") -> None:
        self.name = name
        self.type = _TYPES[datatype]
        self.shape = shape


def opened_natively(path: Path, threads: int) -> NativeSession | None:
    """A session without Python; None: there is no library for it, or the model is not of that kind, or is broken."""
    if (library := shared_library()) is None:
        return None
    try:
        return NativeSession(library, path, threads)
    except RuntimeError as error:
        _log.debug("%s is run through Python: %s", path, error)
        return None


@functools.cache
def shared_library() -> Path | None:
    """The library with the C API in onnxruntime's package, which not all of its packages have."""
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    return found[0] if found else None


def _spec(path: Path, value: Any) -> TensorSpec:
    if value.type.startswith("seq(map("):
        datatype = _DATATYPES.get(value.type.rpartition(",")[2].rstrip(")") + ")")
        if datatype is not None:
            return TensorSpec(value.name, datatype, (-1, -1))
    datatype = _DATATYPES.get(value.type)
    if datatype is None:
        raise LoadError(f"{path}: {value.name!r} is a {value.type}, which cannot be sent")
    return TensorSpec(value.name, datatype, tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _as_text(array: "Tensor") -> "Tensor":
    texts = np.empty(array.size, dtype=object)
    texts[:] = [item.decode() for item in array.ravel()]
    return texts.reshape(array.shape)


def _as_array(name: str, value: Any, datatype: str) -> "Tensor":
    """An output as a tensor; maps of class probabilities become rows, in the order of the classes.

    Raises:
        RuntimeFault: INTERNAL, it is no tensor.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list) and all(isinstance(row, dict) and row.keys() == value[0].keys() for row in value):
        return np.array([[row[key] for key in sorted(row)] for row in value], dtype=_NUMPY[datatype])
    raise RuntimeFault(f"output {name!r} is a {type(value).__name__} that is no tensor")


def tied_sizes(shapes: Mapping[str, Sequence[Any]]) -> dict[str, list[tuple[str, int]]]:
    """Where one open size, by its name in the graph, stands: input and axis. Those that stand once tie nothing."""
    places: dict[str, list[tuple[str, int]]] = {}
    for name, shape in shapes.items():
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                places.setdefault(size, []).append((name, axis))
    return {size: where for size, where in places.items() if len(where) > 1}


def _check_tied(tied: Mapping[str, Sequence[tuple[str, int]]], inputs: "Mapping[str, Tensor]") -> None:
    for size, places in tied.items():
        found = {name: inputs[name].shape[axis] for name, axis in places}
        if len(set(found.values())) > 1:
            said = ", ".join(f"{name!r} has {count}" for name, count in found.items())
            raise RequestError(f"the model wants one size {size!r} in several inputs, but {said}")


def _cause(error: Exception) -> str:
    """The message of onnxruntime, on one line and without the places in its source."""
    text = " ".join(str(error).split())
    return _SOURCE.sub("", text.rpartition("Status Message: ")[2])


# --- the file's layout ------------------------------------------------------------------------
# onnx.proto: ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.external_data = 13 (key 1, value 2).


def _fields(data: Any, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of the length-delimited fields of a message. Stops at what is no message."""
    position = start
    while position < end:
        tag, position = _varint(data, position, end)
        kind = tag & 7
        if kind == 0:
            _, position = _varint(data, position, end)
        elif kind in {1, 5}:
            position += 8 if kind == 1 else 4
        elif kind == 2:  # length-delimited
            length, position = _varint(data, position, end)
            if position + length > end:
                return
            yield tag >> 3, position, position + length
            position += length
        else:
            return


def _varint(data: Any, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return value, end


def _initializers(data: Any) -> Iterator[tuple[int, int]]:
    for graph, start, end in _fields(data, 0, len(data)):
        if graph == 7:
            for number, first, last in _fields(data, start, end):
                if number == 5:
                    yield first, last


def _weights(path: Path) -> tuple[int, int]:
    """Bytes of weights in a file, and of the file."""
    with path.open("rb") as file:
        if not (file_bytes := path.stat().st_size):
            return 0, 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return sum(end - start for start, end in _initializers(data)), file_bytes


def _external_files(path: Path) -> list[Path]:
    """Files beside the model that hold weights, each once; those that are not beside it are not looked at."""
    if not path.stat().st_size:
        return []
    locations: dict[str, None] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start, end in _initializers(data):
            for number, first, last in _fields(data, start, end):
                if number == 13:
                    entry = {key: bytes(data[a:b]) for key, a, b in _fields(data, first, last)}
                    if entry.get(1) == b"location":
                        locations[entry.get(2, b"").decode("utf-8", "replace")] = None
    # By their names, as onnxruntime does: in a Hugging Face cache both the model and its weights are links elsewhere.
    folder = Path(os.path.normpath(path.parent))
    files = [Path(os.path.normpath(folder / location)) for location in locations]
    return [file for file in files if file.is_relative_to(folder) and file.is_file()]
