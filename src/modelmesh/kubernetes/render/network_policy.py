"""The NetworkPolicy of a namespace: what may reach its runtime pods. Source: spec/serving-controller.md 8.2 and F31."""

from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.objects import COMMON_LABELS, CONTROLLER, SERVICE_LABEL, Object, Owner, metadata

NAME = "modelmesh-runtimes"
PEER_PORT = 8080


def render_network_policy(namespace: str, config: Config, controller: str, owner: Owner | None = None) -> Object:
    """Clients and scrapers reach the ports of the Service; calls between instances come from instances alone.

    Management with a port of its own is reached from the controller alone, whose namespace is `controller`; policies of others may
    open it further. Model servers, adapters and pullers are reached inside of the pod only. Probes and hooks come from the
    node, which policies let through.
    """
    selector = {"matchLabels": {SERVICE_LABEL: config.service_name}}
    ingress: list[Object] = [
        {"from": [{"podSelector": selector}], "ports": [{"protocol": "TCP", "port": PEER_PORT}]},
    ]
    if config.management_port is not None:
        home = {"matchLabels": {"kubernetes.io/metadata.name": controller}}
        pods = {"matchLabels": {"control-plane": CONTROLLER}}
        ingress.append(
            {
                "from": [{"namespaceSelector": home, "podSelector": pods}],
                "ports": [{"protocol": "TCP", "port": config.management_port}],
            }
        )
    open_ports = [config.service_port, config.rest_port, config.metrics_port]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(NAME, namespace, owner, {SERVICE_LABEL: config.service_name, **COMMON_LABELS}),
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"protocol": "TCP", "port": port} for port in open_ports if port is not None]},
                *ingress,
            ],
        },
    }
