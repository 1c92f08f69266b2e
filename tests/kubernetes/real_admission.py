"""What a real API server takes and refuses, and with which sentence."""

import json
import re
from pathlib import Path

import pytest
import pytest_asyncio
from conftest import until
from golden import cases
from refused import MODELS, OTHERS, RUNTIMES, TAKEN, Manifest

from modelmesh.testing.controlplane.api import Api, ApiError, path
from modelmesh.testing.controlplane.plane import ControlPlane, ControlPlaneError

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "deploy" / "kubernetes" / "serving"
REFUSED = RUNTIMES | MODELS
pytestmark = pytest.mark.asyncio(loop_scope="session")

PLURALS = {
    **{
        kind: f"{kind.lower()}s"
        for kind in ("ServingRuntime", "Predictor", "InferenceService", "ClusterServingRuntime")
    },
    **{
        kind: f"{kind.lower()}s"
        for kind in ("Deployment", "Service", "ConfigMap", "Secret", "HorizontalPodAutoscaler", "PodDisruptionBudget")
    },
    "NetworkPolicy": "networkpolicies",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def namespace(plane: ControlPlane, serving: None) -> str:
    """For objects that are only tried."""
    await plane.kubectl("create", "namespace", "models")
    return "models"


async def tried(api: Api, manifest: Manifest, namespace: str) -> Manifest:
    """The object as the server would keep it."""
    where = path(manifest["apiVersion"], PLURALS[manifest["kind"]], namespace, manifest["metadata"]["name"])
    if manifest["kind"] == "ClusterServingRuntime":
        where = path(manifest["apiVersion"], PLURALS[manifest["kind"]], "", manifest["metadata"]["name"])
    return await api.apply(where, manifest, manager="tests", dry_run=True)


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_with_the_sentence(api: Api, namespace: str, name: str) -> None:
    manifest, sentence = REFUSED[name]
    with pytest.raises(ApiError) as refusal:
        await tried(api, manifest, namespace)
    assert refusal.value.status == 422
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("manifest", (TAKEN | OTHERS).values(), ids=TAKEN | OTHERS)
async def test_taken(api: Api, namespace: str, manifest: Manifest) -> None:
    kept = await tried(api, manifest, namespace)
    assert kept["spec"] == manifest["spec"]


async def test_a_new_predictor_has_the_status_of_one_that_nobody_has_looked_at(api: Api, namespace: str) -> None:
    kept = await tried(api, TAKEN["predictor"], namespace)
    assert kept["status"] == {
        "transitionStatus": "UpToDate",
        "activeModelState": "Pending",
        "targetModelState": "",
        "available": False,
        "failedCopies": 0,
        "totalCopies": 0,
    }


@pytest.mark.parametrize(("name", "objects"), list(cases()))
async def test_rendered_objects_are_taken_as_they_are(
    api: Api, namespace: str, name: str, objects: tuple[Manifest, ...]
) -> None:
    """With strict validation: no field is unknown to the server."""
    for one in objects:
        if one["kind"] != "ServiceMonitor":  # of the Prometheus operator, which is not here
            await tried(api, one, namespace)


KEYS = {
    "service": ("InferenceService", {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storage": {"path": "p", "key": "KEY"}}}}, {}),
    "annotation": (
        "InferenceService",
        {"predictor": {"onnx": {"storageUri": "s3://bucket/p"}}},
        {"serving.kserve.io/secretKey": "KEY"},
    ),
    "predictor": ("Predictor", {"modelType": {"name": "onnx"}, "storage": {"path": "p", "key": "KEY"}}, {}),
    "old predictor": ("Predictor", {"modelType": {"name": "onnx"}, "path": "p", "storage": {"s3": {"secretKey": "KEY"}}}, {}),
}  # fmt: skip


@pytest.mark.parametrize("form", KEYS)
async def test_f32_only_who_may_read_a_secret_may_name_it(plane: ControlPlane, namespace: str, form: str) -> None:
    """Before, whoever could create a model could use every key of the namespace."""
    kind, spec, annotations = KEYS[form]
    version = "v1beta1" if kind == "InferenceService" else "v1alpha1"
    user = f"user-{form.replace(' ', '-')}"
    models = "--resource=inferenceservices.serving.kserve.io,predictors.serving.kserve.io"
    await plane.kubectl("-n", namespace, "create", "role", user, "--verb=create,get,update,patch,delete", models)
    await plane.kubectl("-n", namespace, "create", "rolebinding", user, f"--role={user}", f"--user={user}")

    async def apply(key: str, *, by: str = user, note: str = "", mode: str = "ModelMesh") -> str:
        notes = {"serving.kserve.io/deploymentMode": mode, **annotations, **({"note": note} if note else {})}
        body = {"apiVersion": f"serving.kserve.io/{version}", "kind": kind, "metadata": {"name": user}, "spec": spec}
        body["metadata"] = {"name": user, "annotations": notes}
        given = json.dumps(body).replace("KEY", key)
        who = ("--as", by) if by else ()
        return await plane.kubectl("-n", namespace, *who, "apply", "-f", "-", given=given)

    async def refused() -> bool:
        try:
            await apply("team:bucket")
        except ControlPlaneError as error:
            return "storage.key: names the Secret storage-config-team, which you may not read" in str(error)
        await plane.kubectl("-n", namespace, "delete", kind, user)
        return False

    await until(refused, "a Secret that the user may not read could be named")
    await apply("bucket")
    for mode in ("ModelMesh", "RawDeployment"):  # otherwise a change of the mode would bring the key into the mesh
        with pytest.raises(ControlPlaneError, match="which you may not read"):
            await apply("team:bucket", mode=mode)
    await apply("team:bucket", by="")  # the administrator may
    await apply("team:bucket", note="others may change what has nothing to do with it")
    with pytest.raises(ControlPlaneError, match="storage-config-other, which you may not read"):
        await apply("other:bucket")
    reading = ("--resource=secrets", "--resource-name=storage-config-other", "--verb=get")
    await plane.kubectl("-n", namespace, "create", "role", f"{user}-reads", *reading)
    await plane.kubectl(
        "-n", namespace, "create", "rolebinding", f"{user}-reads", f"--role={user}-reads", f"--user={user}"
    )

    async def taken() -> bool:
        try:
            await apply("other:bucket")
        except ControlPlaneError:
            return False
        return True

    await until(taken, "who may read the Secret could not name it")
    await plane.kubectl("-n", namespace, "delete", kind, user)


async def test_the_shipped_runtimes_are_taken(plane: ControlPlane, serving: None) -> None:
    said = await plane.kubectl("apply", "--dry-run=server", "-k", str(ROOT / "src/modelmesh/instance/runtimes"))
    assert said.count("created (server dry run)") == 5


@pytest.mark.parametrize("overlay", ["serving-quickstart", "serving-namespace-scope"])
async def test_all_that_is_installed_is_taken(plane: ControlPlane, api: Api, serving: None, overlay: str) -> None:
    if not any(one["metadata"]["name"] == "modelmesh-serving" for one in await api.items(path("v1", "namespaces"))):
        await plane.kubectl("create", "namespace", "modelmesh-serving")
    folder = ROOT / "deploy" / "kubernetes" / "overlays" / overlay
    said = await plane.kubectl("apply", "--server-side", "--dry-run=server", "-k", str(folder))
    assert "deployment.apps/modelmesh-controller serverside-applied (server dry run)" in said
    assert said.count("runtime.serving.kserve.io/") == 5
    assert ("secret/model-serving-etcd" in said) == (overlay == "serving-quickstart")


async def test_the_manifests_of_the_page_are_taken(plane: ControlPlane, serving: None) -> None:
    page = (ROOT / "docs" / "how-to" / "serve-on-kubernetes.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    # A part of a manifest names no kind, and KEDA's definitions are not installed here.
    whole = [block for block in blocks if "\nkind: " in block and "keda.sh/" not in block]
    assert (len(whole), len(blocks)) == (3, 6)
    for block in whole:
        manifest = block.replace("namespace: modelmesh-serving", "namespace: default")
        await plane.kubectl("apply", "--dry-run=server", "-f", "-", given=manifest)


async def test_the_server_finds_nothing_to_warn_of_in_the_expressions(api: Api, serving: None) -> None:
    found: dict[str, Manifest] = {}

    async def checked() -> bool:
        policies = await api.items(path("admissionregistration.k8s.io/v1", "validatingadmissionpolicies"))
        found.update({policy["metadata"]["name"]: policy.get("status", {}).get("typeChecking") for policy in policies})
        return None not in found.values()

    await until(checked, "the types of the policies' expressions were not checked")
    names = ("runtimes", "inference-services", "inference-service-secrets", "predictor-secrets")
    assert found == {f"modelmesh-{name}": {} for name in names}
