"""The controller on a real control plane, with its own rights: resources become pods of processes and models that answer."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import api_contract
import numpy as np
import pytest
import pytest_asyncio
from conftest import until
from serving_kit import PROGRAM, images, write_model

from modelmesh.client import AsyncClient
from modelmesh.kubernetes.adapters.api import Access, HttpApi
from modelmesh.testing.controlplane.api import Api, path
from modelmesh.testing.controlplane.plane import TOKEN, ControlPlane
from modelmesh.testing.kubelet import Node

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]
OWN, MODELS = "modelmesh-serving", "models"
PODS = path("v1", "pods", MODELS)
SERVICES = path("serving.kserve.io/v1beta1", "inferenceservices", MODELS)
METRICS_PORT, HEALTH_PORT = 18080, 18081


def inference_service(name: str, uri: str, **model: Any) -> str:
    spec = {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storageUri": uri, **model}}}
    metadata = {
        "name": name,
        "namespace": MODELS,
        "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"},
    }
    return json.dumps(
        {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata, "spec": spec}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(plane: ControlPlane, api: Api, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    for name in ("first", "second"):
        write_model(folder / "claims" / MODELS / "files" / f"{name}.onnx")
    async with Node(api, images(folder / "images"), folder=folder, name="controlled", subnet="10.88.7") as running:
        yield running
    await plane.kubectl("delete", "node", "controlled")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def installed(
    plane: ControlPlane, api: Api, serving: None, node: Node, tmp_path_factory
) -> AsyncIterator[Access]:
    """The controller's rights, a runtime, and a namespace with a claim; and the controller's access."""
    for namespace in (OWN, MODELS):
        await plane.kubectl("create", "namespace", namespace)
    await plane.kubectl("label", "namespace", MODELS, "modelmesh-enabled=true")
    deploy = ROOT / "deploy" / "kubernetes" / "serving" / "controller" / "roles.yaml"
    # Bindings name accounts without a namespace, which kustomize fills in; here it is done by hand.
    text = re.sub(r"(kind: ServiceAccount\n +)name: (\S+)", rf"\1name: \2\n    namespace: {OWN}", deploy.read_text())
    await plane.kubectl("-n", OWN, "create", "serviceaccount", "modelmesh-controller")
    await plane.kubectl("-n", OWN, "apply", "-f", "-", given=text)
    connection = json.dumps({"endpoints": plane.store, "root_prefix": "controlled"})
    await plane.kubectl(
        "-n", OWN, "create", "secret", "generic", "model-serving-etcd", f"--from-literal=etcd_connection={connection}"
    )
    storage = json.dumps({"type": "pvc", "name": "files"})
    await plane.kubectl(
        "-n", MODELS, "create", "secret", "generic", "storage-config", f"--from-literal=files={storage}"
    )
    config = "podsPerRuntime: 1\nmetrics: {scheme: http}\nscaleToZero: {gracePeriodSeconds: 5}\n"
    await plane.kubectl(
        "-n", OWN, "create", "configmap", "model-serving-config", f"--from-literal=config.yaml={config}"
    )
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "files"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": {"storage": "1Mi"},
            "hostPath": {"path": "/"},
            "claimRef": {"namespace": MODELS, "name": "files"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "files"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": "1Mi"}},
            "volumeName": "files",
            "storageClassName": "",
        },
    }
    await api.create(path("v1", "persistentvolumes"), volume)
    await api.create(path("v1", "persistentvolumeclaims", MODELS), claim)
    runtime = (ROOT / "src" / "modelmesh" / "instance" / "runtimes" / "modelmesh-1.x.yaml").read_text()
    await plane.kubectl("apply", "-f", "-", given=runtime)
    folder = tmp_path_factory.mktemp("access")
    token, authority = folder / "token", folder / "ca.crt"
    token.write_text(await plane.kubectl("-n", OWN, "create", "token", "modelmesh-controller", "--duration=1h"))
    authority.write_bytes(plane.authority)
    yield Access(plane.url, token, authority)
    await plane.kubectl("delete", "namespace", OWN, MODELS, "--wait=false")
    await plane.kubectl("delete", "clusterservingruntime", "modelmesh-1.x")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def administrator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Access]:
    """The administrator's access, and a namespace for the contract."""
    folder = tmp_path_factory.mktemp("administrator")
    token, authority = folder / "token", folder / "ca.crt"
    token.write_text(TOKEN)
    authority.write_bytes(plane.authority)
    await plane.kubectl("create", "namespace", api_contract.NAMESPACE)
    yield Access(plane.url, token, authority)
    await plane.kubectl("delete", "namespace", api_contract.NAMESPACE, "--wait=false")


@asynccontextmanager
async def controller(access: Access, name: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`modelmesh controller` as a process; its log is shown if the test fails."""
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(str(PROGRAM), "controller", "--server", access.server),
            *("--token-file", str(access.token), "--ca-file", str(access.authority)),
            *("--metrics-addr", f"127.0.0.1:{METRICS_PORT}", "--health-probe-bind-address", f"127.0.0.1:{HEALTH_PORT}"),
            env={**os.environ, "NAMESPACE": OWN, "POD_NAME": name},
            stdout=file,
            stderr=file,
        )
        try:
            yield process
        except BaseException:
            print(log.read_text()[-6000:], file=sys.stderr)  # noqa: T201 - pytest shows it
            raise
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.wait(), 20)


async def model_state(api: Api, name: str) -> tuple[str, str, str]:
    item = await api.call("GET", f"{SERVICES}/{name}")
    model = (item.get("status") or {}).get("modelStatus") or {}
    states = model.get("states") or {}
    return states.get("activeModelState", ""), states.get("targetModelState", ""), model.get("transitionStatus", "")


async def infer(api: Api, name: str) -> list[list[float]]:
    conditions = {
        pod["status"]["podIP"]: {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
        for pod in await api.items(PODS)
    }
    address = next(address for address, of in conditions.items() if of.get("Ready") == "True")
    async with AsyncClient(f"{address}:8033") as client:
        answer = await client.infer(name, {"x": np.array([[1.0, 2.0]], np.float32)}, vmodel=True)
    return answer["y"].tolist()


async def metric(name: str) -> dict[str, float]:
    """A metric of the controller, by its labels."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{METRICS_PORT}/metrics") as response:
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return {line.rpartition(" ")[0].removeprefix(name): float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize("case", api_contract.CASES, ids=lambda case: case.__name__)
async def test_the_client_keeps_its_contract_with_a_real_api_server(administrator: Access, case: Any) -> None:
    async with HttpApi(administrator) as client:
        await case(client)


async def test_a_model_is_served_updated_and_removed(
    plane: ControlPlane, api: Api, node: Node, installed: Access, tmp_path: Path
) -> None:
    async with controller(installed, "one", tmp_path):
        await plane.kubectl("apply", "-f", "-", given=inference_service("adder", "pvc://files/first.onnx"))

        async def loaded() -> bool:
            return await model_state(api, "adder") == ("Loaded", "", "UpToDate")

        async def why() -> str:
            return await plane.kubectl("-n", MODELS, "get", "isvc,csr,deploy,pods,events", "-o", "wide")

        await until(loaded, "the model was not loaded", within_s=120, why=why)
        assert await infer(api, "adder") == [[2.0, 3.0]]
        printed = await plane.kubectl("-n", MODELS, "get", "isvc", "adder")
        assert "Loaded" in printed
        assert "True" in printed

        # An update serves without a gap; a bad one leaves what is there.
        await plane.kubectl("apply", "-f", "-", given=inference_service("adder", "pvc://files/second.onnx"))
        first = (await api.call("GET", f"{SERVICES}/adder"))["metadata"]["generation"]

        async def moved() -> bool:
            item = await api.call("GET", f"{SERVICES}/adder")
            return item["status"].get("observedGeneration") == first and await loaded()

        await until(moved, "the model was not moved", within_s=60, why=why)
        await plane.kubectl("apply", "-f", "-", given=inference_service("adder", "pvc://files/nothing.onnx"))

        async def blocked() -> bool:
            return await model_state(api, "adder") == ("Loaded", "FailedToLoad", "BlockedByFailedLoad")

        await until(blocked, "a bad update was not said", within_s=60, why=why)
        assert await infer(api, "adder") == [[2.0, 3.0]]
        described = await plane.kubectl("-n", MODELS, "describe", "isvc", "adder")
        assert "UpdateBlocked" in described
        assert "ModelLoadFailed" in described
        await plane.kubectl("apply", "-f", "-", given=inference_service("adder", "pvc://files/first.onnx"))
        await until(loaded, "the model was not mended", within_s=60, why=why)


async def test_a_controller_that_is_killed_is_followed_and_nothing_is_written_again(
    plane: ControlPlane, api: Api, installed: Access, tmp_path: Path
) -> None:
    async with controller(installed, "two", tmp_path) as process:

        async def works() -> bool:
            try:
                return (await metric("modelmesh_controller_mesh_synced")).get(f'{{namespace="{MODELS}"}}') == 1.0
            except (OSError, aiohttp.ClientError):
                return False

        await until(works, "the controller did not follow", within_s=60)
        process.kill()
        await process.wait()
    began = time.monotonic()
    async with controller(installed, "three", tmp_path):
        await until(works, "the controller did not follow", within_s=60)
        assert time.monotonic() - began < 40

        async def quiet() -> bool:
            return set((await metric("modelmesh_controller_waiting")).values()) == {0.0}

        await until(quiet, "it did not come to an end")
        assert set((await metric("modelmesh_controller_writes_total")).values()) == {0.0}
        # The API server is restarted under it, and changes are seen all the same.
        await plane.restart_api_server()
        await plane.kubectl("apply", "-f", "-", given=inference_service("second", "pvc://files/second.onnx"))

        async def loaded() -> bool:
            return (await model_state(api, "second"))[0] == "Loaded"

        await until(loaded, "the model was not loaded after a restart of the API server", within_s=90)
        for name in ("adder", "second"):
            await plane.kubectl("-n", MODELS, "delete", "isvc", name)

        async def no_pods() -> bool:
            return await api.items(PODS) == []

        await until(no_pods, "pods that no model needs stayed", within_s=90)


async def test_a_revision_from_before_a_restart_is_gone(plane: ControlPlane, administrator: Access) -> None:
    async with HttpApi(administrator) as client:
        await api_contract.a_revision_that_is_no_longer_kept_is_gone(client, plane.restart_api_server)
