"""Start, drain, stop, and what goes wrong around them."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import grpc
import pytest
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.adapters.dataplane import NativeDataPlane

Make = Callable[..., Instance]


def plane(**settings: object) -> NativeDataPlane:
    defaults: dict[str, object] = {"instance": "i", "runtime": "127.0.0.1:1", "serving": "127.0.0.1:0", "peer": None}
    return NativeDataPlane(**{**defaults, **settings})  # type: ignore[arg-type]


def test_stop_right_after_start() -> None:
    for _ in range(20):
        core = plane(threads=3)
        core.start()
        core.close()
        core.close()


def test_stop_without_start() -> None:
    core = plane()
    core.close()


def test_forgotten_without_stop() -> None:
    core = plane()
    core.start()
    del core


def test_a_port_in_use_is_named(runtime: Runtime) -> None:
    first = plane()
    first.start()
    address = f"127.0.0.1:{first.serving_port}"
    second = plane(serving="127.0.0.1:0", peer=address)
    with pytest.raises(OSError, match=f"cannot listen on {address} .peer port.: .*in use"):
        second.start()
    second.close()
    first.close()


def test_an_address_that_is_none() -> None:
    with pytest.raises(OSError, match="cannot listen on nonsense"):
        plane(serving="nonsense").start()


async def test_drain_lets_open_calls_finish(one: Instance) -> None:
    one.local()
    call = one.stream()(metadata=ID)
    await call.write(b"1")
    assert await call.read() == b"1"
    port = one.plane.serving_port
    one.plane.drain()
    await until(lambda: not _connects(port))
    await call.write(b"2")
    assert await call.read() == b"2"
    assert one.plane.busy()
    await call.done_writing()
    async with asyncio.timeout(WAIT):
        assert await call.code() == grpc.StatusCode.OK
    await until(lambda: "modelmesh_connections 0" in one.plane.metrics().decode())
    assert not one.plane.busy()


def _connects(port: int | None) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port or 0)) == 0


async def test_stop_while_calls_run(make: Make, runtime: Runtime) -> None:
    one = make()
    one.local()

    async def hang(requests, context):
        await asyncio.Event().wait()
        yield b""

    runtime.script["Hang"] = hang
    running = one.unary("Hang")(b"", metadata=ID)
    await asyncio.wait_for(runtime.called.wait(), WAIT)
    held = one.unary()(b"", metadata=(("mm-model-id", "cold"),))
    await until(lambda: one.plane.held()[0] == 1)
    one.plane.close()
    for call in (running, held):
        assert (await status_of(call))[0] == grpc.StatusCode.UNAVAILABLE


async def test_a_connection_that_is_old_is_asked_to_go(make: Make) -> None:
    one = make(max_connection_age_ms=100, max_connection_age_grace_ms=100)
    one.local()
    call = one.stream()(metadata=ID)
    await call.write(b"1")
    async with asyncio.timeout(WAIT):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert await one.unary()(b"x", metadata=ID, timeout=WAIT) == b"x"


def test_a_forked_child_is_told() -> None:
    core = plane()
    core.start()
    child = os.fork()
    if child == 0:
        try:
            core.held()
        except RuntimeError as error:
            os._exit(7 if "fork" in str(error) else 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    core.close()


async def test_a_process_ends_by_itself_and_by_signals() -> None:
    program = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
sys.path[:0] = %r
from modelmesh.adapters.dataplane import NativeDataPlane
core = NativeDataPlane(instance="i", runtime="127.0.0.1:1", serving="127.0.0.1:0", peer=None)
core.start()
try:
    print("up", flush=True)
    if sys.argv[1] == "wait":
        threading.Event().wait()
except KeyboardInterrupt:
    sys.exit(3)
"""
    for how, code in (("leave", 0), ("wait", 3)):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program % (sys.path,), how, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(WAIT):
            await process.stdout.readline()
            if how == "wait":
                process.send_signal(signal.SIGINT)
            assert await process.wait() == code
