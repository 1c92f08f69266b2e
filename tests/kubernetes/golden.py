"""Golden objects: `python tests/kubernetes/golden.py` writes them again. Read the difference before you commit it."""

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from modelmesh.declared import Runtime, declare, read_documents
from modelmesh.kubernetes.config import Config, Layer, read_config
from modelmesh.kubernetes.config_keys import Level
from modelmesh.kubernetes.render import Object, Owner, check_runtime, render_namespace, render_runtime

FOLDER = Path(__file__).parent / "golden"
SHIPPED = Path(__file__).parents[2] / "src" / "modelmesh" / "instance" / "runtimes"


def configured(text: str = "", *, level: Level = Level.CLUSTER) -> Config:
    """The configuration that one layer gives."""
    reading = read_config([Layer(level, "config.yaml", text)])
    assert reading.config is not None, reading.problems
    return reading.config


def runtimes(text: str) -> tuple[Runtime, ...]:
    """The runtimes of manifests, which have no problems."""
    documents, problems = read_documents("runtimes.yaml", text)
    declared = declare(documents)
    assert not problems
    assert not declared.problems, declared.problems
    return declared.runtimes


def shipped(name: str) -> Runtime:
    """One of the runtimes of the package."""
    (runtime,) = runtimes((SHIPPED / f"{name}.yaml").read_text())
    return runtime


@dataclass(frozen=True)
class Case:
    """What is rendered."""

    runtime: Runtime
    config: Config
    claims: tuple[str, ...] = ()
    replicas: int | None = 2

    def objects(self) -> tuple[Object, ...]:
        """The objects of the runtime."""
        assert check_runtime(self.runtime, self.config) == ()
        kind = "ClusterServingRuntime" if self.runtime.cluster_wide else "ServingRuntime"
        owner = Owner("serving.kserve.io/v1alpha1", kind, self.runtime.name, "00000000-0000-0000-0000-000000000001")
        return render_runtime(
            self.runtime,
            self.config,
            namespace="models",
            replicas=self.replicas,
            claims=self.claims,
            owner=owner,
            tls_authority=True,
        )


EVERYTHING = """
inferenceServicePort: 9033
managementPort: 9034
podsPerRuntime: 3
storageSecretName: my-storage
serviceAccountName: modelmesh
tls: {secretName: my-tls, clientAuth: require}
grpcMaxMessageSizeBytes: 33554432
enableAccessLogging: true
metrics: {port: 2222, scheme: http}
restProxy: {port: 9008}
modelMeshImage: {name: registry.example:5000/modelmesh, digest: "sha256:0123"}
modelMeshResources: {limits: {cpu: "1", memory: 1Gi}}
storageHelperImage: {name: registry.example:5000/helper, tag: "1", command: [/puller]}
storageHelperResources: {requests: {memory: 128Mi}}
disruptionBudget: {maxUnavailable: 50%}
payloadProcessors: ["http://one.example/a", "http://two.example/b"]
runtimePodLabels: {team.example/Name: Vision}
runtimePodAnnotations: {sidecar.example/inject: "false"}
imagePullSecrets: [{name: pull-ours}]
internalModelMeshEnvVars: [{name: BOOTSTRAP_CLEARANCE_PERIOD_MS, value: 0}, {name: MM_LABELS, value: lost}]
"""

CUSTOM = """
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: custom
  namespace: models
  annotations:
    serving.kserve.io/autoscalerClass: hpa
    serving.kserve.io/min-scale: "2"
    serving.kserve.io/max-scale: "4"
    serving.kserve.io/metrics: memory
spec:
  supportedModelFormats: [{name: custom-model, version: "1", autoSelect: true}]
  protocolVersions: [grpc-v2]
  multiModel: true
  grpcEndpoint: "unix:///sockets/management.sock"
  grpcDataEndpoint: "unix:/sockets/data.sock"
  containers:
    - name: server
      image: custom:1
      resources: {limits: {memory: 1G}}
      volumeMounts: [{name: scratch, mountPath: /scratch}]
      securityContext: {runAsUser: 1000}
    - name: helper
      image: helper:1
      resources: {limits: {memory: 500M}}
  volumes: [{name: scratch, emptyDir: {}}]
  nodeSelector: {disk: fast}
  tolerations: [{key: gpu, operator: Exists}]
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
          - matchExpressions: [{key: gpu, operator: Exists}]
          - matchFields: [{key: metadata.name, operator: In, values: [node-1]}]
  labels: {team: vision}
  annotations: {note: custom}
  imagePullSecrets: [{name: pull-own}, {name: pull-ours}]
"""

ALONE = """
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {name: alone, namespace: models}
spec:
  supportedModelFormats: [{name: custom-model, autoSelect: true}]
  multiModel: true
  grpcEndpoint: port:8085
  storageHelper: {disabled: true}
  containers: [{name: server, image: "custom:1"}]
"""

PLAIN = "metrics: {enabled: false}\nrestProxy: {enabled: false}\nheadlessService: false"


def cases() -> Iterator[tuple[str, tuple[Object, ...]]]:
    """Name of the file, and what is in it."""
    for file in sorted(SHIPPED.glob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield file.stem, Case(shipped(file.stem), configured()).objects()
    yield "everything", Case(shipped("mlserver-1.x"), configured(EVERYTHING), ("models", "a.claim")).objects()
    (custom,) = runtimes(CUSTOM)
    yield "custom", Case(custom, configured(EVERYTHING), ("scratch",), None).objects()
    (alone,) = runtimes(ALONE)
    yield "alone", Case(alone, configured(PLAIN), replicas=0).objects()
    everyone = [shipped("mlserver-1.x"), alone]
    store = {"etcd_connection": "eyJlbmRwb2ludHMiOiJodHRwOi8vZXRjZDoyMzc5Iiwicm9vdF9wcmVmaXgiOiJyb290In0="}
    yield (
        "namespace",
        render_namespace(
            "models", configured(), everyone, controller="modelmesh-serving", service_monitors=True, store=store
        ),
    )
    yield (
        "namespace-everything",
        render_namespace("models", configured(EVERYTHING), everyone, controller="modelmesh-serving"),
    )
    yield (
        "namespace-plain",
        render_namespace("models", configured(PLAIN), [], controller="modelmesh-serving", service_monitors=True),
    )


def text(objects: tuple[Object, ...]) -> str:
    """As it is in the file, documents of ConfigMaps in plain text."""
    return yaml.dump_all([_plain(one) for one in objects], Dumper=_Dumper, sort_keys=False, width=120)


def _plain(one: Object) -> Object:
    if "binaryData" not in one:
        return one
    return {**one, "binaryData": {key: json.loads(base64.b64decode(value)) for key, value in one["binaryData"].items()}}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data: object) -> bool:
        return True


if __name__ == "__main__":
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    FOLDER.mkdir(exist_ok=True)
    for name, objects in cases():
        (FOLDER / f"{name}.yaml").write_text(text(objects))
    sys.exit(0)
