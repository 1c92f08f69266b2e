"""Clients that mean harm: each is bounded, ended or refused, and everybody else is served meanwhile.

The limits and their defaults are those of SECURITY.md.
"""

import asyncio
import gzip
import resource
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import h2.errors
import h2.events
import h2.settings
import hpack
import pytest
from frames import REQUEST, Client
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import MethodRule, Missed, Rules

Make = Callable[..., Instance]
Connect = Callable[..., Awaitable[Client]]
LIMIT = 1 << 20
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
INVALID = grpc.StatusCode.INVALID_ARGUMENT
Settings = h2.settings.SettingCodes


@pytest.fixture
async def one(make: Make) -> Instance:
    one = make(max_message_bytes=LIMIT)
    one.local()
    return one


@pytest.fixture
async def connect(one: Instance) -> AsyncIterator[Connect]:
    clients: list[Client] = []

    async def connect(**settings: int) -> Client:
        numbers = {Settings[name]: value for name, value in settings.items()}
        clients.append(await Client.connect(one.plane.serving_port, numbers))
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.close()


async def serves(one: Instance) -> None:
    assert await one.unary()(b"honest", metadata=ID, timeout=WAIT) == b"honest"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


# --- headers ---------------------------------------------------------------------------------------


async def test_too_many_headers(one: Instance, connect: Connect) -> None:
    client = await connect()
    stream = client.request(*((f"x-{number}", "") for number in range(2000)))
    answer = await client.answer(stream)
    assert answer["grpc-status"] == "8"
    assert "Received header list larger than max" in answer["grpc-message"]
    await serves(one)


async def test_a_header_that_refers_to_itself_a_thousand_times(one: Instance, connect: Connect) -> None:
    """One indexed header of 4,000 bytes costs a byte each time it is said again."""
    client = await connect()
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, [*REQUEST, *[("x-bomb", "b" * 4000)] * 1000], end_stream=True)
    client.flush()
    try:
        assert (await client.answer(stream))[":status"] == "431"
    except AssertionError:
        await client.closed()
    await serves(one)


async def test_headers_that_never_end(one: Instance, connect: Connect) -> None:
    client = await connect()
    block = client.h2.encoder.encode(list(REQUEST))
    client.writer.write(frame(1, 0, 1, block))  # HEADERS without END_HEADERS
    for _ in range(2000):
        client.writer.write(frame(9, 0, 1, b""))  # CONTINUATION
    await client.closed()
    await serves(one)


async def test_large_header_lists_of_open_calls_are_bounded(one: Instance, connect: Connect) -> None:
    """A connection holds 28 MiB, however many calls; then it begins no more of them."""
    one.plane.set_rules(Rules((), (), methods=(MethodRule("test.S/Extract", extraction_path=(1,)),)))
    client = await connect()
    large = ("x-large", "x" * 62_000)
    # Larger than the table of the compression, which is empty afterwards: every block can be this one.
    block = hpack.Encoder().encode([*{**dict(REQUEST), ":path": "/test.S/Extract"}.items(), large], huffman=False)
    parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    for stream in range(1, 1200, 2):
        client.writer.write(frame(1, 0, stream, parts[0]))
        for part in parts[1:-1]:
            client.writer.write(frame(9, 0, stream, part))
        client.writer.write(frame(9, 4, stream, parts[-1]))
        await client.writer.drain()
    refused = 'modelmesh_rejected_requests_total{reason="too-much-open"} 1'
    await until(lambda: refused in one.plane.metrics().decode())
    await serves(one)
    other = await connect()
    stream = other.request(large, ("grpc-timeout", "100m"), (":path", "/test.S/Extract"), body=b"\0", end=False)
    assert (await other.answer(stream))["grpc-status"] == "4"
    client.writer.transport.abort()
    await until(lambda: not one.plane.busy())


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (("mm-model-id-bin", "!!"), "model id header is not valid base64"),
        (("mm-model-id-bin", "/w"), "model id is not valid UTF-8"),
        (("mm-model-id", "m" * 2049), "model id has 2049 characters, 2048 are allowed"),
        (("mm-vmodel-id", "m" * 2049), "vmodel id has 2049 characters, 2048 are allowed"),
        (("mm-model-id-bin", ",".join(["YQ"] * 1001)), "a call may name at most 1000 models"),
    ],
)
async def test_ids_that_are_none(one: Instance, connect: Connect, header: tuple[str, str], said: str) -> None:
    client = await connect()
    headers = [pair for pair in REQUEST if not pair[0].startswith("mm-")]
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, [*headers, header])
    client.h2.send_data(stream, bytes(5), end_stream=True)
    client.flush()
    answer = await client.answer(stream)
    assert (answer["grpc-status"], answer["grpc-message"]) == ("3", said)
    assert one.brain.events == []


async def test_what_instances_tell_each_other_is_not_believed_of_clients(make: Make, runtime: Runtime) -> None:
    near, far = make("near"), make("far")
    lies = (("mm-hop", "hit"), ("mm-tried", "far,near"), ("mm-view", "999"), ("mm-refused", "moved"))
    call = near.unary()(b"", metadata=(("mm-model-id", "cold"), *lies))
    missed = await near.brain.next(Missed)
    assert (missed.hop, missed.tried, missed.view) == (None, (), None)
    call.cancel()
    near.remote(far)
    far.local()
    assert await near.unary()(b"x", metadata=(*ID, *lies), timeout=WAIT) == b"x"
    assert not [name for name in runtime.metadata() if name.startswith("mm-") and not name.startswith("mm-model-id")]


@pytest.mark.parametrize("headers", [{"mm-hop": "jump"}, {"mm-hop": "hit", "mm-model-id-bin": "!"}, {}])
async def test_strangers_on_the_peer_port(one: Instance, headers: dict[str, str]) -> None:
    client = await Client.connect(one.plane.peer_port)
    answer = await client.answer(client.request(*headers.items()))
    assert answer["grpc-status"] == "3"
    client.writer.close()


# --- connections and streams -----------------------------------------------------------------------


async def test_connections_are_bounded_and_idle_ones_make_room(make: Make) -> None:
    one = make(connections_max=4)
    one.local()
    call = one.stream()(metadata=ID)
    await call.write(b"1")
    assert await call.read() == b"1"
    idle = [await Client.connect(one.plane.serving_port) for _ in range(3)]
    await until(lambda: "modelmesh_connections 4" in one.plane.metrics().decode())
    late = await Client.connect(one.plane.serving_port)
    await late.closed()
    # Nobody hangs up, and yet an honest client gets in.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{one.plane.serving_port}") as channel:
        echo = channel.unary_unary("/test.S/Echo")
        assert await echo(b"x", metadata=ID, wait_for_ready=True, timeout=3 * WAIT) == b"x"
    # Who has a call open is not asked to go, however little is said.
    await call.write(b"2")
    assert await call.read() == b"2"
    for client in (*idle, late):
        client.writer.close()


async def test_connections_of_instances_are_bounded_by_themselves(make: Make) -> None:
    """Silent ones on the peer port take an eighth of the descriptors, and none of the clients'."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (480, hard))
    try:
        one = make()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    one.local()
    silent = [await asyncio.open_connection("127.0.0.1", one.plane.peer_port) for _ in range(61)]
    async with asyncio.timeout(WAIT):
        assert await silent[-1][0].read() == b"", "it is closed at once"
    await serves(one)
    for _, writer in silent:
        writer.close()


async def test_streams_of_a_connection_are_bounded(one: Instance, connect: Connect) -> None:
    one.plane.set_rules(Rules((), (), methods=(MethodRule("test.S/Extract", extraction_path=(1,)),)))
    client = await connect()
    headers = [*{**dict(REQUEST), ":path": "/test.S/Extract"}.items()]
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in headers], huffman=False)
    last = 2 * 4096 + 1
    for stream in range(1, last + 1, 2):
        client.writer.write(frame(1, 4, stream, block))
    refused, received = frame(3, 0, last, (7).to_bytes(4, "big")), b""
    async with asyncio.timeout(WAIT):
        while refused not in received:
            received = received[-13:] + await client.reader.read(65_536)
    await until(lambda: "modelmesh_open_calls 4096" in one.plane.metrics().decode())
    await serves(one)
    client.writer.transport.abort()
    await until(lambda: not one.plane.busy())


async def test_rapid_reset(one: Instance, connect: Connect) -> None:
    client = await connect()
    await client.next(h2.events.RemoteSettingsChanged)
    block = client.h2.encoder.encode([*REQUEST[:-1], ("mm-model-id", "cold")])
    await serves(one)
    burst = b"".join(
        frame(1, 4, stream, block) + frame(3, 0, stream, (8).to_bytes(4, "big")) for stream in range(1, 200_001, 2)
    )
    client.writer.write(burst)
    await client.closed()
    await serves(one)
    await until(lambda: one.plane.held() == (0, 0) and not one.plane.busy())


async def test_requests_that_never_complete_end_with_their_connection(one: Instance, connect: Connect) -> None:
    one.plane.set_rules(Rules((), (), methods=(MethodRule("test.S/Extract", extraction_path=(1,)),)))
    client = await connect()
    for number in range(300):
        path = "/test.S/Extract" if number % 2 else "/test.S/Echo"
        client.request((":path", path), body=b"\0\0\0\1\0half a message", end=False)
    await until(one.plane.busy)
    late = client.request(("grpc-timeout", "100m"), (":path", "/test.S/Extract"), body=b"\0", end=False)
    assert (await client.answer(late))["grpc-status"] == "4"
    await serves(one)
    client.writer.transport.abort()
    await until(lambda: not one.plane.busy())


@pytest.mark.parametrize("where", ["head", "trailers", "trailers only"])
async def test_an_answer_with_more_headers_than_the_client_takes(
    one: Instance, connect: Connect, runtime: Runtime, where: str
) -> None:
    """Clients on Netty end the connection over it, and with that all their calls."""

    async def verbose(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        large = (("x-large", "x" * 2000),)
        if where == "head":
            await context.send_initial_metadata(large)
        else:
            context.set_trailing_metadata(large)
        if where == "trailers only":
            await context.abort(grpc.StatusCode.INTERNAL, "no")
        yield b"answer"

    runtime.script["Verbose"] = verbose
    client = await connect(MAX_HEADER_LIST_SIZE=2000)
    stream = client.request((":path", "/test.S/Verbose"))
    kind = h2.events.TrailersReceived if where == "trailers" else h2.events.ResponseReceived
    answer = dict((await client.next(kind, stream)).headers)
    assert answer["grpc-status"] == "8"
    assert answer["grpc-message"].endswith("and the other side takes 2000")
    assert (await client.answer(client.request()))[":status"] == "200"


async def test_answers_that_nobody_reads_do_not_stop_others(one: Instance, connect: Connect, runtime: Runtime) -> None:
    """Their bytes fill the window of a connection to the runtime, which all calls share."""
    running = 0

    async def endless(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        nonlocal running
        running += 1
        try:
            while True:
                yield bytes(100_000)
        finally:
            running -= 1

    async def large(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield bytes(900_000)

    runtime.script["Endless"] = endless
    runtime.script["Large"] = large
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    client = await connect(INITIAL_WINDOW_SIZE=0)
    for _ in range(40):
        client.request((":path", "/test.S/Endless"))
    await until(lambda: running > 8)
    for _ in range(20):
        assert len(await one.unary("Large")(b"", metadata=ID, timeout=WAIT)) == 900_000
    await until(lambda: running < 40)  # a crowd is not waited for
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 200_000  # KiB
    client.writer.transport.abort()
    await until(lambda: running == 0 and not one.plane.busy())


async def test_who_does_not_read_an_answer_is_told_that_it_was_given_up(
    one: Instance, connect: Connect, runtime: Runtime
) -> None:
    """The first part of an answer waits inside HTTP/2; what ends the call must not wait behind it."""

    async def endless(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b"small"
        while True:
            yield bytes(100_000)

    runtime.script["Endless"] = endless
    client = await connect(INITIAL_WINDOW_SIZE=0)
    for _ in range(40):
        client.request((":path", "/test.S/Endless"))
    end = dict((await client.next(h2.events.TrailersReceived)).headers)
    assert (end["grpc-status"], end["grpc-message"]) == ("8", "the answer is read too slowly")
    client.writer.transport.abort()
    await until(lambda: not one.plane.busy())


# --- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Echo", "Extract", "Inject"])
async def test_a_body_that_ends_inside_a_message(one: Instance, connect: Connect, method: str) -> None:
    rules = (MethodRule("test.S/Extract", extraction_path=(1,)), MethodRule("test.S/Inject", injection_path=(1,)))
    one.plane.set_rules(Rules((), (), methods=rules))
    client = await connect()
    stream = client.request((":path", f"/test.S/{method}"), body=b"\0\0\0\0\x0athree")
    headers = await client.answer(stream)
    if method == "Echo":
        # It passes as it is: the runtime's library judges.
        await until(lambda: not one.plane.busy())
    else:
        assert (headers["grpc-status"], headers["grpc-message"]) == ("13", "Half-closed without a request")
    await serves(one)


async def test_messages_at_the_limit_and_just_above(one: Instance, runtime: Runtime) -> None:
    async def sized(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            yield bytes(int(request))

    runtime.script["Sized"] = sized
    assert len(await one.unary()(bytes(LIMIT), metadata=ID, timeout=WAIT)) == LIMIT
    assert len(await one.unary("Sized")(b"%d" % LIMIT, metadata=ID, timeout=WAIT)) == LIMIT
    said = (EXHAUSTED, f"Received message larger than max ({LIMIT + 1} vs. {LIMIT})")
    assert await status_of(one.unary()(bytes(LIMIT + 1), metadata=ID)) == said
    assert await status_of(one.unary("Sized")(b"%d" % (LIMIT + 1), metadata=ID)) == said


@pytest.mark.parametrize("timeout", ["0n", "0S", "00000000H"])
async def test_a_deadline_of_nothing(one: Instance, connect: Connect, timeout: str) -> None:
    client = await connect()
    assert (await client.answer(client.request(("grpc-timeout", timeout), body=b"", end=False)))["grpc-status"] == "4"


async def test_a_deadline_of_eleven_thousand_years(one: Instance, connect: Connect, runtime: Runtime) -> None:
    client = await connect()
    stream = client.request(("grpc-timeout", "99999999H"))
    assert "grpc-status" not in await client.answer(stream)
    await until(lambda: bool(runtime.calls))


def compressed(*members: bytes) -> bytes:
    payload = b"".join(gzip.compress(member, mtime=0) for member in members)
    return b"\1" + len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize("method", ["Extract", "Inject"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (compressed(bytes(LIMIT + 1)), "8"),
        (compressed(bytes(60 * LIMIT)), "8"),
        (compressed(b"\x0a\x01m")[:-1], "3"),
        # Java and Go read the second member, others do not: which model is it?
        (compressed(b"\x0a\x01m", b"\x0a\x01x"), "3"),
        (b"\1\0\0\0\4junk", "3"),
    ],
    ids=["a byte too much", "sixty times too much", "cut", "two members", "junk"],
)
async def test_bombs_and_damage_in_compressed_messages(
    one: Instance, connect: Connect, runtime: Runtime, method: str, body: bytes, code: str
) -> None:
    rules = (MethodRule("test.S/Extract", extraction_path=(1,)), MethodRule("test.S/Inject", injection_path=(1,)))
    one.plane.set_rules(Rules((), (), methods=rules))
    body = body[:1] + (len(body) - 5).to_bytes(4, "big") + body[5:]
    client = await connect()
    stream = client.request((":path", f"/test.S/{method}"), ("grpc-encoding", "gzip"), body=body)
    assert (await client.answer(stream))["grpc-status"] == code
    assert runtime.calls == []
