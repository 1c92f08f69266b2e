"""What the puller counts, and where it is read: `/metrics`, `/live`, `/ready`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from modelmesh.storage import DiskCache, Progress, Report, Stage, StorageError

BUCKETS_S = (0.05, 0.2, 1, 5, 20, 60, 300, 1200)


class PullerMetrics:
    """Counts of one puller.

    Attributes:
        loads: Loads, by who ended them (`pull`, `runtime`) and with which code.
    """

    def __init__(self, cache: DiskCache) -> None:
        self.registry = CollectorRegistry()
        self.loads = Counter(
            "modelmesh_puller_loads", "Loads that ended.", ("ended_by", "code"), registry=self.registry
        )
        self._pulls = Histogram(
            "modelmesh_puller_pull_seconds",
            "From asking for files to having them.",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._fetched = Counter(
            "modelmesh_puller_fetched_bytes", "Bytes that came from stores.", registry=self.registry
        )
        self._pulling = Gauge(
            "modelmesh_puller_pulls", "Pulls under way, by stage.", ("stage",), registry=self.registry
        )
        used = Gauge("modelmesh_puller_cache_bytes", "Bytes of the disk cache.", registry=self.registry)
        used.set_function(lambda: _used_bytes(cache))

    @contextmanager
    def pull(self) -> Iterator[Report]:
        """Count a pull; the reports go in."""
        stage = Stage.LISTING
        fetched = 0
        self._pulling.labels(stage.value).inc()

        def report(progress: Progress) -> None:
            nonlocal stage, fetched
            if progress.stage is not stage:
                self._pulling.labels(stage.value).dec()
                self._pulling.labels(progress.stage.value).inc()
                stage = progress.stage
            if stage is Stage.FETCHING and progress.bytes_done > fetched:
                self._fetched.inc(progress.bytes_done - fetched)
                fetched = progress.bytes_done

        try:
            with self._pulls.time():
                yield report
        finally:
            self._pulling.labels(stage.value).dec()


def _used_bytes(cache: DiskCache) -> float:
    try:
        return cache.usage().used_bytes
    except StorageError:
        return float("nan")


async def serve_metrics(metrics: PullerMetrics, port: int, ready: Callable[[], bool]) -> web.AppRunner:
    """Listen for scrapes and probes, on all interfaces: the node asks.

    Raises:
        OSError: The port is taken.
    """

    async def scrape(_request: web.Request) -> web.Response:
        body = generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def live(_request: web.Request) -> web.Response:
        return web.Response()

    async def is_ready(_request: web.Request) -> web.Response:
        return web.Response(status=200 if ready() else 503)

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape), web.get("/live", live), web.get("/ready", is_ready)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, None, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
