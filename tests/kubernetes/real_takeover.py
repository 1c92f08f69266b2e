"""A namespace of the archived controller is taken over: no pod is replaced, no model loaded again, no call fails.

The Deployment is the archived controller's, by its description (`go_controller`), and written by its field manager. Its
pods run instances of ours, because those are what runs here; what the controller does does not depend on that.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import pytest
import pytest_asyncio
from cluster_kit import HOME, Cluster, is_ready, service, states
from conftest import until
from go_controller import deployment
from golden import configured, shipped
from serving_kit import PROGRAM, images, write_model

from modelmesh._proto import admin_pb2 as admin
from modelmesh.client import AsyncClient, ModelMeshError
from modelmesh.kubernetes.render import render_namespace
from modelmesh.testing.controlplane.api import Api, path
from modelmesh.testing.controlplane.plane import ControlPlane
from modelmesh.testing.kubelet import Image, Images, Node

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

OLD_IMAGES = """
podsPerRuntime: 2
metrics: {scheme: http}
modelMeshImage: {name: kserve/modelmesh}
storageHelperImage: {name: kserve/modelmesh-runtime-adapter}
"""
RUNTIME = "modelmesh-1.x"
NAME = f"modelmesh-serving-{RUNTIME}"
WHERE = {
    "Deployment": ("apps/v1", "deployments"),
    "Service": ("v1", "services"),
    "ConfigMap": ("v1", "configmaps"),
}


@dataclass
class Caller:
    """Calls a model all the time, and notes what failed."""

    address: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._call())
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _call(self) -> None:
        async with AsyncClient(f"{self.address}:8033") as client:
            while True:
                try:
                    answer = await client.infer("adder", {"x": np.array([[1.0, 2.0]], np.float32)}, vmodel=True)
                    assert answer["y"].tolist() == [[2.0, 3.0]]
                    self.answered += 1
                except ModelMeshError as error:
                    self.failed.append(str(error))
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(plane: ControlPlane, api: Api, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A namespace as the archived controller left it, with a loaded model. Ours is not installed yet."""
    folder = tmp_path_factory.mktemp("node")
    write_model(folder / "claims" / HOME / "models" / "adder.onnx")
    ours = images(folder / "images").table
    old = {f"kserve/{name}": image for name, image in ours.items()}
    proxy = {"kserve/rest-proxy:.*": Image(entrypoint=("sleep", "infinity"))}
    async with Node(api, Images({**ours, **old, **proxy}), folder=folder) as node:
        made = Cluster(plane, api, node, folder / "claims")
        await made.prepare(OLD_IMAGES)
        runtimes = Path(__file__).parents[2] / "src" / "modelmesh" / "instance" / "runtimes"
        await plane.kubectl("apply", "-f", str(runtimes / f"{RUNTIME}.yaml"))
        await _as_the_old_controller(made)
        await until(lambda: _ready(made, 2), "the old pods did not become ready", within_s=90)
        await _set_model(made, folder)
        yield made


async def _as_the_old_controller(cluster: Cluster) -> None:
    """Write its objects, as its program did: created by the field manager `manager`."""
    runtime, config = shipped(RUNTIME), configured(OLD_IMAGES)
    owner = await cluster.get("ClusterServingRuntime", RUNTIME)
    assert owner is not None
    body = deployment(runtime, config, namespace=HOME, replicas=2, claims=("models",))
    body["metadata"]["ownerReferences"] = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": RUNTIME,
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    shared = [
        one for one in render_namespace(HOME, config, [runtime], controller="modelmesh-serving") if one["kind"] in WHERE
    ]
    for one in (body, *shared):
        await cluster.api.create(path(*WHERE[one["kind"]], HOME), one, query={"fieldManager": "manager"})


async def _ready(cluster: Cluster, count: int) -> bool:
    return [is_ready(pod) for pod in await cluster.runtime_pods(RUNTIME)] == [True] * count


async def _set_model(cluster: Cluster, folder: Path) -> None:
    """What the old controller had asked of the mesh: the same vmodel, owner and id."""
    manifest = {"apiVersion": "serving.kserve.io/v1beta1", **service("adder", "adder.onnx")}
    (folder / "adder.json").write_text(json.dumps(manifest))
    await cluster.apply(service("adder", "adder.onnx"))
    pod, *_ = await cluster.runtime_pods(RUNTIME)
    words = (
        "apply",
        "-f",
        str(folder / "adder.json"),
        "--address",
        f"{pod['status']['podIP']}:8033",
        "--load",
        "--wait",
    )
    applied = await asyncio.create_subprocess_exec(str(PROGRAM), *words)
    assert await asyncio.wait_for(applied.wait(), 60) == 0


async def copies(cluster: Cluster) -> list[tuple[str, int]]:
    """Where the model is loaded, and since when."""
    pod, *_ = await cluster.runtime_pods(RUNTIME)
    async with grpc.aio.insecure_channel(f"{pod['status']['podIP']}:8033") as channel:
        listing = channel.unary_unary(
            "/modelmesh.v1.Admin/ListModels",
            request_serializer=admin.ListModelsRequest.SerializeToString,
            response_deserializer=admin.ListModelsResponse.FromString,
        )
        found = await listing(admin.ListModelsRequest(), timeout=10)
    return [(copy.instance_id, copy.since_ms) for model in found.models for copy in model.copies]


async def test_nothing_is_replaced_or_loaded_again_and_no_call_fails(cluster: Cluster) -> None:
    before = await cluster.get("Deployment", NAME)
    assert before is not None
    pods = await cluster.runtime_pods(RUNTIME)
    uids = {pod["metadata"]["uid"] for pod in pods}
    loaded = await copies(cluster)
    assert loaded
    async with Caller(pods[0]["status"]["podIP"]) as caller:
        await cluster.install()
        await cluster.until_status("InferenceService", "adder", lambda one: states(one) == ("Loaded", "", "UpToDate"))

        async def held_back() -> bool:
            status = await cluster.status("ClusterServingRuntime", RUNTIME)
            return "HeldBack" in json.dumps(status)

        await until(held_back, "the runtime does not say that its pods are held back", why=cluster.said_by_controller)
        calls = caller.answered

        async def called_more() -> bool:
            return caller.answered > calls + 20

        await until(called_more, "no more calls are answered")
    assert caller.failed == []
    after = await cluster.get("Deployment", NAME)
    assert after is not None
    assert after["spec"]["template"] == before["spec"]["template"]
    assert after["spec"]["replicas"] == 2
    assert {pod["metadata"]["uid"] for pod in await cluster.runtime_pods(RUNTIME)} == uids
    # The mesh may have added a copy because of the calls; those that were there are the same ones.
    assert set(loaded) <= set(await copies(cluster))


async def test_the_pods_are_replaced_when_the_operator_says_so(cluster: Cluster) -> None:
    old = {pod["metadata"]["uid"] for pod in await cluster.runtime_pods(RUNTIME)}
    await cluster.plane.kubectl("annotate", "clusterservingruntime", RUNTIME, "modelmesh.io/roll=true")

    async def replaced() -> bool:
        pods = await cluster.runtime_pods(RUNTIME)
        return len(pods) == 2 and all(is_ready(pod) and pod["metadata"]["uid"] not in old for pod in pods)

    await until(replaced, "the pods were not replaced", within_s=120, why=cluster.said_by_controller)
    new, *_ = await cluster.runtime_pods(RUNTIME)
    names: list[Any] = [container["name"] for container in new["spec"]["containers"]]
    assert names == ["modelmesh-runtime", "puller", "mm"]
    found = await cluster.get("Deployment", NAME)
    assert found is not None
    assert "rest-proxy" not in json.dumps(found["spec"])
    await cluster.until_status("InferenceService", "adder", lambda one: states(one)[0] == "Loaded")
