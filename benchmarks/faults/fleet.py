"""Three instances with echo runtimes and a real etcd, and what scenarios ask of them."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from benchmarks.faults.shim import Shim
from google.protobuf.message import Message

from modelmesh._proto import admin_pb2, model_mesh_pb2
from modelmesh.adapters.store import open_store
from modelmesh.control.view.keys import Keys
from modelmesh.instance.local_cluster import SERVICE, LocalCluster, LocalInstance, free_port
from modelmesh.policy.failure import LOSSES, MOST_LOSSES
from modelmesh.ports import Delete, Store, Transaction
from modelmesh.testing.etcd import FaultyEtcd
from modelmesh.values.ids import ModelId
from modelmesh.values.records import FailureRecord

ROOT = Path(__file__).parents[2]
ECHO = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "echo-runtime"
LOAD = ECHO.with_name("load")
KEYS = Keys(root="", prefix="tas-runtime", service=SERVICE)
FAR = "127.0.0.2"
"""Where the shim listens for what instances say to each other; another address of this machine's loopback."""


@dataclass
class Fleet:
    """A running cluster."""

    cluster: LocalCluster
    store: Store
    shim: Shim | None = None
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    @property
    def instances(self) -> list[LocalInstance]:
        """All instances, running or not."""
        return self.cluster.instances

    @property
    def endpoints(self) -> list[str]:
        """Serving endpoints of all instances."""
        return [instance.endpoint for instance in self.instances]

    @property
    def etcd(self) -> FaultyEtcd:
        """The store's process."""
        assert isinstance(self.cluster.etcd, FaultyEtcd)
        return self.cluster.etcd

    async def call(self, number: int, method: str, request: Message, answer: type[Message]) -> Any:
        """A management call to an instance."""
        endpoint = self.endpoints[number]
        channel = self.channels.setdefault(endpoint, grpc.aio.insecure_channel(endpoint))
        unary = channel.unary_unary(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return await unary(request, timeout=30, wait_for_ready=True)

    async def register(self, models: list[str]) -> None:
        """Register and load models, several at a time."""
        todo = iter(models)

        async def work() -> None:
            for number, model in enumerate(todo):
                request = model_mesh_pb2.RegisterModelRequest(
                    modelId=model, modelInfo=model_mesh_pb2.ModelInfo(type="echo"), loadNow=True, sync=True
                )
                status = await self.call(
                    number % 3, "mmesh.ModelMesh/registerModel", request, model_mesh_pb2.ModelStatusInfo
                )
                assert status.status == model_mesh_pb2.ModelStatusInfo.LOADED, status

        await asyncio.gather(*(work() for _ in range(8)))

    async def copies(self) -> dict[str, list[str]]:
        """Holders of each model, as the store says."""
        found: dict[str, list[str]] = {}
        for item in (await self.store.range(KEYS.copies)).items:
            parsed: Any = KEYS.parse(item.key)
            found.setdefault(parsed.model, []).append(parsed.instance)
        return found

    async def failed_models(self) -> list[str]:
        """Models with a remembered failure. The first loss of a runtime under a model's calls is remembered, and is none yet."""
        found = []
        for item in (await self.store.range(KEYS.failures)).items:
            record = FailureRecord.decode(item.value)
            if record.kind not in LOSSES or record.count >= MOST_LOSSES:
                parsed: Any = KEYS.parse(item.key)
                found.append(f"{parsed.model}: {record.message}")
        return found

    async def empty_store(self) -> None:
        """Delete everything, the store's identity included."""
        await self.store.transact(Transaction(compares=(), then=(Delete("", prefix=True),)))

    def loads(self) -> int:
        """Loads that instances report in their logs."""
        total = 0
        for instance in self.instances:
            log = self.cluster.logs / f"{instance.name}.log"
            total += sum(" loaded " in line for line in log.read_text(errors="replace").splitlines())
        return total

    def words(self, number: int) -> str:
        """An instance's log."""
        return (self.cluster.logs / f"{self.instances[number].name}.log").read_text(errors="replace")

    async def holders(self, model: str) -> list[str]:
        """Instances with a ready copy of a model, as an instance sees them."""
        request = model_mesh_pb2.GetStatusRequest(modelId=model)
        info = await self.call(0, "mmesh.ModelMesh/getModelStatus", request, model_mesh_pb2.ModelStatusInfo)
        return [copy.location for copy in info.modelCopyInfos if copy.copyStatus == info.LOADED]

    async def members(self, number: int) -> int:
        """How many instances one of them sees."""
        answer = await self.call(
            number,
            "modelmesh.v1.Admin/ListInstances",
            admin_pb2.ListInstancesRequest(),
            admin_pb2.ListInstancesResponse,
        )
        return len(answer.instances)

    def key(self, model: str) -> str:
        """The registry key of a model."""
        return KEYS.model(ModelId(model))


@asynccontextmanager
async def running(*, separable: bool = False) -> AsyncIterator[Fleet]:
    """Start three instances; `separable`: what they say to each other and to etcd passes through a shim."""
    with tempfile.TemporaryDirectory(prefix="modelmesh-faults-", dir="/dev/shm") as folder:
        async with contextlib.AsyncExitStack() as stack:
            shim: Shim | None = None
            ports = [free_port() for _ in range(3)]
            etcd = FaultyEtcd(Path(folder) / "etcd", durable=False)
            stack.callback(etcd.kill)

            def own(number: int) -> dict[str, str]:
                environment = {"WATSON_SERVICE_PORT": str(ports[number - 1])}
                if separable:
                    environment |= {
                        "WATSON_SERVICE_ADDRESS": FAR,
                        "KV_STORE": f"etcd:http://{FAR}:{etcd.port}",
                    }
                return environment

            cluster = LocalCluster(
                3,
                lambda _, listen: [str(ECHO), "--listen", listen, "--strict"],
                folder=Path(folder),
                environment={"SHUTDOWN_TIMEOUT_MS": "30000"},
                own_environment=own,
                etcd=etcd,
            )
            if separable:

                def pids() -> dict[str, int]:
                    return {instance.name: instance.mesh.pid for instance in cluster.instances if instance.mesh}

                shim = Shim(pids)
                etcd.start()
                await shim.forward("etcd", FAR, etcd.port, etcd.port)
                for number, port in enumerate(ports, 1):
                    await shim.forward(f"instance-{number}", FAR, port, port)
                stack.push_async_callback(shim.close)
            stack.push_async_callback(cluster.stop)
            await cluster.start()
            store = await open_store(f"etcd:{etcd.endpoint}")
            stack.push_async_callback(store.close)
            fleet = Fleet(cluster, store, shim)
            yield fleet
            for channel in fleet.channels.values():
                await channel.close()


async def generator(*arguments: str) -> dict[str, Any]:
    """Run the load generator; returns what it prints."""
    process = await asyncio.create_subprocess_exec(
        str(LOAD), *arguments, stdout=asyncio.subprocess.PIPE, stderr=sys.stderr
    )
    output, _ = await process.communicate()
    result: dict[str, Any] = json.loads(output)
    return result
