"""A whole Kubernetes cluster for tests of the controller, on virtual time: an API server, Deployments, pods, and meshes.

Pods are instances of simulated clusters, one cluster for each namespace. They follow the Deployments that the controller
applies: their labels come from the pod's environment, their constraints from the ConfigMap of the namespace.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from random import Random
from typing import Any

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as wire
from modelmesh.instance.documents import parse_constraints
from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.kinds import Key, Object
from modelmesh.kubernetes.loop.controller import Controller
from modelmesh.kubernetes.ports import MeshCalls, MeshError
from modelmesh.kubernetes.settings import Settings
from modelmesh.testing.clock import VirtualClock
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance
from modelmesh.testing.kubernetes import MemoryApi
from modelmesh.testing.kubernetes_mesh import SimulatedMeshCalls
from modelmesh.values.status import Status

OWN = "modelmesh-serving"
GRPC_PORT = 8033
ROUND_S = 0.5
"""How often Deployments and pods are looked at."""


class KubernetesCluster:
    """Use within `run_virtual`; `start` begins, `stop` ends.

    Attributes:
        api: The API server.
        lines: What controllers logged.
        pods_run: Whether Deployments get pods.
        old_pods: Pods that begin are instances of the archived project.
    """

    def __init__(self, *, seed: int = 1, settings: Settings | None = None) -> None:
        self.rng = Random(seed)  # noqa: S311 - a simulation
        self.clock = VirtualClock()
        self.api = MemoryApi(self.clock)
        self.api.absent.add("ServiceMonitor")
        self.settings = settings or Settings(OWN)
        self.meshes: dict[str, SimulatedCluster] = {}
        self.calls: dict[str, SimulatedMeshCalls] = {}
        """By address of the instance."""
        self.lines: list[dict[str, Any]] = []
        self.pods_run = True
        self.old_pods = False
        self._pods: dict[tuple[str, str, int], tuple[str, SimulatedInstance]] = {}
        self._running: dict[Controller, asyncio.Task[None]] = {}
        self._kubelet: asyncio.Task[None] | None = None
        self._numbers = 0
        self.add_namespace(OWN)
        connection = {"endpoints": "http://etcd:2379", "root_prefix": "root"}
        self.secret("model-serving-etcd", etcd_connection=json.dumps(connection))
        self.secret("storage-config")

    # --- resources --------------------------------------------------------------------------------

    def add_namespace(self, name: str, *, enabled: bool | None = None) -> None:
        """Create a namespace; `enabled` sets the label."""
        labels = {} if enabled is None else {"modelmesh-enabled": "true" if enabled else "false"}
        self.api.put(kinds.NAMESPACE, {"metadata": {"name": name, "labels": labels}})

    def secret(self, name: str, namespace: str = OWN, **data: str) -> None:
        """Create a Secret, or replace it."""
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        self.api.put(kinds.SECRET, {"metadata": {"name": name, "namespace": namespace}, "data": encoded})

    def configure(self, text: str, namespace: str = OWN) -> None:
        """Write the configuration of a namespace."""
        metadata = {"name": "model-serving-config", "namespace": namespace}
        self.api.put(kinds.CONFIG_MAP, {"metadata": metadata, "data": {"config.yaml": text}})

    def runtime(
        self,
        name: str,
        namespace: str = OWN,
        *,
        format_name: str = "fake",
        annotations: Object | None = None,
        **spec: Any,
    ) -> None:
        """Create a runtime, or replace it; without a namespace: one of the cluster."""
        kind = kinds.SERVING_RUNTIME if namespace else kinds.CLUSTER_RUNTIME
        body = {
            "supportedModelFormats": [{"name": format_name, "version": "1", "autoSelect": True}],
            "multiModel": True,
            "grpcEndpoint": "port:8085",
            "grpcDataEndpoint": "port:8001",
            "containers": [{"name": "server", "image": "server:1", "resources": {"limits": {"memory": "1Gi"}}}],
            **spec,
        }
        metadata = {"name": name, "annotations": annotations or {}, **({"namespace": namespace} if namespace else {})}
        self.api.put(
            kind, {"metadata": metadata, "spec": {key: value for key, value in body.items() if value is not None}}
        )

    def predictor(
        self, name: str, namespace: str = OWN, *, format_name: str = "fake", path: str = "p", **spec: Any
    ) -> None:
        """Create a Predictor, or replace its spec."""
        body = {"modelType": {"name": format_name}, "storage": {"path": path, "key": "k"}, **spec}
        self._model(
            kinds.PREDICTOR, name, namespace, {}, {key: value for key, value in body.items() if value is not None}
        )

    def inference_service(
        self,
        name: str,
        namespace: str = OWN,
        *,
        format_name: str = "fake",
        uri: str = "s3://bucket/p",
        mode: str | None = "ModelMesh",
        **model: Any,
    ) -> None:
        """Create an InferenceService, or replace its spec."""
        spec = {"predictor": {"model": {"modelFormat": {"name": format_name}, "storageUri": uri, **model}}}
        annotations = {} if mode is None else {"serving.kserve.io/deploymentMode": mode}
        self._model(kinds.INFERENCE_SERVICE, name, namespace, annotations, spec)

    def _model(self, kind: kinds.Kind, name: str, namespace: str, annotations: Object, spec: Object) -> None:
        metadata = {"name": name, "namespace": namespace, "annotations": annotations}
        standing = self.api.get(kind, name, namespace)
        status = {"status": standing["status"]} if standing is not None and "status" in standing else {}
        self.api.put(kind, {"metadata": metadata, "spec": spec, **status})

    def status(self, name: str, namespace: str = OWN, kind: kinds.Kind = kinds.PREDICTOR) -> Object:
        """What a resource says; empty: nothing."""
        item = self.api.get(kind, name, namespace)
        assert item is not None, f"there is no {kind.name} {namespace}/{name}"
        status: Object = item.get("status") or {}
        return status

    def condition(self, type_: str, name: str, namespace: str = OWN, kind: kinds.Kind = kinds.PREDICTOR) -> Object:
        """One of its conditions; empty: it has none of the type."""
        conditions = self.status(name, namespace, kind).get("conditions") or ()
        return next((entry for entry in conditions if entry["type"] == type_), {})

    def events(self, reason: str = "") -> list[Object]:
        """The Events that were written."""
        return [event for event in self.api.all(kinds.EVENT) if reason in {"", event["reason"]}]

    # --- controllers ------------------------------------------------------------------------------

    def start(self, *, settings: Settings | None = None) -> Controller:
        """Begin a controller, and what makes pods of Deployments."""
        controller = Controller(
            api=self.api,
            dial=self.dial,
            clock=self.clock,
            rng=Random(self.rng.getrandbits(32)),  # noqa: S311 - a simulation
            settings=settings or self.settings,
            log=lambda event, **fields: self.lines.append({"event": event, **fields}),
        )
        self._running[controller] = asyncio.ensure_future(controller.run())
        if self._kubelet is None:
            self._kubelet = asyncio.ensure_future(self._run_pods())
        return controller

    async def kill(self, controller: Controller) -> None:
        """End a controller where it stands."""
        task = self._running.pop(controller)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def stop(self) -> None:
        """End everything. Raises what ended a controller that was not told to end."""
        ended = [task for task in self._running.values() if task.done()]
        for controller in tuple(self._running):
            await self.kill(controller)
        if self._kubelet is not None:
            self._kubelet.cancel()
            await asyncio.gather(self._kubelet, return_exceptions=True)
        for mesh in self.meshes.values():
            await mesh.stop()
        for task in ended:
            task.result()

    def dial(self, namespace: str, address: str) -> MeshCalls:
        """A connection to an instance."""
        del namespace
        calls = self.calls.get(address)
        return calls if calls is not None else _Nobody(address)

    # --- pods -------------------------------------------------------------------------------------

    async def _run_pods(self) -> None:
        seen = None
        while True:
            # Between changes there is nothing to do. What a round itself changes gets another round.
            if seen != (now := (self.api.revision, self.pods_run)):
                seen = now
                await self._look_at_pods()
            await self.clock.sleep(int(ROUND_S * 1000))

    async def _look_at_pods(self) -> None:
        for deployment in self.api.all(kinds.DEPLOYMENT):
            await self._follow(deployment)
        for key in [key for key in self._pods if self.api.get(kinds.DEPLOYMENT, key[1], key[0]) is None]:
            await self._end(key)
        for namespace in {key.namespace for key in self._namespaces()}:
            self._publish(namespace)

    def _namespaces(self) -> list[Key]:
        return [kinds.key_of(item) for item in self.api.all(kinds.SERVICE)]

    async def _follow(self, deployment: Object) -> None:
        key = kinds.key_of(deployment)
        wanted = deployment["spec"].get("replicas", 1) if self.pods_run else 0
        # A test may end pods meanwhile.
        while len(self._pods_of(key)) < wanted:
            await self._begin(key, deployment)
        while len(pods := self._pods_of(key)) > wanted:
            # As the real controller: the cheapest first, and of those the youngest.
            await self._end(min(pods, key=lambda pod: (self._cost(pod), -pod[2])))
        ready = sum(pod[:2] == tuple(key) for pod in self._pods)
        status = {
            "replicas": wanted,
            "readyReplicas": ready,
            "observedGeneration": deployment["metadata"]["generation"],
        }
        if deployment.get("status") != status:
            self.api.edit(
                kinds.DEPLOYMENT, key.name, key.namespace, {"status": status}, manager="kube-controller-manager"
            )

    def _pods_of(self, key: Key) -> list[tuple[str, str, int]]:
        return [pod for pod in self._pods if pod[:2] == tuple(key)]

    def _cost(self, pod: tuple[str, str, int]) -> int:
        item = self.api.get(kinds.POD, f"{pod[1]}-{pod[2]}", pod[0])
        assert item is not None
        annotations = item["metadata"].get("annotations") or {}
        return int(annotations.get("controller.kubernetes.io/pod-deletion-cost", "0"))

    async def _begin(self, key: Key, deployment: Object) -> None:
        mesh = self.meshes.setdefault(key.namespace, SimulatedCluster(seed=len(self.meshes)))
        containers = deployment["spec"]["template"]["spec"]["containers"]
        environment = {one["name"]: one.get("value", "") for one in _named(containers, "mm")["env"]}
        self._numbers += 1
        address = f"10.0.0.{self._numbers}:{GRPC_PORT}"
        name = f"{key.name}-{self._numbers}"
        instance = await mesh.add(name, labels=tuple(filter(None, environment["MM_LABELS"].split(","))))
        self.api.put(kinds.POD, {"metadata": {"name": name, "namespace": key.namespace}}, manager="kubelet")
        self._pods[key.namespace, key.name, self._numbers] = (address, instance)
        calls = self.calls[address] = SimulatedMeshCalls(instance)
        calls.old = self.old_pods

    async def _end(self, pod: tuple[str, str, int]) -> None:
        address, instance = self._pods.pop(pod)
        self.api.remove(kinds.POD, f"{pod[1]}-{pod[2]}", pod[0])
        self.calls.pop(address).cut()
        await self.meshes[pod[0]].crash(instance.plane.identity.instance)

    def _publish(self, namespace: str) -> None:
        """Bring the addresses of pods into an EndpointSlice, and the constraints of the namespace into its pods."""
        service = next((one for one in self.api.all(kinds.SERVICE) if one["metadata"]["namespace"] == namespace), None)
        if service is None:
            return
        name = service["metadata"]["name"]
        ready = sorted(
            (address.rpartition(":")[0], f"{pod[1]}-{pod[2]}")
            for pod, (address, _) in self._pods.items()
            if pod[0] == namespace
        )
        item = {
            "metadata": {
                "name": f"{name}-slice",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name, "modelmesh-service": name},
            },
            "ports": [{"name": "grpc", "port": GRPC_PORT}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": name}}
                for address, name in ready
            ],
        }
        standing = self.api.get(kinds.ENDPOINT_SLICE, f"{name}-slice", namespace)
        if standing is None or standing["endpoints"] != item["endpoints"]:
            self.api.put(kinds.ENDPOINT_SLICE, item, manager="endpointslice-controller")
        documents = self.api.get(kinds.CONFIG_MAP, "tc-config", namespace)
        if documents is not None:
            text = base64.b64decode(documents["binaryData"]["type_constraints"]).decode()
            for pod, (_, instance) in self._pods.items():
                if pod[0] == namespace:
                    constraints = parse_constraints(text)
                    if instance.plane.decider.constraints != constraints:
                        instance.plane.constrain(constraints)


def _named(items: list[Object], name: str) -> Object:
    return next(item for item in items if item["name"] == name)


class _Nobody(MeshCalls):
    """An address without a listener."""

    def __init__(self, address: str) -> None:
        self._error = MeshError(Status.UNAVAILABLE, f"{address} cannot be reached")

    async def watch(self, request: pb.WatchStatusRequest) -> AsyncGenerator[pb.StatusUpdate, None]:
        await self.delete_vmodel(request)
        yield pb.StatusUpdate()

    async def set_vmodels(self, _: pb.SetVModelsRequest) -> pb.SetVModelsResponse:
        raise self._error

    async def set_vmodel(self, _: object) -> wire.VModelStatusInfo:
        raise self._error

    async def vmodel_status(self, _: object) -> wire.VModelStatusInfo:
        raise self._error

    async def delete_vmodel(self, _: object) -> None:
        raise self._error

    async def instances(self) -> pb.ListInstancesResponse:
        raise self._error

    async def close(self) -> None:
        """Nothing is open."""
