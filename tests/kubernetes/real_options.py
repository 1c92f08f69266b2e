"""Places of models, forms of resources, configuration that changes, and TLS. Source: spec/serving-controller.md 9.2 and 9.4."""

import json
import ssl
from collections.abc import AsyncIterator

import aiohttp
import grpc
import pytest
import pytest_asyncio
from aiohttp import web
from cluster_kit import CONFIG, HOME, Cluster, Object, answer, installed, is_ready, predictor, service, states
from conftest import until

from modelmesh._proto import open_inference_pb2 as v2
from modelmesh.testing.certificates import Authority
from modelmesh.testing.controlplane.api import Api, path
from modelmesh.testing.controlplane.namespaces import ADDRESS
from modelmesh.testing.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

RUNTIME = "modelmesh-1.x"
TLS_NAME = f"modelmesh-serving.{HOME}"
FILES_PORT = 18090


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(plane: ControlPlane, api: Api, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with installed(plane, api, tmp_path_factory.mktemp("cluster")) as made:
        yield made


def loaded(status: Object) -> bool:
    return states(status)[0] == "Loaded"


async def test_a_file_behind_an_address_is_served(cluster: Cluster) -> None:
    application = web.Application()
    application.router.add_static("/files", cluster.claims / HOME / "models")
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, ADDRESS, FILES_PORT).start()
        await cluster.apply(service("by-http", "", storageUri=f"http://{ADDRESS}:{FILES_PORT}/files/adder.onnx"))
        await cluster.until_status("InferenceService", "by-http", loaded)
        assert await answer(cluster, "by-http") == [[2.0, 3.0]]
    finally:
        await runner.cleanup()


async def test_the_old_form_of_an_inference_service_is_served(cluster: Cluster) -> None:
    old = service("old-form", "")
    old["metadata"]["annotations"]["serving.kserve.io/servingRuntime"] = RUNTIME
    old["spec"]["predictor"] = {"onnx": {"storageUri": "pvc://models/adder.onnx"}}
    await cluster.apply(old)
    await cluster.until_status("InferenceService", "old-form", loaded)
    assert await answer(cluster, "old-form") == [[2.0, 3.0]]


async def test_a_service_of_another_mode_is_left_alone(cluster: Cluster) -> None:
    other = service("other", "adder.onnx")
    other["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] = "RawDeployment"
    await cluster.apply(other)
    await cluster.apply(service("witness", "adder.onnx"))
    await cluster.until_status("InferenceService", "witness", loaded)
    assert await cluster.status("InferenceService", "other") == {}


async def test_a_runtime_that_is_not_for_the_mesh_gets_no_deployment(cluster: Cluster) -> None:
    containers = [{"name": "kserve-container", "image": "x:1", "readinessProbe": {"httpGet": {"port": 8080}}}]
    runtime = {
        "kind": "ServingRuntime",
        "metadata": {"name": "single"},
        "spec": {"supportedModelFormats": [{"name": "single", "autoSelect": True}], "containers": containers},
    }
    await cluster.apply(runtime, predictor("for-single", "x", "single", runtime=None))
    status = await cluster.until_status("Predictor", "for-single", lambda one: "lastFailureInfo" in one)
    assert status["lastFailureInfo"]["reason"] == "NoSupportingRuntime"
    assert await cluster.get("Deployment", "modelmesh-serving-single") is None


async def test_a_predictor_without_storage_says_what_is_missing(cluster: Cluster) -> None:
    bare = predictor("no-storage", "")
    del bare["spec"]["storage"]
    await cluster.apply(bare)
    status = await cluster.until_status("Predictor", "no-storage", lambda one: states(one)[0] == "FailedToLoad")
    assert status["lastFailureInfo"]["reason"] == "ModelLoadFailed"


async def test_any_claim_is_mounted_when_the_configuration_allows_it(cluster: Cluster) -> None:
    await cluster.claim("more")
    (cluster.claims / HOME / "more" / "adder.onnx").write_bytes(
        (cluster.claims / HOME / "models" / "adder.onnx").read_bytes()
    )
    asked = service("of-claim", "", storageUri="pvc://more/adder.onnx")
    missing = service("of-no-claim", "", storageUri="pvc://missing/adder.onnx")
    await cluster.apply(asked, missing)
    await cluster.until_status("InferenceService", "of-claim", lambda one: states(one)[0] == "FailedToLoad")
    await cluster.configure(CONFIG + "allowAnyPVC: true\n")
    await cluster.until_status("InferenceService", "of-claim", loaded, within_s=90)
    assert await answer(cluster, "of-claim") == [[2.0, 3.0]]
    # A claim that is not there is not mounted: pods would wait for it for ever.
    status = await cluster.until_status("InferenceService", "of-no-claim", lambda one: states(one)[0] == "FailedToLoad")
    assert status["modelStatus"]["lastFailureInfo"]["reason"] == "ModelLoadFailed"


async def test_a_wrong_configuration_changes_nothing_and_is_said(cluster: Cluster) -> None:
    (pod,) = [one for one in await cluster.runtime_pods(RUNTIME) if is_ready(one)]
    await cluster.configure("podsPerRuntime: many\ninferenceServicePort: 1\n")

    async def said() -> bool:
        events = await cluster.api.items(path("v1", "events", HOME))
        return "podsPerRuntime" in json.dumps(events) + await cluster.said_by_controller()

    await until(said, "the problem is said nowhere", why=cluster.said_by_controller)
    assert pod["metadata"]["uid"] in {one["metadata"]["uid"] for one in await cluster.runtime_pods(RUNTIME)}
    await cluster.configure(CONFIG)


async def ready_by_tls(address: str, authority: bytes, model: str, client: tuple[bytes, bytes] | None = None) -> bool:
    """Whether a model is ready, asked at a pod by the name in its certificate. Raises grpc.RpcError."""
    key, certificate = client or (None, None)
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    options = (("grpc.ssl_target_name_override", TLS_NAME),)
    async with grpc.aio.secure_channel(f"{address}:8033", credentials, options) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=v2.ModelReadyRequest.SerializeToString,
            response_deserializer=v2.ModelReadyResponse.FromString,
        )
        found: bool = (await call(v2.ModelReadyRequest(name=model), timeout=20)).ready
        return found


@pytest.mark.parametrize("client_auth", ["optional", "require"])
async def test_tls_by_the_configuration(cluster: Cluster, client_auth: str) -> None:
    authority = Authority()
    issued = authority.issue(TLS_NAME)
    name = f"tls-{client_auth}"
    texts = {"tls.crt": issued.certificate.decode(), "tls.key": issued.key.decode(), "ca.crt": authority.pem.decode()}
    await cluster.apply({"kind": "Secret", "metadata": {"name": name}, "stringData": texts})
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get", "list", "watch"]}
    patch = json.dumps([{"op": "add", "path": "/rules/-", "value": rule}])
    await cluster.plane.kubectl("patch", "clusterrole", "modelmesh-controller-role", "--type=json", "-p", patch)
    await cluster.configure(f"{CONFIG}tls: {{secretName: {name}, clientAuth: {client_auth}}}\n")

    async def encrypted() -> list[Object]:
        pods = [pod for pod in await cluster.runtime_pods(RUNTIME) if is_ready(pod)]
        return [pod for pod in pods if f'"secretName": "{name}"' in json.dumps(pod["spec"]["volumes"])]

    async def replaced() -> bool:
        return len(await encrypted()) == 1 == len(await cluster.runtime_pods(RUNTIME))

    await until(replaced, "no pod has the certificate", within_s=90, why=cluster.said_by_controller)
    await cluster.apply(service(f"over-{name}", "adder.onnx"))
    status = await cluster.until_status("InferenceService", f"over-{name}", loaded)
    assert status["components"]["predictor"]["restUrl"] == f"https://{TLS_NAME}:8008"
    (pod,) = await encrypted()
    address = pod["status"]["podIP"]
    mine = authority.issue("client")
    assert await ready_by_tls(address, authority.pem, f"over-{name}", (mine.key, mine.certificate))
    if client_auth == "require":
        with pytest.raises(grpc.RpcError):
            await ready_by_tls(address, authority.pem, f"over-{name}")
        return
    assert await ready_by_tls(address, authority.pem, f"over-{name}")
    context = ssl.create_default_context(cadata=authority.pem.decode())
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"https://{address}:8008/v2/models/over-{name}/ready", ssl=context, server_hostname=TLS_NAME
        ) as found,
    ):
        assert found.status == 200
