"""What the archived project's own tests asked of models, of the controller as people install it, with the rights of its role.

Source: spec/serving-controller.md 9.2 and 9.3, for the built-in runtime.
"""

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from cluster_kit import HOME, Cluster, answer, installed, is_ready, predictor, service, states
from conftest import until

from modelmesh.testing.controlplane.api import Api
from modelmesh.testing.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

LOADED = ("Loaded", "", "UpToDate")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(plane: ControlPlane, api: Api, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with installed(plane, api, tmp_path_factory.mktemp("cluster")) as made:
        yield made


async def test_without_models_no_runtime_has_pods(cluster: Cluster) -> None:
    async def rendered() -> bool:
        names = ("mlserver-1.x", "modelmesh-1.x", "ovms-1.x", "torchserve-0.x", "triton-2.x")
        found = [await cluster.get("Deployment", f"modelmesh-serving-{name}") for name in names]
        return all(one is not None and one["spec"]["replicas"] == 0 for one in found)

    await until(rendered, "the runtimes have no Deployments without pods", why=cluster.said_by_controller)


async def test_an_inference_service_is_loaded_and_called_by_grpc_and_rest(cluster: Cluster) -> None:
    await cluster.apply(service("adder", "adder.onnx"))
    status = await cluster.until_status("InferenceService", "adder", lambda one: states(one) == LOADED)
    conditions = {one["type"]: one["status"] for one in status["conditions"]}
    assert conditions["Ready"] == "True"
    assert status["url"] == f"grpc://modelmesh-serving.{HOME}:8033"
    assert status["components"]["predictor"]["restUrl"] == f"http://modelmesh-serving.{HOME}:8008"
    assert status["modelStatus"]["copies"]["failedCopies"] == 0
    assert await answer(cluster, "adder") == [[2.0, 3.0]]
    request = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}
    pod, *_ = await cluster.runtime_pods("modelmesh-1.x")
    url = f"http://{pod['status']['podIP']}:8008/v2/models/adder/infer"
    async with aiohttp.ClientSession() as session, session.post(url, json=request) as response:
        assert (await response.json())["outputs"][0]["data"] == [2.0, 3.0]


async def test_a_predictor_is_loaded_and_called(cluster: Cluster) -> None:
    await cluster.apply(predictor("old-adder", "adder.onnx"))
    status = await cluster.until_status("Predictor", "old-adder", lambda one: states(one) == LOADED)
    assert status["available"] is True
    assert status["grpcEndpoint"] == f"grpc://modelmesh-serving.{HOME}:8033"
    assert await answer(cluster, "old-adder") == [[2.0, 3.0]]


async def test_a_new_path_moves_the_model_and_a_wrong_one_keeps_the_old(cluster: Cluster) -> None:
    await cluster.apply(predictor("moving", "adder.onnx"))
    await cluster.until_status("Predictor", "moving", lambda one: states(one) == LOADED)
    await cluster.apply(predictor("moving", "same.onnx"))
    moved = await cluster.until_status(
        "Predictor", "moving", lambda one: states(one) == LOADED and one.get("observedGeneration") == 2
    )
    assert "lastFailureInfo" not in moved
    await cluster.apply(predictor("moving", "missing.onnx"))
    failed = await cluster.until_status(
        "Predictor", "moving", lambda one: states(one) == ("Loaded", "FailedToLoad", "BlockedByFailedLoad")
    )
    assert failed["available"] is True
    assert failed["lastFailureInfo"]["reason"] == "ModelLoadFailed"
    assert failed["lastFailureInfo"]["location"]
    assert await answer(cluster, "moving") == [[2.0, 3.0]]
    await cluster.delete("Predictor", "moving")


@pytest.mark.parametrize(
    ("name", "changed", "reason", "message"),
    [
        ("no-file", {"where": "missing.onnx"}, "ModelLoadFailed", "missing.onnx"),
        ("no-claim", {"where": "x", "parameters": {"type": "pvc", "name": "other"}}, "ModelLoadFailed", "other"),
        ("no-key", {"where": "x", "key": "unknown"}, "ModelLoadFailed", "unknown"),
        (
            "no-runtime",
            {"where": "x", "form": "unheard-of", "runtime": None},
            "NoSupportingRuntime",
            "No ServingRuntime supports specified model type and/or protocol",
        ),
        ("wrong-runtime", {"where": "x", "runtime": "unheard-of"}, "RuntimeNotRecognized", "Specified runtime name not recognized"),
    ],
)  # fmt: skip
async def test_a_model_that_cannot_be_loaded_says_why(
    cluster: Cluster, name: str, changed: dict[str, object], reason: str, message: str
) -> None:
    storage = {field: changed.pop(field) for field in ("parameters", "key") if field in changed}
    manifest = predictor(name, **changed)
    manifest["spec"]["storage"] |= storage
    if "key" in storage:
        del manifest["spec"]["storage"]["parameters"]
    await cluster.apply(manifest)
    status = await cluster.until_status("Predictor", name, lambda one: states(one)[0] == "FailedToLoad")
    assert status["available"] is False
    assert status["lastFailureInfo"]["reason"] == reason
    assert message in status["lastFailureInfo"]["message"]
    assert ("location" in status["lastFailureInfo"]) == (reason == "ModelLoadFailed")
    await cluster.delete("Predictor", name)


async def test_a_restarted_controller_replaces_no_pod(cluster: Cluster) -> None:
    before = {pod["metadata"]["uid"] for pod in await cluster.runtime_pods("modelmesh-1.x")}
    (manager,) = await cluster.pods("control-plane=modelmesh-controller", HOME)
    await cluster.delete("Pod", manager["metadata"]["name"])

    async def again() -> bool:
        pods = await cluster.pods("control-plane=modelmesh-controller", HOME)
        return [pod["metadata"]["uid"] != manager["metadata"]["uid"] and is_ready(pod) for pod in pods] == [True]

    await until(again, "the controller did not come back", why=cluster.said_by_controller)
    await cluster.apply(service("after", "adder.onnx"))
    await cluster.until_status("InferenceService", "after", lambda one: states(one) == LOADED)
    assert {pod["metadata"]["uid"] for pod in await cluster.runtime_pods("modelmesh-1.x")} == before


async def test_the_role_allows_all_that_the_controller_asks_for(cluster: Cluster) -> None:
    pods = await cluster.pods("control-plane=modelmesh-controller", HOME)
    said = "".join(cluster.node.log(pod, "manager") for pod in pods)
    assert said
    assert "forbidden" not in said.lower()


async def test_without_models_the_pods_end_after_the_grace_period(cluster: Cluster) -> None:
    for kind, names in (("InferenceService", ("adder", "after")), ("Predictor", ("old-adder",))):
        for name in names:
            await cluster.delete(kind, name)

    async def ended() -> bool:
        found = await cluster.get("Deployment", "modelmesh-serving-modelmesh-1.x")
        return found is not None and found["spec"]["replicas"] == 0

    await until(ended, "the runtime still has pods", within_s=60, why=cluster.said_by_controller)
