import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from modelmesh import tensors
from modelmesh._proto import open_inference_pb2 as pb

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
    except tensors.TensorError as error:
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
    with pytest.raises(tensors.TensorError) as caught:
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
    with pytest.raises(tensors.TensorError) as caught:
        tensors.decode_typed("pixels", datatype, shape, pb.InferTensorContents(**contents))
    assert "tensor 'pixels'" in str(caught.value)
    assert message in str(caught.value)


def test_empty_and_scalar_tensors():
    assert tensors.decode_raw("x", "FP32", [0, 4], b"").shape == (0, 4)
    assert tensors.decode_typed("x", "INT8", [0], pb.InferTensorContents()).shape == (0,)
    assert tensors.decode_raw("x", "INT32", [], struct.pack("<i", 7)) == 7
