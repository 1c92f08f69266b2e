"""Images and artifacts of OCI registries. Source: the OCI distribution specification 1.1, the image specification 1.1."""

import base64
import hashlib
import json
import os
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from modelmesh.storage.credentials import is_true, secrets_of
from modelmesh.storage.errors import StorageError
from modelmesh.storage.listing import Limits, Plan, SourceFile, make_plan
from modelmesh.storage.locations import Location
from modelmesh.storage.names import base_name, shown
from modelmesh.storage.sources.web import MAX_JSON_BYTES, Web, pieces, tls_context
from modelmesh.values.status import Status

IMAGE_FOLDER = "models"
"""Of an image, what a model is in if the location has no path: where KServe's images have it."""

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""As registries bound it."""

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class OciSource:
    """A manifest and its layers.

    A layer with a title is a file of that name (an artifact, as `oras push` makes it), unpacked if its annotation says so. A layer
    without one is a layer of an image: of all of them together, what lies below the location's path, else below
    `models`, is the model.

    Credentials are `username` and `password` of the settings, or those of Docker's configuration file. A registry on this
    machine, or with the setting `plain_http`, is asked without TLS.
    """

    ranged = True

    def __init__(self, location: Location, environ: Mapping[str, str] = os.environ) -> None:
        self._location = location
        host, _, self._name = location.place.partition("/")
        local = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
        plain = local in {"localhost", "127.0.0.1", "[::1]"} or is_true(location.get("plain_http"))
        self._scheme = "http" if plain else "https"
        self._base = f"{self._scheme}://{'registry-1.docker.io' if host == 'docker.io' else host}/v2/{self._name}"
        user, password = location.get("username"), location.get("password")
        if not user:
            user, password = _docker_login(host, environ)
        self._basic = base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        hidden = tuple(one for one in (password, self._basic) if one)
        try:
            tls = tls_context(location.get("certificate"), "", "")
        except ValueError as error:
            raise StorageError(Status.INVALID_ARGUMENT, f"{location}: {error}") from None
        self._web = Web(location.text, secrets=(*secrets_of(location, environ), *hidden), tls=tls)

    async def plan(self, limits: Limits, unknown: str) -> Plan:
        """The layers of the manifest, or of that for this platform in an index."""
        manifest = await self._manifest(self._location.revision)
        if "manifests" in manifest:
            manifest = await self._manifest(self._for_this_platform(manifest))
        layers = manifest.get("layers")
        if not isinstance(layers, list) or len(layers) > limits.max_files:
            raise self._nonsense("its manifest has no layers")
        files = [file for number, layer in enumerate(layers) if (file := self._file(number, layer)) is not None]
        path = self._location.path.strip("/")
        named = [replace(file, name=base_name(path)) for file in files if file.name == path and not file.unpack]
        if path:
            files = named or [_below(path, file) for file in files if file.unpack or file.name.startswith(f"{path}/")]
        is_file = bool(named)
        return make_plan(self._location, files, is_file=is_file, endpoint="", unknown=unknown, limits=limits)

    def read(self, file: SourceFile, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """As `Source.read`."""
        return self._web.read(file, start, end, f"{self._location}: {shown(file.name)}")

    async def close(self) -> None:
        """Let connections go."""
        await self._web.close()

    async def _manifest(self, reference: str) -> dict[str, Any]:
        url = f"{self._base}/manifests/{reference}"
        headers = {"Accept": ", ".join((*_MANIFESTS, *_INDEXES))}
        for attempt in range(2):
            async with self._web.get(url, headers, accepted=(200,) if attempt else (200, 401)) as answer:
                if answer.status == 401:
                    challenge = answer.headers.get("WWW-Authenticate", "")
                else:
                    body = bytearray()
                    async for piece in pieces(answer, MAX_MANIFEST_BYTES + 1):
                        body += piece
                    return self._checked(bytes(body), reference)
            await self._log_in(challenge)
        raise AssertionError("the second answer is accepted or raised")

    def _checked(self, body: bytes, reference: str) -> dict[str, Any]:
        if len(body) > MAX_MANIFEST_BYTES:
            raise self._nonsense(f"its manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        if _DIGEST.fullmatch(reference) and hashlib.sha256(body).hexdigest() != reference.partition(":")[2]:
            raise StorageError(
                Status.DATA_LOSS, f"{self._location}: the manifest is not the one of its digest; pull again"
            )
        try:
            manifest = json.loads(body)
        except (ValueError, RecursionError):
            manifest = None
        if not isinstance(manifest, dict):
            raise self._nonsense("its manifest is no JSON object")
        return manifest

    async def _log_in(self, challenge: str) -> None:
        """What the registry asks for before it answers."""
        kind = challenge.partition(" ")[0].lower()
        fields = dict(_CHALLENGE.findall(challenge))
        if kind == "basic" and self._basic:
            self._web.headers["Authorization"] = f"Basic {self._basic}"
            return
        realm = fields.get("realm", "")
        if kind != "bearer" or not realm:
            raise StorageError(
                Status.UNAUTHENTICATED, f"{self._location}: the registry wants credentials; give username and password"
            )
        if urlsplit(realm).scheme != "https" and self._scheme == "https":
            raise StorageError(
                Status.FAILED_PRECONDITION,
                f"{self._location}: the registry wants credentials in clear text; have it ask over https",
            )
        asked = {"scope": f"repository:{self._name}:pull"}
        if fields.get("service"):
            asked["service"] = fields["service"]
        headers = {"Authorization": f"Basic {self._basic}"} if self._basic else {}
        found, _ = await self._web.json(f"{realm}?{urlencode(asked)}", headers)
        token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
        if not isinstance(token, str):
            raise self._nonsense("it gives no token")
        self._web.hide(token)
        self._web.headers["Authorization"] = f"Bearer {token}"

    def _for_this_platform(self, index: dict[str, Any]) -> str:
        """The digest of the manifest for Linux on this processor, else of the first: files of models have no platform."""
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        manifests = index["manifests"] if isinstance(index["manifests"], list) else []
        digests = [
            (
                isinstance(platform := one.get("platform"), dict) and platform.get("architecture") != machine,
                one["digest"],
            )
            for one in manifests
            if isinstance(one, dict) and isinstance(one.get("digest"), str) and _DIGEST.fullmatch(one["digest"])
        ]
        if not digests:
            raise self._nonsense("its index names no manifest")
        return str(min(digests, key=lambda one: one[0])[1])

    def _file(self, number: int, layer: Any) -> SourceFile | None:
        if not isinstance(layer, dict):
            raise self._nonsense("a layer is no object")
        digest, size, kind = layer.get("digest"), layer.get("size"), str(layer.get("mediaType", ""))
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(size, int):
            raise self._nonsense("a layer has no sha256 digest, or no size")
        notes = layer.get("annotations")
        notes = notes if isinstance(notes, dict) else {}
        key = f"{self._base}/blobs/{digest}"
        title = notes.get(_TITLE)
        if isinstance(title, str):
            packed = str(notes.get(_UNPACK, "")).lower() == "true"
            return SourceFile(f"{number:04}.tar" if packed else title, key, size, digest, digest, unpack=packed)
        if "zstd" in kind:
            raise StorageError(
                Status.INVALID_ARGUMENT,
                f"{self._location}: a layer is packed with zstd, which is not read here; use gzip",
            )
        if ".tar" not in kind and "tar+" not in kind:
            return None
        below = self._location.path.strip("/") or IMAGE_FOLDER
        return SourceFile(f"{number:04}.tar", key, size, digest, digest, unpack=True, layer_below=below)

    def _nonsense(self, why: str) -> StorageError:
        return StorageError(Status.INVALID_ARGUMENT, f"{self._location}: {why}; is it an image or artifact?")


def _below(path: str, file: SourceFile) -> SourceFile:
    """A file of an artifact by its name below a path."""
    if file.unpack:
        return replace(file, layer_below=file.layer_below or path)
    return replace(file, name=file.name[len(path) + 1 :])


def _docker_login(host: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """User and password of a registry in Docker's configuration file. Helpers are not asked: they are programs."""
    folder = environ.get("DOCKER_CONFIG") or f"{environ.get('HOME', '/nonexistent')}/.docker"
    path = Path(folder) / "config.json"
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(MAX_JSON_BYTES))
        logins = config["auths"]
        key = "https://index.docker.io/v1/" if host == "docker.io" else host
        login = logins.get(key) or logins.get(f"https://{key}") or {}
        user, _, password = base64.b64decode(login["auth"]).decode().partition(":")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", ""
    return user, password
