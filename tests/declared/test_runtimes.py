"""Runtimes: their labels, which of them takes a model, and everything that is wrong with one."""

import copy

import pytest
from test_ids import PREDICTOR, SKLEARN, isvc

from modelmesh.declared import Declared, Document, Runtime, Verdict, declare

MLSERVER: dict = {
    "supportedModelFormats": [
        {"name": "sklearn", "version": "0", "autoSelect": True},
        {"name": "xgboost", "version": "1", "autoSelect": True},
        {"name": "mllib"},
    ],
    "protocolVersions": ["grpc-v2"],
    "multiModel": True,
    "grpcEndpoint": "port:8085",
    "grpcDataEndpoint": "port:8001",
    "containers": [{"name": "mlserver", "image": "server:1"}],
    "builtInAdapter": {"serverType": "mlserver", "runtimeManagementPort": 8001, "memBufferBytes": 134217728},
}


def runtime(
    name: str = "mlserver-1.x", *, kind: str = "ServingRuntime", annotations: dict | None = None, **spec: object
) -> dict:
    body = copy.deepcopy(MLSERVER) | {key: value for key, value in spec.items() if value is not None}
    body = {key: value for key, value in body.items() if key not in spec or spec[key] is not None}
    metadata = {"name": name, "annotations": annotations or {}}
    return {"apiVersion": PREDICTOR, "kind": kind, "metadata": metadata, "spec": body}


def read(*bodies: dict) -> Declared:
    return declare([Document(f"m.yaml:{number}", body) for number, body in enumerate(bodies, 1)])


def one(body: dict) -> Runtime:
    declared = read(body)
    assert not declared.problems, declared.problems
    return declared.runtimes[0]


def test_labels_are_the_old_ones() -> None:
    labels = {"mt:sklearn", "mt:sklearn:0", "mt:xgboost", "mt:xgboost:1", "pv:grpc-v2", "rt:mlserver-1.x"}
    assert one(runtime()).labels == labels


def test_type_constraints_are_the_old_ones() -> None:
    assert one(runtime(supportedModelFormats=[{"name": "a", "version": "1", "autoSelect": True}])).constraints() == {
        "rt:mlserver-1.x": ["rt:mlserver-1.x"],
        "mt:a": ["mt:a"],
        "mt:a:1": ["mt:a:1"],
        "mt:a|pv:grpc-v2": ["mt:a", "pv:grpc-v2"],
        "mt:a:1|pv:grpc-v2": ["mt:a:1", "pv:grpc-v2"],
    }


def model(name: str, *, version: str | None = None, **more: object) -> dict:
    form = {"name": name} | ({"version": version} if version else {})
    return isvc({"modelFormat": form, "storageUri": "s3://b/p", **more})


CHOICES = [
    (model("sklearn"), Verdict.FITS, ("mlserver-1.x",), "mlserver-1.x lists sklearn"),
    (model("sklearn", version="0"), Verdict.FITS, ("mlserver-1.x",), "lists sklearn 0"),
    (model("sklearn", protocolVersion="grpc-v2"), Verdict.FITS, ("mlserver-1.x",), "sklearn by grpc-v2"),
    (model("sklearn", version="1"), Verdict.NO_RUNTIME, (), "no declared runtime takes sklearn 1"),
    (model("sklearn", protocolVersion="v1"), Verdict.NO_RUNTIME, (), "mlserver-1.x implements grpc-v2"),
    (model("mllib"), Verdict.NO_RUNTIME, (), "only if it is named as the model's runtime"),
    (model("mllib", runtime="mlserver-1.x"), Verdict.PINNED, ("mlserver-1.x",), "it names the runtime"),
    (model("onnx", runtime="mlserver-1.x"), Verdict.PINNED_OTHER_FORMAT, ("mlserver-1.x",), "does not list onnx"),
    (model("onnx", runtime="triton"), Verdict.RUNTIME_UNKNOWN, (), "triton, which it names, is not declared"),
]


@pytest.mark.parametrize(("body", "verdict", "names", "why"), CHOICES)
def test_a_runtime_is_chosen_with_a_reason(body: dict, verdict: Verdict, names: tuple[str, ...], why: str) -> None:
    choice = read(runtime(), body).wanted[0].choice
    assert (choice.verdict, choice.runtimes) == (verdict, names)
    assert why in choice.why


def test_a_pinned_runtime_that_lists_another_format_is_said_early_and_taken_all_the_same() -> None:
    declared = read(runtime(), model("onnx", runtime="mlserver-1.x"))
    assert not declared.problems
    assert [problem.path for problem in declared.passed_over] == ["spec"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [({"disabled": True}, "disabled"), ({"multiModel": False, "grpcEndpoint": None}, "not a multi-model runtime")],
)
def test_a_runtime_that_is_off_takes_no_model(spec: dict, why: str) -> None:
    off = runtime(**spec)
    assert read(off, model("sklearn")).wanted[0].choice.verdict is Verdict.NO_RUNTIME
    pinned = read(off, model("sklearn", runtime="mlserver-1.x")).wanted[0].choice
    assert pinned.verdict is Verdict.RUNTIME_OFF
    assert why in pinned.why


def test_a_namespaces_runtime_hides_the_cluster_wide_one_of_its_name() -> None:
    wide = runtime(kind="ClusterServingRuntime")
    own = runtime(supportedModelFormats=[{"name": "other", "autoSelect": True}])
    assert read(wide, own, model("sklearn")).wanted[0].choice.verdict is Verdict.NO_RUNTIME
    assert read(own, wide, model("other")).wanted[0].choice.runtimes == ("mlserver-1.x",)


def test_known_runtimes_are_hidden_by_declared_ones() -> None:
    built_in = one(runtime(kind="ClusterServingRuntime"))
    documents = [Document("m", model("sklearn"))]
    assert declare(documents, known=[built_in]).wanted[0].choice.verdict is Verdict.FITS
    other = Document("r", runtime(kind="ClusterServingRuntime", supportedModelFormats=[]))
    assert declare([*documents, other], known=[built_in]).wanted[0].choice.verdict is Verdict.NO_RUNTIME


WRONG = {
    "server type": ({"builtInAdapter": {"serverType": "nginx"}}, ["spec.builtInAdapter.serverType"]),
    "server container": ({"containers": [{"name": "other"}]}, ["spec.builtInAdapter.serverType"]),
    "no containers": ({"containers": None}, ["spec.builtInAdapter.serverType", "spec.containers"]),
    "no endpoint": ({"grpcEndpoint": None}, ["spec.grpcEndpoint"]),
    "endpoints": (
        {"grpcEndpoint": "8085", "grpcDataEndpoint": "port:0"},
        ["spec.grpcEndpoint", "spec.grpcDataEndpoint"],
    ),
    "sockets": (
        {"grpcEndpoint": "unix:/a/x", "grpcDataEndpoint": "unix:///b/y"},
        ["spec.grpcDataEndpoint", "spec.grpcEndpoint"],
    ),
    "containers": (
        {
            "containers": [
                {"name": "mlserver", "readinessProbe": {}, "lifecycle": {}},
                {"name": "mm-mine", "ports": [{"name": "grpc", "containerPort": 8033}, {"containerPort": 11885}]},
                {"name": "puller", "volumeMounts": [{"name": "tc-config"}, {"name": "models-dir"}]},
            ],
            "volumes": [{"name": "models-dir"}, {"name": "mine"}],
        },
        [
            "spec.containers[0].readinessProbe",
            "spec.containers[0].lifecycle",
            "spec.containers[1].name",
            "spec.containers[1].ports[0].name",
            "spec.containers[1].ports[0].containerPort",
            "spec.containers[1].ports[1].containerPort",
            "spec.containers[2].name",
            "spec.containers[2].volumeMounts[0].name",
            "spec.volumes[0].name",
        ],
    ),
    "bar": ({"supportedModelFormats": [{"name": "a|b"}]}, ["spec.supportedModelFormats[0].name"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_all_rules_are_checked_and_each_problem_stands_at_its_field(case: str) -> None:
    """The old controller wrote the first of them to its log and deployed nothing."""
    spec, paths = WRONG[case]
    declared = read(runtime(**spec))
    found = [problem.path for problem in declared.problems]
    assert sorted(found) == sorted(paths)


ANNOTATIONS = {
    "autoscalerClass": ("vpa", True),
    "targetUtilizationPercentage": ("101", True),
    "metrics": ("gpu", True),
    "min-scale": ("0", True),
    "max-scale": ("x", True),
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations_of_the_autoscaler_are_checked(name: str) -> None:
    prefix = "serving.kserve.io/"
    noted = {f"{prefix}autoscalerClass": "hpa", f"{prefix}{name}": ANNOTATIONS[name][0]}
    assert [problem.path for problem in read(runtime(annotations=noted)).problems] == [
        f'metadata.annotations["{prefix}{name}"]'
    ]


def test_two_replicas_at_least_need_no_upper_bound_and_none_is_a_class() -> None:
    """The old webhook refused both."""
    prefix = "serving.kserve.io/"
    assert one(runtime(annotations={f"{prefix}autoscalerClass": "hpa", f"{prefix}min-scale": "2"}))
    assert one(runtime(annotations={f"{prefix}autoscalerClass": "none"}))


def test_a_runtime_that_pins_nothing_but_stands_alone_may_be_named_by_a_model_of_no_version() -> None:
    body = isvc({**SKLEARN, "runtime": "mlserver-1.x", "storageUri": "s3://b/p"})
    assert read(runtime(), body).wanted[0].choice.verdict is Verdict.PINNED
