"""A runtime that takes calls and answers none: what its connection shows, and what becomes of the calls on it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import h2.events
from frames import Connection, ForgedServer, answer_all
from scripted import ID, Instance, Runtime, until

from modelmesh.values.dataplane import (
    AttemptFailed,
    LinkBack,
    LinkLost,
    MethodRule,
    Outcome,
    ReturnAnswer,
    Rules,
    Serve,
)
from modelmesh.values.status import Status

Make = Callable[..., Instance]


def swallow(_connection: Connection, _event: h2.events.Event) -> None:
    """Answer no call."""


async def test_a_runtime_that_stands_still_is_found_out_by_its_calls(make: Make, forged: ForgedServer) -> None:
    """A process that was stopped: its sockets stand, and nobody reads them. It was waited for without end."""
    forged.script = swallow
    one = make(runtime=forged.address)
    one.local(load_id=5)
    call = one.unary()(b"x", metadata=ID)
    await until(lambda: forged.requests() == 1)
    forged.stand_still()
    failed = await one.brain.next(AttemptFailed)
    assert (failed.instance, failed.load_id, failed.outcome, failed.replayable) == ("i1", 5, Outcome.HUNG, True)
    assert (failed.begun, failed.status) == (True, Status.UNAVAILABLE)
    assert await one.brain.next(LinkLost) == LinkLost("i1")
    forged.go_on()
    forged.script = answer_all
    assert await one.brain.next(LinkBack) == LinkBack("i1")
    one.plane.resolve([(failed.token, Serve())])
    assert await call == b""


async def test_calls_leave_a_runtime_that_hangs_once_and_if_they_can(make: Make, runtime: Runtime) -> None:
    gate = asyncio.Event()

    async def wait(requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            await gate.wait()
            yield request

    async def begin(requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            await gate.wait()
            yield request

    runtime.script.update(Wait=wait, Once=wait, Begin=begin)
    one = make()
    one.plane.set_rules(Rules((), (), (MethodRule("test.S/Once", idempotent=False),), allow_others=True))
    one.local()
    moves, stays = one.unary("Wait")(b"1", metadata=ID), one.unary("Once")(b"2", metadata=ID)
    begun = one.stream("Begin")(iter([b"3"]), metadata=ID)
    assert await begun.read() == b"3"
    await until(lambda: len(runtime.calls) == 3)
    one.local(ready=False)
    one.plane.runtime_hangs()
    failed = await one.brain.next(AttemptFailed)
    assert (failed.outcome, failed.replayable, failed.begun) == (Outcome.HUNG, True, True)
    one.local()
    one.plane.resolve([(failed.token, Serve())])
    await until(lambda: len(runtime.calls) == 4)
    one.plane.runtime_hangs()  # it has moved once: this one may only be slow
    gate.set()
    assert [await moves, await stays, await begun.read()] == [b"1", b"2", b"3"]
    assert one.brain.count(AttemptFailed) == 1


async def test_a_call_in_line_at_a_runtime_that_hangs_leaves_too(make: Make, runtime: Runtime) -> None:
    gate = asyncio.Event()

    async def wait(requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            await gate.wait()
            yield request

    runtime.script["Wait"] = wait
    one = make()
    one.brain.decide = lambda event: ReturnAnswer() if isinstance(event, AttemptFailed) else None
    one.local(max_concurrency=1)
    calls = [one.unary("Wait")(b"", metadata=ID) for _ in range(2)]
    await until(lambda: len(runtime.calls) == 1)
    one.local(ready=False, max_concurrency=1)
    one.plane.runtime_hangs()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [end.code() for end in ends if isinstance(end, grpc.aio.AioRpcError)] == [grpc.StatusCode.UNAVAILABLE] * 2
    assert len(runtime.calls) == 1
    gate.set()
