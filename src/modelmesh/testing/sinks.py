"""Real servers on loopback that take what instances send: payloads, and traces."""

import asyncio
import gzip
import json
import ssl
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web


@dataclass
class Posted:
    """One POST."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


@dataclass
class Sink:
    """Keeps what is posted, up to `keeps` posts; answers with `statuses` in turn, the last one forever; may be slow."""

    statuses: list[int] = field(default_factory=lambda: [200])
    hangs: bool = False
    keeps: int = 10_000
    posted: list[Posted] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Its root, without a slash at the end."""
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=1 << 28)
        application.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        posted = Posted(request.path_qs, headers, await request.read())
        if len(self.posted) < self.keeps:
            self.posted.append(posted)
        if self.hangs:
            await asyncio.sleep(3600)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.Response(status=status)

    def spans(self) -> list[Any]:
        """Spans of all exports, as OTLP has them; needs the extra `tracing`."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415 - an extra
            ExportTraceServiceRequest,
        )

        found: list[Any] = []
        for posted in self.posted:
            body = gzip.decompress(posted.body) if posted.body[:2] == b"\x1f\x8b" else posted.body
            export = ExportTraceServiceRequest.FromString(body)
            for resource in export.resource_spans:
                for scope in resource.scope_spans:
                    found += scope.spans
        return found
