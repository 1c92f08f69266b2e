"""The process kubelet does what a kubelet does: pods of real Deployments, as processes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from conftest import until

from modelmesh.testing.controlplane.api import Api, ApiError, path
from modelmesh.testing.controlplane.plane import ControlPlane
from modelmesh.testing.kubelet import Image, Images, Node

pytestmark = pytest.mark.asyncio(loop_scope="session")
PODS = path("v1", "pods", "pods")

PROGRAM = """
import http.server, os, pathlib, signal, sys, threading
said = pathlib.Path("/shared/said")
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/prestop":
            said.open("a").write("prestop ")
        if self.path == "/die":
            os._exit(3)
        ready = self.path != "/ready" or not pathlib.Path("/config/broken").exists()
        self.send_response(200 if ready else 503); self.end_headers()
        self.wfile.write(" ".join([os.environ["WHO"], os.environ["MEMORY"], os.environ["BOTH"], pathlib.Path("/config/word").read_text()]).encode())
    def log_message(self, *_):
        pass
signal.signal(signal.SIGTERM, lambda *_: (said.open("a").write("term "), os._exit(0)))
print("listening", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Answer).serve_forever()
"""

DEPLOYMENT = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: words, namespace: pods}}
data: {{word: one}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: example, namespace: pods}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: example}}}}
  template:
    metadata: {{labels: {{app: example}}}}
    spec:
      terminationGracePeriodSeconds: 10
      initContainers:
        - name: before
          image: python:1
          args: [-c, "open('/shared/said', 'a').write('init ')"]
          volumeMounts: [{{name: shared, mountPath: /shared}}]
      containers:
        - name: main
          image: python:1
          args: [-c, {json.dumps(PROGRAM)}]
          resources: {{requests: {{memory: 64Mi}}}}
          env:
            - name: WHO
              valueFrom: {{fieldRef: {{fieldPath: "metadata.labels['app']"}}}}
            - name: MEMORY
              valueFrom: {{resourceFieldRef: {{resource: requests.memory, divisor: 1Mi}}}}
            - {{name: BOTH, value: $(WHO)-$$(WHO)}}
          readinessProbe: {{httpGet: {{path: /ready, port: web}}, periodSeconds: 1, failureThreshold: 1}}
          livenessProbe: {{exec: {{command: [test, -f, /shared/said]}}, periodSeconds: 1, failureThreshold: 1}}
          ports: [{{name: web, containerPort: 8000}}]
          lifecycle: {{preStop: {{httpGet: {{path: /prestop, port: web}}}}}}
          volumeMounts:
            - {{name: shared, mountPath: /shared}}
            - {{name: words, mountPath: /config, readOnly: true}}
      volumes:
        - {{name: shared, hostPath: {{path: SHARED}}}}
        - {{name: words, configMap: {{name: words}}}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(
    plane: ControlPlane, api: Api, tmp_path_factory: pytest.TempPathFactory, shared: Path
) -> AsyncIterator[Node]:
    images = Images({"python:.*": Image(entrypoint=("python3",))})
    folder = tmp_path_factory.mktemp("node")
    async with Node(api, images, folder=folder, name="pods", subnet="10.88.2") as running:
        await plane.kubectl("create", "namespace", "pods")
        text = DEPLOYMENT.replace("SHARED", str(shared))
        await plane.kubectl("apply", "-f", "-", given=text)
        yield running


async def the_pod(api: Api) -> dict[str, Any]:
    (pod,) = await api.items(PODS)
    return pod


async def ready(api: Api) -> bool:
    pods = await api.items(PODS)
    conditions = [one for pod in pods for one in pod.get("status", {}).get("conditions", []) if one["type"] == "Ready"]
    return [one["status"] for one in conditions] == ["True"]


async def asked(api: Api, where: str) -> str:
    """What the program answers, at the address of the pod."""
    import aiohttp

    address = (await the_pod(api))["status"]["podIP"]
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}:8000{where}") as answer:
        return await answer.text()


async def test_a_deployment_becomes_a_ready_pod_with_variables_fields_and_files(
    api: Api, node: Node, shared: Path
) -> None:
    await until(lambda: ready(api), "the pod did not become ready")
    assert await asked(api, "/") == "example 64 example-$(WHO) one"
    assert (shared / "said").read_text() == "init "
    assert node.log(await the_pod(api), "main") == "listening\n"


async def test_a_changed_config_map_reaches_the_pod_and_its_probe(plane: ControlPlane, api: Api, node: Node) -> None:
    await until(lambda: ready(api), "the pod did not become ready")
    words = path("v1", "configmaps", "pods", "words")
    await api.merge(words, {"data": {"word": "two", "broken": ""}})

    async def not_ready() -> bool:
        return not await ready(api)

    await until(not_ready, "the readiness probe did not fail")
    await api.merge(words, {"data": {"broken": None}})
    await until(lambda: ready(api), "the pod did not become ready again")
    assert (await asked(api, "/")).endswith("two")


async def test_a_container_that_dies_is_started_again(api: Api, node: Node) -> None:
    import aiohttp

    await until(lambda: ready(api), "the pod did not become ready")
    with pytest.raises(aiohttp.ClientError):
        await asked(api, "/die")

    async def restarted() -> bool:
        (container,) = (await the_pod(api))["status"]["containerStatuses"]
        return (
            container["restartCount"] == 1
            and container["lastState"]["terminated"]["exitCode"] == 3
            and container["ready"]
        )

    await until(restarted, "the container was not started again")


async def test_a_failed_liveness_probe_stops_the_container_by_its_hook(api: Api, node: Node, shared: Path) -> None:
    await until(lambda: ready(api), "the pod did not become ready")
    before = (await the_pod(api))["status"]["containerStatuses"][0]["restartCount"]
    (shared / "said").unlink()

    async def restarted() -> bool:
        (container,) = (await the_pod(api))["status"]["containerStatuses"]
        return container["restartCount"] > before and (shared / "said").exists()

    await until(restarted, "the container was not started again")
    assert (shared / "said").read_text().startswith("prestop term ")


async def test_a_deleted_pod_runs_its_hook_gets_sigterm_and_is_gone(api: Api, node: Node, shared: Path) -> None:
    await until(lambda: ready(api), "the pod did not become ready")
    old = await the_pod(api)
    (shared / "said").write_text("")
    await api.delete(path("v1", "pods", "pods", old["metadata"]["name"]))

    async def gone() -> bool:
        try:
            await api.get(path("v1", "pods", "pods", old["metadata"]["name"]))
        except ApiError as error:
            return error.status == 404
        return False

    await until(gone, "the pod is still there")
    # The pod in its place begins at any time.
    said = [word for word in (shared / "said").read_text().split() if word != "init"]
    assert said == ["prestop", "term"]


async def test_what_a_container_lacks_is_said_in_the_status(plane: ControlPlane, api: Api, node: Node) -> None:
    manifest = yaml.safe_load("""
        apiVersion: v1
        kind: Pod
        metadata: {name: lacking, namespace: pods}
        spec:
          containers: [{name: main, image: "unknown:1"}]
    """)
    await api.create(PODS, manifest)

    async def said() -> str:
        pod = await api.get(f"{PODS}/lacking")
        found: str = (
            pod["status"].get("containerStatuses", [{}])[0].get("state", {}).get("waiting", {}).get("message", "")
        )
        return found

    async def seen() -> bool:
        return await said() == "image unknown:1 is not in the table of images"

    await until(seen, "the status does not say it")
    await api.delete(f"{PODS}/lacking")
