"""The Deployment of a runtime. Source: spec/serving-controller.md 2.3."""

from collections.abc import Iterable, Sequence
from typing import Any

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.helper_containers import adapter_container, needs_puller, puller_container
from modelmesh.kubernetes.render.mesh_container import GRACE_S, mesh_container
from modelmesh.kubernetes.render.objects import (
    COMMON_LABELS,
    SERVICE_LABEL,
    Object,
    Owner,
    deployment_name,
    items,
    metadata,
)
from modelmesh.kubernetes.render.server_containers import server_containers
from modelmesh.kubernetes.render.volumes import name_claims, volumes

ARCHITECTURES = ["amd64", "arm64", "s390x"]
_ARCHITECTURE = {"key": "kubernetes.io/arch", "operator": "In", "values": ARCHITECTURES}


def render_deployment(
    runtime: Runtime,
    config: Config,
    *,
    namespace: str,
    replicas: int | None,
    claims: Sequence[str] = (),
    storage_keys: Iterable[str] = (),
    owner: Owner | None = None,
    tls_authority: bool = False,
) -> Object:
    """The arguments are those of `render_runtime`."""
    name = deployment_name(runtime, config)
    selector = {SERVICE_LABEL: config.service_name, "name": name}
    labels = {**selector, **COMMON_LABELS}
    spec: Object = {
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "75%", "maxUnavailable": "15%"}},
        "template": {
            "metadata": _pod_metadata(runtime, config, labels),
            "spec": _pod(runtime, config, claims, storage_keys, tls_authority=tls_authority),
        },
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(name, namespace, owner, labels),
        "spec": spec,
    }


def _pod_metadata(runtime: Runtime, config: Config, labels: dict[str, str]) -> Object:
    annotations: dict[str, str] = {}
    if config.metrics_port is not None:
        annotations = {
            "prometheus.io/path": "/metrics",
            "prometheus.io/port": str(config.metrics_port),
            "prometheus.io/scheme": config.metrics_scheme,
            "prometheus.io/scrape": "true",
        }
    annotations |= {**config.pod_annotations, **_texts(runtime.body.get("annotations"))}
    # The selector's labels come last: pods without them would not be the Deployment's.
    found: Object = {
        "labels": {**labels, **config.pod_labels, **_texts(runtime.body.get("labels")), **_selected(labels)}
    }
    if annotations:
        found["annotations"] = annotations
    return found


def _selected(labels: dict[str, str]) -> dict[str, str]:
    return {name: labels[name] for name in (SERVICE_LABEL, "name")}


def _pod(
    runtime: Runtime, config: Config, names: Sequence[str], storage_keys: Iterable[str], *, tls_authority: bool
) -> Object:
    claims = name_claims(names, runtime)
    puller = needs_puller(runtime)
    containers = server_containers(runtime, claims)
    if runtime.adapter is not None:
        containers.append(adapter_container(runtime, runtime.adapter, config, claims))
    if puller:
        containers.append(puller_container(runtime, config, claims))
    # Last: images of large servers are there before the instance begins to wait for its runtime.
    containers.append(mesh_container(runtime, config, puller=puller, tls_authority=tls_authority))
    pod: Object = {
        "terminationGracePeriodSeconds": GRACE_S,
        "affinity": _affinity(runtime.body.get("affinity")),
        "containers": containers,
        "volumes": volumes(runtime, config, claims, storage_keys, pulls=runtime.adapter is not None or puller),
    }
    if config.service_account:
        pod["serviceAccountName"] = config.service_account
    own = [secret.get("name") for secret in items(runtime.body.get("imagePullSecrets")) if isinstance(secret, dict)]
    if secrets := dict.fromkeys([*config.pull_secrets, *own]):
        pod["imagePullSecrets"] = [{"name": secret} for secret in secrets]
    for field in ("nodeSelector", "tolerations"):
        if runtime.body.get(field):
            pod[field] = runtime.body[field]
    return pod


def _affinity(given: Any) -> Object:
    """The author's affinity, on the architectures that our images are built for.

    Terms of a node selector are alternatives, so each gets the expression: a term of its own would let pods run on nodes
    that the author's terms exclude.
    """
    affinity: Object = dict(given) if isinstance(given, dict) else {}
    node: Object = dict(affinity.get("nodeAffinity") or {})
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = items(required.get("nodeSelectorTerms")) or [{}]
    node["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [
            {**term, "matchExpressions": [*items(term.get("matchExpressions")), _ARCHITECTURE]} for term in terms
        ]
    }
    return {**affinity, "nodeAffinity": node}


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(name, str) and isinstance(text, str)}
