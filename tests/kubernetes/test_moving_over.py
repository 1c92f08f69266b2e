"""Taking over a namespace from the archived controller: its Deployments, and pods of the archived project."""

import asyncio

from stories import play

from modelmesh.kubernetes.kinds import DEPLOYMENT, INFERENCE_SERVICE, SERVING_RUNTIME
from modelmesh.testing.kubernetes_cluster import OWN, KubernetesCluster
from modelmesh.values.status import Status

NAME = "modelmesh-serving-r"


def take_over(k: KubernetesCluster, *, sidecar: bool) -> None:
    """What the archived controller left: a Deployment of its own, made by the manager `manager`."""
    item = k.api.get(DEPLOYMENT, NAME, OWN)
    metadata = item["metadata"]
    for name in ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"):
        metadata.pop(name)
    metadata["annotations"] = {"manifestival": "new"}
    if sidecar:
        item["spec"]["template"]["spec"]["containers"].append({"name": "rest-proxy", "image": "proxy"})
        item["spec"]["template"]["spec"]["containers"][0]["image"] = "server:0"
    k.api.remove(DEPLOYMENT, NAME, OWN)
    k.api.put(DEPLOYMENT, item, manager="manager")


def test_pods_of_another_controller_are_not_replaced_unless_somebody_says_so() -> None:
    async def story(k: KubernetesCluster) -> None:
        first = k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(30)
        await k.kill(first)
        take_over(k, sidecar=True)
        await asyncio.sleep(20)
        before = k.api.get(DEPLOYMENT, NAME, OWN)
        k.start()
        await asyncio.sleep(30)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"] == before["spec"]
        ready = k.condition("Ready", "r", kind=SERVING_RUNTIME)
        assert (ready["status"], ready["reason"]) == ("True", "HeldBack")
        assert "containers[server].image" in ready["message"]
        assert k.status("m")["activeModelState"] == "Loaded"
        k.runtime("r", annotations={"modelmesh.io/roll": "true"})
        await asyncio.sleep(10)
        containers = k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["template"]["spec"]["containers"]
        assert "rest-proxy" not in {one["name"] for one in containers}
        assert next(one for one in containers if one["name"] == "server")["image"] == "server:1"
        assert k.condition("Ready", "r", kind=SERVING_RUNTIME)["reason"] == "PodsReady"

    play(story)


def test_a_deployment_that_is_as_it_must_be_is_taken_over_without_a_new_generation() -> None:
    async def story(k: KubernetesCluster) -> None:
        first = k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(30)
        await k.kill(first)
        take_over(k, sidecar=False)
        await asyncio.sleep(20)
        generation = k.api.get(DEPLOYMENT, NAME, OWN)["metadata"]["generation"]
        k.start()
        await asyncio.sleep(30)
        item = k.api.get(DEPLOYMENT, NAME, OWN)
        assert item["metadata"]["generation"] == generation
        assert "modelmesh.io/applied" in item["metadata"]["annotations"]

    play(story)


def test_instances_of_the_archived_project_are_asked_until_their_pods_are_replaced() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.old_pods = True
        running = k.start()
        k.runtime("r")
        k.predictor("m")
        k.inference_service("i")
        await asyncio.sleep(60)
        assert k.status("m")["activeModelState"] == "Loaded"
        for instance in k.meshes[OWN].instances.values():
            instance.runtime.fail_next("load", Status.INTERNAL, "no such file")
        k.predictor("m", path="p2")
        k.api.remove(INFERENCE_SERVICE, "i", OWN)
        await asyncio.sleep(30)
        assert k.status("m")["transitionStatus"] == "BlockedByFailedLoad"
        assert set(running.meshes[OWN].names()) == {"m"}
        assert not any(calls.batches for calls in k.calls.values())
        # New pods come: they stream, and take batches.
        for calls in k.calls.values():
            calls.old = False
            calls.cut()
        k.old_pods = False
        for pod in list(k._pods):
            await k._end(pod)
        k.predictor("n")
        await asyncio.sleep(60)
        assert k.status("n")["activeModelState"] == "Loaded"
        assert any(calls.batches for calls in k.calls.values())

    play(story)
