"""The controller over a whole simulated cluster, on virtual time: resources become pods and models, and say so."""

import asyncio

import pytest
from stories import play

from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.kinds import DEPLOYMENT, INFERENCE_SERVICE, PREDICTOR, SERVICE, SERVING_RUNTIME
from modelmesh.kubernetes.loop import controller
from modelmesh.kubernetes.ports import ApiError
from modelmesh.kubernetes.settings import Settings
from modelmesh.testing.kubernetes_cluster import OWN, KubernetesCluster
from modelmesh.values.status import Status


def replicas(k: KubernetesCluster, name: str = "modelmesh-serving-r", namespace: str = OWN) -> int:
    item = k.api.get(DEPLOYMENT, name, namespace)
    assert item is not None
    return item["spec"]["replicas"]


def test_a_runtime_and_a_model_become_pods_and_a_loaded_model() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        await asyncio.sleep(5)
        assert replicas(k) == 0  # no model needs it
        k.pods_run = False
        k.predictor("m")
        k.inference_service("i")
        await asyncio.sleep(1)
        assert k.status("m")["lastFailureInfo"]["message"] == "Waiting for runtime Pod to become available"
        assert k.status("m")["activeModelState"] == "Pending"
        k.pods_run = True
        await asyncio.sleep(30)
        assert replicas(k) == 2
        status = k.status("m")
        assert (status["activeModelState"], status["available"], status["transitionStatus"]) == (
            "Loaded",
            True,
            "UpToDate",
        )
        assert status["grpcEndpoint"] == "grpc://modelmesh-serving.modelmesh-serving:8033"
        assert "lastFailureInfo" not in status
        assert k.condition("Ready", "i", kind=INFERENCE_SERVICE)["status"] == "True"
        assert k.condition("Ready", "r", kind=SERVING_RUNTIME)["reason"] == "PodsReady"
        assert (await k.meshes[OWN].call("m", via=next(iter(k.meshes[OWN].instances)), vmodel=True)).status == 0
        assert {event["reason"] for event in k.events()} >= {"Loaded", "RuntimeUnhealthy"}

    play(story)


def test_an_update_moves_to_the_new_model_and_a_bad_one_is_blocked() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(40)
        k.predictor("m", path="p2")
        await asyncio.sleep(20)
        status = k.status("m")
        assert (status["activeModelState"], status["targetModelState"], status["transitionStatus"]) == (
            "Loaded",
            "",
            "UpToDate",
        )
        for instance in k.meshes[OWN].instances.values():
            instance.runtime.fail_next("load", Status.INTERNAL, "no such file")
        k.predictor("m", path="p3")
        await asyncio.sleep(20)
        status = k.status("m")
        assert (status["activeModelState"], status["targetModelState"], status["transitionStatus"]) == (
            "Loaded",
            "FailedToLoad",
            "BlockedByFailedLoad",
        )
        assert status["available"] is True
        assert status["lastFailureInfo"]["reason"] == "ModelLoadFailed"
        assert "no such file" in status["lastFailureInfo"]["message"]
        assert status["lastFailureInfo"]["location"]

    play(story)


def test_what_is_deleted_leaves_the_mesh_also_while_the_controller_was_away() -> None:
    async def story(k: KubernetesCluster) -> None:
        first = k.start()
        k.runtime("r")
        for name in ("a", "b", "c", "d"):
            k.predictor(name)
        k.inference_service("i")
        await asyncio.sleep(40)
        k.api.remove(PREDICTOR, "a", OWN)
        k.inference_service("i", mode="RawDeployment")  # another system's from now on
        await asyncio.sleep(5)
        mesh = first.meshes[OWN]
        assert set(mesh.names()) == {"b", "c", "d"}
        await k.kill(first)
        k.api.remove(PREDICTOR, "b", OWN)
        await asyncio.sleep(5)
        second = k.start()
        await asyncio.sleep(10)
        assert set(second.meshes[OWN].names()) == {"c", "d"}
        assert sorted(name for calls in k.calls.values() for name in calls.deleted) == ["a", "b", "i"]

    play(story)


def test_after_a_restart_and_a_resync_nothing_is_written_where_nothing_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(controller, "RESYNC_S", 100)

    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("other", enabled=True)
        k.secret("storage-config", "other")
        first = k.start()
        k.runtime("r", "")
        for namespace in (OWN, "other"):
            for number in range(20):
                k.predictor(f"m{number}", namespace, path=f"p{number}")
            k.inference_service("i", namespace)
        await asyncio.sleep(120)
        states = [k.status(f"m{number}", "other")["activeModelState"] for number in range(20)]
        assert set(states) == {"Loaded", "Standby"}  # two pods have no room for all
        await k.kill(first)
        k.api.requests.clear()
        for calls in k.calls.values():
            calls.batches.clear()
        k.start()
        await asyncio.sleep(150)
        assert [write for write in k.api.writes if write.kind != "Event"] == []
        assert all(not calls.batches for calls in k.calls.values())
        reads = [request for request in k.api.requests if request.verb in {"LIST", "GET"}]
        assert len(reads) < 40

    play(story)


def test_many_models_are_set_in_few_calls() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        k.predictor("first")
        await asyncio.sleep(30)
        for number in range(300):
            k.predictor(f"m{number:03}", path="p")
        await asyncio.sleep(60)
        states = [k.status(f"m{number:03}")["activeModelState"] for number in range(300)]
        assert set(states) <= {"Loaded", "Standby"}
        sizes = [size for calls in k.calls.values() for size in calls.batches]
        assert sum(sizes) < 2 * 301
        assert len(sizes) < 40

    play(story)


def test_a_mesh_that_does_not_answer_delays_no_other_namespace_f34() -> None:
    async def story(k: KubernetesCluster) -> None:
        for name in ("stuck", "fine"):
            k.add_namespace(name, enabled=True)
        k.start()
        k.runtime("r", "")
        for name in ("stuck", "fine"):
            k.predictor("first", name)
        await asyncio.sleep(40)
        stuck = {address for (namespace, _, _), (address, _) in k._pods.items() if namespace == "stuck"}
        for address in stuck:
            k.calls[address].hangs = True
        for number in range(200):
            k.predictor(f"m{number}", "stuck", path="p")
        began = asyncio.get_running_loop().time()
        k.predictor("late", "fine")
        while k.status("late", "fine").get("activeModelState") != "Loaded":
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - began < 2
        for address in stuck:
            k.calls[address].hangs = False
        await asyncio.sleep(60)
        assert k.status("m7", "stuck")["activeModelState"] in {"Loaded", "Standby"}

    play(story)


def test_namespaces_are_served_by_label_and_cleaned_when_they_are_not() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("yes", enabled=True)
        k.add_namespace("no")
        k.start()
        k.runtime("r", "")
        k.predictor("m", "yes")
        k.predictor("m", "no")
        await asyncio.sleep(30)
        assert k.status("m", "yes")["activeModelState"] == "Loaded"
        assert k.status("m", "no") == {}
        assert {item["metadata"]["namespace"] for item in k.api.all(SERVICE)} == {OWN, "yes"}
        assert k.api.get(kinds.SECRET, "model-serving-etcd", "yes") is not None
        k.add_namespace("yes", enabled=False)
        k.add_namespace("no", enabled=True)
        await asyncio.sleep(60)
        assert k.status("m", "no")["activeModelState"] == "Loaded"
        for kind in (SERVICE, DEPLOYMENT):
            assert {item["metadata"]["namespace"] for item in k.api.all(kind)} == {OWN, "no"}
        assert k.api.get(kinds.SECRET, "model-serving-etcd", "yes") is None
        assert k.api.get(kinds.CONFIG_MAP, "tc-config", "yes") is None
        assert k.api.get(kinds.SECRET, "model-serving-etcd", OWN) is not None

    play(story)


def test_namespace_scope_reads_and_writes_its_own_namespace_only() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("other", enabled=True)
        k.start()
        k.runtime("r")
        k.predictor("m")
        k.runtime("r", "other")
        k.predictor("m", "other")
        await asyncio.sleep(40)
        assert k.status("m")["activeModelState"] == "Loaded"
        assert k.status("m", "other") == {}
        namespaces = {request.key.namespace for request in k.api.requests}
        assert namespaces == {OWN}
        assert "Namespace" not in {request.kind for request in k.api.requests}

    play(story, settings=Settings(OWN, namespace_scope=True))


@pytest.mark.parametrize("fault", ["cut", "freeze", "compact", "away"])
def test_faults_of_the_api_server_lose_nothing(fault: str) -> None:
    async def story(k: KubernetesCluster) -> None:
        running = k.start()
        k.runtime("r")
        k.predictor("a")
        k.predictor("b")
        await asyncio.sleep(40)
        match fault:
            case "cut":
                k.api.cut_watches()
            case "freeze":
                k.api.freeze_watches()
            case "compact":
                k.api.down = True
                k.api.cut_watches()
            case "away":
                k.api.down = True
        k.api.remove(PREDICTOR, "a", OWN)
        k.predictor("c")
        await asyncio.sleep(20)
        if fault == "compact":
            k.api.compact()
        k.api.down = False
        await asyncio.sleep(200)
        assert set(running.meshes[OWN].names()) == {"b", "c"}
        assert k.status("c")["activeModelState"] == "Loaded"

    play(story)


def test_an_etcd_that_is_away_changes_no_status_and_models_go_on() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(40)
        before = k.status("m")
        for calls in k.calls.values():
            calls.hangs = True
            calls.cut()
        await asyncio.sleep(200)
        assert k.status("m") == before
        for calls in k.calls.values():
            calls.hangs = False
        k.predictor("m", path="p2")
        await asyncio.sleep(120)
        assert k.status("m")["transitionStatus"] == "UpToDate"
        assert k.status("m")["observedGeneration"] == 2

    play(story)


def test_a_status_that_somebody_else_wrote_is_put_right() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(40)
        k.api.edit(PREDICTOR, "m", OWN, {"status": {"available": False, "theirs": 1}})
        await asyncio.sleep(5)
        assert k.status("m")["available"] is True
        assert k.status("m")["theirs"] == 1

    play(story)


def test_a_conflict_of_a_status_is_tried_again() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        k.predictor("m")
        left = 5

        def refuse(request) -> ApiError | None:
            nonlocal left
            if request.subresource == "status" and left:
                left -= 1
                return ApiError(409, "the object has been modified")
            return None

        k.api.refuse = refuse
        await asyncio.sleep(60)
        assert k.status("m")["activeModelState"] == "Loaded"

    play(story)


def test_a_schema_without_conditions_is_not_written_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "RESYNC_S", 20)

    async def story(k: KubernetesCluster) -> None:
        k.api.pruned["Predictor"] = {"conditions", "observedGeneration"}
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(60)
        assert k.status("m")["activeModelState"] == "Loaded"
        assert "conditions" not in k.status("m")
        k.api.requests.clear()
        await asyncio.sleep(100)
        assert [write for write in k.api.writes if write.kind == "Predictor"] == []

    play(story)


def test_the_first_look_waits_for_all_caches() -> None:
    """A Secret that is read late must not cost the pods a claim, and then a second rollout."""

    async def story(k: KubernetesCluster) -> None:
        k.secret("storage-config", pvc='{"type": "pvc", "name": "models"}')
        k.api.put(kinds.CLAIM, {"metadata": {"name": "models", "namespace": OWN}})
        k.runtime("r")
        k.predictor("m")
        slow = True

        def refuse(request) -> ApiError | None:
            return ApiError(503, "slow") if slow and request.verb == "LIST" and request.kind == "Secret" else None

        k.api.refuse = refuse
        k.start()
        await asyncio.sleep(20)
        assert k.api.all(DEPLOYMENT) == []
        slow = False
        await asyncio.sleep(60)
        generations = [item["metadata"]["generation"] for item in k.api.all(DEPLOYMENT)]
        assert generations == [1]
        volumes = k.api.all(DEPLOYMENT)[0]["spec"]["template"]["spec"]["volumes"]
        assert any("persistentVolumeClaim" in volume for volume in volumes)

    play(story)


def test_a_controller_without_faults_logs_no_failure() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(60)
        assert [line for line in k.lines if line["event"] not in {"working", "kind is not installed"}] == []

    play(story)


def test_a_secret_that_the_role_does_not_name_is_said_by_the_runtimes_that_need_it() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("other", enabled=True)
        k.configure("storageSecretName: mine", "other")
        k.runtime("r", "")
        k.predictor("m")
        k.predictor("m", "other")

        def refuse(request) -> ApiError | None:
            if request.kind == "Secret" and request.verb == "LIST" and request.fields == "metadata.name=mine":
                return ApiError(403, "secrets is forbidden")
            return None

        k.api.refuse = refuse
        k.start()
        await asyncio.sleep(40)
        assert k.status("m")["activeModelState"] == "Loaded"
        ready = k.condition("Ready", "r", "", kinds.CLUSTER_RUNTIME)
        assert (ready["status"], ready["reason"]) == ("False", "WaitingForSecret")
        assert "other: Secret mine cannot be read: secrets is forbidden" in ready["message"]
        k.api.refuse = lambda _: None
        await asyncio.sleep(60)
        assert k.status("m", "other")["activeModelState"] == "Loaded"

    play(story)


def test_a_kind_whose_definition_is_replaced_loses_no_model_and_no_pod() -> None:
    async def story(k: KubernetesCluster) -> None:
        running = k.start()
        k.runtime("r")
        k.predictor("a")
        k.inference_service("b")
        await asyncio.sleep(40)
        k.api.absent |= {"Predictor", "InferenceService"}
        k.api.compact()
        k.api.cut_watches()
        await asyncio.sleep(200)
        assert set(running.meshes[OWN].names()) == {"a", "b"}
        assert replicas(k) == 2
        k.api.absent -= {"Predictor", "InferenceService"}
        k.predictor("c")
        await asyncio.sleep(60)
        assert k.status("c")["activeModelState"] == "Loaded"
        assert not [name for calls in k.calls.values() for name in calls.deleted]

    play(story)
