"""`modelmesh infer`: what was said becomes a request, and an answer is shown; without a cluster."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.cli.infer import _given, build
from modelmesh.cli.tensors import flat, nested, outputs_of, pack, shape_of, unpack


def described(**inputs: tuple[str, list[int]]) -> pb.ModelMetadataResponse:
    answer = pb.ModelMetadataResponse(name="m")
    for name, (datatype, shape) in inputs.items():
        answer.inputs.add(name=name, datatype=datatype, shape=shape)
    return answer


ONE = described(x=("FP32", [-1, 2]))


def sent(given: Any, told: pb.ModelMetadataResponse = ONE) -> list[tuple[str, str, list[int], list[Any]]]:
    request = build("m", given, told)
    return [
        (one.name, one.datatype, list(one.shape), unpack(one.datatype, raw))
        for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    ]


def test_values_take_type_and_missing_dimensions_from_the_model() -> None:
    whole = [("x", "FP32", [1, 2], [1.0, 2.5])]
    assert sent(_given(["x=[[1, 2.5]]"], None)) == whole
    assert sent(_given(["x=[1, 2.5]"], None)) == whole
    assert sent([[1, 2.5]]) == whole
    assert sent({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}]}) == whole
    two = described(text=("BYTES", [-1]), flag=("BOOL", [1]))
    assert sent(_given(["text=a=b", "flag=true"], None), two) == [
        ("text", "BYTES", [1], ["a=b"]),
        ("flag", "BOOL", [1], [True]),
    ]


@pytest.mark.parametrize(
    ("given", "told", "reason"),
    [
        ({}, ONE, "give its inputs as NAME=VALUE or with --data: x: FP32"),
        ({"y": [1]}, ONE, "the model has no input y; it has x"),
        ({"x": [[1], [1, 2]]}, ONE, "input x: its rows have different lengths"),
        ({"x": ["a"]}, ONE, "'a' is no FP32"),
        ({"x": [True]}, ONE, "True is no FP32"),
        ({"x": [300]}, described(x=("INT8", [-1])), "a value is no INT8"),
        ({"x": [1.5]}, described(x=("INT8", [-1])), "a value is no INT8"),
        ({"x": [1]}, described(x=("BYTES", [-1])), "give a string"),
        ([1], described(x=("FP32", [-1]), y=("FP32", [-1])), "name the input; the model has x, y"),
        ({"x": [1]}, described(), "the model does not describe its inputs"),
        ({"inputs": [{"name": "x"}]}, ONE, "no input of the protocol"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "data": [1]}]}, ONE, "1 elements do not have"),
        ({"inputs": [{"name": "x", "datatype": "FP8", "shape": [1], "data": [1]}]}, ONE, "'FP8' is no datatype"),
    ],
)
def test_what_is_no_request_is_told(given: Any, told: pb.ModelMetadataResponse, reason: str) -> None:
    with pytest.raises(typer.BadParameter, match=reason):
        build("m", given, told)


def test_files_hold_inputs(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"x": [1, 2]}))
    np.save(tmp_path / "x.npy", np.array([[1, 2]], np.float32))
    assert _given([], str(tmp_path / "x.json")) == {"x": [1, 2]}
    assert _given([], str(tmp_path / "x.npy")) == [[1, 2]]
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    for name in ("bad.json", "bad.npy", "none.json"):
        with pytest.raises(typer.BadParameter, match=name):
            _given([], str(tmp_path / name))
    with pytest.raises(typer.BadParameter, match="not both"):
        _given(["x=1"], "-")
    with pytest.raises(typer.BadParameter, match="not NAME=VALUE"):
        _given(["x"], None)


@pytest.mark.parametrize("kind", ["bool", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64"])
def test_tensors_are_as_numpy_has_them(kind: str) -> None:
    datatype = kind.upper().replace("FLOAT", "FP")
    array = (np.arange(12) * 3 % 7).astype(kind).reshape(2, 3, 2)
    value = array.tolist()
    assert shape_of(value) == [2, 3, 2]
    raw = pack(datatype, list(flat(value)))
    assert raw == array.tobytes()
    assert nested(unpack(datatype, raw), [2, 3, 2]) == value


def test_bfloat16_is_rounded_to_even() -> None:
    for value, expected in ((1.0, 0x3F80), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (-math.inf, 0xFF80)):
        assert int.from_bytes(pack("BF16", [value]), "little") == expected
    assert math.isnan(unpack("BF16", pack("BF16", [math.nan]))[0])
    assert unpack("BF16", pack("BF16", [1.5, -2])) == [1.5, -2.0]


def test_answers_are_read_raw_and_typed_and_broken_ones_refused() -> None:
    answer = pb.ModelInferResponse()
    answer.outputs.add(name="y", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"a", b"\xff"])
    answer.outputs.add(name="z", datatype="UINT8", shape=[1, 1]).contents.uint_contents.append(7)
    assert [one["data"] for one in outputs_of(answer)] == [["a", "\\xff"], [[7]]]
    raw = pb.ModelInferResponse(raw_output_contents=[b"\x01\0\0\0a"])
    raw.outputs.add(name="y", datatype="BYTES", shape=[1])
    assert outputs_of(raw)[0]["data"] == ["a"]
    for datatype, shape, content in (
        ("BYTES", [1], b"\x09\0\0\0a"),
        ("BYTES", [1], b"\x09"),
        ("FP32", [1], b"123"),
        ("FP32", [2], b"1234"),
        ("FP9", [1], b"1234"),
    ):
        broken = pb.ModelInferResponse(raw_output_contents=[content])
        broken.outputs.add(name="y", datatype=datatype, shape=shape)
        with pytest.raises(ValueError, match=r"."):
            outputs_of(broken)
    with pytest.raises(ValueError, match="some are not"):
        outputs_of(pb.ModelInferResponse(raw_output_contents=[b"", b""], outputs=raw.outputs))
