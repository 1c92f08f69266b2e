"""One instance, from start to stop: `modelmesh serve`."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import structlog

from modelmesh.adapters.store import StoreSettingError
from modelmesh.adapters.telemetry.logs import LogLevel, configure_logs
from modelmesh.control.link import RuntimeRejectedError
from modelmesh.control.live_config import StartDisabledError
from modelmesh.instance.settings import Settings, SettingsError
from modelmesh.instance.wire import Wired, wire
from modelmesh.management.static import StaticRegistrationError, register_static
from modelmesh.ports import PeerUnreachableError, StoreError

EXIT_OK = 0
EXIT_USAGE = 1
EXIT_FAILURE = 3
"""Exit statuses are those of the old launcher."""

DRAIN_POLL_MS = 50
GOODBYE_S = 2.0
"""How long connections without calls may take to close."""

MOVE_PERCENT = 80
"""Share of the shutdown time for moving copies; the rest is for calls that still run."""

PING_TIMEOUT_MS = 5_000

Result = TypeVar("Result")


class DuplicateInstanceError(Exception):
    """Another process answers under our instance id."""


def run(settings: Settings) -> int:
    """Run an instance until SIGTERM or SIGINT; returns the exit status."""
    level = configure_logs(form=settings.log_format, level=settings.log_level)
    return asyncio.run(_run(settings, level))


async def _run(settings: Settings, level: LogLevel) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log = structlog.get_logger("modelmesh")
    try:
        wired = await _until(wire(settings, level), stop)
    except (SettingsError, StoreSettingError, StoreError, OSError) as error:
        return _start_failed(settings, _explain(error, settings))
    if wired is None:
        return EXIT_OK
    try:
        await _until(_start(wired), stop)
        if not stop.is_set():
            log.info(
                "ready",
                instance=wired.plane.identity.instance,
                serving_port=wired.dataplane.serving_port,
                peer=wired.plane.identity.address,
            )
            await stop.wait()
            await _drain(wired, settings.shutdown_timeout_ms)
    except (
        StoreError,
        RuntimeRejectedError,
        DuplicateInstanceError,
        StartDisabledError,
        StaticRegistrationError,
        OSError,
    ) as error:
        return _start_failed(settings, _explain(error, settings))
    finally:
        await wired.close()
    log.info("stopped", instance=wired.plane.identity.instance)
    return EXIT_OK


async def _start(wired: Wired) -> None:
    await _refuse_duplicate(wired)
    await wired.plane.start(serving_services=wired.serving_services, peer_services=wired.peer_services)
    wired.documents.follow(wired.plane)
    await register_static(wired.plane, wired.documents.static_models)
    wired.plane.open()


async def _refuse_duplicate(wired: Wired) -> None:
    """Refuse if our id still answers elsewhere; else end the lease that a predecessor left."""
    plane = wired.plane
    predecessor = await plane.predecessor()
    if predecessor is None:
        return
    address, lease = predecessor
    try:
        answered = await wired.peers.ping(address, timeout_ms=PING_TIMEOUT_MS)
    except PeerUnreachableError:
        answered = None
    if answered == plane.identity.instance and address.address != plane.identity.address:
        raise DuplicateInstanceError(
            f"instance id {answered} is in use: a process at {address.address} answers under it; "
            "set another MM_INSTANCE_ID"
        )
    if lease:
        await wired.store.revoke(lease)


async def _drain(wired: Wired, timeout_ms: int) -> None:
    """Move what is used elsewhere, leave, finish what runs; bounded by `timeout_ms`.

    This instance serves all the time: until the others hold what it held, then until its callers have
    followed the GOAWAY.
    """
    plane = wired.plane
    log = structlog.get_logger("modelmesh")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_ms / 1000):
            drained = await plane.drain(timeout_ms * MOVE_PERCENT // 100)
            log.info("drained", moved=drained.moved, left=drained.left)
            with contextlib.suppress(StoreError):
                await plane.leave()
            wired.dataplane.drain()
            while wired.dataplane.busy():
                await plane.clock.sleep(DRAIN_POLL_MS)
            # Callers must have read the GOAWAY before their connection goes; who has vanished never will.
            async with asyncio.timeout(GOODBYE_S):
                while wired.dataplane.connected():
                    await plane.clock.sleep(DRAIN_POLL_MS)
    with contextlib.suppress(StoreError):
        await plane.stop()


async def _until(work: Coroutine[Any, Any, Result], stop: asyncio.Event) -> Result | None:
    """Run `work`, or give it up when a stop is asked for."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return None
    finally:
        stopped.cancel()


def _explain(error: Exception, settings: Settings) -> str:
    if isinstance(error, StoreError) and settings.kv_store.startswith("etcd"):
        return f"Problem connecting to etcd: {error}"
    return str(error)


def _start_failed(settings: Settings, message: str) -> int:
    """Say why, on standard error and where Kubernetes looks."""
    text = f"Service startup failed: {message}"
    sys.stderr.write(f"{text}\n")
    path: Path | None = settings.resolved_termination_message_path()
    if path is not None:
        with contextlib.suppress(OSError), path.open("a") as file:
            file.write(f"{text}\n")
    return EXIT_FAILURE
