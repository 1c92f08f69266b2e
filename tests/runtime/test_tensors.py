import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.runtime import tensors
from modelmesh.runtime.contract import TensorSpec
from modelmesh.runtime.errors import RequestError, RuntimeFault
from modelmesh.values.status import Status

EXACT = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def extremes(dtype):
    if dtype is np.bool_:
        return np.array([[True, False], [False, True]])
    info = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(dtype)
    return np.array([[info.min, info.max], [0, 1]], dtype)


@pytest.mark.parametrize("datatype", EXACT)
def test_raw_tensors_come_back_as_they_went(datatype):
    array = extremes(EXACT[datatype])
    assert tensors.datatype_of(array) == datatype
    data = tensors.encode_raw(array, datatype)
    assert data == array.tobytes()
    back = tensors.decode_raw("x", datatype, [2, 2], data)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable


@pytest.mark.parametrize("datatype", sorted(set(EXACT) - {"FP16"}))
def test_typed_tensors_come_back_as_they_went(datatype):
    array = extremes(EXACT[datatype])
    back = tensors.decode_typed("x", datatype, [2, 2], tensors.encode_typed(array, datatype))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_big_endian_arrays_are_sent_little_endian():
    array = np.array([1, 2], ">i4")
    assert tensors.datatype_of(array) == "INT32"
    assert tensors.encode_raw(array, "INT32") == struct.pack("<ii", 1, 2)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_raw_bytes_are_those_of_tritonclient(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    data = tensors.encode_raw(array, "BYTES")
    theirs = serialize_byte_tensor(array)
    assert data == (theirs.item() if theirs.size else b"")
    assert tensors.decode_raw("x", "BYTES", [len(items)], data).tolist() == items
    assert deserialize_bytes_tensor(data).tolist() == items


def test_text_is_sent_as_utf8():
    assert tensors.encode_typed(np.array(["né", "x"]), "BYTES").bytes_contents == ["né".encode(), b"x"]


@given(st.binary(max_size=40), st.integers(0, 5))
def test_broken_raw_bytes_are_refused_never_misread(data, count):
    try:
        array = tensors.decode_raw("x", "BYTES", [count], data)
    except RequestError as error:
        assert "'x'" in str(error)  # noqa: PT017 - both outcomes are fine
    else:
        assert tensors.encode_raw(array, "BYTES") == data


@given(st.floats(width=32))
def test_bf16_is_within_half_a_step(value):
    array = np.array([value], np.float32)
    with np.errstate(over="ignore"):
        back = tensors.decode_raw("x", "BF16", [1], tensors.encode_raw(array, "BF16"))[0]
    if np.isnan(value):
        assert np.isnan(back)
    elif np.isinf(back):
        assert abs(value) > 3.38e38
    else:
        assert abs(float(back) - value) <= max(abs(value) * 2**-8, 1e-38)


def test_bf16_rounds_to_even():
    for bits, expected in ((0x3F808000, 0x3F80), (0x3F818000, 0x3F82), (0x3F808001, 0x3F81), (0x7F800001, 0x7FC0)):
        array = np.array([bits], "<u4").view(np.float32)
        assert struct.unpack("<H", tensors.encode_raw(array, "BF16"))[0] == expected


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", [2], b"1234", "FP32 of shape [2] takes 8 bytes, not 4"),
        ("FP32", [-1], b"", "negative size"),
        ("FP99", [1], b"1234", "unknown datatype 'FP99'"),
        ("FP32", [2**40, 2**40], b"", "more than a message can hold"),
        ("BYTES", [1], b"\x05\x00\x00\x00ab", "end within an element, at byte 0 of 6"),
        ("BYTES", [2], b"\x01\x00\x00\x00a", "has 2 elements, the raw BYTES have 1"),
    ],
)
def test_wrong_raw_tensors_are_named(datatype, shape, data, message):
    with pytest.raises(RequestError) as caught:
        tensors.decode_raw("pixels", datatype, shape, data)
    assert "tensor 'pixels'" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("datatype", "shape", "contents", "message"),
    [
        ("FP32", [2], {"fp32_contents": [1]}, "shape [2] has 2 elements, fp32_contents has 1"),
        ("FP32", [1], {"fp64_contents": [1]}, "belong in fp32_contents, not in fp64_contents"),
        ("INT8", [1], {"int_contents": [200]}, "out of the range of INT8"),
        ("UINT16", [1], {"uint_contents": [70000]}, "out of the range of UINT16"),
        ("FP16", [1], {}, "no typed contents, send it in raw_input_contents"),
        ("NOPE", [1], {}, "unknown datatype 'NOPE'"),
    ],
)
def test_wrong_typed_tensors_are_named(datatype, shape, contents, message):
    with pytest.raises(RequestError) as caught:
        tensors.decode_typed("pixels", datatype, shape, pb.InferTensorContents(**contents))
    assert "tensor 'pixels'" in str(caught.value)
    assert message in str(caught.value)


def test_empty_and_scalar_tensors():
    assert tensors.decode_raw("x", "FP32", [0, 4], b"").shape == (0, 4)
    assert tensors.decode_typed("x", "INT8", [0], pb.InferTensorContents()).shape == (0,)
    assert tensors.decode_raw("x", "INT32", [], struct.pack("<i", 7)) == 7


class TestRequests:
    def request(self, *names, raw=0):
        request = pb.ModelInferRequest(raw_input_contents=[b"\0" * 4] * raw)
        for name in names:
            request.inputs.add(name=name, datatype="FP32", shape=[1])
        return request

    def test_raw_and_typed_are_not_mixed(self):
        request = self.request("a", raw=1)
        request.inputs[0].contents.fp32_contents.append(1)
        with pytest.raises(RequestError, match="'a' has contents, but the request has raw_input_contents"):
            tensors.inputs_of(request)

    def test_one_raw_entry_per_input(self):
        with pytest.raises(RequestError, match="2 inputs and 1 raw_input_contents"):
            tensors.inputs_of(self.request("a", "b", raw=1))

    def test_a_name_comes_once(self):
        with pytest.raises(RequestError, match="'a' comes twice"):
            tensors.inputs_of(self.request("a", "a", raw=2))

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (TensorSpec("b", "FP32", (1,)), "no input 'a'; its inputs are 'b'"),
            (TensorSpec("a", "FP64", (1,)), "'a' is FP32, the model wants FP64"),
            (TensorSpec("a", "FP32", (2,)), r"'a' has shape \[1\], the model wants \[2\]"),
            (TensorSpec("a", "FP32", (-1, 1)), r"'a' has shape \[1\], the model wants \[-1, 1\]"),
        ],
    )
    def test_the_signature_is_kept(self, spec, message):
        with pytest.raises(RequestError, match=message):
            tensors.check_inputs(self.request("a"), [spec])

    def test_a_missing_input_is_named(self):
        with pytest.raises(RequestError, match="input 'b' is missing"):
            tensors.check_inputs(self.request("a"), [TensorSpec("a", "FP32", (1,)), TensorSpec("b", "FP32", (1,))])

    def test_further_datatypes_may_be_accepted(self):
        tensors.check_inputs(self.request("a"), [TensorSpec("a", "FP64", (-1,), accepts=("FP32",))])

    def test_parameters(self):
        request = pb.ModelInferRequest()
        request.parameters["a"].bool_param = True
        request.parameters["b"].int64_param = -1
        request.parameters["c"].string_param = "x"
        request.parameters["d"].double_param = 0.5
        request.parameters["e"].uint64_param = 2**63
        request.parameters["f"].SetInParent()
        assert tensors.parameters_of(request) == {"a": True, "b": -1, "c": "x", "d": 0.5, "e": 2**63}


class TestResponses:
    def filled(self, outputs, **arguments):
        response = pb.ModelInferResponse()
        tensors.fill_response(response, outputs, **arguments)
        return response

    def test_raw(self):
        response = self.filled({"y": np.array([[1.5]], np.float32)})
        assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("FP32", [1, 1])
        assert response.raw_output_contents == [struct.pack("<f", 1.5)]

    def test_typed(self):
        response = self.filled({"y": np.array([1, 2])}, raw=False)
        assert response.outputs[0].contents.int64_contents == [1, 2]
        assert not response.raw_output_contents

    def test_typed_becomes_raw_where_there_is_no_field(self):
        response = self.filled({"y": np.array([1, 2], np.float16), "z": np.array([1])}, raw=False)
        assert len(response.raw_output_contents) == 2
        assert not any(output.HasField("contents") for output in response.outputs)

    def test_the_signature_decides_the_datatype(self):
        specs = (TensorSpec("y", "BF16", (-1,)), TensorSpec("z", "FP32", (-1,)))
        response = self.filled({"y": np.array([1.0], np.float32), "z": np.array([1.0])}, specs=specs)
        assert [output.datatype for output in response.outputs] == ["BF16", "FP32"]
        assert response.raw_output_contents == [b"\x80\x3f", struct.pack("<f", 1.0)]

    def test_what_cannot_be_the_datatype_is_the_runtimes_fault(self):
        with pytest.raises(RuntimeFault, match="output 'y' is BYTES, the model's signature says FP32"):
            self.filled({"y": np.array(["a"])}, specs=(TensorSpec("y", "FP32", (-1,)),))

    @pytest.mark.parametrize(
        ("output", "spec", "said"),
        [
            (np.array(["a", 1], dtype=object), "BYTES", "objects of the kinds int, str"),
            (np.array([None], dtype=object), None, "objects of the kinds NoneType"),
            (np.array([1, True], dtype=object), None, "objects of the kinds bool, int"),
            (np.array([2**70], dtype=object), None, "cannot be sent"),
            ([[1, 2], [3]], None, "cannot be sent"),
            (np.array([2**40]), "INT32", "INT32, the datatype of the model's signature, cannot hold"),
            (np.array([1e300]), "FP32", "FP32, the datatype of the model's signature, cannot hold"),
            (np.array([-1]), "UINT8", "the model's signature says UINT8"),
        ],
    )
    def test_what_would_be_changed_is_an_error_of_the_model(self, output, spec, said):
        specs = [TensorSpec("y", spec, (-1,))] if spec else []
        with pytest.raises(RuntimeFault, match=said) as caught:
            tensors.fill_response(pb.ModelInferResponse(), {"y": output}, specs=specs)
        assert caught.value.status is Status.INTERNAL

    @pytest.mark.parametrize(
        ("output", "datatype"),
        [([1, 2], "INT64"), ([1.5, np.float32(2)], "FP64"), ([True, np.bool_(False)], "BOOL"), (["a", b"b"], "BYTES")],
    )
    def test_objects_of_one_kind_are_that_kind(self, output, datatype):
        array = np.empty(2, dtype=object)
        array[:] = output
        response = pb.ModelInferResponse()
        tensors.fill_response(response, {"y": array})
        assert response.outputs[0].datatype == datatype
        raw = tensors.decode_raw("y", datatype, [2], response.raw_output_contents[0])
        assert list(raw) == ([b"a", b"b"] if datatype == "BYTES" else output)

    def test_infinity_stays_and_rounding_is_allowed(self):
        response = pb.ModelInferResponse()
        specs = [TensorSpec("y", "FP32", (-1,))]
        tensors.fill_response(response, {"y": np.array([0.1, np.inf, np.nan])}, specs=specs)
        answer = tensors.decode_raw("y", "FP32", [3], response.raw_output_contents[0])
        np.testing.assert_array_equal(answer, np.array([0.1, np.inf, np.nan], np.float32))

    def test_wanted_outputs_only_in_their_order(self):
        outputs = {name: np.array([1]) for name in "abc"}
        assert [output.name for output in self.filled(outputs, wanted=["c", "a"]).outputs] == ["c", "a"]
        with pytest.raises(RequestError, match="no output 'd'; its outputs are 'a', 'b', 'c'"):
            self.filled(outputs, wanted=["d"])
