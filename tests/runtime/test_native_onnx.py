"""ONNX models without Python: the same answers, and what is left to onnxruntime's Python module."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from modelmesh._core._server import OnnxSession
from modelmesh.runtime import LoadError, RequestError
from modelmesh.runtime.onnx import NativeSession, OnnxFormat, shared_library
from modelmesh.tensors import LITTLE

KINDS = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT8: np.int8,
    TensorProto.INT16: np.int16,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.UINT8: np.uint8,
    TensorProto.UINT16: np.uint16,
    TensorProto.UINT32: np.uint32,
    TensorProto.UINT64: np.uint64,
    TensorProto.BOOL: np.bool_,
}


def written(path, nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def value(name, kind=TensorProto.FLOAT, shape=("n", 2)):
    return helper.make_tensor_value_info(name, kind, shape)


def same(path, kind=TensorProto.FLOAT, shape=("n", 2)):
    node = helper.make_node("Identity", ["x"], ["y"])
    return written(path, [node], [value("x", kind, shape)], [value("y", kind, shape)])


def test_every_datatype_with_elements_as_numpy_has_them_is_among_them():
    """Three tables have them: of the core's messages, of the library and of numpy."""
    assert {np.dtype(kind) for kind in KINDS.values()} == {np.dtype(kind) for kind in LITTLE.values()}


def test_the_installed_package_has_the_library():
    assert shared_library() is not None


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_every_kind_pass_unchanged(tmp_path, kind):
    model = OnnxFormat().load(same(tmp_path / "m.onnx", kind))
    assert model.native is not None
    for rows in (1, 3, 0):
        sent = (np.arange(2 * rows).reshape(rows, 2) % 2).astype(KINDS[kind])
        got = model.infer({"x": sent}, {})["y"]
        assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
        assert got.tobytes() == sent.tobytes()


def test_it_answers_as_the_python_module_does(trained):
    path = trained / "iris.onnx"
    rows = np.random.default_rng(1).normal(3, 2, (50, 4)).astype(np.float32)
    theirs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ours = NativeSession(shared_library(), path, 1)
    for asked, known in ((ours.get_inputs(), theirs.get_inputs()), (ours.get_outputs(), theirs.get_outputs())):
        assert [(one.name, one.type, one.shape) for one in asked] == [(one.name, one.type, one.shape) for one in known]
    for got, expected in zip(ours.run([], {"X": rows}), theirs.run(None, {"X": rows}), strict=True):
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)


def test_inputs_may_come_in_any_order(tmp_path):
    node = helper.make_node("Sub", ["a", "b"], ["y"])
    path = written(tmp_path / "m.onnx", [node], [value("a"), value("b")], [value("y")])
    one, two = np.ones((1, 2), np.float32), np.full((1, 2), 2, np.float32)
    for feed in ({"a": one, "b": two}, {"b": two, "a": one}):
        assert np.array_equal(OnnxFormat().load(path).infer(feed, {})["y"], one - two)


@pytest.mark.parametrize("name", ["iris-zipmap.onnx", "cut.onnx", "empty.onnx"])
def test_other_models_and_broken_ones_are_left_to_the_python_module(trained, name):
    with pytest.raises(RuntimeError):
        NativeSession(shared_library(), trained / name, 1)
    if name == "iris-zipmap.onnx":
        assert OnnxFormat().load(trained / name).native is None
    else:
        with pytest.raises(LoadError, match="is no ONNX model that can be loaded here"):
            OnnxFormat().load(trained / name)


@pytest.mark.parametrize(("kind", "shape"), [(TensorProto.STRING, ("n",)), (TensorProto.FLOAT, ())])
def test_texts_and_inputs_without_an_axis_are_left_to_it(tmp_path, kind, shape):
    model = OnnxFormat().load(same(tmp_path / "m.onnx", kind, shape))
    assert model.native is None
    sent = np.array(b"a", object).reshape(shape or ()) if shape == () else np.array([b"a"], object)
    sent = np.array(1.5, np.float32) if kind == TensorProto.FLOAT else sent
    assert model.infer({"x": sent}, {})["y"].shape == sent.shape


def test_sizes_that_several_inputs_share_are_checked_in_python(tmp_path):
    node = helper.make_node("Add", ["a", "b"], ["y"])
    path = written(tmp_path / "m.onnx", [node], [value("a"), value("b")], [value("y")])
    model = OnnxFormat().load(path)
    assert model.native is None
    with pytest.raises(RequestError, match="the model wants one size 'n' in several inputs"):
        model.infer({"a": np.ones((1, 2), np.float32), "b": np.ones((3, 2), np.float32)}, {})


def test_errors_of_a_call_are_those_of_onnxruntime(trained):
    session = OnnxSession(library=shared_library(), model=trained / "iris.onnx", threads=1)
    with pytest.raises(RuntimeError, match="Got invalid dimensions"):
        session.run({"X": np.ones((1, 3), np.float32)})
    with pytest.raises(RuntimeError, match="the model has no input"):
        session.run({"Z": np.ones((1, 4), np.float32)})
    with pytest.raises(RuntimeError):
        session.run({})
    with pytest.raises(TypeError, match="is no plain array"):
        session.run({"X": np.ones((4, 1), np.float32).T[:, ::2]})
    session.close()
    session.close()
    with pytest.raises(RuntimeError, match="was closed"):
        session.run({"X": np.ones((1, 4), np.float32)})


def test_a_file_that_is_no_library_is_refused(tmp_path, trained):
    (tmp_path / "x.so").write_bytes(b"no library")
    with pytest.raises(RuntimeError):
        OnnxSession(library=tmp_path / "x.so", model=trained / "iris.onnx", threads=1)
