"""What clients of the old REST proxy sent, row by row, and what they get now: the table of the compatibility page."""

import tomllib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from rest_client import Rest, mirror, noting
from scripted import Instance, Runtime

from modelmesh._proto import open_inference_pb2 as pb

Make = Callable[..., Instance]
ROWS = tomllib.loads((Path(__file__).parents[1] / "docs" / "compatibility.toml").read_text())["rest"]["rows"]


@dataclass(frozen=True)
class Case:
    """`row`: of the page. `request` is sent; `outputs` and `status` are what comes back, the tensors mirrored."""

    row: str
    request: dict[str, Any]
    outputs: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    path: str = "/v2/models/m/infer"
    headers: dict[str, str] = field(default_factory=dict)


def tensor(datatype: str, shape: list[int], data: Any, **parameters: Any) -> dict[str, Any]:
    one = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return one | ({"parameters": parameters} if parameters else {})


def echo(row: str, datatype: str, shape: list[int], data: Any, back: Any = None, **more: Any) -> Case:
    """A tensor that comes back flat, as `back` or as it was."""
    parameters = more.pop("parameters", {})
    output = tensor(datatype, shape, data if back is None else back) | more.pop("output", {})
    return Case(row, {"inputs": [tensor(datatype, shape, data, **parameters)]}, [output], **more)


def refused(row: str, datatype: str, shape: list[int], data: Any) -> Case:
    return Case(row, {"inputs": [tensor(datatype, shape, data)]}, status=400)


CASES = [
    echo("routes of inference", "INT32", [2], [1, 2]),
    echo("routes of inference", "INT32", [2], [1, 2], path="/v2/models/m/versions/1/infer"),
    echo("flat and nested data", "INT32", [2, 2], [[1, 2], [3, 4]], [1, 2, 3, 4]),
    echo("flat and nested data", "INT32", [2, 2], [1, 2, 3, 4]),
    refused("flat and nested data", "INT32", [2, 2], [[1, 2], [3]]),
    refused("flat and nested data", "INT32", [3], [[1, 2], [3]]),
    *(echo("whole numbers", f"{sign}INT{bits}", [2], [0, 100]) for sign in ("", "U") for bits in (8, 16, 32, 64)),
    echo("whole numbers", "INT64", [1], [9007199254740993]),
    refused("whole numbers", "INT8", [1], [300]),
    echo("floats and booleans", "FP32", [2], [1, 0.5]),
    echo("floats and booleans", "FP64", [1], [0.1]),
    echo("floats and booleans", "BOOL", [2], [True, False]),
    refused("floats and booleans", "FP32", [1], [1e39]),
    echo("FP16 tensors", "FP16", [1], [1.5]),
    echo("BYTES in requests", "BYTES", [1], ["a\u00e9\U0001f600"]),
    echo("BYTES in requests", "BYTES", [1], ["YWI="], ["ab"], parameters={"content_type": "base64"}),
    echo("BYTES in requests", "BYTES", [1], ["YWI="], ["ab"], parameters={"content_type": "b64"}),
    echo("BYTES in requests", "BYTES", [2], [[97, 98], [99]], ["ab", "c"]),
    echo("BYTES in answers", "BYTES", [1], ["text"]),
    echo("BYTES in answers", "BYTES", [1], [[255]], ["/w=="], output={"parameters": {"content_type": "base64"}}),
    Case(
        "BYTES in answers",
        {
            "inputs": [tensor("BYTES", [1], ["text"])],
            "outputs": [{"name": "x", "parameters": {"content_type": "base64"}}],
        },
        [tensor("BYTES", [1], ["dGV4dA=="], content_type="base64")],
    ),
    echo(
        "the model of a call", "INT32", [1], [1], path="/v2/models/x/infer", headers={"Grpc-Metadata-mm-model-id": "m"}
    ),
    echo("the model of a call", "INT32", [1], [1], path="/v2/models/x/infer", headers={"mm-model-id": "m"}),
    Case("error bodies", {"inputs": [tensor("INT32", [1], [1])]}, status=404, path="/v2/models/unknown/infer"),
    Case("error bodies", {}, status=400),
]


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.row)
async def test_the_table(make: Make, runtime: Runtime, case: Case, *, typed: bool) -> None:
    runtime.script["ModelInfer"] = typed_mirror if typed else mirror
    one = make(rest="127.0.0.1:0")
    one.local()
    rest = Rest(one)
    try:
        status, body, _ = await rest.ask("POST", case.path, json=case.request, headers=case.headers)
    finally:
        await rest.session.close()
    assert status == case.status, body
    if status == 200:
        assert body["outputs"] == case.outputs
    else:
        assert set(body) == {"error"}
        assert body["error"]


def test_every_row_has_a_case() -> None:
    assert set(ROWS) - {"parameters of requests", "limits of size"} == {case.row for case in CASES}


async def test_parameters_keep_their_kind(make: Make, runtime: Runtime) -> None:
    seen: list[pb.ModelInferRequest] = []
    runtime.script["ModelInfer"] = noting(seen)
    one = make(rest="127.0.0.1:0")
    one.local()
    rest = Rest(one)
    given = {"text": "t", "flag": True, "whole": -3, "fraction": 0.5, "nothing": None}
    assert (await rest.infer("m", tensor("INT32", [1], [1]), parameters=given))[0] == 200
    kept = {name: getattr(one, str(one.WhichOneof("parameter_choice"))) for name, one in seen[0].parameters.items()}
    assert kept == {"text": "t", "flag": True, "whole": -3, "fraction": 0.5}
    assert (await rest.infer("m", tensor("INT32", [1], [1]), parameters={"list": [1]}))[0] == 400
    await rest.session.close()


CONTENTS = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


async def typed_mirror(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    """As `mirror`, with typed contents where there are any for the datatype."""
    async for message in mirror(requests, context):
        answer = pb.ModelInferResponse.FromString(message)
        if any(output.datatype == "FP16" for output in answer.outputs):
            yield message
            continue
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
            kind = "uint_contents" if output.datatype.startswith("U") else "int_contents"
            getattr(output.contents, CONTENTS.get(output.datatype, kind)).extend(elements(output.datatype, raw))
        del answer.raw_output_contents[:]
        yield answer.SerializeToString()


def elements(datatype: str, raw: bytes) -> list[Any]:
    import numpy as np

    if datatype == "BYTES":
        found = []
        while raw:
            length = int.from_bytes(raw[:4], "little")
            found.append(raw[4 : 4 + length])
            raw = raw[4 + length :]
        return found
    kind = "bool" if datatype == "BOOL" else datatype.replace("FP", "float").lower()
    return list(np.frombuffer(raw, kind).tolist())
