"""Clients that say how long they wait for a load (`mm-wait`, or `Prefer: wait=` by REST)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from rest_client import Rest, X, mirror
from scripted import WAIT, Instance, Runtime, echo, status_of

from modelmesh.values.dataplane import Cancelled, Fail, Forward, Hop, Missed, Overdue, PeerAddress, Serve
from modelmesh.values.status import Status

Make = Callable[..., Instance]


def metadata(wait: str) -> tuple[tuple[str, str], ...]:
    return (("mm-model-id", "m"), ("mm-wait", wait))


def tell(one: Instance, event: Overdue) -> None:
    trailers = (("grpc-retry-pushback-ms", b"4000"),)
    one.plane.resolve([(event.token, Fail(Status.UNAVAILABLE, "m is being loaded", trailers))])


async def test_past_its_patience_a_client_is_told_how_the_load_stands(one: Instance) -> None:
    call = one.unary()(b"x", metadata=metadata("1m"))
    missed = await one.brain.next(Missed)
    overdue = await one.brain.next(Overdue)
    assert (overdue.model, overdue.vmodel) == ("m", None)
    assert overdue.token != missed.token
    assert [event.token for event in one.brain.events if isinstance(event, Cancelled)] == [missed.token]
    tell(one, overdue)
    assert await status_of(call) == (grpc.StatusCode.UNAVAILABLE, "m is being loaded")
    assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "4000"


async def test_a_load_in_time_serves_the_call(one: Instance) -> None:
    call = one.unary()(b"x", metadata=metadata("1H"), timeout=WAIT)
    missed = await one.brain.next(Missed)
    one.local()
    one.plane.resolve([(missed.token, Serve())])
    assert await call == b"x"
    assert one.brain.count(Overdue) == 0


async def test_what_runs_at_a_copy_is_not_cut_off(one: Instance, runtime: Runtime) -> None:
    go = asyncio.Event()

    async def held(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await go.wait()
        async for request in echo(requests, context):
            yield request

    runtime.script["Echo"] = held
    one.brain.decide = lambda event: Serve() if isinstance(event, Missed) else None
    missed_first = one.unary()(b"x", metadata=metadata("1H"), timeout=WAIT)
    missed = await one.brain.next(Missed)
    assert missed.model == "m"
    one.local()
    warm = one.unary()(b"y", metadata=metadata("0u"), timeout=WAIT)
    await asyncio.wait_for(runtime.called.wait(), WAIT)
    go.set()
    assert await warm == b"y"
    missed_first.cancel()
    assert one.brain.count(Overdue) == 0


async def test_a_load_elsewhere_is_waited_for_as_long(make: Make) -> None:
    one, two = make("i1"), make("i2")
    one.plane.set_peers([("i2", PeerAddress(f"127.0.0.1:{two.plane.peer_port}"))])
    call = one.unary()(b"x", metadata=metadata("300m"))
    missed = await one.brain.next(Missed)
    one.plane.resolve([(missed.token, Forward("i2", Hop.LOAD))])
    there = await two.brain.next(Missed)
    assert there.hop is Hop.LOAD
    overdue = await one.brain.next(Overdue)
    tell(one, overdue)
    assert (await status_of(call))[0] == grpc.StatusCode.UNAVAILABLE
    assert (await two.brain.next(Cancelled)).token == there.token
    assert two.brain.count(Overdue) == 0


async def test_a_call_whose_deadline_is_near_is_told_how_the_load_stands(one: Instance) -> None:
    # The client of gRPC stops reading at its deadline, so this one says another than it keeps.
    call = one.unary()(b"x", metadata=(("mm-model-id", "m"), ("grpc-timeout", "300m")))
    missed = await one.brain.next(Missed)
    overdue = await one.brain.next(Overdue)
    assert overdue.until_deadline
    assert [event.token for event in one.brain.events if isinstance(event, Cancelled)] == [missed.token]
    one.plane.resolve([(overdue.token, Fail(Status.DEADLINE_EXCEEDED, "Deadline Exceeded: m is being loaded"))])
    assert await status_of(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded: m is being loaded")


async def test_a_call_whose_load_nobody_describes_ends_at_its_deadline(one: Instance) -> None:
    call = one.unary()(b"x", metadata=(("mm-model-id", "m"), ("grpc-timeout", "200m")))
    await one.brain.next(Overdue)
    assert await status_of(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


@pytest.mark.parametrize("wait", ["soon", "5", ""])
async def test_a_patience_that_is_none_is_no_bound(one: Instance, wait: str) -> None:
    call = one.unary()(b"x", metadata=metadata(wait), timeout=WAIT)
    missed = await one.brain.next(Missed)
    one.local()
    one.plane.resolve([(missed.token, Serve())])
    assert await call == b"x"


async def test_by_rest(make: Make, runtime: Runtime) -> None:
    runtime.script["ModelInfer"] = mirror
    one = make(rest="127.0.0.1:0")
    rest = Rest(one)
    answer_others = one.brain.decide

    def decide(event: Any) -> Any:
        if isinstance(event, Missed):
            return None
        if isinstance(event, Overdue):
            tell(one, event)
            return None
        return answer_others(event)

    one.brain.decide = decide
    try:
        status, body, answer = await rest.ask(
            "POST", "/v2/models/m/infer", json={"inputs": [X]}, headers={"Prefer": "wait=0"}
        )
    finally:
        await rest.session.close()
    assert (status, body, answer.headers["Retry-After"]) == (503, {"error": "m is being loaded"}, "4")
