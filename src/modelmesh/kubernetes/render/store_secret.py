"""The copy of the etcd Secret for a namespace, with a key prefix of its own. Source: spec/serving-controller.md 2.5."""

import base64
import json
from collections.abc import Mapping

from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.objects import CONTROLLER, Object

CONNECTION = "etcd_connection"
_FILES = ("certificate_file", "client_key_file", "client_certificate_file")
_FIELDS = (
    *("endpoints", "userid", "password", "root_prefix", "certificate", "client_key", "client_certificate"),
    *("override_authority", *_FILES),
)


class StoreSecretError(ValueError):
    """The etcd Secret cannot be used. The message says why, without its content."""


def read_store(data: Mapping[str, str]) -> dict[str, str]:
    """The connection that the Secret's `data` (base64 by key) describes.

    Raises:
        StoreSecretError: It is missing, is no JSON of texts, or names a key that the Secret does not have.
    """
    if CONNECTION not in data:
        raise StoreSecretError(f"has no key {CONNECTION}")
    try:
        found = json.loads(base64.b64decode(data[CONNECTION], validate=True))
    except ValueError as error:
        raise StoreSecretError(f"{CONNECTION} is no JSON") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise StoreSecretError(f"{CONNECTION} must be a JSON object of texts")
    if not found.get("endpoints"):
        raise StoreSecretError(f"{CONNECTION} names no endpoints")
    for field in _FILES:
        if found.get(field) and found[field] not in data:
            raise StoreSecretError(f"{CONNECTION}: {field} names a key that the Secret does not have")
    return {field: value for field, value in found.items() if field in _FIELDS}


def namespace_prefix(root: str, namespace: str) -> str:
    """Where the mesh of a namespace other than the controller's keeps its keys."""
    return f"{root}/mm_ns/{namespace}"


def render_store_secret(namespace: str, config: Config, data: Mapping[str, str]) -> Object:
    """Render the copy, with the keys of certificates that the connection names.

    Raises:
        StoreSecretError: As `read_store`.
    """
    connection = read_store(data)
    files = {connection[field] for field in _FILES if connection.get(field)}
    connection["root_prefix"] = namespace_prefix(connection.get("root_prefix", ""), namespace)
    text = json.dumps(connection, separators=(",", ":"), sort_keys=True)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": config.store_secret,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": CONTROLLER},
        },
        "type": "Opaque",
        "data": {CONNECTION: base64.b64encode(text.encode()).decode(), **{file: data[file] for file in sorted(files)}},
    }
