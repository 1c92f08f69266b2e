"""The cluster around the controller that is measured: an API server in memory over HTTP, and meshes over gRPC.

Both are no part of what is measured, and run in a process of their own. A mesh answers WatchStatus and SetVModels as
instances do, and every model in it is loaded at once.
"""

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as wire
from modelmesh.adapters.clock import SystemClock
from modelmesh.kubernetes import kinds
from modelmesh.testing.kubernetes import MemoryApi
from modelmesh.testing.kubernetes_http import serve_api

OWN = "modelmesh-serving"
PART = 100
SINGLES = 100
"""Models that are applied one after the other."""


class LoadedMesh:
    """A mesh whose models are loaded as soon as they are set."""

    def __init__(self) -> None:
        self._vmodels: dict[str, wire.VModelStatusInfo] = {}
        self._readers: list[asyncio.Queue[str]] = []
        self._revision = 1
        self.set = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """Of the two methods."""
        return grpc.method_handlers_generic_handler(
            "modelmesh.v1.Admin",
            {
                "WatchStatus": grpc.stream_stream_rpc_method_handler(
                    self._watch,
                    request_deserializer=pb.WatchStatusRequest.FromString,
                    response_serializer=pb.StatusUpdate.SerializeToString,
                ),
                "SetVModels": grpc.unary_unary_rpc_method_handler(
                    self._set,
                    request_deserializer=pb.SetVModelsRequest.FromString,
                    response_serializer=pb.SetVModelsResponse.SerializeToString,
                ),
            },
        )

    async def _watch(self, requests: AsyncIterator[Any], _: Any) -> AsyncIterator[pb.StatusUpdate]:
        await anext(aiter(requests))
        changes: asyncio.Queue[str] = asyncio.Queue()
        self._readers.append(changes)
        names = list(self._vmodels)
        for start in range(0, len(names), PART):
            vmodels = [pb.VModelStatus(id=name, status=self._vmodels[name]) for name in names[start : start + PART]]
            yield pb.StatusUpdate(part=pb.StatusUpdate.SNAPSHOT, vmodels=vmodels)
        yield pb.StatusUpdate(part=pb.StatusUpdate.SNAPSHOT_END, revision=self._revision)
        while True:
            name = await changes.get()
            self._revision += 1
            yield pb.StatusUpdate(
                revision=self._revision, vmodels=[pb.VModelStatus(id=name, status=self._vmodels[name])]
            )

    async def _set(self, request: pb.SetVModelsRequest, _: Any) -> pb.SetVModelsResponse:
        results = []
        for one in request.requests:
            self.set += 1
            copy = wire.ModelStatusInfo.ModelCopyInfo(location="i", copyStatus=wire.ModelStatusInfo.LOADED, time=1)
            status = wire.VModelStatusInfo(
                status=wire.VModelStatusInfo.DEFINED,
                activeModelId=one.targetModelId,
                targetModelId=one.targetModelId,
                owner=one.owner,
                activeModelStatus=wire.ModelStatusInfo(status=wire.ModelStatusInfo.LOADED, modelCopyInfos=[copy]),
            )
            self._vmodels[one.vModelId] = status
            results.append(pb.SetVModelResult(vmodel_id=one.vModelId, status=status))
        return pb.SetVModelsResponse(results=results)


def fill(api: MemoryApi, namespaces: int, models: int, ports: list[int]) -> None:
    """Namespaces with a Service's endpoints each, one runtime for all, and models shared out evenly."""
    api.absent.add("ServiceMonitor")
    connection = base64.b64encode(json.dumps({"endpoints": "http://etcd:2379", "root_prefix": "r"}).encode()).decode()
    api.put(kinds.NAMESPACE, {"metadata": {"name": OWN, "labels": {"modelmesh-enabled": "false"}}})
    secret = {"metadata": {"name": "model-serving-etcd", "namespace": OWN}, "data": {"etcd_connection": connection}}
    api.put(kinds.SECRET, secret)
    spec = {
        "supportedModelFormats": [{"name": "sklearn", "version": "1", "autoSelect": True}],
        "protocolVersions": ["grpc-v2"],
        "multiModel": True,
        "grpcEndpoint": "port:8085",
        "containers": [{"name": "server", "image": "server:1"}],
    }
    api.put(kinds.CLUSTER_RUNTIME, {"metadata": {"name": "server"}, "spec": spec})
    for number, port in zip(range(namespaces), ports, strict=True):
        name = f"team-{number:02}"
        api.put(kinds.NAMESPACE, {"metadata": {"name": name, "labels": {"modelmesh-enabled": "true"}}})
        labels = {"kubernetes.io/service-name": OWN, "modelmesh-service": OWN}
        endpoints = {
            "metadata": {"name": "slice", "namespace": name, "labels": labels},
            "ports": [{"name": "grpc", "port": port}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        }
        api.put(kinds.ENDPOINT_SLICE, endpoints)
    for number in range(models):
        model = {
            "modelFormat": {"name": "sklearn", "version": "1"},
            "storageUri": f"s3://bucket/models/{number}/model.joblib",
            "protocolVersion": "grpc-v2",
        }
        metadata = {
            "name": f"model-{number:05}",
            "namespace": f"team-{number % namespaces:02}",
            "labels": {"team": "a", "app.kubernetes.io/part-of": "benchmark"},
            "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"},
        }
        api.put(kinds.INFERENCE_SERVICE, {"metadata": metadata, "spec": {"predictor": {"model": model}}})


async def apply_each(api: MemoryApi, number: int) -> list[float]:
    """Apply models one after the other; seconds until each says that it is loaded."""
    spec = {
        "predictor": {"model": {"modelFormat": {"name": "sklearn", "version": "1"}, "storageUri": "s3://bucket/one"}}
    }
    annotations = {"serving.kserve.io/deploymentMode": "ModelMesh"}
    found = []
    for one in range(number):
        metadata = {"name": f"single-{one:03}", "namespace": "team-00", "annotations": annotations}
        began = time.monotonic()
        api.put(kinds.INFERENCE_SERVICE, {"metadata": metadata, "spec": spec})
        key = kinds.Key("team-00", metadata["name"])
        while not loaded(api._objects["InferenceService"][key].item):  # noqa: ASYNC110, SLF001 - as below
            await asyncio.sleep(0.002)  # the object is replaced with each write
        found.append(time.monotonic() - began)
    return found


def loaded(item: Any) -> bool:
    """Whether an InferenceService says so."""
    states = ((item.get("status") or {}).get("modelStatus") or {}).get("states") or {}
    return states.get("activeModelState") == "Loaded"


def right(api: MemoryApi) -> int:
    """How many InferenceServices say that they are loaded."""
    stored = api._objects["InferenceService"].values()  # noqa: SLF001 - 10,000 copies otherwise
    return sum(loaded(one.item) for one in stored)


async def main(folder: Path, namespaces: int, models: int) -> None:
    """Serve until killed; answers the words that come on standard input, each by a line of JSON."""
    meshes = [LoadedMesh() for _ in range(namespaces)]
    ports, servers = [], []
    for mesh in meshes:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((mesh.handler(),))
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        servers.append(server)  # one that nobody holds ends
    api = MemoryApi(SystemClock())
    fill(api, namespaces, models, ports)
    async with serve_api(api) as url:
        (folder / "url").write_text(url)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().strip():
            if line == "forget":
                api.requests.clear()
                for mesh in meshes:
                    mesh.set = 0
            singles = await apply_each(api, SINGLES) if line == "apply" else []
            verbs: dict[str, int] = {}
            for request in api.requests:
                if request.kind != kinds.LEASE.name:
                    verbs[request.verb] = verbs.get(request.verb, 0) + 1
            answer = {
                "right": right(api),
                "requests": verbs,
                "set": sum(mesh.set for mesh in meshes),
                "singles_s": singles,
            }
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
