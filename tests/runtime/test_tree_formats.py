"""XGBoost and LightGBM files in the built-in runtime: answers, sizes, and files that would end the process."""

import subprocess
import sys

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris

from modelmesh.runtime import LoadError, ModelSource, RequestError
from modelmesh.runtime.files import FileRuntime
from modelmesh.runtime.ubjson import UbjsonError, check_ubjson
from modelmesh.values.status import Status

ROWS = load_iris(return_X_y=True)[0][[0, 60, 140]]


@pytest.fixture
def runtime(trained):
    return FileRuntime(models=trained)


@pytest.mark.parametrize(("path", "kind"), [("iris.ubj", ""), ("iris.json", "xgboost"), ("iris.ubj", "mt:xgboost:2")])
def test_xgboost_answers_as_the_library_does(runtime, trained, path, kind):
    model = runtime.load(ModelSource("m", kind, path))
    local = xgboost.Booster(model_file=trained / path)
    rows = ROWS.astype(np.float32)
    rows[1, 2] = np.nan
    np.testing.assert_array_equal(
        runtime.infer(model, {"input": rows}, {})["output"], local.predict(xgboost.DMatrix(rows))
    )
    np.testing.assert_array_equal(
        runtime.infer(model, {"input": ROWS}, {})["output"], local.predict(xgboost.DMatrix(ROWS))
    )
    (given_input,), (output,) = model.signature.inputs, model.signature.outputs
    assert (given_input.name, given_input.datatype, given_input.shape) == ("input", "FP32", (-1, 4))
    assert (output.name, output.datatype, output.shape) == ("output", "FP32", (-1, 3))


def test_a_linear_booster(runtime, trained):
    model = runtime.load(ModelSource("m", "", "linear.ubj"))
    rows = np.random.default_rng(1).random((3, 10), np.float32)
    local = xgboost.Booster(model_file=trained / "linear.ubj")
    np.testing.assert_array_equal(
        runtime.infer(model, {"input": rows}, {})["output"], local.predict(xgboost.DMatrix(rows))
    )
    assert model.signature.outputs[0].shape == (-1,)


def test_infinity_is_the_requests_fault(runtime):
    model = runtime.load(ModelSource("m", "", "linear.ubj"))
    with pytest.raises(RequestError, match=r"cannot take these values \(.*inf") as caught:
        runtime.infer(model, {"input": np.full((1, 10), np.inf, np.float32)}, {})
    assert "Stack trace" not in str(caught.value)
    assert "/workspace" not in str(caught.value)


def test_lightgbm_answers_as_the_library_does(runtime, trained):
    model = runtime.load(ModelSource("m", "", "iris.lgb"))
    local = lightgbm.Booster(model_file=trained / "iris.lgb")
    np.testing.assert_array_equal(runtime.infer(model, {"input": ROWS}, {})["output"], local.predict(ROWS))
    whole = np.array([[5, 3, 1, 0]], np.int64)
    np.testing.assert_array_equal(runtime.infer(model, {"input": whole}, {})["output"], local.predict(whole))
    assert model.signature.inputs[0].datatype == "FP64"
    assert model.signature.outputs[0].shape == (-1, 3)


@pytest.mark.parametrize(
    ("kind", "file", "name"), [("xgboost", "iris.json", "model.json"), ("lightgbm", "iris.lgb", "m.txt")]
)
def test_a_folder_whose_type_is_said(tmp_path, trained, kind, file, name):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_bytes((trained / file).read_bytes())
    (tmp_path / "m" / "notes.md").write_text("nothing")
    runtime = FileRuntime(models=tmp_path)
    assert runtime.load(ModelSource("m", kind, "m")).size_bytes > 0
    with pytest.raises(LoadError, match="holds 0 model files"):
        runtime.load(ModelSource("m", "auto", "m"))
    with pytest.raises(LoadError, match="the suffix is not that of a format"):
        runtime.load(ModelSource("m", "auto", f"m/{name}"))


@pytest.mark.parametrize("path", ["iris.ubj", "iris.json", "iris.lgb"])
def test_predictions_are_what_is_measured(runtime, trained, path):
    source = ModelSource("m", {"iris.json": "xgboost"}.get(path, ""), path)
    measured = runtime.load(source).size_bytes
    assert runtime.predict_size(source) == measured
    assert measured > (trained / path).stat().st_size


@pytest.mark.parametrize("path", ["iris.ubj", "iris.lgb"])
def test_only_from_folders_that_the_operator_named(trained, path):
    with pytest.raises(LoadError, match="--models FOLDER") as caught:
        FileRuntime().load(ModelSource("m", "", str(trained / path)))
    assert caught.value.status is Status.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with no '{'"),
        (b"binf\0\0", "must be saved again as .ubj"),
        (b'{"learner": {', "does not end with '}'"),
        (b'{"learner": {}}', "is no XGBoost model"),
        (b"{L" + b"\xff" * 8, "a length of -1"),
        (b"{L" + b"\x7f" + b"\xff" * 7, "cut off"),
        (b"{i\x01a[$d#L" + b"\x7f" + b"\xff" * 7 + b"}", "cut off"),
        (b"{i\x01a" + b"[" * 100, "containers in each other"),
        (b"{i\x01aQ}", "begins no value"),
        (b"{i\x01ai\x01}more", "the value ends at byte 7, the file at 11"),
    ],
)
def test_broken_xgboost_files(tmp_path, content, message):
    (tmp_path / "m.ubj").write_bytes(content)
    with pytest.raises(LoadError, match="is no XGBoost model") as caught:
        FileRuntime(models=tmp_path).load(ModelSource("m", "", "m.ubj"))
    assert message in str(caught.value)
    assert caught.value.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"", "does not begin with the line 'tree'"),
        (lambda good: good[:300], "does not say how long its trees are"),
        (lambda good: good[:5000], "cut off or changed: tree"),
        (lambda good: good.replace(b"tree_sizes=4", b"tree_sizes=5"), "cut off or changed: tree 1"),
        (lambda good: good.replace(b"tree_sizes=4", b"tree_sizes=x"), "cut off or changed: tree 0"),
        (lambda good: good.replace(b"\n", b"\r\n"), "does not begin with"),
        (lambda good: good[: good.index(b"[num_leaves") + 14], "its parameters do not end"),
        (lambda good: good.replace(b"num_class=3", b"num_klass=3"), "number of classes"),
        (lambda good: b"\xff".join(good.rsplit(b"g", 1)), "utf-8"),
    ],
)
def test_broken_lightgbm_files(tmp_path, trained, change, message):
    (tmp_path / "m.lgb").write_bytes(change((trained / "iris.lgb").read_bytes()))
    with pytest.raises(LoadError, match="is no LightGBM model") as caught:
        FileRuntime(models=tmp_path).load(ModelSource("m", "", "m.lgb"))
    assert message in str(caught.value)
    assert caught.value.status is Status.INVALID_ARGUMENT


def test_no_cut_off_file_ends_the_process(tmp_path, trained):
    """In a process of its own: what gets past the checks ends it."""
    script = (
        "import sys, pathlib\n"
        "from modelmesh.runtime import LoadError, ModelSource\n"
        "from modelmesh.runtime.files import FileRuntime\n"
        "root, trained = map(pathlib.Path, sys.argv[1:])\n"
        "runtime = FileRuntime(models=root)\n"
        "for name, step in (('iris.ubj', 61), ('iris.lgb', 37), ('iris.json', 499)):\n"
        "    content = (trained / name).read_bytes()\n"
        "    for end in (*range(0, len(content) - 1, step), len(content) - 1):\n"
        "        (root / name).write_bytes(content[:end])\n"
        "        try: runtime.load(ModelSource('m', 'xgboost' if name == 'iris.json' else '', name))\n"
        "        except LoadError: continue\n"
        "        assert name == 'iris.lgb' and b'end of trees' in content[:end], (name, end)\n"
        "print('whole')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path, trained], capture_output=True, text=True, check=False, errors="replace"
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["whole"]), done.stderr[-2000:]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_a_good_ubjson_is_whole_and_each_part_of_it_is_not(data):
    def encode(value):
        match value:
            case bool():
                return b"T" if value else b"F"
            case int():
                return b"l" + value.to_bytes(4, "big", signed=True)
            case str():
                return b"SL" + len(value.encode()).to_bytes(8, "big") + value.encode()
            case bytes():
                return b"[$U#L" + len(value).to_bytes(8, "big") + value
            case list():
                return b"[#i" + bytes([len(value)]) + b"".join(map(encode, value))
            case tuple():
                return b"[" + b"".join(map(encode, value)) + b"]"
            case _:
                inner = (b"i" + bytes([len(key.encode())]) + key.encode() + encode(each) for key, each in value.items())
                return b"{" + b"".join(inner) + b"}"

    leaves = st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(max_size=8) | st.binary(max_size=8)
    values = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        ),
        max_leaves=20,
    )
    content = encode(data.draw(st.dictionaries(st.text(max_size=4), values, min_size=1, max_size=4)))
    check_ubjson(content)
    with pytest.raises(UbjsonError):
        check_ubjson(content[: data.draw(st.integers(0, len(content) - 1))] if len(content) > 1 else b"")


def test_the_checks_take_milliseconds_not_minutes():
    """A typed array of any length is one step, a tree some twenty."""
    array = b"[$d#L" + (1 << 20).to_bytes(8, "big") + bytes(4 << 20)
    steps = 0

    class Counted(bytearray):
        def __getitem__(self, key):
            nonlocal steps
            steps += 1
            return super().__getitem__(key)

    check_ubjson(Counted(b"[#i\x03" + array * 3))
    assert steps < 100
