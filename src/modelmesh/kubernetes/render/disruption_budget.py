"""The PodDisruptionBudget of a runtime: how many of its pods may be away because nodes are emptied."""

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.objects import COMMON_LABELS, SERVICE_LABEL, Object, Owner, deployment_name, metadata


def render_disruption_budget(runtime: Runtime, config: Config, *, namespace: str, owner: Owner | None = None) -> Object:
    """Render it; its name is the Deployment's.

    It bounds the pods that are away, and not those that stay: with a least number a runtime of one pod would keep its node from
    being emptied. Pods that are not ready may always go, because they serve no calls.
    """
    name, most = deployment_name(runtime, config), config.most_unavailable
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(name, namespace, owner, COMMON_LABELS),
        "spec": {
            "maxUnavailable": int(most) if most.isdecimal() else most,
            "selector": {"matchLabels": {SERVICE_LABEL: config.service_name, "name": name}},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
