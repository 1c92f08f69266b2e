"""Places of models, forms of resources, configuration that changes, and TLS. Source: spec/serving-controller.md 9.2 and 9.4."""

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import grpc
import pytest
import pytest_asyncio
from aiohttp import web
from cluster_kit import CONFIG, HOME, Cluster, Object, answer, installed, is_ready, predictor, service, states
from conftest import until

from modelmesh._proto import model_mesh_pb2 as wire
from modelmesh._proto import open_inference_pb2 as v2
from modelmesh.testing.certificates import Authority
from modelmesh.testing.controlplane.api import Api, ApiError, path
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


@asynccontextmanager
async def files_served(cluster: Cluster) -> AsyncIterator[None]:
    """The files of models by HTTP, below `/files`."""
    application = web.Application()
    application.router.add_static("/files", cluster.claims / HOME / "models")
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, ADDRESS, FILES_PORT).start()
        yield
    finally:
        await runner.cleanup()


async def test_a_file_behind_an_address_is_served(cluster: Cluster) -> None:
    async with files_served(cluster):
        await cluster.apply(service("by-http", "", storageUri=f"http://{ADDRESS}:{FILES_PORT}/files/adder.onnx"))
        await cluster.until_status("InferenceService", "by-http", loaded)
        assert await answer(cluster, "by-http") == [[2.0, 3.0]]


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


async def test_f32_a_key_in_a_secret_of_its_own_is_mounted_and_used(cluster: Cluster) -> None:
    async with files_served(cluster):
        entry = json.dumps({"type": "http", "url": f"http://{ADDRESS}:{FILES_PORT}/files"})
        secret = {"kind": "Secret", "metadata": {"name": "storage-config-team"}, "stringData": {"web": entry}}
        other = {"kind": "Secret", "metadata": {"name": "storage-config-other"}, "stringData": {"web": entry}}
        await cluster.apply(secret, other)
        own = predictor("own-key", "")
        own["spec"]["storage"] = {"path": "adder.onnx", "key": "team:web"}
        await cluster.apply(own)
        await cluster.until_status("Predictor", "own-key", loaded, within_s=90)
        assert await answer(cluster, "own-key") == [[2.0, 3.0]]
        pod = await one_pod(cluster, lambda spec: "storage-config-team" in spec)
        assert "storage-config-other" not in json.dumps(pod["spec"]["volumes"])
        missing = predictor("no-key", "")
        missing["spec"]["storage"] = {"path": "adder.onnx", "key": "team:nothing"}
        await cluster.apply(missing)
        status = await cluster.until_status("Predictor", "no-key", lambda one: states(one)[0] == "FailedToLoad")
        assert "add the key nothing to the secret storage-config-team" in status["lastFailureInfo"]["message"]
    for name in ("own-key", "no-key"):
        await cluster.delete("Predictor", name)


async def one_pod(cluster: Cluster, holds: Callable[[str], bool]) -> Object:
    """The runtime's pod, once it is the only one, ready, and its spec (as JSON) is as it must be."""
    found: list[Object] = []

    async def alone() -> bool:
        found[:] = await cluster.runtime_pods(RUNTIME)
        return len(found) == 1 and is_ready(found[0]) and holds(json.dumps(found[0]["spec"]))

    await until(alone, "the pod was not replaced", within_s=90, why=cluster.said_by_controller)
    return found[0]


async def registers(address: str, model: str) -> grpc.StatusCode:
    """How an attempt to register a model ends."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/mmesh.ModelMesh/registerModel",
            request_serializer=wire.RegisterModelRequest.SerializeToString,
            response_deserializer=wire.ModelStatusInfo.FromString,
        )
        try:
            await call(wire.RegisterModelRequest(modelId=model, modelInfo=wire.ModelInfo(type="t")), timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def test_f31_management_at_a_port_of_its_own(cluster: Cluster) -> None:
    """Before, whoever could call models could also register and delete them."""
    await cluster.apply(predictor("before", "adder.onnx"))
    pod = await one_pod(cluster, lambda spec: "storage-config-team" not in spec)
    assert await registers(f"{pod['status']['podIP']}:8033", "by-anybody") == grpc.StatusCode.OK
    await cluster.configure(f"{CONFIG}managementPort: 8034\n")
    pod = await one_pod(cluster, lambda spec: '"containerPort": 8034' in spec)
    # The controller finds the port, and all that it does goes on.
    await cluster.apply(predictor("managed", "adder.onnx"))
    await cluster.until_status("Predictor", "managed", loaded)
    assert await answer(cluster, "managed") == [[2.0, 3.0]]
    address = pod["status"]["podIP"]
    assert await registers(f"{address}:8033", "by-a-client") == grpc.StatusCode.UNIMPLEMENTED
    assert await registers(f"{address}:8034", "by-an-operator") == grpc.StatusCode.OK
    for name in ("before", "managed"):
        await cluster.delete("Predictor", name)
    await cluster.configure(CONFIG)


async def test_a_budget_bounds_the_pods_that_are_evicted(cluster: Cluster) -> None:
    await cluster.apply(predictor("keeps-pods", "adder.onnx"))
    await cluster.configure(
        f"{CONFIG}podsPerRuntime: 2\ndisruptionBudget: {{maxUnavailable: 1}}\n".replace("podsPerRuntime: 1\n", "")
    )
    where = path("policy/v1", "poddisruptionbudgets", HOME, f"modelmesh-serving-{RUNTIME}")

    async def allows_one() -> bool:
        if [is_ready(pod) for pod in await cluster.runtime_pods(RUNTIME)] != [True, True]:
            return False
        try:
            status = (await cluster.api.get(where)).get("status", {})
        except ApiError:
            return False
        return (status.get("currentHealthy"), status.get("disruptionsAllowed")) == (2, 1)

    await until(allows_one, "the budget does not count two pods", within_s=90, why=cluster.said_by_controller)
    first, second = await cluster.runtime_pods(RUNTIME)

    async def evict(pod: Object) -> int:
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": HOME}}
        try:
            await cluster.api.create(path("v1", "pods", HOME, name, "eviction"), body)
        except ApiError as error:
            return error.status
        return 201

    assert await evict(first) == 201
    assert await evict(second) == 429
    await cluster.configure(CONFIG)

    async def gone() -> bool:
        try:
            await cluster.api.get(where)
        except ApiError as error:
            return error.status == 404
        return False

    await until(gone, "the budget stays", why=cluster.said_by_controller)
    await cluster.delete("Predictor", "keeps-pods")


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
