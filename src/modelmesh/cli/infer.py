"""`modelmesh infer`: one inference from the command line."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelmesh.cli.models import LOAD_TIMEOUT_S, LOCAL, Address, AsJson, Authority
from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh._proto import open_inference_pb2 as pb
    from modelmesh.cli.client import Client

SERVICE = "inference.GRPCInferenceService"
Header = tuple[str, str | bytes]
SHOWN = 200
"""Characters of an output that people see; `--json` has all of it."""


def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id of the model, or a vmodel.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...",
            help="An input of the model: JSON, nested as its shape, or text. A batch of one needs no list around it.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="All inputs: a JSON file (an object of inputs by name, the list of the only one, or a request of the Open"
            " Inference Protocol), an array as .npy, or - for JSON on standard input.",
        ),
    ] = None,
    output: Annotated[list[str] | None, typer.Option("--output", help="Only this output; again for more.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="The model answers more than once: show each answer when it comes.")
    ] = False,
    priority: Annotated[
        str | None,
        typer.Option("--priority", help="The class of the call: high, normal or low. Access rules may lower it."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, help="Seconds to wait, for a load of the model, too.")
    ] = LOAD_TIMEOUT_S,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Call a model; it is loaded if it is not."""
    from modelmesh._proto import open_inference_pb2 as pb
    from modelmesh.cli.client import connect

    given = _given(values or [], data)
    claimed = _priority(priority)
    with connect(address, ca) as client:
        headers: list[Header] = [_id_header(client, model), *claimed]
        described = client.call(
            f"{SERVICE}/ModelMetadata",
            pb.ModelMetadataRequest(name=model),
            pb.ModelMetadataResponse,
            timeout_s=timeout,
            doing=f"loading {model}",
            headers=headers,
        )
        request = build(model, given, described)
        request.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in output or [])
        if stream:
            for answer in _streamed(client, request, timeout_s=timeout, headers=headers):
                _show(answer, as_json=as_json)
            return
        answer = client.call(
            f"{SERVICE}/ModelInfer",
            request,
            pb.ModelInferResponse,
            timeout_s=timeout,
            doing=f"calling {model}",
            headers=headers,
        )
    _show(answer, as_json=as_json)


def _streamed(
    client: "Client", request: "pb.ModelInferRequest", *, timeout_s: float, headers: list[Header]
) -> "Iterator[pb.ModelInferResponse]":
    """The answers of a model that answers more than once, as they come."""
    from modelmesh._proto import open_inference_pb2 as pb

    found = client.answers(
        f"{SERVICE}/ModelStreamInfer",
        request,
        pb.ModelStreamInferResponse,
        timeout_s=timeout_s,
        doing=f"calling {request.model_name}",
        headers=headers,
    )
    for answer in found:
        if answer.error_message:
            say(f"modelmesh: calling {request.model_name}: {answer.error_message}", error=True)
            raise typer.Exit(1)
        yield answer.infer_response


def _show(answer: "pb.ModelInferResponse", *, as_json: bool) -> None:
    from modelmesh.cli.tensors import outputs_of

    try:
        outputs = outputs_of(answer)
    except ValueError as error:
        say(f"the answer cannot be read: {error}", error=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"model_name": answer.model_name, "outputs": outputs}))
        return
    width = max((len(one["name"]) for one in outputs), default=0)
    for one in outputs:
        text = json.dumps(one["data"], ensure_ascii=False)
        text = text if len(text) <= SHOWN else text[:SHOWN] + " …"
        say(f"{one['name']:<{width}}  {one['datatype']} {one['shape']}  {text}")


def _id_header(client: "Client", name: str) -> tuple[str, bytes]:
    """Whether a name is a vmodel's, else it is a model's; as REST has it."""
    from modelmesh._proto import model_mesh_pb2 as mesh

    status = client.call(
        "mmesh.ModelMesh/getVModelStatus", mesh.GetVModelStatusRequest(vModelId=name), mesh.VModelStatusInfo
    )
    is_vmodel = status.status != mesh.VModelStatusInfo.NOT_FOUND
    return "mm-vmodel-id-bin" if is_vmodel else "mm-model-id-bin", name.encode()


def _priority(word: str | None) -> list[Header]:
    """The header of a class of calls."""
    from modelmesh.values.priority import Priority

    if word is None:
        return []
    try:
        return [("mm-priority", Priority.parse(word).word)]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--priority") from error


def _given(values: list[str], data: str | None) -> Any:
    """The given inputs: by name, the list of the only one, or a request of the protocol."""
    named: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise typer.BadParameter(f"{value!r} is not NAME=VALUE")
        named[name] = _value(text)
    if data is None:
        return named
    if named:
        raise typer.BadParameter("give NAME=VALUE or --data, not both", param_hint="--data")
    return _read(data)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(data: str) -> Any:
    try:
        if data.endswith(".npy"):
            import numpy as np

            return np.load(data, allow_pickle=False).tolist()
        return json.loads(sys.stdin.read() if data == "-" else Path(data).read_text())
    except ImportError as error:
        raise typer.BadParameter("numpy reads .npy, and is not installed", param_hint="--data") from error
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{data}: {error}", param_hint="--data") from error


def build(model: str, given: Any, described: "pb.ModelMetadataResponse") -> "pb.ModelInferRequest":
    """The request: missing datatypes and dimensions are those that the model describes.

    Raises:
        typer.BadParameter: It is none for this model.
    """
    from modelmesh._proto import open_inference_pb2 as pb
    from modelmesh.cli.tensors import flat, pack, shape_of

    request = pb.ModelInferRequest(model_name=model)
    for name, value, datatype, known in _inputs(given, described):
        try:
            shape = shape_of(value)
            missing = known[: len(known) - len(shape)]
            if missing and all(dimension in {-1, 1} for dimension in missing):
                shape = [1] * len(missing) + shape
            raw = pack(datatype, list(flat(value)))
        except ValueError as error:
            raise typer.BadParameter(f"input {name}: {error}") from error
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request


def _inputs(given: Any, described: "pb.ModelMetadataResponse") -> list[tuple[str, Any, str, list[int]]]:
    """Name, value, datatype and described shape of each input."""
    known = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in described.inputs}
    if isinstance(given, dict) and isinstance(given.get("inputs"), list) and "inputs" not in known:
        return [_from_protocol(one) for one in given["inputs"]]
    if not isinstance(given, dict):
        if len(known) != 1:
            names = ", ".join(known) or "none"
            raise typer.BadParameter(f"name the input; the model has {names}")
        given = {next(iter(known)): given}
    unknown = sorted(given.keys() - known.keys())
    if known and unknown:
        raise typer.BadParameter(f"the model has no input {unknown[0]}; it has {', '.join(known)}")
    if not given:
        wanted = ", ".join(f"{name}: {datatype} {shape}" for name, (datatype, shape) in known.items())
        raise typer.BadParameter(
            f"give its inputs as NAME=VALUE or with --data: {wanted or 'the model describes none'}"
        )
    if not known:
        raise typer.BadParameter(
            "the model does not describe its inputs; give them with --data as a request of the protocol"
        )
    return [(name, value, *known[name]) for name, value in given.items()]


def _from_protocol(tensor: Any) -> tuple[str, Any, str, list[int]]:
    from modelmesh.cli.tensors import flat, nested

    try:
        name, datatype, shape = tensor["name"], tensor["datatype"], tensor["shape"]
        return name, nested(list(flat(tensor["data"])), shape), datatype, []
    except (KeyError, TypeError, ValueError) as error:
        raise typer.BadParameter(f"no input of the protocol: {error}", param_hint="--data") from error
