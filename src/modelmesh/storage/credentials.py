"""Which settings are secret, and which environment variables add to them."""

import json
from collections.abc import Mapping
from typing import Any

from modelmesh.storage.locations import Location

_PUBLIC = frozenset(
    {
        "account_name",
        "anonymous",
        "bucket",
        "certificate",
        "client_certificate",
        "client_email",
        "client_id",
        "container",
        "default_bucket",
        "endpoint",
        "endpoint_url",
        "name",
        "region",
        "tenant_id",
        "token_uri",
        "url",
        "virtual_hosted",
    }
)
"""Settings that may be shown. Every other is taken for a secret."""

_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)

_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "HF_")
_VARIABLES = frozenset(
    {
        "DOCKER_CONFIG",
        "HUGGING_FACE_HUB_TOKEN",
        "MODELMESH_CACHE",
        "PVC_MOUNTS_DIR",
        "STORAGE_CONFIG_DIR",
        "STORAGE_EMULATOR_HOST",
        *(name for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (proxy, proxy.upper())),
    }
)

SHORTEST = 4
"""Characters. What is shorter is no secret, and would make texts unreadable."""


def secrets_of(location: Location, environ: Mapping[str, str]) -> tuple[str, ...]:
    """All that must not be in a text about a location."""
    found = [value for name, value in location.settings if name not in _PUBLIC]
    found += [inner for name, value in location.settings if name == "headers" for inner in _strings(_json(value))]
    found += [environ[name] for name in _SECRET_VARIABLES if name in environ]
    found.append(location.query)
    return tuple(sorted({value for value in found if len(value) >= SHORTEST}))


def storage_variables(environ: Mapping[str, str]) -> frozenset[str]:
    """Names of the variables that a process which pulls reads: credentials, endpoints, proxies, folders."""
    return frozenset(name for name in environ if name in _VARIABLES or name.startswith(_PREFIXES))


def is_true(text: str) -> bool:
    """A truth as configurations write it."""
    return text.strip().lower() in {"1", "t", "true", "yes", "on"}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value, *value.split()]
    if isinstance(value, list):
        return [inner for one in value for inner in _strings(one)]
    if isinstance(value, dict):
        return [inner for one in value.values() for inner in _strings(one)]
    return []
