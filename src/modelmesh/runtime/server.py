"""The server of an author's runtime: `serve` inside an event loop, `run` as a program."""

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from modelmesh._proto import model_runtime_pb2
from modelmesh.runtime import load_progress
from modelmesh.runtime.contract import ModelRuntime, ModelService
from modelmesh.runtime.grpc_server import GrpcServer
from modelmesh.runtime.introspection import Health, Reflection
from modelmesh.runtime.loaded import LoadedModels, call
from modelmesh.runtime.management import Management
from modelmesh.runtime.service import CallGate, model_service_methods
from modelmesh.values.load_progress import LoadProgress

_log = logging.getLogger("modelmesh.runtime")

DEFAULT_LISTEN = "127.0.0.1:8085"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
GRACE_S = 10.0
"""How long a stop waits for calls to end, and as long again for loads and unloads."""

MAX_CALLS = 1024
"""Inference calls at once, running or waiting for a thread."""


class RuntimeServer:
    """A running server.

    Attributes:
        addresses: Where it listens, as `host:port` or `unix:///path`; the ports are real where 0 was asked.
        models: What is loaded.
    """

    def __init__(
        self,
        server: GrpcServer,
        addresses: Sequence[str],
        models: LoadedModels[Any],
        health: Health,
        pools: Sequence[ThreadPoolExecutor],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._server = server
        self._health = health
        self._pools = pools
        self._close = close
        self.addresses = tuple(addresses)
        self.models = models

    @property
    def address(self) -> str:
        """The first of `addresses`."""
        return self.addresses[0]

    async def wait(self) -> None:
        """Wait until the server has stopped."""
        await self._server.wait()

    async def stop(self, grace_s: float = GRACE_S) -> bool:
        """Refuse new calls, let running ones end, unload every model, free the threads.

        Calls have `grace_s` to end, unloads as long again. False if a method of the author's still runs after that:
        its thread cannot be stopped, and would keep the process from ending.
        """
        self._health.close()
        await self._server.stop(grace_s)
        clean = True
        try:
            await asyncio.wait_for(self.models.purge(), max(grace_s, 1.0))
        except TimeoutError:
            clean = False
            _log.error("stopping although loads or unloads still run")
        except Exception:  # noqa: BLE001 - the process is ending in any case
            _log.exception("stopping although models could not be unloaded")
        try:
            await asyncio.wait_for(self._close(), max(grace_s, 1.0))
        except Exception:  # noqa: BLE001 - whatever close raised, the process is ending
            clean = False
            _log.exception("stopping although the runtime could not be closed")
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for address in self.addresses:
            _remove_socket(address)
        return clean


async def serve(
    runtime: ModelRuntime[Any],
    *,
    listen: str | Sequence[str] = DEFAULT_LISTEN,
    inference_threads: int | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    management: Callable[[Any, LoadedModels[Any], list[ModelService[Any]]], Management] = Management,
    bounded: bool = True,
) -> RuntimeServer:
    """Serve a runtime on the running event loop; returns when it listens.

    Args:
        runtime: Of the author.
        listen: One or more of `port`, `host:port`, `unix:///path`; port 0 takes a free one.
        inference_threads: Threads for plain `infer` and service methods; None: one per CPU.
        max_message_bytes: Larger requests and answers are refused with RESOURCE_EXHAUSTED.
        management: Answers the management calls.
        bounded: Whether a load that does not fit into the capacity is refused here. An adapter leaves that to the mesh:
            it learns a size when the server has the model already.

    Raises:
        OSError: An address is in use or not permitted.
        ValueError: An address, or a limit of the runtime, makes no sense.
    """
    _check(runtime)
    addresses = [_address(one) for one in ([listen] if isinstance(listen, str) else listen)]
    slow = ThreadPoolExecutor(max(1, runtime.loading_concurrency) + 4, thread_name_prefix="models")
    threads = inference_threads or os.cpu_count() or 1
    fast = ThreadPoolExecutor(threads, thread_name_prefix="infer")
    models = LoadedModels(runtime, slow, bounded=bounded)
    gate = CallGate(MAX_CALLS)
    own = list(runtime.services())
    methods = management(runtime, models, own).methods()
    for service in own:
        methods |= model_service_methods(service, models, fast, gate)
    descriptors = [
        model_runtime_pb2.DESCRIPTOR.services_by_name["ModelRuntime"],
        *(service.descriptor for service in own),
    ]
    if type(runtime).progress is not ModelRuntime.progress:

        async def progress(model_id: str) -> LoadProgress | None:
            return runtime.progress(model_id)

        methods |= load_progress.progress_methods(progress)
        descriptors.append(load_progress.DESCRIPTOR)
    quick = None
    if type(runtime).infer is not ModelRuntime.infer:
        from modelmesh.runtime.inference import Inference  # noqa: PLC0415 - needs numpy, which an own protocol does not

        inference = Inference(runtime, models, fast, gate, threads=threads)
        methods |= inference.methods()
        quick = inference.quick
        descriptors.append(inference.descriptor)
    health = Health([descriptor.full_name for descriptor in descriptors])
    methods |= health.methods() | Reflection(descriptors).methods()
    server = GrpcServer(methods, max_message_bytes=max_message_bytes, quick=quick)
    try:
        bound = [await server.listen(address) for address in addresses]
    except BaseException:
        await server.stop(0)
        raise
    _log.info("serving %s at %s", runtime.name, ", ".join(bound))
    return RuntimeServer(server, bound, models, health, (slow, fast), partial(call, slow, runtime.close))


def run(
    runtime: ModelRuntime[Any],
    *,
    listen: str | Sequence[str] = DEFAULT_LISTEN,
    inference_threads: int | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> None:
    """Serve a runtime as a program: returns after SIGTERM or SIGINT, when running calls have ended.

    Ends the process with status 1 if something of the author's still hangs 20 s later (2 * `GRACE_S`).

    Arguments and exceptions are those of `serve`. Logs go to standard error unless logging is set up already.
    """

    async def main() -> None:
        server = await serve(
            runtime, listen=listen, inference_threads=inference_threads, max_message_bytes=max_message_bytes
        )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop_soon(*_: object) -> None:
            # Not left to the loop, which a method of the author's may hold.
            last_resort = threading.Timer(2 * GRACE_S, _end_hard)
            last_resort.daemon = True
            last_resort.start()
            loop.call_soon_threadsafe(stop.set)

        for number in (signal.SIGTERM, signal.SIGINT):
            # The loop's own handler wakes it by a pipe. Without it, a signal that comes just before the loop begins to wait
            # for events is seen only at the next event, which may never come.
            loop.add_signal_handler(number, stop.set)
            signal.signal(number, stop_soon)
        warming = asyncio.create_task(_warm_up(runtime))
        await stop.wait()
        _log.info("stopping")
        _, cold = await asyncio.wait([warming], timeout=GRACE_S)
        if not await server.stop(GRACE_S) or cold:
            _end_hard()  # here: the end of the loop would wait for the thread that hangs

    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main())


def _end_hard() -> None:
    """End the process where it stands: a thread that hangs in a method of the author's would hold it forever."""
    logging.shutdown()
    os._exit(1)


async def _warm_up(runtime: ModelRuntime[Any]) -> None:
    """Import what will be needed, then take all that exists out of the collections that follow unloads.

    With scikit-learn imported a collection takes 25 ms, and no call gets on meanwhile; afterwards next to nothing.
    """
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="warm-up") as pool:
            await call(pool, runtime.warm_up)
    except Exception:  # noqa: BLE001 - author code may raise anything; the first load will show it
        _log.exception("warming up failed")
    gc.freeze()


def _check(runtime: ModelRuntime[Any]) -> None:
    """Refuse at start what would make the mesh refuse later."""
    for name, least in (
        ("capacity_bytes", 1),
        ("default_size_bytes", 1),
        ("loading_concurrency", 1),
        ("load_timeout_ms", 100),
    ):
        value = getattr(runtime, name)
        if value < least:
            raise ValueError(f"{name} is {value}; the mesh wants at least {least}")
    default_bytes = runtime.default_size_bytes
    least_bytes = max(2 * default_bytes, min(512 * 1024 * 1024, 10 * default_bytes))
    if runtime.capacity_bytes < least_bytes:
        raise ValueError(
            f"capacity_bytes is {runtime.capacity_bytes}, but with default_size_bytes {default_bytes} the mesh wants"
            f" at least {least_bytes}; lower the default size or raise the capacity"
        )


def _address(listen: str) -> str:
    """An address in the form of gRPC: `host:port` or `unix:///path`."""
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        return "unix://" + str(Path(path.removeprefix("//") if path.startswith("//") else path).absolute())
    host, colon, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or (colon and not host):
        raise ValueError(f"{listen!r} is no address; write a port, host:port or unix:///path")
    return f"{host or '127.0.0.1'}:{port}"


def _remove_socket(address: str) -> None:
    if address.startswith("unix://"):
        Path(address.removeprefix("unix://")).unlink(missing_ok=True)
