"""The layered configuration: what each layer may set, how values are read, and every problem with its field."""

import dataclasses

import pytest
from golden import configured
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.kubernetes.config import Layer, Reading, read_config
from modelmesh.kubernetes.config_keys import KEYS, Kind, Level
from modelmesh.kubernetes.quantities import parse_quantity, show_bytes


def read(*texts: str) -> Reading:
    """Layers from the cluster's upwards."""
    return read_config([Layer(Level(number), f"layer{number}", text) for number, text in enumerate(texts, 1)])


def problems(*texts: str) -> list[str]:
    return [str(problem) for problem in read(*texts).problems]


def test_without_layers_the_values_are_those_of_the_old_defaults() -> None:
    config = read_config().config
    assert config is not None
    assert (config.service_name, config.service_port, config.pods_per_runtime) == ("modelmesh-serving", 8033, 2)
    assert (config.rest_port, config.metrics_port, config.max_message_bytes) == (8008, 2112, 16777216)
    assert config.scale_to_zero
    assert config.scale_to_zero_grace_s == 60
    assert config.store_secret == "model-serving-etcd"


def test_a_higher_layer_wins_field_by_field() -> None:
    reading = read(
        "podsPerRuntime: 3\nmetrics: {port: 2222, scheme: http}\nrunTimePodLabels: {a: cluster, b: cluster}",
        "metrics: {port: 2223}\nruntimePodLabels: {b: namespace}",
        "podsPerRuntime: 4\nmodelMeshResources: {limits: {memory: 1Gi}}",
    )
    assert reading.problems == ()
    config = reading.config
    assert config is not None
    assert (config.pods_per_runtime, config.metrics_port, config.metrics_scheme) == (4, 2223, "http")
    assert config.pod_labels == {"a": "cluster", "b": "namespace"}
    assert config.mesh_resources.limits == {"cpu": "3", "memory": "1Gi"}


def test_the_order_in_which_layers_are_given_does_not_matter() -> None:
    layers = [Layer(Level.NAMESPACE, "n", "podsPerRuntime: 5"), Layer(Level.CLUSTER, "c", "podsPerRuntime: 3")]
    assert read_config(layers) == read_config(layers[::-1])
    assert read_config(layers).config.pods_per_runtime == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("managementPort: 8033", "managementPort: 8033 is taken by inferenceServicePort"),
        ("restProxy: {port: 8089}", "restProxy.port: 8089 is taken by probes"),
        ("metrics: {port: 8008}", "metrics.port: 8008 is taken by restProxy.port"),
    ],
)
def test_a_port_that_is_taken_gives_no_configuration(text: str, said: str) -> None:
    """No pod would start with it."""
    assert read(text).config is None
    assert problems(text) == [f"the configuration: {said}"]
    assert problems("restProxy: {enabled: false}\nmetrics: {port: 8008}") == []


def test_a_key_that_a_layer_may_not_set_is_a_problem_of_that_layer() -> None:
    assert problems("", "builtInServerTypes: [mine]") == [
        "layer2: builtInServerTypes: may be set up to the level cluster only"
    ]
    assert problems("", "", "tls: {secretName: other}") == [
        "layer3: tls.secretName: may be set up to the level namespace only"
    ]
    assert read("", "builtInServerTypes: [mine]").config is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("podsPerRuntime: many", "podsPerRuntime: must be a whole number, is many"),
        ("podsPerRuntime: 70000", "podsPerRuntime: must be 0 to 65535, is 70000"),
        ("metrics: {port: 0}", "metrics.port: must be 1 to 65535, is 0"),
        ("metrics: {scheme: ftp}", "metrics.scheme: must be one of http, https, is ftp"),
        ("disruptionBudget: {maxUnavailable: 0}", "disruptionBudget.maxUnavailable: must be a number of at least 1, or 1% to 100%, is 0"),
        ("disruptionBudget: {maxUnavailable: 101%}", "disruptionBudget.maxUnavailable: must be a number of at least 1, or 1% to 100%, is 101%"),
        ("disruptionBudget: {maxUnavailable: [1]}", "disruptionBudget.maxUnavailable: must be a number of at least 1, or 1% to 100%, is a list"),
        ("metrics: on", "metrics: must be a mapping, is true"),
        ("tls: {clientAuth: requird}", "tls.clientAuth: must be one of empty, optional, require, is requird"),
        ("headlessService: maybe", "headlessService: must be true or false, is maybe"),
        ("inferenceServiceName: My_Mesh", "inferenceServiceName: must be lower-case letters, digits and -, at most 63, is My_Mesh"),
        ("modelMeshResources: {limits: {memory: 1GB}}", "modelMeshResources.limits.memory: must be a quantity like 500m or 1Gi, is 1GB"),
        ("payloadProcessors: ['http://a b']", "payloadProcessors: holds an entry with a space: http://a b"),
        ("imagePullSecrets: [{nam: x}]", "imagePullSecrets[0].name: is required"),
        ("internalModelMeshEnvVars: [x]", "internalModelMeshEnvVars[0]: must be a mapping, is x"),
        ("runtimePodLabels: {a: 1}", "runtimePodLabels.a: must be a text, is 1; put it in quotes"),
        ("podsPerRuntime: 1\nPODSPERRUNTIME: 2", "PODSPERRUNTIME: is here twice, as podsPerRuntime too"),
        ("a: 1\n---\nb: 2", "holds 2 documents, must be one"),
    ],
)  # fmt: skip
def test_a_wrong_value_gives_no_configuration_and_names_its_field(text: str, said: str) -> None:
    reading = read(text)
    assert f"layer1: {said}" in [str(problem) for problem in reading.problems]
    assert reading.config is None


def test_text_that_is_no_yaml_gives_no_configuration() -> None:
    reading = read("a: [1")
    assert reading.config is None
    assert "layer1" in str(reading.problems[0])


def test_f33_a_key_that_nobody_reads_is_said_and_the_rest_counts() -> None:
    reading = read("podPerRuntime: 3\nmetrics: {prt: 1}\ninferenceServicePort: 9000")
    assert [problem.path for problem in reading.problems] == ["podPerRuntime", "metrics.prt"]
    assert not any(problem.fatal for problem in reading.problems)
    assert reading.config is not None
    assert reading.config.service_port == 9000


def test_keys_of_the_old_rest_proxy_are_passed_over_with_the_reason() -> None:
    reading = read("restProxy: {image: {name: x}, skipVerify: true, enabled: false}")
    assert {problem.path for problem in reading.problems} == {"restProxy.image", "restProxy.skipVerify"}
    assert reading.config is not None
    assert reading.config.rest_port is None


def test_f14_a_tag_of_a_higher_layer_drops_a_digest_of_a_lower_one() -> None:
    lower = 'modelMeshImage: {name: mirror/modelmesh, tag: "1", digest: "sha256:01"}'
    assert read(lower).config.mesh_image.reference == "mirror/modelmesh@sha256:01"
    assert read(lower, 'modelMeshImage: {tag: "2"}').config.mesh_image.reference == "mirror/modelmesh:2"
    assert (
        read(lower, "modelMeshImage: {name: other/modelmesh}").config.mesh_image.reference
        == "other/modelmesh@sha256:01"
    )


def test_f15_letters_of_labels_and_annotations_stay_as_they_are() -> None:
    config = configured("runtimePodLabels: {Team.Example/Name: Vision}\nrUnTiMePodAnnotations: {A.b/C: D}")
    assert config.pod_labels == {"Team.Example/Name": "Vision"}
    assert config.pod_annotations == {"A.b/C": "D"}


def test_numbers_flags_and_lists_may_be_texts_as_they_could_be() -> None:
    config = configured('inferenceServicePort: "9033"\nheadlessService: "False"\nbuiltInServerTypes: "triton, mine"')
    assert (config.service_port, config.headless, config.server_types) == (9033, False, ("triton", "mine"))


def test_the_old_name_of_the_etcd_secret_counts_where_the_setting_is_the_default() -> None:
    layer = [Layer(Level.CLUSTER, "c", "etcdSecretName: other")]
    assert read_config(layer).config.store_secret == "other"
    assert read_config(layer, store_secret="mine").config.store_secret == "mine"


def test_every_key_changes_the_configuration_or_is_said_to_have_no_effect() -> None:
    """A key in the table that nothing reads would be a promise that is not kept."""
    other = {
        Kind.TEXT: "other", Kind.NAME: "other", Kind.NUMBER: 7, Kind.QUANTITY: "7", Kind.STRINGS: ["other"],
        Kind.TEXTS: {"other": "x"}, Kind.VARIABLES: [{"name": "OTHER", "value": "x"}], Kind.SECRETS: [{"name": "other"}],
    }  # fmt: skip
    for key in KEYS:
        value = (
            (not key.default)
            if key.kind is Kind.FLAG
            else next((c for c in key.choices if c != key.default), other.get(key.kind))
        )
        nested = value
        for part in reversed(key.name.split(".")):
            nested = {part: nested}
        reading = read(
            str(nested).replace("'", '"').replace("True", "true").replace("False", "false").replace("None", "1")
        )
        if key.kind is Kind.NOTHING:
            assert [problem.message for problem in reading.problems] == [key.meaning]
            continue
        assert reading.problems == (), key.name
        assert reading.config != read_config().config, key.name


@given(st.text(max_size=80))
def test_no_text_raises(text: str) -> None:
    reading = read(text)
    assert (reading.config is None) == any(problem.fatal for problem in reading.problems)


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", "0.5"), ("1Gi", "1073741824"), ("1.5k", "1500"), (2, "2"), ("1e3", "1000"), ("0", "0"), ("100u", "0.0001")],
)  # fmt: skip
def test_quantities(text: object, number: str) -> None:
    assert str(parse_quantity(text).normalize() + 0) == str(type(parse_quantity(text))(number).normalize() + 0)


@pytest.mark.parametrize("text", ["1GB", "", "-1", "1 Gi", None, True, "m", "1e999", "Infinity", "0x10"])
def test_what_is_no_quantity(text: object) -> None:
    assert parse_quantity(text) is None


@given(st.integers(min_value=0, max_value=2**62))
def test_bytes_shown_are_read_as_the_same_number(count: int) -> None:
    from decimal import Decimal

    assert parse_quantity(show_bytes(Decimal(count))) == count


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        configured().headless = False
