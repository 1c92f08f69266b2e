"""The keys of the configuration: what each means, its default, and who may set it.

The names and defaults are those of the ConfigMap `model-serving-config` of ModelMesh Serving.
Source: spec/serving-controller.md 4.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class Level(enum.IntEnum):
    """Where a value stands. A higher level wins over a lower one."""

    DEFAULTS = 0
    CLUSTER = 1
    NAMESPACE = 2
    RUNTIME = 3


class Kind(enum.Enum):
    """What a value is."""

    TEXT = "text"
    NAME = "name"
    NUMBER = "number"
    FLAG = "flag"
    QUANTITY = "quantity"
    SHARE = "number or percentage"
    STRINGS = "list of texts"
    TEXTS = "mapping of texts"
    VARIABLES = "list of {name, value}"
    SECRETS = "list of {name}"
    CHOICE = "choice"
    NOTHING = "any"


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Attributes:
        name: Its path, like `metrics.port`. Keys are read in any case of letters.
        level: The highest level that may set it.
        meaning: One sentence for the reference page.
        default: The value if no layer has one.
        bounds: Of a number.
        choices: Of a choice.
    """

    name: str
    kind: Kind
    level: Level
    meaning: str
    default: Any
    bounds: tuple[int, int] = (0, 2**31 - 1)
    choices: tuple[str, ...] = ()


def _image(name: str, default: str, of: str) -> Iterator[Key]:
    yield Key(f"{name}.name", Kind.TEXT, Level.RUNTIME, f"image of {of}, without a tag", default=default)
    yield Key(
        f"{name}.tag",
        Kind.TEXT,
        Level.RUNTIME,
        "its tag; a layer that sets it drops a lower layer's digest",
        default="latest",
    )
    yield Key(f"{name}.digest", Kind.TEXT, Level.RUNTIME, "its digest, which wins over the tag", default="")


def _resources(name: str, of: str, values: Mapping[str, str]) -> Iterator[Key]:
    for field, value in values.items():
        what = field.replace("requests.", "requested ").replace("limits.", "limit of ")
        yield Key(f"{name}.{field}", Kind.QUANTITY, Level.RUNTIME, f"{what} for {of}", default=value)


_PORT = (1, 65535)
_HELPER = {"requests.cpu": "50m", "requests.memory": "96Mi", "limits.cpu": "2", "limits.memory": "512Mi"}
_MESH = {"requests.cpu": "300m", "requests.memory": "448Mi", "limits.cpu": "3", "limits.memory": "448Mi"}
_OLD_PROXY = "has no effect: the instance itself serves REST"

KEYS: tuple[Key, ...] = (
    Key(
        "inferenceServiceName",
        Kind.NAME,
        Level.NAMESPACE,
        "name of the Service and of the mesh; begins the names of Deployments",
        default="modelmesh-serving",
    ),
    Key("inferenceServicePort", Kind.NUMBER, Level.NAMESPACE, "gRPC port", default=8033, bounds=_PORT),
    Key(
        "managementPort",
        Kind.NUMBER,
        Level.NAMESPACE,
        "gRPC port of management alone, which the NetworkPolicy opens to the controller only; 0: whoever reaches `inferenceServicePort` can also register and delete models",
        default=0,
        bounds=(0, 65535),
    ),
    Key(
        "headlessService",
        Kind.FLAG,
        Level.NAMESPACE,
        "whether the Service is headless: clients see the addresses of the pods",
        default=True,
    ),
    Key(
        "podsPerRuntime",
        Kind.NUMBER,
        Level.RUNTIME,
        "pods of each runtime, where its `spec.replicas` says nothing",
        default=2,
        bounds=(0, 65535),
    ),
    Key(
        "storageSecretName",
        Kind.NAME,
        Level.RUNTIME,
        "Secret with the storage keys, in the namespace of the models",
        default="storage-config",
    ),
    Key(
        "storageKeys",
        Kind.CHOICE,
        Level.RUNTIME,
        "keys of that Secret that pods can read: `all`, or those that models of the runtime name (`needed`); then a model with a new key replaces pods",
        default="all",
        choices=("all", "needed"),
    ),
    Key(
        "serviceAccountName",
        Kind.TEXT,
        Level.RUNTIME,
        "service account of runtime pods; empty: the namespace's default",
        default="",
    ),
    Key(
        "tls.secretName",
        Kind.TEXT,
        Level.NAMESPACE,
        "Secret with `tls.crt`, `tls.key` and, if wanted, `ca.crt`; empty: no TLS",
        default="",
    ),
    Key(
        "tls.clientAuth",
        Kind.CHOICE,
        Level.NAMESPACE,
        "whether clients must show a certificate",
        default="",
        choices=("", "optional", "require"),
    ),
    Key(
        "grpcMaxMessageSizeBytes",
        Kind.NUMBER,
        Level.RUNTIME,
        "largest message, by gRPC and by REST; 0: the instance's default",
        default=16777216,
    ),
    Key("enableAccessLogging", Kind.FLAG, Level.RUNTIME, "whether instances log each call", default=False),
    Key("metrics.enabled", Kind.FLAG, Level.NAMESPACE, "whether instances have a port for Prometheus", default=True),
    Key("metrics.port", Kind.NUMBER, Level.NAMESPACE, "that port", default=2112, bounds=_PORT),
    Key("metrics.scheme", Kind.CHOICE, Level.NAMESPACE, "its scheme", default="https", choices=("http", "https")),
    Key(
        "metrics.disablePrometheusOperatorSupport",
        Kind.FLAG,
        Level.NAMESPACE,
        "whether no ServiceMonitor is made",
        default=False,
    ),
    Key(
        "scaleToZero.enabled",
        Kind.FLAG,
        Level.RUNTIME,
        "whether a runtime that no model can use has no pods",
        default=True,
    ),
    Key(
        "scaleToZero.gracePeriodSeconds",
        Kind.NUMBER,
        Level.RUNTIME,
        "how long its pods stay after the last such model was deleted",
        default=60,
    ),
    Key("restProxy.enabled", Kind.FLAG, Level.NAMESPACE, "whether instances serve REST", default=True),
    Key("restProxy.port", Kind.NUMBER, Level.NAMESPACE, "REST port", default=8008, bounds=_PORT),
    Key("restProxy.skipVerify", Kind.NOTHING, Level.NAMESPACE, _OLD_PROXY, default=None),
    Key("restProxy.image", Kind.NOTHING, Level.NAMESPACE, _OLD_PROXY, default=None),
    Key("restProxy.resources", Kind.NOTHING, Level.NAMESPACE, _OLD_PROXY, default=None),
    *_image("modelMeshImage", "modelmesh", "the instance, container `mm`"),
    *_resources("modelMeshResources", "the instance", _MESH),
    *_image("storageHelperImage", "modelmesh-runtime-adapter", "adapters and the puller"),
    Key(
        "storageHelperImage.command",
        Kind.STRINGS,
        Level.RUNTIME,
        "command of the puller in that image",
        default=("/opt/app/puller",),
    ),
    *_resources("storageHelperResources", "adapters and the puller", _HELPER),
    Key(
        "disruptionBudget.maxUnavailable",
        Kind.SHARE,
        Level.RUNTIME,
        "pods of a runtime, or a percentage of them, that may be away at a time while nodes are emptied: each runtime gets a PodDisruptionBudget; empty: none is made",
        default="",
    ),
    Key(
        "builtInServerTypes",
        Kind.STRINGS,
        Level.CLUSTER,
        "values that `builtInAdapter.serverType` may have",
        default=("triton", "mlserver", "ovms", "torchserve"),
    ),
    Key("payloadProcessors", Kind.STRINGS, Level.RUNTIME, "URLs that copies of payloads are sent to", default=()),
    Key("runtimePodLabels", Kind.TEXTS, Level.RUNTIME, "further labels of runtime pods", default={}),
    Key("runtimePodAnnotations", Kind.TEXTS, Level.RUNTIME, "further annotations of runtime pods", default={}),
    Key("imagePullSecrets", Kind.SECRETS, Level.RUNTIME, "pull secrets of runtime pods", default=()),
    Key(
        "allowAnyPVC",
        Kind.FLAG,
        Level.NAMESPACE,
        "whether a claim that a model names is mounted without an entry in the storage Secret",
        default=False,
    ),
    Key("internalModelMeshEnvVars", Kind.VARIABLES, Level.RUNTIME, "further environment of the instance", default=()),
    Key(
        "networkPolicy.enabled",
        Kind.FLAG,
        Level.CLUSTER,
        "whether each namespace gets a NetworkPolicy that opens the ports of instances only",
        default=True,
    ),
    Key(
        "modelMeshEndpoint",
        Kind.TEXT,
        Level.CLUSTER,
        "where the controller calls the mesh instead of at the Service; for development",
        default="",
    ),
    Key(
        "etcdSecretName",
        Kind.TEXT,
        Level.CLUSTER,
        "old name for the setting ETCD_SECRET_NAME of the controller",
        default="",
    ),
)
"""In the order of the reference page."""
