"""The ServiceMonitor of a namespace, for the Prometheus operator. Source: spec/serving-controller.md 2.1."""

from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.objects import COMMON_LABELS, SERVICE_LABEL, Object, Owner, metadata

NAME = "modelmesh-metrics-monitor"


def render_service_monitor(namespace: str, config: Config, owner: Owner | None = None) -> Object:
    """Render it. Certificates are not verified: those of instances are for the mesh's names."""
    selector = {SERVICE_LABEL: config.service_name}
    endpoint: Object = {"port": "prometheus", "interval": "30s", "scheme": config.metrics_scheme}
    if config.metrics_scheme == "https":
        endpoint["tlsConfig"] = {"insecureSkipVerify": True}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": metadata(NAME, namespace, owner, {**selector, **COMMON_LABELS}),
        "spec": {
            "selector": {"matchLabels": selector},
            "namespaceSelector": {"matchNames": [namespace]},
            "endpoints": [endpoint],
        },
    }
