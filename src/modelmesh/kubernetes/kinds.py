"""The kinds of Kubernetes objects that the controller reads or writes, and where the API server has them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

Object = dict[str, Any]
"""A Kubernetes object as JSON has it."""


class Key(NamedTuple):
    """Names an object of a kind; `namespace` is empty for kinds of the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects. `group` is empty for the core group."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As an object says it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Of the collection, or of one object; without a namespace: the collection in all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (f"{root}{within}/{self.plural}", name, subresource) if part)


_SERVING = "serving.kserve.io"
INFERENCE_SERVICE = Kind("InferenceService", _SERVING, "v1beta1", "inferenceservices")
PREDICTOR = Kind("Predictor", _SERVING, "v1alpha1", "predictors")
SERVING_RUNTIME = Kind("ServingRuntime", _SERVING, "v1alpha1", "servingruntimes")
CLUSTER_RUNTIME = Kind("ClusterServingRuntime", _SERVING, "v1alpha1", "clusterservingruntimes", namespaced=False)
NAMESPACE = Kind("Namespace", "", "v1", "namespaces", namespaced=False)
CONFIG_MAP = Kind("ConfigMap", "", "v1", "configmaps")
SECRET = Kind("Secret", "", "v1", "secrets")
SERVICE = Kind("Service", "", "v1", "services")
CLAIM = Kind("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims")
EVENT = Kind("Event", "", "v1", "events")
POD = Kind("Pod", "", "v1", "pods")
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments")
AUTOSCALER = Kind("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers")
ENDPOINT_SLICE = Kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices")
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies")
SERVICE_MONITOR = Kind("ServiceMonitor", "monitoring.coreos.com", "v1", "servicemonitors")
LEASE = Kind("Lease", "coordination.k8s.io", "v1", "leases")

KINDS = (
    *(INFERENCE_SERVICE, PREDICTOR, SERVING_RUNTIME, CLUSTER_RUNTIME, NAMESPACE, CONFIG_MAP, SECRET, SERVICE, CLAIM),
    *(EVENT, POD, DEPLOYMENT, AUTOSCALER, DISRUPTION_BUDGET, ENDPOINT_SLICE, NETWORK_POLICY, SERVICE_MONITOR, LEASE),
)
_BY_NAME = {(kind.api_version, kind.name): kind for kind in KINDS}


def kind_of(item: Object) -> Kind:
    """The kind of an object that says what it is. Raises KeyError for one that is not known here."""
    return _BY_NAME[item["apiVersion"], item["kind"]]


def key_of(item: Object) -> Key:
    """The key of an object."""
    metadata = item["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])
