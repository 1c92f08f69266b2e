"""Two instances of a data plane, native or simulated, with their runtimes and clients."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "dataplane"))

from scripted import WAIT, Brain, Runtime

from modelmesh.adapters.dataplane import NativeDataPlane
from modelmesh.ports import DataPlane, RuntimeCallError
from modelmesh.testing.dataplane import SimulatedDataPlane
from modelmesh.testing.network import FakeNetwork
from modelmesh.values.dataplane import (
    LocalCopy,
    PeerAddress,
    RemoteCopy,
    Route,
    Rules,
)
from modelmesh.values.ids import InstanceId, LoadId, ModelId
from modelmesh.values.status import Status

A, B = InstanceId("a"), InstanceId("b")
M = ModelId("m")
Answer = tuple[Status, str, object]


class Side:
    """One of two instances: its plane, its events, its runtime, and a client of it."""

    def __init__(self, name: InstanceId, plane: DataPlane, address: str) -> None:
        self.name = name
        self.plane = plane
        self.brain = Brain(plane)  # type: ignore[arg-type]  # it needs no more than the port
        self.address = PeerAddress(address)
        self.behaviour: Status | None = None
        self.fails_next: list[Status] = []
        self.gate: asyncio.Event | None = None
        self.served = 0

    async def infer(self, payload: object) -> object:
        """What the runtime does with a call."""
        self.served += 1
        if self.gate is not None:
            await self.gate.wait()
        behaviour = self.fails_next.pop(0) if self.fails_next else self.behaviour
        if behaviour is not None:
            raise RuntimeCallError(behaviour, "so it was told")
        return payload

    async def until_served(self) -> None:
        """Until its runtime has been given a call."""
        async with asyncio.timeout(WAIT):
            while not self.served:
                await asyncio.sleep(0.002)

    async def until_free(self) -> None:
        """Until it holds no call: a caller may get its answer first."""
        async with asyncio.timeout(WAIT):
            while self.plane.held() != (0, 0):
                await asyncio.sleep(0.002)

    async def call(self, name: str = "m", *, vmodel: bool = False, timeout: float = WAIT) -> Answer:
        raise NotImplementedError

    def local(self, *, ready: bool = True, load_id: int = 1) -> None:
        self.plane.set_routes([(M, Route(LocalCopy(LoadId(load_id), ready)))])

    def remote(self, other: "Side", *, load_id: int = 1) -> None:
        self.plane.set_peers([(other.name, other.address)])
        self.plane.set_routes([(M, Route(None, (RemoteCopy(other.name, LoadId(load_id)),)))])


class NativeSide(Side):
    channel: grpc.aio.Channel

    async def call(self, name: str = "m", *, vmodel: bool = False, timeout: float = WAIT) -> Answer:
        header = "mm-vmodel-id" if vmodel else "mm-model-id"
        try:
            answer = await self.channel.unary_unary("/test.S/Infer")(
                b"hello", metadata=((header, name),), timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            return Status(error.code().value[0]), error.details() or "", None
        return Status.OK, "", answer


class SimulatedSide(Side):
    async def call(self, name: str = "m", *, vmodel: bool = False, timeout: float = WAIT) -> Answer:
        assert isinstance(self.plane, SimulatedDataPlane)
        answer = await self.plane.call(ModelId(name), b"hello", vmodel=vmodel, timeout_ms=round(timeout * 1000))
        return answer.status, answer.message, answer.payload


@pytest.fixture(params=["native", "simulated"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Side, Side]]:
    sides: list[Side] = []
    closing: list[Callable[[], Any]] = []
    network = FakeNetwork()
    for name in (A, B):
        if request.param == "native":
            runtime = await Runtime().start()
            plane = NativeDataPlane(
                instance=name, runtime=runtime.address, serving="127.0.0.1:0", peer="127.0.0.1:0", threads=1
            )
            side = NativeSide(name, plane, "")
            runtime.script["Infer"] = scripted(side)
            plane.listen(side.brain.receive)
            plane.start()
            side.address = PeerAddress(f"127.0.0.1:{plane.peer_port}")
            side.channel = grpc.aio.insecure_channel(f"127.0.0.1:{plane.serving_port}")
            closing += [lambda side=side: side.channel.close(None), runtime.stop]
        else:
            behind: list[Side] = []

            async def infer(_: ModelId, payload: object, behind: list[Side] = behind) -> object:
                return await behind[0].infer(payload)

            simulated = SimulatedDataPlane(
                instance=name,
                address=f"sim-{name}",
                network=network,
                infer=infer,
                now_ms=lambda: 1_700_000_000_000,
                rng=Random(1),
            )
            side = SimulatedSide(name, simulated, f"sim-{name}")
            behind.append(side)
            simulated.listen(side.brain.receive)
            simulated.start()
        side.plane.set_rules(Rules((), ()))
        sides.append(side)
    yield sides[0], sides[1]
    for close in closing:
        await close()
    for side in sides:
        side.plane.close()


def scripted(side: Side) -> Any:
    async def handler(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            try:
                answer = await side.infer(request)
            except RuntimeCallError as error:
                code = next(code for code in grpc.StatusCode if code.value[0] == error.status)
                await context.abort(code, error.message)
            yield answer  # type: ignore[misc]  # bytes in, bytes out

    return handler
