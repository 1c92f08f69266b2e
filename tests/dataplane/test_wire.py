"""Clients that break rules, frame by frame: they hurt themselves and nobody else."""

import asyncio
from collections.abc import AsyncIterator, Callable

import h2.errors
import h2.events
import pytest
from frames import Client
from scripted import WAIT, Instance, until


@pytest.fixture
async def connect(one: Instance) -> AsyncIterator[Callable[[], Client]]:
    one.local()
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(await Client.connect(one.plane.serving_port))
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.close()


async def test_headers_that_are_too_large(one: Instance, connect) -> None:
    client = await connect()
    stream = client.request(("x-large", "x" * 100_000))
    answer = await client.next(h2.events.ResponseReceived, stream)
    headers = dict(answer.headers)
    assert headers["grpc-status"] == "8"
    assert "Received header list larger than max" in headers["grpc-message"]
    stream = client.request()
    assert dict((await client.next(h2.events.ResponseReceived, stream)).headers)[":status"] == "200"


async def test_what_is_no_grpc(connect) -> None:
    client = await connect()
    stream = client.request(("content-type", "text/html"))
    assert dict((await client.next(h2.events.ResponseReceived, stream)).headers)[":status"] == "415"
    stream = client.request((":method", "GET"), body=None)
    assert dict((await client.next(h2.events.ResponseReceived, stream)).headers)[":status"] == "405"


@pytest.mark.parametrize("value", ["", "1", "1x", "999999999S"])
async def test_a_deadline_that_is_none(connect, value: str) -> None:
    client = await connect()
    stream = client.request(("grpc-timeout", value))
    headers = dict((await client.next(h2.events.ResponseReceived, stream)).headers)
    assert (headers["grpc-status"], headers["grpc-message"]) == ("3", "malformed grpc-timeout")


async def test_bytes_that_are_no_http(one: Instance) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", one.plane.serving_port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(WAIT):
        while await reader.read(1000):
            pass
    writer.close()
    await until(lambda: "modelmesh_connections 0" in one.plane.metrics().decode())


async def test_a_client_that_never_shakes_hands(one: Instance) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", one.plane.serving_port)
    writer.write(b"PRI * HTTP/2")
    async with asyncio.timeout(12):
        while await reader.read(1000):
            pass
    writer.close()


async def test_a_broken_frame_ends_its_connection_only(one: Instance, connect) -> None:
    client, other = await connect(), await connect()
    client.writer.write(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + bytes(4))  # WINDOW_UPDATE by nothing
    await client.closed()
    stream = other.request()
    await other.next(h2.events.ResponseReceived, stream)


async def test_more_cancels_on_one_connection_than_are_forgiven_by_default(one: Instance, connect) -> None:
    client = await connect()
    for _ in range(6):
        streams = [client.request(("mm-model-id", "cold"), end=False) for _ in range(250)]
        # An answer says that the core has seen all streams before it. A cancel that arrives in the same read as its
        # request counts as an attack, and it hangs on the machine how much one read has.
        await client.answer(client.request())
        for stream in streams:
            client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        await client.answer(client.request())
    await until(lambda: one.plane.held() == (0, 0))


async def test_empty_and_tiny_data_frames(connect) -> None:
    client = await connect()
    stream = client.request(body=b"", end=False)
    for byte in b"\0\0\0\0\x05hello":
        client.h2.send_data(stream, bytes([byte]))
        client.h2.send_data(stream, b"")
        client.flush()
    client.h2.end_stream(stream)
    client.flush()
    body = b""
    while body != b"\0\0\0\0\x05hello":
        body += (await client.next(h2.events.DataReceived, stream)).data


async def test_a_message_that_announces_too_much_is_refused_at_its_prefix(connect) -> None:
    client = await connect()
    stream = client.request(body=b"\0\xff\xff\xff\xff", end=False)
    headers = dict((await client.next(h2.events.ResponseReceived, stream)).headers)
    assert headers["grpc-status"] == "8"


async def test_a_plain_id_counts_before_a_broken_encoded_one(connect) -> None:
    client = await connect()
    stream = client.request(("mm-model-id-bin", "!"), ("mm-model-id", "m"))
    assert "grpc-status" not in dict((await client.next(h2.events.ResponseReceived, stream)).headers)
