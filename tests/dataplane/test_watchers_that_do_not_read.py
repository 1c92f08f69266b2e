"""Who watches events and never reads them is given up, and told; its place comes free, and others notice nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import grpc
import h2.events
import h2.settings
import pytest
from frames import Client
from scripted import WAIT, Instance, serve_calls, until

from modelmesh._proto import admin_pb2 as pb
from modelmesh.adapters.credentials import KeySets
from modelmesh.control.journal import Journal
from modelmesh.control.plane import ControlPlane
from modelmesh.control.tasks import Tasks
from modelmesh.management.access import Access
from modelmesh.management.admin import WATCHERS, Admin
from modelmesh.management.calls import Call, CallServer, Method
from modelmesh.testing.clock import VirtualClock
from modelmesh.values.dataplane import DataPlaneEvent
from modelmesh.values.ids import InstanceId

Make = Callable[..., Instance]
WATCH, REGISTER = "modelmesh.v1.Admin/WatchEvents", "modelmesh.v1.Admin/Register"
LARGE = "x" * 100_000
"""What is said of each registration: 42 of them are more than waits for one who does not read."""


class Watched:
    """An instance whose events can be watched; each registration is one."""

    def __init__(self, one: Instance) -> None:
        self.one = one
        self.journal = Journal(InstanceId("i1"), VirtualClock())
        self.admin = Admin(cast(ControlPlane, SimpleNamespace(journal=self.journal)))
        self.sent = 0
        self.failures: list[Any] = []
        tasks = Tasks(lambda *failure: self.failures.append(failure))
        clock = VirtualClock()
        self.server = CallServer(
            dataplane=one.plane,
            tasks=tasks,
            access=Access(dataplane=one.plane, clock=clock, tasks=tasks, keys=KeySets(clock).keys),
            methods={
                WATCH: Method(pb.WatchEventsRequest, streaming=self._watch),
                REGISTER: Method(pb.WatchEventsRequest, unary=self._register),
            },
            failed=lambda *failure: self.failures.append(failure),
        )
        one.services("modelmesh.v1.Admin")
        one.brain.decide = self._decide

    def _decide(self, event: DataPlaneEvent) -> None:
        serve_calls(self.server, event)

    async def _watch(self, call: Call, requests: AsyncIterator[Any]) -> None:
        send = call.send

        def counted(message: Any) -> None:
            self.sent += 1
            send(message)

        call.send = counted
        await self.admin.watch_events(call, requests)

    async def _register(self, _: Call, __: Any) -> pb.Event:
        self.journal.note("registered", "m", detail=LARGE)
        return pb.Event()

    async def register(self) -> None:
        async with asyncio.timeout(WAIT):
            await self.one.channel.unary_unary(f"/{REGISTER}")(b"")

    def watchers(self) -> int:
        return self.admin._watchers


@pytest.fixture
async def watched(make: Make) -> Watched:
    return Watched(make())


async def ends(client: Client, streams: Sequence[int]) -> dict[int, dict[str, str]]:
    """Trailers of calls whose answers cannot be sent: no window is ever given."""
    found: dict[int, dict[str, str]] = {}
    async with asyncio.timeout(WAIT):
        while len(found) < len(streams):
            data = await client.reader.read(65_536)
            assert data, "the connection was closed"
            for event in client.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    headers = dict(event.headers)
                    found |= {event.stream_id: headers} if "grpc-status" in headers else {}
            client.flush()
    return found


@pytest.mark.parametrize("window", [0, 20_000])
async def test_watchers_that_do_not_read_are_ended_and_their_places_come_free(watched: Watched, window: int) -> None:
    shut = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
    clients = [await Client.connect(watched.one.plane.serving_port, shut) for _ in range(2)]
    streams = [[client.request((":path", f"/{WATCH}")) for _ in range(50)] for client in clients]
    await until(lambda: watched.watchers() == WATCHERS)
    registered = 0
    while watched.watchers():
        assert registered < 100, "their places do not come free"
        await watched.register()
        registered += 1
    for client, asked in zip(clients, streams, strict=True):
        assert {end["grpc-status"] for end in (await ends(client, asked)).values()} == {"8"}
    sent = watched.sent
    assert sent <= WATCHERS * registered
    for _ in range(20):
        await watched.register()
    assert watched.sent == sent, "registrations pay for those who have gone"
    assert not watched.failures

    # One who reads has a place, and sees what happens.
    watching = watched.one.channel.unary_stream(f"/{WATCH}", response_deserializer=pb.Event.FromString)(b"")
    await until(lambda: watched.watchers() == 1)
    await watched.register()
    async with asyncio.timeout(WAIT):
        event = await watching.read()
    assert event is not grpc.aio.EOF
    assert event.detail == LARGE
    watching.cancel()
    await until(lambda: watched.watchers() == 0)
    for client in clients:
        client.writer.transport.abort()
