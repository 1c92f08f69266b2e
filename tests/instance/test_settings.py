"""Settings: names, old names, defaults, errors, and the page that lists them."""

from pathlib import Path

import pytest

from modelmesh.instance.reference import page
from modelmesh.instance.settings import SettingsError, load_settings

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


def test_probes_can_be_turned_off_by_a_word() -> None:
    assert settings(MM_PROBE_PORT="NONE").probe_port == 0


def test_labels_are_a_sorted_list() -> None:
    assert settings(MM_LABELS=" gpu, big,").labels == ("big", "gpu")


def test_the_runtime_is_a_port_a_socket_or_where_it_has_always_been() -> None:
    assert settings(INTERNAL_GRPC_PORT="9").runtime_endpoint() == "127.0.0.1:9"
    assert settings(INTERNAL_GRPC_SOCKET_PATH="/x/y").runtime_endpoint() == "unix:///x/y"
    assert settings(INTERNAL_GRPC_PORT="9").runtime_serving_endpoint() == "127.0.0.1:9"
    assert settings(INTERNAL_GRPC_PORT="9", INTERNAL_SERVING_GRPC_PORT="8").runtime_serving_endpoint() == "127.0.0.1:8"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MM_SVC_GRPC_PORT", "-1"),
        ("MM_SVC_GRPC_MAX_MSG_SIZE", "0"),
        ("MM_MULTI_PARALLELISM", "0"),
        ("MM_INSTANCE_ID", "a,b"),
        ("MM_KVSTORE_PREFIX", "a b"),
        ("MM_TLS_CLIENT_AUTH", "sometimes"),
        ("MM_LOG_LEVEL", "loud"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        settings(**{name: value})


def test_the_reference_page_is_what_the_code_says() -> None:
    written = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
    assert written.read_text() == page(), "run: make docs"
