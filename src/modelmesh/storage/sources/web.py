"""HTTP for sources: checked redirects, errors with codes, bodies of the announced length."""

import json
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from modelmesh.storage.errors import StorageError, next_step, of_http_status, scrub
from modelmesh.storage.listing import SourceFile
from modelmesh.storage.names import shown
from modelmesh.values.status import Status

PIECE_BYTES = 1024 * 1024
MAX_REDIRECTS = 10
MAX_JSON_BYTES = 32 * 1024 * 1024
"""A page of a listing."""

RANGE = re.compile(r"bytes (?:(\d{1,20})-(\d{1,20})|\*)/(\d{1,20}|\*)")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)


class Web:
    """One origin's requests, for one pull.

    Args:
        what: What is asked for, in errors.
        headers: Sent to the first origin only, not to where it redirects.
        secrets: Never in a text.
        codes: Values of X-Error-Code that are more specific than the status.
        tls: Other authorities than the system's, a client certificate.
    """

    def __init__(
        self,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: tuple[str, ...] = (),
        codes: Mapping[str, Status] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.what = what
        self.headers = dict(headers or {})
        self._secrets = secrets
        self._codes = codes or {}
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._session: aiohttp.ClientSession | None = None

    def hide(self, secret: str) -> None:
        """Keep one more secret out of texts."""
        self._secrets = (*self._secrets, secret)

    async def close(self) -> None:
        """Let connections go."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str] | None = None, *, accepted: tuple[int, ...] = (200, 206)
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose status is accepted, redirects followed.

        Raises:
            StorageError: With the code that the status means; UNAVAILABLE: no answer. Also for what the body raises.
        """
        try:
            answer = await self._follow(url, dict(headers or {}))
            async with answer:
                if answer.status not in accepted:
                    raise await self._refused(answer)
                yield answer
        except aiohttp.ClientConnectorCertificateError as error:
            raise StorageError(
                Status.FAILED_PRECONDITION,
                f"{self.what}: the server's certificate is not trusted ({self._words(error)}); give its authority as"
                " `certificate` in the storage configuration",
            ) from None
        except TimeoutError:  # before OSError, its base; aiohttp's are both
            raise StorageError(
                Status.UNAVAILABLE,
                f"{self.what}: the server was silent for 30 s, or unreachable{next_step(Status.UNAVAILABLE)}",
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = f"{self.what}: {self._words(error)}{next_step(Status.UNAVAILABLE)}"
            raise StorageError(Status.UNAVAILABLE, text) from None

    async def read(self, file: SourceFile, start: int, end: int | None, what: str) -> AsyncGenerator[bytes, None]:
        """Bytes of a file whose key is its URL, as `Source.read`; `what` names it in errors."""
        if end is not None and start >= end:
            return
        async with self.get(file.key, range_header(start, end, file.size_bytes)) as answer:
            sent_range(answer, start, end, file.size_bytes, what)
            async for piece in pieces(answer, None if end is None else end - start):
                yield piece

    async def json(self, url: str, headers: Mapping[str, str] | None = None) -> tuple[Any, Mapping[str, str]]:
        """A JSON answer, bounded, and its headers. Raises StorageError."""
        async with self.get(url, headers, accepted=(200,)) as answer:
            body = bytearray()
            async for piece in answer.content.iter_chunked(1 << 16):
                body += piece
                if len(body) > MAX_JSON_BYTES:
                    raise StorageError(
                        Status.RESOURCE_EXHAUSTED,
                        f"{self.what}: an answer is larger than {MAX_JSON_BYTES} bytes; name a deeper path",
                    )
            try:
                return json.loads(body), answer.headers
            except (ValueError, RecursionError):
                text = f"{self.what}: the server's answer is no JSON{next_step(Status.UNAVAILABLE)}"
                raise StorageError(Status.UNAVAILABLE, text) from None

    async def _follow(self, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=_TIMEOUT,
                auto_decompress=False,
                trust_env=True,
                read_bufsize=PIECE_BYTES,
                connector=aiohttp.TCPConnector(limit=0),
                skip_auto_headers=("User-Agent",),
            )
        sent = {**self.headers, "Accept-Encoding": "identity", "User-Agent": "modelmesh", **headers}
        origin = _origin(url)
        for _ in range(MAX_REDIRECTS):
            answer = await self._session.get(url, headers=sent, allow_redirects=False, ssl=self._tls)
            to = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or to is None:
                return answer
            answer.close()
            url, secure = urljoin(url, to), url.startswith("https://")
            if urlsplit(url).scheme not in {"http", "https"} or (secure and not url.startswith("https://")):
                raise StorageError(
                    Status.INVALID_ARGUMENT,
                    f"{self.what}: the server redirects from https to something else; correct the URL",
                )
            if _origin(url) != origin:
                # Credentials are for who was named; a redirect to a store carries its own signature.
                sent = {"Accept-Encoding": "identity", "User-Agent": "modelmesh", **headers}
        raise StorageError(
            Status.FAILED_PRECONDITION,
            f"{self.what}: the server redirects more than {MAX_REDIRECTS} times; is it a loop?",
        )

    async def _refused(self, answer: aiohttp.ClientResponse) -> StorageError:
        said = answer.headers.get("X-Error-Message", "")
        text = f"{self.what}: the server answers {answer.status} {shown(answer.reason or '')}".rstrip()
        if said:
            text += f" ({scrub(shown(said), self._secrets)})"
        code = self._codes.get(answer.headers.get("X-Error-Code", ""), of_http_status(answer.status))
        return StorageError(code, text + next_step(code), retry_after_s=_retry_after_s(answer.headers))

    def _words(self, error: Exception) -> str:
        return scrub(f"{type(error).__name__}: {error}", self._secrets)


async def pieces(answer: aiohttp.ClientResponse, size_bytes: int | None) -> AsyncGenerator[bytes, None]:
    """A body in pieces of about a MiB, never more bytes than were asked for.

    A body that ends too soon is the caller's to notice: where it has no length, aiohttp notices.
    """
    gathered = bytearray()
    left = size_bytes
    while left is None or left > 0:
        piece = await answer.content.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
        if not piece:
            break
        gathered += piece
        left = None if left is None else left - len(piece)
        if len(gathered) >= PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def range_header(start: int, end: int | None, size_bytes: int | None) -> dict[str, str]:
    """The header that asks for a part of a file; none for all of it."""
    if start == 0 and end == size_bytes:
        return {}
    return {"Range": f"bytes={start}-{'' if end is None else end - 1}"}


def sent_range(answer: aiohttp.ClientResponse, start: int, end: int | None, size_bytes: int | None, what: str) -> None:
    """The answer is the part that was asked for.

    Raises:
        StorageError: ABORTED: the file has another length now. UNAVAILABLE: the server sends another part.
    """
    if not range_header(start, end, size_bytes):
        if answer.content_length is not None and size_bytes not in {None, answer.content_length}:
            raise StorageError(Status.ABORTED, f"{what} changed while it was pulled{next_step(Status.ABORTED)}")
        return
    found = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status != 206 or found is None or found[1] != str(start):
        text = f"{what}: the server does not answer with the range that was asked for{next_step(Status.UNAVAILABLE)}"
        raise StorageError(Status.UNAVAILABLE, text)
    if found[3] != "*" and size_bytes not in {None, int(found[3])}:
        raise StorageError(Status.ABORTED, f"{what} changed while it was pulled{next_step(Status.ABORTED)}")


def tls_context(authority: str, certificate: str, key: str) -> ssl.SSLContext | None:
    """A context for an own authority or a client certificate, all as PEM text; None: neither is given.

    Raises:
        ValueError: What is given cannot be used, or only one of certificate and key is.
    """
    if not (authority or certificate or key):
        return None
    if bool(certificate) != bool(key):
        raise ValueError("client_certificate and client_key belong together; give both or neither")
    try:
        context = ssl.create_default_context(cadata=authority or None)
        if certificate:
            # The library reads files only; this one is in memory and has no name.
            fd = os.memfd_create("client", os.MFD_CLOEXEC)
            try:
                os.write(fd, f"{certificate}\n{key}\n".encode())
                context.load_cert_chain(f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"certificate, client_certificate or client_key is no usable PEM ({error})") from None
    return context


def header_settings(text: str) -> dict[str, str]:
    """The headers of a storage configuration: an object of strings or lists of strings.

    Raises:
        ValueError: It is something else. The value is not shown.
    """
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("headers is no JSON object")  # noqa: TRY004 - it comes from text
    headers = {}
    for name, value in found.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) and not set(one) & set("\r\n\0") for one in [name, *values]):
            raise ValueError("headers has a value that is no string, nor a list of strings, of one line")
        headers[name] = ", ".join(values)
    return headers


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """What the server asks for; its clock and ours may differ, so a date counts from the server's own."""
    text = headers.get("Retry-After", "")
    try:
        if text.isdecimal():
            return float(text[:6])
        if text:
            at, now = (parsedate_to_datetime(one).replace(tzinfo=UTC) for one in (text, headers.get("Date", "")))
            return max(0.0, (at - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        pass
    return 0.0
