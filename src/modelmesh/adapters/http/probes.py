"""`/ready` and `/live` for orchestrators: empty answers, any verb, a trailing slash tolerated."""

from collections.abc import Callable

from aiohttp import web

LIVE_BOUND_MS = 15_000
"""A core thread that has not turned for so long is stuck; the orchestrator's own period comes on top."""


class ProbeServer:
    """Answers probes.

    Args:
        ready: Whether this instance takes calls.
        thread_ages_ms: How long ago each core thread turned.
    """

    def __init__(
        self, *, host: str, port: int, ready: Callable[[], bool], thread_ages_ms: Callable[[], "list[int]"]
    ) -> None:
        self._host = host
        self._port = port
        self._ready = ready
        self._thread_ages_ms = thread_ages_ms
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Bind. Raises OSError naming the address."""
        application = web.Application()
        for path, handler in (("/ready", self._answer_ready), ("/live", self._answer_live)):
            application.router.add_route("*", path, handler)
            application.router.add_route("*", f"{path}/", handler)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise OSError(
                error.errno, f"probes cannot listen on {self._host}:{self._port} (MM_PROBE_PORT): {error.strerror}"
            ) from error

    async def stop(self) -> None:
        """Close."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer_ready(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._ready() else 503)

    async def _answer_live(self, _: web.Request) -> web.Response:
        # That this is answered at all shows that the event loop turns.
        stuck = any(age_ms > LIVE_BOUND_MS for age_ms in self._thread_ages_ms())
        return web.Response(status=500 if stuck else 200)
