"""The configuration of a namespace or a runtime: layers of YAML, the higher one wins, all problems at once. Pure.

Layers, lowest first: the defaults, the ConfigMap `model-serving-config` of the controller's namespace, the ConfigMap of
the same name in the namespace of the models, and the annotation `modelmesh.io/config` of a runtime. Each holds the same
keys (`config_keys`), which say up to which level they may be set. Texts, numbers and lists replace a lower layer's;
mappings are joined.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelmesh.declared import Problem, Runtime, read_documents
from modelmesh.declared.problems import Fields, Findings, shown
from modelmesh.kubernetes.config_keys import KEYS, Key, Kind, Level
from modelmesh.kubernetes.quantities import parse_quantity

CONFIG_MAP = "model-serving-config"
CONFIG_KEY = "config.yaml"
RUNTIME_CONFIG = "modelmesh.io/config"
STORE_SECRET = "model-serving-etcd"  # noqa: S105 - the name of a Secret

_BY_NAME = {key.name.lower(): key for key in KEYS}
_PARENTS = {name[:at] for name in _BY_NAME for at in range(len(name)) if name[at] == "."}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MAPPINGS = frozenset({Kind.TEXTS})


@dataclass(frozen=True, slots=True)
class Layer:
    """The text of one layer. `source` names it for people: `ConfigMap models/model-serving-config`."""

    level: Level
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A container image."""

    name: str
    tag: str
    digest: str

    @property
    def reference(self) -> str:
        """As a container names it: the digest wins."""
        if self.digest:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.tag}" if self.tag else self.name


@dataclass(frozen=True, slots=True)
class Resources:
    """What containers of one kind request and may use. Quantities as text."""

    requests: Mapping[str, str]
    limits: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Config:
    """What is configured. Names, defaults and meaning of the fields: `config_keys.KEYS`.

    Attributes:
        management_port: None: management is answered at `service_port`.
        rest_port: None: instances do not serve REST.
        metrics_port: None: instances have no port for Prometheus.
        most_unavailable: Pods as a number, or a percentage; empty: there is no disruption budget.
        store_secret: Secret that says where the mesh keeps its state.
    """

    service_name: str
    service_port: int
    management_port: int | None
    headless: bool
    pods_per_runtime: int
    storage_secret: str
    service_account: str
    tls_secret: str
    tls_client_auth: str
    max_message_bytes: int
    access_log: bool
    metrics_port: int | None
    metrics_scheme: str
    service_monitors: bool
    scale_to_zero: bool
    scale_to_zero_grace_s: int
    rest_port: int | None
    mesh_image: Image
    mesh_resources: Resources
    helper_image: Image
    puller_command: tuple[str, ...]
    helper_resources: Resources
    server_types: tuple[str, ...]
    payload_processors: tuple[str, ...]
    pod_labels: Mapping[str, str]
    pod_annotations: Mapping[str, str]
    pull_secrets: tuple[str, ...]
    any_claim: bool
    needed_keys_only: bool
    mesh_environment: tuple[tuple[str, str], ...]
    most_unavailable: str
    network_policies: bool
    mesh_endpoint: str
    store_secret: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The configuration of all layers.

    Attributes:
        config: None if something fatal was found. The caller then keeps the last good one, because a value left out may
            be the one that asks for encryption.
        problems: All of them. Those that are not fatal are unused keys.
    """

    config: Config | None
    problems: tuple[Problem, ...]


def read_config(layers: Iterable[Layer] = (), *, store_secret: str = STORE_SECRET) -> Reading:
    """Read layers, in any order.

    Args:
        layers: At most one of each level; the defaults need none.
        store_secret: The controller's setting ETCD_SECRET_NAME.
    """
    values: dict[str, Any] = {key.name: key.default for key in KEYS}
    problems: list[Problem] = []
    for layer in sorted(layers, key=lambda layer: layer.level):
        findings = Findings(layer.source)
        found = _read_layer(layer, findings)
        for image in ("modelMeshImage", "storageHelperImage"):
            if f"{image}.tag" in found:
                found.setdefault(f"{image}.digest", "")
        for name, value in found.items():
            values[name] = {**values[name], **value} if _BY_NAME[name.lower()].kind in _MAPPINGS else value
        problems.extend(findings.problems)
    if any(problem.fatal for problem in problems):
        return Reading(None, tuple(problems))
    config = _config(values, store_secret)
    problems += _clashes(config)
    return Reading(None if any(problem.fatal for problem in problems) else config, tuple(problems))


def _clashes(config: Config) -> Iterator[Problem]:
    """Ports of an instance that are taken already: with one of them no pod would start."""
    taken = {8080: "calls between instances", 8089: "probes", 8090: "the stop of a pod"}
    for name, port in (
        ("inferenceServicePort", config.service_port),
        ("managementPort", config.management_port),
        ("restProxy.port", config.rest_port),
        ("metrics.port", config.metrics_port),
    ):
        if port in taken:
            yield Problem("the configuration", "", name, f"{port} is taken by {taken[port]}")
        elif port is not None:
            taken[port] = name


def runtime_layer(runtime: Runtime) -> Layer | None:
    """The layer in the annotation of a runtime; None if it has none."""
    text = runtime.annotations.get(RUNTIME_CONFIG)
    kind = "ClusterServingRuntime" if runtime.cluster_wide else "ServingRuntime"
    return None if text is None else Layer(Level.RUNTIME, f"{kind} {runtime.name}: annotation {RUNTIME_CONFIG}", text)


def _read_layer(layer: Layer, findings: Findings) -> dict[str, Any]:
    documents, problems = read_documents(layer.source, layer.text)
    findings.problems.extend(problems)
    if len(documents) > 1:
        findings.add("", f"holds {len(documents)} documents, must be one")
    found: dict[str, Any] = {}
    for document in documents[:1]:
        for key, fields, name in _entries(Fields(document.body, "", findings), ""):
            if layer.level > key.level:
                fields.problem(name, f"may be set up to the level {key.level.name.lower()} only")
            elif key.kind is Kind.NOTHING:
                fields.problem(name, key.meaning, fatal=False)
            elif (value := _value(key, fields, name)) is not None:
                found[key.name] = value
    return found


def _entries(fields: Fields, parent: str) -> Iterator[tuple[Key, Fields, str]]:
    """The known keys of a mapping, each with where it stands. Letters of keys may be of any case."""
    seen: dict[str, str] = {}
    for name in fields.values:
        path = f"{parent}{str(name).lower()}"
        if path in seen:
            fields.problem(str(name), f"is here twice, as {seen[path]} too")
            continue
        seen[path] = str(name)
        if fields.values[name] is None:
            continue
        if path in _BY_NAME:
            yield _BY_NAME[path], fields, name
        elif path in _PARENTS:
            yield from _entries(fields.fields(name), f"{path}.")
        else:
            known = sorted(
                {key.name[len(parent) :].partition(".")[0] for low, key in _BY_NAME.items() if low.startswith(parent)}
            )
            fields.problem(str(name), f"is not a key and has no effect; known are {', '.join(known)}", fatal=False)


def _value(key: Key, fields: Fields, name: str) -> Any:
    """A value as its kind wants it; None if it is wrong, which is noted. Numbers and flags may be quoted."""
    match key.kind:
        case Kind.TEXT | Kind.NAME | Kind.CHOICE:
            return _text(key, fields, name)
        case Kind.NUMBER:
            return _number(key, fields, name)
        case Kind.FLAG:
            return _flag(fields, name)
        case Kind.QUANTITY | Kind.SHARE:
            return _quantity(fields, name) if key.kind is Kind.QUANTITY else _share(fields, name)
        case Kind.STRINGS:
            value = fields.values[name]
            texts = value.split(",") if isinstance(value, str) else fields.strings(name)
            return _without_spaces(fields, name, [text.strip() for text in texts if text.strip()])
        case Kind.TEXTS:
            return fields.texts(name)
        case Kind.VARIABLES:
            pairs = [(entry.text("name", required=True), _plain(entry, "value")) for entry in fields.items(name)]
            return tuple((variable, value) for variable, value in pairs if variable is not None)
        case Kind.SECRETS:
            names = [entry.text("name", required=True) for entry in fields.items(name)]
            return tuple(secret for secret in names if secret is not None)
    raise AssertionError(key)


def _text(key: Key, fields: Fields, name: str) -> str | None:
    text = _plain(fields, name).strip() if isinstance(fields.values[name], str | int | float) else fields.text(name)
    if text is None:
        return None
    if key.kind is Kind.CHOICE and text not in key.choices:
        fields.problem(
            name, f"must be one of {', '.join(choice or 'empty' for choice in key.choices)}, is {shown(text)}"
        )
        return None
    if key.kind is Kind.NAME and not _NAME.fullmatch(text):
        fields.problem(name, f"must be lower-case letters, digits and -, at most 63, is {shown(text)}")
        return None
    return text


def _plain(fields: Fields, name: str) -> str:
    """A text, or what YAML took for a number or a flag."""
    value = fields.values.get(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else fields.text(name) or ""


def _number(key: Key, fields: Fields, name: str) -> int | None:
    value = fields.values[name]
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value.strip()):
        value = int(value)
    least, most = key.bounds
    return Fields({name: value}, fields.path, fields.findings).number(name, least=least, most=most)


def _flag(fields: Fields, name: str) -> bool | None:
    value = fields.values[name]
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    return fields.flag(name)


def _quantity(fields: Fields, name: str) -> str | None:
    value = fields.values[name]
    if parse_quantity(value) is None:
        fields.problem(name, f"must be a quantity like 500m or 1Gi, is {shown(value)}")
        return None
    return str(value)


def _share(fields: Fields, name: str) -> str | None:
    """A number of pods or a percentage, at least 1 of either: with none at all no node could be emptied."""
    value = fields.values[name]
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else shown(value)
    number, percent = text.removesuffix("%"), text.endswith("%")
    if not text or (re.fullmatch(r"[1-9]\d{0,8}", number) and (not percent or int(number) <= 100)):
        return text
    fields.problem(name, f"must be a number of at least 1, or 1% to 100%, is {shown(value)}")
    return None


def _without_spaces(fields: Fields, name: str, texts: list[str]) -> tuple[str, ...] | None:
    for text in texts:
        if re.search(r"\s", text):
            fields.problem(name, f"holds an entry with a space: {shown(text)}")
            return None
    return tuple(texts)


def _config(values: Mapping[str, Any], store_secret: str) -> Config:
    def image(name: str) -> Image:
        return Image(values[f"{name}.name"], values[f"{name}.tag"], values[f"{name}.digest"])

    def resources(name: str) -> Resources:
        parts = [
            {what: values[f"{name}.{part}.{what}"] for what in ("cpu", "memory")} for part in ("requests", "limits")
        ]
        return Resources(*parts)

    legacy = values["etcdSecretName"]
    return Config(
        service_name=values["inferenceServiceName"],
        service_port=values["inferenceServicePort"],
        management_port=values["managementPort"] or None,
        headless=values["headlessService"],
        pods_per_runtime=values["podsPerRuntime"],
        storage_secret=values["storageSecretName"],
        service_account=values["serviceAccountName"],
        tls_secret=values["tls.secretName"],
        tls_client_auth=values["tls.clientAuth"],
        max_message_bytes=values["grpcMaxMessageSizeBytes"],
        access_log=values["enableAccessLogging"],
        metrics_port=values["metrics.port"] if values["metrics.enabled"] else None,
        metrics_scheme=values["metrics.scheme"],
        service_monitors=values["metrics.enabled"] and not values["metrics.disablePrometheusOperatorSupport"],
        scale_to_zero=values["scaleToZero.enabled"],
        scale_to_zero_grace_s=values["scaleToZero.gracePeriodSeconds"],
        rest_port=values["restProxy.port"] if values["restProxy.enabled"] else None,
        mesh_image=image("modelMeshImage"),
        mesh_resources=resources("modelMeshResources"),
        helper_image=image("storageHelperImage"),
        puller_command=values["storageHelperImage.command"],
        helper_resources=resources("storageHelperResources"),
        server_types=values["builtInServerTypes"],
        payload_processors=values["payloadProcessors"],
        pod_labels=values["runtimePodLabels"],
        pod_annotations=values["runtimePodAnnotations"],
        pull_secrets=values["imagePullSecrets"],
        any_claim=values["allowAnyPVC"],
        needed_keys_only=values["storageKeys"] == "needed",
        mesh_environment=values["internalModelMeshEnvVars"],
        most_unavailable=values["disruptionBudget.maxUnavailable"],
        network_policies=values["networkPolicy.enabled"],
        mesh_endpoint=values["modelMeshEndpoint"],
        store_secret=legacy if legacy and store_secret == STORE_SECRET else store_secret,
    )
