"""The built-in runtime: formats, paths, broken files, and the client people use."""

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grpc
import joblib
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from sklearn.datasets import load_iris
from tritonclient.utils import InferenceServerException

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import LoadError, ModelSource
from modelmesh.runtime.files import FileRuntime
from modelmesh.runtime.formats import BUILT_IN, BUILT_IN_NAMED_SUFFIXES, BUILT_IN_SUFFIXES, Formats
from modelmesh.values.status import Status

ROWS = load_iris(return_X_y=True)[0][[0, 60, 140]]


async def load(server, path, kind="auto", model="m1"):
    async with grpc.aio.insecure_channel(server.address) as channel:
        rpc = channel.unary_unary(
            "/mmesh.ModelRuntime/loadModel",
            request_serializer=pb.LoadModelRequest.SerializeToString,
            response_deserializer=pb.LoadModelResponse.FromString,
        )
        return (await rpc(pb.LoadModelRequest(modelId=model, modelType=kind, modelPath=str(path)))).sizeInBytes


def tensor(name, array, datatype):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


@pytest.fixture
async def client(file_server):
    made = triton.InferenceServerClient(file_server.address)
    yield made
    await made.close()


class TestTritonClient:
    async def test_server_calls(self, client):
        assert await client.is_server_live()
        assert await client.is_server_ready()
        metadata = await client.get_server_metadata()
        assert metadata.name == "modelmesh-files"

    async def test_a_classifier(self, file_server, client, trained):
        await load(file_server, "iris.joblib")
        assert await client.is_model_ready("m1")
        metadata = await client.get_model_metadata("m1")
        assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [("input", "FP64", [-1, 4])]
        assert [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs] == [
            ("label", "INT64", [-1]),
            ("probabilities", "FP64", [-1, 3]),
        ]
        result = await client.infer("m1", [tensor("input", ROWS, "FP64")], request_id="r-17")
        local = joblib.load(trained / "iris.joblib")
        np.testing.assert_array_equal(result.as_numpy("label"), local.predict(ROWS))
        np.testing.assert_array_equal(result.as_numpy("probabilities"), local.predict_proba(ROWS))
        assert result.get_response().id == "r-17"
        assert result.get_response().model_name == "m1"

    async def test_only_the_output_asked_for(self, file_server, client):
        await load(file_server, "iris.joblib")
        result = await client.infer(
            "m1", [tensor("input", ROWS, "FP64")], outputs=[triton.InferRequestedOutput("probabilities")]
        )
        assert [output.name for output in result.get_response().outputs] == ["probabilities"]

    async def test_onnx(self, file_server, client, trained):
        await load(file_server, "iris.onnx", kind="onnx")
        metadata = await client.get_model_metadata("m1")
        assert (metadata.platform, metadata.inputs[0].datatype) == ("onnx", "FP32")
        result = await client.infer("m1", [tensor("X", ROWS.astype(np.float32), "FP32")])
        local = joblib.load(trained / "iris.joblib")
        np.testing.assert_array_equal(result.as_numpy("label"), local.predict(ROWS))
        np.testing.assert_allclose(result.as_numpy("probabilities"), local.predict_proba(ROWS), atol=1e-5)

    async def test_onnx_maps_become_a_tensor(self, file_server, client, trained):
        await load(file_server, "iris-zipmap.onnx")
        result = await client.infer("m1", [tensor("X", ROWS.astype(np.float32), "FP32")])
        local = joblib.load(trained / "iris.joblib")
        np.testing.assert_allclose(result.as_numpy("output_probability"), local.predict_proba(ROWS), atol=1e-5)

    async def test_a_text_model(self, file_server, client):
        await load(file_server, "texts.joblib")
        result = await client.infer("m1", [tensor("input", np.array([b"good", b"poor"], dtype=object), "BYTES")])
        assert result.as_numpy("label").tolist() == [b"+", b"-"]

    async def test_a_regressor_and_a_transformer(self, file_server, client, trained):
        await load(file_server, "diabetes.joblib", model="regressor")
        row = np.full((1, 10), 0.01)
        result = await client.infer("regressor", [tensor("input", row, "FP64")])
        np.testing.assert_array_equal(result.as_numpy("output"), joblib.load(trained / "diabetes.joblib").predict(row))
        await load(file_server, "scaler.joblib", model="scaler")
        result = await client.infer("scaler", [tensor("input", ROWS, "FP64")])
        np.testing.assert_array_equal(result.as_numpy("output"), joblib.load(trained / "scaler.joblib").transform(ROWS))

    async def test_float32_and_integers_are_taken_by_scikit_learn(self, file_server, client):
        await load(file_server, "iris.joblib")
        for array, datatype in ((ROWS.astype(np.float32), "FP32"), (ROWS.astype(np.int64), "INT64")):
            assert (await client.infer("m1", [tensor("input", array, datatype)])).as_numpy("label").shape == (3,)

    async def test_a_stream(self, file_server, client):
        await load(file_server, "iris.joblib")

        async def requests():
            yield {"model_name": "m1", "inputs": [tensor("input", ROWS, "FP64")], "request_id": "1"}
            yield {"model_name": "m2", "inputs": [tensor("input", ROWS, "FP64")], "request_id": "2"}
            yield {"model_name": "m1", "inputs": [tensor("input", ROWS, "FP64")], "request_id": "3"}

        answers = [answer async for answer in client.stream_infer(requests())]
        assert [answer[0].get_response().id if answer[0] else None for answer in answers] == ["1", None, "3"]
        assert "model 'm2' is not loaded" in str(answers[1][1])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (("pixels", (1, 4), "FP64"), "the model has no input 'pixels'; its inputs are 'input'"),
            (("input", (1, 5), "FP64"), "tensor 'input' has shape [1, 5], the model wants [-1, 4]"),
            (("input", (4,), "FP64"), "tensor 'input' has shape [4], the model wants [-1, 4]"),
            (("input", (1, 4), "BYTES"), "tensor 'input' is BYTES, the model wants FP64"),
        ],
    )
    async def test_wrong_tensors_are_named(self, file_server, client, wrong, message):
        name, shape, datatype = wrong
        await load(file_server, "iris.joblib")
        array = np.zeros(shape) if datatype == "FP64" else np.full(shape, b"x", dtype=object)
        with pytest.raises(InferenceServerException) as caught:
            await client.infer("m1", [tensor(name, array, datatype)])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert message in caught.value.message()

    async def test_nan_is_the_requests_fault(self, file_server, client):
        await load(file_server, "iris.joblib")
        with pytest.raises(InferenceServerException, match="NaN") as caught:
            await client.infer("m1", [tensor("input", np.full((1, 4), np.nan), "FP64")])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"

    async def test_unknown_models_are_not_found(self, client):
        for call in (
            client.infer("m1", [tensor("input", ROWS, "FP64")]),
            client.get_model_metadata("m1"),
            client.is_model_ready("m1"),
        ):
            with pytest.raises(InferenceServerException, match="model 'm1' is not loaded") as caught:
                await call
            assert caught.value.status() == "StatusCode.NOT_FOUND"

    async def test_the_header_goes_before_the_name(self, file_server, client):
        await load(file_server, "iris.joblib", model="real id")
        for headers in ({"mm-model-id": "real id"}, {"mm-model-id-bin": b"real id", "mm-model-id": "other"}):
            result = await client.infer("a vmodel", [tensor("input", ROWS, "FP64")], headers=headers)
            assert result.get_response().model_name == "a vmodel"

    async def test_typed_requests_get_typed_answers(self, file_server):
        await load(file_server, "iris.joblib")
        request = oip.ModelInferRequest(model_name="m1")
        request.inputs.add(name="input", datatype="FP64", shape=[3, 4]).contents.fp64_contents.extend(ROWS.ravel())
        async with grpc.aio.insecure_channel(file_server.address) as channel:
            rpc = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=oip.ModelInferRequest.SerializeToString,
                response_deserializer=oip.ModelInferResponse.FromString,
            )
            answer = await rpc(request)
        assert not answer.raw_output_contents
        assert answer.outputs[0].contents.int64_contents == [0, 1, 2]


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("path", "kind", "code", "message"),
        [
            ("cut.joblib", "auto", "INVALID_ARGUMENT", "cut.joblib: is no scikit-learn model"),
            ("noise.joblib", "auto", "INVALID_ARGUMENT", "noise.joblib: is no scikit-learn model"),
            ("empty.joblib", "auto", "INVALID_ARGUMENT", "empty.joblib: is no scikit-learn model"),
            ("dict.joblib", "auto", "INVALID_ARGUMENT", "dict.joblib: holds a dict, not a model"),
            ("cut.onnx", "auto", "INVALID_ARGUMENT", "cut.onnx: is no ONNX model"),
            ("empty.onnx", "auto", "INVALID_ARGUMENT", "empty.onnx: is no ONNX model"),
            ("iris.onnx", "sklearn", "INVALID_ARGUMENT", "iris.onnx: is no scikit-learn model"),
            ("iris.joblib", "onnx", "INVALID_ARGUMENT", "iris.joblib: is no ONNX model"),
            (
                "iris.joblib",
                "tensorflow",
                "INVALID_ARGUMENT",
                "'tensorflow' is not known here; known are auto, sklearn",
            ),
            ("readme.txt", "auto", "INVALID_ARGUMENT", "readme.txt: the suffix is not that of a format"),
            ("nothing.onnx", "auto", "FAILED_PRECONDITION", "nothing.onnx: no such file"),
            ("", "auto", "INVALID_ARGUMENT", "the model has no path"),
            ("two", "auto", "INVALID_ARGUMENT", "two: holds 2 model files; give the path of one"),
            ("s3://bucket/m.onnx", "auto", "INVALID_ARGUMENT", "only local files and file:// URIs"),
            ("file://other-host/m.onnx", "auto", "INVALID_ARGUMENT", "only local files and file:// URIs"),
        ],
    )
    async def test_say_what_is_wrong_with_which_file(self, file_server, path, kind, code, message):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await load(file_server, path, kind)
        assert caught.value.code().name == code
        assert message in caught.value.details()
        assert "\n" not in caught.value.details()
        assert file_server.models.accounted_bytes() == 0


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["iris.joblib", "one", "one/model.joblib", "iris.pickle", "iris-packed.joblib", "./one/../iris.onnx"]
    )
    async def test_paths_below_the_folder(self, file_server, path):
        assert await load(file_server, path) > 0

    async def test_absolute_paths_and_uris_below_the_folder(self, file_server, trained):
        assert await load(file_server, trained / "iris.onnx") > 0
        assert await load(file_server, f"file://{trained}/iris%2Eonnx", model="m2") > 0

    @pytest.mark.parametrize(
        "path", ["../outside.joblib", "/etc/passwd", "file:///etc/passwd", "link.joblib", "one/../../x"]
    )
    async def test_paths_that_leave_the_folder_are_refused(self, tmp_path, trained, path):
        (tmp_path / "root" / "one").mkdir(parents=True)
        shutil.copy(trained / "iris.joblib", tmp_path / "outside.joblib")
        (tmp_path / "root" / "link.joblib").symlink_to(tmp_path / "outside.joblib")
        with pytest.raises(LoadError, match="lies outside of the models' folder"):
            FileRuntime(models=tmp_path / "root").load(ModelSource("m1", "sklearn", path))

    def test_a_folder_with_a_link_out_is_refused(self, tmp_path, trained):
        (tmp_path / "root" / "m").mkdir(parents=True)
        (tmp_path / "root" / "m" / "model.joblib").symlink_to(trained / "iris.joblib")
        with pytest.raises(LoadError, match="lies outside"):
            FileRuntime(models=tmp_path / "root").load(ModelSource("m1", "", "m"))

    def test_a_link_may_lead_to_a_folder_that_is_named_for_it(self, tmp_path, trained):
        """As a puller links files of a mounted claim."""
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "model.joblib").symlink_to(trained / "iris.joblib")
        runtime = FileRuntime(models=tmp_path / "root", linked=[trained])
        assert runtime.load(ModelSource("m1", "sklearn", "model.joblib")).size_bytes > 0
        with pytest.raises(LoadError, match="lies outside"):
            runtime.load(ModelSource("m2", "sklearn", "../outside.joblib"))

    def test_without_a_folder_paths_are_absolute(self, trained):
        runtime = FileRuntime()
        assert runtime.load(ModelSource("m1", "", str(trained / "iris.onnx"))).size_bytes > 0
        with pytest.raises(LoadError, match="start the runtime with --models"):
            runtime.load(ModelSource("m1", "", "iris.onnx"))

    @pytest.mark.parametrize(
        "kind", ["sklearn", "SKLearn", "mt:sklearn", "mt:sklearn:1", "mt:sklearn|pv:v2", "rt:x", ""]
    )
    def test_types_as_the_controller_writes_them(self, trained, kind):
        assert FileRuntime(models=trained).load(ModelSource("m1", kind, "iris.joblib")).size_bytes > 0


class TestSizes:
    @pytest.mark.parametrize(
        "path", ["iris.joblib", "iris.pickle", "iris-packed.joblib", "diabetes.joblib", "iris.onnx"]
    )
    def test_predictions_are_no_less_than_what_is_measured(self, trained, path):
        runtime = FileRuntime(models=trained)
        source = ModelSource("m1", "", path)
        predicted, measured = runtime.predict_size(source), runtime.load(source).size_bytes
        assert measured <= predicted <= 4 * measured
        assert measured > (trained / path).stat().st_size / 2

    def test_the_same_file_has_the_same_size_every_time(self, trained):
        runtime = FileRuntime(models=trained)
        for path in ("iris.joblib", "iris.onnx"):
            assert len({runtime.load(ModelSource("m1", "", path)).size_bytes for _ in range(3)}) == 1

    async def test_a_model_that_does_not_fit_is_refused(self, trained, served):
        size_bytes = FileRuntime(models=trained).load(ModelSource("m1", "", "iris.onnx")).size_bytes
        capacity_bytes = int(size_bytes * 2.5)
        server = await served(
            FileRuntime(models=trained, capacity_bytes=capacity_bytes, default_size_bytes=1000), listen="127.0.0.1:0"
        )
        for model in ("m0", "m1"):
            await load(server, "iris.onnx", model=model)
        for model in ("m2", "m3"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await load(server, "iris.onnx", model=model)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            free_bytes = capacity_bytes - 2 * size_bytes
            assert f"needs {size_bytes} bytes, but {free_bytes} of {capacity_bytes}" in refused.value.details()
        assert server.models.accounted_bytes() == 2 * size_bytes


class TestFormats:
    def test_pyproject_names_the_built_in_formats(self):
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
        assert project["project"]["entry-points"]["modelmesh.formats"] == BUILT_IN

    def test_suffixes_known_without_importing_are_those_of_the_formats(self):
        classes = {}
        for name, reference in BUILT_IN.items():
            module, _, attribute = reference.partition(":")
            classes[name] = getattr(importlib.import_module(module), attribute)
        assert {name: form.suffixes for name, form in classes.items()} == BUILT_IN_SUFFIXES
        named = {name: getattr(form, "named_suffixes", ()) for name, form in classes.items()}
        assert {name: suffixes for name, suffixes in named.items() if suffixes} == BUILT_IN_NAMED_SUFFIXES

    def test_packages_of_few_models_are_imported_for_a_model_only(self, tmp_path):
        script = (
            "import sys, pathlib; from modelmesh.runtime.files import FileRuntime; from modelmesh.runtime import *\n"
            "runtime = FileRuntime(); runtime.warm_up(); root = pathlib.Path(sys.argv[1])\n"
            "for name in ('a.onnx', 'a.txt'):\n"
            "    (root / name).touch()\n"
            "    try: runtime.load(ModelSource('m', '', str(root / name)))\n"
            "    except LoadError: pass\n"
            "print(sorted({'sklearn', 'onnxruntime', 'xgboost', 'lightgbm'} & set(sys.modules)))"
        )
        found = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "['onnxruntime', 'sklearn']"

    def test_a_missing_package_is_named_with_its_cure(self, monkeypatch, trained):
        monkeypatch.setitem(sys.modules, "joblib", None)
        monkeypatch.delitem(sys.modules, "modelmesh.runtime.sklearn", raising=False)
        runtime = FileRuntime(models=trained, formats=Formats(BUILT_IN))
        with pytest.raises(LoadError, match=r"joblib is missing: pip install pymodelmesh\[sklearn\]") as caught:
            runtime.load(ModelSource("m1", "", "iris.joblib"))
        assert caught.value.status is Status.FAILED_PRECONDITION

    def test_a_format_of_ones_own(self, monkeypatch, trained):
        class Lines:
            suffixes = (".txt",)

            def predict_size(self, path):
                return path.stat().st_size

            def load(self, path):
                return path.read_text()

        monkeypatch.setattr(sys.modules[__name__], "Lines", Lines, raising=False)
        runtime = FileRuntime(models=trained, formats=Formats({**BUILT_IN, "lines": f"{__name__}:Lines"}))
        assert runtime.load(ModelSource("m1", "auto", "readme.txt")) == "no model"
