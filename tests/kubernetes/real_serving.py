"""Rendered runtimes become real instances, runtimes and pullers, which load a model of a manifest and answer calls."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
from conftest import until
from golden import configured, shipped
from serving_kit import PROGRAM, images, write_model

from modelmesh.client import AsyncClient
from modelmesh.kubernetes.render import render_namespace, render_runtime
from modelmesh.testing.controlplane.api import Api, path
from modelmesh.testing.controlplane.plane import ControlPlane
from modelmesh.testing.kubelet import Node

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]
PODS = path("v1", "pods", "serve")

SERVICE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: adder, namespace: serve, annotations: {serving.kserve.io/deploymentMode: ModelMesh}}
spec:
  predictor:
    model: {modelFormat: {name: onnx}, runtime: modelmesh-1.x, storageUri: "pvc://models/adder.onnx"}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(plane: ControlPlane, api: Api, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    write_model(folder / "claims" / "serve" / "models" / "adder.onnx")
    async with Node(api, images(folder / "images"), folder=folder, name="serve", subnet="10.88.3") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pods(plane: ControlPlane, api: Api, node: Node) -> list[dict[str, Any]]:
    """Two ready pods of the built-in runtime."""
    await plane.kubectl("create", "namespace", "serve")
    config, runtime = configured("metrics: {scheme: http}"), shipped("modelmesh-1.x")
    connection = json.dumps({"endpoints": plane.store, "root_prefix": "test"}).encode()
    objects = [
        *render_namespace(
            "serve",
            config,
            [runtime],
            controller="modelmesh-serving",
            store={"etcd_connection": base64.b64encode(connection).decode()},
        ),
        *render_runtime(runtime, config, namespace="serve", replicas=2, claims=["models"]),
    ]
    await plane.kubectl("apply", "-f", "-", given="\n---\n".join(json.dumps(one) for one in objects))
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": "1Mi"}},
            "volumeName": "models",
        },
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": {"storage": "1Mi"},
            "hostPath": {"path": "/"},
            "claimRef": {"namespace": "serve", "name": "models"},
        },
    }
    await api.create(path("v1", "persistentvolumes"), volume)
    await api.create(path("v1", "persistentvolumeclaims", "serve"), claim)

    async def ready() -> bool:
        conditions = [one for pod in await api.items(PODS) for one in pod.get("status", {}).get("conditions", [])]
        return [one["status"] for one in conditions if one["type"] == "Ready"] == ["True", "True"]

    async def logs() -> str:
        """Of the containers that are not ready: why they are not."""
        return "\n".join(
            f"{status['name']}: {status['state']} {node.log(pod, status['name'])[-2000:]}"
            for pod in await api.items(PODS)
            for status in pod["status"].get("containerStatuses", [])
            if not status["ready"]
        )

    await until(ready, "the pods did not become ready", within_s=90, why=logs)
    return await api.items(PODS)


async def test_a_model_of_a_manifest_is_loaded_from_a_claim_and_called_by_grpc_and_rest(
    pods: list[dict[str, Any]], tmp_path: Path
) -> None:
    first, second = (pod["status"]["podIP"] for pod in pods)
    manifest = tmp_path / "model.yaml"
    manifest.write_text(SERVICE)
    applied = await asyncio.create_subprocess_exec(
        *(str(PROGRAM), "apply", "-f", str(manifest), "--address", f"{first}:8033", "--load", "--wait"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(applied.communicate(), 60)
    assert applied.returncode == 0, printed.decode()

    # Through the pod that need not have it: instances find each other over the network of pods.
    async with AsyncClient(f"{second}:8033") as client:
        answer = await client.infer("adder", {"x": np.array([[1.0, 2.0]], np.float32)}, vmodel=True)
    assert answer["y"].tolist() == [[2.0, 3.0]]

    request = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{second}:8008/v2/models/adder/infer", json=request) as response,
    ):
        body = await response.json()
    assert response.status == 200, body
    assert body["outputs"][0]["data"] == [2.0, 3.0]


async def test_instances_have_metrics_at_the_port_that_pods_announce(pods: list[dict[str, Any]]) -> None:
    (first, _) = pods
    port = first["metadata"]["annotations"]["prometheus.io/port"]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{first['status']['podIP']}:{port}/metrics") as response,
    ):
        assert "modelmesh_instance_capacity_bytes" in await response.text()


async def test_a_pod_that_is_deleted_drains_and_ends_by_its_hooks(
    api: Api, node: Node, pods: list[dict[str, Any]]
) -> None:
    """Its server ends after the instance: the instance's hook waits until its models are elsewhere."""
    (first, _) = pods
    await api.delete(f"{PODS}/{first['metadata']['name']}")

    async def gone() -> bool:
        return first["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in await api.items(PODS)}

    await until(gone, "the pod did not end", within_s=60)
    assert "drain" in node.log(first, "mm")
