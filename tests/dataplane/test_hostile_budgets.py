"""What one client can make the data plane hold, and that it is nobody else who pays for it.

Bytes are those of the process, or those that the ledger tells; never time.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import h2.events
import hpack
import pytest
from frames import REQUEST, Client, ForgedServer
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.adapters import channel as channels
from modelmesh.adapters.channel import CallError, Channel, Target
from modelmesh.values.dataplane import Called, CallMessage, MethodRule, Rules
from modelmesh.values.status import Status

Make = Callable[..., Instance]
MIB = 1 << 20
EXTRACT = Rules((), (), methods=(MethodRule("test.S/Extract", extraction_path=(1,)),))
MANAGEMENT, HEALTH = "mmesh.ModelMesh", "grpc.health.v1.Health"
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def block(*headers: tuple[str, str]) -> bytes:
    """A header block that needs no table."""
    merged = {**dict(REQUEST), **dict(headers)}.items()
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in merged], huffman=False)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def metric(one: Instance, name: str) -> int:
    lines = dict(line.rsplit(" ", 1) for line in one.plane.metrics().decode().splitlines() if line[0] != "#")
    return int(lines[name])


async def serves(one: Instance) -> None:
    assert await one.unary()(b"honest", metadata=ID, timeout=WAIT) == b"honest"


async def answer(client: Client, stream: int) -> dict[str, str]:
    """The first header block of an answer; of a client that says its frames itself."""
    decoder, data = hpack.Decoder(), b""
    async with asyncio.timeout(WAIT):
        while True:
            length = int.from_bytes(data[:3], "big")
            while len(data) < 9 or len(data) < 9 + length:
                received = await client.reader.read(65_536)
                assert received, "the connection was closed"
                data += received
                length = int.from_bytes(data[:3], "big")
            kind, of, payload, data = (
                data[3],
                int.from_bytes(data[5:9], "big"),
                data[9 : 9 + length],
                data[9 + length :],
            )
            if kind == 1:
                headers = {str(name): str(value) for name, value in decoder.decode(payload)}
                if of == stream:
                    return headers


async def nothing_is_left(one: Instance) -> None:
    await until(lambda: not one.plane.busy() and metric(one, "modelmesh_client_bytes") < MIB)


async def say(client: Client, frames: AsyncIterator[bytes] | list[bytes]) -> None:
    """Say all of it, unless the other side hangs up; its answers are not read."""
    try:
        for said in frames if isinstance(frames, list) else [said async for said in frames]:
            client.writer.write(said)
            await client.writer.drain()
    except ConnectionError:
        pass


async def test_unfinished_calls_of_many_small_headers_are_counted(make: Make) -> None:
    one = make(max_message_bytes=MIB)
    one.local()
    one.plane.set_rules(EXTRACT)
    many = block((":path", "/test.S/Extract"), *((f"x-{number}", "y") for number in range(150)))
    before = resident_bytes()
    clients = [await Client.connect(one.plane.serving_port) for _ in range(3)]
    for client in clients:
        await say(client, [frame(1, 4, stream, many) for stream in range(1, 8192, 2)])
    await until(lambda: metric(one, 'modelmesh_rejected_requests_total{reason="too-much-open"}') > 0)
    assert resident_bytes() - before < 3 * 40 * MIB
    assert metric(one, "modelmesh_client_bytes") <= 3 * 32 * MIB
    await serves(one)
    for client in clients:
        client.writer.transport.abort()
    await nothing_is_left(one)


async def test_answers_that_nobody_reads_stay_in_bounds(make: Make) -> None:
    """Each refusal repeats the name of a model of thousands of bytes, and costs its sender a dozen."""
    one = make()
    one.brain.decide = lambda event: None
    before = resident_bytes()
    client = await Client.connect(one.plane.serving_port)
    client.writer.transport.get_extra_info("socket").setsockopt(1, 8, 4096)  # SO_RCVBUF
    client.writer.transport.pause_reading()
    block = client.h2.encoder.encode([*REQUEST[:2], (":path", "/" + "p" * 3000), *REQUEST[3:-1], ("x-none", "x")])
    one.plane.set_rules(Rules((), (), allow_others=False))
    again = client.h2.encoder.encode([*REQUEST[:2], (":path", "/" + "p" * 3000), *REQUEST[3:-1], ("x-none", "x")])
    first, rest = frame(1, 5, 1, block), [frame(1, 5, stream, again) for stream in range(3, 80_001, 2)]
    assert len(again) < 20
    writing = asyncio.create_task(say(client, [first, *rest]))
    await until(lambda: metric(one, "modelmesh_client_bytes") > MIB)
    for _ in range(200):
        await asyncio.sleep(0)  # what can still come does
    assert metric(one, "modelmesh_client_bytes") < 8 * MIB
    assert resident_bytes() - before < 64 * MIB
    client.writer.transport.abort()
    await writing
    await nothing_is_left(one)


async def test_bodies_beyond_the_budget_end_the_greediest_connection(make: Make) -> None:
    """Clients have 8 MiB here, and one address half of it. The model is never loaded, so nobody reads on."""
    one = make(memory_max=8 * MIB)
    one.local()
    before = resident_bytes()
    honest = one.stream()(metadata=ID)
    await honest.write(b"1")
    assert await honest.read() == b"1"
    head = block(("mm-model-id", "cold"))
    greedy = [await Client.connect(one.plane.serving_port) for _ in range(4)]
    for client in greedy:
        frames = [frame(1, 4, stream, head) for stream in range(1, 33, 2)]
        frames += [frame(0, 0, stream, b"\0\0\x80\0\0" + bytes(60_000)) for stream in range(1, 33, 2)] * 8
        await say(client, frames)
    await until(lambda: metric(one, 'modelmesh_expelled_connections_total{side="clients"}') > 0)
    assert metric(one, "modelmesh_client_bytes") <= 8 * MIB
    assert resident_bytes() - before < 64 * MIB
    await honest.write(b"2")
    assert await honest.read() == b"2"
    await serves(one)
    honest.cancel()
    for client in greedy:
        client.writer.transport.abort()
    await nothing_is_left(one)


async def test_a_thousand_ids_are_paid_for(make: Make) -> None:
    one = make(memory_max=8 * MIB)
    one.local()
    ids = ",".join(["YQ"] * 1000)
    before = resident_bytes()
    client = await Client.connect(one.plane.serving_port)
    headers = [pair for pair in REQUEST if not pair[0].startswith("mm-")]
    encoder = hpack.Encoder()
    pairs = [*headers, ("mm-model-id-bin", ids)]
    head = encoder.encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in pairs], huffman=False)
    calls = 64
    await say(client, [frame(1, 4, stream, head) + frame(0, 0, stream, bytes(3)) for stream in range(1, 2 * calls, 2)])
    refused = await answer(client, 2 * calls - 1)
    assert refused["grpc-status"] == "8"
    assert refused["grpc-message"] in {
        "too much is held for calls with several ids; try again",
        "this connection has too much open; try again",
    }
    assert metric(one, "modelmesh_client_bytes") <= 4 * MIB
    assert resident_bytes() - before < 32 * MIB
    await serves(one)
    client.writer.transport.abort()
    await nothing_is_left(one)


async def test_one_client_shuts_nobody_out_of_our_own_services(make: Make) -> None:
    """Calls without a body: 80 bytes each. Other clients, health and other instances have places of their own."""
    one = make()
    one.services(MANAGEMENT, HEALTH, peer=("modelmesh.v1.Peer",))
    client = await Client.connect(one.plane.serving_port)
    last = 2 * 4096 - 1
    await say(client, [frame(1, 4, stream, block((":path", f"/{MANAGEMENT}/x"))) for stream in range(1, last + 1, 2)])
    refused = await answer(client, last)
    assert (refused["grpc-status"], refused["grpc-message"]) == (
        "8",
        "too many calls of the management API are open",
    )
    async with grpc.aio.insecure_channel(one.peer_address.address) as peers:
        calls = [
            one.channel.unary_unary(f"/{MANAGEMENT}/honest")(b""),
            one.channel.unary_unary(f"/{HEALTH}/Check")(b""),
            peers.unary_unary("/modelmesh.v1.Peer/Ping")(b""),
        ]
        answered = 0
        while answered < len(calls):
            called = await one.brain.next(Called)
            if not called.method.endswith("/x"):
                one.plane.reply(called.token, b"ok", last=True)
                answered += 1
        async with asyncio.timeout(WAIT):
            assert [await call for call in calls] == [b"ok"] * 3
    client.writer.transport.abort()
    await nothing_is_left(one)


async def test_many_clients_give_back_places_to_one_who_has_none(make: Make) -> None:
    one = make()
    one.services(MANAGEMENT)
    clients = [await Client.connect(one.plane.serving_port) for _ in range(8)]
    for client in clients:
        head = block((":path", f"/{MANAGEMENT}/x"))
        await say(client, [frame(1, 4, stream, head) for stream in range(1, 1024, 2)])
    await until(lambda: one.brain.count(Called) == 4096)
    call = one.channel.unary_unary(f"/{MANAGEMENT}/honest")(b"")
    while (called := await one.brain.next(Called)).method.endswith("/x"):
        pass
    one.plane.reply(called.token, b"ok", last=True)
    async with asyncio.timeout(WAIT):
        assert await call == b"ok"
    for client in clients:
        client.writer.transport.abort()
    await nothing_is_left(one)


async def test_bombs_for_our_own_services_are_small(make: Make) -> None:
    one = make()
    one.services(MANAGEMENT)
    method = one.channel.unary_unary(f"/{MANAGEMENT}/x")
    said = "Received message larger than max after decompression (1048576)"
    status = await status_of(method(bytes(2 * MIB), compression=grpc.Compression.Gzip))
    assert status == (EXHAUSTED, said)
    status = await status_of(method(bytes(2 * MIB)))
    assert status == (EXHAUSTED, f"Received message larger than max ({2 * MIB} vs. {MIB})")
    bomb = gzip.compress(bytes(MIB), mtime=0)
    body = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    head = block((":path", f"/{MANAGEMENT}/x"), ("grpc-encoding", "gzip"))
    clients = [await Client.connect(one.plane.serving_port) for _ in range(2)]
    before = resident_bytes()
    one.plane._loop.remove_reader(one.plane._core.event_fd)  # type: ignore[union-attr]  # Python is busy
    for client in clients:
        await say(client, [frame(1, 4, stream, head) + frame(0, 1, stream, body) for stream in range(1, 401, 2)])
    refused = await answer(clients[-1], 399)
    assert (refused["grpc-status"], refused["grpc-message"]) == ("8", "too many bytes of management calls are waiting")
    # All 400 of them would be 400 MiB.
    assert resident_bytes() - before < 200 * MIB
    one.plane._loop.add_reader(one.plane._core.event_fd, one.plane._deliver)  # type: ignore[union-attr]
    for client in clients:
        client.writer.transport.abort()
    await until(lambda: one.brain.count(CallMessage) > 0)
    await nothing_is_left(one)


async def test_what_messages_grow_to_is_paid_for_by_their_connection(make: Make, runtime: Runtime) -> None:
    async def short(requests: AsyncIterator[bytes], _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for _request in requests:
            yield b"ok"

    runtime.script["Extract"] = short
    one = make()
    one.plane.set_rules(EXTRACT)
    one.local("m")
    bomb = gzip.compress(b"\x0a\x01m\x12\x80\x80\x80\x06" + bytes(12 * MIB), mtime=0)
    body = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    client = await Client.connect(one.plane.serving_port)
    extract = ((":path", "/test.S/Extract"), ("grpc-encoding", "gzip"))
    # They grow side by side, a part at a time: a connection can pay for two.
    calls = [client.request(*extract, body=body) for _ in range(4)]
    ends: dict[int, str] = {}
    async with asyncio.timeout(WAIT):
        while len(ends) < len(calls):
            for event in client.h2.receive_data(await client.reader.read(65_536)):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    status = dict(event.headers).get("grpc-status")
                    ends |= {event.stream_id: status} if status else {}
    assert "8" in ends.values(), ends
    client.writer.transport.abort()
    await serves(one)
    await nothing_is_left(one)


async def test_a_server_of_ours_that_pings_and_does_not_read_is_left(forged: ForgedServer) -> None:
    """The control plane's own connections: to etcd, to runtimes, to other instances."""
    forged.script = lambda *_: None
    channel = Channel(Target(forged.address, "x"))
    call = asyncio.create_task(channel.unary("/test.S/Echo", b"x", timeout_s=WAIT))
    await until(lambda: forged.requests() == 1)
    hostile = forged.connections[0].transport
    hostile.pause_reading()
    connection = channel._connection
    assert isinstance(connection, channels._Connection)
    before, largest = resident_bytes(), 0
    pings = frame(6, 0, 0, b"12345678") * 10_000
    for _ in range(2000):
        if call.done():
            break
        if hostile.get_write_buffer_size() < 4 * MIB:
            hostile.write(pings)
        await asyncio.sleep(0)
        transport = connection._transport
        waits = transport.get_write_buffer_size() if transport is not None else 0
        largest = max(largest, connection.native.held_bytes + waits)
    with pytest.raises(CallError, match="what is said to it is not read") as raised:
        await call
    assert raised.value.status is Status.UNAVAILABLE
    assert largest < 2 * MIB
    assert resident_bytes() - before < 32 * MIB
    await channel.close()
