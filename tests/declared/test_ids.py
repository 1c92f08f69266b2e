"""The ids of concrete models are the old controller's, byte for byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.declared import Document, ModelSpec, StorageSpec, declare

PREDICTOR = "serving.kserve.io/v1alpha1"
ISVC = "serving.kserve.io/v1beta1"
MNIST = "sklearn/mnist-svm.joblib"


def isvc(model: dict, **annotations: str) -> dict:
    noted = {f"serving.kserve.io/{name}": value for name, value in annotations.items()}
    return {
        "apiVersion": ISVC,
        "kind": "InferenceService",
        "metadata": {"name": "m", "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh", **noted}},
        "spec": {"predictor": {"model": model}},
    }


def predictor(**spec: object) -> dict:
    return {"apiVersion": PREDICTOR, "kind": "Predictor", "metadata": {"name": "m"}, "spec": spec}


SECRET = {"s3": {"secretKey": "localMinIO"}}
SKLEARN = {"modelFormat": {"name": "sklearn"}}

VECTORS = {
    "6b2eb0b8bf": isvc({**SKLEARN, "storage": {"key": "localMinIO", "path": MNIST}}),
    "3642375d03": isvc({**SKLEARN, "storageUri": f"s3://modelmesh-example-models/{MNIST}"}, secretKey="localMinIO"),
    "3d2daa3370": isvc({**SKLEARN, "storageUri": f"pvc://my-models-pvc/{MNIST}"}),
    "72fbffc584": isvc(
        {
            "modelFormat": {"name": "custom-model"},
            "runtime": "my-custom-model-0.x",
            "storage": {"path": "mnist-svm.joblib", "parameters": {"type": "pvc", "name": "my-models-pvc"}},
        }
    ),
    "f3ccc51d50": predictor(modelType={"name": "keras"}, path="keras/mnist.h5", storage=SECRET),
    "7702c1b55a": predictor(modelType={"name": "sklearn"}, path=MNIST, storage=SECRET),
    "297b372253": predictor(modelType={"name": "lightgbm"}, path="lightgbm/mushroom.bst", storage=SECRET),
    "0dbc77db1a": predictor(modelType={"name": "onnx"}, path="onnx/mnist.onnx", storage=SECRET),
}


@pytest.mark.parametrize("digest", VECTORS)
def test_ids_equal_those_that_the_old_controller_printed(digest: str) -> None:
    declared = declare([Document("models.yaml:1", VECTORS[digest])])
    assert not declared.problems
    owner = "ksp" if VECTORS[digest]["kind"] == "Predictor" else "isvc"
    assert [one.model_id for one in declared.wanted] == [f"m__{owner}-{digest}"]


def test_what_is_hashed_has_every_field_in_the_old_order() -> None:
    spec = ModelSpec(
        format="onnx",
        format_version="1",
        path="p",
        schema_path="s",
        storage=StorageSpec("sp", "ss", {"z": "1", "a": "2"}, "k", "secret", "bucket"),
        runtime="triton",
        protocol_version="v2",
        gpu="required",
        service_account_name="who",
    )
    assert spec.canonical() == (
        '{"serviceAccountName":"who","modelType":{"name":"onnx","version":"1"},"path":"p","schemaPath":"s",'
        '"storage":{"path":"sp","schemaPath":"ss","parameters":{"a":"2","z":"1"},"key":"k",'
        '"s3":{"secretKey":"secret","bucket":"bucket"}},"gpu":"required","runtime":{"name":"triton"},'
        '"protocolVersion":"v2"}'
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a<b>&c", "a\\u003cb\\u003e\\u0026c"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("é模", "é模"),
        ('"\\', '\\"\\\\'),
        ("\b\f\n\t\x01\x7f", "\\u0008\\u000c\\n\\t\\u0001\x7f"),
        ("\\b", "\\\\b"),
    ],
)
def test_texts_are_escaped_as_go_escapes_them(text: str, written: str) -> None:
    assert ModelSpec("f", path=text).canonical() == f'{{"modelType":{{"name":"f"}},"path":"{written}"}}'


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
maybe = st.none() | texts
specs = st.builds(
    ModelSpec,
    format=texts,
    format_version=maybe,
    path=texts,
    schema_path=maybe,
    storage=st.none()
    | st.builds(
        StorageSpec,
        path=maybe,
        schema_path=maybe,
        parameters=st.none() | st.dictionaries(texts, texts, max_size=3),
        key=maybe,
        s3_secret_key=maybe,
    ),
    runtime=maybe,
    protocol_version=maybe,
)


@given(specs, specs)
def test_what_is_hashed_is_json_and_tells_models_apart(one: ModelSpec, other: ModelSpec) -> None:
    assert json.loads(one.canonical())["path"] == one.path
    assert (one.canonical() == other.canonical()) == (one == other)


def test_a_bucket_without_a_secret_is_not_hashed_because_a_resource_cannot_say_it() -> None:
    declared = declare([Document("f", predictor(modelType={"name": "a"}, storage={"s3": {"bucket": "b"}}))])
    assert [problem.path for problem in declared.problems] == ["spec.storage.s3.secretKey"]


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (ModelSpec("sklearn"), '{"model_type":{"name":"sklearn"}}'),
        (
            ModelSpec("sk", "0", storage=StorageSpec("p", "s", {"type": "s3", "bucket": "b"}, "key")),
            '{"storage_key":"key","storage_params":{"bucket":"b","type":"s3"},"model_type":{"name":"sk","version":"0"},"schema_path":"s"}',
        ),
        (
            ModelSpec("sk", schema_path="old", storage=StorageSpec(s3_secret_key="k", s3_bucket="b")),
            '{"storage_key":"k","storage_params":{"bucket":"b"},"model_type":{"name":"sk"},"schema_path":"old"}',
        ),
        (ModelSpec("sk", storage=StorageSpec("p", parameters={})), '{"model_type":{"name":"sk"}}'),
    ],
)
def test_the_model_key_is_the_old_one(spec: ModelSpec, key: str) -> None:
    assert spec.key == key


@pytest.mark.parametrize(
    ("spec", "kind", "path"),
    [
        (ModelSpec("a", path="p"), "mt:a", ""),
        (ModelSpec("a", "1", path="p", storage=StorageSpec()), "mt:a:1", "p"),
        (ModelSpec("a", "1", protocol_version="grpc-v2"), "mt:a:1|pv:grpc-v2", ""),
        (ModelSpec("a", protocol_version="v2", runtime="r"), "rt:r", ""),
        (ModelSpec("a", protocol_version="v2", runtime=""), "mt:a|pv:v2", ""),
        (ModelSpec("a", storage=StorageSpec("new")), "mt:a", "new"),
    ],
)
def test_the_mesh_is_told_the_old_type_and_path(spec: ModelSpec, kind: str, path: str) -> None:
    assert (spec.type, spec.model_path) == (kind, path)
