"""Pods follow what models need: no pods without models, a grace period, and autoscalers. Source: spec 9.3 and 9.5."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from cluster_kit import CONFIG, HOME, Cluster, installed, is_ready, predictor, states
from conftest import until

from modelmesh.testing.controlplane.api import Api, path
from modelmesh.testing.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

RUNTIME = "modelmesh-1.x"
NAME = f"modelmesh-serving-{RUNTIME}"
EMPTY_SINCE = "modelmesh.io/empty-since"
METRIC = "modelmesh_controller_wanted_pods{"
COST = "controller.kubernetes.io/pod-deletion-cost"
HPA = "serving.kserve.io/autoscalerClass"
LONG = CONFIG.replace("gracePeriodSeconds: 2", "gracePeriodSeconds: 600")
SHORT = CONFIG.replace("gracePeriodSeconds: 2", "gracePeriodSeconds: 0")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(plane: ControlPlane, api: Api, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with installed(plane, api, tmp_path_factory.mktemp("cluster"), LONG) as made:
        yield made


async def until_deployment(cluster: Cluster, *, replicas: int, empty: bool | None = None) -> None:
    """Wait for the runtime's Deployment. `empty`: whether it notes that no model needs it."""

    async def met() -> bool:
        found = await cluster.get("Deployment", NAME)
        if found is None or found["spec"]["replicas"] != replicas:
            return False
        return empty is None or (EMPTY_SINCE in (found["metadata"].get("annotations") or {})) == empty

    async def why() -> str:
        return f"{await cluster.get('Deployment', NAME)} {await cluster.said_by_controller()}"

    await until(met, f"the Deployment has not {replicas} replicas (empty: {empty})", why=why)


async def until_autoscaler(cluster: Cluster, expected: dict[str, Any] | None) -> None:
    """Wait for the autoscaler's limits and metric; None: there is none."""

    async def shown() -> dict[str, Any] | None:
        found = await cluster.get("HorizontalPodAutoscaler", NAME)
        if found is None:
            return None
        resource = found["spec"]["metrics"][0]["resource"]
        return {
            "least": found["spec"]["minReplicas"],
            "most": found["spec"]["maxReplicas"],
            resource["name"]: resource["target"]["averageUtilization"],
        }

    async def met() -> bool:
        return await shown() == expected

    async def why() -> str:
        return f"{await shown()} {await cluster.said_by_controller()}"

    await until(met, f"the autoscaler is not {expected}", why=why)


async def annotate(cluster: Cluster, **values: str) -> None:
    """Annotations of the runtime; an empty value takes one away."""
    words = [
        f"serving.kserve.io/{name.replace('_', '-')}{'=' + value if value else '-'}" for name, value in values.items()
    ]
    await cluster.plane.kubectl("annotate", "--overwrite", "clusterservingruntime", RUNTIME, *words)


async def test_only_the_runtime_that_a_model_needs_has_pods(cluster: Cluster) -> None:
    await until_deployment(cluster, replicas=0)
    await cluster.apply(predictor("one", "adder.onnx"))
    await until_deployment(cluster, replicas=1, empty=False)
    await cluster.until_status("Predictor", "one", lambda status: states(status)[0] == "Loaded")
    for name in ("mlserver-1.x", "triton-2.x", "ovms-1.x", "torchserve-0.x"):
        other = await cluster.get("Deployment", f"modelmesh-serving-{name}")
        assert other is not None
        assert other["spec"]["replicas"] == 0


async def test_pods_stay_for_the_grace_period_and_a_new_model_keeps_them(cluster: Cluster) -> None:
    (pod,) = await cluster.runtime_pods(RUNTIME)
    await cluster.delete("Predictor", "one")
    await until_deployment(cluster, replicas=1, empty=True)
    await cluster.apply(predictor("one", "adder.onnx"))
    await until_deployment(cluster, replicas=1, empty=False)
    assert [one["metadata"]["uid"] for one in await cluster.runtime_pods(RUNTIME)] == [pod["metadata"]["uid"]]


async def test_f26_a_restarted_controller_keeps_to_the_grace_period(cluster: Cluster) -> None:
    await cluster.delete("Predictor", "one")
    await until_deployment(cluster, replicas=1, empty=True)
    before = await cluster.get("Deployment", NAME)
    assert before is not None
    (manager,) = await cluster.pods("control-plane=modelmesh-controller")
    await cluster.delete("Pod", manager["metadata"]["name"])

    async def again() -> bool:
        pods = await cluster.pods("control-plane=modelmesh-controller")
        return [pod["metadata"]["uid"] != manager["metadata"]["uid"] and is_ready(pod) for pod in pods] == [True]

    await until(again, "the controller did not come back", why=cluster.said_by_controller)
    # What it writes for a new configuration shows that it has looked at the runtime.
    await cluster.configure(LONG.replace("podsPerRuntime: 1", "podsPerRuntime: 2"))
    await until_deployment(cluster, replicas=2, empty=True)
    after = await cluster.get("Deployment", NAME)
    assert after is not None
    assert after["metadata"]["annotations"][EMPTY_SINCE] == before["metadata"]["annotations"][EMPTY_SINCE]
    await cluster.configure(LONG)
    await until_deployment(cluster, replicas=1, empty=True)


async def test_without_a_grace_period_pods_end_at_once(cluster: Cluster) -> None:
    await cluster.configure(SHORT)
    await until_deployment(cluster, replicas=0)


async def test_an_autoscaler_comes_and_goes_with_the_models(cluster: Cluster) -> None:
    await annotate(cluster, autoscalerClass="hpa")
    await until_autoscaler(cluster, None)
    await cluster.apply(predictor("one", "adder.onnx"))
    await until_autoscaler(cluster, {"least": 1, "most": 1, "cpu": 80})
    await until_deployment(cluster, replicas=1)
    await cluster.delete("Predictor", "one")
    await until_autoscaler(cluster, None)
    await until_deployment(cluster, replicas=0)


async def test_an_autoscaler_follows_its_annotations(cluster: Cluster) -> None:
    await cluster.apply(predictor("one", "adder.onnx"))
    await until_autoscaler(cluster, {"least": 1, "most": 1, "cpu": 80})
    await annotate(cluster, min_scale="2", max_scale="4", targetUtilizationPercentage="90", metrics="memory")
    await until_autoscaler(cluster, {"least": 2, "most": 4, "memory": 90})
    # The autoscaler itself raises the pods to its minimum; it needs no metrics for that.
    await until_deployment(cluster, replicas=2)
    await annotate(cluster, min_scale="", max_scale="", targetUtilizationPercentage="", metrics="")
    await until_autoscaler(cluster, {"least": 1, "most": 1, "cpu": 80})
    await until_deployment(cluster, replicas=1)


async def test_without_the_annotation_the_configuration_sets_the_pods(cluster: Cluster) -> None:
    await cluster.configure(SHORT.replace("podsPerRuntime: 1", "podsPerRuntime: 2"))
    await annotate(cluster, autoscalerClass="")
    await until_autoscaler(cluster, None)
    await until_deployment(cluster, replicas=2)


async def wanted_pods(cluster: Cluster) -> str:
    """The line of the controller's metrics that says how many pods the runtime needs."""
    (manager,) = await cluster.pods("control-plane=modelmesh-controller")
    url = f"http://{manager['status']['podIP']}:8080/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        lines = (await response.text()).splitlines()
    return next((line for line in lines if line.startswith(METRIC) and f'runtime="{RUNTIME}"' in line), "")


async def test_the_controller_sets_the_pods_and_says_which_is_cheap_to_empty(cluster: Cluster) -> None:
    await annotate(cluster, autoscalerClass="modelmesh", min_scale="2", max_scale="3")

    async def two_ready() -> bool:
        return [is_ready(pod) for pod in await cluster.runtime_pods(RUNTIME)] == [True, True]

    await until(two_ready, "there are not two pods", why=cluster.said_by_controller)
    await annotate(cluster, min_scale="1")

    async def sampled() -> bool:
        return 'reason="spare"' in await wanted_pods(cluster)  # which needs figures of both

    async def why() -> str:
        return f"{await wanted_pods(cluster)} {await cluster.said_by_controller()}"

    await until(sampled, "two instances were not sampled", why=why)
    await annotate(cluster, max_scale="1")
    await until_deployment(cluster, replicas=1)

    async def one_left() -> bool:
        return len(await cluster.runtime_pods(RUNTIME)) == 1

    await until(one_left, "no pod went", why=cluster.said_by_controller)
    (left,) = await cluster.runtime_pods(RUNTIME)
    assert COST in left["metadata"]["annotations"]
    assert "cost of a pod not written" not in await cluster.said_by_controller()
    assert "Scaled" in [event["reason"] for event in await cluster.api.items(path("v1", "events", "default"))]


async def test_replicas_of_others_stay(cluster: Cluster) -> None:
    await annotate(cluster, autoscalerClass="external", min_scale="", max_scale="")
    await cluster.plane.kubectl("-n", HOME, "scale", "deployment", NAME, "--replicas=2")
    await until_deployment(cluster, replicas=2)
    await cluster.configure(SHORT + "enableAccessLogging: true\n")

    async def rolled() -> bool:
        found = await cluster.get("Deployment", NAME)
        return found is not None and "MM_LOG_EACH_INVOKE" in str(found["spec"]["template"])

    await until(rolled, "the Deployment was not updated", why=cluster.said_by_controller)
    await until_deployment(cluster, replicas=2)
