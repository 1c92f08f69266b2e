"""A client of the Kubernetes API for tests: requests and watches of JSON, and nothing that hides what is sent."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
_JSON = "application/json"


class ApiError(Exception):
    """The API server refused. `status` is the HTTP status, the text its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def path(api_version: str, plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Path of a kind, an object, or a part of one: `path("apps/v1", "deployments", "models", "one")`."""
    base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    parts = [base, *(["namespaces", namespace] if namespace else []), plural, name, subresource]
    return "/".join(part for part in parts if part)


class Api:
    """A connection to an API server; enter it to use it."""

    def __init__(self, url: str, token: str, authority: bytes) -> None:
        self._url, self._token = url, token
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 443
        self._tls = ssl.create_default_context(cadata=authority.decode())
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._token}"}
        self._session = aiohttp.ClientSession(
            self._url, headers=headers, connector=aiohttp.TCPConnector(ssl=self._tls, limit=0)
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        where: str,
        body: Object | None = None,
        *,
        content: str = _JSON,
        query: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Object:
        """One request; returns the answer's JSON. While the server asks to come again later (429 with `Retry-After`), it is repeated.

        Raises:
            ApiError: The server refused, or still asks to come later after `timeout_s`.
            aiohttp.ClientError, TimeoutError: It did not answer.
        """
        late = time.monotonic() + timeout_s
        while True:
            status, text, pause_s = await self._answer(method, where, body, content, query, timeout_s)
            if status < 400:
                found: Object = json.loads(text) if text.startswith("{") else {"text": text}
                return found
            # It says so while the lists of a new kind, or all after its own start, are read from etcd.
            if status != 429 or pause_s is None or time.monotonic() + pause_s > late:
                raise ApiError(status, _message(text))
            await asyncio.sleep(pause_s)

    async def _answer(
        self,
        method: str,
        where: str,
        body: Object | None,
        content: str,
        query: Mapping[str, str] | None,
        timeout_s: float,
    ) -> tuple[int, str, int | None]:
        """Status, text, and the seconds after which the server wants to be asked again (None: it does not say)."""
        assert self._session is not None
        async with self._session.request(
            method,
            where,
            data=None if body is None else json.dumps(body),
            params=query,
            headers={"Content-Type": content},
            timeout=aiohttp.ClientTimeout(timeout_s),
        ) as answer:
            after = answer.headers.get("Retry-After", "")
            return answer.status, await answer.text(), int(after) if after.isdecimal() else None

    async def get(self, where: str) -> Object:
        """An object or a list."""
        return await self.call("GET", where)

    async def items(self, where: str, query: Mapping[str, str] | None = None) -> list[Object]:
        """The objects of a list."""
        found: list[Object] = (await self.call("GET", where, query=query))["items"]
        return found

    async def create(self, where: str, body: Object, query: Mapping[str, str] | None = None) -> Object:
        """Create an object, or ask a subresource."""
        return await self.call("POST", where, body, query=query)

    async def apply(self, where: str, body: Object, *, manager: str, dry_run: bool = False) -> Object:
        """Server-side apply."""
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        return await self.call(
            "PATCH", where, body, content=APPLY, query=query | ({"dryRun": "All"} if dry_run else {})
        )

    async def merge(self, where: str, body: Object) -> Object:
        """Merge patch."""
        return await self.call("PATCH", where, body, content=MERGE)

    async def delete(self, where: str, *, grace_s: int | None = None) -> Object:
        """Delete an object. `grace_s`: seconds that it may take to end; 0: it is gone at once."""
        return await self.call("DELETE", where, query=None if grace_s is None else {"gracePeriodSeconds": str(grace_s)})

    async def watch(self, where: str, query: Mapping[str, str]) -> AsyncIterator[tuple[str, Object]]:
        """Objects as they are and as they change: (`ADDED`, `MODIFIED` or `DELETED`; the object). Ends when the server ends it.

        Raises:
            ApiError: The server refused, or what happened since the version asked for is no longer known.
            aiohttp.ClientError, TimeoutError: The connection was lost, or silent for a minute.
        """
        assert self._session is not None
        limits = aiohttp.ClientTimeout(None, sock_read=60)
        parameters = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "50"}
        async with self._session.get(where, params=parameters, timeout=limits) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, _message(await answer.text()))
            buffer = b""
            async for chunk in answer.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), event["object"].get("message", ""))
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]


FAILURES = (ApiError, aiohttp.ClientError, TimeoutError, asyncio.TimeoutError, OSError)
"""What a call may end with."""


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
