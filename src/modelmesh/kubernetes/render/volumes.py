"""Volumes of a runtime pod. Source: spec/serving-controller.md 2.3 and 7.4."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.quantities import parse_quantity, show_bytes
from modelmesh.kubernetes.render.endpoints import SOCKETS, socket_folder
from modelmesh.kubernetes.render.objects import TYPE_CONSTRAINTS, Object, items
from modelmesh.values.storage_keys import parse_storage_key, secret_of

MODELS = "models-dir"
STORAGE = "storage-config"
_OURS = frozenset({MODELS, STORAGE, SOCKETS, TYPE_CONSTRAINTS, "etcd-config", "tls-certs"})
_VOLUME_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim with models, and the volume of the pod that it becomes."""

    name: str
    volume: str


def name_claims(names: Iterable[str], runtime: Runtime) -> tuple[Claim, ...]:
    """Claims with volumes. A volume is called as its claim, unless that is no name of a volume or is taken."""
    taken = _OURS | {volume.get("name") for volume in items(runtime.body.get("volumes")) if isinstance(volume, dict)}

    def volume(name: str) -> str:
        if _VOLUME_NAME.fullmatch(name) and name not in taken:
            return name
        return f"claim-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    return tuple(Claim(name, volume(name)) for name in sorted(set(names)))


def claim_mounts(claims: Sequence[Claim]) -> list[Object]:
    """Where containers find the claims."""
    return [{"name": claim.volume, "mountPath": f"/pvc_mounts/{claim.name}", "readOnly": True} for claim in claims]


def volumes(
    runtime: Runtime, config: Config, claims: Sequence[Claim], storage_keys: Iterable[str] = (), *, pulls: bool
) -> list[Object]:
    """All volumes of the pod.

    Args:
        runtime: As it is served.
        config: Of the runtime.
        claims: With models.
        storage_keys: That its models name.
        pulls: Whether a container of ours pulls files, and so reads the storage Secret.
    """
    found: list[Object] = [volume for volume in items(runtime.body.get("volumes")) if isinstance(volume, dict)]
    found.append({"name": MODELS, "emptyDir": _models_folder(runtime)})
    if socket_folder(runtime.management_endpoint, runtime.data_endpoint):
        found.append({"name": SOCKETS, "emptyDir": {}})
    if pulls:
        found.append({"name": STORAGE, **_storage(config, storage_keys)})
    found += [
        {"name": claim.volume, "persistentVolumeClaim": {"claimName": claim.name, "readOnly": True}} for claim in claims
    ]
    found.append({"name": TYPE_CONSTRAINTS, "configMap": {"name": TYPE_CONSTRAINTS}})
    found.append({"name": "etcd-config", "secret": {"secretName": config.store_secret}})
    if config.tls_secret:
        found.append({"name": "tls-certs", "secret": {"secretName": config.tls_secret}})
    return found


def _storage(config: Config, named: Iterable[str]) -> Object:
    """The storage Secret, all of it or the keys that models name, and those keys of Secrets of their own that models name.

    Optional: models that need no key, of claims and public addresses, are served without a Secret, or without the key. A key
    that no Secret can have is left out: the API server would refuse the pods of all models because of it.
    """
    keys = sorted({key for text in named if (key := parse_storage_key(text)) is not None})
    shared = [_file(key.key, key.text) for key in keys if not key.name]
    own = {key.name: [_file(one.key, one.text) for one in keys if one.name == key.name] for key in keys if key.name}
    only: Object = {"items": shared} if config.needed_keys_only else {}
    # Without items all keys would be mounted.
    mounted = bool(shared) or not config.needed_keys_only
    if not own:
        secret = {"secretName": config.storage_secret, "optional": True, **only}
        return {"secret": secret} if mounted else {"emptyDir": {}}
    sources = [{"secret": {"name": config.storage_secret, "optional": True, **only}}] if mounted else []
    sources += [{"secret": {"name": secret_of(name), "optional": True, "items": files}} for name, files in own.items()]
    return {"projected": {"sources": sources}}


def _file(key: str, name: str) -> Object:
    return {"key": key, "path": name}


def _models_folder(runtime: Runtime) -> Object:
    """Files may take half as much again as the memory of all servers; without limits of memory there is no limit."""
    total = Decimal(0)
    for container in items(runtime.body.get("containers")):
        resources = container.get("resources")
        limits = resources.get("limits") if isinstance(resources, dict) else None
        total += (parse_quantity(limits.get("memory")) if isinstance(limits, dict) else None) or 0
    return {"sizeLimit": show_bytes(total * 3 / 2)} if total else {}
