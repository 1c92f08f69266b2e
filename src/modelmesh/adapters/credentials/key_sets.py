"""The public keys of issuers (JWKS): fetched when they are needed, kept, and renewed."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelmesh.ports import Clock

RENEW_MS = 600_000
"""Keys older than that are fetched again when they are used: one that its issuer took back is trusted no longer than that."""

AGAIN_MS = 30_000
"""How soon keys are fetched again because a token names one that is not there, or because the issuer did not answer."""

TRUSTED_MS = 86_400_000
"""How long keys are used whose issuer does not answer any more."""

FETCH_S = 5.0
LARGEST_BYTES = 1 << 20
MOST_KEYS = 64

Key = Mapping[str, Any]


class KeySetAwayError(Exception):
    """The keys of an issuer are not available now; the message has the reason."""


@dataclass(slots=True)
class _Cached:
    keys: Sequence[Key] = ()
    fetched_ms: int | None = None
    tried_ms: int | None = None
    why: str = ""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


async def fetch(where: str) -> bytes:
    """The bytes at an `https://` address or in a file. Raises OSError, TimeoutError or ValueError."""
    content = await (asyncio.to_thread(_read, Path(where)) if where.startswith("/") else _download(where))
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"it is larger than {LARGEST_BYTES} bytes")
    return content


async def _download(url: str) -> bytes:
    import aiohttp  # noqa: PLC0415 - 8 MB that instances without issuers save

    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"it answers {answer.status}")
            content = await answer.content.read(LARGEST_BYTES + 1)
            while not answer.content.at_eof() and len(content) <= LARGEST_BYTES:
                content += await answer.content.read(LARGEST_BYTES + 1 - len(content))
            return content
    except aiohttp.ClientError as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST_BYTES + 1)


class KeySets:
    """Keys by where they are.

    Args:
        clock: For the age of keys.
        get: Fetches the bytes of a key set.
    """

    def __init__(self, clock: Clock, get: Callable[[str], Awaitable[bytes]] = fetch) -> None:
        self._clock = clock
        self._get = get
        self._cached: dict[str, _Cached] = {}

    async def keys(self, where: str, kid: str) -> Sequence[Key]:
        """The keys with an id, or all if `kid` is empty; none if there is no such key.

        Raises:
            KeySetAwayError: They were never fetched, or too long ago.
        """
        cached = self._cached.setdefault(where, _Cached())
        if self._is_due(cached, kid):
            async with cached.turn:
                if self._is_due(cached, kid):  # a waiter finds the keys that another call has fetched
                    await self._renew(where, cached)
        if cached.fetched_ms is None or self._clock.now_ms() - cached.fetched_ms > TRUSTED_MS:
            raise KeySetAwayError(f"the key set {where} cannot be had: {cached.why}")
        return _named(cached.keys, kid)

    def _is_due(self, cached: _Cached, kid: str) -> bool:
        now_ms = self._clock.now_ms()
        if cached.tried_ms is None:
            return True
        if cached.fetched_ms is None or not _named(cached.keys, kid):
            return now_ms - cached.tried_ms >= AGAIN_MS
        return now_ms - cached.fetched_ms >= RENEW_MS and now_ms - cached.tried_ms >= AGAIN_MS

    async def _renew(self, where: str, cached: _Cached) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                cached.keys = _parse(await self._get(where))
            cached.fetched_ms = self._clock.now_ms()
        except TimeoutError:
            cached.why = f"it did not answer in {FETCH_S:.0f} s"
        except (OSError, ValueError) as error:
            cached.why = f"{type(error).__name__}: {error}"
        cached.tried_ms = self._clock.now_ms()


def _named(keys: Sequence[Key], kid: str) -> Sequence[Key]:
    return [key for key in keys if key.get("kid") == kid] if kid else keys


def _parse(content: bytes) -> Sequence[Key]:
    try:
        body = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    keys = body.get("keys") if isinstance(body, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError('it is no key set: {"keys": [{…}, …]}')
    if len(keys) > MOST_KEYS:
        raise ValueError(f"it has {len(keys)} keys, {MOST_KEYS} are allowed")
    return keys
