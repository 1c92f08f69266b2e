"""One instance, from start to stop: `modelmesh serve`."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from modelmesh.adapters.http.probes import Health, ProbeServer
from modelmesh.adapters.telemetry.logs import LogLevel, configure_logs
from modelmesh.control.copies.runtime_link import RuntimeRejectedError
from modelmesh.control.view.live_config import StartDisabledError
from modelmesh.instance.allocator import give_large_blocks_back
from modelmesh.instance.anchor import Anchor, AnchorError
from modelmesh.instance.exposure import exposure
from modelmesh.instance.settings import Settings, SettingsError
from modelmesh.instance.wire import Wired, wire
from modelmesh.management.static import StaticRegistrationError, register_static
from modelmesh.ports import PeerUnreachableError, StoreError

EXIT_OK = 0
EXIT_USAGE = 1
EXIT_ANCHOR = 2
EXIT_FAILURE = 3
"""Exit statuses are those of the old launcher."""

DRAIN_POLL_MS = 50
GOODBYE_S = 2.0
"""How long connections without calls may take to close."""

MOVE_PERCENT = 80
"""Share of the shutdown time for moving copies; the rest is for calls that still run."""

PING_TIMEOUT_MS = 5_000

ETCD_PROBLEM = "Problem connecting to etcd"
"""How such a message begins; the old controller and people's alerts know it."""

LAST_RESORT_S = 5.0
"""A stop that takes so much longer than it may has got stuck, and the process ends where it stands."""

Result = TypeVar("Result")


class DuplicateInstanceError(Exception):
    """Another process answers under our instance id."""


def run(settings: Settings, remarks: Sequence[str] = ()) -> int:
    """Run an instance until it is stopped; returns the exit status.

    SIGTERM, SIGINT, a call of `/prestop` and the deletion of the anchor file stop it.

    Args:
        settings: What the operator set.
        remarks: Remarks for the log on its settings.
    """
    give_large_blocks_back()
    level = configure_logs(form=settings.log_format, level=settings.log_level)
    for remark in remarks:
        structlog.get_logger("modelmesh").warning("setting", detail=remark)
    return asyncio.run(_run(settings, level))


async def _run(settings: Settings, level: LogLevel) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health()
    with contextlib.ExitStack() as opened:
        try:
            opened.enter_context(_probes(settings, health, stop))
        except OSError as error:
            return _start_failed(settings, str(error))
        if settings.anchor_file is not None:
            anchor = Anchor(settings.anchor_file)
            try:
                anchor.create()
            except AnchorError as error:
                _start_failed(settings, str(error))
                return EXIT_ANCHOR
            opened.callback(anchor.remove)
            opened.enter_context(_beside(_stop_when_deleted(anchor, stop)))
        opened.enter_context(_beside(health.beat()))
        opened.enter_context(_beside(_last_resort(stop, settings.shutdown_timeout_ms)))
        return await _live(settings, level, health, stop)


async def _live(settings: Settings, level: LogLevel, health: Health, stop: asyncio.Event) -> int:
    """From the first connection to the last."""
    log = structlog.get_logger("modelmesh")
    try:
        wired = await _until(wire(settings, level), stop)
    except (SettingsError, ValueError) as error:  # StoreSettingError, and certificates that do not fit, are ValueErrors
        _start_failed(settings, str(error))
        return EXIT_USAGE
    except (StoreError, OSError) as error:
        return _start_failed(settings, _explain(error, settings))
    if wired is None:
        return EXIT_OK
    if warning := exposure(settings):
        log.warning("exposed", detail=warning)
    health.thread_ages_ms = wired.dataplane.thread_ages_ms
    health.ask_ready = lambda: wired.plane.ready
    health.ask_alive = wired.plane.supervisor.alive
    try:
        await _until(_start(wired), stop)
        if not stop.is_set():
            log.info(
                "ready",
                instance=wired.plane.identity.instance,
                serving_port=wired.dataplane.serving_port,
                management_port=wired.dataplane.management_port,
                rest_port=wired.dataplane.rest_port,
                peer=wired.plane.identity.address,
            )
            await _until(wired.plane.supervisor.ended.wait(), stop)
            if (why := wired.plane.supervisor.broken) is not None:
                return _end(settings, f"This instance cannot go on: {why}")
            await _drain(wired, settings.shutdown_timeout_ms)
        else:
            await _give_up_start(wired)
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
        health.ask_ready, health.ask_alive = (lambda: False), (lambda: True)
        health.ready = False
        await wired.close()
    log.info("stopped", instance=wired.plane.identity.instance)
    return EXIT_OK


@contextlib.contextmanager
def _probes(settings: Settings, health: Health, stop: asyncio.Event) -> Iterator[None]:
    """Answer probes from before the start until after the stop: hooks that wait are answered last of all."""
    loop = asyncio.get_running_loop()
    probes = ProbeServer(
        host=settings.listen_host,
        probe_port=settings.probe_port,
        prestop_port=settings.prestop_port,
        health=health,
        stop=lambda: loop.call_soon_threadsafe(stop.set),
        prestop_timeout_s=2 * (settings.shutdown_timeout_ms / 1000 + 1),
    )
    probes.start()
    try:
        yield
    finally:
        probes.close()


@contextlib.contextmanager
def _beside(work: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Run `work` until we are done."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()


async def _stop_when_deleted(anchor: Anchor, stop: asyncio.Event) -> None:
    await anchor.deleted()
    stop.set()


async def _last_resort(stop: asyncio.Event, timeout_ms: int) -> None:
    """From the stop on, a thread ends the process if the loop does not come to its end."""
    await stop.wait()
    timer = threading.Timer(timeout_ms / 1000 + LAST_RESORT_S, _end_hard)
    timer.daemon = True
    timer.start()
    try:
        await asyncio.Event().wait()
    finally:
        timer.cancel()


def _end_hard() -> None:
    sys.stderr.write("the stop did not end in time (SHUTDOWN_TIMEOUT_MS); ending where it stands\n")
    sys.stderr.flush()
    os._exit(EXIT_FAILURE)


async def _start(wired: Wired) -> None:
    await _refuse_duplicate(wired)
    await wired.plane.start()
    wired.documents.follow(wired.plane)
    await register_static(wired.plane, wired.documents.static_models)
    wired.plane.open()


async def _give_up_start(wired: Wired) -> None:
    """A start that is stopped leaves nothing in the store, as far as that answers."""
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await wired.plane.leave()


async def _refuse_duplicate(wired: Wired) -> None:
    """Refuse if our id still answers elsewhere; else end the lease that a predecessor left."""
    plane = wired.plane
    predecessor = await plane.membership.predecessor()
    if predecessor is None:
        return
    address, lease = predecessor
    try:
        answered = None if address is None else await wired.peers.ping(address, timeout_ms=PING_TIMEOUT_MS)
    except PeerUnreachableError:
        answered = None
    if address is not None and answered == plane.identity.instance and address.address != plane.identity.address:
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
            # Callers must have read the GOAWAY before their connection is closed; a lost client never will.
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
    text = str(error)
    if isinstance(error, StoreError) and settings.kv_store.startswith("etcd") and not text.startswith(ETCD_PROBLEM):
        return f"{ETCD_PROBLEM}: {text}"
    return text


def _start_failed(settings: Settings, message: str) -> int:
    """Write the reason to standard error and to the termination message of Kubernetes."""
    return _end(settings, f"Service startup failed: {message}")


def _end(settings: Settings, text: str) -> int:
    with contextlib.suppress(OSError, ValueError):  # a full disk must not prevent the report to Kubernetes
        sys.stderr.write(f"{text}\n")
    path: Path | None = settings.resolved_termination_message_path()
    if path is not None:
        with contextlib.suppress(OSError), path.open("a") as file:
            file.write(f"{text}\n")
    return EXIT_FAILURE
