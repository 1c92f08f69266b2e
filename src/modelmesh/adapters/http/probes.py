"""`/ready`, `/live` and `/prestop` for orchestrators, answered by a thread of their own.

A blocked event loop cannot report itself, so `/live` is answered by another thread. Answers are empty; any verb, a
trailing slash and a query are tolerated. Source: `spec/api-config-tests.md` 6.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modelmesh.adapters.http.requests import Answer, HttpServer, Request, Response, listen

LIVE_BOUND_MS = 15_000
"""A thread that has not turned for so long is stuck; the orchestrator's own period comes on top."""

BEAT_S = 0.25


@dataclass(slots=True)
class Health:
    """What the probes report: written by the event loop of the instance, read by the thread of the probes.

    Attributes:
        ask_ready: Whether this instance takes calls; asked on the event loop.
        ready: Its last answer.
        ask_alive: Whether every loop of the control plane runs; asked on the event loop.
        alive: Its last answer.
        thread_ages_ms: How long ago each core thread turned; asked on the thread of the probes.
        turned_s: When the event loop last turned, by `time.monotonic`.
    """

    ask_ready: Callable[[], bool] = lambda: False
    ready: bool = False
    ask_alive: Callable[[], bool] = lambda: True
    alive: bool = True
    thread_ages_ms: Callable[[], Sequence[int]] = lambda: ()
    turned_s: float = field(default_factory=time.monotonic)

    async def beat(self) -> None:
        """Show that the event loop turns, and whether the instance is ready, until cancelled."""
        while True:
            self.turned_s = time.monotonic()
            self.ready, self.alive = _said(self.ask_ready), _said(self.ask_alive)
            await asyncio.sleep(BEAT_S)

    def live(self) -> bool:
        """Whether everything turns that should."""
        loop_age_ms = (time.monotonic() - self.turned_s) * 1000
        return self.alive and all(age_ms <= LIVE_BOUND_MS for age_ms in (loop_age_ms, *self.thread_ages_ms()))


def _said(ask: Callable[[], bool]) -> bool:
    """Whether it is true; an exception counts as false."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - a bug must not stop the beat
        return False


class ProbeServer:
    """Answers probes and preStop hooks.

    Args:
        host: Address to bind.
        probe_port: Of `/ready` and `/live`; 0: neither.
        prestop_port: Of `/prestop`; 0: none.
        health: What probes report.
        stop: Begins the stop of the instance; called by another thread, maybe several times.
        prestop_timeout_s: A hook gets its answer after this time, stopped or not.
    """

    def __init__(
        self,
        *,
        host: str,
        probe_port: int,
        prestop_port: int,
        health: Health,
        stop: Callable[[], object],
        prestop_timeout_s: float,
    ) -> None:
        self._host = host
        self._ports = [
            (probe_port, "MM_PROBE_PORT", self._probe),
            (prestop_port, "MM_PRESTOP_WAIT_PORT", self._prestop),
        ]
        self._health = health
        self._stop = stop
        self._prestop_timeout_s = prestop_timeout_s
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._listeners: list[tuple[socket.socket, Answer]] = []

    def start(self) -> None:
        """Bind and answer. Raises OSError naming the address and the setting."""
        try:
            for port, setting, answer in self._ports:
                if port:
                    self._listeners.append((listen(self._host, port, setting), answer))
        except OSError:
            for listener, _ in self._listeners:
                listener.close()
            self._loop.close()
            raise
        self._thread.start()

    def release(self) -> None:
        """Answer the hooks that wait: the instance has stopped."""
        self._loop.call_soon_threadsafe(self._released.set)

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._released.set)
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        serving = [asyncio.ensure_future(HttpServer(listener, answer).serve()) for listener, answer in self._listeners]
        await self._closing.wait()
        await asyncio.sleep(0)  # those that were released are answered
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _probe(self, request: Request) -> Response:
        if request.path == "/ready":
            return Response(200 if self._health.ready else 503)
        if request.path == "/live":
            return Response(200 if self._health.live() else 500)
        return Response(404)

    async def _prestop(self, request: Request) -> Response:
        if request.path != "/prestop":
            return Response(404)
        self._stop()
        try:
            async with asyncio.timeout(self._prestop_timeout_s):
                await self._released.wait()
        except TimeoutError:
            pass  # the orchestrator's patience ends about now as well
        return Response(200)
