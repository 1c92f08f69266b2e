"""Names with several addresses, some of which are dead in one way or another."""

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from channels import Server, opened, target
from scripted import ID, Instance, Runtime, until

from modelmesh.adapters import addresses, channel
from modelmesh.adapters.addresses import Place, race
from modelmesh.adapters.peers import grpc_peers
from modelmesh.ports import PeerUnreachableError
from modelmesh.values.dataplane import PeerAddress
from modelmesh.values.ids import InstanceId

Make = Callable[..., Instance]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = await Server().start()
    yield server
    await server.stop()


@contextlib.contextmanager
def silent():
    """An address that accepts and says nothing."""
    with socket.create_server(("127.0.0.2", 0)) as listener:
        yield Place(socket.AF_INET, listener.getsockname())


@contextlib.contextmanager
def swallowing():
    """An address whose backlog is full: packets to it are dropped."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.3", 0))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield Place(socket.AF_INET, listener.getsockname())


def refusing() -> Place:
    with socket.create_server(("127.0.0.4", 0)) as listener:
        return Place(socket.AF_INET, listener.getsockname())


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def test_a_channel_reaches_the_address_that_lives(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, port = server.address.rpartition(":")
    good = Place(socket.AF_INET, (host, int(port)))
    with silent() as deaf, swallowing() as hole:
        for order in ([hole, good], [deaf, good], [refusing(), good], [hole, deaf, refusing(), good], [good, hole]):

            async def resolved(_: str, order: list[Place] = order) -> list[Place]:
                return order

            monkeypatch.setattr(channel, "places", resolved)
            before = descriptors()
            async with opened(target("mesh.test:1")) as one:
                assert await one.unary("/test.S/Echo", b"x", timeout_s=5) == b"x"
            await until(lambda before=before: descriptors() <= before)


async def test_if_all_are_dead_the_call_fails_within_its_bound_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "CONNECT_TIMEOUT_S", 0.5)
    with silent() as deaf, swallowing() as hole:

        async def resolved(_: str) -> list[Place]:
            return [hole, deaf, refusing()]

        monkeypatch.setattr(channel, "places", resolved)
        before = descriptors()
        async with opened(target("mesh.test:1")) as one:
            with pytest.raises(channel.CallError, match=r"failed to connect to mesh\.test:1"):
                await one.unary("/test.S/Echo", b"x", timeout_s=5)
        await until(lambda: descriptors() <= before)


async def test_two_that_succeed_at_once_leave_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "STAGGER_S", 0)
    begun, discarded = asyncio.Event(), []

    async def attempt(place: Place) -> str:
        if place.address == "late":
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"  # it was done when it was told
        await begun.wait()
        return str(place.address)

    tried = [Place(0, "first"), Place(0, "late")]
    assert await race(tried, attempt, discarded.append) == "first"
    assert discarded == ["late"]


async def test_small_messages_are_not_held_back(server: Server) -> None:
    host, _, port = server.address.rpartition(":")
    with await addresses.connected(Place(socket.AF_INET, (host, int(port)))) as made:
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_no_address_is_an_error() -> None:
    async def attempt(_: Place) -> None:
        raise AssertionError

    with pytest.raises(OSError, match="no address"):
        await race([], attempt, lambda _: None)


def connections(address: str) -> int:
    """Open ones from here to a port of this machine."""
    port = int(address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[2].rpartition(":")[2], 16) == port and row[3] == "01" for row in rows)


async def test_a_runtime_that_has_moved_loses_its_connections(make: Make) -> None:
    first, second = await Runtime().start(), await Runtime().start()
    one = make(runtime=first.address)
    one.local()
    assert await one.unary()(b"x", metadata=ID) == b"x"
    await until(lambda: connections(first.address) > 0)
    one.plane.set_runtime(second.address)
    await until(lambda: connections(first.address) == 0)
    assert await one.unary()(b"x", metadata=ID) == b"x"
    for runtime in (first, second):
        await runtime.stop()


async def test_a_peer_that_is_forgotten_loses_its_connections(make: Make) -> None:
    runtime = await Runtime().start()
    one, two = make("i1", runtime=runtime.address), make("i2", runtime=runtime.address)
    two.local()
    one.remote(two)
    assert await one.unary()(b"x", metadata=ID) == b"x"
    assert connections(two.peer_address.address) > 0
    one.plane.set_peers([(InstanceId("i2"), None)])
    await until(lambda: connections(two.peer_address.address) == 0)
    await runtime.stop()


async def test_control_calls_leave_no_connection_to_a_peer_for_long(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_peers, "IDLE_S", 0.1)
    peers = grpc_peers.GrpcPeers()
    with pytest.raises(PeerUnreachableError, match="UNIMPLEMENTED"):
        await peers.ping(PeerAddress(server.address), timeout_ms=5_000)
    assert connections(server.address) == 1
    await until(lambda: connections(server.address) == 0)
    with pytest.raises(PeerUnreachableError, match="UNIMPLEMENTED"):
        await peers.ping(PeerAddress(server.address), timeout_ms=5_000)
    await peers.close()
    await until(lambda: connections(server.address) == 0)
