"""Defects of the archived controller that concern what is rendered (spec/serving-controller.md 10.2): each would fail there."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from golden import PLAIN, configured, runtimes, shipped
from refused import RUNTIME, runtime

from modelmesh.declared import Runtime
from modelmesh.kubernetes.render import (
    StoreSecretError,
    check_runtime,
    deployment_name,
    render_namespace,
    render_runtime,
    scaling,
)
from modelmesh.kubernetes.render.helper_containers import image_tag

Object = dict[str, Any]
DEPLOY = Path(__file__).parents[2] / "deploy"


def declared(manifest: Object) -> Runtime:
    (found,) = runtimes(json.dumps(manifest))
    return found


def deployment(manifest: Object, text: str = "", **options: Any) -> Object:
    return render_runtime(declared(manifest), configured(text), namespace="models", **({"replicas": 1} | options))[0]


def pod(manifest: Object, text: str = "", **options: Any) -> Object:
    found: Object = deployment(manifest, text, **options)["spec"]["template"]["spec"]
    return found


def test_f3_a_runtime_with_an_autoscaler_gets_its_deployment_before_there_are_pods_to_scale() -> None:
    manifest = runtime(annotations={"autoscalerClass": "hpa", "min-scale": "2"})
    asked = scaling(declared(manifest))
    assert asked is not None
    first = render_runtime(declared(manifest), configured(), namespace="models", replicas=asked.least)
    assert [one["kind"] for one in first] == ["Deployment", "HorizontalPodAutoscaler"]
    assert first[0]["spec"]["replicas"] == 2
    assert "replicas" not in deployment(manifest, replicas=None)["spec"]


def test_f17_a_runtime_without_pods_has_no_autoscaler() -> None:
    manifest = runtime(annotations={"autoscalerClass": "hpa"})
    assert len(render_runtime(declared(manifest), configured(), namespace="models", replicas=0)) == 1


def test_f4_a_required_node_affinity_stays_required() -> None:
    gpu = {"key": "gpu", "operator": "Exists"}
    given = {"nodeSelectorTerms": [{"matchExpressions": [gpu]}, {"matchFields": [{"key": "metadata.name"}]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": given}, "podAntiAffinity": {"x": []}}
    found = pod(runtime(affinity=affinity))["affinity"]
    terms = found["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert gpu in terms[0]["matchExpressions"]
    assert terms[1]["matchFields"] == [{"key": "metadata.name"}]
    assert all(term["matchExpressions"][-1]["key"] == "kubernetes.io/arch" for term in terms)
    assert found["podAntiAffinity"] == {"x": []}


def test_f11_the_same_input_gives_the_same_objects() -> None:
    """So that a comparison with what was applied says whether anything must be written."""
    config, all_runtimes = configured(), [shipped("triton-2.x"), shipped("mlserver-1.x")]
    first = render_namespace("models", config, all_runtimes, controller="modelmesh-serving", service_monitors=True)
    assert first == render_namespace(
        "models", config, all_runtimes[::-1], controller="modelmesh-serving", service_monitors=True
    )
    claims = ["b", "a", "b"]
    assert pod(RUNTIME, claims=claims) == pod(RUNTIME, claims=["a", "b"])


def secret(**data: object) -> dict[str, str]:
    texts = {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in data.items()}
    return {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}


def test_f12_the_copy_of_the_etcd_secret_has_the_certificates_that_it_names() -> None:
    connection = {"endpoints": "https://etcd:2379", "root_prefix": "root", "certificate_file": "ca.crt"}
    given = secret(etcd_connection=connection, **{"ca.crt": "PEM", "other": "not named"})
    copy = render_namespace(
        "models", configured(), [shipped("mlserver-1.x")], controller="modelmesh-serving", store=given
    )[-1]
    assert copy["kind"] == "Secret"
    assert set(copy["data"]) == {"etcd_connection", "ca.crt"}
    assert copy["data"]["ca.crt"] == given["ca.crt"]
    assert json.loads(base64.b64decode(copy["data"]["etcd_connection"]))["root_prefix"] == "root/mm_ns/models"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "has no key etcd_connection"),
        (secret(etcd_connection="{"), "etcd_connection is no JSON"),
        (secret(etcd_connection={"endpoints": ["a"]}), "must be a JSON object of texts"),
        (secret(etcd_connection={"root_prefix": "a"}), "names no endpoints"),
        (
            secret(etcd_connection={"endpoints": "a", "client_key_file": "key"}),
            "client_key_file names a key that the Secret does not have",
        ),
    ],
)
def test_an_etcd_secret_that_cannot_be_used_is_said_without_its_content(given: dict[str, str], said: str) -> None:
    with pytest.raises(StoreSecretError, match=said):
        render_namespace("models", configured(), [shipped("mlserver-1.x")], controller="modelmesh-serving", store=given)


@pytest.mark.parametrize(
    ("image", "tag"),
    [
        ("server:1.2", "1.2"),
        ("registry.example:5000/team/server:1.2", "1.2"),
        ("registry.example:5000/server", ""),
        ("server:1.2@sha256:0123", "1.2"),
        ("server@sha256:0123", ""),
    ],
)
def test_f18_the_version_of_a_server_is_the_tag_of_its_image(image: str, tag: str) -> None:
    assert image_tag(image) == tag
    (adapter,) = [
        one for one in pod(runtime(container={"image": image}))["containers"] if one["name"] == "mlserver-adapter"
    ]
    versions = [variable["value"] for variable in adapter["env"] if variable["name"] == "RUNTIME_VERSION"]
    assert versions == ([tag] if tag else [])


def test_f19_the_instance_starts_last_and_all_others_end_after_it() -> None:
    containers = pod(runtime(builtInAdapter=None))["containers"]
    assert [one["name"] for one in containers] == ["mlserver", "puller", "mm"]
    for one in containers[:-1]:
        assert one["lifecycle"] == {"preStop": {"httpGet": {"path": "/prestop", "port": 8090}}}
    assert all(one["securityContext"] == {"capabilities": {"drop": ["ALL"]}} for one in containers)


def test_f27_any_name_of_a_claim_gives_volumes_that_kubernetes_takes() -> None:
    claims = ["plain", "with.dots", "x" * 70, "models-dir", "mine"]
    spec = pod(runtime(volumes=[{"name": "mine", "emptyDir": {}}]), claims=claims)
    names = [volume["name"] for volume in spec["volumes"]]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 and "." not in name for name in names)
    mounted = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert {f"/pvc_mounts/{claim}" for claim in claims} <= mounted
    assert "plain" in names


@pytest.mark.parametrize("port", [7033, 7008, 7112])
def test_f29_ports_of_the_configuration_are_reserved_too(port: int) -> None:
    manifest = declared(runtime(container={"ports": [{"containerPort": port}]}))
    moved = "inferenceServicePort: 7033\nrestProxy: {port: 7008}\nmetrics: {port: 7112}"
    assert check_runtime(manifest, configured()) == ()
    (problem,) = check_runtime(manifest, configured(moved))
    assert problem.path == "spec.containers[0].ports[0].containerPort"


def test_f30_a_name_that_is_too_long_is_said_before_anything_is_applied() -> None:
    config = configured(f"inferenceServiceName: {'m' * 40}")
    long = runtime()
    long["metadata"]["name"] = "r" * 30
    assert len(deployment_name(declared(long), config)) > 63
    (problem,) = check_runtime(declared(long), config)
    assert str(problem) == (
        "runtimes.yaml:1: ServingRuntime "
        + "r" * 30
        + ": metadata.name: is longer than 22 characters, which a Deployment's name has"
        " no room for"
    )


def test_f31_a_network_policy_opens_the_configured_ports_and_no_others() -> None:
    moved = "inferenceServicePort: 9033\nrestProxy: {port: 9008}\nmetrics: {enabled: false}"
    policy = next(
        one
        for one in render_namespace("models", configured(moved), [], controller="modelmesh-serving")
        if one["kind"] == "NetworkPolicy"
    )
    assert policy["metadata"]["namespace"] == "models"
    anybody, instances = policy["spec"]["ingress"]
    assert [port["port"] for port in anybody["ports"]] == [9033, 9008]
    assert "from" not in anybody
    assert instances["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    assert [port["port"] for port in instances["ports"]] == [8080]


def test_f31_management_with_a_port_of_its_own_is_open_to_the_controller_alone() -> None:
    text = "managementPort: 8034"
    service, policy = render_namespace("models", configured(text), [], controller="home")
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]}["management"] == 8034
    anybody, _instances, controller = policy["spec"]["ingress"]
    assert 8034 not in [port["port"] for port in anybody["ports"]]
    assert [port["port"] for port in controller["ports"]] == [8034]
    (source,) = controller["from"]  # one entry with both: pods of that name in that namespace
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "home"}
    labels = yaml.safe_load_all((DEPLOY / "kubernetes" / "serving" / "controller" / "deployment.yaml").read_text())
    pods = next(item for item in labels if item["kind"] == "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert source["podSelector"]["matchLabels"].items() <= pods.items()
    (instance,) = [one for one in pod(RUNTIME, text)["containers"] if one["name"] == "mm"]
    assert {variable["name"]: variable.get("value") for variable in instance["env"]}["MM_MANAGEMENT_PORT"] == "8034"
    assert {"name": "management", "containerPort": 8034} in instance["ports"]


def test_f38_readiness_is_asked_by_the_name_in_the_message() -> None:
    (config_map,) = [
        one
        for one in render_namespace("models", configured(), [declared(RUNTIME)], controller="modelmesh-serving")
        if one["kind"] == "ConfigMap"
    ]
    methods = json.loads(base64.b64decode(config_map["binaryData"]["dataplane_api_config"]))["rpcConfigs"]
    assert methods["inference.GRPCInferenceService/ModelReady"] == {"idExtractionPath": [1], "vModelId": True}


def test_a_missing_storage_secret_does_not_keep_pods_from_starting() -> None:
    (volume,) = [one for one in pod(RUNTIME)["volumes"] if one["name"] == "storage-config"]
    assert volume["secret"]["optional"] is True


def test_labels_of_authors_do_not_take_the_pods_away_from_their_deployment() -> None:
    found = deployment(runtime(labels={"name": "mine", "team": "vision"}))
    labels, selector = found["spec"]["template"]["metadata"]["labels"], found["spec"]["selector"]["matchLabels"]
    assert labels.items() >= selector.items()
    assert labels["team"] == "vision"


@pytest.mark.parametrize(
    "broken", [{"resources": None}, {"resources": {"limits": None}}, {"resources": {"limits": {"memory": "much"}}}]
)
def test_odd_fields_of_containers_do_not_break_the_controller(broken: Object) -> None:
    """The API server refuses what is wrong with a pod, when the Deployment is applied."""
    (models,) = [one for one in pod(runtime(container=broken))["volumes"] if one["name"] == "models-dir"]
    assert models["emptyDir"] == {}


def test_without_rest_and_metrics_there_are_no_ports_for_them() -> None:
    service, _policy = render_namespace("models", configured(PLAIN), [], controller="modelmesh-serving")
    assert [port["name"] for port in service["spec"]["ports"]] == ["grpc"]
    (instance,) = [one for one in pod(RUNTIME, PLAIN)["containers"] if one["name"] == "mm"]
    assert [port["name"] for port in instance["ports"]] == ["grpc"]
    assert {variable["name"]: variable.get("value") for variable in instance["env"]}["MM_METRICS"] == "disabled"


def test_f37_nothing_that_must_run_stands_before_a_change_of_a_runtime() -> None:
    """The API server itself refuses what cannot work; a webhook of one pod kept runtimes from being edited while it was away."""
    kinds = [
        item["kind"]
        for file in sorted(DEPLOY.rglob("*.yaml"))
        if "templates" not in file.parts
        for item in yaml.safe_load_all(file.read_text())
        if isinstance(item, dict) and "kind" in item
    ]
    assert "ValidatingAdmissionPolicy" in kinds
    assert [kind for kind in kinds if "Webhook" in kind] == []


def storage_volume(text: str, **options: Any) -> Object:
    found = pod(RUNTIME, text, **options)["volumes"]
    volume: Object = next(one for one in found if one["name"] == "storage-config")
    return volume


def test_f32_a_pod_reads_the_storage_keys_that_its_models_name() -> None:
    assert storage_volume("", storage_keys=["b", "a"])["secret"] == {"secretName": "storage-config", "optional": True}
    needed = storage_volume("storageKeys: needed", storage_keys=["b", "a", "b"])
    assert needed["secret"] == {
        "secretName": "storage-config",
        "optional": True,
        "items": [{"key": "a", "path": "a"}, {"key": "b", "path": "b"}],
    }
    assert storage_volume("storageKeys: needed") == {"name": "storage-config", "emptyDir": {}}


def test_f32_a_key_that_no_secret_can_have_does_not_break_the_pods_of_other_models() -> None:
    """The API server refuses a Deployment that mounts a key like one of these."""
    wrong = ["../etc", "a/b", "", "..", "..a", "a b", "x" * 254, "Team:key", "a:b:c", "team:", ":key", "team:../x"]
    needed = storage_volume("storageKeys: needed", storage_keys=["a", *wrong])
    assert needed["secret"]["items"] == [{"key": "a", "path": "a"}]


def test_f32_a_model_may_have_its_key_in_a_secret_of_its_own() -> None:
    volume = storage_volume("", storage_keys=["a", "team-b:x", "team-a:y", "team-a:x"])
    own = [
        {
            "secret": {
                "name": "storage-config-team-a",
                "optional": True,
                "items": [{"key": "x", "path": "team-a:x"}, {"key": "y", "path": "team-a:y"}],
            }
        },
        {
            "secret": {
                "name": "storage-config-team-b",
                "optional": True,
                "items": [{"key": "x", "path": "team-b:x"}],
            }
        },
    ]
    assert volume["projected"]["sources"] == [{"secret": {"name": "storage-config", "optional": True}}, *own]
    needed = storage_volume("storageKeys: needed", storage_keys=["a", "team-b:x"])
    shared = {"name": "storage-config", "optional": True, "items": [{"key": "a", "path": "a"}]}
    assert needed["projected"]["sources"] == [{"secret": shared}, own[1]]
    assert storage_volume("storageKeys: needed", storage_keys=["team-b:x"])["projected"]["sources"] == [own[1]]


def test_a_runtime_has_a_disruption_budget_if_the_configuration_says_so() -> None:
    def budgets(text: str, replicas: int | None = 2) -> list[Object]:
        found = render_runtime(declared(RUNTIME), configured(text), namespace="models", replicas=replicas)
        return [one for one in found if one["kind"] == "PodDisruptionBudget"]

    assert budgets("") == []
    (number,) = budgets("disruptionBudget: {maxUnavailable: 1}")
    assert number["spec"]["maxUnavailable"] == 1
    assert number["spec"]["selector"] == deployment(RUNTIME)["spec"]["selector"]
    (share,) = budgets("disruptionBudget: {maxUnavailable: 25%}", None)
    assert share["spec"]["maxUnavailable"] == "25%"
