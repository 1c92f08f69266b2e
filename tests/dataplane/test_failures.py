"""Attempts that fail: which are repeated, which are not, and what the client hears."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import h2.errors
import h2.events
import pytest
from frames import Connection, ForgedServer, answer_all
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import AttemptFailed, Fail, MethodRule, Missed, Outcome, ReturnAnswer, Rules, Serve
from modelmesh.values.status import Status

Make = Callable[..., Instance]


def first_then_answer(first: Callable[[Connection, int], None]) -> Callable[[Connection, h2.events.Event], None]:
    """Does `first` to the first call, and answers the others."""
    done = False

    def script(connection: Connection, event: h2.events.Event) -> None:
        nonlocal done
        if isinstance(event, h2.events.StreamEnded) and not done:
            done = True
            first(connection, event.stream_id)
        else:
            answer_all(connection, event)

    return script


@pytest.mark.parametrize(
    ("code", "message", "outcome"),
    [
        (14, "try later", Outcome.UNAVAILABLE),  # its message gains the method, as the old system had it
        (8, "full", Outcome.EXHAUSTED),
        (5, "no model", Outcome.NOT_HERE),
        (14, "Request for unknown model: 'm' is not found", Outcome.NOT_HERE),
        (3, "Model m not found", Outcome.NOT_HERE),
    ],
)
async def test_what_another_copy_may_cure_is_repeated(
    make: Make, forged: ForgedServer, code: int, message: str, outcome: Outcome
) -> None:
    forged.script = first_then_answer(lambda connection, stream: connection.fail(stream, code, message))
    one = make(runtime=forged.address)
    one.local(load_id=5)
    call = one.unary()(b"x", metadata=ID)
    failed = await one.brain.next(AttemptFailed)
    assert (failed.instance, failed.load_id, failed.outcome, failed.replayable) == ("i1", 5, outcome, True)
    told = f"test.S/Echo: UNAVAILABLE: {message}" if outcome is Outcome.UNAVAILABLE else message
    assert (failed.status, failed.message) == (Status(code), told)
    one.plane.resolve([(failed.token, Serve())])
    assert await call == b""
    bodies = [event.data for event in forged.seen if isinstance(event, h2.events.DataReceived)]
    assert b"".join(bodies) == b"\x00\x00\x00\x00\x01x" * 2


async def test_each_answer_of_the_runtime_is_counted_for_its_model(make: Make, forged: ForgedServer) -> None:
    """So that metrics name the model whose calls the runtime could not serve, though another copy did."""
    forged.script = first_then_answer(lambda connection, stream: connection.fail(stream, 14, "its process has ended"))
    one = make(runtime=forged.address, metrics_per_model=True)
    one.local()
    call = one.unary()(b"", metadata=ID)
    failed = await one.brain.next(AttemptFailed)
    one.plane.resolve([(failed.token, Serve())])
    await call
    await until(lambda: not one.plane.busy())
    for code in ("UNAVAILABLE", "OK"):
        labels = f'method="Echo",code="{code}",modelId="m",vModelId=""'
        assert f"modelmesh_invoke_model_milliseconds_count{{{labels}}} 1" in one.plane.metrics().decode()


async def test_the_failed_attempts_own_answer(make: Make, runtime: Runtime) -> None:
    one = make()
    one.local()
    one.brain.decide = lambda event: ReturnAnswer()

    async def fail(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "größer", (("grpc-status-details-bin", b"\xff"),))
        yield b""

    runtime.script["Fail"] = fail
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await one.unary("Fail")(b"", metadata=ID)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNAVAILABLE, "größer")
    assert dict(raised.value.trailing_metadata())["grpc-status-details-bin"] == b"\xff"


async def test_a_failure_after_headers_but_before_a_message_is_repeated(make: Make, forged: ForgedServer) -> None:
    def first(connection: Connection, stream: int) -> None:
        connection.h2.send_headers(stream, ((":status", "200"), ("content-type", "application/grpc")))
        connection.h2.send_headers(stream, (("grpc-status", "14"),), end_stream=True)

    forged.script = first_then_answer(first)
    one = make(runtime=forged.address)
    one.local()
    one.brain.decide = lambda event: Serve() if isinstance(event, AttemptFailed) else None
    assert await one.unary()(b"x", metadata=ID) == b""


async def test_a_lost_connection_is_repeated(make: Make, forged: ForgedServer) -> None:
    forged.script = first_then_answer(lambda connection, _: connection.transport.abort())
    one = make(runtime=forged.address)
    one.local()
    call = one.unary()(b"x", metadata=ID)
    failed = await one.brain.next(AttemptFailed)
    assert (failed.outcome, failed.replayable, failed.status) == (Outcome.LOST, True, Status.UNAVAILABLE)
    await until(lambda: len(forged.connections) == 2)
    one.plane.resolve([(failed.token, Serve())])
    assert await call == b""


async def test_a_method_that_is_not_idempotent_is_not_repeated(make: Make, forged: ForgedServer) -> None:
    forged.script = first_then_answer(lambda connection, _: connection.transport.abort())
    one = make(runtime=forged.address)
    one.plane.set_rules(Rules((), (), methods=(MethodRule("test.S/Echo", idempotent=False),)))
    one.local()
    code, message = await status_of(one.unary()(b"x", metadata=ID))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "connection to the runtime lost" in message
    assert (await one.brain.next(AttemptFailed)).replayable is False


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_refused_stream_is_repeated_at_once(make: Make, forged: ForgedServer, *, idempotent: bool) -> None:
    refuse = h2.errors.ErrorCodes.REFUSED_STREAM
    forged.script = first_then_answer(lambda connection, stream: connection.h2.reset_stream(stream, refuse))
    one = make(runtime=forged.address)
    one.plane.set_rules(Rules((), (), methods=(MethodRule("test.S/Echo", idempotent=idempotent),)))
    one.local()
    assert await one.unary()(b"x", metadata=ID) == b""
    assert one.brain.events == []
    assert forged.requests() == 2


async def test_goaway_below_our_stream_is_repeated_at_once(make: Make, forged: ForgedServer) -> None:
    def first(connection: Connection, stream: int) -> None:
        connection.h2.close_connection(last_stream_id=stream - 2 if stream > 1 else 0)

    forged.script = first_then_answer(first)
    one = make(runtime=forged.address)
    one.local()
    assert await one.unary()(b"x", metadata=ID) == b""
    assert one.brain.count(AttemptFailed) == 0
    assert len(forged.connections) == 2


async def test_goaway_while_streaming(make: Make, forged: ForgedServer) -> None:
    """The open stream goes on where it is; the next call goes elsewhere."""
    streams: list[tuple[Connection, int]] = []

    def script(connection: Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived) and connection.number == 1 and not streams:
            streams.append((connection, event.stream_id))
            connection.h2.send_headers(event.stream_id, ((":status", "200"), ("content-type", "application/grpc")))
            connection.h2.send_data(event.stream_id, b"\x00\x00\x00\x00\x01a")
            frame = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + event.stream_id.to_bytes(4, "big") + bytes(4)
            connection.flush()
            connection.transport.write(frame)  # a GOAWAY after which the forger may still speak
        elif connection.number > 1:
            answer_all(connection, event)

    forged.script = script
    one = make(runtime=forged.address)
    one.local()
    call = one.stream()(metadata=ID)
    await call.write(b"1")
    assert await call.read() == b"a"
    assert await one.unary()(b"x", metadata=ID, timeout=WAIT) == b""
    connection, stream = streams[0]
    connection.h2.send_data(stream, b"\x00\x00\x00\x00\x01b")
    connection.h2.send_headers(stream, (("grpc-status", "0"),), end_stream=True)
    connection.flush()
    async with asyncio.timeout(WAIT):
        assert await call.read() == b"b"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK


async def test_not_repeated_after_the_first_byte_of_an_answer(make: Make, forged: ForgedServer) -> None:
    def script(connection: Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded):
            connection.h2.send_headers(event.stream_id, ((":status", "200"), ("content-type", "application/grpc")))
            connection.h2.send_data(event.stream_id, b"\x00\x00\x00\x00\x01a")
            connection.flush()
            connection.transport.close()

    forged.script = script
    one = make(runtime=forged.address)
    one.local()
    call = one.channel.unary_stream("/test.S/Echo")(b"x", metadata=ID)
    async with asyncio.timeout(WAIT):
        assert await call.read() == b"a"
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    failed = await one.brain.next(AttemptFailed)
    assert (failed.outcome, failed.replayable) == (Outcome.LOST, False)


async def test_without_a_replay_copy_a_call_is_not_repeated(make: Make, runtime: Runtime) -> None:
    one = make(replay_bytes_max=1000)
    one.local()

    async def fail(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for _ in requests:
            pass
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        yield b""

    runtime.script["Fail"] = fail
    code, _ = await status_of(one.unary("Fail")(bytes(5000), metadata=ID))
    assert code == grpc.StatusCode.NOT_FOUND
    assert (await one.brain.next(AttemptFailed)).replayable is False
    call = one.unary("Fail")(bytes(500), metadata=ID)
    failed = await one.brain.next(AttemptFailed)
    assert failed.replayable is True
    one.plane.resolve([(failed.token, Fail(Status.ABORTED, "enough"))])
    assert (await status_of(call))[0] == grpc.StatusCode.ABORTED
    assert "modelmesh_replay_bytes 0" in one.plane.metrics().decode()


async def test_an_open_stream_is_replayed_from_its_start_and_goes_on(make: Make, runtime: Runtime) -> None:
    one = make()
    one.local()
    attempts: list[list[bytes]] = []

    async def second_time(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        attempts.append([])
        async for request in requests:
            attempts[-1].append(request)
            if len(attempts) == 1 and len(attempts[-1]) == 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not this one")
            if len(attempts) == 2:
                yield request

    runtime.script["Twice"] = second_time
    call = one.stream("Twice")(metadata=ID)
    await call.write(b"1")
    await call.write(b"2")
    failed = await one.brain.next(AttemptFailed)
    await call.write(b"3")
    one.plane.resolve([(failed.token, Serve())])
    async with asyncio.timeout(WAIT):
        assert [await call.read() for _ in range(3)] == [b"1", b"2", b"3"]
    await call.write(b"4")
    assert await call.read() == b"4"
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK
    assert attempts == [[b"1", b"2"], [b"1", b"2", b"3", b"4"]]


async def test_an_answer_that_is_no_grpc(make: Make, forged: ForgedServer) -> None:
    def script(connection: Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded):
            connection.h2.send_headers(event.stream_id, ((":status", "404"),), end_stream=True)

    forged.script = script
    one = make(runtime=forged.address)
    one.local()
    code, message = await status_of(one.unary()(b"", metadata=ID))
    assert (code, message) == (grpc.StatusCode.UNIMPLEMENTED, "the answer is not gRPC: HTTP status 404")


async def test_a_call_keeps_its_token_through_all_its_attempts(make: Make, forged: ForgedServer) -> None:
    """The bounds of a request's wandering are counted by it."""
    refused = 0

    def script(connection: Connection, event: h2.events.Event) -> None:
        nonlocal refused
        if isinstance(event, h2.events.StreamEnded) and refused < 3:
            refused += 1
            connection.fail(event.stream_id, 14, "try later")
        else:
            answer_all(connection, event)

    forged.script = script
    one = make(runtime=forged.address)
    call = one.unary()(b"x", metadata=ID)
    missed = await one.brain.next(Missed)
    one.local()
    one.plane.resolve([(missed.token, Serve())])
    for _ in range(3):
        assert (await one.brain.next(AttemptFailed)).token == missed.token
        one.plane.resolve([(missed.token, Serve())])
    assert await call == b""
    second = one.unary()(b"x", metadata=(("mm-model-id", "other"),))
    assert (await one.brain.next(Missed)).token != missed.token
    second.cancel()
