"""Locations as the Java ModelMesh has them: a path, a JSON key beside it, and storage configurations in a folder.

Source: spec/runtime-adapters.md 2.5 and 3.
"""

import json
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelmesh.storage.errors import StorageError
from modelmesh.storage.locations import Kind, Location, clean_path, parse_location
from modelmesh.storage.names import base_name, clip, shown
from modelmesh.values.status import Status
from modelmesh.values.storage_keys import parse_storage_key, secret_of

MAX_KEY_BYTES = 64 * 1024
"""As for a registered model's key."""

MAX_CONFIG_BYTES = 1024 * 1024
"""A Kubernetes Secret holds no more."""

StorageConfigs = Callable[[str], str | None]
"""Text of the storage configuration with that name, or None if there is none."""

TYPES = {
    "s3": Kind.S3,
    "gcs": Kind.GS,
    "gs": Kind.GS,
    "azure": Kind.AZ,
    "az": Kind.AZ,
    "http": Kind.HTTP,
    "https": Kind.HTTP,
    "hf": Kind.HF,
    "oci": Kind.OCI,
    "pvc": Kind.PVC,
    "file": Kind.FILE,
}

_REQUIRED = {
    # Empty strings are allowed, and with them the credential chain of the environment is asked.
    Kind.S3: ("bucket",),
    Kind.GS: ("bucket",),
    Kind.AZ: ("account_name", "container"),
    Kind.HTTP: ("url",),
    Kind.PVC: ("name",),
    Kind.HF: (),
    Kind.OCI: (),
    Kind.FILE: (),
}


_HARMLESS = frozenset({"type", "bucket", "default_bucket", "name", "container", "account_name", "url", "region"})
"""Parameters of a key that show in the location's text, or change nothing of whose files it names."""

_MOVES = ("url", "endpoint_url", "endpoint")
"""Parameters that choose the server."""

_BEARERS = frozenset({"headers", "token", "password", "sas_token", "connection_string", "client_secret", "client_key"})
"""Secrets that the server gets."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a load asks for.

    Attributes:
        model: Where the model is.
        model_name: What its file or folder is called here.
        schema: Where its schema is, if it has one beside.
        schema_name: What the schema is called here.
        model_type: `model_type` of the key, as JSON; None if it has none.
        redirected: The key itself has more than bucket and folder: an endpoint, a certificate, credentials. Then the
            location's text does not show whose files they are.
    """

    model: Location
    model_name: str
    schema: Location | None
    schema_name: str
    model_type: Any
    redirected: bool = False


def from_model_key(path: str, model_key: str, configs: StorageConfigs) -> ModelFiles:
    """What a load's path and key mean.

    A path that is a URI is the place of the model; a `storage_key` beside it gives the credentials. Any other path
    is one in the storage that the key names.

    Args:
        path: `modelPath` of the load.
        model_key: `modelKey` of the load: JSON, or empty.
        configs: The storage configurations; asked again for each load.

    Raises:
        StorageError: INVALID_ARGUMENT: key, configuration or path make no sense. FAILED_PRECONDITION: the storage
            configuration is not there. No text shows a configuration's values.
    """
    key = _read_key(model_key)
    is_uri = "://" in path
    config = _config(key, configs, needs_type=not is_uri)
    if is_uri:
        model = parse_location(path)
        if config:
            model = model.with_settings({**dict(model.settings), **_settings(config)})
    else:
        model = _location(config, path)
    name = (model.name if is_uri else base_name(path)) or "_model"
    schema_path: str | None = key.get("schema_path")
    schema = None
    schema_name = ""
    if schema_path is not None:
        schema = _beside(model, config, schema_path)
        schema_name = base_name(schema_path)
        if schema_name == name or not schema_name:
            schema_name = "_schema.json"
    redirected = any(name not in _HARMLESS for name in key.get("storage_params", {}))
    return ModelFiles(model, name, schema, schema_name, key.get("model_type"), redirected)


def rewritten_key(files: ModelFiles, *, disk_size_bytes: int, schema_path: str | None) -> str:
    """The key that continues to the runtime: compact JSON in the order in which it always was."""
    key: dict[str, Any] = {}
    if files.model_type is not None:
        key["model_type"] = files.model_type
    key["disk_size_bytes"] = disk_size_bytes
    if schema_path is not None:
        key["schema_path"] = schema_path
    return json.dumps(key, separators=(",", ":"), ensure_ascii=False)


class ConfigFolder:
    """Storage configurations as files of a folder, one for each name: what Kubernetes mounts from a Secret.

    Files are read when asked, so that a changed Secret counts at the next load.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> str | None:
        """Text of a configuration; None: there is no such file.

        Raises:
            StorageError: FAILED_PRECONDITION: the file cannot be read.
        """
        # A mounted Secret is all links (..data/…), so they are followed; the name itself is clipped at the folder.
        path = self.folder / clip(name)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_CONFIG_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return None  # ValueError: NUL in the name
        except OSError as error:
            raise StorageError(
                Status.FAILED_PRECONDITION,
                f"the storage configuration {shown(name)!r} cannot be read: {error.strerror}",
            ) from None
        if len(content) > MAX_CONFIG_BYTES:
            raise StorageError(
                Status.FAILED_PRECONDITION,
                f"the storage configuration {shown(name)!r} is larger than {MAX_CONFIG_BYTES} bytes",
            )
        return content.decode("utf-8", "replace")


def _read_key(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    if len(text.encode("utf-8", "replace")) > MAX_KEY_BYTES:
        raise _bad_key(f"it is longer than {MAX_KEY_BYTES} bytes")
    try:
        key = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad_key("it is no JSON") from None
    if not isinstance(key, dict):
        raise _bad_key("it is no JSON object")
    for name in ("storage_key", "schema_path", "bucket"):
        if not isinstance(key.get(name, ""), str | None):
            raise _bad_key(f"{name} is no string")
    params = key.get("storage_params")
    if not isinstance(params, dict | None):
        raise _bad_key("storage_params is no object")
    for name, value in (params or {}).items():
        if not isinstance(value, str):
            raise _bad_key(f"storage_params.{shown(name)} is no string")
    return {name: value for name, value in key.items() if value is not None}


def _config(key: Mapping[str, Any], configs: StorageConfigs, *, needs_type: bool) -> dict[str, Any]:
    """The configuration that counts for a load: the file, then the key's own words over it."""
    params: dict[str, str] = key.get("storage_params", {})
    config = _named(key["storage_key"], configs) if key.get("storage_key") else _default(params.get("type"), configs)
    if not key.get("storage_key") and not needs_type and "type" not in params:
        config = {}  # a URI needs none, and the default is perhaps of another kind
    if config.get("type") == "s3" and isinstance(config.get("default_bucket"), str):
        config.setdefault("bucket", config["default_bucket"])
    if key.get("bucket") and config.get("bucket") is not None:
        config["bucket"] = key["bucket"]
    before = {name: config.get(name) for name in _MOVES}
    bearers = [name for name in _BEARERS if config.get(name)]
    for name, value in sorted(params.items()):
        _override(config, name, value)
    for name, was in before.items():
        if bearers and _origin(config.get(name)) != _origin(was):
            raise StorageError(
                Status.PERMISSION_DENIED,
                f"storage_params.{name} would send the secrets of the storage configuration somewhere else",
            )
    if needs_type and not isinstance(config.get("type"), str):
        raise StorageError(
            Status.INVALID_ARGUMENT,
            "Predictor Storage field missing: the model's key names no storage_key, no storage_params.type, there is no"
            " default storage configuration, and its path is no URI",
        )
    return config


def _origin(url: Any) -> str:
    return "/".join(url.split("/")[:3]) if isinstance(url, str) else ""


def _named(name: str, configs: StorageConfigs) -> dict[str, Any]:
    text = configs(name)
    if text is None:
        named = parse_storage_key(name)
        why = "is not there; add the key to the secret storage-config"
        if named is not None and named.name:
            why = f"is not there; add the key {named.key} to the secret {secret_of(named.name)}"
        raise StorageError(Status.FAILED_PRECONDITION, f"the storage configuration {shown(name)!r} {why}")
    config = _read_config(text)
    if config is None:
        raise StorageError(
            Status.FAILED_PRECONDITION, f"the storage configuration {shown(name)!r} is no JSON object; correct it"
        )
    return config


def _default(kind: str | None, configs: StorageConfigs) -> dict[str, Any]:
    """The default configuration of a type; none is no error, and neither is one that cannot be read."""
    try:
        text = configs(f"default_{kind}" if kind else "default")
    except StorageError:
        return {}
    return (_read_config(text) if text is not None else None) or {}


def _read_config(text: str) -> dict[str, Any] | None:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _override(config: dict[str, Any], name: str, value: str) -> None:
    """Set `a.b.c`. The old value is never shown: it may be a secret."""
    *parents, last = name.split(".")
    inner: Any = config
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise StorageError(
                Status.INVALID_ARGUMENT,
                f"storage_params.{shown(name)} goes through {shown(parent)!r}, which is no object there",
            )
    if not isinstance(inner.get(last, ""), str):
        raise StorageError(
            Status.INVALID_ARGUMENT, f"storage_params.{shown(name)} would replace a value that is no string"
        )
    inner[last] = value


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """The strings of a configuration; what is of another type counts as absent. Headers are an object."""
    settings = {name: value for name, value in config.items() if isinstance(value, str) and name != "type"}
    if isinstance(config.get("headers"), dict):
        settings["headers"] = json.dumps(config["headers"])
    return settings


def _location(config: Mapping[str, Any], path: str) -> Location:
    """Where a path is in the storage that a configuration describes."""
    kind = TYPES.get(config["type"].lower())
    if kind is None:
        raise StorageError(
            Status.INVALID_ARGUMENT,
            f"the storage type {shown(config['type'])!r} is not known; known are {', '.join(TYPES)}",
        )
    settings = _settings(config)
    for name in _REQUIRED[kind]:
        if not settings.get(name):
            raise StorageError(
                Status.INVALID_ARGUMENT, f"the storage configuration of type {config['type']} has no {name}"
            )
    found = _READERS[kind](settings, path)
    # Only a URI is unpacked: with a key, a file always was what the runtime gets.
    return replace(found.with_settings({**settings, **dict(found.settings)}), unpack=False)


def _http(settings: Mapping[str, str], path: str) -> Location:
    """The base URL's path and the model's joined; the query of the base stays."""
    base = parse_location(settings["url"])
    if base.kind is not Kind.HTTP:
        raise StorageError(Status.INVALID_ARGUMENT, "the url of the storage configuration is no http or https URL")
    return replace(base, path=clean_path(f"{base.path}/{path}", f"{base.place}/{path}"))


def _claim(settings: Mapping[str, str], path: str) -> Location:
    found = parse_location(f"pvc://{settings['name']}/{clip(path)}")
    return replace(found, path=found.path.rstrip("/"))


def _by_uri(*names: str) -> Callable[[Mapping[str, str], str], Location]:
    """A location whose place is these settings joined."""

    def read(settings: Mapping[str, str], path: str) -> Location:
        kind = {"bucket": "s3", "account_name": "az"}[names[0]]
        return parse_location(f"{kind}://{'/'.join(settings[name] for name in names)}/{path.lstrip('/')}")

    return read


def _bucket_of_google(settings: Mapping[str, str], path: str) -> Location:
    return parse_location(f"gs://{settings['bucket']}/{path.lstrip('/')}")


def _scheme(scheme: str) -> Callable[[Mapping[str, str], str], Location]:
    """A path that is a URI but for its scheme."""

    def read(_settings: Mapping[str, str], path: str) -> Location:
        return parse_location(f"{scheme}://{path.lstrip('/')}")

    return read


def _file(_settings: Mapping[str, str], path: str) -> Location:
    return parse_location("/" + posixpath.normpath(path).lstrip("/"))


_READERS: dict[Kind, Callable[[Mapping[str, str], str], Location]] = {
    Kind.S3: _by_uri("bucket"),
    Kind.GS: _bucket_of_google,
    Kind.AZ: _by_uri("account_name", "container"),
    Kind.HTTP: _http,
    Kind.PVC: _claim,
    Kind.HF: _scheme("hf"),
    Kind.OCI: _scheme("oci"),
    Kind.FILE: _file,
}


def _beside(model: Location, config: Mapping[str, Any], path: str) -> Location:
    """Where a schema is: in the same storage as its model, or at a URI."""
    if "://" in path:
        found = parse_location(path)
        same = found.kind is model.kind and found.place == model.place
        return replace(found.with_settings(dict(model.settings)) if same else found, unpack=False)
    if isinstance(config.get("type"), str):
        return _location(config, path)
    return replace(model, path=clean_path(path, path), unpack=False)


def _bad_key(why: str) -> StorageError:
    return StorageError(Status.INVALID_ARGUMENT, f"Invalid modelKey in LoadModelRequest: {why}")
