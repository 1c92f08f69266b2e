"""Scripted neighbours of the data plane: a runtime, a brain that decides, a client's channel."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from modelmesh.adapters.dataplane import NativeDataPlane
from modelmesh.management.calls import CallServer
from modelmesh.values.dataplane import (
    Called,
    CallMessage,
    Cancelled,
    DataPlaneEvent,
    LinkLost,
    LocalCopy,
    Missed,
    PeerAddress,
    RemoteCopy,
    Resolution,
    Route,
    Rules,
)

WAIT = 30  # seconds; on a quiet machine nothing takes ten of them, which is how long it takes to find out who hangs
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Handler = Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], AsyncIterator[bytes]]
Event = TypeVar("Event")


def serve_calls(server: CallServer, event: DataPlaneEvent) -> None:
    """Hand what happens to calls that Python answers to their server; other events are nobody's."""
    match event:
        case Called():
            server.called(event)
        case CallMessage():
            server.message(event)
        case Cancelled():
            server.cancelled(event)
        case _:
            pass


async def echo(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


class Runtime:
    """A gRPC server that does what `script` says, by method; everything else is echoed."""

    def __init__(self) -> None:
        self.script: dict[str, Handler] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.called = asyncio.Event()
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0", options: Sequence[tuple[str, Any]] = ()) -> "Runtime":
        self._server = grpc.aio.server(options=[*UNLIMITED, ("grpc.so_reuseport", 0), *options])
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        port = self._server.add_insecure_port(address)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def stop(self, grace: float | None = None) -> None:
        if self._server is not None:
            await self._server.stop(grace)

    def metadata(self) -> dict[str, Any]:
        return self.calls[-1][1]


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method.removeprefix("/")
        metadata: dict[str, Any] = {name: value for name, value in details.invocation_metadata}  # noqa: C416
        self._runtime.calls.append((method, metadata))
        self._runtime.called.set()
        return grpc.stream_stream_rpc_method_handler(self._runtime.script.get(method.rpartition("/")[2], echo))


class Brain:
    """Records events, and decides at once where it has a rule for it."""

    def __init__(self, plane: NativeDataPlane) -> None:
        self.plane = plane
        self.events: list[DataPlaneEvent] = []
        self.decide: Callable[[DataPlaneEvent], Resolution | None] = lambda event: None
        self._changed = asyncio.Event()
        self._seen = 0

    def receive(self, events: Sequence[DataPlaneEvent]) -> None:
        for event in events:
            self.events.append(event)
            decision = self.decide(event)
            if decision is not None:
                self.plane.resolve([(event.token, decision)])
        self._changed.set()

    async def next(self, kind: type[Event]) -> Event:
        """The next event of a kind; earlier ones of other kinds are passed over."""
        async with asyncio.timeout(WAIT):
            while True:
                while self._seen < len(self.events):
                    event = self.events[self._seen]
                    self._seen += 1
                    if isinstance(event, kind):
                        return event
                self._changed.clear()
                await self._changed.wait()

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


class Instance:
    """A data plane, its brain, and a client's channel to it."""

    def __init__(self, name: str, plane: NativeDataPlane, channel_options: Sequence[tuple[str, Any]] = ()) -> None:
        self.name = name
        self.plane = plane
        self.brain = Brain(plane)
        plane.listen(self.brain.receive)
        plane.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{plane.serving_port}", [*UNLIMITED, *channel_options])

    @property
    def peer_address(self) -> PeerAddress:
        return PeerAddress(f"127.0.0.1:{self.plane.peer_port}")

    def unary(self, method: str = "Echo") -> Any:
        return self.channel.unary_unary(f"/test.S/{method}")

    def stream(self, method: str = "Echo") -> Any:
        return self.channel.stream_stream(f"/test.S/{method}")

    def local(self, model: str = "m", load_id: int = 1, **copy: Any) -> None:
        self.plane.set_routes([(model, Route(LocalCopy(load_id, **{"ready": True, **copy})))])

    def remote(self, *copies: "Instance", model: str = "m", load_id: int = 1) -> None:
        self.plane.set_peers([(copy.name, copy.peer_address) for copy in copies])
        self.plane.set_routes([(model, Route(None, tuple(RemoteCopy(copy.name, load_id) for copy in copies)))])

    def services(self, *serving: str, peer: Sequence[str] = ()) -> None:
        self.plane.set_rules(Rules(serving_services=serving, peer_services=tuple(peer)))

    async def close(self) -> None:
        await self.channel.close(None)
        self.plane.close()


ID = (("mm-model-id", "m"),)


async def until(condition: Callable[[], bool]) -> None:
    """Turns the loop until something is so; for what gives no event."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.002)


async def status_of(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The error a call ends with."""
    try:
        async with asyncio.timeout(WAIT):
            answer = await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError(f"the call was answered: {answer!r}")


__all__ = [
    "ID",
    "WAIT",
    "Brain",
    "Instance",
    "LinkLost",
    "Missed",
    "Runtime",
    "echo",
    "serve_calls",
    "status_of",
    "until",
]
