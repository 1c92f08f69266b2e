"""A cluster with our controller, as `kubectl apply -k deploy/kubernetes/serving` installs it, and its resources."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from conftest import until
from serving_kit import images, write_model

from modelmesh.client import AsyncClient
from modelmesh.testing.controlplane.api import Api, ApiError, path
from modelmesh.testing.controlplane.plane import ControlPlane
from modelmesh.testing.kubelet import Node

Object = dict[str, Any]

SERVING = Path(__file__).parents[2] / "deploy" / "kubernetes" / "serving"
HOME = "modelmesh-serving"
"""The namespace of the controller."""

CONFIG = """
podsPerRuntime: 1
metrics: {scheme: http}
scaleToZero: {gracePeriodSeconds: 2}
internalModelMeshEnvVars: [{name: BOOTSTRAP_CLEARANCE_PERIOD_MS, value: 0}]
"""

PLURALS = {
    "InferenceService": ("serving.kserve.io/v1beta1", "inferenceservices"),
    "Predictor": ("serving.kserve.io/v1alpha1", "predictors"),
    "ServingRuntime": ("serving.kserve.io/v1alpha1", "servingruntimes"),
    "Deployment": ("apps/v1", "deployments"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Pod": ("v1", "pods"),
    "Event": ("v1", "events"),
    "ClusterServingRuntime": ("serving.kserve.io/v1alpha1", "clusterservingruntimes"),
}

CLUSTER_KINDS = frozenset({"ClusterServingRuntime"})


@dataclass
class Cluster:
    """What tests do with it. `claims` is the folder of claims; their contents are `NAMESPACE/CLAIM/…`."""

    plane: ControlPlane
    api: Api
    node: Node
    claims: Path
    _volumes: set[str] = field(default_factory=set)

    async def prepare(self, config: str = CONFIG) -> None:
        """What must be there before the controller: definitions, its namespace, etcd, configuration, files of models."""
        await self.plane.kubectl("create", "namespace", HOME)
        connection = json.dumps({"endpoints": self.plane.store, "root_prefix": "serving"})
        await self.apply(
            {
                "kind": "Secret",
                "metadata": {"name": "model-serving-etcd"},
                "stringData": {"etcd_connection": connection},
            },
            {
                "kind": "Secret",
                "metadata": {"name": "storage-config"},
                "stringData": {"models": json.dumps({"type": "pvc", "name": "models"})},
            },
        )
        await self.configure(config)
        await self.plane.kubectl("apply", "--server-side", "-k", str(SERVING / "crds"))
        await self.plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        await self.claim("models")

    async def configure(self, text: str) -> None:
        """Write the configuration for all namespaces."""
        await self.apply(
            {"kind": "ConfigMap", "metadata": {"name": "model-serving-config"}, "data": {"config.yaml": text}}
        )

    async def install(self) -> None:
        """Install the controller, and wait until it is ready."""
        await self.plane.kubectl("apply", "--server-side", "-k", str(SERVING))
        await until(self.controller_ready, "the controller did not become ready", why=self.said_by_controller)

    async def controller_ready(self) -> bool:
        """Whether a pod of the controller is ready."""
        pods = await self.pods("control-plane=modelmesh-controller", HOME)
        return [is_ready(pod) for pod in pods] == [True]

    async def said_by_controller(self) -> str:
        """The end of its log, and its status."""
        pods = await self.pods("control-plane=modelmesh-controller", HOME)
        return "\n".join(f"{pod['status']} {self.node.log(pod, 'manager')[-4000:]}" for pod in pods)

    async def claim(self, name: str, namespace: str = HOME) -> None:
        """A bound claim, with the files below the folder of claims."""
        (self.claims / namespace / name).mkdir(parents=True, exist_ok=True)
        size = {"storage": "1Mi"}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-{name}"},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "capacity": size,
                "hostPath": {"path": "/"},
                "claimRef": {"namespace": namespace, "name": name},
            },
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "resources": {"requests": size},
                "volumeName": f"{namespace}-{name}",
                "storageClassName": "",
            },
        }
        await self.api.create(path("v1", "persistentvolumes"), volume)
        await self.api.create(path("v1", "persistentvolumeclaims", namespace), claim)

    async def apply(self, *objects: Object, namespace: str = HOME) -> None:
        """Apply objects as a user does."""
        for one in objects:
            version, plural = PLURALS[one["kind"]]
            where = path(version, plural, "" if one["kind"] in CLUSTER_KINDS else namespace, one["metadata"]["name"])
            await self.api.apply(where, {"apiVersion": version, **one}, manager="user")

    async def get(self, kind: str, name: str, namespace: str = HOME) -> Object | None:
        """An object; None if it is not there."""
        version, plural = PLURALS[kind]
        try:
            return await self.api.get(path(version, plural, "" if kind in CLUSTER_KINDS else namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def delete(self, kind: str, name: str, namespace: str = HOME) -> None:
        """Delete an object."""
        version, plural = PLURALS[kind]
        await self.api.delete(path(version, plural, namespace, name))

    async def pods(self, labels: str, namespace: str = HOME) -> list[Object]:
        """Pods with labels that are not about to end."""
        found = await self.api.items(path("v1", "pods", namespace), {"labelSelector": labels})
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    async def runtime_pods(self, runtime: str, namespace: str = HOME) -> list[Object]:
        """Pods of a runtime."""
        return await self.pods(f"name=modelmesh-serving-{runtime}", namespace)

    async def status(self, kind: str, name: str, namespace: str = HOME) -> Object:
        """The status of an object; empty if there is none."""
        found = await self.get(kind, name, namespace)
        status: Object = (found or {}).get("status") or {}
        return status

    async def until_status(
        self, kind: str, name: str, holds: Callable[[Object], bool], *, namespace: str = HOME, within_s: float = 60
    ) -> Object:
        """Wait for a status; returns it."""

        async def met() -> bool:
            status = await self.status(kind, name, namespace)
            return bool(status) and holds(status)

        async def why() -> str:
            return f"{await self.status(kind, name, namespace)}\n{await self.said_by_controller()}"

        await until(met, f"{kind} {name} does not have the status", within_s=within_s, why=why)
        return await self.status(kind, name, namespace)


@asynccontextmanager
async def installed(plane: ControlPlane, api: Api, folder: Path, config: str = CONFIG) -> AsyncIterator[Cluster]:
    """A cluster with the controller, and a claim `models` with two models that add one."""
    for name in ("adder.onnx", "same.onnx"):
        write_model(folder / "claims" / HOME / "models" / name)
    async with Node(api, images(folder / "images"), folder=folder) as node:
        made = Cluster(plane, api, node, folder / "claims")
        await made.prepare(config)
        await made.install()
        yield made


async def answer(cluster: Cluster, model: str) -> list[list[float]]:
    """Of a model that adds one, called by gRPC with [[1, 2]]."""
    address = next(pod["status"]["podIP"] for pod in await cluster.runtime_pods("modelmesh-1.x") if is_ready(pod))
    async with AsyncClient(f"{address}:8033") as client:
        found = await client.infer(model, {"x": np.array([[1.0, 2.0]], np.float32)}, vmodel=True)
    numbers: list[list[float]] = found["y"].tolist()
    return numbers


def is_ready(pod: Object) -> bool:
    """Whether a pod is."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def service(name: str, where: str, form: str = "onnx", *, runtime: str = "modelmesh-1.x", **model: Any) -> Object:
    """An InferenceService of a file on the claim `models`. An empty runtime: it is not pinned."""
    pinned = {"runtime": runtime} if runtime else {}
    return {
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"}},
        "spec": {
            "predictor": {
                "model": {"modelFormat": {"name": form}, "storageUri": f"pvc://models/{where}", **pinned, **model}
            }
        },
    }


def predictor(
    name: str, where: str, form: str = "onnx", *, runtime: str | None = "modelmesh-1.x", **spec: Any
) -> Object:
    """A Predictor of a file on the claim `models`."""
    storage = {"path": where, "parameters": {"type": "pvc", "name": "models"}}
    pinned = {"runtime": {"name": runtime}} if runtime else {}
    return {
        "kind": "Predictor",
        "metadata": {"name": name},
        "spec": {"modelType": {"name": form}, "storage": storage, **pinned, **spec},
    }


def states(status: Object) -> Sequence[object]:
    """Active, target and transition, of either kind of model."""
    model = status.get("modelStatus")
    if model is None:
        return status.get("activeModelState"), status.get("targetModelState"), status.get("transitionStatus")
    of = model.get("states", {})
    return of.get("activeModelState"), of.get("targetModelState"), model.get("transitionStatus")
