"""What the core notes down of calls: payloads, log lines, spans; bounded, and never at the cost of a call."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from scripted import ID, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import (
    Fail,
    Logged,
    Missed,
    Naming,
    Observing,
    Resolution,
    Serve,
    Span,
    Tap,
    Tapped,
    Traced,
)
from modelmesh.values.status import Status

Make = Callable[..., Instance]

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01")


def taps(*rules: Tap, **more: object) -> Observing:
    return Observing(taps=rules, tap_secrets=frozenset({"authorization"}), **more)  # type: ignore[arg-type]


# --- payloads ---


async def test_a_wanted_call_is_told_whole(one: Instance) -> None:
    one.local()
    one.plane.observe(taps(Tap()))
    metadata = (*ID, ("authorization", "secret"), ("x-user", "u"), ("x-bin", b"\x00\x01"))
    large = bytes(range(256)) * 4096
    await one.unary()(large, metadata=metadata)
    tapped = await one.brain.next(Tapped)
    assert (tapped.model, tapped.vmodel, tapped.method, tapped.status) == ("m", None, "test.S/Echo", Status.OK)
    assert tapped.request == tapped.response == ((False, large),)
    headers = dict(tapped.request_headers)
    assert (headers["x-user"], headers["mm-model-id"], headers["x-bin"]) == (b"u", b"m", b"AAE")
    assert "authorization" not in headers
    assert len(tapped.id) == 32
    assert tapped.duration_us > 0
    await one.unary()(b"again", metadata=ID)
    assert (await one.brain.next(Tapped)).id != tapped.id
    assert "modelmesh_tapped_bytes 0" in one.plane.metrics().decode()


async def test_streams_failures_and_compressed_calls_are_told_as_they_came(one: Instance, runtime: Runtime) -> None:
    async def fail(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for _ in requests:
            break
        await context.abort(grpc.StatusCode.INTERNAL, "broken")
        yield b""

    runtime.script["Fail"] = fail
    one.local()
    one.plane.observe(taps(Tap()))
    call = one.stream()(metadata=ID)
    for part in (b"a", b"bb"):
        await call.write(part)
        assert await call.read() == part
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert (await one.brain.next(Tapped)).response == ((False, b"a"), (False, b"bb"))
    await status_of(one.unary("Fail")(b"ask", metadata=ID))
    failed = await one.brain.next(Tapped)
    assert (failed.status, failed.request, failed.response) == (Status.INTERNAL, ((False, b"ask"),), ())
    await one.unary()(b"x" * 1000, metadata=ID, compression=grpc.Compression.Gzip)
    zipped = await one.brain.next(Tapped)
    assert zipped.request_encoding == "gzip"
    assert zipped.request[0][0]
    assert len(zipped.request[0][1]) < 100


async def test_taps_choose_by_method_model_and_vmodel(one: Instance) -> None:
    one.local("m")
    one.local("n")
    one.plane.set_vmodels([("v", Naming("m"))])
    one.plane.observe(
        taps(
            Tap(method="Echo"),
            Tap(method="test.S/Other"),
            Tap(model="m"),  # type: ignore[arg-type]
            Tap(vmodel="v"),  # type: ignore[arg-type]
            Tap(model="m", vmodel="w"),  # type: ignore[arg-type]
        )
    )

    async def bits(method: str, *metadata: tuple[str, str]) -> int:
        await one.unary(method)(b"", metadata=metadata)
        return (await one.brain.next(Tapped)).taps

    assert await bits("Echo", ("mm-model-id", "m")) == 0b00101
    assert await bits("Other", ("mm-model-id", "n")) == 0b00010
    assert await bits("Third", ("mm-vmodel-id", "v")) == 0b01100
    assert await bits("Echo", ("mm-model-id", "m"), ("mm-model-id", "n")) == 0b00001, "several ids have no model"
    await one.unary("Third")(b"", metadata=(("mm-model-id", "n"),))
    await one.unary("Echo")(b"", metadata=(("mm-model-id", "n"),))
    assert (await one.brain.next(Tapped)).method == "test.S/Echo", "nobody wants the third method of n"


async def test_a_sampled_share_is_told(one: Instance) -> None:
    one.local()
    one.plane.observe(taps(Tap(fraction=0.2), Tap(fraction=0.4)))
    await asyncio.gather(*(one.unary()(b"", metadata=ID) for _ in range(500)))
    await until(lambda: not one.plane.busy())
    one.plane.deliver()
    tapped = [event for event in one.brain.events if isinstance(event, Tapped)]
    assert 130 <= len(tapped) <= 270, "7 sigma around 200"
    assert {event.taps for event in tapped} == {0b10, 0b11}, "what the smaller tap gets the larger one gets"


async def test_only_named_headers_go_along(one: Instance) -> None:
    one.local()
    one.plane.observe(Observing(taps=(Tap(),), tap_headers=frozenset({"x-user"})))
    await one.unary()(b"", metadata=(*ID, ("x-user", "u"), ("x-other", "o")))
    assert (await one.brain.next(Tapped)).request_headers == (("x-user", b"u"),)


async def test_payloads_beyond_the_bound_are_dropped_and_counted_and_the_call_is_whole(make: Make) -> None:
    one = make(tapped_bytes_max=1000)
    one.local()
    one.plane.observe(taps(Tap()))
    assert len(await one.unary()(bytes(800), metadata=ID)) == 800, "request and answer together are too much"
    assert len(await one.unary()(bytes(100_000), metadata=ID)) == 100_000
    assert await one.unary()(bytes(100), metadata=ID) == bytes(100)
    assert (await one.brain.next(Tapped)).size_bytes == 200
    text = one.plane.metrics().decode()
    assert "modelmesh_tapped_calls_total 1" in text
    assert "modelmesh_tapped_calls_dropped_total 2" in text
    assert "modelmesh_tapped_bytes 0" in text


async def test_when_python_is_behind_payloads_go_and_misses_stay(make: Make) -> None:
    one = make(events_max=8)
    one.local()
    one.plane.observe(taps(Tap()))
    loop = asyncio.get_running_loop()
    descriptor = one.plane._core.event_fd
    loop.remove_reader(descriptor)
    for _ in range(20):
        await one.unary()(b"", metadata=ID)
    missed = asyncio.ensure_future(status_of(one.unary()(b"", metadata=(("mm-model-id", "cold"),))))
    await until(lambda: one.plane.held() != (0, 0))
    one.brain.decide = lambda event: Fail(Status.NOT_FOUND, "no") if isinstance(event, Missed) else None
    loop.add_reader(descriptor, one.plane._deliver)
    assert (await missed)[0] is grpc.StatusCode.NOT_FOUND
    await one.brain.next(Tapped)
    await until(lambda: one.brain.count(Tapped) == 3)  # two that fitted, and the miss itself
    assert "modelmesh_core_events_dropped_total" in one.plane.metrics().decode()


async def test_more_taps_than_there_are_bits_are_refused(one: Instance) -> None:
    with pytest.raises(ValueError, match="65 taps"):
        one.plane.observe(taps(*[Tap()] * 65))


# --- log lines ---


async def test_failed_calls_are_told_with_their_reason(one: Instance) -> None:
    one.local()
    one.plane.observe(Observing(log_failed=True, log_headers=("x-user", "x-bin")))
    one.brain.decide = lambda event: Fail(Status.NOT_FOUND, "model not found") if isinstance(event, Missed) else None
    await one.unary()(b"", metadata=ID)
    metadata = (("mm-model-id", "cold"), ("x-user", "u"), ("x-request-id", "r1"))
    await status_of(one.unary()(b"abc", metadata=metadata))
    logged = await one.brain.next(Logged)
    assert (logged.id, logged.model, logged.method) == ("r1", "cold", "test.S/Echo")
    assert (logged.status, logged.message, logged.attempts) == (Status.NOT_FOUND, "model not found", 0)
    assert (logged.invocation, logged.headers, logged.request_bytes) == (False, (("x-user", b"u"),), 3)
    assert one.brain.count(Logged) == 1, "what went well is not told"


async def test_all_calls_and_invocations_are_told_where_they_happen(make: Make) -> None:
    near, far = make("near"), make("far")
    far.local()
    near.remote(far)
    near.plane.observe(Observing(log_all=True))
    far.plane.observe(Observing(log_invocations=True, log_all=True))
    await near.unary()(b"abc", metadata=ID)
    ended, invoked = await near.brain.next(Logged), await far.brain.next(Logged)
    assert (ended.invocation, ended.status, ended.attempts, ended.response_bytes) == (False, Status.OK, 1, 3)
    assert (invoked.invocation, invoked.method) == (True, "test.S/Echo")
    assert far.brain.count(Logged) == 1, "the ingress tells how it ended"


# --- spans ---


def stages(traced: Traced) -> list[str]:
    return [span.stage for span in traced.spans]


def the(traced: Traced, stage: str) -> Span:
    (span,) = [span for span in traced.spans if span.stage == stage]
    return span


async def test_a_trace_goes_on_through_instances_to_the_runtime(make: Make, runtime: Runtime) -> None:
    near, far = make("near"), make("far")
    far.local(max_concurrency=1)
    near.remote(far)
    for one in (near, far):
        one.plane.observe(Observing(traced=0.0))
    await near.unary()(b"", metadata=(*ID, TRACEPARENT))
    here, there = await near.brain.next(Traced), await far.brain.next(Traced)
    assert here.trace == there.trace == int(TRACE, 16)
    assert stages(here) == ["hop", "call"]
    assert stages(there) == ["queue", "infer", "call"]
    call, hop = the(here, "call"), the(here, "hop")
    assert (call.parent, hop.parent, hop.detail) == (int(SPAN, 16), call.id, "far")
    assert the(there, "call").parent == hop.id
    infer = the(there, "infer")
    assert runtime.metadata()["traceparent"] == f"00-{TRACE}-{infer.id:016x}-01"
    assert call.start_ns <= hop.start_ns <= infer.start_ns <= infer.end_ns <= call.end_ns
    assert (infer.status, hop.status) == (Status.OK, Status.OK)


async def test_a_hold_is_a_span(one: Instance) -> None:
    one.plane.observe(Observing(traced=1.0))

    def decide(event: object) -> Resolution | None:
        if not isinstance(event, Missed):
            return None
        one.local()
        return Serve()

    one.brain.decide = decide
    await one.unary()(b"", metadata=ID)
    traced = await one.brain.next(Traced)
    assert stages(traced) == ["hold", "infer", "call"]
    assert (the(traced, "hold").detail, the(traced, "call").parent) == ("served", 0)


async def test_without_tracing_the_header_passes_as_any_other(one: Instance, runtime: Runtime) -> None:
    one.local()
    await one.unary()(b"", metadata=(*ID, TRACEPARENT))
    assert runtime.metadata()["traceparent"] == TRACEPARENT[1]
    one.plane.observe(Observing(traced=1.0))
    unsampled = ("traceparent", TRACEPARENT[1].removesuffix("01") + "00")
    await one.unary()(b"", metadata=(*ID, unsampled))
    assert runtime.metadata()["traceparent"] == unsampled[1]
    assert one.brain.events == []
