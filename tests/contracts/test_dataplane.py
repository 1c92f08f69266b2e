"""One suite over both data planes: the native core, and the simulator's in Python."""

import asyncio

import pytest
from scripted import WAIT
from sides import A, B, M, Side

from modelmesh.control.requests.answers import retry_later
from modelmesh.values.dataplane import (
    AttemptFailed,
    Cancelled,
    CopyIdle,
    Fail,
    Forward,
    Hop,
    LocalCopy,
    Missed,
    Naming,
    Outcome,
    Reroute,
    ReturnAnswer,
    Route,
    Serve,
)
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision, VModelId
from modelmesh.values.status import Status


async def test_a_miss_is_held_until_it_is_resolved(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    call = asyncio.create_task(a.call())
    event = await a.brain.next(Missed)
    assert (event.model, event.vmodel, event.hop, event.tried, event.view) == (M, None, None, (), None)
    assert a.plane.held()[0] == 1
    a.plane.resolve([(event.token, Fail(Status.NOT_FOUND, "model not found"))])
    assert await call == (Status.NOT_FOUND, "model not found", None)
    await a.until_free()


async def test_answers_that_tell_when_to_come_back_and_no_others_pass(pair: tuple[Side, Side]) -> None:
    """Binary trailers are in wire form, which is text."""
    a, _ = pair
    call = asyncio.create_task(a.call())
    event = await a.brain.next(Missed)
    with pytest.raises(ValueError, match="no valid trailer"):
        a.plane.resolve([(event.token, Fail(Status.UNAVAILABLE, "raw", (("some-bin", b"\x08\xff"),)))])
    a.plane.resolve([(event.token, retry_later(Status.UNAVAILABLE, "later", 1000))])
    assert await call == (Status.UNAVAILABLE, "later", None)


async def test_a_ready_copy_serves_without_any_event(pair: tuple[Side, Side]) -> None:
    a, b = pair
    a.local()
    assert await a.call() == (Status.OK, "", b"hello")
    b.local()
    a.remote(b)
    assert await a.call() == (Status.OK, "", b"hello")
    assert (a.served, b.served) == (1, 1)
    assert a.brain.count(Missed) == b.brain.count(Missed) == 0


async def test_a_held_request_is_served_when_its_copy_is_ready(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    call = asyncio.create_task(a.call())
    event = await a.brain.next(Missed)
    a.local()
    a.plane.resolve([(event.token, Serve())])
    assert (await call)[2] == b"hello"


async def test_serving_without_a_ready_copy_is_a_failed_attempt(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    call = asyncio.create_task(a.call())
    a.plane.resolve([((await a.brain.next(Missed)).token, Serve())])
    failed = await a.brain.next(AttemptFailed)
    assert (failed.instance, failed.outcome, failed.replayable) == (A, Outcome.NOT_HERE, True)
    a.plane.resolve([(failed.token, Fail(Status.INTERNAL, "enough"))])
    assert (await call)[:2] == (Status.INTERNAL, "enough")


async def test_a_hit_hop_is_refused_where_no_copy_is(pair: tuple[Side, Side]) -> None:
    a, b = pair
    a.remote(b, load_id=7)
    call = asyncio.create_task(a.call())
    failed = await a.brain.next(AttemptFailed)
    assert (failed.instance, failed.load_id, failed.outcome) == (B, 7, Outcome.NOT_HERE)
    assert b.brain.count(Missed) == 0
    a.plane.resolve([(failed.token, Fail(Status.UNAVAILABLE, "later"))])
    assert (await call)[:2] == (Status.UNAVAILABLE, "later")


async def test_a_load_hop_asks_the_peer_and_carries_what_was_tried_and_seen(pair: tuple[Side, Side]) -> None:
    a, b = pair
    a.plane.set_peers([(B, b.address)])
    call = asyncio.create_task(a.call())
    missed = await a.brain.next(Missed)
    a.plane.resolve([(missed.token, Forward(B, Hop.LOAD, (InstanceId("x"), InstanceId("y")), Revision(42)))])
    asked = await b.brain.next(Missed)
    assert (asked.hop, asked.tried, asked.view) == (Hop.LOAD, ("x", "y"), 42)
    b.local()
    b.plane.resolve([(asked.token, Serve())])
    assert (await call)[2] == b"hello"
    assert (a.served, b.served) == (0, 1)


@pytest.mark.parametrize(
    "outcome", [Outcome.MOVED, Outcome.BUSY, Outcome.DRAINING, Outcome.NO_ROOM, Outcome.LOAD_FAILED]
)
async def test_a_refusal_comes_back_as_what_it_is(pair: tuple[Side, Side], outcome: Outcome) -> None:
    a, b = pair
    a.plane.set_peers([(B, b.address)])
    call = asyncio.create_task(a.call())
    a.plane.resolve([((await a.brain.next(Missed)).token, Forward(B, Hop.LOAD))])
    asked = await b.brain.next(Missed)
    trailers = (("mm-refused", outcome.value.encode()), ("mm-view", b"9"))
    b.plane.resolve([(asked.token, Fail(Status.INTERNAL, "not me", trailers))])
    failed = await a.brain.next(AttemptFailed)
    assert (failed.instance, failed.outcome, failed.status) == (B, outcome, Status.INTERNAL)
    assert failed.message == "not me"
    assert failed.view == 9
    a.plane.resolve([(failed.token, Fail(Status.UNAVAILABLE, "enough"))])
    assert (await call)[:2] == (Status.UNAVAILABLE, "enough")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (Status.UNAVAILABLE, Outcome.UNAVAILABLE),
        (Status.RESOURCE_EXHAUSTED, Outcome.EXHAUSTED),
        (Status.NOT_FOUND, Outcome.NOT_HERE),
    ],
)
async def test_what_another_copy_may_cure_is_a_failed_attempt(
    pair: tuple[Side, Side], status: Status, outcome: Outcome
) -> None:
    a, _ = pair
    a.local()
    a.behaviour = status
    call = asyncio.create_task(a.call())
    failed = await a.brain.next(AttemptFailed)
    assert (failed.instance, failed.load_id, failed.outcome, failed.status) == (A, 1, outcome, status)
    assert failed.message.endswith("so it was told")
    a.plane.resolve([(failed.token, ReturnAnswer())])
    assert (await call)[:2] == (status, "so it was told")


async def test_any_other_error_is_the_clients_answer(pair: tuple[Side, Side]) -> None:
    a, b = pair
    b.local()
    b.behaviour = Status.INVALID_ARGUMENT
    a.remote(b)
    assert (await a.call())[:2] == (Status.INVALID_ARGUMENT, "so it was told")
    assert a.brain.count(AttemptFailed) == 0


async def test_a_failed_attempt_is_tried_elsewhere(pair: tuple[Side, Side]) -> None:
    a, b = pair
    a.local()
    b.local()
    a.plane.set_peers([(B, b.address)])
    a.behaviour = Status.UNAVAILABLE
    call = asyncio.create_task(a.call())
    failed = await a.brain.next(AttemptFailed)
    a.plane.resolve([(failed.token, Forward(B, Hop.HIT))])
    assert (await call)[2] == b"hello"
    assert (a.served, b.served) == (1, 1)


async def test_a_closed_copy_is_idle_when_its_last_call_has_ended(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    a.local()
    a.gate = asyncio.Event()
    call = asyncio.create_task(a.call())
    await a.until_served()
    a.local(ready=False)
    assert a.brain.count(CopyIdle) == 0
    a.gate.set()
    assert (await call)[2] == b"hello"
    idle = await a.brain.next(CopyIdle)
    assert (idle.model, idle.load_id) == (M, 1)


async def test_whether_a_copy_is_idle_can_be_asked(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    assert a.plane.is_idle(M, LoadId(1))  # there is none
    a.local()
    assert not a.plane.is_idle(M, LoadId(1))  # open
    a.gate = asyncio.Event()
    call = asyncio.create_task(a.call())
    await a.until_served()
    a.local(ready=False)
    assert not a.plane.is_idle(M, LoadId(1))
    assert not a.plane.is_idle(M, LoadId(1))  # asking changes nothing
    a.gate.set()
    assert (await call)[2] == b"hello"
    assert (await a.brain.next(CopyIdle)).load_id == 1
    assert a.plane.is_idle(M, LoadId(1))


async def test_a_closed_copy_without_calls_is_idle_at_once(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    a.local()
    a.local(ready=False)
    assert (await a.brain.next(CopyIdle)).load_id == 1


async def test_what_runs_on_a_copy_can_be_ended(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    a.local()
    a.gate = asyncio.Event()
    call = asyncio.create_task(a.call())
    await a.until_served()
    a.local(ready=False)
    a.plane.end_copy(M, LoadId(1))
    failed = await a.brain.next(AttemptFailed)
    assert failed.outcome is Outcome.ENDED
    a.plane.resolve([(failed.token, Fail(Status.UNAVAILABLE, "gone"))])
    assert (await call)[:2] == (Status.UNAVAILABLE, "gone")
    a.gate.set()


async def test_calls_leave_a_runtime_that_hangs_once(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    a.local()
    a.gate = asyncio.Event()
    call = asyncio.create_task(a.call())
    await a.until_served()
    a.local(ready=False)
    a.plane.runtime_hangs()
    failed = await a.brain.next(AttemptFailed)
    assert (failed.outcome, failed.begun, failed.replayable) == (Outcome.HUNG, True, True)
    a.local()
    a.plane.resolve([(failed.token, Serve())])
    async with asyncio.timeout(WAIT):
        while a.served < 2:
            await asyncio.sleep(0.002)
    a.plane.runtime_hangs()
    a.gate.set()
    assert (await call)[0] is Status.OK
    assert a.brain.count(AttemptFailed) == 1


async def test_a_hop_leaves_a_runtime_that_hangs_and_says_so(pair: tuple[Side, Side]) -> None:
    a, b = pair
    a.remote(b)
    b.local()
    b.gate = asyncio.Event()
    call = asyncio.create_task(a.call())
    async with asyncio.timeout(WAIT):
        while not b.served:
            await asyncio.sleep(0.002)
    b.local(ready=False)
    b.plane.runtime_hangs()
    failed = await a.brain.next(AttemptFailed)
    assert (failed.instance, failed.outcome, failed.begun) == (B, Outcome.LOST, True)
    assert (await b.brain.next(AttemptFailed)).outcome is Outcome.HUNG
    a.plane.resolve([(failed.token, Fail(Status.UNAVAILABLE, "gone"))])
    assert (await call)[:2] == (Status.UNAVAILABLE, "gone")
    b.gate.set()


async def test_a_caller_that_gives_up_is_told(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    call = asyncio.create_task(a.call(timeout=0.2))
    missed = await a.brain.next(Missed)
    assert missed.timeout_ms is not None
    assert missed.timeout_ms <= 200
    assert (await call)[0] is Status.DEADLINE_EXCEEDED
    assert (await a.brain.next(Cancelled)).token == missed.token
    await a.until_free()
    a.plane.resolve([(missed.token, Serve())])  # refused quietly


async def test_usage_counts_what_the_local_copy_served(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    a.local()
    for _ in range(3):
        await a.call()
    usage = [use for use in a.plane.usage() if use.model == M]
    assert [(use.requests, use.in_flight) for use in usage] == [(3, 0)]
    assert usage[0].last_use_ms > 0
    assert not [use for use in a.plane.usage() if use.model == M and use.requests]


async def test_an_unknown_vmodel_is_a_miss_and_is_routed_once_known(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    a.local()
    call = asyncio.create_task(a.call("v", vmodel=True))
    missed = await a.brain.next(Missed)
    assert (missed.model, missed.vmodel) == ("", "v")
    a.plane.set_vmodels([(VModelId("v"), Naming(M))])
    a.plane.resolve([(missed.token, Reroute())])
    assert (await call)[2] == b"hello"
    assert (await a.call("v", vmodel=True))[2] == b"hello"
    assert a.brain.count(Missed) == 1


async def test_the_calls_of_a_vmodel_are_split(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    other = ModelId("other")
    a.plane.set_routes([(model, Route(LocalCopy(LoadId(1), ready=True))) for model in (M, other)])
    a.plane.set_vmodels([(VModelId("v"), Naming(M, ((other, 30),)))])
    for _ in range(300):
        assert (await a.call("v", vmodel=True))[0] is Status.OK
    counts = {use.model: use.requests for use in a.plane.usage()}
    assert counts[M] + counts[other] == 300
    assert 50 < counts[other] < 130  # 90, and more than five standard deviations of 8 to either side
    a.plane.set_vmodels([(VModelId("v"), Naming(M, ((other, 100),)))])
    for _ in range(20):
        await a.call("v", vmodel=True)
    assert {use.model: use.requests for use in a.plane.usage() if use.requests} == {other: 20}


async def test_a_call_stays_in_its_share_however_often_it_is_looked_up(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    other = ModelId("other")
    naming = Naming(M, ((other, 50),))
    a.plane.set_vmodels([(VModelId("v"), naming)])
    calls = [asyncio.create_task(a.call("v", vmodel=True)) for _ in range(40)]
    missed = [await a.brain.next(Missed) for _ in range(40)]
    assert {event.model for event in missed} == {M, other}
    a.plane.resolve([(event.token, Reroute()) for event in missed])
    again = [await a.brain.next(Missed) for _ in range(40)]
    assert {event.token: event.model for event in again} == {event.token: event.model for event in missed}
    a.plane.resolve([(event.token, Fail(Status.UNAVAILABLE, "enough")) for event in again])
    assert {(await call)[0] for call in calls} == {Status.UNAVAILABLE}


async def test_how_the_models_of_a_trial_answer_is_counted(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    v = VModelId("v")
    a.local()
    a.plane.set_vmodels([(v, Naming(M, trial=7))])
    assert await a.call("v", vmodel=True) == (Status.OK, "", b"hello")
    a.behaviour = Status.INVALID_ARGUMENT
    assert (await a.call("v", vmodel=True))[0] is Status.INVALID_ARGUMENT

    def counted() -> tuple[int, list[tuple[str, int, int, int]]] | None:
        found = a.plane.tallies_of(v)
        return found and (found[0], [(one.model, one.calls, one.failed, sum(one.times)) for one in found[1]])

    async with asyncio.timeout(WAIT):
        while counted() != (7, [(M, 2, 1, 1)]):
            await asyncio.sleep(0.002)
    a.plane.set_vmodels([(v, Naming(M, trial=7, fallback=ModelId("f")))])
    assert counted() == (7, [(M, 2, 1, 1)]), "it goes on"
    a.plane.set_vmodels([(v, Naming(M, ((ModelId("n"), 1),), trial=7))])
    assert counted() == (7, [(M, 0, 0, 0), ("n", 0, 0, 0)]), "other models"
    a.plane.set_vmodels([(v, Naming(M, trial=8))])
    assert counted() == (8, [(M, 0, 0, 0)])
    for naming in (Naming(M), None):
        a.plane.set_vmodels([(v, naming)])
        assert a.plane.tallies_of(v) is None
