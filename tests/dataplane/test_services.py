"""Services that Python answers: messages come as events, answers go by token."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from scripted import WAIT, Instance, status_of, until

from modelmesh.values.dataplane import Called, CallMessage, Cancelled
from modelmesh.values.status import Status

Make = Callable[..., Instance]
SERVICE = "mmesh.ModelMesh"


@pytest.fixture
async def served(make: Make) -> Instance:
    one = make()
    one.services(SERVICE, peer=("modelmesh.v1.Peer",))
    return one


async def test_a_unary_call(served: Instance) -> None:
    call = served.channel.unary_unary(f"/{SERVICE}/anything")(
        b"question", metadata=(("x-user", "u"), ("x-data-bin", b"\xff")), timeout=WAIT
    )
    called = await served.brain.next(Called)
    assert (called.port, called.method) == ("serving", f"{SERVICE}/anything")
    assert called.peer_address.startswith("127.0.0.1:")
    assert dict(called.metadata)["x-user"] == b"u"
    assert dict(called.metadata)["x-data-bin"] in {b"/w", b"/w=="}
    assert called.timeout_ms is not None
    assert (await served.brain.next(CallMessage)).message == b"question"
    assert (await served.brain.next(CallMessage)).message is None
    served.plane.reply(called.token, b"answer", last=True)
    assert await call == b"answer"
    await until(lambda: not served.plane.busy())
    served.plane.reply(called.token, b"too late", last=True)
    assert served.brain.count(Cancelled) == 0


async def test_a_stream_both_ways(served: Instance) -> None:
    call = served.channel.stream_stream(f"/{SERVICE}/Watch")()
    await call.write(b"1")
    called = await served.brain.next(Called)
    assert (await served.brain.next(CallMessage)).message == b"1"
    served.plane.reply(called.token, b"a", last=False)
    assert await call.read() == b"a"
    await call.write(b"2" * 100_000)
    assert (await served.brain.next(CallMessage)).message == b"2" * 100_000
    served.plane.reply(called.token, b"b", last=False)
    served.plane.finish(called.token, Status.ABORTED, "enough", [("x-why-bin", b"AAE")])
    assert await call.read() == b"b"
    async with asyncio.timeout(WAIT):
        assert await call.code() == grpc.StatusCode.ABORTED
    assert dict(await call.trailing_metadata())["x-why-bin"] == b"\x00\x01"


async def test_a_failure_without_answer(served: Instance) -> None:
    call = served.channel.unary_unary(f"/{SERVICE}/x")(b"")
    called = await served.brain.next(Called)
    served.plane.finish(called.token, Status.NOT_FOUND, "nichts für ungut")
    assert await status_of(call) == (grpc.StatusCode.NOT_FOUND, "nichts für ungut")


async def test_the_peer_port_has_services_of_its_own(served: Instance) -> None:
    async with grpc.aio.insecure_channel(served.peer_address.address) as channel:
        call = channel.unary_unary("/modelmesh.v1.Peer/Ping")(b"")
        called = await served.brain.next(Called)
        assert called.port == "peer"
        served.plane.reply(called.token, b"pong", last=True)
        assert await call == b"pong"


async def test_a_caller_that_goes(served: Instance) -> None:
    call = served.channel.unary_unary(f"/{SERVICE}/x")(b"")
    called = await served.brain.next(Called)
    call.cancel()
    assert (await served.brain.next(Cancelled)).token == called.token
    code, _ = await status_of(served.channel.unary_unary(f"/{SERVICE}/x")(b"", timeout=0.05))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    await served.brain.next(Cancelled)
    await until(lambda: not served.plane.busy())


async def test_compressed_messages_are_expanded(served: Instance) -> None:
    call = served.channel.unary_unary(f"/{SERVICE}/x")(b"z" * 10_000, compression=grpc.Compression.Gzip)
    called = await served.brain.next(Called)
    assert (await served.brain.next(CallMessage)).message == b"z" * 10_000
    served.plane.reply(called.token, b"", last=True)
    await call
    call = served.channel.unary_unary(f"/{SERVICE}/x")(b"z" * 10_000, compression=grpc.Compression.Deflate)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_slow_reader_is_given_up(served: Instance) -> None:
    call = served.channel.unary_stream(f"/{SERVICE}/Watch")(b"")
    called = await served.brain.next(Called)
    for _ in range(2000):
        served.plane.reply(called.token, bytes(100_000), last=False)
    # What waited for it is dropped at once; the client learns why when it reads on.
    await until(lambda: not served.plane.busy())
    read = 0

    async def read_on() -> None:
        nonlocal read
        while await call.read() is not grpc.aio.EOF:
            read += 1

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(read_on(), WAIT)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert read < 200


async def test_a_fast_writer_waits_for_python(make: Make) -> None:
    """Messages that Python has not taken are bounded, and so is what the client may send."""
    one = make()
    one.services(SERVICE)
    loop = asyncio.get_running_loop()
    loop.remove_reader(one.plane._core.event_fd)
    call = one.channel.stream_unary(f"/{SERVICE}/x")()
    written = 0

    async def write() -> None:
        nonlocal written
        for _ in range(100):
            await call.write(bytes(1 << 20))
            written += 1
        await call.done_writing()

    writing = asyncio.create_task(write())
    before = -1
    async with asyncio.timeout(WAIT):
        while before != written:
            before = written
            await asyncio.sleep(0.2)
    assert written < 50
    loop.add_reader(one.plane._core.event_fd, one.plane._deliver)
    called = await one.brain.next(Called)
    for _ in range(100):
        assert (await one.brain.next(CallMessage)).message == bytes(1 << 20)
    await writing
    one.plane.reply(called.token, b"done", last=True)
    assert await call == b"done"


async def test_many_calls_at_once(served: Instance) -> None:
    def answer(event: object) -> None:
        if isinstance(event, CallMessage) and event.message is not None:
            served.plane.reply(event.token, event.message, last=True)

    served.brain.decide = answer  # type: ignore[assignment]
    path = f"/{SERVICE}/x"
    answers = await asyncio.gather(*(served.channel.unary_unary(path)(str(n).encode()) for n in range(500)))
    assert answers == [str(n).encode() for n in range(500)]
