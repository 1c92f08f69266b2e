"""Where a server is: the addresses that its name has, and a race of them, so that a dead one costs little."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

UNIX = "unix://"

STAGGER_S = 0.25
"""An attempt that has no outcome after this time gets the next one beside it (RFC 8305)."""

MOST_PLACES = 16
"""Further addresses of a name are not tried."""

Outcome = TypeVar("Outcome")


class Place(NamedTuple):
    """One address of a server, as sockets know it."""

    family: int
    address: Any


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `host:port`, an IPv6 host without its brackets; port 0 if there is none."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else 0


async def places(address: str) -> Sequence[Place]:
    """The places of `host:port` or `unix:///path`, in the resolver's order.

    Raises:
        OSError: The name has no address.
    """
    if address.startswith(UNIX):
        return (Place(socket.AF_UNIX, address.removeprefix(UNIX)),)
    host, port = host_and_port(address)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Place(family, where) for family, _, _, _, where in found[:MOST_PLACES]]


async def connected(place: Place) -> socket.socket:
    """A connected socket; none is left behind if that fails or is given up. Raises OSError."""
    made = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        if place.family != socket.AF_UNIX:
            # asyncio does so for the sockets that it makes itself; without it each answer waits for an ACK, 40 ms.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)  # noqa: FBT003 - the standard library's own
        await asyncio.get_running_loop().sock_connect(made, place.address)
    except BaseException:
        made.close()
        raise
    return made


async def race(
    tried: Sequence[Place], attempt: Callable[[Place], Awaitable[Outcome]], discard: Callable[[Outcome], None]
) -> Outcome:
    """The first success; the other attempts are given up and have ended when this returns.

    Args:
        tried: In this order.
        attempt: One attempt. Raises OSError.
        discard: Takes a success that is not wanted.

    Raises:
        OSError: The last failure, when all have failed.
    """
    waiting = list(reversed(tried))
    running: list[asyncio.Task[Outcome]] = []
    failure = OSError("the name has no address")
    try:
        while waiting or running:
            if waiting:
                running.append(asyncio.ensure_future(attempt(waiting.pop())))
            await asyncio.wait(running, timeout=STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task.done()]:
                running.remove(task)
                if task.exception() is None:
                    return await _alone(task.result(), running, discard)
                failure = _failure(task)
        raise failure
    finally:
        for task in running:
            task.cancel()


def _failure(task: "asyncio.Task[Outcome]") -> OSError:
    error = task.exception()
    if isinstance(error, OSError):
        return error
    assert error is not None
    raise error


async def _alone(
    won: Outcome, others: Sequence["asyncio.Task[Outcome]"], discard: Callable[[Outcome], None]
) -> Outcome:
    """The success, once the other attempts have ended."""
    for task in others:
        task.cancel()
    try:
        for outcome in await asyncio.gather(*others, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                discard(outcome)
    except asyncio.CancelledError:
        discard(won)
        raise
    return won
