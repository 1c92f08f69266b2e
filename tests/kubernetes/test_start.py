"""The controller as it runs in a pod: over HTTP to an API server in memory, by gRPC to a mesh, with probes and metrics."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import aiohttp
import pytest

from modelmesh.adapters.clock import SystemClock
from modelmesh.kubernetes.adapters.api import Access
from modelmesh.kubernetes.kinds import DEPLOYMENT, LEASE, NAMESPACE, PREDICTOR, SERVICE, SERVING_RUNTIME
from modelmesh.kubernetes.loop.leader import LOCK
from modelmesh.kubernetes.loop.world import World
from modelmesh.kubernetes.ports import MeshError
from modelmesh.kubernetes.settings import Settings
from modelmesh.kubernetes.start import Program, Running, mesh_tls
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.kubernetes import MemoryApi
from modelmesh.testing.kubernetes_cluster import OWN, KubernetesCluster
from modelmesh.testing.kubernetes_http import serve_api

WAIT_S = 20


@asynccontextmanager
async def running(api: MemoryApi, *, elect: bool = True, settings: Settings | None = None) -> AsyncIterator[Running]:
    async with serve_api(api) as url:
        program = Program(
            Access(url),
            settings or Settings(OWN),
            "pod-1",
            elect=elect,
            metrics=("127.0.0.1", 0),
            health=("127.0.0.1", 0),
            scaler=("127.0.0.1", 0),
            owner_deployment="controller",
        )
        one = Running(program, clock=SystemClock(), rng=Random(1), log=lambda *_, **__: None)
        task = asyncio.ensure_future(one.run())
        try:
            yield one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def memory() -> MemoryApi:
    api = MemoryApi(SystemClock())
    api.put(NAMESPACE, {"metadata": {"name": OWN}})
    return api


async def until(condition) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def test_it_leads_applies_and_says_so() -> None:
    api = memory()
    async with running(api) as one:
        await until(lambda: api.get(SERVICE, "modelmesh-serving", OWN) is not None)
        metrics_port, health_port = one.ports
        assert (await get(health_port, "/healthz"))[0] == 200
        assert (await get(health_port, "/readyz"))[0] == 200
        assert (await get(health_port, "/other"))[0] == 404
        status, text = await get(metrics_port, "/metrics")
        assert status == 200
        assert "modelmesh_controller_leader 1.0" in text
        assert 'modelmesh_controller_api_requests_total{verb="APPLY"}' in text
        assert "process_resident_memory_bytes" in text
        assert api.get(LEASE, LOCK, OWN)["spec"]["holderIdentity"] == "pod-1"
    assert api.get(LEASE, LOCK, OWN)["spec"]["holderIdentity"] == ""


async def test_one_that_waits_for_the_lease_is_ready_and_does_nothing() -> None:
    api = memory()
    spec = {"holderIdentity": "another", "leaseDurationSeconds": 3600}
    api.put(LEASE, {"metadata": {"name": LOCK, "namespace": OWN}, "spec": spec})
    async with running(api) as one:
        await until(lambda: any(request.kind == "Lease" for request in api.requests))
        metrics_port, health_port = one.ports
        assert (await get(health_port, "/readyz"))[0] == 200
        assert "modelmesh_controller_leader 0.0" in (await get(metrics_port, "/metrics"))[1]
        assert {request.kind for request in api.requests} == {"Lease"}


async def test_in_namespace_scope_its_deployment_owns_what_it_makes() -> None:
    api = memory()
    controller = api.put(DEPLOYMENT, {"metadata": {"name": "controller", "namespace": OWN}, "spec": {"replicas": 1}})
    async with running(api, elect=False, settings=Settings(OWN, namespace_scope=True)):
        await until(lambda: api.get(SERVICE, "modelmesh-serving", OWN) is not None)
    owner = api.get(SERVICE, "modelmesh-serving", OWN)["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("Deployment", controller["metadata"]["uid"])


async def test_a_mesh_that_cannot_be_reached_is_no_reason_to_stop() -> None:
    api = memory()
    containers = [{"name": "server", "image": "server:1"}]
    spec = {
        "supportedModelFormats": [{"name": "fake", "autoSelect": True}],
        "multiModel": True,
        "grpcEndpoint": "port:8085",
        "containers": containers,
    }
    api.put(SERVING_RUNTIME, {"metadata": {"name": "r", "namespace": OWN}, "spec": spec})
    api.put(
        PREDICTOR,
        {
            "metadata": {"name": "m", "namespace": OWN},
            "spec": {"modelType": {"name": "fake"}, "storage": {"path": "p"}},
        },
    )
    async with running(api, elect=False):
        await until(lambda: (api.get(PREDICTOR, "m", OWN).get("status") or {}).get("lastFailureInfo") is not None)
        await until(lambda: api.get(DEPLOYMENT, "modelmesh-serving-r", OWN) is not None)
    assert api.get(PREDICTOR, "m", OWN)["status"]["lastFailureInfo"]["reason"] == "RuntimeUnhealthy"


def test_the_material_of_connections_is_that_of_the_secret_as_it_is_now() -> None:
    async def story() -> None:
        k = KubernetesCluster()
        k.configure("tls: {secretName: mesh-tls}")
        running = k.start()
        await asyncio.sleep(2)
        world: World = running.world
        with pytest.raises(MeshError, match="mesh-tls is not in"):
            mesh_tls(world, OWN)
        k.secret("mesh-tls", **{"tls.crt": "CERT", "tls.key": "KEY", "ca.crt": "CA"})
        await asyncio.sleep(1)
        found = mesh_tls(world, OWN)
        assert found is not None
        assert (found.certificate, found.key, found.authority) == (b"CERT", b"KEY", f"modelmesh-serving.{OWN}")
        assert b"CA" in found.trusted
        k.secret("mesh-tls", **{"tls.crt": "CERT2", "tls.key": "KEY2"})
        await asyncio.sleep(1)
        again = mesh_tls(world, OWN)
        assert again is not None
        assert again.certificate == b"CERT2"
        k.configure("")
        await asyncio.sleep(1)
        assert mesh_tls(world, OWN) is None
        await k.stop()

    run_virtual(story())
