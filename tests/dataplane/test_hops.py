"""Two instances: one forwards, the other serves, refuses, or asks its Python."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from frames import ForgedServer
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import AttemptFailed, Cancelled, Fail, Forward, Hop, Missed, Naming, Outcome, Serve
from modelmesh.values.status import Status

Make = Callable[..., Instance]


@pytest.fixture
async def pair(make: Make) -> tuple[Instance, Instance]:
    """`near` is called by clients and knows `far` only by its address."""
    near, far = make("near"), make("far")
    near.plane.set_peers([("far", far.peer_address)])
    return near, far


async def test_a_hit_elsewhere_needs_no_python(pair: tuple[Instance, Instance], runtime: Runtime) -> None:
    near, far = pair
    far.local("modèle")
    near.remote(far, model="modèle")
    metadata = (("mm-model-id-bin", "modèle".encode()), ("x-user", "u"))
    assert await near.unary()(b"hello", metadata=metadata, timeout=WAIT) == b"hello"
    received = runtime.metadata()
    assert received["mm-model-id-bin"] == "modèle".encode()
    assert received["x-user"] == "u"
    assert not {"mm-hop", "mm-tried", "mm-view"} & received.keys()
    assert near.brain.events == far.brain.events == []
    assert [(used.model, used.requests) for used in near.plane.usage()] == [("modèle", 0)]
    assert [(used.model, used.requests) for used in far.plane.usage()] == [("modèle", 1)]


async def test_streams_go_through_two_instances(pair: tuple[Instance, Instance]) -> None:
    near, far = pair
    far.local()
    near.remote(far)
    call = near.stream()(metadata=ID)
    for part in (b"a", bytes(3 << 20), b"c"):
        await call.write(part)
        assert await call.read() == part
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_copy_that_is_not_there_is_refused_without_python(pair: tuple[Instance, Instance]) -> None:
    near, far = pair
    near.remote(far, load_id=7)
    near.local("other")
    call = near.unary()(b"x", metadata=ID)
    failed = await near.brain.next(AttemptFailed)
    assert (failed.instance, failed.load_id, failed.outcome, failed.replayable) == ("far", 7, Outcome.NOT_HERE, True)
    assert far.brain.events == []
    near.local()
    near.plane.resolve([(failed.token, Serve())])
    assert await call == b"x"


async def test_load_is_decided_by_the_other_python(pair: tuple[Instance, Instance]) -> None:
    near, far = pair
    call = near.unary()(b"x", metadata=(("mm-vmodel-id", "v"),), timeout=WAIT)
    near.plane.set_vmodels([("v", Naming("m"))])
    missed = await near.brain.next(Missed)
    near.plane.resolve([(missed.token, Forward("far", Hop.LOAD, ("i8", "i9"), 42))])
    asked = await far.brain.next(Missed)
    assert (asked.model, asked.vmodel, asked.hop, asked.tried, asked.view) == ("m", "v", Hop.LOAD, ("i8", "i9"), 42)
    assert asked.timeout_ms is not None
    far.local()
    far.plane.resolve([(asked.token, Serve())])
    assert await call == b"x"


@pytest.mark.parametrize("outcome", ["moved", "busy", "draining", "no-room", "load-failed"])
async def test_refusals_come_back_as_outcomes(pair: tuple[Instance, Instance], outcome: str) -> None:
    near, far = pair
    trailers = (("mm-refused", outcome.encode()), ("mm-view", b"43"))
    far.brain.decide = lambda event: Fail(Status.INTERNAL, "not now", trailers)
    near.brain.decide = lambda event: Forward("far", Hop.LOAD) if isinstance(event, Missed) else None
    call = near.unary()(b"x", metadata=ID)
    failed = await near.brain.next(AttemptFailed)
    assert (failed.outcome, failed.view, failed.replayable) == (Outcome(outcome), 43, True)
    assert (failed.status, failed.message) == (Status.INTERNAL, "not now")
    near.plane.resolve([(failed.token, Fail(Status.UNAVAILABLE, "gave up"))])
    assert await status_of(call) == (grpc.StatusCode.UNAVAILABLE, "gave up")


async def test_what_instances_tell_each_other_is_not_believed_of_clients(
    pair: tuple[Instance, Instance], runtime: Runtime
) -> None:
    near, far = pair
    far.local()
    near.remote(far)
    metadata = (*ID, ("mm-hop", "load"), ("mm-tried", "far"), ("mm-view", "1"))

    async def answer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("mm-hop", "x"), ("x-kept", "1")))
        context.set_trailing_metadata((("mm-refused", "moved"), ("x-kept-too", "1")))
        yield b""

    runtime.script["Answer"] = answer
    call = near.unary("Answer")(b"", metadata=metadata)
    await call
    seen = {**dict(await call.initial_metadata()), **dict(await call.trailing_metadata())}
    assert {"x-kept", "x-kept-too"} <= seen.keys()
    assert not [name for name in seen if name.startswith("mm-")]
    assert near.brain.events == far.brain.events == []


async def test_the_peer_port_takes_forwarded_requests_only(pair: tuple[Instance, Instance]) -> None:
    _, far = pair
    far.local()
    async with grpc.aio.insecure_channel(far.peer_address.address) as channel:
        code, message = await status_of(channel.unary_unary("/test.S/Echo")(b"", metadata=ID))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "mm-hop" in message


async def test_a_runtime_that_lost_the_model_refuses_over_the_hop(
    pair: tuple[Instance, Instance], runtime: Runtime
) -> None:
    near, far = pair
    far.local(load_id=3)
    near.remote(far)

    async def gone(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        yield b""

    runtime.script["Gone"] = gone
    call = near.unary("Gone")(b"", metadata=ID)
    there = await far.brain.next(AttemptFailed)
    assert (there.instance, there.load_id, there.outcome, there.replayable) == ("far", 3, Outcome.NOT_HERE, False)
    here = await near.brain.next(AttemptFailed)
    assert (here.instance, here.outcome, here.replayable) == ("far", Outcome.NOT_HERE, True)
    near.plane.resolve([(here.token, Fail(Status.INTERNAL, "enough"))])
    assert await status_of(call) == (grpc.StatusCode.INTERNAL, "enough")


async def test_a_runtime_that_ends_under_a_call_is_told_over_the_hop(make: Make) -> None:
    """The call may be why: the instance it came from must know before it sends it to another."""
    runtime = await ForgedServer(lambda connection, event: None).start()
    near, far = make("near"), make("far", runtime=runtime.address)
    far.local(load_id=3)
    near.remote(far)
    call = near.unary()(b"", metadata=ID)
    await until(lambda: runtime.requests() == 1)
    runtime.close()
    runtime.drop()
    there = await far.brain.next(AttemptFailed)
    assert (there.instance, there.load_id, there.outcome, there.begun) == ("far", 3, Outcome.LOST, True)
    here = await near.brain.next(AttemptFailed)
    assert (here.instance, here.outcome, here.replayable, here.begun) == ("far", Outcome.LOST, True, True)
    near.plane.resolve([(here.token, Fail(Status.INTERNAL, "enough"))])
    assert await status_of(call) == (grpc.StatusCode.INTERNAL, "enough")


async def test_a_client_that_goes_frees_both_instances(pair: tuple[Instance, Instance]) -> None:
    near, far = pair
    near.brain.decide = lambda event: Forward("far", Hop.LOAD) if isinstance(event, Missed) else None
    call = near.unary()(b"x", metadata=ID)
    asked = await far.brain.next(Missed)
    call.cancel()
    assert (await far.brain.next(Cancelled)).token == asked.token
    await until(lambda: not near.plane.busy() and not far.plane.busy())
    await until(lambda: near.plane.held() == far.plane.held() == (0, 0))


async def test_copies_share_the_load(make: Make) -> None:
    near, far, further = make("near"), make("far"), make("further")
    far.local()
    further.local()
    near.remote(far, further)
    await asyncio.gather(*(near.unary()(b"", metadata=ID) for _ in range(60)))
    counts = [sum(used.requests for used in instance.plane.usage()) for instance in (far, further)]
    assert sum(counts) == 60
    assert min(counts) > 5


async def test_a_balanced_caller_is_served_here(make: Make) -> None:
    near, far = make("near"), make("far")
    far.local()
    near.remote(far)
    from modelmesh.values.dataplane import LocalCopy, RemoteCopy, Route

    near.plane.set_routes([("m", Route(LocalCopy(1, ready=True), (RemoteCopy("far", 1),)))])
    for _ in range(20):
        await near.unary()(b"", metadata=(*ID, ("mm-balanced", "true")))
    assert sum(used.requests for used in near.plane.usage()) == 20
