"""Files that whoever registers a model may name: what can run code, what is no file, what links elsewhere."""

import importlib
import os
import pickle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelmesh.runtime import LoadError, ModelSource
from modelmesh.runtime.files import MAX_PATH_BYTES, FileRuntime
from modelmesh.runtime.formats import BUILT_IN, runs_code
from modelmesh.values.status import Status


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["sklearn", "auto", ""])
@pytest.mark.parametrize("suffix", ["joblib", "pkl", "pickle"])
def test_a_file_that_can_run_code_is_not_loaded_unless_its_folder_was_named(tmp_path, kind, suffix):
    file, mark = tmp_path / f"model.{suffix}", tmp_path / "was here"
    file.write_bytes(pickle.dumps(Payload(mark)))
    for runtime in (FileRuntime(), FileRuntime(models=tmp_path / "elsewhere")):
        with pytest.raises(LoadError) as caught:
            runtime.load(ModelSource("m1", kind, str(file)))
        assert not mark.exists()
        assert str(file) in str(caught.value)
    with pytest.raises(LoadError, match="--models FOLDER") as caught:
        FileRuntime().load(ModelSource("m1", kind, str(file)))
    assert caught.value.status is Status.PERMISSION_DENIED
    with pytest.raises(LoadError):
        FileRuntime(models=tmp_path).load(ModelSource("m1", kind, file.name))
    assert mark.exists(), "the payload runs where it may"


def test_a_format_that_says_nothing_is_taken_to_run_code():
    class Silent:
        suffixes = (".txt",)

    classes = {name: reference.partition(":")[::2] for name, reference in BUILT_IN.items()}
    found = {name: getattr(importlib.import_module(module), kind) for name, (module, kind) in classes.items()}
    assert [name for name, form in found.items() if not runs_code(form)] == ["onnx"]
    assert runs_code(Silent())


@pytest.mark.parametrize("kind", ["onnx", "sklearn", "auto"])
def test_only_regular_files_are_opened(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "device.onnx").symlink_to("/dev/ptmx")
    with pytest.raises(LoadError, match="not a regular file"):
        FileRuntime(models=tmp_path).load(ModelSource("m1", kind, "pipe.onnx"))
    with pytest.raises(LoadError, match="not a regular file"):
        FileRuntime().load(ModelSource("m1", kind, "/dev/ptmx"))
    for source in (ModelSource("m1", kind, "pipe.onnx"), ModelSource("m1", kind, "device.onnx")):
        with pytest.raises(LoadError):
            FileRuntime(models=tmp_path).predict_size(source)


@pytest.mark.parametrize(
    "path",
    ["a//b.onnx", "./a/./b.onnx", "x/../a/b.onnx", "file://{root}/a/%62.onnx", "file://localhost{root}/a//b.onnx"],
)
def test_spellings_of_one_path_are_one_file(tmp_path, trained, path):
    (tmp_path / "a").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "a" / "b.onnx").write_bytes((trained / "iris.onnx").read_bytes())
    runtime = FileRuntime(models=tmp_path)
    assert runtime.load(ModelSource("m1", "", path.format(root=tmp_path))).size_bytes > 0


@pytest.mark.parametrize(
    "path", ["../secret.onnx", "a/%2E%2E/../../secret.onnx", "file://{root}/%2E%2E/secret.onnx", "a\0b"]
)
def test_no_spelling_leaves_the_folder(tmp_path, trained, path):
    root = tmp_path / "root"
    (root / "a" / "%2E%2E").mkdir(parents=True)
    (tmp_path / "secret.onnx").write_bytes((trained / "iris.onnx").read_bytes())
    with pytest.raises(LoadError, match=r"outside|is no path|no such file"):
        FileRuntime(models=root).load(ModelSource("m1", "", path.format(root=root)))


def test_links_in_a_circle_and_endless_paths_are_errors_of_one_line(tmp_path):
    (tmp_path / "a.onnx").symlink_to("b.onnx")
    (tmp_path / "b.onnx").symlink_to("a.onnx")
    for path in ("a.onnx", "x" * (MAX_PATH_BYTES + 1), "x" * 300 + ".onnx"):
        with pytest.raises(LoadError) as caught:
            FileRuntime(models=tmp_path).load(ModelSource("m1", "", path))
        assert len(str(caught.value)) < 1000


@pytest.fixture
def cached(tmp_path):
    """The snapshot folder of a Hugging Face cache with one model whose weights lie beside it."""
    repository = tmp_path / "models--org--name"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123abcd"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1000])],
        [numpy_helper.from_array(np.ones((4, 1000), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    plain = tmp_path / "plain"
    plain.mkdir()
    onnx.save_model(
        model, str(plain / "model.onnx"), save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )
    for name, blob in (("model.onnx", "6c1f"), ("model.onnx_data", "a1b2")):
        (blobs / blob).write_bytes((plain / name).read_bytes())
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    return plain, snapshot


@pytest.mark.parametrize("root", ["cache", "repository", "snapshot"])
def test_a_hugging_face_cache_is_served_from_its_links(cached, root):
    plain, snapshot = cached
    folder = {"cache": snapshot.parents[2], "repository": snapshot.parents[1], "snapshot": snapshot}[root]
    runtime = FileRuntime(models=folder)
    for path in (snapshot / "model.onnx", snapshot):
        source = ModelSource("m1", "auto", str(path.relative_to(folder)))
        model = runtime.load(source)
        np.testing.assert_array_equal(model.infer({"x": np.ones((1, 4), np.float32)}, {})["y"], np.full((1, 1000), 4.0))
        expected = FileRuntime(models=plain).load(ModelSource("m1", "auto", "model.onnx")).size_bytes
        assert model.size_bytes == runtime.predict_size(source) == expected
        assert expected > 16_000, "the weights beside the model count"


def test_a_snapshot_may_link_to_its_own_repository_only(cached, tmp_path):
    _, snapshot = cached
    (tmp_path / "other.onnx").write_bytes(b"x")
    (snapshot / "leak.onnx").symlink_to(tmp_path / "other.onnx")
    with pytest.raises(LoadError, match="lies outside"):
        FileRuntime(models=snapshot).load(ModelSource("m1", "", "leak.onnx"))


def onnx_model(path, inputs, nodes, shape):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    return path


def test_sizes_that_do_not_fit_each_other_are_the_requests_fault(tmp_path):
    from modelmesh.runtime.errors import RequestError

    tied = onnx_model(
        tmp_path / "tied.onnx",
        {"a": ["N", "K"], "b": ["N", "K"]},
        [helper.make_node("Add", ["a", "b"], ["y"])],
        ["N", "K"],
    )
    free = onnx_model(
        tmp_path / "free.onnx",
        {"a": [None, None], "b": [None, None]},
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        [None, None],
    )
    for path, said in ((tied, "'K'"), (free, r"'a' \[2, 3\], 'b' \[2, 4\] \(MatMul dimension mismatch\)")):
        model = FileRuntime(models=tmp_path).load(ModelSource("m1", "", path.name))
        good = model.infer({"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}, {})
        assert good["y"].shape == (2, 2)
        with pytest.raises(RequestError, match=said) as caught:
            model.infer({"a": np.ones((2, 3), np.float32), "b": np.ones((2, 4), np.float32)}, {})
        assert ".h:" not in str(caught.value)
        assert "/" not in str(caught.value)


def test_a_model_that_can_never_answer_does_not_load(tmp_path):
    path = onnx_model(
        tmp_path / "never.onnx", {"a": [None, 3], "b": [None, 4]}, [helper.make_node("Add", ["a", "b"], ["y"])], None
    )
    with pytest.raises(LoadError, match=r"cannot answer|can be loaded here"):
        FileRuntime(models=tmp_path).load(ModelSource("m1", "", path.name))
