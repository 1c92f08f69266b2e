"""Follows the server across its restarts.

A server that ends takes its models with it. The adapter then drops its own connections too: the mesh stops sending calls at
once, comes back, asks for the size of a model that it had loaded, gets NOT_FOUND, and so knows that all models are lost. The
contract has no other way to report a restart.
"""

import asyncio
import logging
import signal
from collections.abc import Callable

from modelmesh.runtime.errors import RuntimeFault, describe
from modelmesh.runtime.server import GRACE_S, RuntimeServer, serve
from modelmesh.servers.adapter import AdapterRuntime
from modelmesh.servers.driver import ServerAwayError
from modelmesh.servers.service import AdapterManagement

_log = logging.getLogger("modelmesh.servers")

CHECK_S = 1.0
"""Between two looks at the server."""

OPEN_RETRY_S = 0.25
SAID_EVERY = 40
"""Looks at a server that is not there yet, until the log repeats it."""

MISSES = 2
"""Pings in a row without an answer after which the server counts as ended."""


async def serve_lives(make: Callable[[], AdapterRuntime], listen: str, stop: asyncio.Event) -> None:
    """Serve until `stop`, with a new runtime for each life of the server.

    Raises:
        OSError, ValueError: It cannot listen, or a setting makes no sense.
    """
    while not stop.is_set():
        runtime = make()
        server = await serve(runtime, listen=listen, management=AdapterManagement, bounded=False)
        life = asyncio.ensure_future(live(runtime, server))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([life, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not stop.is_set():
            runtime.end()
            _log.warning("%s: %s; all its models are lost", runtime.driver.name, life.result())
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        await server.stop(GRACE_S if stop.is_set() else 0)
        await runtime.driver.close()


async def live(runtime: AdapterRuntime, server: RuntimeServer) -> str:
    """Wait for the server, empty it, and watch it; returns when it has ended, with how that was seen."""
    await _opened(runtime)
    misses = 0
    turn = 0
    while True:
        await asyncio.sleep(CHECK_S)
        turn += 1
        try:
            await runtime.driver.ready()
            if lost := await _lost(runtime, server, turn):
                return f"it has restarted: it does not know {lost!r} any more"
            misses = 0
        except ServerAwayError as error:
            misses += 1
            if misses >= MISSES:
                return describe(error)
        except RuntimeFault as error:
            _log.debug("%s: %s", runtime.driver.name, describe(error))  # it is there, and busy


async def _opened(runtime: AdapterRuntime) -> None:
    looks = 0
    while True:
        try:
            await runtime.open()
        except (RuntimeFault, OSError) as error:
            if looks % SAID_EVERY == 0:
                _log.info("waiting for %s: %s", runtime.driver.name, describe(error))
            looks += 1
            await asyncio.sleep(OPEN_RETRY_S)
        else:
            return


async def _lost(runtime: AdapterRuntime, server: RuntimeServer, turn: int) -> str:
    """A model that should be loaded, and is not; empty: there is none. One model a look: a server loses all or none."""
    loaded = server.models.ids()
    if not loaded:
        return ""
    model_id = loaded[turn % len(loaded)]
    if await runtime.driver.holds(model_id) or model_id not in server.models.ids():
        return ""
    return model_id


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
