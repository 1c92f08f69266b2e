"""Resources: everything that is wrong with one is said at once, at its field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_ids import ISVC, PREDICTOR, SKLEARN, isvc, predictor

from modelmesh.declared import Declared, Document, declare


def read(*bodies: dict) -> Declared:
    return declare([Document(f"m.yaml:{number}", body) for number, body in enumerate(bodies, 1)])


def wrong(*bodies: dict) -> list[str]:
    return [problem.path for problem in read(*bodies).problems]


@pytest.mark.parametrize(
    ("uri", "path", "parameters"),
    [
        ("s3://bucket/a/b", "a/b", {"type": "s3", "bucket": "bucket"}),
        ("s3://bucket", "", {"type": "s3", "bucket": "bucket"}),
        ("gs://bucket/a%20b", "a b", {"type": "gcs", "bucket": "bucket"}),
        ("pvc://claim/a/", "a/", {"type": "pvc", "name": "claim"}),
        (
            "https://acct.blob.core.windows.net/box/a/b",
            "a/b",
            {"type": "azure", "account_name": "acct", "container": "box"},
        ),
        ("https://github.com/x/y?raw=true", "x/y", {"type": "http", "url": "https://github.com?raw=true"}),
        ("http://host:81/f", "f", {"type": "http", "url": "http://host:81"}),
        ("hf://org/repo@main/f", "hf://org/repo@main/f", {}),
        ("file:///models/f", "file:///models/f", {}),
    ],
)
def test_a_storage_uri_becomes_path_and_parameters(uri: str, path: str, parameters: dict[str, str]) -> None:
    declared = read(isvc({**SKLEARN, "storageUri": uri}))
    assert not declared.problems
    storage = declared.wanted[0].spec.storage
    assert storage is not None
    assert (storage.path, storage.parameters) == (path, parameters)


@pytest.mark.parametrize(
    "uri",
    ["ftp://host/f", "models/f", "s3:///f", "pvc:///f", "https:///f", "https://a.blob.core.windows.net/", "http://[x/"],
)
def test_a_uri_that_names_nothing_is_a_problem_without_its_secrets(uri: str) -> None:
    declared = read(isvc({**SKLEARN, "storageUri": uri}))
    assert [problem.path for problem in declared.problems] == ["spec.predictor.model.storageUri"]


def test_a_password_in_a_uri_is_never_repeated() -> None:
    declared = read(isvc({**SKLEARN, "storageUri": "https://me:hunter2@acct.blob.core.windows.net?sig=hunter3"}))
    assert declared.problems
    assert not [problem for problem in declared.problems if "hunter" in str(problem)]


def test_parameters_of_the_uri_win_over_those_beside_it() -> None:
    model = {**SKLEARN, "storageUri": "s3://b/p", "storage": {"parameters": {"bucket": "x", "region": "r"}}}
    storage = read(isvc(model)).wanted[0].spec.storage
    assert storage is not None
    assert storage.parameters == {"type": "s3", "bucket": "b", "region": "r"}


def test_annotations_of_the_old_form_still_name_runtime_key_and_schema() -> None:
    noted = {"servingRuntime": "r", "secretKey": "k", "schemaPath": "s"}
    body = isvc({}, **noted)
    body["spec"] = {"predictor": {"tensorflow": {"storageUri": "s3://b/p"}, "sklearn": {"storageUri": "s3://b/q"}}}
    spec = read(body).wanted[0].spec
    assert (spec.format, spec.runtime, spec.format_version) == ("sklearn", "r", None), "sklearn comes first"
    assert spec.storage is not None
    assert (spec.storage.key, spec.storage.schema_path) == ("k", "s")


PATHS = {
    "model and framework": (
        lambda: {**isvc({}), "spec": {"predictor": {"model": {**SKLEARN, "storageUri": "s3://b/p"}, "onnx": {}}}},
        ["spec.predictor.onnx"],
    ),
    "pinned twice": (
        lambda: isvc({**SKLEARN, "runtime": "a", "storageUri": "s3://b/p"}, servingRuntime="a"),
        ['metadata.annotations["serving.kserve.io/servingRuntime"]'],
    ),
    "no model": (lambda: {**isvc({}), "spec": {"predictor": {}}}, ["spec.predictor.model"]),
    "no files": (lambda: isvc(SKLEARN), ["spec.predictor.model.storageUri"]),
    "files twice": (
        lambda: isvc({**SKLEARN, "storageUri": "s3://b/p", "storage": {"path": "p"}}),
        ["spec.predictor.model.storageUri"],
    ),
    "misspelt": (
        lambda: isvc({**SKLEARN, "storageURI": "s3://b/p"}),
        ["spec.predictor.model.storageURI", "spec.predictor.model.storageUri"],
    ),
    "types": (
        lambda: isvc({"modelFormat": {"name": 1, "version": 2.0}, "storage": {"path": [], "parameters": {"a": 1}}}),
        [
            "spec.predictor.model.modelFormat.name",
            "spec.predictor.model.modelFormat.version",
            "spec.predictor.model.storage.parameters.a",
            "spec.predictor.model.storage.path",
        ],
    ),
    "two paths": (
        lambda: predictor(modelType={"name": "a"}, path="p", schemaPath="s", storage={"path": "q", "schemaPath": "t"}),
        ["spec.path", "spec.schemaPath"],
    ),
    "claim": (
        lambda: predictor(modelType={"name": "a"}, storage={"persistentVolumeClaim": {"claimName": "c"}}),
        ["spec.storage.persistentVolumeClaim"],
    ),
    "old storage beside new": (
        lambda: predictor(modelType={"name": "a"}, storage={"s3": {"secretKey": "k"}, "key": "k"}),
        ["spec.storage.s3"],
    ),
    "no type": (lambda: predictor(storage={"path": "p"}), ["spec.modelType"]),
    "unknown field": (
        lambda: predictor(modelType={"name": "a"}, storage={"path": "p"}, replicas=3, gpu="many"),
        ["spec.gpu", "spec.replicas"],
    ),
    "version": (lambda: {**predictor(), "apiVersion": "serving.kserve.io/v1"}, ["apiVersion"]),
    "name": (lambda: {**predictor(modelType={"name": "a"}), "metadata": {"name": "A b"}}, ["metadata.name"]),
    "no name": (lambda: {**predictor(modelType={"name": "a"}), "metadata": {}}, ["metadata.name"]),
    "no spec": (lambda: {"apiVersion": ISVC, "kind": "InferenceService", "metadata": {"name": "a"}}, ["spec"]),
    "no kind": (lambda: {"apiVersion": PREDICTOR}, ["kind"]),
    "surrogate": (lambda: predictor(modelType={"name": "\ud800"}, storage={"path": "p"}), ["spec.modelType.name"]),
}


@pytest.mark.parametrize("case", PATHS)
def test_each_problem_stands_at_its_field(case: str) -> None:
    body, paths = PATHS[case]
    assert sorted(wrong(body())) == sorted(paths)


def test_the_texts_of_the_old_controller_are_kept_where_people_know_them() -> None:
    both = predictor(modelType={"name": "a"}, path="p", storage={"path": "q"})
    assert "Only one of spec.path and spec.storage.path can be specified" in str(read(both).problems[0])


def test_what_is_another_systems_is_passed_over_and_said() -> None:
    other = isvc({**SKLEARN, "storageUri": "s3://b/p"}, deploymentMode="RawDeployment")
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    declared = read(other, config)
    assert not declared.wanted
    assert not declared.problems
    assert [problem.source for problem in declared.passed_over] == ["m.yaml:1", "m.yaml:2"]


def test_without_a_deployment_mode_a_file_is_taken_for_ours() -> None:
    body = isvc({**SKLEARN, "storageUri": "s3://b/p"})
    body["metadata"] = {"name": "m"}
    assert [one.name for one in read(body).wanted] == ["m"]


def test_kinds_share_the_names_of_models_and_the_second_is_told_where_the_first_is() -> None:
    first = predictor(modelType={"name": "a"}, storage={"path": "p"})
    declared = read(first, isvc({**SKLEARN, "storageUri": "s3://b/p"}))
    assert [one.owner for one in declared.wanted] == ["ksp"]
    assert "m.yaml:1" in declared.problems[0].message
    elsewhere = isvc({**SKLEARN, "storageUri": "s3://b/p"})
    elsewhere["metadata"] |= {"namespace": "other"}
    assert len(read(first, elsewhere).wanted) == 2


def test_a_broken_resource_hides_no_other() -> None:
    good = isvc({**SKLEARN, "storageUri": "s3://b/p"})
    declared = read({"kind": 3}, {**good, "metadata": {"name": "x"}, "spec": None}, good)
    assert [one.name for one in declared.wanted] == ["m"]
    assert {problem.source for problem in declared.problems} == {"m.yaml:1", "m.yaml:2"}


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
places = st.sampled_from(
    [
        ("metadata",),
        ("metadata", "annotations"),
        ("spec",),
        ("spec", "predictor"),
        ("spec", "predictor", "model"),
        ("spec", "predictor", "model", "storage"),
        ("spec", "predictor", "model", "storageUri"),
        ("spec", "modelType"),
        ("spec", "storage"),
        ("spec", "storage", "s3"),
        ("spec", "supportedModelFormats"),
        ("spec", "builtInAdapter"),
        ("spec", "containers"),
        ("spec", "grpcEndpoint"),
        ("spec", "volumes"),
    ]
)


@given(st.sampled_from(["Predictor", "InferenceService", "ServingRuntime", "Other"]), st.lists(st.tuples(places, junk)))
def test_nothing_that_a_resource_says_raises(kind: str, edits: list) -> None:
    version = ISVC if kind == "InferenceService" else PREDICTOR
    body: dict = {"apiVersion": version, "kind": kind, "metadata": {"name": "m"}, "spec": {}}
    for path, value in edits:
        inner = body
        for name in path[:-1]:
            if not isinstance(inner.get(name), dict):
                inner[name] = {}
            inner = inner[name]
        inner[path[-1]] = value
    declared = read(body)
    for one in declared.wanted:
        assert one.model_id.startswith("m__")
        assert one.spec.key.encode()
    assert declared.wanted or declared.problems or declared.passed_over or declared.runtimes
