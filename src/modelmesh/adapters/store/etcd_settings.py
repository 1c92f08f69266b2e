"""How to reach an etcd: the forms in which people write it down.

Either a JSON file, with the fields that ModelMesh has always read, or endpoints in line:
`host:port,host:port;rootPrefix=x`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_PORT = 2379


class StoreSettingError(ValueError):
    """The setting that names the store cannot be used as it is."""


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """The address of an etcd, its TLS and credentials. Certificates and the key are PEM.

    `root_prefix` stands before every key as it is, without a separator.
    """

    endpoints: tuple[str, ...]
    """`host:port`, tried in this order."""
    root_prefix: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: bytes | None = None
    """None: the web's authorities."""
    client_certificate: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    override_authority: str = ""
    """The name to expect in the server's certificate, if not the endpoint's host."""

    @property
    def described(self) -> str:
        """The endpoints, for messages."""
        return ",".join(self.endpoints)


def parse_etcd(text: str) -> EtcdSettings:
    """Read what follows `etcd:` in KV_STORE: the path of a JSON file if there is one, else endpoints.

    Raises:
        StoreSettingError: It is neither, or the file cannot be used.
    """
    path = Path(text)
    if path.is_file():
        return _parse_file(path)
    endpoints = text.partition(";")[0]
    if endpoints.endswith(".json") or ("/" in endpoints and "://" not in endpoints):
        raise StoreSettingError(f"there is no file {text}; KV_STORE=etcd: takes a JSON file or host:port,host:port")
    return _parse_inline(text)


def _parse_inline(text: str) -> EtcdSettings:
    endpoints, *options = text.split(";")
    root_prefix = ""
    for option in options:
        name, separator, value = option.partition("=")
        if not separator or name.strip() != "rootPrefix":
            raise StoreSettingError(f"unknown option {option!r} in KV_STORE; only ;rootPrefix=<prefix> can follow")
        root_prefix = value.strip()
    addresses, tls = _parse_endpoints(endpoints, has_certificate=False)
    return EtcdSettings(endpoints=addresses, root_prefix=root_prefix, tls=tls)


def _parse_file(path: Path) -> EtcdSettings:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise StoreSettingError(f"cannot read the etcd configuration {path}: {err}") from err
    if not isinstance(fields, dict):
        raise StoreSettingError(f"the etcd configuration {path} is no JSON object")
    ca = _pem(fields, "certificate", path)
    client_certificate = _pem(fields, "client_certificate", path)
    client_key = _pem(fields, "client_key", path)
    if (client_certificate is None) is not (client_key is None):
        raise StoreSettingError(f"{path} names only one of client_certificate and client_key; both are needed")
    endpoints, tls = _parse_endpoints(_text(fields, "endpoints", path), has_certificate=ca is not None)
    return EtcdSettings(
        endpoints=endpoints,
        root_prefix=_text(fields, "root_prefix", path),
        user=_text(fields, "userid", path),
        password=_text(fields, "password", path),
        tls=tls,
        ca=ca,
        client_certificate=client_certificate,
        client_key=client_key,
        override_authority=_text(fields, "override_authority", path),
    )


def _text(fields: dict[str, Any], name: str, path: Path) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise StoreSettingError(f"{name} in {path} must be text, not {json.dumps(value)}")
    return value


def _pem(fields: dict[str, Any], name: str, path: Path) -> bytes | None:
    """The PEM text itself, or that of the file named by `<name>_file`, as given or beside the JSON file."""
    if inline := _text(fields, name, path):
        return inline.encode()
    file = _text(fields, f"{name}_file", path)
    if not file:
        return None
    for candidate in (Path(file), path.parent / file):
        if candidate.is_file():
            return candidate.read_bytes()
    raise StoreSettingError(f"{name}_file in {path} names {file}, which is neither there nor in {path.parent}")


def _parse_endpoints(text: str, *, has_certificate: bool) -> tuple[tuple[str, ...], bool]:
    """Addresses, and whether to use TLS: the first endpoint's scheme decides, without one a certificate does."""
    endpoints = [endpoint.strip() for endpoint in text.split(",") if endpoint.strip()]
    if not endpoints:
        raise StoreSettingError("no etcd endpoint is given; write host:port, several with commas between")
    tls = endpoints[0].startswith("https://") or ("://" not in endpoints[0] and has_certificate)
    return tuple(map(_address, endpoints)), tls


def _address(endpoint: str) -> str:
    scheme, separator, rest = endpoint.partition("://")
    if separator and scheme not in {"http", "https"}:
        raise StoreSettingError(f"etcd endpoint {endpoint}: the scheme must be http or https")
    host = (rest if separator else endpoint).rstrip("/")
    if not host or any(c.isspace() or c == "/" for c in host):
        raise StoreSettingError(f"etcd endpoint {endpoint!r} is not host:port")
    # [::1] and [::1]:2379 are the forms with colons in the host.
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return f"{host}:{DEFAULT_PORT}"
    if not name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise StoreSettingError(f"etcd endpoint {endpoint!r} is not host:port")
    return host
