"""Settings: names, old names, defaults, errors, and the page that lists them."""

import re
from pathlib import Path

import pytest

from modelmesh import __version__
from modelmesh.instance import endpoint_settings, sources
from modelmesh.instance.reference import page
from modelmesh.instance.settings import Settings, SettingsError
from modelmesh.instance.sources import environment_names, load_settings, remarks
from modelmesh.values.legacy import WITHOUT_EFFECT

LEAST = {"MM_SERVICE_NAME": "s", "KV_STORE": "sqlite:x"}


def settings(**environment: str):
    return load_settings({**LEAST, **environment})


def test_the_least_that_must_be_set() -> None:
    given = settings()
    assert (given.serving_port, given.probe_port, given.kv_prefix) == (8033, 8089, "tas-runtime")
    assert given.max_message_bytes == 16 << 20
    with pytest.raises(SettingsError, match="MM_SERVICE_NAME is required; KV_STORE is required"):
        load_settings({})


def test_old_names_are_understood_and_the_new_ones_win() -> None:
    assert settings(TAS_SVC_GRPC_PORT="1").serving_port == 1
    assert settings(TAS_SVC_GRPC_PORT="1", MM_SVC_GRPC_PORT="2").serving_port == 2
    assert load_settings({"TAS_SERVICE_NAME": "old", "KV_STORE": "sqlite:x"}).service_name == "old"


def test_an_empty_variable_is_not_set() -> None:
    assert settings(MM_SVC_GRPC_PORT="").serving_port == 8033


def test_the_instance_id_is_given_or_the_end_of_the_pod_name_or_drawn() -> None:
    assert settings(MM_INSTANCE_ID="me").resolved_instance_id() == "me"
    assert settings(WKUBE_POD_NAME="modelmesh-serving-5d7f8c9b4-x2x7q").resolved_instance_id() == "f8c9b4-x2x7q"
    assert len(settings().resolved_instance_id()) == 12


def test_a_negative_header_size_is_the_default_as_it_was() -> None:
    assert settings(MM_SVC_GRPC_MAX_HEADERS_SIZE="-1").max_header_bytes == 65_536
    assert settings(MM_SVC_GRPC_MAX_HEADERS_SIZE="8192").max_header_bytes == 8192


def test_probes_can_be_turned_off_by_a_word() -> None:
    assert settings(MM_PROBE_PORT="NONE").probe_port == 0


def test_labels_are_a_sorted_list() -> None:
    assert settings(MM_LABELS=" gpu, big,").labels == ("big", "gpu")


def test_the_runtime_is_a_port_a_socket_or_where_it_has_always_been() -> None:
    assert settings(INTERNAL_GRPC_PORT="9").runtime_endpoints() == ("127.0.0.1:9",)
    assert settings(INTERNAL_GRPC_SOCKET_PATH="/x/y").runtime_endpoints() == ("unix:///x/y",)
    assert settings().runtime_endpoints() == ("unix:///tmp/mmesh/grpc.sock", "127.0.0.1:8085")
    assert settings(INTERNAL_GRPC_PORT="9").runtime_serving_endpoint() is None
    assert settings(INTERNAL_GRPC_PORT="9", INTERNAL_SERVING_GRPC_PORT="8").runtime_serving_endpoint() == "127.0.0.1:8"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MM_SVC_GRPC_PORT", "-1"),
        ("MM_SVC_GRPC_MAX_MSG_SIZE", "0"),
        ("MM_MULTI_PARALLELISM", "0"),
        ("MM_INSTANCE_ID", "a,b"),
        ("MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS", "9223372036854775807"),
        ("SHUTDOWN_TIMEOUT_MS", "soon"),
        ("MM_PRESTOP_WAIT_PORT", "http"),
        ("MM_KVSTORE_PREFIX", "a b"),
        ("MM_TLS_CLIENT_AUTH", "sometimes"),
        ("MM_LOG_LEVEL", "loud"),
        ("MM_REST_ORIGINS", "app.example.org"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        settings(**{name: value})


def test_the_reference_page_is_what_the_code_says() -> None:
    written = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
    assert written.read_text() == page(), "run: make docs"


def test_a_file_says_the_same_with_readable_names(tmp_path: Path) -> None:
    file = tmp_path / "instance.toml"
    file.write_text(
        """
        service_name = "s"
        kv_store = "sqlite:x"   # a comment
        labels = ["gpu", "big"]
        serving_port = 9
        probe_port = "NONE"
        read_only = true
        [type_constraints.vision]
        required = ["gpu"]
        """
    )
    given = load_settings({}, config=file)
    assert (given.service_name, given.labels, given.serving_port) == ("s", ("big", "gpu"), 9)
    assert (given.probe_port, given.read_only) == (0, True)
    assert given.type_constraints == '{"vision": {"required": ["gpu"]}}'
    assert load_settings({"MM_SVC_GRPC_PORT": "10"}, config=file).serving_port == 10
    assert load_settings({"TAS_SVC_GRPC_PORT": "11"}, config=file).serving_port == 11
    assert load_settings({"MM_SVC_GRPC_PORT": "10"}, config=file, serving_port=12).serving_port == 12


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"service_nam = 's'", "service_nam is not a setting; did you mean service_name?"),
        (b"[broken", "is not TOML"),
        (b"service_name = '\xff'", "is not TOML"),
        (b"serving_port = 'x'", "instance.toml: serving_port: "),
        (b"#" * (2 << 20), "is larger than"),
        (None, "cannot read the configuration file"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "instance.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=re.escape(said)):
        load_settings(LEAST, config=file)


def test_old_and_unknown_names_are_said() -> None:
    assert remarks(
        {
            "TAS_SVC_GRPC_PORT": "1",
            "MM_SVC_GRPC_PORT": "2",
            "MM_TRUST_CERTS": "x",
            "MM_SVC_GRPC_PROT": "3",
            "MM_NOTHING_LIKE_IT": "4",
            "HEAP_SIZE_MB": "5",
            "MM_SERVICE_CLASS": "",
            "LITELINKS_SSL_CLIENTAUTH": "6",
            "PATH": "/bin",
        }
    ) == [
        "HEAP_SIZE_MB has no effect: it tuned the Java virtual machine, and there is none",
        "LITELINKS_SSL_CLIENTAUTH has no effect: TLS between instances comes from MM_TLS_* and MM_INTERNAL_TRUST_CERTS",
        "MM_NOTHING_LIKE_IT is not a setting",
        "MM_SVC_GRPC_PROT is not a setting; did you mean MM_SVC_GRPC_PORT?",
        "MM_TRUST_CERTS is an old name; use MM_INTERNAL_TRUST_CERTS",
        "TAS_SVC_GRPC_PORT is an old name; use MM_SVC_GRPC_PORT, which is set and wins",
    ]


def test_no_name_is_both_a_setting_and_without_effect() -> None:
    known = {name for field in Settings.model_fields for name in environment_names(field)}
    assert not known & set(WITHOUT_EFFECT)


def test_etc_environment_is_below_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text('# comment\nMM_ZONE="a b" # why\nexport MM_LOCATION=c\nMM_LABELS=d\nnot a line\nMM_X="unbalanced\n')
    monkeypatch.setattr(sources, "ENVIRONMENT_FILE", file)
    monkeypatch.setenv("MM_LABELS", "e")
    monkeypatch.setenv("MM_LOCATION", "")  # counts as not set
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    given = load_settings()
    assert (given.zone, given.location, given.labels) == ("a b", "c", ("e",))


def test_in_kubernetes_the_pod_must_be_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(endpoint_settings, "KUBERNETES", tmp_path)
    with pytest.raises(SettingsError, match="WKUBE_POD_NAME is required in Kubernetes"):
        settings()
    with pytest.raises(SettingsError, match="WKUBE_POD_IPADDR is required in Kubernetes"):
        settings(WKUBE_POD_NAME="p")
    given = settings(WKUBE_POD_NAME="p", WKUBE_POD_IPADDR="10.0.0.7", WKUBE_NODE_IP="10.0.0.1")
    assert (given.resolved_peer_port(), given.resolved_address(), given.resolved_location()) == (
        8080,
        "10.0.0.7",
        "10.0.0.1",
    )
    assert given.resolved_termination_message_path() == Path("/dev/termination-log")


def test_the_version_is_given_or_in_a_file_or_ours(tmp_path: Path) -> None:
    assert settings(SERVICE_VERSION="1").resolved_version() == "1"
    assert settings(MM_INSTALL_PATH=str(tmp_path)).resolved_version() == __version__
    (tmp_path / "build-version").write_text("buildId=20240101-abcde and more\n")
    assert settings(MM_INSTALL_PATH=str(tmp_path)).resolved_version() == "20240101-abcde"


def test_the_shutdown_time_may_have_a_second_number() -> None:
    assert settings(SHUTDOWN_TIMEOUT_MS="90000,4000").shutdown_timeout_ms == 90_000


def test_two_listeners_cannot_share_a_port() -> None:
    with pytest.raises(SettingsError, match="MM_PROBE_PORT and MM_PRESTOP_WAIT_PORT are both 9"):
        settings(MM_PROBE_PORT="9", MM_PRESTOP_WAIT_PORT="9")
    assert settings(MM_PROBE_PORT="NONE", MM_PRESTOP_WAIT_PORT="0").prestop_port == 0


def test_management_may_have_a_port_of_its_own() -> None:
    assert settings().management_port == 0
    assert settings(MM_MANAGEMENT_PORT="8034").management_port == 8034
    assert settings(MM_MANAGEMENT_PORT="NONE").management_port == 0
    with pytest.raises(SettingsError, match="MM_SVC_GRPC_PORT and MM_MANAGEMENT_PORT are both 8033"):
        settings(MM_MANAGEMENT_PORT="8033")


def test_the_rest_port_has_its_old_name_and_is_off_in_kubernetes_until_it_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert settings().resolved_rest_port() == 8008
    assert settings(REST_PROXY_LISTEN_PORT="9").resolved_rest_port() == 9
    assert settings(MM_REST_PORT="NONE").resolved_rest_port() == 0
    assert settings(MM_REST_ORIGINS="https://a.b, http://c:1").rest_origins == ("https://a.b", "http://c:1")
    with pytest.raises(SettingsError, match="MM_SVC_GRPC_PORT and MM_REST_PORT are both 8033"):
        settings(MM_REST_PORT="8033")
    monkeypatch.setattr(endpoint_settings, "KUBERNETES", tmp_path)
    pod = {"WKUBE_POD_NAME": "p", "WKUBE_POD_IPADDR": "10.0.0.1"}
    assert settings(**pod).resolved_rest_port() == 0
    assert settings(**pod, MM_REST_PORT="8008").resolved_rest_port() == 8008


def test_zookeeper_is_told_to_be_gone() -> None:
    with pytest.raises(SettingsError, match="ZooKeeper is no longer supported"):
        load_settings({"MM_SERVICE_NAME": "s", "ZOOKEEPER": "z:2181"})


def test_a_secret_is_not_printed() -> None:
    given = settings(MM_TLS_PRIVATE_KEY_PATH="k", MM_TLS_KEY_CERT_PATH="c", MM_TLS_PRIVATE_KEY_PASSPHRASE="geheim")
    assert "geheim" not in repr(given)
