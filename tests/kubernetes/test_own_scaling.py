"""The controller's own scaling, in simulated clusters: pods follow calls and memory, the cheapest pod goes, and replicas of others stay."""

import asyncio

import pytest
from stories import play

from modelmesh.kubernetes.demand import FEWER_AFTER_MS
from modelmesh.kubernetes.kinds import DEPLOYMENT, POD, PREDICTOR
from modelmesh.kubernetes.ports import ApiError
from modelmesh.testing.kubernetes_cluster import OWN, KubernetesCluster

NAME = "modelmesh-serving-r"
CLASS = "serving.kserve.io/autoscalerClass"
OURS = {CLASS: "modelmesh", "serving.kserve.io/min-scale": "1", "serving.kserve.io/max-scale": "4"}
COST = "controller.kubernetes.io/pod-deletion-cost"
GIB = 1 << 30


def replicas(k: KubernetesCluster) -> int | None:
    item = k.api.get(DEPLOYMENT, NAME, OWN)
    assert item is not None
    found: int | None = item["spec"].get("replicas")
    return found


def report(k: KubernetesCluster, **fields: int) -> None:
    """All instances report these figures from now on."""
    everywhere = {item["metadata"]["name"]: dict(fields) for item in k.api.all(POD)}
    for calls in k.calls.values():
        calls.reported = everywhere


def test_pods_follow_calls_up_at_once_and_down_after_a_while() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r", annotations={**OURS, "modelmesh.io/calls-per-pod": "10"})
        k.predictor("m")
        await asyncio.sleep(60)
        assert replicas(k) == 1
        report(k, calls_at_once_hundredths=2_500)
        await asyncio.sleep(20)
        assert replicas(k) == 3
        assert [event["message"] for event in k.events("Scaled")] == [
            "from 1 to 3 pods: so many are needed for the calls that are at work at a time"
        ]
        report(k, calls_at_once_hundredths=100)
        await asyncio.sleep(280)
        assert replicas(k) == 3
        await asyncio.sleep(60)
        assert replicas(k) == 2
        report(k)
        await asyncio.sleep(400)
        assert replicas(k) == 1
        assert k.status("m")["activeModelState"] in {"Loaded", "Standby"}

    play(story)


def test_memory_that_is_full_of_what_callers_wait_for_gets_a_pod() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r", annotations={**OURS, "modelmesh.io/wait-saved-per-minute": "1"})
        k.predictor("m")
        await asyncio.sleep(60)
        full = {"used_bytes": 1_000}  # of a capacity of 1,000
        report(k, **full, worth_ms_per_gib=GIB // 2)
        await asyncio.sleep(60)
        assert replicas(k) == 1
        report(k, **full, worth_ms_per_gib=GIB * 3 // 2)
        await asyncio.sleep(40)
        assert replicas(k) == 2  # the second has room, so there is no third

    play(story)


def test_no_more_pods_than_allowed_and_none_without_models() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r", annotations=OURS)
        k.predictor("m")
        await asyncio.sleep(60)
        report(k, calls_at_once_hundredths=99_900)
        await asyncio.sleep(60)
        assert replicas(k) == 4
        k.runtime("r", annotations={**OURS, "serving.kserve.io/max-scale": "2"})
        await asyncio.sleep(30)
        assert replicas(k) == 2
        k.api.remove(PREDICTOR, "m", OWN)
        await asyncio.sleep(90)
        assert replicas(k) == 0

    play(story)


def test_the_pod_that_is_cheapest_to_empty_goes() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r", annotations={**OURS, "serving.kserve.io/min-scale": "3"})
        k.predictor("m")
        await asyncio.sleep(60)
        pods = sorted(item["metadata"]["name"] for item in k.api.all(POD))
        assert len(pods) == 3
        used = {pods[0]: 3 * GIB, pods[1]: GIB, pods[2]: 2 * GIB}
        everywhere = {
            name: {"capacity_bytes": 8 * GIB, "used_bytes": bytes_, "worth_ms_per_gib": 0}
            for name, bytes_ in used.items()
        }
        for calls in k.calls.values():
            calls.reported = everywhere
        k.runtime("r", annotations=OURS)
        await asyncio.sleep(360)
        left = {item["metadata"]["name"]: item["metadata"]["annotations"][COST] for item in k.api.all(POD)}
        assert left == {pods[0]: "3000", pods[2]: "2000"}

    play(story)


def test_a_role_without_pods_costs_only_the_choice() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.api.refuse = lambda request: ApiError(403, "no") if request.kind == "Pod" else None
        k.start()
        k.runtime("r", annotations={**OURS, "serving.kserve.io/min-scale": "2"})
        k.predictor("m")
        await asyncio.sleep(60)
        k.runtime("r", annotations=OURS)
        await asyncio.sleep(400)
        assert replicas(k) == 1
        assert any(line["event"] == "cost of a pod not written" for line in k.lines)

    play(story)


def test_replicas_that_others_set_are_never_written_and_costs_are_ready_for_them() -> None:
    async def story(k: KubernetesCluster) -> None:
        first = k.start()
        k.runtime("r", annotations={CLASS: "external"})
        k.predictor("m")
        await asyncio.sleep(30)
        assert replicas(k) is None  # the API server's default is one
        k.api.edit(DEPLOYMENT, NAME, OWN, {"spec": {"replicas": 3}}, manager="kube-controller-manager")
        k.configure("podsPerRuntime: 2\nenableAccessLogging: true")
        await asyncio.sleep(60)
        await k.kill(first)
        k.start()
        await asyncio.sleep(60)
        assert replicas(k) == 3
        assert all(COST in item["metadata"].get("annotations", {}) for item in k.api.all(POD))  # one is enough
        k.api.remove(PREDICTOR, "m", OWN)
        await asyncio.sleep(200)
        assert replicas(k) == 3

    play(story)


@pytest.mark.parametrize("fault", ["hangs", "old", "away"])
def test_without_figures_the_pods_stay(fault: str) -> None:
    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("other", enabled=True)
        running = k.start()
        k.runtime("r", "", annotations={**OURS, "serving.kserve.io/min-scale": "2"})
        k.predictor("m")
        k.predictor("m", "other")
        await asyncio.sleep(60)
        report(k, calls_at_once_hundredths=3_000)
        await asyncio.sleep(30)
        assert replicas(k) == 4
        for (namespace, _, _), (address, _) in k._pods.items():
            if namespace == OWN:
                setattr(k.calls[address], "old" if fault == "old" else "hangs", True)
                k.calls[address].cut()
        if fault == "away":
            k.pods_run = False
        await asyncio.sleep(FEWER_AFTER_MS / 1000 + 120)
        assert replicas(k) == 4
        assert running.demands.get(OWN, "r") is None
        if fault != "away":
            assert running.demands.get("other", "r") is not None

    play(story)
