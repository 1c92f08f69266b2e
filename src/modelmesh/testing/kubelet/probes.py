"""Probes: when one has succeeded or failed often enough. Pure but for `attempt`."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Series:
    """Results of a probe in a row. `verdict` is None until there were enough of one kind."""

    good: int = 0
    bad: int = 0
    verdict: bool | None = None

    def then(self, ok: bool, probe: Object) -> "Series":  # noqa: FBT001 - the result of an attempt
        """With one more result."""
        good, bad = (self.good + 1, 0) if ok else (0, self.bad + 1)
        if good >= (probe.get("successThreshold") or 1):
            return Series(good, bad, verdict=True)
        if bad >= (probe.get("failureThreshold") or 3):
            return Series(good, bad, verdict=False)
        return Series(good, bad, self.verdict)


def port_number(port: int | str, container: Object) -> int:
    """A port by number, or by its name in the container."""
    if isinstance(port, int):
        return port
    return next(int(one["containerPort"]) for one in container.get("ports") or [] if one.get("name") == port)


async def attempt(
    action: Object, container: Object, address: str, execute: Callable[[list[str]], Awaitable[int]], timeout_s: float
) -> bool:
    """Do what a probe or a hook says; returns whether it succeeded.

    Args:
        action: With `exec`, `httpGet` or `tcpSocket`.
        container: Its spec.
        address: Of the pod.
        execute: Runs a command in the container; returns the exit code.
        timeout_s: For all of it.
    """
    with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, aiohttp.ClientError):
        if command := (action.get("exec") or {}).get("command"):
            return await asyncio.wait_for(execute(command), timeout_s) == 0
        if get := action.get("httpGet"):
            scheme, port = (get.get("scheme") or "HTTP").lower(), port_number(get["port"], container)
            url = f"{scheme}://{get.get('host') or address}:{port}/{(get.get('path') or '').lstrip('/')}"
            headers = {header["name"]: header["value"] for header in get.get("httpHeaders") or []}
            limits = aiohttp.ClientTimeout(timeout_s)
            async with (
                aiohttp.ClientSession(timeout=limits) as session,
                session.get(url, headers=headers, ssl=False) as answer,
            ):
                return 200 <= answer.status < 400
        if socket := action.get("tcpSocket"):
            opening = asyncio.open_connection(address, port_number(socket["port"], container))
            _, writer = await asyncio.wait_for(opening, timeout_s)
            writer.close()
            return True
    return False
