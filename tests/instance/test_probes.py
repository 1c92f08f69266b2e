"""`/ready`, `/live` and `/prestop` over real sockets, with clients good and bad."""

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from modelmesh.adapters.http import requests
from modelmesh.adapters.http.probes import LIVE_BOUND_MS, Health, ProbeServer
from modelmesh.adapters.http.requests import (
    HEAD_BYTES,
    HttpServer,
    MalformedRequestError,
    Request,
    Response,
    listen,
    parse_head,
)
from modelmesh.instance.local_cluster import free_port


class Probes:
    def __init__(self, *, prestop_timeout_s: float = 30) -> None:
        self.health = Health()
        self.stops = 0
        self.probe, self.prestop = free_port(), free_port()
        self.server = ProbeServer(
            host="127.0.0.1",
            probe_port=self.probe,
            prestop_port=self.prestop,
            health=self.health,
            stop=self._stop,
            prestop_timeout_s=prestop_timeout_s,
        )

    def _stop(self) -> None:
        self.stops += 1

    async def get(self, path: str, *, port: int | None = None, verb: str = "GET") -> str:
        return await exchange(port or self.probe, f"{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


async def exchange(port: int, request: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with contextlib.suppress(ConnectionError):  # turned away
        writer.write(request.encode())
        answer = await reader.read()
    await leave(writer)
    return answer.decode()


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def status(answer: str) -> int:
    return int(answer.split()[1])


@pytest.fixture
def probes() -> Iterator[Probes]:
    made = Probes()
    made.server.start()
    yield made
    made.server.close()


async def test_ready_says_what_the_instance_says(probes: Probes) -> None:
    assert await probes.get("/ready") == (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    probes.health.ask_ready = lambda: True
    beating = asyncio.ensure_future(probes.health.beat())
    await asyncio.sleep(0)
    beating.cancel()
    for path in ("/ready", "/ready/", "/ready?verbose"):
        assert status(await probes.get(path)) == 200
    assert status(await probes.get("/ready", verb="HEAD")) == 200
    assert status(await probes.get("/nothing")) == 404
    assert status(await probes.get("/prestop")) == 404


async def test_live_notices_a_loop_and_a_core_that_are_stuck(probes: Probes) -> None:
    assert status(await probes.get("/live")) == 200
    probes.health.thread_ages_ms = lambda: [0, LIVE_BOUND_MS + 1]
    assert status(await probes.get("/live")) == 500
    probes.health.thread_ages_ms = lambda: [0, 5]
    assert status(await probes.get("/live")) == 200
    probes.health.turned_s = time.monotonic() - LIVE_BOUND_MS / 1000 - 1
    assert status(await probes.get("/live")) == 500
    beating = asyncio.ensure_future(probes.health.beat())
    await asyncio.sleep(0)
    assert status(await probes.get("/live")) == 200
    beating.cancel()


def test_live_is_answered_while_nobody_turns_the_loop(probes: Probes) -> None:
    with socket.create_connection(("127.0.0.1", probes.probe), timeout=5) as client:
        client.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


async def test_a_connection_takes_several_requests(probes: Probes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", probes.probe)
    for _ in range(3):
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"keep-alive" in await reader.readuntil(b"\r\n\r\n")
    await leave(writer)


async def test_a_client_that_offers_http2_is_answered_in_http1(probes: Probes) -> None:
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--http2", "--output", "/dev/null", "--write-out", "%{http_code} %{http_version}"),
        f"http://127.0.0.1:{probes.probe}/live",
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert output == b"200 1.1"


async def test_prestop_begins_the_stop_and_is_answered_when_it_is_done(probes: Probes) -> None:
    first = asyncio.ensure_future(probes.get("/prestop", port=probes.prestop))
    second = asyncio.ensure_future(probes.get("/prestop/", port=probes.prestop))
    while probes.stops < 2:
        await asyncio.sleep(0.01)
    assert status(await probes.get("/nothing", port=probes.prestop)) == 404  # the wait of others holds nobody up
    assert not first.done()
    assert not second.done()
    probes.server.release()
    assert (status(await first), status(await second)) == (200, 200)
    assert status(await probes.get("/prestop", port=probes.prestop)) == 200


async def test_prestop_is_answered_by_the_end_of_the_server_too(probes: Probes) -> None:
    waiting = asyncio.ensure_future(probes.get("/prestop", port=probes.prestop))
    while not probes.stops:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(probes.server.close)
    assert status(await waiting) == 200


async def test_prestop_does_not_wait_for_ever() -> None:
    probes = Probes(prestop_timeout_s=0.05)
    probes.server.start()
    assert status(await probes.get("/prestop", port=probes.prestop)) == 200
    probes.server.close()


async def test_a_client_that_leaves_while_it_waits_leaves_nothing(probes: Probes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", probes.prestop)
    writer.write(b"GET /prestop HTTP/1.1\r\n\r\n")
    while not probes.stops:
        await asyncio.sleep(0.01)
    writer.transport.abort()
    await leave(writer)
    probes.server.release()
    assert status(await probes.get("/prestop", port=probes.prestop)) == 200


async def test_a_slow_head_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "HEAD_S", 0.1)
    probes = Probes()
    probes.server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", probes.probe)
    writer.write(b"GET /live HTTP/1.1\r\n")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    await leave(writer)
    probes.server.close()


async def test_silent_connections_make_room_the_longest_silent_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "CONNECTIONS", 3)
    probes = Probes()
    probes.server.start()
    held = []
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", probes.probe)
        writer.write(b"GET /live HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        held.append((reader, writer))
    held[0][1].write(b"GET /live HTTP/1.1\r\n\r\n")  # speaks again: now the second is silent longest
    await held[0][0].readuntil(b"\r\n\r\n")
    assert status(await probes.get("/live")) == 200
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(held[1][0].read(), 10) == b""
    held[0][1].write(b"GET /live HTTP/1.1\r\n\r\n")
    assert b"200" in await held[0][0].readuntil(b"\r\n\r\n")
    for _, writer in held:
        await leave(writer)
    probes.server.close()


async def test_hooks_that_are_being_answered_do_not_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "CONNECTIONS", 1)
    probes = Probes()
    probes.server.start()
    hook = asyncio.ensure_future(probes.get("/prestop", port=probes.prestop))
    while not probes.stops:
        await asyncio.sleep(0.01)
    assert await probes.get("/nothing", port=probes.prestop) == ""
    probes.server.release()
    assert status(await hook) == 200
    probes.server.close()


async def test_a_thousand_silent_connections_take_few_descriptors_and_shut_nobody_out(probes: Probes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    silent = [socket.create_connection(("127.0.0.1", probes.probe)) for _ in range(400)]
    try:
        for _ in range(10):
            assert status(await probes.get("/live")) == 200
        async with asyncio.timeout(10):  # those that made room are closed in the turns that follow
            while len(os.listdir("/proc/self/fd")) - before - len(silent) > requests.CONNECTIONS + 2:
                await asyncio.sleep(0.01)
    finally:
        for one in silent:
            one.close()


async def test_without_descriptors_the_server_waits_in_silence_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    probes = Probes()
    probes.server.start()
    client = socket.create_connection(("127.0.0.1", probes.probe))
    client.settimeout(10)
    client.sendall(b"GET /live HTTP/1.1\r\n\r\n")
    assert client.recv(1000).startswith(b"HTTP/1.1 200")
    other = socket.socket()
    other.settimeout(10)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(client.fileno()))
        other.connect(("127.0.0.1", probes.probe))  # waits in the backlog
        other.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        assert other.recv(1000).startswith(b"HTTP/1.1 200"), "the silent one made room"
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.close()
        other.close()
        probes.server.close()
    assert caplog.text == ""


async def test_an_answer_that_fails_is_a_500_and_one_that_nobody_takes_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "ANSWER_S", 0.2)
    failures: list[Exception] = []

    async def answer(request: Request) -> Response:
        if request.path == "/bad":
            raise ZeroDivisionError
        return Response(200, b"x" * 50_000_000, "text/plain")

    listener = listen("127.0.0.1", 0, "TEST")
    port = listener.getsockname()[1]
    server = HttpServer(listener, answer, failed=failures.append)
    serving = asyncio.ensure_future(server.serve())
    assert status(await exchange(port, "GET /bad HTTP/1.1\r\nConnection: close\r\n\r\n")) == 500
    assert isinstance(failures[0], ZeroDivisionError)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10):
            while not server.connections:
                await asyncio.sleep(0.01)
            while server.connections:
                await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        ("nonsense\r\n\r\n", 400),
        ("GET /live SMTP\r\n\r\n", 400),
        ("GET /live\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\n", 400),
        ("GET /live HTTP/1.1\r\nX: " + "x" * HEAD_BYTES + "\r\n\r\n", 431),
    ],
)
async def test_what_is_no_request_is_refused(probes: Probes, head: str, answer: int) -> None:
    with contextlib.suppress(ConnectionError):
        assert status(await exchange(probes.probe, head)) == answer
    assert status(await probes.get("/live")) == 200


@pytest.mark.parametrize("which", ["probe", "prestop"])
def test_a_port_in_use_is_named(which: str) -> None:
    probes = Probes()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(probes, which)))
        taken.listen()
        setting = {"probe": "MM_PROBE_PORT", "prestop": "MM_PRESTOP_WAIT_PORT"}[which]
        with pytest.raises(OSError, match=rf"127.0.0.1:{getattr(probes, which)} \({setting}\)"):
            probes.server.start()
    free: Callable[..., socket.socket] = socket.socket
    with free() as other:  # what was bound before has been let go
        other.bind(("127.0.0.1", probes.probe))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Request("/")),
        (
            b"GET /a/?b=/c HTTP/1.1\r\nConnection: Close\r\n\r\n",
            Request("/a", "b=/c", {"connection": "Close"}, keep_alive=False),
        ),
        (b"GET http://h:1/a HTTP/1.1\r\n\r\n", Request("/a")),
        (b"GET /a HTTP/1.0\r\n\r\n", Request("/a", keep_alive=False)),
        (b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Request("/a", headers={"connection": "keep-alive"})),
        (
            b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
            Request("/a", headers={"content-length": "3"}, keep_alive=False),
        ),
        (
            b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Request("/a", headers={"transfer-encoding": "chunked"}, keep_alive=False),
        ),
        (b"GET /\xff HTTP/1.1\r\n\r\n", Request("/ÿ")),
    ],
)
def test_heads(head: bytes, expected: Request) -> None:
    assert parse_head(head) == expected


@pytest.mark.parametrize(
    "head", [b"\r\n\r\n", b" / HTTP/1.1\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n", b"G T / HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_head(head: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        parse_head(head)
