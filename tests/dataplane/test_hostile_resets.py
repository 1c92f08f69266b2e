"""Clients that give up calls in bursts, and neighbours that answer pings and no calls: others do not notice."""

import asyncio
from collections import Counter
from collections.abc import Callable

import h2.events
import pytest
from channels import fails, opened, target
from frames import Client, Connection, ForgedServer
from scripted import ID, WAIT, Instance, until

from modelmesh.values.dataplane import AttemptFailed
from modelmesh.values.status import Status

Make = Callable[..., Instance]
MOST_RESETS = 200
"""Of this runtime, on one connection in the life of it; Netty's servers end a connection over as many in 30 s."""


class Strict:
    """A runtime that ends a connection on which many calls are reset; calls named `slow` are not answered."""

    def __init__(self) -> None:
        self.resets: Counter[int] = Counter()
        self.slow: set[tuple[int, int]] = set()

    def __call__(self, connection: Connection, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                if dict(event.headers)[":path"] == "/test.S/Slow":
                    self.slow.add((connection.number, event.stream_id))
            case h2.events.StreamEnded() if (connection.number, event.stream_id) not in self.slow:
                asyncio.get_running_loop().call_later(0.01, self._answer, connection, event.stream_id)
            case h2.events.StreamReset():
                self.resets[connection.number] += 1
                if self.resets[connection.number] > MOST_RESETS and not connection.transport.is_closing():
                    connection.h2.close_connection(11)
                    connection.flush()
                    connection.transport.close()

    @staticmethod
    def _answer(connection: Connection, stream: int) -> None:
        if not connection.transport.is_closing():
            connection.answer(stream)
            connection.flush()


@pytest.mark.timeout(60)
async def test_bursts_of_resets_end_no_calls_of_others(make: Make, forged: ForgedServer) -> None:
    strict = Strict()
    forged.script = strict
    one = make(runtime=forged.address)
    one.local()
    await one.unary()(b"", metadata=ID, timeout=WAIT)
    hostile = await Client.connect(one.plane.serving_port)
    failed: list[object] = []
    served = 0
    stop = False

    async def honest() -> None:
        nonlocal served
        while not stop:
            try:
                await one.unary()(b"", metadata=ID, timeout=WAIT)
                served += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is one too many
                failed.append(error)

    honest_tasks = [asyncio.create_task(honest()) for _ in range(8)]
    for _ in range(4):
        before = len(strict.slow)
        streams = [hostile.request((":path", "/test.S/Slow")) for _ in range(150)]
        await until(lambda before=before: len(strict.slow) >= before + 150)  # type: ignore[misc]
        for stream in streams:
            hostile.h2.reset_stream(stream)
        hostile.flush()
        target_served = served + 100
        await until(lambda target_served=target_served: served >= target_served or bool(failed))  # type: ignore[misc]
    stop = True
    await asyncio.gather(*honest_tasks)
    assert failed == []
    assert one.brain.count(AttemptFailed) == 0
    assert len(forged.connections) > 1, "those of the hostile client are elsewhere"
    hostile.writer.close()


def mute(connection: Connection, event: h2.events.Event) -> None:
    """Answers pings, which the library does, and no calls."""


async def test_a_server_of_ours_that_answers_only_pings_is_left(forged: ForgedServer) -> None:
    """Two calls in a row that were not answered in their time, and nothing else was: the third goes elsewhere."""
    forged.script = mute
    async with opened(target(forged.address)) as channel:
        for _ in range(2):
            await fails(Status.DEADLINE_EXCEEDED, channel.unary("/test.S/Echo", b"", timeout_s=0.2))
        forged.script = lambda connection, event: (
            connection.answer(event.stream_id) if isinstance(event, h2.events.StreamEnded) else None
        )
        assert await channel.unary("/test.S/Echo", b"", timeout_s=WAIT) == b""
    assert len(forged.connections) == 2


async def test_a_connection_that_serves_others_is_kept(forged: ForgedServer) -> None:
    """What is slow is one method, not the connection."""

    def script(connection: Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived) and dict(event.headers)[":path"] != "/test.S/Slow":
            connection.answer(event.stream_id)

    forged.script = script
    async with opened(target(forged.address)) as channel:
        for _ in range(4):
            await fails(Status.DEADLINE_EXCEEDED, channel.unary("/test.S/Slow", b"", timeout_s=0.1))
            assert await channel.unary("/test.S/Echo", b"", timeout_s=WAIT) == b""
    assert len(forged.connections) == 1
