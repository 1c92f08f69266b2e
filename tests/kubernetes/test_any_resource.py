"""Whatever a tenant writes into a resource costs that resource only: the controller goes on, and serves the others."""

import asyncio
import base64

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.kinds import Object
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.kubernetes_cluster import OWN, KubernetesCluster

WORDS = st.sampled_from(
    [
        "",
        "a",
        "port:8085",
        "port:0",
        "unix:/x/y",
        "hpa",
        "grpc-v2",
        "sklearn",
        "s3://b/p",
        "ftp://x",
        "true",
        "-1",
        "1Gi",
        "é\u2028",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | WORDS


def nested(names: list[str]) -> st.SearchStrategy[Object]:
    """Mappings with names that mean something, and values that may be anything."""
    values = st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=4),
        max_leaves=12,
    )
    return st.dictionaries(st.sampled_from(names), values, max_size=8)


RUNTIME = nested(
    [
        *("supportedModelFormats", "multiModel", "disabled", "protocolVersions", "grpcEndpoint", "grpcDataEndpoint"),
        *("replicas", "storageHelper", "builtInAdapter", "containers", "volumes", "nodeSelector", "affinity", "labels"),
        *("name", "version", "autoSelect", "image", "ports", "containerPort", "env", "value", "resources", "limits"),
        *(
            "memory",
            "volumeMounts",
            "mountPath",
            "serverType",
            "runtimeManagementPort",
            "imagePullSecrets",
            "annotations",
        ),
        *("nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms", "tolerations"),
    ]
)
PREDICTOR = nested(
    [
        "modelType",
        "name",
        "version",
        "path",
        "storage",
        "parameters",
        "key",
        "s3",
        "bucket",
        "runtime",
        "protocolVersion",
    ]
)
SERVICE = nested(
    ["predictor", "model", "modelFormat", "name", "version", "storageUri", "storage", "path", "runtime", "sklearn"]
)
ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        [
            *(
                f"serving.kserve.io/{name}"
                for name in ("autoscalerClass", "min-scale", "max-scale", "metrics", "secretKey")
            ),
            *("maxLoadingConcurrency", "modelmesh.io/config", "modelmesh.io/roll"),
        ]
    ),
    WORDS | st.sampled_from(["podsPerRuntime: many", "{", "tls: {secretName: x}"]),
    max_size=4,
)
STATUS = nested(
    [
        "transitionStatus",
        "activeModelState",
        "lastFailureInfo",
        "reason",
        "time",
        "conditions",
        "type",
        "modelStatus",
        "states",
    ]
)
DATA = st.dictionaries(
    st.sampled_from(["a", "b", "etcd_connection", "tls.crt"]),
    st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode()) | WORDS,
    max_size=3,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RUNTIME, PREDICTOR, SERVICE, ANNOTATIONS, STATUS, DATA)
def test_the_controller_goes_on(
    runtime: Object, predictor: Object, service: Object, annotations: Object, status: Object, data: Object
) -> None:
    async def story() -> None:
        k = KubernetesCluster()
        k.pods_run = False
        running = k.start()
        await asyncio.sleep(1)
        for name, spec in (("loose", runtime), ("tight", _plausible(runtime))):
            metadata = {"name": name, "namespace": OWN, "annotations": annotations}
            k.api.put(kinds.SERVING_RUNTIME, {"metadata": metadata, "spec": spec, "status": status})
        metadata = {"name": "m", "namespace": OWN, "annotations": annotations}
        k.api.put(kinds.PREDICTOR, {"metadata": metadata, "spec": predictor, "status": status})
        ours = {**annotations, "serving.kserve.io/deploymentMode": "ModelMesh"}
        metadata = {"name": "i", "namespace": OWN, "annotations": ours}
        k.api.put(kinds.INFERENCE_SERVICE, {"metadata": metadata, "spec": service, "status": status})
        k.api.put(kinds.SECRET, {"metadata": {"name": "storage-config", "namespace": OWN}, "data": data})
        k.runtime("good")
        k.predictor("fine")
        await asyncio.sleep(10)
        assert k.status("fine")["lastFailureInfo"]["reason"] == "RuntimeUnhealthy"
        assert k.api.get(kinds.DEPLOYMENT, "modelmesh-serving-good", OWN) is not None
        mistakes = [line for line in k.lines if line["event"] in {"look failed", "controller failed"}]
        assert mistakes == []
        assert running.idle
        await k.stop()

    run_virtual(story())


def _plausible(spec: Object) -> Object:
    """With what every runtime must have, so that more of it is rendered."""
    needed = {
        "multiModel": True,
        "grpcEndpoint": "port:8085",
        "containers": [{"name": "server", "image": "server:1"}],
        "supportedModelFormats": [{"name": "fake", "autoSelect": True}],
    }
    return {**spec, **needed}
