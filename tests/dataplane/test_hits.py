"""Requests for models that are ready here: nothing of them reaches Python."""

import asyncio
import ctypes
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import CopyIdle, LocalCopy, Naming, Route, Rules
from modelmesh.values.ids import ModelId


async def test_unary_and_headers(one: Instance, runtime: Runtime) -> None:
    one.local("modèle 1")
    metadata = (("mm-model-id-bin", "modèle 1".encode()), ("x-user", "u"), ("mm-balanced", "true"), ("mm-hop", "hit"))
    assert await one.unary()(b"hello", metadata=metadata, timeout=WAIT) == b"hello"
    method, received = runtime.calls[-1]
    assert method == "test.S/Echo"
    assert received["mm-model-id-bin"] == "modèle 1".encode()
    assert received["x-user"] == "u"
    assert not {"mm-balanced", "mm-hop", "mm-model-id"} & received.keys()
    one.local("m")
    await one.unary()(b"", metadata=ID)
    assert runtime.metadata()["mm-model-id"] == "m"
    assert one.brain.events == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ((), "must include mm-model-id header"),
        ((("mm-model-id", ""),), "provided model-id header must be non-empty"),
        ((("mm-vmodel-id", ""),), "provided vmodel-id header must be non-empty"),
        ((("mm-model-id", "a"), ("mm-vmodel-id", "b")), "must include only one of model id and vmodel id"),
    ],
)
async def test_ids_that_are_refused(one: Instance, metadata: tuple[tuple[str, str], ...], message: str) -> None:
    assert await status_of(one.unary()(b"", metadata=metadata)) == (grpc.StatusCode.INVALID_ARGUMENT, message)


async def test_vmodel_stands_for_a_model(one: Instance, runtime: Runtime) -> None:
    one.local("m1")
    one.local("m2")
    one.plane.set_vmodels([("v", Naming("m1"))])
    await one.unary()(b"", metadata=(("mm-vmodel-id", "v"),))
    assert runtime.metadata()["mm-model-id"] == "m1"
    one.plane.set_vmodels([("v", Naming("m2"))])
    await one.unary()(b"", metadata=(("mm-vmodel-id", "v"),))
    assert runtime.metadata()["mm-model-id"] == "m2"
    assert "mm-vmodel-id" not in runtime.metadata()


async def test_a_client_with_a_key_always_gets_the_same_model_of_a_split_vmodel(
    one: Instance, runtime: Runtime
) -> None:
    one.local("m1")
    one.local("m2")
    one.plane.set_vmodels([("v", Naming("m1", (("m2", 50),)))])
    answered = {}
    for _ in range(3):
        for user in range(20):
            await one.unary()(b"", metadata=(("mm-vmodel-id", "v"), ("mm-split-key", f"user-{user}")))
            model = runtime.metadata()["mm-model-id"]
            assert answered.setdefault(user, model) == model
    assert set(answered.values()) == {"m1", "m2"}
    assert "mm-split-key" not in runtime.metadata()


async def test_a_call_chooses_a_version_of_a_vmodel(one: Instance, runtime: Runtime) -> None:
    for model in ("a", "b", "c", "d"):
        one.local(model)
    labels = (("test", ModelId("d")),)
    one.plane.set_vmodels(
        [("v", Naming("a", target="b", labels=labels, kept=("c",))), ("plain", Naming("a")), ("gone", Naming("x"))]
    )
    for vmodel, version, model in [
        ("v", "stable", "a"),
        ("v", "latest", "b"),
        ("v", "test", "d"),
        ("v", "c", "c"),
        ("plain", "latest", "a"),
        ("plain", "a", "a"),
    ]:
        await one.unary()(b"", metadata=(("mm-vmodel-id", vmodel), ("mm-version", version)))
        assert runtime.metadata()["mm-model-id"] == model, version
    assert "mm-version" not in runtime.metadata()
    for vmodel in ("v", "plain"):
        call = one.unary()(b"", metadata=(("mm-vmodel-id", vmodel), ("mm-version", "none")))
        assert await status_of(call) == (grpc.StatusCode.NOT_FOUND, f"vmodel {vmodel} has no version none")
    await one.unary()(b"", metadata=(("mm-model-id", "a"), ("mm-version", "none")))
    assert runtime.metadata()["mm-model-id"] == "a", "models have no versions here"


async def test_every_shape_of_stream(one: Instance, runtime: Runtime) -> None:
    one.local()
    path = "/test.S/Echo"
    parts = [b"a", b"", b"c" * 100_000]
    assert [part async for part in one.channel.unary_stream(path)(b"x", metadata=ID)] == [b"x"]

    async def joined(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b"".join([request async for request in requests])

    runtime.script["Join"] = joined
    assert await one.channel.stream_unary("/test.S/Join")(iter(parts), metadata=ID) == b"".join(parts)
    call = one.channel.stream_stream(path)(metadata=ID)
    for part in parts:
        await call.write(part)
        assert await call.read() == part
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_headers_of_the_answer_come_before_its_first_message(one: Instance, runtime: Runtime) -> None:
    one.local()
    go = asyncio.Event()

    async def greet(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("x-early", "1"), ("mm-secret", "2")))
        await go.wait()
        yield b"late"
        context.set_trailing_metadata((("x-late-bin", b"\x00\xff"), ("mm-refused", "moved")))

    runtime.script["Greet"] = greet
    call = one.channel.unary_stream("/test.S/Greet")(b"", metadata=ID)
    async with asyncio.timeout(WAIT):
        early = dict(await call.initial_metadata())
    assert early["x-early"] == "1"
    assert "mm-secret" not in early
    go.set()
    assert await call.read() == b"late"
    trailers = dict(await call.trailing_metadata())
    assert trailers["x-late-bin"] == b"\x00\xff"
    assert "mm-refused" not in trailers


async def test_errors_of_the_runtime_pass_whole(one: Instance, runtime: Runtime) -> None:
    one.local()

    async def fail(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        details = (("grpc-status-details-bin", b"\x08\x09\xff"), ("x-more", "1"))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "größer als 100 %\n", details)
        yield b""

    runtime.script["Fail"] = fail
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await one.unary("Fail")(b"", metadata=ID)
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == "größer als 100 %\n"
    trailers = dict(raised.value.trailing_metadata())
    assert trailers["grpc-status-details-bin"] == b"\x08\x09\xff"
    assert trailers["x-more"] == "1"


async def test_cancel_and_deadline_reach_the_runtime(one: Instance, runtime: Runtime) -> None:
    one.local()
    ended: asyncio.Queue[float | None] = asyncio.Queue()

    async def hang(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        left = context.time_remaining()
        try:
            await asyncio.Event().wait()
        finally:
            ended.put_nowait(left)
        yield b""

    runtime.script["Hang"] = hang
    call = one.unary("Hang")(b"", metadata=ID)
    await asyncio.wait_for(runtime.called.wait(), WAIT)
    call.cancel()
    async with asyncio.timeout(WAIT):
        assert await ended.get() is None
    code, _ = await status_of(one.unary("Hang")(b"", metadata=ID, timeout=0.3))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(WAIT):
        left = await ended.get()
    assert left is not None
    assert 0 < left < 0.31  # gRPC libraries round up
    await until(lambda: not one.plane.busy())


async def test_large_messages(one: Instance) -> None:
    one.local()
    most = 16 << 20
    body = bytes(most)
    assert len(await one.unary()(body, metadata=ID)) == most
    code, message = await status_of(one.unary()(body + b"x", metadata=ID))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert message == f"Received message larger than max ({most + 1} vs. {most})"


async def test_too_large_answers(one: Instance, runtime: Runtime) -> None:
    one.local()

    async def flood(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield bytes((16 << 20) + 1)

    runtime.script["Flood"] = flood
    code, _ = await status_of(one.unary("Flood")(b"", metadata=ID))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    await until(lambda: not one.plane.busy())


async def test_streamed_bodies_of_20_mb(one: Instance) -> None:
    one.local()
    call = one.stream()(metadata=ID)
    part = bytes(range(256)) * 4096

    async def write() -> None:
        for _ in range(20):
            await call.write(part)
        await call.done_writing()

    writing = asyncio.create_task(write())
    async with asyncio.timeout(30):
        received = [message async for message in call]
    await writing
    assert received == [part] * 20


async def test_early_answer_to_an_open_upload(one: Instance, runtime: Runtime) -> None:
    one.local()

    async def hasty(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await anext(aiter(requests))
        yield b"enough"

    runtime.script["Hasty"] = hasty
    call = one.stream("Hasty")(metadata=ID)
    await call.write(b"first")
    async with asyncio.timeout(WAIT):
        assert await call.read() == b"enough"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK
    await until(lambda: not one.plane.busy())


async def test_a_reader_that_stops_stops_the_writer(one: Instance, runtime: Runtime) -> None:
    one.local()
    sent = 0

    async def pour(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            yield bytes(1 << 20)
            sent += 1

    runtime.script["Pour"] = pour
    call = one.channel.unary_stream("/test.S/Pour")(b"", metadata=ID)
    assert await call.read() is not None
    # What fits: windows and buffers of both connections. Then the runtime waits.
    before = -1
    async with asyncio.timeout(WAIT):
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
    assert sent < 64
    call.cancel()
    await until(lambda: not one.plane.busy())


async def test_methods_that_are_not_permitted(one: Instance, runtime: Runtime) -> None:
    one.local()
    one.plane.set_rules(Rules(serving_services=(), peer_services=(), allow_others=False))
    code, message = await status_of(one.unary()(b"", metadata=ID))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert message == "test.S/Echo: UNIMPLEMENTED: Method not found or not permitted: test.S/Echo"
    one.plane.set_rules(Rules(serving_services=(), peer_services=()))
    load = one.channel.unary_unary("/mmesh.ModelRuntime/loadModel")
    assert (await status_of(load(b"", metadata=ID)))[0] == grpc.StatusCode.UNIMPLEMENTED
    assert runtime.calls == []


NEIGHBOUR = """
import sys, time, grpc
from concurrent.futures import ThreadPoolExecutor

class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

server = grpc.server(ThreadPoolExecutor(2), handlers=[Echo()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
call = grpc.insecure_channel(sys.stdin.readline().strip()).unary_unary("/test.S/Echo")
calls, worst, end = 0, 0.0, time.monotonic() + 1.2
while time.monotonic() < end:
    begin = time.monotonic()
    assert call(b"x", metadata=(("mm-model-id", "m"),), timeout=5, wait_for_ready=True) == b"x"
    calls, worst = calls + 1, max(worst, time.monotonic() - begin)
print(calls, worst, flush=True)
"""


async def test_a_busy_python_does_not_touch_hits(make: Callable[..., Instance]) -> None:
    """The interpreter is held for 2 s here; client and runtime live in another process."""
    neighbour = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NEIGHBOUR, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert neighbour.stdin is not None
    assert neighbour.stdout is not None
    port = int(await asyncio.wait_for(neighbour.stdout.readline(), WAIT))
    one = make(runtime=f"127.0.0.1:{port}")
    one.local()
    neighbour.stdin.write(f"127.0.0.1:{one.plane.serving_port}\n".encode())
    await neighbour.stdin.drain()
    ctypes.PyDLL(None).usleep(2_000_000)
    calls, worst = (await asyncio.wait_for(neighbour.stdout.readline(), WAIT)).split()
    await neighbour.wait()
    assert int(calls) > 100
    assert float(worst) < 0.5


async def test_usage_counts_what_ran(one: Instance) -> None:
    one.local("a")
    one.local("b")
    before_ms = int(time.time() * 1000)
    for _ in range(3):
        await one.unary()(b"", metadata=(("mm-model-id", "a"),))
    await until(lambda: not one.plane.busy())
    (used,) = one.plane.usage()
    assert (used.model, used.requests, used.in_flight, used.waiting) == ("a", 3, 0, 0)
    assert used.last_use_ms >= before_ms - 50
    assert used.service_us > 0
    assert list(one.plane.usage()) == []


async def test_a_copy_made_not_ready_is_idle_when_its_last_request_ends(one: Instance, runtime: Runtime) -> None:
    one.local()
    call = one.stream()(metadata=ID)
    await call.write(b"1")
    assert await call.read() == b"1"
    one.local(ready=False)
    await call.write(b"2")
    assert await call.read() == b"2"
    assert one.brain.count(CopyIdle) == 0
    await call.done_writing()
    assert await one.brain.next(CopyIdle) == CopyIdle("m", 1)
    one.local("n")
    one.local("n", ready=False)
    assert await one.brain.next(CopyIdle) == CopyIdle("n", 1)


async def test_the_gate_lets_as_many_run_as_it_should(one: Instance, runtime: Runtime) -> None:
    running = most = 0

    async def slow(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        yield b""

    runtime.script["Slow"] = slow
    one.plane.set_routes([("m", Route(LocalCopy(1, ready=True, max_concurrency=2, max_waiting=0)))])
    await asyncio.gather(*(one.unary("Slow")(b"", metadata=ID) for _ in range(20)))
    assert most == 2


async def test_metrics(one: Instance) -> None:
    one.local()
    await one.unary()(b"", metadata=ID)
    await until(lambda: not one.plane.busy())
    text = one.plane.metrics().decode()
    assert 'modelmesh_api_request_milliseconds_count{method="Echo",code="OK"} 1' in text
    assert 'modelmesh_invoke_model_milliseconds_count{method="Echo",code="OK"} 1' in text
    assert "modelmesh_connections 1" in text
    assert all(age < 2000 for age in one.plane.thread_ages_ms())
