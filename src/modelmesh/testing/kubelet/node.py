"""The node: it registers, keeps its lease, and runs the pods that the scheduler puts on it."""

import asyncio
import contextlib
import datetime as dt
import time
from pathlib import Path
from typing import Any, Self

from modelmesh.testing.controlplane.api import FAILURES, MERGE, Api, path
from modelmesh.testing.controlplane.namespaces import ADDRESS
from modelmesh.testing.kubelet.fields import CAPACITY
from modelmesh.testing.kubelet.images import Images
from modelmesh.testing.kubelet.pod import RunningPod
from modelmesh.testing.kubelet.status import now_text

Object = dict[str, Any]

LEASE_RENEWED_S = 10.0
AGAIN_S = 0.5
FIRST_POD, LAST_POD = 2, 250
_LEASES = path("coordination.k8s.io/v1", "leases", "kube-node-lease")


class Node:
    """Runs pods from entry to exit; on exit all their processes end.

    Args:
        api: With the rights of an administrator.
        images: That containers may have.
        folder: For volumes and logs.
        name: Of the node.
        subnet: First three numbers of its pods' addresses, inside of 10.88.0.0/16.
        claims: Folder of claims: `NAMESPACE/CLAIM` is what a claim holds.
    """

    def __init__(
        self,
        api: Api,
        images: Images,
        *,
        folder: Path,
        name: str = "node",
        subnet: str = "10.88.1",
        claims: Path | None = None,
    ) -> None:
        self.name = name
        self._api, self._images, self._subnet = api, images, subnet
        self._folder, self._claims = folder / "pods", claims or folder / "claims"
        self._pods: dict[str, RunningPod] = {}
        self._next = FIRST_POD
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._register()
        self._tasks = {asyncio.create_task(self._keep_lease()), asyncio.create_task(self._follow())}
        return self

    async def __aexit__(self, *_error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(pod.leave() for pod in self._pods.values()))

    def log(self, pod: Object, container: str) -> str:
        """What a container has written."""
        file = self._folder / str(pod["metadata"]["uid"]) / f"{container}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    async def _register(self) -> None:
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}}
        await self._api.create(path("v1", "nodes"), node)
        conditions = [
            {
                "type": kind,
                "status": status,
                "reason": "Processes",
                "lastHeartbeatTime": now_text(),
                "lastTransitionTime": now_text(),
            }
            for kind, status in (
                ("Ready", "True"),
                ("MemoryPressure", "False"),
                ("DiskPressure", "False"),
                ("PIDPressure", "False"),
            )
        ]
        addresses = [{"type": "InternalIP", "address": ADDRESS}, {"type": "Hostname", "address": self.name}]
        status = {
            "capacity": dict(CAPACITY),
            "allocatable": dict(CAPACITY),
            "conditions": conditions,
            "addresses": addresses,
        }
        await self._api.call(
            "PATCH", path("v1", "nodes", name=self.name, subresource="status"), {"status": status}, content=MERGE
        )
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": _micro_time()},
        }
        await self._api.create(_LEASES, lease)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_RENEWED_S)
            with contextlib.suppress(*FAILURES):
                await self._api.merge(f"{_LEASES}/{self.name}", {"spec": {"renewTime": _micro_time()}})

    async def _follow(self) -> None:
        """See the pods of this node. After a lost watch a list says which are gone."""
        chosen = {"fieldSelector": f"spec.nodeName={self.name}"}
        where = path("v1", "pods")
        while True:
            with contextlib.suppress(*FAILURES):
                listing = await self._api.call("GET", where, query=chosen)
                for pod in listing["items"]:
                    self._see({"kind": "Pod", **pod})
                for uid in set(self._pods) - {pod["metadata"]["uid"] for pod in listing["items"]}:
                    self._end(uid)
                version = {"resourceVersion": listing["metadata"]["resourceVersion"]}
                async for event, pod in self._api.watch(where, chosen | version):
                    if event == "DELETED":
                        self._end(pod["metadata"]["uid"])
                    else:
                        self._see(pod)
            await asyncio.sleep(AGAIN_S)

    def _see(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        over = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
        if uid in self._pods:
            self._pods[uid].pod = {**pod, "status": self._pods[uid].pod.get("status") or pod.get("status")}
        elif not over:
            self._pods[uid] = RunningPod(
                self._api,
                self._images,
                pod,
                address=self._address(),
                node=self.name,
                node_address=ADDRESS,
                folder=self._folder,
                claims=self._claims,
            )
        if pod["metadata"].get("deletionTimestamp") and uid in self._pods:
            self._end(uid)

    def _end(self, uid: str) -> None:
        if uid not in self._pods or self._pods[uid].stopping:
            return

        async def end(running: RunningPod) -> None:
            await running.end()
            self._pods.pop(uid, None)

        task = asyncio.create_task(end(self._pods[uid]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _address(self) -> str:
        """The next free one. One that was used lately is not used again soon."""
        taken = {pod.network.address for pod in self._pods.values()}
        for _ in range(FIRST_POD, LAST_POD + 1):
            address = f"{self._subnet}.{self._next}"
            self._next = self._next + 1 if self._next < LAST_POD else FIRST_POD
            if address not in taken:
                return address
        raise RuntimeError(f"node {self.name} has no free address for another pod")


def _micro_time() -> str:
    return dt.datetime.fromtimestamp(time.time(), dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
