"""`ServingRuntime` and `ClusterServingRuntime`. Source: spec/serving-controller.md 1.3, 1.4 and 3.2."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelmesh.declared.problems import Fields, shown

SERVER_TYPES = ("triton", "mlserver", "ovms", "torchserve")
SERVICE = "modelmesh-serving"
"""Leads the name of a runtime's Deployment, and so takes of its length."""

LOCAL_COMMAND = "modelmesh.io/local-command"
"""Annotation: what starts the server on a machine without containers."""

MAX_LABEL = 63
_CONTAINERS = ("mm", "rest-proxy", "puller")
_VOLUMES = ("storage-config", "etcd-config", "tc-config", "domain-socket")
_PORT_NAMES = ("grpc", "http", "prometheus")
_PORTS = {
    8008: "REST",
    8033: "inference",
    8080: "calls between instances",
    8085: "the adapter",
    8086: "the puller",
    8089: "probes",
    8090: "the stop",
    2112: "metrics",
}
_AUTOSCALER = "serving.kserve.io/autoscalerClass"
_METRIC = "serving.kserve.io/metrics"
_TARGET = "serving.kserve.io/targetUtilizationPercentage"
_SCALES = ("serving.kserve.io/min-scale", "serving.kserve.io/max-scale")
SCALERS = ("none", "hpa", "modelmesh", "external")
"""Values of the annotation that says who sets the pods."""

_DEMANDS = ("modelmesh.io/calls-per-pod", "modelmesh.io/wait-saved-per-minute")
_ENDPOINT = "must be port:N with 1 to 65535, or unix:/PATH"
_COUNTS = ("maxLoadingConcurrency", "perModelConcurrencyLimit")
_SPEC = (
    *("supportedModelFormats", "multiModel", "disabled", "protocolVersions", "grpcEndpoint", "grpcDataEndpoint"),
    *("httpDataEndpoint", "replicas", "storageHelper", "builtInAdapter", "containers", "volumes", "nodeSelector"),
    *("tolerations", "affinity", "labels", "annotations", "imagePullSecrets"),
)


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """A format that a runtime lists."""

    name: str
    version: str | None
    auto_select: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter beside another model server. Times in milliseconds."""

    server_type: str
    management_port: int | None = None
    buffer_bytes: int | None = None
    load_timeout_ms: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime as it is declared.

    Attributes:
        cluster_wide: Whether all namespaces see it.
        body: The spec as it was written, for what only a controller needs.
        annotations: Of the resource.
    """

    source: str
    name: str
    namespace: str
    cluster_wide: bool
    formats: tuple[ModelFormat, ...]
    protocols: tuple[str, ...]
    multi_model: bool
    disabled: bool
    management_endpoint: str
    data_endpoint: str
    adapter: Adapter | None
    annotations: Mapping[str, str]
    body: Mapping[str, Any] = field(repr=False, hash=False)

    @property
    def serves(self) -> bool:
        """Whether models may be placed on it."""
        return self.multi_model and not self.disabled

    @property
    def why_off(self) -> str:
        """Why it takes no models."""
        return "disabled" if self.disabled else "not a multi-model runtime"

    @property
    def labels(self) -> frozenset[str]:
        """The labels of its instances (MM_LABELS)."""
        formats = {f"mt:{one.name}" for one in self.formats if one.auto_select}
        versions = {f"mt:{one.name}:{one.version}" for one in self.formats if one.auto_select and one.version}
        return frozenset({f"rt:{self.name}", *formats, *versions, *(f"pv:{protocol}" for protocol in self.protocols)})

    def lists(self, name: str, version: str | None) -> bool:
        """Whether it lists a format, chosen by itself or not."""
        return any(one.name == name and version in {None, one.version} for one in self.formats)

    def constraints(self) -> dict[str, list[str]]:
        """The type strings that it takes, and the labels that each requires."""
        types = sorted(label for label in self.labels if label.startswith("mt:"))
        protocols = sorted(label for label in self.labels if label.startswith("pv:"))
        found = {f"rt:{self.name}": [f"rt:{self.name}"]}
        found |= {label: [label] for label in types}
        found |= {f"{label}|{protocol}": [label, protocol] for label in types for protocol in protocols}
        return found


def read_runtime(spec: Fields, annotations: Fields, *, source: str, kind: str, name: str, namespace: str) -> Runtime:
    """A runtime; problems are noted at the fields, and all rules are checked, not the first that fails.

    Of a runtime that is not for the mesh (`multiModel` is not true) only that is read, because its other fields have
    other rules.
    """
    spec.only(_SPEC, others=True)
    formats = tuple(_formats(spec))
    containers = list(spec.items("containers"))
    multi_model = spec.flag("multiModel") is True
    if not containers and "containers" not in spec:
        spec.problem("containers", "is required")
    adapter, endpoints = None, ["", ""]
    if multi_model:
        adapter = _adapter(spec, containers) if "builtInAdapter" in spec else None
        endpoints = [_endpoint(spec, field_name) for field_name in ("grpcEndpoint", "grpcDataEndpoint")]
        _check_endpoints(spec, endpoints)
        _check_containers(spec, containers)
        _check_annotations(annotations, replicas="replicas" in spec)
        if len(f"{SERVICE}-{name}") > MAX_LABEL:
            spec.findings.add(
                "metadata.name",
                f"is longer than {MAX_LABEL - len(SERVICE) - 1} characters, which a Deployment's name has no room for",
            )
    spec.number("replicas", least=0, most=65535)
    spec.ignored(("httpDataEndpoint",), "has no effect")
    return Runtime(
        source=source,
        name=name,
        namespace=namespace,
        cluster_wide=kind == "ClusterServingRuntime",
        formats=formats,
        protocols=tuple(spec.strings("protocolVersions")),
        multi_model=multi_model,
        disabled=spec.flag("disabled") is True,
        management_endpoint=endpoints[0],
        data_endpoint=endpoints[1],
        adapter=adapter,
        annotations=dict(annotations.values),
        body=dict(spec.values),
    )


def _formats(spec: Fields) -> list[ModelFormat]:
    found = []
    for entry in spec.items("supportedModelFormats"):
        entry.only(("name", "version", "autoSelect", "priority"))
        entry.ignored(("priority",), "has no effect: the mesh places where room is")
        name, version = entry.text("name", required=True), entry.text("version")
        for label, text in (("name", name), ("version", version)):
            if "|" in (text or ""):
                entry.problem(label, "must not hold |, which parts the labels of a model type")
        if name is not None:
            found.append(ModelFormat(name, version, entry.flag("autoSelect") is True))
    return found


def _endpoint(spec: Fields, name: str) -> str:
    text = spec.text(name) or ""
    if text.startswith("port:"):
        port = text.removeprefix("port:")
        if not (port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
            spec.problem(name, f"{_ENDPOINT}, is {shown(text)}")
    elif text and not (text.startswith("unix:") and text.removeprefix("unix:").removeprefix("//").startswith("/")):
        spec.problem(name, f"{_ENDPOINT}, is {shown(text)}")
    return text


def _check_endpoints(spec: Fields, endpoints: list[str]) -> None:
    if "grpcEndpoint" not in spec:
        spec.problem("grpcEndpoint", "is required of a multi-model runtime: port:N or unix:PATH")
    sockets = [endpoint for endpoint in endpoints if endpoint.startswith("unix:")]
    folders = {socket.removeprefix("unix:").removeprefix("//").rpartition("/")[0] for socket in sockets}
    if len(folders) > 1:
        spec.problem("grpcDataEndpoint", "must be a socket in the folder of grpcEndpoint")
    if "builtInAdapter" in spec and endpoints[0].startswith("unix:"):
        spec.problem("grpcEndpoint", "must be port:N with a built-in adapter")


def _adapter(spec: Fields, containers: list[Fields]) -> Adapter:
    adapter = spec.fields("builtInAdapter")
    adapter.only(("serverType", "runtimeManagementPort", "memBufferBytes", "modelLoadingTimeoutMillis", "env"))
    server_type = adapter.text("serverType", required=True) or ""
    if server_type and server_type not in SERVER_TYPES:
        adapter.problem("serverType", f"must be one of {', '.join(SERVER_TYPES)}, is {shown(server_type)}")
    elif server_type and all(container.values.get("name") != server_type for container in containers):
        adapter.problem("serverType", f"needs a container of that name: {server_type}")
    environment = {}
    for entry in adapter.items("env"):
        name, value = entry.text("name", required=True), entry.text("value")
        if name is not None:
            environment[name] = value or ""
    return Adapter(
        server_type,
        adapter.number("runtimeManagementPort", least=1, most=65535),
        adapter.number("memBufferBytes", least=0, most=2**63 - 1),
        adapter.number("modelLoadingTimeoutMillis", least=1, most=2**31 - 1),
        environment,
    )


def _check_containers(spec: Fields, containers: list[Fields]) -> None:
    """What would collide with the containers beside them."""
    names = set()
    for container in containers:
        name = container.text("name", required=True) or ""
        _check_name(container, name, _CONTAINERS, "container")
        if name in names:
            container.problem("name", f"{shown(name)} is here twice")
        names.add(name)
        for probe in ("readinessProbe", "lifecycle"):
            if probe in container:
                container.problem(probe, "is set by the mesh; take it away")
        for mount in container.items("volumeMounts"):
            _check_name(mount, mount.text("name", required=True) or "", _VOLUMES, "volume")
        for port in container.items("ports"):
            _check_name(port, port.text("name") or "", _PORT_NAMES, "port")
            _check_port(port)
    for volume in spec.items("volumes"):
        _check_name(volume, volume.text("name", required=True) or "", (*_VOLUMES, "models-dir"), "volume")


def _check_name(of: Fields, name: str, taken: tuple[str, ...], kind: str) -> None:
    if name in taken or name.startswith("mm-"):
        of.problem("name", f"{name} is the name of a {kind} of ours")


def _check_port(port: Fields) -> None:
    number = port.number("containerPort", least=1, most=65535)
    if number in _PORTS:
        port.problem("containerPort", f"{number} is taken: {_PORTS[number]}")
    elif number is not None and 11881 <= number <= 11899:
        port.problem("containerPort", f"{number} is taken: 11881 to 11899 are ours")


def _check_annotations(annotations: Fields, *, replicas: bool) -> None:
    for name in _COUNTS:
        _count(annotations, name, least=1 if name == "maxLoadingConcurrency" else 0)
    scaler = annotations.text(_AUTOSCALER) or "none"
    if scaler not in SCALERS:
        annotations.problem(_AUTOSCALER, f"must be one of {', '.join(SCALERS)}, is {shown(scaler)}")
    _count(annotations, _TARGET, least=1, most=100)
    for name in _DEMANDS:
        _count(annotations, name, least=1, most=1_000_000)
    if scaler == "none":
        return
    if replicas:
        annotations.problem(_AUTOSCALER, f"is {scaler}, which sets the replicas; take spec.replicas away")
    metric = annotations.text(_METRIC) or "cpu"
    if scaler == "hpa" and metric not in {"cpu", "memory"}:
        annotations.problem(_METRIC, f"must be cpu or memory, is {shown(metric)}")
    least, most = (_count(annotations, name, least=1) for name in _SCALES)
    if least is not None and most is not None and most < least:
        annotations.problem(_SCALES[1], f"must be at least {_SCALES[0]}, {least}, is {most}")


def _count(annotations: Fields, name: str, *, least: int, most: int = 2**31 - 1) -> int | None:
    text = annotations.text(name)
    if text is None:
        return None
    if not (text.isdecimal() and text.isascii() and least <= int(text) <= most):
        annotations.problem(
            name,
            f"must be a whole number of at least {least}{f' and at most {most}' if most < 2**31 - 1 else ''}, is {shown(text)}",
        )
        return None
    return int(text)
