"""Files of a pod's volumes: ConfigMaps, Secrets, the downward API and tokens, renewed all at once when they change."""

import base64
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelmesh.testing.controlplane.api import Api, ApiError, path
from modelmesh.testing.kubelet.images import NotYetError

Object = dict[str, Any]
TOKEN_RENEWED_AFTER_S = 600.0
_PLURALS = {"configMap": "configmaps", "secret": "secrets"}


class PodFiles:
    """What the volumes of one pod hold.

    Args:
        api: As the node.
        pod: The pod.
        field: Answers a path of the downward API.
    """

    def __init__(self, api: Api, pod: Object, field: Callable[[str], str]) -> None:
        self._api, self._field = api, field
        self._namespace = str(pod["metadata"]["namespace"])
        self._account = str(pod["spec"].get("serviceAccountName") or "default")
        self._tokens: dict[str, tuple[float, bytes]] = {}

    async def data(self, kind: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """What a `configMap` or `secret` holds, by key; empty if it is optional and missing.

        Raises:
            NotYetError: It is missing.
        """
        try:
            found = await self._api.get(path("v1", _PLURALS[kind], self._namespace, name))
        except ApiError as error:
            if error.status == 404 and optional:
                return {}
            raise NotYetError(f"{kind} {name}: {error}") from error
        encoded = found.get("data" if kind == "secret" else "binaryData") or {}
        plain = {} if kind == "secret" else found.get("data") or {}
        return {
            **{key: base64.b64decode(value) for key, value in encoded.items()},
            **{key: value.encode() for key, value in plain.items()},
        }

    async def content(self, volume: Object) -> dict[str, bytes] | None:
        """The files of a volume by name; None if it is one that starts empty."""
        if "projected" in volume:
            files: dict[str, bytes] = {}
            for source in volume["projected"].get("sources") or []:
                files |= await self._source(source) or {}
            return files
        return await self._source(volume)

    async def _source(self, source: Object) -> dict[str, bytes] | None:
        for kind in _PLURALS:
            if kind in source:
                named = source[kind]
                data = await self.data(
                    kind, named.get("name") or named.get("secretName"), optional=named.get("optional", False)
                )
                if items := named.get("items"):
                    return {item["path"]: data[item["key"]] for item in items if item["key"] in data}
                return data
        if "downwardAPI" in source:
            items = source["downwardAPI"].get("items") or []
            return {
                item["path"]: self._field(item["fieldRef"]["fieldPath"]).encode()
                for item in items
                if "fieldRef" in item
            }
        if "serviceAccountToken" in source:
            return {source["serviceAccountToken"]["path"]: await self._token(source["serviceAccountToken"])}
        return None

    async def _token(self, asked: Object) -> bytes:
        made, token = self._tokens.get(asked["path"], (float("-inf"), b""))
        if time.monotonic() - made < TOKEN_RENEWED_AFTER_S:
            return token
        audiences = [asked["audience"]] if asked.get("audience") else []
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": audiences, "expirationSeconds": asked.get("expirationSeconds", 3600)},
        }
        where = path("v1", "serviceaccounts", self._namespace, self._account, "token")
        token = str((await self._api.create(where, request))["status"]["token"]).encode()
        self._tokens[asked["path"]] = time.monotonic(), token
        return token


def publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder hold these files. All of them change at once: they are links through one that is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    current = folder / "..data"
    if current.exists() and {file.name: file.read_bytes() for file in current.iterdir()} == files:
        return
    fresh = folder / f"..{time.time_ns()}"
    fresh.mkdir()
    for name, content in files.items():
        (fresh / name).write_bytes(content)
    old = current.resolve() if current.exists() else None
    (folder / "..new").symlink_to(fresh.name)
    (folder / "..new").rename(current)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if not link.name.startswith("..") and link.name not in files:
            link.unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
