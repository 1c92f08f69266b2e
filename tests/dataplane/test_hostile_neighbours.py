"""Runtimes and instances that answer what nobody could mean: calls end, nothing hangs, nobody else is hurt."""

import asyncio
import re
from collections.abc import Callable

import grpc
import h2.events
import h2.settings
import pytest
from channels import saying
from frames import HEADERS, OK, Client, Connection, ForgedServer, at_the_end
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import (
    AttemptFailed,
    Fail,
    LinkLost,
    Missed,
    Outcome,
    PeerAddress,
    RemoteCopy,
    ReturnAnswer,
    Route,
)
from modelmesh.values.status import Status

Make = Callable[..., Instance]
UNKNOWN = grpc.StatusCode.UNKNOWN


def forger(make: Make, forged: ForgedServer, answer: Callable[[Connection, int], None]) -> Instance:
    """An instance whose runtime is forged, and that gives every failed attempt's answer to its client."""
    forged.script = at_the_end(answer)
    one = make(runtime=forged.address, max_message_bytes=1 << 20)
    one.local()
    one.brain.decide = lambda event: ReturnAnswer() if isinstance(event, AttemptFailed) else None
    return one


GARBAGE = {
    "noise": b"\xff\x00garbage" * 100,
    "HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "nothing": b"",
}


@pytest.mark.parametrize("hangs_up", [True, False])
@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_neighbour_that_speaks_no_http2(make: Make, answer: bytes, *, hangs_up: bool) -> None:
    """As a runtime and as an instance: its link is lost, and the call is for Python to decide."""
    with saying(answer, hangs_up=hangs_up) as address:
        one = make(runtime=address)
        one.plane.set_peers([("far", PeerAddress(address))])
        one.local("here")
        one.plane.set_routes([("there", Route(None, (RemoteCopy("far", 1),)))])
        # A link that is known to be lost makes a miss of the call.
        enough = Fail(Status.ABORTED, "enough")
        one.brain.decide = lambda event: enough if isinstance(event, AttemptFailed | Missed) else None
        for model in ("here", "there"):
            call = one.unary()(b"x", metadata=(("mm-model-id", model),))
            assert await status_of(call) == (grpc.StatusCode.ABORTED, "enough")
        await until(
            lambda: {event.instance for event in one.brain.events if isinstance(event, LinkLost)} == {"i1", "far"}
        )


async def test_an_answer_shorter_than_it_says(make: Make, forged: ForgedServer) -> None:
    one = forger(make, forged, lambda connection, stream: connection.answer(stream, b"\0\0\0\0\x64abc"))
    said = (grpc.StatusCode.INTERNAL, "the answer ended inside a message")
    assert await status_of(one.unary()(b"", metadata=ID)) == said
    await until(lambda: not one.plane.busy())


async def test_an_answer_of_four_gigabytes(make: Make, forged: ForgedServer) -> None:
    one = forger(make, forged, lambda connection, stream: connection.answer(stream, b"\0\xff\xff\xff\xffabc"))
    said = f"Received message larger than max ({2**32 - 1} vs. {1 << 20})"
    assert await status_of(one.unary()(b"", metadata=ID)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, said)


@pytest.mark.parametrize(
    ("trailers", "code", "message"),
    [
        (((b"grpc-status", b"99"),), UNKNOWN, ""),
        (((b"grpc-status", b"ok"),), grpc.StatusCode.INTERNAL, None),  # passed on; the client's library judges
        (((b"grpc-status", b""),), grpc.StatusCode.INTERNAL, None),
        (((b"x-other", b"1"),), UNKNOWN, "the answer ended without a gRPC status"),
        (((b"grpc-status", b"10"), (b"grpc-message", b"50%zz%")), grpc.StatusCode.ABORTED, None),
        (((b"grpc-status", b"10"), (b"grpc-message", b"\xff\xfe")), grpc.StatusCode.ABORTED, None),
        (((b"grpc-status", b"10"), (b"x-why-bin", b"!!not base64")), grpc.StatusCode.INTERNAL, None),
        (((b"grpc-status", b"10"), (b"mm-refused", b"moved")), grpc.StatusCode.ABORTED, ""),
    ],
)
async def test_trailers_of_bad_bytes(
    make: Make,
    forged: ForgedServer,
    trailers: tuple[tuple[bytes, bytes], ...],
    code: grpc.StatusCode,
    message: str | None,
) -> None:
    def answer(connection: Connection, stream: int) -> None:
        connection.h2.send_headers(stream, HEADERS)
        connection.h2.send_headers(stream, trailers, end_stream=True)

    one = forger(make, forged, answer)
    told, text = await status_of(one.unary()(b"", metadata=ID))
    assert told == code
    assert message is None or text == message
    await until(lambda: not one.plane.busy())
    assert one.brain.count(AttemptFailed) == 0


@pytest.mark.parametrize("kind", ["", "text/html", "application/json"])
async def test_an_answer_of_another_kind(make: Make, forged: ForgedServer, kind: str) -> None:
    def answer(connection: Connection, stream: int) -> None:
        headers = ((":status", "200"), ("content-type", kind)) if kind else ((":status", "200"),)
        connection.h2.send_headers(stream, headers)
        connection.h2.send_data(stream, b"<html>", end_stream=True)

    one = forger(make, forged, answer)
    assert await status_of(one.unary()(b"", metadata=ID)) == (UNKNOWN, "the answer is not gRPC: HTTP status 200")


async def test_answer_headers_beyond_every_bound(make: Make, forged: ForgedServer) -> None:
    def answer(connection: Connection, stream: int) -> None:
        connection.h2.remote_settings = h2.settings.Settings(client=True)
        connection.h2.send_headers(stream, (*HEADERS, *(("x-bomb", "b" * 4000) for _ in range(1000))))
        connection.h2.send_headers(stream, OK, end_stream=True)

    one = forger(make, forged, answer)
    assert (await status_of(one.unary()(b"", metadata=ID)))[0] == grpc.StatusCode.UNAVAILABLE
    await until(lambda: not one.plane.busy())


async def test_a_call_with_more_headers_than_the_runtime_takes(make: Make, forged: ForgedServer) -> None:
    """Runtimes on Netty end the connection over it, and with that everybody's calls."""
    forged.settings = {h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 8192}
    one = make(runtime=forged.address)
    one.local()
    code, said = await status_of(one.unary()(b"", metadata=(*ID, ("x-large", "x" * 8200))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert re.fullmatch(r"a header list of 8\d\d\d bytes, and the other side takes 8192", said)
    assert await one.unary()(b"", metadata=(*ID, ("x-large", "x" * 7000))) == b""
    assert (forged.requests(), len(forged.connections)) == (1, 1)
    assert one.brain.events == []


async def test_endless_resets_of_a_runtime(make: Make, forged: ForgedServer) -> None:
    """It takes every call and cancels it; each is Python's to decide, and the link lives on."""
    one = forger(make, forged, lambda connection, stream: connection.h2.reset_stream(stream, 8))
    for _ in range(300):
        assert (await status_of(one.unary()(b"", metadata=ID)))[0] == grpc.StatusCode.UNAVAILABLE
    assert one.brain.count(AttemptFailed) == 300
    assert len(forged.connections) == 1
    await until(lambda: not one.plane.busy())


@pytest.mark.parametrize("reason", [0, 1, 2, 3, 6, 11, 12, 13])
async def test_a_reset_is_the_answer_that_grpc_says_it_is(make: Make, forged: ForgedServer, reason: int) -> None:
    """The runtime is there and wants no more of this call: another copy would do the same."""
    code = {11: grpc.StatusCode.RESOURCE_EXHAUSTED, 12: grpc.StatusCode.PERMISSION_DENIED}.get(
        reason, grpc.StatusCode.INTERNAL
    )
    one = forger(make, forged, lambda connection, stream: connection.h2.reset_stream(stream, reason))
    found, said = await status_of(one.unary()(b"", metadata=ID))
    assert found is code
    assert said.startswith("the runtime reset the call: ")
    failed = [event.outcome for event in one.brain.events if isinstance(event, AttemptFailed)]
    assert failed == ([Outcome.EXHAUSTED] if reason == 11 else [])


async def test_a_reset_in_the_middle_of_an_answer(make: Make, forged: ForgedServer) -> None:
    def answer(connection: Connection, stream: int) -> None:
        connection.h2.send_headers(stream, HEADERS)
        connection.h2.send_data(stream, b"\0\0\0\0\1x")
        connection.h2.reset_stream(stream, 2)

    one = forger(make, forged, answer)
    call = one.channel.unary_stream("/test.S/Many")(b"", metadata=ID)
    assert await call.read() == b"x"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.INTERNAL,
        "the runtime reset the call: INTERNAL_ERROR",
    )


async def test_a_runtime_that_keeps_the_deadline_by_itself(make: Make, forged: ForgedServer) -> None:
    """Those on Netty cancel the call, and may be a little earlier than we are: nothing failed that could be repeated."""
    loop = asyncio.get_running_loop()

    def cancel(connection: Connection, stream: int) -> None:
        connection.h2.reset_stream(stream, 8)
        connection.flush()

    one = forger(make, forged, lambda connection, stream: loop.call_later(0.195, cancel, connection, stream))
    client = await Client.connect(one.plane.serving_port)
    answer = await client.answer(client.request(("grpc-timeout", "200m")))
    assert answer["grpc-status"] == "4"
    assert one.brain.events == []
    client.writer.close()


@pytest.mark.parametrize("refused", ["nonsense", "moved", ""])
@pytest.mark.parametrize("view", ["-1", "many", "99999999999999999999999"])
async def test_a_peer_that_refuses_in_no_language_of_ours(
    make: Make, forged: ForgedServer, refused: str, view: str
) -> None:
    trailers = (*HEADERS, ("grpc-status", "14"), ("mm-refused", refused), ("mm-view", view))
    forged.script = at_the_end(lambda connection, stream: connection.h2.send_headers(stream, trailers, end_stream=True))
    one = make()
    one.plane.set_peers([("far", PeerAddress(forged.address))])
    one.plane.set_routes([("m", Route(None, (RemoteCopy("far", 1),)))])
    one.brain.decide = lambda event: Fail(Status.ABORTED, "enough") if isinstance(event, AttemptFailed) else None
    assert await status_of(one.unary()(b"x", metadata=ID)) == (grpc.StatusCode.ABORTED, "enough")
    failed = await one.brain.next(AttemptFailed)
    assert failed.outcome is (Outcome.MOVED if refused == "moved" else Outcome.NOT_HERE)
    assert failed.view is None


async def test_a_runtime_that_takes_calls_and_never_answers(make: Make, forged: ForgedServer) -> None:
    forged.script = lambda connection, event: None
    one = make(runtime=forged.address)
    one.local()
    code, _ = await status_of(one.unary()(b"", metadata=ID, timeout=0.2))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    calls = [one.unary()(b"", metadata=ID) for _ in range(50)]
    await until(lambda: forged.requests() == 51)
    for call in calls:
        call.cancel()
    await until(lambda: not one.plane.busy())
    await until(lambda: sum(isinstance(event, h2.events.StreamReset) for event in forged.seen) == 51)


async def test_a_runtime_that_pushes(make: Make, forged: ForgedServer, runtime: Runtime) -> None:
    """Server push is switched off; who does it all the same loses the connection."""

    def answer(connection: Connection, stream: int) -> None:
        block = connection.h2.encoder.encode([(":method", "GET"), (":path", "/"), (":scheme", "http")])
        promise = (2).to_bytes(4, "big") + block
        header = len(promise).to_bytes(3, "big") + b"\x05\x04" + stream.to_bytes(4, "big")
        connection.flush()
        connection.transport.write(header + promise)

    one = forger(make, forged, answer)
    assert (await status_of(one.unary()(b"", metadata=ID, timeout=WAIT)))[0] == grpc.StatusCode.UNAVAILABLE
