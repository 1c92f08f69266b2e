"""Calls of the control plane, against servers that say what no library would."""

import asyncio
import re
from collections.abc import Callable

import h2.errors
import h2.events
import pytest
from channels import fails, opened, saying, target
from frames import HEADERS, Connection, ForgedServer, at_the_end
from scripted import until

from modelmesh.adapters import channel as module
from modelmesh.adapters.channel import ClientTls, KeepAlive
from modelmesh.values.status import Status


def _headers(connection: Connection, stream: int, *headers: tuple[str, str], end: bool = True) -> None:
    connection.h2.send_headers(stream, headers, end_stream=end)


def _half_a_message(connection: Connection, stream: int) -> None:
    connection.h2.send_headers(stream, HEADERS)
    connection.h2.send_data(stream, b"\0\0\0\0\x09half")
    connection.h2.send_headers(stream, (("grpc-status", "0"),), end_stream=True)


def _no_trailers(connection: Connection, stream: int) -> None:
    connection.h2.send_headers(stream, HEADERS)
    connection.h2.send_data(stream, b"\0\0\0\0\0", end_stream=True)


def _status_after_answer(connection: Connection, stream: int) -> None:
    connection.h2.send_headers(stream, HEADERS)
    connection.h2.send_data(stream, b"\0\0\0\0\0")
    connection.h2.send_headers(stream, (("grpc-status", "9"), ("grpc-message", "after%20all")), end_stream=True)


def _reset(reason: h2.errors.ErrorCodes) -> Callable[[Connection, int], None]:
    return lambda connection, stream: connection.h2.reset_stream(stream, reason)


ANSWERS: dict[str, tuple[Callable[[Connection, int], None], Status, str]] = {
    "no message": (lambda c, s: c.fail(s, 0), Status.INTERNAL, "no answer"),
    "two messages": (lambda c, s: c.answer(s, b"\0\0\0\0\0" * 2), Status.INTERNAL, "several answers"),
    "half a message": (_half_a_message, Status.INTERNAL, "within a message"),
    "a compressed message": (lambda c, s: c.answer(s, b"\1\0\0\0\1x"), Status.INTERNAL, "compressed"),
    "no trailers": (_no_trailers, Status.UNKNOWN, "no grpc-status"),
    "a status after the answer": (_status_after_answer, Status.FAILED_PRECONDITION, "after all"),
    "a status that is none": (lambda c, s: c.fail(s, 99), Status.UNKNOWN, ""),
    "no gRPC": (lambda c, s: _headers(c, s, (":status", "503")), Status.UNAVAILABLE, "503"),
    "not found": (lambda c, s: _headers(c, s, (":status", "404")), Status.UNIMPLEMENTED, "404"),
    "a reset": (_reset(h2.errors.ErrorCodes.CANCEL), Status.CANCELLED, "CANCEL"),
    "too much": (_reset(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM), Status.RESOURCE_EXHAUSTED, ""),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_answers_that_are_none(forged: ForgedServer, name: str):
    """Each ends its call with a status, and the connection serves the next one."""
    answer, status, why = ANSWERS[name]
    forged.script = at_the_end(answer)
    async with opened(target(forged.address)) as channel:
        error = await fails(status, channel.unary("/test.S/Echo", b"x"), re.escape(why))
        assert not error.unprocessed
        forged.script = at_the_end(lambda connection, stream: connection.answer(stream))
        assert await channel.unary("/test.S/Echo", b"x") == b""
    assert len(forged.connections) == 1


@pytest.mark.parametrize(
    "words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 500, b"\x15\x03\x03\x00\x02\x02\x28", b""]
)
async def test_a_server_that_does_not_speak_http2(words: bytes):
    with saying(words, hangs_up=True) as address:
        for tls in (None, ClientTls()):
            async with opened(target(address, tls=tls, tls_name="localhost")) as channel:
                error = await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b""), "failed to connect to")
                assert error.unprocessed


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.1)
    with saying(b"", hangs_up=False) as address:
        async with opened(target(address)) as channel:
            await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b""), "sent no HTTP/2 within 0.1 s")


async def test_a_connection_that_breaks_the_rules_ends_and_another_is_opened(forged: ForgedServer):
    forged.script = at_the_end(lambda connection, _: connection.transport.write(b"\0\0\0\x04\0\0\0\0\x01"))
    async with opened(target(forged.address)) as channel:
        await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b""), "PROTOCOL_ERROR")
        forged.script = at_the_end(lambda connection, stream: connection.answer(stream))
        assert await channel.unary("/test.S/Echo", b"") == b""
    assert len(forged.connections) == 2


async def test_an_answer_is_read_though_the_server_hangs_up_behind_it(forged: ForgedServer):
    def script(connection: Connection, stream: int) -> None:
        connection.answer(stream, b"\0\0\0\0\1x")
        connection.flush()
        connection.transport.close()

    forged.script = at_the_end(script)
    for _ in range(20):
        async with opened(target(forged.address)) as channel:
            assert await channel.unary("/test.S/Echo", b"") == b"x"


async def test_calls_that_a_goaway_refuses_are_sent_again(forged: ForgedServer):
    def script(connection: Connection, stream: int) -> None:
        if connection.number < 3:
            connection.h2.close_connection(last_stream_id=0)
        else:
            connection.answer(stream)

    forged.script = at_the_end(script)
    async with opened(target(forged.address)) as channel:
        assert await channel.unary("/test.S/Echo", b"") == b""
    assert len(forged.connections) == 3


async def test_a_call_that_is_always_refused_fails(forged: ForgedServer):
    forged.script = at_the_end(_reset(h2.errors.ErrorCodes.REFUSED_STREAM))
    async with opened(target(forged.address)) as channel:
        error = await fails(Status.UNAVAILABLE, channel.unary("/test.S/Echo", b"x"), "REFUSED_STREAM")
        assert error.unprocessed
    assert forged.requests() == module.SENDS


async def test_a_refusal_that_passes_in_a_moment_fails_no_call(forged: ForgedServer):
    """A server that permits few calls at a time counts one that has just ended for a moment."""
    refuse = _reset(h2.errors.ErrorCodes.REFUSED_STREAM)
    until: list[float] = []

    def script(connection: Connection, stream: int) -> None:
        now = asyncio.get_running_loop().time()
        until.append(now + 0.02)
        if now < until[0]:
            refuse(connection, stream)
        else:
            connection.answer(stream, b"\0\0\0\0\1x")

    forged.script = at_the_end(script)
    async with opened(target(forged.address)) as channel:
        assert await channel.unary("/test.S/Echo", b"") == b"x"


async def test_a_silent_server_is_pinged_and_then_lost(forged: ForgedServer):
    """One that answers pings may take its time; one that does not is lost, with all calls."""
    forged.script = lambda *_: None
    keep_alive = KeepAlive(after_s=0.03, answer_s=0.03)
    async with opened(target(forged.address, keep_alive=keep_alive)) as channel:
        call = asyncio.create_task(channel.unary("/test.S/Echo", b""))
        pings = h2.events.PingReceived
        await until(lambda: sum(isinstance(event, pings) for event in forged.seen) >= 5)
        assert not call.done()
        forged.connections[0].transport.pause_reading()
        await fails(Status.UNAVAILABLE, call, "did not answer a ping")


async def test_a_server_without_calls_is_not_pinged(forged: ForgedServer):
    keep_alive = KeepAlive(after_s=0.02, answer_s=0.02)
    async with opened(target(forged.address, keep_alive=keep_alive)) as channel:
        await channel.unary("/test.S/Echo", b"")
        connection = channel._connection
        assert connection is not None
        looked: list[asyncio.TimerHandle] = []

        def again() -> bool:
            if connection._look is not None and connection._look not in looked:
                looked.append(connection._look)
            return len(looked) >= 4

        await until(again)
    assert not any(isinstance(event, h2.events.PingReceived) for event in forged.seen)
