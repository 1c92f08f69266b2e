"""Resources that must be refused, each with its sentence: by whoever reads them, and by a real API server."""

import copy
from typing import Any

Manifest = dict[str, Any]

RUNTIME: Manifest = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "ServingRuntime",
    "metadata": {"name": "mine", "annotations": {}},
    "spec": {
        "supportedModelFormats": [{"name": "sklearn", "version": "1", "autoSelect": True}],
        "protocolVersions": ["grpc-v2"],
        "multiModel": True,
        "grpcEndpoint": "port:8085",
        "grpcDataEndpoint": "port:8001",
        "containers": [{"name": "mlserver", "image": "server:1"}],
        "builtInAdapter": {"serverType": "mlserver", "runtimeManagementPort": 8001},
    },
}

_SERVING = "serving.kserve.io/"


def runtime(*, annotations: dict[str, str] | None = None, container: Manifest | None = None, **spec: Any) -> Manifest:
    """A good runtime with some of it changed; None takes a field away."""
    body = copy.deepcopy(RUNTIME)
    body["metadata"]["annotations"] = {
        _SERVING + name if name[0] != "/" else name[1:]: value for name, value in (annotations or {}).items()
    }
    body["spec"] = {name: value for name, value in (body["spec"] | spec).items() if value is not None}
    body["spec"]["containers"][0] |= container or {}
    return body


def predictor(**spec: Any) -> Manifest:
    """A good Predictor with some of it changed."""
    good = {"modelType": {"name": "sklearn"}, "storage": {"path": "a"}}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "Predictor",
        "metadata": {"name": "mine"},
        "spec": good | spec,
    }


def service(predictor: Manifest | None, **annotations: str) -> Manifest:
    """An InferenceService for the mesh."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "mine",
            "annotations": {
                _SERVING + name: value for name, value in ({"deploymentMode": "ModelMesh"} | annotations).items()
            },
        },
        "spec": {} if predictor is None else {"predictor": predictor},
    }


_MODEL = {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://bucket/a"}
_TWO = [{"name": "one", "image": "x", "ports": []}, {"name": "one", "image": "y"}]

RUNTIMES: dict[str, tuple[Manifest, str]] = {
    "F1 no endpoint": (runtime(grpcEndpoint=None), "is required of a multi-model runtime: port:N or unix:PATH"),
    "endpoint without port": (runtime(grpcEndpoint="port:"), "must be port:N with 1 to 65535, or unix:/PATH, is port:"),
    "endpoint with a large port": (runtime(grpcDataEndpoint="port:70000"), "or unix:/PATH, is port:70000"),
    "endpoint of another kind": (runtime(grpcEndpoint="tcp://x"), "or unix:/PATH, is tcp://x"),
    "sockets in two folders": (
        runtime(grpcEndpoint="unix:///a/x", grpcDataEndpoint="unix:/b/x", builtInAdapter=None),
        "must be a socket in the folder of grpcEndpoint",
    ),
    "sockets at two depths": (
        runtime(grpcEndpoint="unix:///a/c/x", grpcDataEndpoint="unix:/a/x", builtInAdapter=None),
        "must be a socket in the folder of grpcEndpoint",
    ),
    "adapter and socket": (
        runtime(grpcEndpoint="unix:///a/x", grpcDataEndpoint="port:1"),
        "must be port:N with a built-in adapter",
    ),
    "adapter without its container": (
        runtime(builtInAdapter={"serverType": "triton"}),
        "needs a container of that name: triton",
    ),
    "container mm": (runtime(container={"name": "mm"}, builtInAdapter=None), "mm is the name of a container of ours"),
    "container mm-x": (
        runtime(container={"name": "mm-x"}, builtInAdapter=None),
        "mm-x is the name of a container of ours",
    ),
    "two containers of one name": (runtime(containers=_TWO, builtInAdapter=None), " twice"),
    "readiness probe": (runtime(container={"readinessProbe": {"httpGet": {"port": 1}}}), "set by the mesh; take "),
    "lifecycle": (runtime(container={"lifecycle": {"preStop": {}}}), "set by the mesh; take "),
    "mount": (
        runtime(container={"volumeMounts": [{"name": "tc-config", "mountPath": "/x"}]}),
        "is the name of a volume of ours",
    ),
    "port name": (
        runtime(container={"ports": [{"name": "grpc", "containerPort": 1}]}),
        "is the name of a port of ours",
    ),
    "F29 port number": (runtime(container={"ports": [{"containerPort": 8033}]}), "is taken"),
    "port of a range": (runtime(container={"ports": [{"containerPort": 11881}]}), "is taken"),
    "volume": (runtime(volumes=[{"name": "models-dir", "emptyDir": {}}]), "models-dir is the name of a volume of ours"),
    "replicas": (runtime(replicas=70000), "65535"),
    "F2 autoscaler class": (
        runtime(annotations={"autoscalerClass": "magic"}),
        "must be one of none, hpa, modelmesh, external, is magic",
    ),
    "metric": (runtime(annotations={"autoscalerClass": "hpa", "metrics": "qps"}), "must be cpu or memory, is qps"),
    "target": (
        runtime(annotations={"targetUtilizationPercentage": "101"}),
        "must be a whole number of at least 1 and at most 100, is 101",
    ),
    "replicas beside an autoscaler": (
        runtime(annotations={"autoscalerClass": "hpa"}, replicas=1),
        "is hpa, which sets the replicas; take spec.replicas away",
    ),
    "replicas beside the own scaling": (
        runtime(annotations={"autoscalerClass": "modelmesh"}, replicas=1),
        "is modelmesh, which sets the replicas; take spec.replicas away",
    ),
    "calls of a pod": (
        runtime(annotations={"/modelmesh.io/calls-per-pod": "0"}),
        "must be a whole number of at least 1 and at most 1000000, is 0",
    ),
    "least": (
        runtime(annotations={"autoscalerClass": "hpa", "min-scale": "0"}),
        "must be a whole number of at least 1, is 0",
    ),
    "most": (
        runtime(annotations={"autoscalerClass": "hpa", "max-scale": "x"}),
        "must be a whole number of at least 1, is x",
    ),
    "most below least": (
        runtime(annotations={"autoscalerClass": "hpa", "min-scale": "3", "max-scale": "2"}),
        "must be at least serving.kserve.io/min-scale",
    ),
    "loading concurrency": (
        runtime(annotations={"/maxLoadingConcurrency": "many"}),
        "must be a whole number of at least 1, is many",
    ),
}

MODELS: dict[str, tuple[Manifest, str]] = {
    "two paths": (predictor(path="b"), "Only one of spec.path and spec.storage.path can be specified"),
    "two schema paths": (
        predictor(schemaPath="b", storage={"path": "a", "schemaPath": "c"}),
        "Only one of spec.schemaPath and spec.storage.schemaPath can be specified",
    ),
    "claim": (
        predictor(storage={"persistentVolumeClaim": {"claimName": "x"}}),
        "spec.storage.PersistentVolumeClaim is not supported",
    ),
    "s3 beside others": (
        predictor(storage={"path": "a", "s3": {"secretKey": "k"}}),
        "spec.storage.s3 cannot be specified with any other keys in spec.storage",
    ),
    "no format": ({**predictor(), "spec": {"storage": {"path": "a"}}}, "equired"),
    "gpu": (predictor(gpu="maybe"), "gpu"),
    "no predictor": (service(None), "equired"),
    "neither model nor framework": (service({}), "is required, or one of xgboost, lightgbm"),
    "F7 model beside a framework": (
        service({"model": _MODEL, "sklearn": {"storageUri": "s3://b/a"}}),
        "set only one of them",
    ),
    "new form and annotation": (
        service({"model": _MODEL}, servingRuntime="x"),
        "belongs to the old form; use spec.predictor.model.runtime",
    ),
    "address and path": (
        service({"model": {**_MODEL, "storage": {"path": "a"}}}),
        "storage.path; set only one of them",
    ),
    "no storage": (service({"sklearn": {}}), "storageUri: is required, or "),
    "scheme": (service({"sklearn": {"storageUri": "ftp://x/y"}}), "known are s3, gs, pvc, http, https"),
}

TAKEN: dict[str, Manifest] = {
    "runtime": runtime(),
    "F36 class none": runtime(annotations={"autoscalerClass": "none"}),
    "external scaler": runtime(annotations={"autoscalerClass": "external"}),
    "own scaling": runtime(
        annotations={"autoscalerClass": "modelmesh", "max-scale": "9", "/modelmesh.io/wait-saved-per-minute": "30"}
    ),
    "F36 least without most": runtime(annotations={"autoscalerClass": "hpa", "min-scale": "2"}),
    "sockets": runtime(grpcEndpoint="unix:///a/x", grpcDataEndpoint="unix:/a/y", builtInAdapter=None),
    "models-dir mounted": runtime(container={"volumeMounts": [{"name": "models-dir", "mountPath": "/x"}]}),
    "liveness probe": runtime(
        container={"livenessProbe": {"httpGet": {"port": 1}}, "startupProbe": {"exec": {"command": ["x"]}}}
    ),
    "predictor": predictor(),
    "predictor of old fields": predictor(path="a", storage={"s3": {"secretKey": "k", "bucket": "b"}}),
    "predictor without storage": {**predictor(), "spec": {"modelType": {"name": "sklearn"}}},
    "new form": service({"model": _MODEL}),
    "old form": service({"sklearn": {"storageUri": "pvc://claim/a"}}, servingRuntime="x", secretKey="k"),
}

OTHERS: dict[str, Manifest] = {
    "single-model runtime": runtime(
        multiModel=False,
        grpcEndpoint=None,
        annotations={"autoscalerClass": "external"},
        container={
            "name": "kserve-container",
            "readinessProbe": {"httpGet": {"port": 8080}},
            "ports": [{"name": "http", "containerPort": 8080}],
        },
        builtInAdapter=None,
    ),
    "service of another mode": service({"containers": [{"name": "x", "image": "y"}]}, deploymentMode="RawDeployment"),
}
"""Resources of other systems in the same group: neither refused nor read."""
