"""Every name of the old system's outside is there, or listed with a reason."""

import re
from functools import cache
from pathlib import Path

import pytest
from compatibility import PAGE, STATES, Row, load, page

from modelmesh.instance.settings import Settings
from modelmesh.instance.sources import environment_names, load_settings, remarks
from modelmesh.values.legacy import WITHOUT_EFFECT, full_names

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
SECTIONS, AWAITED = load()
ROWS = [row for section in SECTIONS.values() for row in section.rows]


@cache
def code() -> str:
    """All our code as text, tests aside."""
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "crates").rglob("*.rs"), *(ROOT / "deploy" / "image").iterdir()]
    return "\n".join(path.read_text() for path in sources if "_proto" not in path.parts)


@cache
def reference(name: str) -> str:
    return (REFERENCE / name).read_text()


def is_there(row: Row) -> bool:
    """Whether code and pages have it; only asked for names that should be."""
    match row.kind:
        case "variable":
            return any(row.name in environment_names(field) for field in Settings.model_fields)
        case "config":
            return f'"{row.name}"' in code()
        case "header":
            return f"`{row.name}`" in reference("headers.md") and f'"{row.name}"' in code()
        case "port":
            return bool(re.search(rf"\| {row.name} \|", reference("ports.md")))
        case "endpoint":
            return f"`{row.name}`" in reference("ports.md") and f'"{row.name}"' in code()
        case "service":
            return row.name in code() or not row.name.islower()
        case "status":
            return row.name in code()
        case "metric":
            return row.name in reference("metrics.md")
        case _:
            return True


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}:{row.name}")
def test_each_name_is_there_or_has_a_reason(row: Row) -> None:
    assert row.state in STATES
    if row.state != "same":
        assert row.note, "a reason is missing"
    if row.kind == "metric" and "metrics.md" in AWAITED and not (REFERENCE / "metrics.md").exists():
        pytest.skip("the metrics page is awaited")
    if row.state == "gone":
        assert row.kind != "variable" or not is_there(row), f"{row.name} is said to be gone, and is a setting"
    elif row.kind != "status" and ("/" in row.name.lstrip("/") or " " in row.name.strip()):
        return  # a description, or a path that the image's own test looks at
    elif row.name not in AWAITED:
        assert is_there(row)


def test_names_that_are_said_to_do_nothing_are_listed_as_gone() -> None:
    gone = " ".join(row.name for row in SECTIONS["variable"].rows if row.state == "gone")
    for name in WITHOUT_EFFECT:
        assert name in gone


def test_old_names_of_settings_are_listed() -> None:
    listed = {row.name for row in SECTIONS["variable"].rows}
    for field in Settings.model_fields:
        for old in environment_names(field)[1:]:
            assert old in listed, f"{old} is understood and not listed"


def test_what_the_serving_controller_sets_is_understood() -> None:
    """The environment of the container `mm` in a runtime Deployment of modelmesh-serving."""
    environment = {
        "MM_SERVICE_NAME": "modelmesh-serving",
        "MM_SVC_GRPC_PORT": "8033",
        "WKUBE_POD_NAME": "modelmesh-serving-mlserver-1.x-5d7f8c9b4-x2x7q",
        "WKUBE_POD_IPADDR": "10.0.0.7",
        "MM_LOCATION": "10.0.0.1",
        "KV_STORE": "etcd:/opt/kserve/mmesh/etcd/etcd_connection",
        "MM_METRICS": "prometheus:port=2112;scheme=https",
        "SHUTDOWN_TIMEOUT_MS": "90000",
        "INTERNAL_SERVING_GRPC_PORT": "8001",
        "INTERNAL_GRPC_PORT": "8085",
        "MM_LOG_EACH_INVOKE": "true",
        "MM_SVC_GRPC_MAX_MSG_SIZE": "16777216",
        "MM_KVSTORE_PREFIX": "mm",
        "MM_DEFAULT_VMODEL_OWNER": "ksp",
        "MM_PAYLOAD_PROCESSORS": "logger://*",
        "MM_LABELS": "mt:sklearn,mt:sklearn:0,pv:grpc-v2,rt:mlserver-1.x",
        "MM_TYPE_CONSTRAINTS_PATH": "/etc/watson/mmesh/config/type_constraints",
        "MM_DATAPLANE_CONFIG_PATH": "/etc/watson/mmesh/config/dataplane_api_config",
        "MM_TLS_KEY_CERT_PATH": "/opt/kserve/mmesh/tls/tls.crt",
        "MM_TLS_PRIVATE_KEY_PATH": "/opt/kserve/mmesh/tls/tls.key",
        "MM_TLS_CLIENT_AUTH": "optional",
        "MM_TLS_TRUST_CERT_PATH": "/opt/kserve/mmesh/tls/tls.crt,/opt/kserve/mmesh/tls/ca.crt",
    }
    settings = load_settings(environment)
    assert settings.resolved_instance_id() == "f8c9b4-x2x7q"
    assert settings.shutdown_timeout_ms == 90_000
    assert [remark for remark in remarks(environment) if remark.partition(" ")[0] not in AWAITED] == []


def test_what_our_manifests_set_are_settings() -> None:
    known = {name for field in Settings.model_fields for name in environment_names(field)} | AWAITED
    for manifest in (ROOT / "deploy" / "kubernetes").rglob("*.yaml"):
        if any(part.startswith("serving") for part in manifest.parts):
            continue  # of the controller, whose settings are others
        for name in re.findall(r"name: ([A-Z][A-Z_]{3,})\b", manifest.read_text()):
            assert name in known, f"{manifest.name} sets {name}"


def test_methods_of_old_are_answered() -> None:
    assert "com.ibm.watson.tas.proto.TasRuntime/addModel" in full_names("registerModel")
    assert "mmesh.ModelMesh/deleteModel" in full_names("unregisterModel")


def test_the_page_is_what_the_list_says() -> None:
    assert PAGE.read_text() == page(), "run: make docs"
