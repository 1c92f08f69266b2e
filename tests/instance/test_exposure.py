"""What an operator is told about ports that strangers may reach."""

from pathlib import Path
from typing import Any

import pytest

from modelmesh.instance.exposure import exposure
from modelmesh.instance.settings import Settings

TLS = {"tls_key_path": Path("k"), "tls_certificate_path": Path("c")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {},
            "every client that reaches 0.0.0.0 may call, load, register and delete any model, in clear text; set MM_ACCESS_PATH",
        ),
        (TLS, "may call, load, register and delete any model; set MM_ACCESS_PATH"),
        ({"access_path": Path("a")}, "keys and tokens of callers come to 0.0.0.0 in clear text"),
        ({**TLS, "access_path": Path("a")}, ""),
        ({**TLS, "tls_client_auth": "require"}, ""),
        ({**TLS, "tls_client_auth": "optional"}, "may call, load, register and delete any model"),
        ({"listen_host": "127.0.0.1"}, ""),
        ({"listen_host": "[::1]"}, ""),
        ({"listen_host": "localhost"}, ""),
        ({"listen_host": "::"}, "every client that reaches :: may"),
        ({"serving_port": 0, "rest_port": 0}, ""),
        ({"serving_port": 0, "rest_port": 8008}, "every client that reaches"),
    ],
)
def test_what_is_said(given: dict[str, Any], said: str) -> None:
    text = exposure(Settings(service_name="s", kv_store="sqlite:x", **given))
    assert (said in text) if said else (text == "")
