"""Links to the runtime and to peers: lost, probed, back."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import h2.settings
from frames import ForgedServer
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import AttemptFailed, Cancelled, Fail, LinkBack, LinkLost, Missed, Outcome, Serve
from modelmesh.values.status import Status

Make = Callable[..., Instance]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_runtime_over_a_unix_socket(make: Make, tmp_path: Path) -> None:
    runtime = await Runtime().start(f"unix:{tmp_path}/runtime.sock")
    one = make(runtime=f"unix://{tmp_path}/runtime.sock")
    one.local()
    assert await one.unary()(b"x", metadata=ID) == b"x"
    await runtime.stop()


async def test_a_runtime_that_comes_late(make: Make) -> None:
    address = f"127.0.0.1:{free_port()}"
    one = make("late", runtime=address)
    assert await one.brain.next(LinkLost) == LinkLost("late")
    one.local()
    call = one.unary()(b"x", metadata=ID)
    missed = await one.brain.next(Missed)  # the local copy is not offered
    one.plane.resolve([(missed.token, Serve())])
    failed = await one.brain.next(AttemptFailed)
    assert (failed.outcome, failed.replayable, failed.begun) == (Outcome.LOST, True, False)
    runtime = await Runtime().start(address)
    assert await one.brain.next(LinkBack) == LinkBack("late")
    one.plane.resolve([(failed.token, Serve())])
    assert await call == b"x"
    await runtime.stop()


async def test_a_runtime_that_restarts(make: Make) -> None:
    runtime = await Runtime().start()
    one = make(runtime=runtime.address)
    one.local()
    await one.unary()(b"x", metadata=ID)
    await runtime.stop()
    assert await one.brain.next(LinkLost) == LinkLost("i1")
    await runtime.start(runtime.address)
    assert await one.brain.next(LinkBack) == LinkBack("i1")
    assert await one.unary()(b"x", metadata=ID) == b"x"
    await runtime.stop()


async def test_a_runtime_that_moves(make: Make, runtime: Runtime) -> None:
    other = await Runtime().start()
    one = make()
    one.local()
    await one.unary()(b"x", metadata=ID)
    one.plane.set_runtime(other.address)
    await one.unary()(b"x", metadata=ID)
    assert (len(runtime.calls), len(other.calls)) == (1, 1)
    assert one.brain.events == []
    await other.stop()


async def test_a_peer_that_goes_and_comes_back(make: Make) -> None:
    near, far = make("near"), make("far")
    far.local()
    near.remote(far)
    await near.unary()(b"x", metadata=ID)
    port = far.plane.peer_port
    await far.close()
    assert await near.brain.next(LinkLost) == LinkLost("far")
    call = near.unary()(b"x", metadata=ID)
    missed = await near.brain.next(Missed)  # its copy is not offered
    again = make("far", peer=f"127.0.0.1:{port}")
    again.local()
    assert await near.brain.next(LinkBack) == LinkBack("far")
    near.plane.resolve([(missed.token, Fail(Status.ABORTED, "once more"))])
    assert (await status_of(call))[0] == grpc.StatusCode.ABORTED
    assert await near.unary()(b"x", metadata=ID) == b"x"


async def test_a_peer_that_nobody_answers_for(make: Make) -> None:
    one = make()
    from modelmesh.values.dataplane import Forward, Hop, PeerAddress

    one.plane.set_peers([("dead", PeerAddress(f"127.0.0.1:{free_port()}"))])
    call = one.unary()(b"x", metadata=ID)
    missed = await one.brain.next(Missed)
    one.plane.resolve([(missed.token, Forward("dead", Hop.LOAD))])
    assert await one.brain.next(LinkLost) == LinkLost("dead")
    failed = await one.brain.next(AttemptFailed)
    assert (failed.instance, failed.outcome, failed.replayable) == ("dead", Outcome.LOST, True)
    one.plane.set_peers([("dead", None)])
    one.plane.resolve([(failed.token, Fail(Status.ABORTED, "gone"))])
    assert (await status_of(call))[0] == grpc.StatusCode.ABORTED


async def test_a_silent_peer_is_lost(make: Make) -> None:
    """It holds the connection and the call, and answers nothing, pings least of all: 5 s in all."""
    from modelmesh.values.dataplane import Forward, Hop, PeerAddress

    silent = await ForgedServer(lambda connection, event: None).start()
    one = make()
    one.plane.set_peers([("silent", PeerAddress(silent.address))])
    call = one.unary()(b"x", metadata=ID)
    missed = await one.brain.next(Missed)
    one.plane.resolve([(missed.token, Forward("silent", Hop.HIT))])
    await until(lambda: silent.requests() == 1)
    silent.connections[0].transport.pause_reading()
    failed = await one.brain.next(AttemptFailed)
    assert (failed.instance, failed.outcome, failed.replayable) == ("silent", Outcome.HUNG, True)
    one.plane.resolve([(failed.token, Fail(Status.ABORTED, "gone"))])
    assert (await status_of(call))[0] == grpc.StatusCode.ABORTED
    silent.close()


async def test_a_runtime_that_takes_one_stream_at_a_time(make: Make) -> None:
    forged = ForgedServer()
    forged.settings = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    await forged.start()
    one = make(runtime=forged.address)
    one.local()
    async with asyncio.timeout(WAIT):
        assert await asyncio.gather(*(one.unary()(b"x", metadata=ID) for _ in range(100))) == [b""] * 100
    assert 1 < len(forged.connections) <= 16
    assert one.brain.events == []
    forged.close()


async def test_many_streams_through_small_windows(make: Make) -> None:
    """100 streams share a connection window of 64 KiB towards the runtime: nothing may be kept back."""
    one = make()
    forged = ForgedServer()
    forged.settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_535}
    await forged.start()
    one.plane.set_runtime(forged.address)
    one.local()

    async def upload() -> bytes:
        call = one.channel.stream_unary("/test.S/Echo")(metadata=ID)
        for _ in range(20):
            await call.write(bytes(10_000))
        await call.done_writing()
        return await call

    async with asyncio.timeout(30):
        assert await asyncio.gather(*(upload() for _ in range(100))) == [b""] * 100
    forged.close()


async def test_descriptors_do_not_leak(make: Make, runtime: Runtime) -> None:
    one = make()
    one.local()
    await one.unary()(b"x", metadata=ID)

    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    async def visit() -> None:
        local_pool = [("grpc.use_local_subchannel_pool", 1)]  # or channels share connections
        async with grpc.aio.insecure_channel(f"127.0.0.1:{one.plane.serving_port}", local_pool) as channel:
            call = channel.unary_unary("/test.S/Echo")
            await call(b"x", metadata=ID)
            held = call(b"x", metadata=(("mm-model-id", "cold"),))
            await one.brain.next(Missed)
            held.cancel()
            await one.brain.next(Cancelled)

    await visit()
    await until(lambda: "modelmesh_connections 1" in one.plane.metrics().decode())
    before = descriptors()
    for _ in range(20):
        await visit()
    await until(lambda: "modelmesh_connections 1" in one.plane.metrics().decode())
    await until(lambda: descriptors() <= before + 2)
    await until(lambda: one.plane.held() == (0, 0))
