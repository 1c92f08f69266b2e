"""The defects of the archived controller (`spec/serving-controller.md` 10.2) that concern the loop: each failed there.

Those of rendering and configuration are tests beside the golden files, those of statuses in `test_status_of_models.py`.
"""

import asyncio
import base64
import json

import pytest
from stories import play

from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.kinds import (
    AUTOSCALER,
    CLAIM,
    CLUSTER_RUNTIME,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    INFERENCE_SERVICE,
    NETWORK_POLICY,
    SECRET,
    SERVICE,
    SERVING_RUNTIME,
)
from modelmesh.kubernetes.ports import ApiError
from modelmesh.kubernetes.replicas import EMPTY_SINCE
from modelmesh.testing.kubernetes_cluster import OWN, KubernetesCluster

HPA = {"serving.kserve.io/autoscalerClass": "hpa", "serving.kserve.io/max-scale": "4"}
NAME = "modelmesh-serving-r"


def volumes(k: KubernetesCluster, name: str = NAME) -> set[str]:
    item = k.api.get(DEPLOYMENT, name, OWN)
    assert item is not None
    found = item["spec"]["template"]["spec"]["volumes"]
    return {one["persistentVolumeClaim"]["claimName"] for one in found if "persistentVolumeClaim" in one}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"grpcEndpoint": None}, "spec.grpcEndpoint"),  # F1: a null dereference
        ({"annotations": {"serving.kserve.io/autoscalerClass": "magic"}}, "autoscalerClass"),  # F2: another one
        ({"builtInAdapter": {"serverType": "nobody"}}, "serverType"),
        ({"containers": "none"}, "spec.containers"),
    ],
)
def test_f1_f2_f8_a_bad_runtime_says_so_and_stops_no_other(bad: dict, field: str) -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("bad", **bad)
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(40)
        assert k.status("m")["activeModelState"] == "Loaded"
        valid = k.condition("Valid", "bad", kind=SERVING_RUNTIME)
        assert (valid["status"], valid["reason"]) == ("False", "InvalidSpec")
        assert field in valid["message"]
        assert k.api.get(DEPLOYMENT, "modelmesh-serving-bad", OWN) is None
        assert any(field in event["message"] for event in k.events("InvalidSpec"))
        assert not any("Error:" in str(line.get("error", "")) for line in k.lines)

    play(story)


def test_f3_an_autoscaled_runtime_without_a_deployment_gets_one() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.predictor("m")
        k.runtime("r", annotations={**HPA, "serving.kserve.io/min-scale": "2"})
        await asyncio.sleep(40)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 2
        scaler = k.api.get(AUTOSCALER, NAME, OWN)
        assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 4)
        assert k.status("m")["activeModelState"] == "Loaded"

    play(story)


def test_the_number_of_pods_that_an_autoscaler_set_is_never_written() -> None:
    async def story(k: KubernetesCluster) -> None:
        first = k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(30)
        k.runtime("r", annotations=HPA)  # two pods are there; nobody but the controller set them
        await asyncio.sleep(10)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 2
        k.api.edit(DEPLOYMENT, NAME, OWN, {"spec": {"replicas": 4}}, manager="kube-controller-manager")
        k.configure("podsPerRuntime: 1\nenableAccessLogging: true")
        await asyncio.sleep(10)
        await k.kill(first)
        k.start()
        await asyncio.sleep(30)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 4
        k.runtime("r")  # and without it, the configuration counts again
        await asyncio.sleep(10)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 1

    play(story)


@pytest.mark.parametrize("code", [0, 403, 500])
def test_f5_a_read_that_fails_deletes_nothing(code: int) -> None:
    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("other", enabled=True)
        first = k.start()
        k.runtime("r", "")
        k.predictor("m", "other")
        await asyncio.sleep(30)
        await k.kill(first)

        def refuse(request) -> ApiError | None:
            return ApiError(code, "no") if request.verb == "LIST" and request.kind == "Namespace" else None

        k.api.refuse = refuse
        k.api.requests.clear()
        k.start()
        await asyncio.sleep(300)
        assert not [write for write in k.api.writes if write.verb == "DELETE"]
        k.api.refuse = lambda _: None
        await asyncio.sleep(60)
        assert not [write for write in k.api.writes if write.verb == "DELETE"]
        assert k.status("m", "other")["activeModelState"] == "Loaded"

    play(story)


def test_f6_f7_a_malformed_resource_says_why_and_keeps_no_pods() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        k.inference_service("bad", uri="ftp://host/p")
        await asyncio.sleep(20)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 0
        status = k.status("bad", kind=INFERENCE_SERVICE)
        assert status["modelStatus"]["transitionStatus"] == "InvalidSpec"
        assert status["modelStatus"]["lastFailureInfo"]["reason"] == "InvalidPredictorSpec"
        valid = k.condition("Valid", "bad", kind=INFERENCE_SERVICE)
        assert (valid["status"], "spec.predictor.model.storageUri" in valid["message"]) == ("False", True)
        k.api.requests.clear()
        await asyncio.sleep(600)
        assert not k.api.writes  # and is not tried again and again
        k.inference_service("bad")
        await asyncio.sleep(30)
        assert k.condition("Ready", "bad", kind=INFERENCE_SERVICE)["status"] == "True"

    play(story)


def test_f9_an_entry_of_the_storage_secret_that_cannot_be_read_stands_for_itself() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.api.put(CLAIM, {"metadata": {"name": "models", "namespace": OWN}})
        k.secret(
            "storage-config",
            a_web=json.dumps({"type": "http", "url": "http://x", "headers": {"a": ["b"]}}),
            b_bad="{no json",
            c_claim=json.dumps({"type": "pvc", "name": "models"}),
            d_without_name=json.dumps({"type": "pvc"}),
        )
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(30)
        assert volumes(k) == {"models"}
        message = k.condition("Ready", "r", kind=SERVING_RUNTIME)["message"]
        assert "key b_bad of Secret storage-config is no JSON object" in message
        assert k.status("m")["activeModelState"] == "Loaded"

    play(story)


def test_f10_what_is_not_for_this_controller_costs_nothing() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("off", enabled=False)
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(40)
        for number in range(10):
            k.inference_service(f"raw{number}", mode="RawDeployment")
            k.inference_service(f"none{number}", mode=None)
            k.predictor(f"off{number}", "off")
        await asyncio.sleep(5)
        k.api.requests.clear()
        runs = k._running
        before = next(iter(runs)).models.runs
        await asyncio.sleep(600)
        assert [request for request in k.api.requests if request.verb != "WATCH"] == []
        assert next(iter(runs)).models.runs - before < 20  # a resync within the hour
        assert not [name for calls in k.calls.values() for name in calls.deleted]

    play(story)


def test_f13_a_changed_etcd_secret_reaches_the_other_namespaces() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("other", enabled=True)
        k.start()
        k.runtime("r", "")
        await asyncio.sleep(10)
        connection = {"endpoints": "http://new:2379", "root_prefix": "root", "certificate_file": "ca"}
        k.secret("model-serving-etcd", etcd_connection=json.dumps(connection), ca="PEM")
        await asyncio.sleep(10)
        copy = k.api.get(SECRET, "model-serving-etcd", "other")["data"]
        assert json.loads(base64.b64decode(copy["etcd_connection"])) == {
            **connection,
            "root_prefix": "root/mm_ns/other",
        }
        assert base64.b64decode(copy["ca"]) == b"PEM"

    play(story)


@pytest.mark.parametrize("own", [True, False])
def test_f16_drift_is_mended_also_of_runtimes_of_the_cluster(own: bool) -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r", OWN if own else "", annotations=HPA)
        k.predictor("m")
        await asyncio.sleep(30)
        before = k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["template"]
        containers = [{**one, "image": "evil"} for one in before["spec"]["containers"]]
        k.api.edit(DEPLOYMENT, NAME, OWN, {"spec": {"template": {"spec": {"containers": containers}}}})
        k.api.edit(AUTOSCALER, NAME, OWN, {"spec": {"maxReplicas": 50}})
        k.api.edit(SERVICE, "modelmesh-serving", OWN, {"spec": {"selector": {"modelmesh-service": "x"}}})
        await asyncio.sleep(5)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["template"] == before
        assert k.api.get(AUTOSCALER, NAME, OWN)["spec"]["maxReplicas"] == 4
        assert k.api.get(SERVICE, "modelmesh-serving", OWN)["spec"]["selector"] == {
            "modelmesh-service": "modelmesh-serving"
        }
        for kind in (DEPLOYMENT, AUTOSCALER):
            k.api.remove(kind, NAME, OWN)
        await asyncio.sleep(5)
        assert k.api.get(DEPLOYMENT, NAME, OWN) is not None
        assert k.api.get(AUTOSCALER, NAME, OWN) is not None

    play(story)


def test_f17_an_autoscaler_that_is_switched_off_is_gone_at_once() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r", annotations=HPA)
        k.predictor("m")
        await asyncio.sleep(30)
        k.api.edit(AUTOSCALER, NAME, OWN, {"spec": {"maxReplicas": 9}})
        k.runtime("r")
        await asyncio.sleep(1)
        assert k.api.get(AUTOSCALER, NAME, OWN) is None

    play(story)


def test_f20_a_changed_rest_port_is_in_the_statuses() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(30)
        assert k.status("m")["httpEndpoint"] == "http://modelmesh-serving.modelmesh-serving:8008"
        k.configure("restProxy: {port: 9009}")
        await asyncio.sleep(5)
        assert k.status("m")["httpEndpoint"] == "http://modelmesh-serving.modelmesh-serving:9009"

    play(story)


def test_f24_f25_what_will_not_work_or_has_no_effect_is_said_early() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r", format_name="other")
        k.predictor("m", runtime={"name": "r"}, gpu="required")
        await asyncio.sleep(10)
        valid = k.condition("Valid", "m")
        assert (valid["status"], valid["reason"]) == ("True", "NotesOnFields")
        assert "does not list fake" in valid["message"]
        assert "spec.gpu: has no effect" in valid["message"]

    play(story)


def test_f26_the_grace_before_zero_pods_outlives_a_restart() -> None:
    async def story(k: KubernetesCluster) -> None:
        first = k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(30)
        k.api.remove(kinds.PREDICTOR, "m", OWN)
        await asyncio.sleep(20)
        assert EMPTY_SINCE in k.api.get(DEPLOYMENT, NAME, OWN)["metadata"]["annotations"]
        await k.kill(first)
        await asyncio.sleep(10)
        second = k.start()
        await asyncio.sleep(20)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 2
        await asyncio.sleep(20)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 0
        assert k.condition("Ready", "r", kind=SERVING_RUNTIME)["reason"] == "ScaledToZero"
        # And when models come back in time, the grace is forgotten.
        k.predictor("m")
        await asyncio.sleep(20)
        k.api.remove(kinds.PREDICTOR, "m", OWN)
        await asyncio.sleep(50)
        k.predictor("m")
        await asyncio.sleep(30)
        item = k.api.get(DEPLOYMENT, NAME, OWN)
        assert item["spec"]["replicas"] == 2
        assert EMPTY_SINCE not in item["metadata"]["annotations"]
        assert second.idle

    play(story)


def test_f28_a_claim_that_is_not_there_is_said_and_not_mounted_until_it_comes() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.secret("storage-config", claim=json.dumps({"type": "pvc", "name": "late"}))
        k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(30)
        assert volumes(k) == set()
        assert "claim late is not in the namespace" in k.condition("Ready", "r", kind=SERVING_RUNTIME)["message"]
        k.api.put(CLAIM, {"metadata": {"name": "late", "namespace": OWN}})
        await asyncio.sleep(5)
        assert volumes(k) == {"late"}
        assert "claim" not in k.condition("Ready", "r", kind=SERVING_RUNTIME)["message"]

    play(story)


def test_f30_a_name_that_is_too_long_is_said() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.start()
        k.runtime("r" * 60, "")
        await asyncio.sleep(5)
        valid = k.condition("Valid", "r" * 60, "", CLUSTER_RUNTIME)
        assert valid["status"] == "False"
        assert "metadata.name" in valid["message"]

    play(story)


def test_f31_every_namespace_is_protected() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.add_namespace("other", enabled=True)
        k.start()
        await asyncio.sleep(5)
        assert {item["metadata"]["namespace"] for item in k.api.all(NETWORK_POLICY)} == {OWN, "other"}

    play(story)


def test_f32_pods_get_the_storage_keys_of_the_models_that_may_be_placed_on_them() -> None:
    async def story(k: KubernetesCluster) -> None:
        def keys(name: str) -> list[str] | None:
            item = k.api.get(DEPLOYMENT, f"modelmesh-serving-{name}", OWN)
            found = item["spec"]["template"]["spec"]["volumes"]
            volume = next(one for one in found if one["name"] == "storage-config")
            return [one["key"] for one in volume["secret"]["items"]] if "secret" in volume else None

        k.configure("storageKeys: needed")
        k.start()
        k.runtime("r")
        k.runtime("s", format_name="other")
        k.predictor("m", storage={"path": "p", "key": "first"})
        k.predictor("old", storage={"s3": {"secretKey": "second", "bucket": "b"}})
        k.predictor("plain", storage={"path": "p", "parameters": {"type": "s3", "bucket": "b"}})
        k.inference_service("i", format_name="other", uri="gs://bucket/p")
        await asyncio.sleep(30)
        assert keys("r") == ["default_s3", "first", "second"]
        assert keys("s") == ["default_gcs"]
        k.api.remove(kinds.PREDICTOR, "m", OWN)
        await asyncio.sleep(5)
        assert keys("r") == ["default_s3", "second"]
        k.api.remove(INFERENCE_SERVICE, "i", OWN)
        await asyncio.sleep(5)
        assert keys("s") is None

    play(story)


def test_f32_with_needed_keys_claims_of_other_models_are_not_mounted() -> None:
    async def story(k: KubernetesCluster) -> None:
        names = ("of-m", "of-nobody", "named", "missing-entry")
        for name in names:
            k.api.put(CLAIM, {"metadata": {"name": name, "namespace": OWN}})
        entries = {f"key-{name}": json.dumps({"type": "pvc", "name": name}) for name in names[:3]}
        k.secret("storage-config", **entries)
        k.start()
        k.runtime("r")
        k.predictor("m", storage={"path": "p", "key": "key-of-m"})
        k.inference_service("i", uri="pvc://named/p")
        k.inference_service("j", uri="pvc://missing-entry/p")  # of no entry: not without allowAnyPVC
        await asyncio.sleep(30)
        assert volumes(k) == set(names[:3])  # as it always was: of all entries
        k.configure("storageKeys: needed")
        await asyncio.sleep(10)
        assert volumes(k) == {"of-m", "named"}
        k.api.remove(INFERENCE_SERVICE, "i", OWN)
        await asyncio.sleep(5)
        assert volumes(k) == {"of-m"}

    play(story)


def test_f32_a_secret_of_a_models_own_is_mounted_where_the_model_may_be_placed() -> None:
    async def story(k: KubernetesCluster) -> None:
        def sources(name: str) -> list[str]:
            item = k.api.get(DEPLOYMENT, f"modelmesh-serving-{name}", OWN)
            found = item["spec"]["template"]["spec"]["volumes"]
            volume = next(one for one in found if one["name"] == "storage-config")
            return [one["secret"]["name"] for one in volume.get("projected", {}).get("sources", [])]

        k.start()
        k.runtime("r")
        k.runtime("s", format_name="other")
        k.predictor("m", storage={"path": "p", "key": "team:bucket"})
        await asyncio.sleep(30)
        assert sources("r") == ["storage-config", "storage-config-team"]
        assert sources("s") == []
        k.api.requests.clear()
        await asyncio.sleep(600)
        assert not k.api.writes
        k.api.remove(kinds.PREDICTOR, "m", OWN)
        await asyncio.sleep(5)
        assert sources("r") == []

    play(story)


def test_a_disruption_budget_comes_and_goes_with_the_configuration_and_is_mended() -> None:
    async def story(k: KubernetesCluster) -> None:
        def most(name: str = NAME) -> object:
            item = k.api.get(DISRUPTION_BUDGET, name, OWN)
            return item["spec"]["maxUnavailable"] if item is not None else None

        first = k.start()
        k.runtime("r")
        k.runtime(
            "s", format_name="other", annotations={"modelmesh.io/config": "disruptionBudget: {maxUnavailable: 50%}"}
        )
        k.predictor("m")
        await asyncio.sleep(30)
        assert (most(), most("modelmesh-serving-s")) == (None, "50%")
        k.configure("disruptionBudget: {maxUnavailable: 1}")
        await asyncio.sleep(10)
        assert (most(), most("modelmesh-serving-s")) == (1, "50%")
        assert k.api.get(DISRUPTION_BUDGET, NAME, OWN)["metadata"]["ownerReferences"][0]["name"] == "r"
        k.api.edit(DISRUPTION_BUDGET, NAME, OWN, {"spec": {"maxUnavailable": 9}})
        await asyncio.sleep(5)
        assert most() == 1
        await k.kill(first)
        k.api.requests.clear()
        k.start()
        await asyncio.sleep(600)
        assert not k.api.writes  # neither after a restart nor later
        k.configure("podsPerRuntime: 2")
        await asyncio.sleep(5)
        assert (most(), most("modelmesh-serving-s")) == (None, "50%")
        k.runtime("s", format_name="other", disabled=True)
        await asyncio.sleep(5)
        assert most("modelmesh-serving-s") is None

    play(story)


def test_f33_a_bad_configuration_is_said_and_the_last_good_one_stays() -> None:
    async def story(k: KubernetesCluster) -> None:
        k.configure("podsPerRuntime: 3")
        first = k.start()
        k.runtime("r")
        k.predictor("m")
        await asyncio.sleep(30)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 3
        k.configure("podsPerRuntime: many\npodsPerRuntim: 4")
        await asyncio.sleep(10)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 3
        said = [event["message"] for event in k.events("Configuration")]
        assert any("podsPerRuntime" in message for message in said)
        assert any("podsPerRuntim:" in message for message in said)
        k.runtime("s", format_name="other")  # a new runtime is deployed with the last good one
        k.predictor("n", format_name="other")
        await asyncio.sleep(20)
        assert k.api.get(DEPLOYMENT, "modelmesh-serving-s", OWN)["spec"]["replicas"] == 3
        # A controller that starts with it does nothing, rather than what defaults say.
        await k.kill(first)
        k.start()
        await asyncio.sleep(30)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 3
        k.configure("podsPerRuntime: 1")
        await asyncio.sleep(10)
        assert k.api.get(DEPLOYMENT, NAME, OWN)["spec"]["replicas"] == 1

    play(story)
