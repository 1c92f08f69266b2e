"""Copies of a vmodel's calls for its shadow: who gets them, what is counted, and that no caller waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from rest_client import Rest, X, mirror
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.values.dataplane import AttemptFailed, CopyIdle, Missed, Naming, RemoteCopy, Route, Wanted
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.shadow import Shadow, ShadowCounts

Make = Callable[..., Instance]
V = (("mm-vmodel-id", "v"),)
M, S = ModelId("m"), ModelId("s")


def name(one: Instance, *, percent: int = 100, compares: bool = False, **more: Any) -> None:
    """v is m, and s is its shadow."""
    one.plane.set_vmodels([(VModelId("v"), Naming(M, shadow=Shadow(S, percent, compares), **more))])


def ready(one: Instance) -> None:
    one.plane.set_routes([])
    for model in (M, S):
        one.local(model)


def counted(one: Instance) -> ShadowCounts:
    (found,) = dict(one.plane.shadows()).values() or (ShadowCounts(S),)
    return found


def ended(one: Instance) -> int:
    counts = dict(one.plane.shadows()).get(VModelId("v"), ShadowCounts(S))
    return sum(getattr(counts, end) for end in ShadowCounts.__slots__ if end != "model")


async def call(one: Instance, payload: bytes = b"x", *, metadata: Any = V, method: str = "Echo") -> bytes:
    answer: bytes = await one.unary(method)(payload, metadata=metadata, timeout=WAIT)
    return answer


def models(runtime: Runtime) -> list[str]:
    return [metadata["mm-model-id"] for _, metadata in runtime.calls]


def model_of(context: grpc.aio.ServicerContext) -> str:
    return str(dict(context.invocation_metadata() or ())["mm-model-id"])


async def test_the_shadow_gets_a_copy_and_the_caller_the_answer_of_the_active_model(
    one: Instance, runtime: Runtime
) -> None:
    async def named(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request + model_of(context).encode()

    runtime.script["Echo"] = named
    name(one)
    ready(one)
    assert await call(one, metadata=(*V, ("x-mine", "1"))) == b"xm"
    await until(lambda: ended(one) == 1)
    assert counted(one) == ShadowCounts(S, answered=1)
    assert models(runtime) == ["m", "s"]
    assert runtime.metadata()["x-mine"] == "1", "the copy has the headers of the call"


async def test_a_part_of_the_calls_is_copied(one: Instance) -> None:
    name(one, percent=20)
    ready(one)
    for _ in range(10):
        await asyncio.gather(*(call(one) for _ in range(40)))
    await until(lambda: 30 < ended(one) < 140)
    name(one, percent=100)
    before = ended(one)
    await call(one)
    await until(lambda: ended(one) > before)


async def test_answers_are_compared(one: Instance, runtime: Runtime) -> None:
    how = {"s": b""}

    async def answer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            if how.get(model_of(context)) == b"fail":
                await context.abort(grpc.StatusCode.INTERNAL, "so it was told")
            yield request + how.get(model_of(context), b"")

    runtime.script["Echo"] = answer
    name(one, compares=True)
    ready(one)
    for number, said in enumerate((b"", b"", b"other", b"fail"), start=1):
        how["s"] = said
        assert await call(one) == b"x"
        await until(lambda number=number: ended(one) == number)
    assert counted(one) == ShadowCounts(S, equal=2, different=1, failed=1)
    failed = await one.brain.next(AttemptFailed) if one.brain.count(AttemptFailed) else None
    assert failed is None, "the model's own error says nothing about its copy"


async def test_answers_of_infer_are_compared_by_their_tensors(one: Instance, runtime: Runtime) -> None:
    async def infer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            asked = pb.ModelInferRequest.FromString(request)
            answer = pb.ModelInferResponse(model_name=model_of(context), id=asked.id)
            answer.outputs.add(name="y", datatype="INT32", shape=[1])
            answer.raw_output_contents.append(b"1234" if asked.id == "same" else model_of(context).encode() * 4)
            yield answer.SerializeToString()

    runtime.script["ModelInfer"] = infer
    name(one, compares=True)
    ready(one)
    for number, which in enumerate(("same", "other"), start=1):
        request = pb.ModelInferRequest(id=which).SerializeToString()
        made = one.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        await made(request, metadata=V, timeout=WAIT)
        await until(lambda number=number: ended(one) == number)
    assert counted(one) == ShadowCounts(S, equal=1, different=1)


async def test_compressed_answers_are_compared_by_what_they_hold(make: Make, runtime: Runtime) -> None:
    async def infer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        if model_of(context) == "s":
            context.set_compression(grpc.Compression.Gzip)
        async for request in requests:
            yield request

    runtime.script["Echo"] = infer
    one = make()
    name(one, compares=True)
    ready(one)
    assert await call(one, b"a" * 5000) == b"a" * 5000
    await until(lambda: ended(one) == 1)
    assert counted(one) == ShadowCounts(S, equal=1)


async def test_long_answers_are_not_compared(one: Instance) -> None:
    name(one, compares=True)
    ready(one)
    payload = b"x" * (1 << 20)
    assert await call(one, payload) == payload
    await until(lambda: ended(one) == 1)
    assert counted(one) == ShadowCounts(S, answered=1)


async def test_a_cold_shadow_holds_nothing_and_is_asked_to_be_loaded(one: Instance, runtime: Runtime) -> None:
    name(one)
    one.local(M)
    for _ in range(20):
        await call(one)
    await until(lambda: ended(one) == 20)
    assert counted(one) == ShadowCounts(S, cold=20)
    wanted = await one.brain.next(Wanted)
    assert (wanted.model, wanted.vmodel, wanted.fallback) == ("s", "v", None)
    assert one.brain.count(Wanted) < 20, "told once a second"
    assert one.brain.count(Missed) == 0
    assert one.plane.held() == (0, 0)
    assert set(models(runtime)) == {"m"}


async def test_a_slow_shadow_keeps_no_caller_and_what_it_holds_is_bounded(make: Make, runtime: Runtime) -> None:
    gate = asyncio.Event()

    async def slow(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            if model_of(context) == "s":
                await gate.wait()
            yield request

    runtime.script["Echo"] = slow
    one = make(shadow_bytes_max=100_000)
    name(one, compares=True)
    ready(one)
    payload = b"x" * 10_000
    for _ in range(30):
        assert await call(one, payload) == payload
    assert await call(one, b"x" * 200_000) == b"x" * 200_000
    await until(lambda: counted(one).dropped >= 20)
    assert b"modelmesh_shadow_bytes " in one.plane.metrics()
    held = int(one.plane.metrics(names=["modelmesh_shadow_bytes"]).split()[-1])
    assert 0 < held <= 100_000
    gate.set()
    await until(lambda: ended(one) == 31)
    counts = counted(one)
    assert counts.equal + counts.answered >= 4
    assert counts.equal + counts.answered + counts.dropped == 31
    await until(lambda: one.plane.metrics(names=["modelmesh_shadow_bytes"]).split()[-1] == b"0")


async def test_no_more_than_256_copies_run_at_a_time(one: Instance, runtime: Runtime) -> None:
    gate = asyncio.Event()

    async def slow(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            if model_of(context) == "s":
                await gate.wait()
            yield request

    runtime.script["Echo"] = slow
    name(one)
    ready(one)
    for _ in range(8):
        await asyncio.gather(*(call(one) for _ in range(40)))
    await until(lambda: counted(one).dropped == 320 - 256)
    gate.set()
    await until(lambda: ended(one) == 320)
    assert counted(one) == ShadowCounts(S, answered=256, dropped=64)


async def test_what_is_not_copied(one: Instance, runtime: Runtime) -> None:
    async def maybe(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            if request == b"fail":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "so it was told")
            yield request

    runtime.script["Echo"] = maybe
    name(one, split=((S, 50),), fallback=ModelId("f"))
    for model in ("m", "s", "f"):
        one.local(model)
    # Calls that name the model, that choose a version, and that fail.
    await call(one, metadata=ID)
    await call(one, metadata=(*V, ("mm-version", "stable")))
    assert (await status_of(one.unary()(b"fail", metadata=V, timeout=WAIT)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    # What the shadow itself has answered: there are as many copies as calls that m answered.
    runtime.calls.clear()
    await asyncio.gather(*(call(one) for _ in range(100)))
    by_active = models(runtime).count("m")
    assert 0 < by_active < 100
    await until(lambda: ended(one) == by_active)
    assert models(runtime).count("s") == 100
    # What the fallback has answered.
    one.plane.set_routes([(M, None), (S, None)])
    for _ in range(5):
        await call(one)
    assert models(runtime)[-5:] == ["f"] * 5
    one.local(M)
    one.local(S)
    name(one)
    await call(one)
    await until(lambda: ended(one) == by_active + 1)


async def test_streams_are_counted_and_not_copied(one: Instance, runtime: Runtime) -> None:
    name(one)
    ready(one)
    stream = one.stream()(metadata=V, timeout=WAIT)
    for message in (b"1", b"2"):
        await stream.write(message)
        assert await stream.read() == message
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    await until(lambda: ended(one) == 1)
    assert counted(one) == ShadowCounts(S, stream=1)
    assert models(runtime) == ["m"]


async def test_one_message_that_is_answered_by_many_is_compared_whole(one: Instance, runtime: Runtime) -> None:
    async def many(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            for number in range(3):
                yield request + bytes([number])

    runtime.script["Echo"] = many
    name(one, compares=True)
    ready(one)
    made = one.channel.unary_stream("/test.S/Echo")(b"x", metadata=V, timeout=WAIT)
    assert [answer async for answer in made] == [b"x\0", b"x\1", b"x\2"]
    await until(lambda: ended(one) == 1)
    assert counted(one) == ShadowCounts(S, equal=1)


async def test_a_shadow_elsewhere_gets_its_copies_there(make: Make, runtime: Runtime) -> None:
    one, two = make("i1"), make("i2")
    two.local(S)
    one.plane.set_peers([("i2", two.peer_address)])
    one.plane.set_routes([(S, Route(None, (RemoteCopy("i2", 1),)))])
    one.local(M)
    name(one, compares=True)
    assert await call(one) == b"x"
    await until(lambda: ended(one) == 1)
    assert counted(one) == ShadowCounts(S, equal=1)
    assert models(runtime) == ["m", "s"]


async def test_a_copy_that_finds_its_model_gone_is_told_and_not_repeated(make: Make, runtime: Runtime) -> None:
    one, two = make("i1"), make("i2")
    one.plane.set_peers([("i2", two.peer_address)])
    one.plane.set_routes([(S, Route(None, (RemoteCopy("i2", 1),)))])
    one.local(M)
    name(one)
    assert await call(one) == b"x"
    failed = await one.brain.next(AttemptFailed)
    assert (failed.model, failed.instance, failed.replayable) == ("s", "i2", False)
    await until(lambda: ended(one) == 1)
    assert counted(one) == ShadowCounts(S, failed=1)


async def test_a_copy_of_the_model_leaves_after_the_copies_of_calls_there(one: Instance, runtime: Runtime) -> None:
    gate, began = asyncio.Event(), asyncio.Event()

    async def slow(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            if model_of(context) == "s":
                began.set()
                await gate.wait()
            yield request

    runtime.script["Echo"] = slow
    name(one)
    ready(one)
    await call(one)
    await began.wait()
    one.local(S, ready=False)
    assert not one.plane.is_idle(S, 1)
    gate.set()
    assert (await one.brain.next(CopyIdle)).model == "s"
    assert counted(one) == ShadowCounts(S, answered=1)


async def test_a_stopped_instance_does_not_wait_for_copies(make: Make, runtime: Runtime) -> None:
    began = asyncio.Event()

    async def stuck(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            if model_of(context) == "s":
                began.set()
                await asyncio.Event().wait()
            yield request

    runtime.script["Echo"] = stuck
    one = make()
    name(one)
    ready(one)
    await call(one)
    await began.wait()
    await until(lambda: not one.plane.busy())


@pytest.fixture
async def rest(make: Make, runtime: Runtime) -> AsyncIterator[Rest]:
    runtime.script["ModelInfer"] = mirror
    client = Rest(make(rest="127.0.0.1:0"))
    yield client
    await client.session.close()


async def test_by_rest(rest: Rest) -> None:
    one = rest.instance
    name(one, compares=True)
    ready(one)
    for number in (1, 2, 3):
        status, _, _ = await rest.ask("POST", "/v2/models/v/infer", json={"inputs": [X]})
        assert status == 200
        await until(lambda number=number: ended(one) == number)
    assert counted(one) == ShadowCounts(S, equal=3)
