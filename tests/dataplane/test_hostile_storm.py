"""After everything hostile at the same time, nothing is left: calls, tasks, descriptors, bytes."""

import asyncio
import gzip
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import grpc
import h2.settings
import pytest
from frames import Client
from scripted import ID, WAIT, Instance, Runtime, until

from modelmesh.values.dataplane import AttemptFailed, Fail, LocalCopy, MethodRule, Missed, RemoteCopy, Route, Rules
from modelmesh.values.status import Status

Make = Callable[..., Instance]
WINDOWLESS = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
GAUGES = (
    "modelmesh_connections",
    "modelmesh_open_calls",
    "modelmesh_held_requests",
    "modelmesh_held_bytes",
    "modelmesh_replay_bytes",
)


def gauges(one: Instance) -> dict[str, str]:
    lines = dict(line.split(" ", 1) for line in one.plane.metrics().decode().splitlines() if line[0] != "#")
    return {name: lines[name] for name in GAUGES}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def zipped(content: bytes) -> bytes:
    payload = gzip.compress(content)
    return b"\1" + len(payload).to_bytes(4, "big") + payload


BOMB = zipped(bytes(8 << 20))


async def misbehave(one: Instance, rng: Random) -> None:
    """One connection that does a few bad things, and is gone without a word."""
    port = one.plane.peer_port if rng.random() < 0.2 else one.plane.serving_port
    if rng.random() < 0.2:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(rng.choice([b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n", rng.randbytes(300)]))
        await asyncio.sleep(rng.random() * 0.1)
        writer.transport.abort()
        return
    client = await Client.connect(port, WINDOWLESS if rng.random() < 0.5 else None)
    for _ in range(rng.randrange(1, 12)):
        model = rng.choice(["m", "far", "cold", "m" * 3000, ""])
        method = rng.choice(["Echo", "Extract", "Inject", "Endless", "Hang"])
        body = rng.choice([None, b"", bytes(5), b"\0\0\0\1\0half", b"\0\xff\xff\xff\xff", BOMB, rng.randbytes(99)])
        headers = [(":path", f"/test.S/{method}"), ("mm-model-id", model)]
        if rng.random() < 0.3:
            headers.append(("grpc-encoding", "gzip"))
        if rng.random() < 0.3:
            headers.append(("grpc-timeout", rng.choice(["0n", "20m", "1H", "x"])))
        if rng.random() < 0.2:
            headers += [("mm-hop", rng.choice(["hit", "load", "jump"])), ("mm-model-id-bin", "bQ")]
        if rng.random() < 0.1:
            headers.append(("x-large", "x" * 20_000))
        stream = client.request(*headers, body=body, end=rng.random() < 0.5)
        if rng.random() < 0.5:
            client.h2.reset_stream(stream)
            client.flush()
    await asyncio.sleep(rng.random() * 0.1)
    client.writer.transport.abort()


class Stubborn:
    """What a runtime does that hostile calls keep busy; `running` counts."""

    def __init__(self) -> None:
        self.running = 0

    async def endless(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            while True:
                yield bytes(50_000)
        finally:
            self.running -= 1

    async def hang(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            self.running -= 1


def pair(make: Make, rng: Random) -> tuple[Instance, Instance]:
    """Two instances that know each other; of five misses one is never decided."""
    near, far = make("near", max_message_bytes=1 << 20), make("far", max_message_bytes=1 << 20)
    rules = (MethodRule("test.S/Extract", extraction_path=(1,)), MethodRule("test.S/Inject", injection_path=(1,)))

    def decide(event: object) -> Fail | None:
        decided = isinstance(event, Missed | AttemptFailed) and rng.random() < 0.8
        return Fail(Status.NOT_FOUND, "model not found") if decided else None

    for instance in (near, far):
        instance.plane.set_rules(Rules((), (), methods=rules))
        instance.brain.decide = decide
    near.plane.set_peers([("far", far.peer_address)])
    local = Route(LocalCopy(1, ready=True))
    near.plane.set_routes([("m", local), ("far", Route(None, (RemoteCopy("far", 1),)))])
    far.plane.set_routes([("m", local), ("far", local)])
    return near, far


async def quiet(instance: Instance, connections: int) -> None:
    """Wait until nothing is left but so many connections of the honest; forget what was recorded."""

    def is_quiet() -> bool:
        left = gauges(instance)
        return int(left.pop("modelmesh_connections")) <= connections and set(left.values()) == {"0"}

    await until(is_quiet)
    assert not instance.plane.busy()
    assert instance.plane.held() == (0, 0)
    instance.brain.events.clear()
    instance.brain._seen = 0


@pytest.mark.timeout(120)
async def test_nothing_is_left_of_a_storm(make: Make, runtime: Runtime) -> None:
    rng = Random(3)
    stubborn = Stubborn()
    runtime.script.update(Endless=stubborn.endless, Hang=stubborn.hang)
    near, far = pair(make, rng)

    async def storm(connections: int) -> None:
        for _ in range(connections // 20):
            await asyncio.gather(*(misbehave(rng.choice([near, far]), rng) for _ in range(20)))
            for instance in (near, far):
                assert await instance.unary()(b"x", metadata=ID, timeout=WAIT) == b"x"
        await quiet(near, 1)
        await quiet(far, 2)  # `near` is one of them
        await until(lambda: stubborn.running == 0)
        runtime.calls.clear()

    await storm(100)  # what is allocated once is allocated now
    opened, used, tasks = descriptors(), resident_bytes(), len(asyncio.all_tasks())
    for _ in range(3):
        await storm(200)
    await until(lambda: descriptors() <= opened + 4)
    await until(lambda: len(asyncio.all_tasks()) <= tasks + 2)
    assert resident_bytes() - used < 64 << 20
