"""Requests and answers of the Open Inference Protocol as numpy arrays, as a runtime has them. Needs numpy."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.runtime.contract import TensorSpec
from modelmesh.runtime.errors import RequestError, RuntimeFault
from modelmesh.tensors import (
    FIELDS,
    LITTLE,
    TensorError,
    datatype_of,
    decode_raw,
    decode_typed,
    encode_raw,
    encode_typed,
)

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor


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
        if raw and tensor.HasField("contents"):
            raise RequestError(f"tensor {tensor.name!r} has contents, but the request has raw_input_contents; send one")
        try:
            if raw:
                arrays[tensor.name] = decode_raw(tensor.name, tensor.datatype, tensor.shape, raw[index])
            else:
                arrays[tensor.name] = decode_typed(tensor.name, tensor.datatype, tensor.shape, tensor.contents)
        except TensorError as error:
            raise RequestError(str(error)) from error
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
        if not _fits(tuple(tensor.shape), spec.shape):
            raise RequestError(
                f"tensor {tensor.name!r} has shape {list(tensor.shape)}, the model wants {list(spec.shape)} (-1: any)"
            )
    if wanted:
        raise RequestError(f"input {next(iter(wanted))!r} is missing")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    for got, want in zip(shape, wanted, strict=True):  # noqa: SIM110 - a generator costs each call a microsecond
        if want not in (got, -1):
            return False
    return True


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
                array = array.astype(LITTLE[found])
            datatype = _output_datatype(name, array, datatypes.get(name))
        except (ValueError, TypeError, OverflowError) as error:  # of the model, not of the request
            raise RuntimeFault(f"output {name!r} cannot be sent: {error}") from error
        chosen.append((name, array, datatype))
    raw = raw or any(datatype not in FIELDS for _, _, datatype in chosen)
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
    if "BYTES" in (spec, actual) or (spec != "BF16" and not np.can_cast(array.dtype, LITTLE[spec], "same_kind")):
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
        cast = array.astype(LITTLE[datatype])
    if cast.dtype.kind in "iu":
        return bool((cast == array).all())
    return bool((np.isfinite(cast) | ~np.isfinite(array.astype(np.float64))).all()) if cast.dtype.kind == "f" else True
