"""One pod of a node: its network, its volumes, its containers, and what is said of it."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelmesh.testing.controlplane.api import FAILURES, MERGE, Api, ApiError, path
from modelmesh.testing.kubelet.container import Container
from modelmesh.testing.kubelet.fields import pod_field
from modelmesh.testing.kubelet.files import PodFiles, publish
from modelmesh.testing.kubelet.images import Images, NotYetError
from modelmesh.testing.kubelet.sandbox import Network
from modelmesh.testing.kubelet.shell import ShellError
from modelmesh.testing.kubelet.status import now_text, pod_status

Object = dict[str, Any]

VOLUMES_RENEWED_S = 2.0
WAITS_S = 0.5
SAID_AGAIN_S = 10.0


class RunningPod:
    """A pod that the node runs, from when it sees it until it is gone."""

    def __init__(
        self,
        api: Api,
        images: Images,
        pod: Object,
        *,
        address: str,
        node: str,
        node_address: str,
        folder: Path,
        claims: Path,
    ) -> None:
        self.images, self.pod = images, pod
        # A kubelet names the Service `kubernetes`; without a proxy for Services it is the server itself.
        self.variables: Mapping[str, str] = {
            "KUBERNETES_SERVICE_HOST": api.host,
            "KUBERNETES_SERVICE_PORT": str(api.port),
        }
        self.network = Network(address)
        self.folder = folder / str(pod["metadata"]["uid"])
        self.volumes: dict[str, Path] = {}
        self.changed = asyncio.Event()
        self.stopping = False
        self.files = PodFiles(api, pod, self.field)
        self._api, self._node, self._node_address, self._claims = api, node, node_address, claims
        self._init = [Container(self, one) for one in pod["spec"].get("initContainers") or []]
        self._containers = [Container(self, one) for one in pod["spec"]["containers"]]
        self._phase, self._initialized, self._since = "Pending", not self._init, now_text()
        self._problem = ""
        self._tasks = [asyncio.create_task(self._live()), asyncio.create_task(self._report())]

    @property
    def grace_s(self) -> float:
        """How long it may take to end."""
        asked = self.pod["metadata"].get("deletionGracePeriodSeconds")
        return float(asked if asked is not None else self.pod["spec"].get("terminationGracePeriodSeconds") or 30)

    @property
    def where(self) -> str:
        """Its path in the API."""
        metadata = self.pod["metadata"]
        return path("v1", "pods", metadata["namespace"], metadata["name"])

    def field(self, name: str) -> str:
        """A field of the downward API."""
        return pod_field(self.pod, name, address=self.network.address, node=self._node, node_address=self._node_address)

    async def end(self) -> None:
        """Stop its containers, and let it be gone."""
        if self.stopping:
            return
        self.stopping = True
        await asyncio.gather(*(container.stop() for container in self._all))
        await self.leave()
        with contextlib.suppress(*FAILURES):
            await self._api.delete(self.where, grace_s=0)

    async def leave(self) -> None:
        """End all its processes, without a word to the API server."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        for container in self._all:
            container.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.network.close()

    @property
    def _all(self) -> list[Container]:
        return [*self._init, *self._containers]

    async def _live(self) -> None:
        try:
            await self._run()
        except (ShellError, OSError) as problem:
            self._problem, self._phase = str(problem), "Failed"
            self.changed.set()

    async def _run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        await self.network.open()
        for volume in self.pod["spec"].get("volumes") or []:
            while not await self._fill(volume):  # noqa: ASYNC110 - of what other people create
                await asyncio.sleep(WAITS_S)
        for container in self._init:
            await container.live(once=True)
        self._initialized, self._phase = True, "Running"
        self.changed.set()
        renewing = asyncio.create_task(self._renew())
        try:
            codes = await asyncio.gather(*(container.live() for container in self._containers))
        finally:
            renewing.cancel()
        self._phase = "Failed" if any(codes) else "Succeeded"
        self.changed.set()

    async def _fill(self, volume: Object) -> bool:
        """Make a volume, or bring its files up to date; returns whether it is there."""
        name = volume["name"]
        folder = self.folder / "volumes" / name
        try:
            if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
                folder = self._claims / self.pod["metadata"]["namespace"] / claim
                if not folder.is_dir():
                    return False
            elif "hostPath" in volume:
                folder = Path(volume["hostPath"]["path"])
            elif (files := await self.files.content(volume)) is None:
                folder.mkdir(parents=True, exist_ok=True)
            else:
                publish(folder, files)
        except NotYetError:
            return False
        except FAILURES:
            return name in self.volumes
        self.volumes[name] = folder
        return True

    async def _renew(self) -> None:
        """Mounted Secrets and ConfigMaps follow theirs."""
        while True:
            await asyncio.sleep(VOLUMES_RENEWED_S)
            for volume in self.pod["spec"].get("volumes") or []:
                await self._fill(volume)

    async def _report(self) -> None:
        """Write the status whenever it has changed, and from time to time."""
        while True:
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait(), SAID_AGAIN_S)
            self.changed.clear()
            status = pod_status(
                self.pod.get("status") or {},
                [container.state for container in self._containers],
                [container.state for container in self._init],
                phase=self._phase,
                initialized=self._initialized,
                address=self.network.address,
                node_address=self._node_address,
                since=self._since,
                problem=self._problem,
            )
            if status == self.pod.get("status"):
                continue
            try:
                written = await self._api.call("PATCH", f"{self.where}/status", {"status": status}, content=MERGE)
                self.pod = {**self.pod, "status": written["status"]}
            except ApiError as error:
                if error.status == 404:
                    return
                self.changed.set()
                await asyncio.sleep(WAITS_S)
            except FAILURES:
                self.changed.set()
                await asyncio.sleep(WAITS_S)
