"""Requests that are held for Python, and what it may decide."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import (
    AttemptFailed,
    Cancelled,
    Fail,
    Forward,
    Hop,
    LocalCopy,
    Missed,
    Naming,
    Outcome,
    Reroute,
    Route,
    Serve,
)
from modelmesh.values.ids import Token
from modelmesh.values.status import Status

Make = Callable[..., Instance]


async def test_a_miss_is_held_until_it_is_served(one: Instance) -> None:
    metadata = (*ID, ("mm-balanced", "true"))
    call = asyncio.ensure_future(_answer(one.unary()(b"hello", metadata=metadata, timeout=WAIT)))
    missed = await one.brain.next(Missed)
    assert (missed.model, missed.vmodel, missed.method) == ("m", None, "test.S/Echo")
    assert (missed.hop, missed.tried, missed.view, missed.balanced) == (None, (), None, True)
    assert missed.timeout_ms is not None
    assert 0 < missed.timeout_ms <= WAIT * 1020  # the client rounds up, by a hundredth and more
    await until(lambda: one.plane.held() == (1, 5 + 5))
    one.local()
    one.plane.resolve([(missed.token, Serve())])
    assert await call == b"hello"
    await until(lambda: one.plane.held() == (0, 0))


async def _answer(call: grpc.aio.UnaryUnaryCall) -> bytes:
    async with asyncio.timeout(WAIT):
        return await call


async def test_an_unknown_vmodel_is_a_miss_without_model(one: Instance, runtime: Runtime) -> None:
    call = asyncio.ensure_future(_answer(one.unary()(b"", metadata=(("mm-vmodel-id", "v"),))))
    missed = await one.brain.next(Missed)
    assert (missed.model, missed.vmodel, missed.timeout_ms) == ("", "v", None)
    one.local("m1")
    one.plane.set_vmodels([("v", Naming("m1"))])
    one.plane.resolve([(missed.token, Reroute())])
    assert await call == b""
    assert runtime.metadata()["mm-model-id"] == "m1"


async def test_python_may_fail_a_request(one: Instance) -> None:
    trailers = (("grpc-status-details-bin", b"AAD/"), ("retry-after-ms", b"7"))
    one.brain.decide = lambda event: Fail(Status.NOT_FOUND, "model „m“ not found", trailers)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await one.unary()(b"", metadata=ID)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "model „m“ not found"
    received = dict(raised.value.trailing_metadata())
    assert received["grpc-status-details-bin"] == b"\x00\x00\xff"
    assert received["retry-after-ms"] == "7"


async def test_a_client_that_goes_while_held(one: Instance) -> None:
    call = one.unary()(b"x", metadata=ID)
    missed = await one.brain.next(Missed)
    call.cancel()
    assert (await one.brain.next(Cancelled)).token == missed.token
    code, _ = await status_of(one.unary()(b"x", metadata=ID, timeout=0.1))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    missed = await one.brain.next(Missed)
    assert (await one.brain.next(Cancelled)).token == missed.token
    await until(lambda: one.plane.held() == (0, 0))
    one.plane.resolve([(missed.token, Serve()), (Token(999_999), Serve())])


async def test_a_server_deadline_while_held(one: Instance) -> None:
    """A client that keeps its own clock slow still gets its answer from us."""
    call = one.stream()(metadata=(*ID, ("grpc-timeout", "50m")))
    await one.brain.next(Cancelled)
    async with asyncio.timeout(WAIT):
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_flood_of_misses_does_not_touch_hits(make: Make) -> None:
    one = make(held_requests_max=40)
    one.local("hot")
    held = [one.unary()(b"x", metadata=(("mm-model-id", "cold"),)) for _ in range(10)]
    await until(lambda: one.plane.held()[0] == 10)
    code, message = await status_of(one.unary()(b"", metadata=(("mm-model-id", "cold"),)))
    assert (code, message) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "too many requests wait for this model to be loaded",
    )
    held += [one.unary()(b"x", metadata=(("mm-model-id", f"cold{n % 3}"),)) for n in range(30)]
    await until(lambda: one.plane.held()[0] == 40)
    code, _ = await status_of(one.unary()(b"", metadata=(("mm-model-id", "other"),)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await one.unary()(b"hit", metadata=(("mm-model-id", "hot"),)) == b"hit"
    for call in held:
        call.cancel()
    await until(lambda: one.plane.held() == (0, 0))


async def test_a_full_event_queue_refuses_misses(make: Make) -> None:
    one = make(events_max=0)
    one.local("hot")
    code, message = await status_of(one.unary()(b"", metadata=ID))
    assert (code, message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "the control plane is behind; try again")
    assert await one.unary()(b"", metadata=(("mm-model-id", "hot"),)) == b""


async def test_held_bytes_are_bounded(make: Make) -> None:
    one = make(held_bytes_max=1000)
    held = one.unary()(bytes(2000), metadata=ID)
    await until(lambda: one.plane.held() == (1, 0) or one.plane.held()[1] >= 1000)
    missed = await one.brain.next(Missed)
    one.local()
    one.plane.resolve([(missed.token, Serve())])
    assert await held == bytes(2000)
    await until(lambda: one.plane.held() == (0, 0))


async def test_a_held_upload_is_read_up_to_one_message_and_then_goes_on(make: Make) -> None:
    one = make(max_message_bytes=1 << 20)
    call = one.stream()(metadata=ID)
    part = bytes(1 << 19)

    async def write() -> None:
        for _ in range(20):
            await call.write(part)
        await call.done_writing()

    writing = asyncio.create_task(write())
    missed = await one.brain.next(Missed)
    await until(lambda: one.plane.held()[1] >= (1 << 20))
    assert one.plane.held()[1] < (1 << 20) + (1 << 16)
    one.local()
    one.plane.resolve([(missed.token, Serve())])
    async with asyncio.timeout(WAIT):
        assert [len(message) async for message in call] == [len(part)] * 20
    await writing


async def test_serving_a_copy_that_is_not_ready_is_a_failed_attempt(one: Instance) -> None:
    one.local(ready=False)
    call = asyncio.ensure_future(_answer(one.unary()(b"x", metadata=ID)))
    missed = await one.brain.next(Missed)
    one.plane.resolve([(missed.token, Serve())])
    failed = await one.brain.next(AttemptFailed)
    assert (failed.instance, failed.outcome, failed.replayable) == ("i1", Outcome.NOT_HERE, True)
    one.plane.resolve([(failed.token, Forward("nobody", Hop.LOAD))])
    failed = await one.brain.next(AttemptFailed)
    assert (failed.instance, failed.outcome) == ("nobody", Outcome.LOST)
    one.local()
    one.plane.resolve([(failed.token, Reroute())])
    assert await call == b"x"


async def test_a_storm_of_cancelled_calls_leaves_nothing(one: Instance) -> None:
    """More cancels on one connection than HTTP/2 libraries forgive by default."""
    one.local("hot")
    for _ in range(6):
        calls = [one.unary()(b"x" * 1000, metadata=ID) for _ in range(200)]
        await until(lambda: one.plane.held()[0] == 200)
        for call in calls:
            call.cancel()
        await until(lambda: one.plane.held() == (0, 0))
    assert await one.unary()(b"hit", metadata=(("mm-model-id", "hot"),)) == b"hit"
    assert one.brain.count(Missed) == one.brain.count(Cancelled) == 1200
    await until(lambda: not one.plane.busy())


async def test_the_gate_line_is_bounded(one: Instance, runtime: Runtime) -> None:
    go = asyncio.Event()

    async def wait(requests, context):
        await go.wait()
        yield b"done"

    runtime.script["Wait"] = wait
    one.plane.set_routes([("m", Route(LocalCopy(1, ready=True, max_concurrency=1, max_waiting=1)))])
    first = asyncio.ensure_future(_answer(one.unary("Wait")(b"", metadata=ID)))
    await runtime.called.wait()
    second = asyncio.ensure_future(_answer(one.unary("Wait")(b"", metadata=ID)))
    await until(lambda: [(used.in_flight, used.waiting) for used in one.plane.usage()] == [(1, 1)])
    third = asyncio.ensure_future(_answer(one.unary("Wait")(b"", metadata=ID)))
    failed = await one.brain.next(AttemptFailed)
    assert (failed.outcome, failed.message) == (Outcome.EXHAUSTED, "Model queue overload")
    assert (failed.status, failed.replayable, failed.load_id) == (Status.RESOURCE_EXHAUSTED, True, 1)
    go.set()
    assert [await first, await second] == [b"done", b"done"]
    one.plane.resolve([(failed.token, Serve())])
    assert await third == b"done"


async def test_end_copy_takes_requests_away(one: Instance, runtime: Runtime) -> None:
    call = one.stream()(metadata=ID)
    one.local()
    one.brain.decide = lambda event: Serve() if isinstance(event, Missed) else None
    await call.write(b"1")
    assert await call.read() == b"1"
    hanging = asyncio.Event()

    async def hang(requests, context):
        hanging.set()
        await asyncio.Event().wait()
        yield b""

    runtime.script["Hang"] = hang
    silent = asyncio.ensure_future(_answer(one.unary("Hang")(b"2", metadata=ID)))
    await asyncio.wait_for(hanging.wait(), WAIT)
    one.local(ready=False)
    one.plane.end_copy("m", 1)
    outcomes = [await one.brain.next(AttemptFailed), await one.brain.next(AttemptFailed)]
    assert {failed.outcome for failed in outcomes} == {Outcome.ENDED}
    assert sorted(failed.replayable for failed in outcomes) == [False, True]
    async with asyncio.timeout(WAIT):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert await call.details() == "model m moved while the call was open; repeat it"
    again = next(failed for failed in outcomes if failed.replayable)
    one.plane.resolve([(again.token, Fail(Status.ABORTED, "later"))])
    with pytest.raises(grpc.aio.AioRpcError, match="later"):
        await silent
