"""One file over HTTP or HTTPS."""

import os
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import quote

import aiohttp

from modelmesh.storage.credentials import secrets_of
from modelmesh.storage.errors import StorageError, next_step
from modelmesh.storage.listing import Limits, Plan, SourceFile, make_plan
from modelmesh.storage.locations import Location
from modelmesh.storage.names import shown
from modelmesh.storage.sources.web import RANGE, Web, header_settings, pieces, range_header, sent_range, tls_context
from modelmesh.values.status import Status


class HttpSource:
    """One URL. The server need not know ranges, lengths or entity tags; with them a pull can resume and is kept.

    Raises:
        StorageError: INVALID_ARGUMENT: headers or certificates of the settings make no sense.
    """

    def __init__(self, location: Location, environ: Mapping[str, str] = os.environ) -> None:
        self._location = location
        self.ranged = False
        query = f"?{location.query}" if location.query else ""
        self._url = f"{location.place}/{quote(location.path)}{query}"
        try:
            self._web = Web(
                location.text,
                headers=header_settings(location.get("headers")),
                secrets=secrets_of(location, environ),
                tls=tls_context(
                    location.get("certificate"), location.get("client_certificate"), location.get("client_key")
                ),
            )
        except ValueError as error:
            raise StorageError(Status.INVALID_ARGUMENT, f"{location}: {error}") from None

    async def plan(self, limits: Limits, unknown: str) -> Plan:
        """Ask for one byte: the answer has the length and tag, and shows whether there are ranges.

        `HEAD` would do, but a signed URL is signed for `GET`.
        """
        # 416: the file is empty, so that it has no first byte.
        async with self._web.get(self._url, {"Range": "bytes=0-0"}, accepted=(200, 206, 416)) as answer:
            size, self.ranged = _size(answer)
            self._check_plain(answer)
            tag = _tag(answer)
        name = self._location.name or "index"
        file = SourceFile(name, self._url, size, tag, unpack=self._location.unpack)
        return make_plan(self._location, [file], is_file=True, endpoint="", unknown=unknown, limits=limits)

    async def read(self, file: SourceFile, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """As `Source.read`."""
        if end is not None and start >= end:
            return
        what = f"{self._location}: {shown(file.name)}"
        async with self._web.get(self._url, range_header(start, end, file.size_bytes)) as answer:
            if file.tag and _tag(answer) != file.tag:
                raise StorageError(Status.ABORTED, f"{what} changed while it was pulled{next_step(Status.ABORTED)}")
            self._check_plain(answer)
            sent_range(answer, start, end, file.size_bytes, what)
            async for piece in pieces(answer, None if end is None else end - start):
                yield piece

    async def close(self) -> None:
        """Let connections go."""
        await self._web.close()

    def _check_plain(self, answer: aiohttp.ClientResponse) -> None:
        """The bytes are those of the file: a length and ranges of something compressed would not be."""
        if answer.headers.get("Content-Encoding", "identity").lower() not in {"identity", ""}:
            raise StorageError(
                Status.FAILED_PRECONDITION,
                f"{self._location}: the server sends it compressed though that was not asked for; turn that off there",
            )


def _size(answer: aiohttp.ClientResponse) -> tuple[int | None, bool]:
    """Length of the whole file, if it is sent, and whether ranges can be requested."""
    found = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status == 416:
        return 0, False
    if answer.status == 206 and found is not None:
        return (int(found[3]), True) if found[3] != "*" else (None, False)
    return answer.content_length, False


def _tag(answer: aiohttp.ClientResponse) -> str:
    """Entity tag, else the time of the last change."""
    return answer.headers.get("ETag", "").strip() or answer.headers.get("Last-Modified", "").strip()
