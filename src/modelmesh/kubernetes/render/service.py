"""The Service of a namespace: all its runtime pods under one name. Source: spec/serving-controller.md 2.1."""

from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.objects import COMMON_LABELS, MANAGEMENT_PORT, SERVICE_LABEL, Object, Owner, metadata


def render_service(namespace: str, config: Config, owner: Owner | None = None) -> Object:
    """A change between headless and not needs it deleted first: the API server refuses to change `clusterIP`."""
    ports = [{"name": "grpc", "port": config.service_port, "targetPort": "grpc"}]
    if config.management_port is not None:
        # Clients do not call it there; it is how the controller learns which pods have it.
        ports.append({"name": MANAGEMENT_PORT, "port": config.management_port, "targetPort": MANAGEMENT_PORT})
    if config.rest_port is not None:
        ports.append({"name": "http", "port": config.rest_port, "targetPort": "http"})
    if config.metrics_port is not None:
        ports.append({"name": "prometheus", "port": config.metrics_port, "targetPort": "prometheus"})
    selector = {SERVICE_LABEL: config.service_name}
    spec: Object = {"selector": selector, "ports": ports}
    if config.headless:
        spec["clusterIP"] = "None"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(config.service_name, namespace, owner, {**selector, **COMMON_LABELS}),
        "spec": spec,
    }
