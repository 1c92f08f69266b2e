"""What rendered objects share: labels, owners, names of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config

Object = dict[str, Any]
"""A Kubernetes object as JSON has it."""

SERVICE_LABEL = "modelmesh-service"
CONTROLLER = "modelmesh-controller"
COMMON_LABELS: Mapping[str, str] = {
    f"app.kubernetes.io/{name}": CONTROLLER for name in ("instance", "managed-by", "name")
}
MANAGEMENT_PORT = "management"
"""Name of the port of management, in pods and in the Service."""

TYPE_CONSTRAINTS = "tc-config"
"""ConfigMap with the documents that instances read."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The object that a rendered one is deleted with."""

    api_version: str
    kind: str
    name: str
    uid: str

    def reference(self) -> Object:
        """As `metadata.ownerReferences` has it. It blocks no deletion, for which the controller would need more rights."""
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }


def metadata(name: str, namespace: str, owner: Owner | None, labels: Mapping[str, str] = COMMON_LABELS) -> Object:
    """The metadata of a rendered object."""
    found: Object = {"name": name, "namespace": namespace, "labels": dict(labels)}
    if owner is not None:
        found["ownerReferences"] = [owner.reference()]
    return found


def deployment_name(runtime: Runtime, config: Config) -> str:
    """Name of a runtime's Deployment, and of its autoscaler."""
    return f"{config.service_name}-{runtime.name}"


def as_served(runtime: Runtime, config: Config) -> Runtime:
    """The runtime with the protocol that REST adds: `v2` beside `grpc-v2`. To be given to `choose` too."""
    if config.rest_port is None or "grpc-v2" not in runtime.protocols or "v2" in runtime.protocols:
        return runtime
    return replace(runtime, protocols=(*runtime.protocols, "v2"))


def items(value: object) -> list[Any]:
    """A list of an object, or an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


def variables(environment: Mapping[str, str | Object]) -> list[Object]:
    """An environment as a container has it: texts, or references under `valueFrom`."""
    return [
        {"name": name, "value": value} if isinstance(value, str) else {"name": name, "valueFrom": value}
        for name, value in environment.items()
    ]
