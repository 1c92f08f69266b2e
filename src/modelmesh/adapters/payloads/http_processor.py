"""Payloads POSTed to a sink."""

import asyncio
import json
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from modelmesh.adapters.payloads.formats import cloud_event, modelmesh_json, payloads
from modelmesh.adapters.payloads.processors import Format, ProcessorError
from modelmesh.values.dataplane import Tapped

POST_TIMEOUT_S = 10.0
"""Of one attempt. With the pauses between, a payload keeps a worker for at most half a minute."""

PAUSES_S = (0.25, 1.0)
"""Before the second and the third attempt, which is the last."""

_REPEATABLE = frozenset({408, 429, 500, 502, 503, 504})

_SMALL_BYTES = 64 << 10
"""Calls up to this size are encoded where they are; larger ones in a thread, so that nothing waits."""


class HttpProcessor:
    """Posts payloads, one document a POST, or with `batch` above 1 a list.

    Args:
        source: The source of CloudEvents.
        tls: For https; None: the well-known authorities.
        authorization: Value of the header, asked for at each POST; empty: none.
    """

    def __init__(
        self,
        url: str,
        *,
        form: Format,
        batch: int,
        source: str,
        tls: ssl.SSLContext | None = None,
        authorization: Callable[[], str] = str,
    ) -> None:
        self._url = url
        self._form = form
        self._batch = batch
        self._source = source
        self._tls = tls
        self._authorization = authorization
        self._session: aiohttp.ClientSession | None = None

    async def process(self, calls: Sequence[Tapped]) -> None:
        """Post a batch; repeated where that may help, and given up after the third attempt."""
        if sum(call.size_bytes for call in calls) > _SMALL_BYTES:
            bodies = await asyncio.to_thread(self._bodies, calls)
        else:
            bodies = self._bodies(calls)
        for body in bodies:
            await self._post(body)

    def _bodies(self, calls: Sequence[Tapped]) -> list[bytes]:
        documents = [self._document(payload) for call in calls for payload in payloads(call)]
        contents: list[Any] = [documents] if self._batch > 1 else documents
        return [json.dumps(content, separators=(",", ":")).encode() for content in contents]

    def _document(self, payload: Any) -> dict[str, Any]:
        return modelmesh_json(payload) if self._form == "modelmesh" else cloud_event(payload, self._source)

    @property
    def _content_type(self) -> str:
        if self._form == "modelmesh":
            return "application/json"
        return "application/cloudevents-batch+json" if self._batch > 1 else "application/cloudevents+json"

    async def _post(self, body: bytes) -> None:
        why = ""
        for pause_s in (*PAUSES_S, None):
            try:
                status = await self._attempt(body)
            except TimeoutError:
                why = f"no answer within {POST_TIMEOUT_S:.0f} s"
            except (aiohttp.ClientError, OSError) as error:
                why = str(error) or type(error).__name__
            else:
                if 200 <= status < 300:
                    return
                why = f"HTTP status {status}"
                if status not in _REPEATABLE:
                    break
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        raise ProcessorError(why)

    async def _attempt(self, body: bytes) -> int:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=POST_TIMEOUT_S))
        headers = {"Content-Type": self._content_type}
        if authorization := self._authorization():
            headers["Authorization"] = authorization
        # A redirect could lead payloads and the secret to any server.
        async with self._session.post(
            self._url, data=body, headers=headers, ssl=self._tls or True, allow_redirects=False
        ) as answer:
            return answer.status

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
