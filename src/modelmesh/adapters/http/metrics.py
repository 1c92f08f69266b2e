"""`/metrics`, over HTTPS with its own certificate by default."""

import asyncio
import datetime as dt
import os
import ssl

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelmesh.adapters.http.requests import HttpServer, Request, Response, listen
from modelmesh.adapters.telemetry.exposition import Exposition

VALID_DAYS = 3650
"""The certificate ends with the process; clients cannot verify it, only encrypt to it."""

NAMES_MAX = 256
"""Filters of one scrape."""


class MetricsServer:
    """Answers scrapes.

    Args:
        https: With a certificate signed by itself, made at the start; scrapers cannot verify it.
        log_requests: Whether each scrape is a line of the log.
    """

    def __init__(self, exposition: Exposition, *, host: str, port: int, https: bool, log_requests: bool) -> None:
        self._exposition = exposition
        self._host = host
        self._port = port
        self._https = https
        self._log_requests = log_requests
        self._log = structlog.get_logger("modelmesh")
        self._port_bound = 0
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The bound port."""
        return self._port_bound

    async def start(self) -> None:
        """Bind. Raises OSError naming the address."""
        listener = listen(self._host, self._port, "MM_METRICS", "metrics")
        self._port_bound = int(listener.getsockname()[1])
        server = HttpServer(listener, self._answer, tls=self_signed() if self._https else None, failed=self._failed)
        self._serving = asyncio.create_task(server.serve(), name="metrics")

    async def stop(self) -> None:
        """Close."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    def _failed(self, error: Exception) -> None:
        self._log.error("metrics_failed", detail=f"{type(error).__name__}: {error}")

    async def _answer(self, request: Request) -> Response:
        if request.path not in {"/", "/metrics"}:
            return Response(404)
        if self._log_requests:
            self._log.info("metrics_scraped", by=request.peer, path=f"{request.path}?{request.query}".rstrip("?"))
        names = request.parameters("name[]", most=NAMES_MAX)
        # Thousands of series take a while to write; misses must not wait for it.
        render = self._exposition.prepare(request.headers.get("accept", ""), names)
        text, content_type = await asyncio.to_thread(render)
        return Response(200, text, content_type)


def self_signed() -> ssl.SSLContext:
    """A server's TLS context with a new key and a certificate signed by itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The standard library takes certificates from files only, and the file system may be read-only.
    with os.fdopen(os.memfd_create("metrics.pem"), "wb") as file:
        file.write(b"".join(self_signed_pem()))
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context


def self_signed_pem() -> tuple[bytes, bytes]:
    """A new key, and a certificate for `localhost` that it signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelmesh metrics")])
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - a certificate's validity is wall clock time
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)
