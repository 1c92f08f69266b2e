"""Calls of the control plane, against gRPC's own server."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from channels import MIB, Server, fails, opened, saying, target
from scripted import WAIT, until

from modelmesh.adapters import channel as module
from modelmesh.adapters.channel import CallError, Channel, ClientTls, Target
from modelmesh.instance.local_cluster import free_port
from modelmesh.testing.certificates import Authority
from modelmesh.values.status import Status


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = await Server().start()
    yield server
    server.release.set()
    await server.stop()


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[Channel]:
    async with opened(target(server.address, max_message_bytes=32 * MIB)) as channel:
        yield channel


async def test_an_answer_comes_back_whole_whatever_its_size(channel: Channel):
    for size in (0, 1, 16_384, 70_000, 5 * MIB, 30 * MIB):
        assert await channel.unary("/test.S/Echo", b"x" * size) == b"x" * size


async def test_a_server_sees_metadata_and_deadline(channel: Channel, server: Server):
    await channel.unary("/test.S/Echo", b"", metadata=(("token", "secret"), ("a-bin", "AQI")), timeout_s=20)
    assert server.metadata["token"] == "secret"
    assert server.metadata["a-bin"] == b"\x01\x02"
    assert server.deadline_s is not None
    assert 10 < server.deadline_s <= 20
    await channel.unary("/test.S/Echo", b"")
    assert server.deadline_s is None


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
async def test_a_status_and_its_text_arrive(channel: Channel, status: Status):
    error = await fails(status, channel.unary("/test.S/Fail", f"{status.name} 100 % über".encode()))
    assert error.details == "100 % über"
    assert not error.unprocessed


async def test_a_method_that_is_not_there_is_unimplemented(channel: Channel):
    await fails(Status.UNIMPLEMENTED, channel.unary("/test.S/None", b""))


async def test_an_answer_larger_than_permitted_ends_the_call_and_not_the_connection(server: Server):
    async with opened(target(server.address, max_message_bytes=1000)) as channel:
        assert await channel.unary("/test.S/Echo", b"x" * 1000)
        before = channel._connection
        await fails(Status.RESOURCE_EXHAUSTED, channel.unary("/test.S/Echo", b"x" * 1001), r"\(1001 vs\. 1000\)")
        assert await channel.unary("/test.S/Echo", b"x") == b"x"
        assert channel._connection is before


async def test_many_calls_share_a_connection_that_permits_few_at_a_time(server: Server):
    few = await Server().start(max_concurrent_streams=3)
    try:
        async with opened(target(few.address)) as channel:
            messages = [str(number).encode() * 50 for number in range(500)]
            answers = await asyncio.gather(*(channel.unary("/test.S/Echo", message) for message in messages))
            assert answers == messages
    finally:
        await few.stop()


async def test_messages_go_both_ways_on_a_stream(channel: Channel):
    with await channel.stream("/test.S/Each") as stream:
        for text in ("a", "b", "c" * 200_000):
            stream.send(text.encode())
            assert await stream.read() == text.encode()
            assert await stream.read() == text.upper().encode()
        stream.send(b"last", last=True)
        assert [await stream.read() for _ in range(3)] == [b"last", b"LAST", None]
        assert await stream.read() is None


async def test_a_reader_that_waits_holds_the_server_back(channel: Channel):
    """What is not read stays within a window, however much the server would send."""
    with await channel.stream("/test.S/Each") as stream:
        for _ in range(40):
            stream.send(b"x" * MIB)
        assert await stream.read() == b"x" * MIB
        connection = channel._connection
        assert connection is not None
        seen = 0
        # Other calls on the connection are served meanwhile.
        for _ in range(50):
            await channel.unary("/test.S/Echo", b"y")
        for _ in range(79):
            seen += len(await stream.read() or b"")
        assert seen == 79 * MIB


async def test_a_call_that_is_given_up_is_given_up_at_the_server(channel: Channel, server: Server):
    call = asyncio.create_task(channel.unary("/test.S/Wait", b"1"))
    other = asyncio.create_task(channel.unary("/test.S/Wait", b"2"))
    await until(lambda: server.started == 2)
    call.cancel()
    await until(lambda: server.cancelled == 1)
    server.release.set()
    assert await other == b"2"


async def test_a_deadline_ends_a_call_here_and_at_the_server(channel: Channel, server: Server):
    await fails(Status.DEADLINE_EXCEEDED, channel.unary("/test.S/Wait", b"", timeout_s=0.05))
    await until(lambda: server.cancelled == 1)


async def test_a_server_that_stops_in_order_ends_its_calls_and_gets_no_new_ones(channel: Channel, server: Server):
    call = asyncio.create_task(channel.unary("/test.S/Wait", b"1"))
    await until(lambda: server.started == 1)
    stopping = asyncio.create_task(server.stop(grace=WAIT))
    await until(lambda: channel._connection is None or not channel._connection.native.takes_calls)
    await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b""), "failed to connect")
    server.release.set()
    assert await call == b"1"
    await stopping


async def test_a_server_that_dies_and_comes_back_is_found_again():
    port = free_port()
    server = await Server().start(f"127.0.0.1:{port}")
    async with opened(target(server.address)) as channel:
        call = asyncio.create_task(channel.unary("/test.S/Wait", b"1"))
        await until(lambda: server.started == 1)
        await server.stop()
        await fails(Status.UNAVAILABLE, call)
        error = await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b"2"), "failed to connect to")
        assert error.unprocessed
        again = await Server().start(f"127.0.0.1:{port}")
        try:
            async with asyncio.timeout(WAIT):
                while True:
                    with contextlib.suppress(CallError):
                        assert await channel.unary("/test.S/Echo", b"3") == b"3"
                        break
                    await asyncio.sleep(0.02)
        finally:
            await again.stop()


async def test_nobody_there_is_said_at_once_and_not_tried_for_every_call(monkeypatch: pytest.MonkeyPatch):
    attempts = 0
    begin = module._Connection.open

    async def counted(connection: Any, place: Any) -> None:
        nonlocal attempts
        attempts += 1
        await begin(connection, place)

    monkeypatch.setattr(module._Connection, "open", counted)
    async with opened(target(f"127.0.0.1:{free_port()}")) as channel:
        calls = [channel.unary("/test.S/Echo", b"") for _ in range(20)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, CallError)
            assert outcome.unprocessed
            assert "Connect call failed" in outcome.details
        await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b""))
        assert attempts == 1


async def test_a_unix_socket_is_called(tmp_path: Path):
    server = await Server().start(f"unix://{tmp_path / 'socket'}")
    try:
        async with opened(target(server.address)) as channel:
            assert await channel.unary("/test.S/Echo", b"1") == b"1"
    finally:
        await server.stop()


async def test_closing_ends_calls_and_refuses_new_ones(server: Server):
    channel = Channel(target(server.address))
    call = asyncio.create_task(channel.unary("/test.S/Wait", b"1"))
    await until(lambda: server.started == 1)
    await channel.close()
    await fails(Status.UNAVAILABLE, call, "the connection was closed")
    await until(lambda: server.cancelled == 1)
    await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b""), "the connection is closed")


async def test_closing_while_it_connects_tells_who_waits():
    with saying(b"", hangs_up=False) as address:
        channel = Channel(target(address))
        call = asyncio.create_task(channel.unary("/test.S/Echo", b"1"))
        await until(lambda: channel._opening is not None)
        await channel.close()
        await fails(Status.UNAVAILABLE, call, "closed")


async def test_a_channel_that_is_forgotten_leaves_nothing(server: Server):
    channel = Channel(target(server.address))
    await channel.unary("/test.S/Echo", b"1")
    connection = channel._connection
    assert connection is not None
    await channel.close()
    assert connection._transport is None
    remains = weakref.ref(channel), weakref.ref(connection)
    del channel, connection
    gc.collect()
    assert [remain() for remain in remains] == [None, None]


@pytest.mark.parametrize("wrong", ["no slash", "/a b", ""])
async def test_a_path_that_is_none_is_refused(channel: Channel, wrong: str):
    with pytest.raises(ValueError, match="path"):
        await channel.unary(wrong, b"")
    assert await channel.unary("/test.S/Echo", b"1") == b"1"


@pytest.mark.parametrize("wrong", [("a b", "c"), ("a", "b\nc"), ("", "x")])
async def test_metadata_that_cannot_be_sent_is_refused(channel: Channel, wrong: tuple[str, str]):
    with pytest.raises(ValueError, match="metadata"):
        await channel.unary("/test.S/Echo", b"", metadata=(wrong,))


# --- TLS ---


async def test_tls_on_both_sides():
    authority, stranger = Authority(), Authority("stranger")
    issued, ours, theirs = authority.issue("mesh.example"), authority.issue(), stranger.issue()
    credentials = grpc.ssl_server_credentials(
        [(issued.key, issued.certificate)], root_certificates=authority.pem, require_client_auth=True
    )
    server = await Server().start(credentials=credentials)

    def tls(trusted: bytes, identity: Any) -> ClientTls:
        if identity is None:
            return ClientTls(trusted=trusted)
        return ClientTls(trusted=trusted, certificate_chain=identity.certificate, private_key=identity.key)

    def where(trusted: bytes, identity: Any, name: str = "mesh.example") -> Target:
        return target(server.address, tls=tls(trusted, identity), tls_name=name, max_message_bytes=32 * MIB)

    try:
        async with opened(where(authority.pem, ours)) as channel:
            for size in (0, 10, 9 * MIB):
                assert await channel.unary("/test.S/Echo", b"x" * size) == b"x" * size
        refused = [
            (where(stranger.pem, ours), "invalid peer certificate"),
            (where(authority.pem, ours, "other.example"), "not valid for name"),
            (where(authority.pem, None), ""),
            (where(authority.pem, theirs), ""),
        ]
        for one, why in refused:
            async with opened(one) as channel:
                error = await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b"x"), why)
                assert error.details.startswith("failed to connect to")
        async with opened(target(server.address)) as channel:
            await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b"x"), "failed to connect to")
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("material", "why"),
    [
        ({"trusted": b"nothing"}, "hold no certificate"),
        ({"certificate_chain": b"x", "private_key": b"y"}, "holds no certificate"),
    ],
)
def test_material_that_is_none_is_refused(material: dict[str, bytes], why: str):
    with pytest.raises(ValueError, match=why):
        ClientTls(**material)
