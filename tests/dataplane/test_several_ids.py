"""Calls with several ids: as many ordinary calls, joined in header order."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from scripted import WAIT, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import AttemptFailed, Cancelled, Fail, Missed, Naming, Serve
from modelmesh.values.status import Status

Make = Callable[..., Instance]


def ids(*models: str, **more: str) -> tuple[tuple[str, str], ...]:
    return (*(("mm-model-id", model) for model in models), *((f"mm-{name}", value) for name, value in more.items()))


@pytest.fixture
async def three(one: Instance, runtime: Runtime) -> Instance:
    async def name(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        request = b"".join([request async for request in requests])
        model = dict(context.invocation_metadata())["mm-model-id"]
        await context.send_initial_metadata((("x-head", model),))
        if model == "a":
            await asyncio.sleep(0.05)  # the first to be asked is the last to answer
        yield model.encode() + request
        context.set_trailing_metadata((("x-tail", model),))

    runtime.script["Name"] = name
    for model in "abc":
        one.local(model)
    return one


async def test_answers_are_joined_in_header_order(three: Instance) -> None:
    call = three.unary("Name")(b"!", metadata=ids("a", "b", "c"))
    assert await call == b"a!b!c!"
    assert [value for name, value in await call.initial_metadata() if name == "x-head"] == ["a", "b", "c"]
    assert [value for name, value in await call.trailing_metadata() if name == "x-tail"] == ["a", "b", "c"]


async def test_vmodels(three: Instance) -> None:
    three.plane.set_vmodels([("v", Naming("a")), ("w", Naming("b"))])
    metadata = (("mm-vmodel-id", "w"), ("mm-vmodel-id", "v"))
    assert await three.unary("Name")(b"", metadata=metadata) == b"ba"


def missing(event: object) -> Fail | None:
    return Fail(Status.NOT_FOUND, "model not found") if isinstance(event, Missed) else None


async def test_missing_models(three: Instance) -> None:
    three.brain.decide = missing
    assert await three.unary("Name")(b"", metadata=ids("b", "x", "c")) == b"bc"
    assert await status_of(three.unary("Name")(b"", metadata=ids("b", "x", required="ALL"))) == (
        grpc.StatusCode.NOT_FOUND,
        "model not found",
    )
    assert await status_of(three.unary("Name")(b"", metadata=ids("x", "y"))) == (
        grpc.StatusCode.NOT_FOUND,
        "none of the requested models were found",
    )


async def test_any_other_error_fails_the_whole_call(three: Instance) -> None:
    three.brain.decide = lambda event: Fail(Status.ABORTED, "no", (("x-why", b"1"),))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await three.unary("Name")(b"", metadata=ids("a", "x"))
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.ABORTED, "no")
    assert dict(raised.value.trailing_metadata())["x-why"] == "1"
    await until(lambda: not three.plane.busy())


async def test_each_id_misses_and_is_replayed_alone(three: Instance, runtime: Runtime) -> None:
    tried: list[str] = []

    async def once(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        request = b"".join([request async for request in requests])
        model = dict(context.invocation_metadata())["mm-model-id"]
        tried.append(model)
        if tried.count(model) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "again")
        yield model.encode() + request

    def decide(event: object) -> Serve | None:
        if isinstance(event, Missed):
            three.local(event.model)
            return Serve()
        return Serve() if isinstance(event, AttemptFailed) else None

    runtime.script["Once"] = once
    three.brain.decide = decide
    assert await three.unary("Once")(b"?", metadata=ids("new", "b")) == b"new?b?"
    assert sorted(tried) == ["b", "b", "new", "new"]


async def test_at_most_so_many_at_once(make: Make, runtime: Runtime) -> None:
    running = most = 0

    async def slow(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        yield b"."

    runtime.script["Slow"] = slow
    one = make(multi_parallelism=2)
    models = [f"m{n}" for n in range(8)]
    for model in models:
        one.local(model)
    assert await one.unary("Slow")(b"", metadata=ids(*models)) == b"." * 8
    assert most == 2


async def test_a_client_that_goes_takes_all_parts_with_it(three: Instance) -> None:
    call = three.unary("Name")(b"", metadata=ids("x", "y"))
    await until(lambda: three.plane.held()[0] == 2)
    call.cancel()
    gone = {(await three.brain.next(Cancelled)).token for _ in range(2)}
    assert gone == {event.token for event in three.brain.events if isinstance(event, Missed)}
    await until(lambda: three.plane.held() == (0, 0) and not three.plane.busy())


async def test_a_joined_answer_is_bounded(make: Make, runtime: Runtime) -> None:
    async def large(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield bytes(700_000)

    runtime.script["Large"] = large
    one = make(max_message_bytes=1 << 20)
    one.local("a")
    one.local("b")
    assert len(await one.unary("Large")(b"", metadata=ids("a"))) == 700_000
    assert (await status_of(one.unary("Large")(b"", metadata=ids("a", "b"))))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_second_message_is_refused(three: Instance) -> None:
    call = three.stream("Name")(metadata=ids("a", "b"))
    await call.write(b"1")
    await call.write(b"2")
    assert await call.code() == grpc.StatusCode.UNIMPLEMENTED
    assert await call.details() == "Streaming not supported yet"


async def test_a_cold_model_among_ready_ones_is_waited_for(three: Instance, runtime: Runtime) -> None:
    call = three.unary("Name")(b"!", metadata=ids("a", "cold", "c"))
    missed = await three.brain.next(Missed)
    await until(lambda: len(runtime.calls) == 2)  # the others do not wait for it
    three.local("cold")
    three.plane.resolve([(missed.token, Serve())])
    assert await call == b"a!cold!c!"


async def test_one_that_fails_late_takes_the_others_with_it(three: Instance, runtime: Runtime) -> None:
    cancelled = asyncio.Event()

    async def late(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        if dict(context.invocation_metadata())["mm-model-id"] == "b":
            await until(lambda: len(runtime.calls) == 3)
            await context.abort(grpc.StatusCode.DATA_LOSS, "half a tensor")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        yield b""

    runtime.script["Late"] = late
    said = (grpc.StatusCode.DATA_LOSS, "half a tensor")
    assert await status_of(three.unary("Late")(b"", metadata=ids("a", "b", "c"))) == said
    await asyncio.wait_for(cancelled.wait(), WAIT)
    await until(lambda: not three.plane.busy())


async def test_the_same_model_twice_is_called_twice(three: Instance) -> None:
    assert await three.unary("Name")(b"", metadata=ids("b", "b", "c")) == b"bbc"


async def test_a_thousand_models_and_no_more(three: Instance) -> None:
    channel = three.channel.unary_unary("/test.S/Echo")
    assert await channel(b"b", metadata=ids(*"b" * 1000), timeout=30) == b"b" * 1000
    said = (grpc.StatusCode.INVALID_ARGUMENT, "a call may name at most 1000 models")
    assert await status_of(channel(b"", metadata=ids(*"b" * 1001))) == said


async def test_joined_metadata_are_bounded(three: Instance, runtime: Runtime) -> None:
    async def talkative(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("x-head", "h" * 2500),))
        yield b""

    runtime.script["Talk"] = talkative
    await three.unary("Talk")(b"", metadata=ids("a", "b"))
    code, message = await status_of(three.unary("Talk")(b"", metadata=ids(*"b" * 30)))
    assert (code, message) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "the joined answer's metadata is larger than a header list may be",
    )


async def test_a_deadline_ends_all_parts(three: Instance) -> None:
    call = three.unary("Name")(b"", metadata=ids("a", "cold", "colder"), timeout=0.2)
    assert (await status_of(call))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: three.plane.held() == (0, 0) and not three.plane.busy())


async def test_a_runtime_that_compresses_its_answers(one: Instance, runtime: Runtime) -> None:
    """Joined, they must be plain."""

    async def gzipped(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        context.set_compression(grpc.Compression.Gzip)
        yield dict(context.invocation_metadata())["mm-model-id"].encode() * 500

    runtime.script["Zip"] = gzipped
    one.local("a")
    one.local("b")
    assert await one.unary("Zip")(b"", metadata=ids("a", "b"), timeout=WAIT) == b"a" * 500 + b"b" * 500
