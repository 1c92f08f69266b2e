"""The API server over HTTP: `modelmesh.kubernetes.ports.Api`.

Inside of a cluster the address comes from the environment, and the token and the authority from files that Kubernetes
renews: both are read again when the files change.
"""

import json
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from modelmesh.kubernetes.kinds import Key, Kind, Object
from modelmesh.kubernetes.ports import (
    MANAGER,
    Api,
    ApiError,
    Change,
    ConflictError,
    GoneError,
    NotFoundError,
    Page,
    Scope,
    WatchEvent,
)

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CALL_BOUND_S = 30.0
CONNECT_BOUND_S = 5.0
CONNECTIONS = 64
"""Watches take one each."""

LINE_BYTES = 16 * 1024 * 1024
"""The largest event of a watch: etcd holds 1.5 MB of an object, and JSON may be some times as long."""

WATCH_S = 300
"""The server ends a watch after this time; it then continues at its revision."""

_ERRORS: Mapping[int, type[ApiError]] = {404: NotFoundError, 409: ConflictError, 410: GoneError}


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the API server.

    Attributes:
        server: `https://10.0.0.1:443`.
        token: File with a bearer token; None: none is sent.
        authority: PEM file of the authority that signed the server's certificate; None: the system's.
    """

    server: str
    token: Path | None = None
    authority: Path | None = None


def in_cluster(environment: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> Access:
    """The access that a pod is given. Raises ValueError outside of a cluster."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ValueError(
            "KUBERNETES_SERVICE_HOST is not set: this is not a pod; name the API server with --server, --token-file and --ca-file"
        )
    address = f"[{host}]" if ":" in host else host
    return Access(f"https://{address}:{port}", account / "token", account / "ca.crt")


class HttpApi(Api):
    """Implements `Api`. Use it as an asynchronous context manager."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session: aiohttp.ClientSession | None = None
        self._authority_of: ssl.SSLContext | None = None
        self._stamp: tuple[int, int] = (0, 0)
        self._token = ""
        self._token_stamp: tuple[int, int] = (0, 0)
        self.requests: dict[str, int] = {}
        """How many there were, by verb."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=CALL_BOUND_S, sock_connect=CONNECT_BOUND_S),
            read_bufsize=LINE_BYTES,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    # --- Api ----------------------------------------------------------------------------------------

    async def list(self, kind: Kind, scope: Scope, *, limit: int, after: str = "") -> Page:
        """See `Api`."""
        query = {**_selected(scope), "limit": str(limit), **({"continue": after} if after else {})}
        body = await self._call("LIST", kind.path(scope.namespace), query)
        metadata = body.get("metadata", {})
        items = tuple({"apiVersion": kind.api_version, "kind": kind.name, **item} for item in body.get("items") or ())
        return Page(items, metadata.get("resourceVersion", ""), metadata.get("continue", ""))

    async def watch(self, kind: Kind, scope: Scope, *, revision: str) -> AsyncGenerator[WatchEvent, None]:
        """See `Api`. What is silent for long the caller gives up."""
        query = {
            **_selected(scope),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": revision,
            "timeoutSeconds": str(WATCH_S),
        }
        self._count("WATCH")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_BOUND_S)
        try:
            async with self._open().get(
                self._access.server + kind.path(scope.namespace),
                params=query,
                headers=self._headers(),
                ssl=self._tls(),
                timeout=timeout,
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                async for line in response.content:
                    if line.strip():
                        yield _event(line)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(0, f"the watch of {kind.plural} broke: {str(error) or type(error).__name__}") from error

    async def read(self, kind: Kind, key: Key) -> Object | None:
        """See `Api`."""
        try:
            return await self._call("GET", kind.path(key.namespace, key.name))
        except NotFoundError:
            return None

    async def apply(self, kind: Kind, item: Object, *, manager: str = MANAGER) -> Object:
        """See `Api`."""
        metadata = item["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"])
        query = {"fieldManager": manager, "force": "true"}
        return await self._call("APPLY", path, query, item, "application/apply-patch+yaml")

    async def merge(
        self, kind: Kind, key: Key, patch: Object, *, subresource: str = "", manager: str = MANAGER
    ) -> Object:
        """See `Api`."""
        path = kind.path(key.namespace, key.name, subresource)
        query = {"fieldManager": manager}
        return await self._call("PATCH", path, query, patch, "application/merge-patch+json")

    async def create(self, kind: Kind, item: Object) -> Object:
        """See `Api`."""
        path = kind.path(item["metadata"].get("namespace", ""))
        return await self._call("POST", path, {"fieldManager": MANAGER}, item)

    async def replace(self, kind: Kind, item: Object) -> Object:
        """See `Api`."""
        path = kind.path(item["metadata"].get("namespace", ""), item["metadata"]["name"])
        return await self._call("PUT", path, {"fieldManager": MANAGER}, item)

    async def delete(self, kind: Kind, key: Key, *, uid: str = "") -> None:
        """See `Api`."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        with suppress(NotFoundError):
            await self._call("DELETE", kind.path(key.namespace, key.name), {}, body)

    # --- parts --------------------------------------------------------------------------------------

    async def _call(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        self._count(verb)
        method = {"LIST": "GET", "APPLY": "PATCH"}.get(verb, verb)
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers(), "Content-Type": content_type}
        try:
            async with self._open().request(
                method, self._access.server + path, params=query, data=data, headers=headers, ssl=self._tls()
            ) as response:
                if response.status >= 400:
                    raise await _refusal(response)
                found: Object = json.loads(await response.read())
                return found
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ApiError(0, f"{method} {path}: {str(error) or type(error).__name__}") from error

    def _count(self, verb: str) -> None:
        self.requests[verb] = self.requests.get(verb, 0) + 1

    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "to be used within `async with`"
        return self._session

    def _headers(self) -> dict[str, str]:
        """The token as its file has it now; Kubernetes renews it within the hour."""
        if self._access.token is None:
            return {"Accept": "application/json"}
        stamp = _stamp(self._access.token)
        if stamp != self._token_stamp:
            self._token, self._token_stamp = self._access.token.read_text().strip(), stamp
        return {"Accept": "application/json", "Authorization": f"Bearer {self._token}"}

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._access.server.startswith("https:"):
            return True
        stamp = _stamp(self._access.authority) if self._access.authority is not None else (0, 1)
        if self._authority_of is None or stamp != self._stamp:
            self._authority_of, self._stamp = ssl.create_default_context(cafile=self._access.authority), stamp
        return self._authority_of


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_ino


def _selected(scope: Scope) -> dict[str, str]:
    found = {"labelSelector": scope.labels, "fieldSelector": scope.fields}
    return {name: text for name, text in found.items() if text}


def _event(line: bytes) -> WatchEvent:
    """One line of a watch. Raises ApiError for what is none, and for the error that it may be."""
    try:
        body: Any = json.loads(line)
        item, change = body["object"], body["type"]
        if change != "ERROR":
            return WatchEvent(Change(change), item)
    except (ValueError, KeyError, TypeError) as error:
        raise ApiError(0, f"the watch sent what is no event: {error}") from error
    code = item.get("code", 0)
    raise _ERRORS.get(code, ApiError)(code, str(item.get("message", "the watch ended")))


async def _refusal(response: aiohttp.ClientResponse) -> ApiError:
    text = await response.text()
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text[:300]
    after = response.headers.get("Retry-After", "")
    kind = _ERRORS.get(response.status, ApiError)
    where = f"{response.method} {response.url.path}"
    return kind(
        response.status,
        f"{where}: {response.status} {message}",
        retry_after_s=float(after) if after.isdecimal() else 0.0,
    )
