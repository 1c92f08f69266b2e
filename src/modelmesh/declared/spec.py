"""The model that a resource asks for: its identity, and what it is registered with.

Source: spec/serving-controller.md 3.1 to 3.3. The id holds a hash over the model's canonical JSON; it is the old
controller's byte for byte, so that a namespace moves over without loading a model again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HASH_BYTES = 5


@dataclass(frozen=True, slots=True)
class StorageSpec:
    """Where the files are. None: the field is not there, which is another identity than an empty one."""

    path: str | None = None
    schema_path: str | None = None
    parameters: Mapping[str, str] | None = None
    key: str | None = None
    s3_secret_key: str | None = None
    s3_bucket: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A concrete model, immutable: another value is another model.

    Attributes:
        path, schema_path: The old places, used where `storage` has none.
        gpu, service_account_name: Part of the identity only.
    """

    format: str
    format_version: str | None = None
    path: str = ""
    schema_path: str | None = None
    storage: StorageSpec | None = None
    runtime: str | None = None
    protocol_version: str | None = None
    gpu: str | None = None
    service_account_name: str = ""

    def canonical(self) -> str:
        """The JSON that is hashed."""
        model_type = _present(name=self.format, version=self.format_version)
        body: dict[str, Any] = {}
        if self.service_account_name:
            body["serviceAccountName"] = self.service_account_name
        body["modelType"] = model_type
        body["path"] = self.path
        body |= _present(schemaPath=self.schema_path)
        if self.storage is not None:
            body["storage"] = _storage(self.storage)
        body |= _present(gpu=self.gpu)
        if self.runtime is not None:
            body["runtime"] = {"name": self.runtime}
        return _go_json(body | _present(protocolVersion=self.protocol_version))

    def digest(self) -> str:
        """Ten hexadecimal digits of the hash of the whole spec."""
        return (
            hashlib.sha1(self.canonical().encode(errors="surrogatepass"), usedforsecurity=False)
            .digest()[:HASH_BYTES]
            .hex()
        )

    def model_id(self, name: str, owner: str) -> str:
        """The id of the concrete model behind the vmodel `name`."""
        return f"{name}__{owner}-{self.digest()}"

    @property
    def type(self) -> str:
        """The type string by which instances are chosen: `rt:…`, or `mt:…` with `|pv:…` behind."""
        if self.runtime:
            return f"rt:{self.runtime}"
        version = f":{self.format_version}" if self.format_version else ""
        protocol = f"|pv:{self.protocol_version}" if self.protocol_version else ""
        return f"mt:{self.format}{version}{protocol}"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a runtime must have, all of it, to take the model."""
        return tuple(self.type.split("|"))

    @property
    def model_path(self) -> str:
        """Where the model's files are, inside of their storage; empty if it is not given."""
        if self.storage is None:
            return ""
        return self.path if self.storage.path is None else self.storage.path

    @property
    def key(self) -> str:
        """The model key: JSON for the puller and the runtime of the model."""
        storage = self.storage or StorageSpec()
        parameters = dict(storage.parameters or {})
        if storage.s3_bucket is not None:
            parameters = {"bucket": storage.s3_bucket}
        key = storage.key if storage.key is not None else storage.s3_secret_key
        schema = storage.schema_path if storage.schema_path is not None else self.schema_path
        body: dict[str, Any] = _present(storage_key=key)
        if parameters:
            body["storage_params"] = dict(sorted(parameters.items()))
        body["model_type"] = _present(name=self.format, version=self.format_version)
        return _go_json(body | _present(schema_path=schema))


def _storage(storage: StorageSpec) -> dict[str, Any]:
    body: dict[str, Any] = _present(path=storage.path, schemaPath=storage.schema_path)
    if storage.parameters is not None:
        body["parameters"] = dict(sorted(storage.parameters.items()))
    body |= _present(key=storage.key)
    if storage.s3_secret_key is not None:
        body["s3"] = _present(secretKey=storage.s3_secret_key, bucket=storage.s3_bucket)
    return body


def _present(**fields: str | None) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def _go_json(body: Mapping[str, Any]) -> str:
    """JSON as Go's encoder writes it: compact, other letters raw, and what HTML would mind escaped."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    # Python shortens two control characters that Go spells out; both stand inside strings only, behind one backslash.
    text = _spelled(text)
    return "".join(_GO_ESCAPES.get(character, character) for character in text)


def _spelled(text: str) -> str:
    pieces = []
    escaped = False
    for character in text:
        if escaped:
            pieces.append({"b": "u0008", "f": "u000c"}.get(character, character))
            escaped = False
        else:
            pieces.append(character)
            escaped = character == "\\"
    return "".join(pieces)
