"""The puller's metrics and probes: `/metrics`, `/live`, `/ready`."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from modelmesh.adapters.http.requests import HttpServer, Request, Response, listen
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


class MetricsPage:
    """`/metrics`, `/live` and `/ready`, on all interfaces: the node asks.

    Args:
        ready: Whether loads can be passed on.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, metrics: PullerMetrics, port: int, ready: Callable[[], bool]) -> None:
        self._registry = metrics.registry
        self._ready = ready
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - as said above
        listener = listen(host, port, "METRICS_PORT", "metrics")
        self.port = int(listener.getsockname()[1])
        self._serving = asyncio.create_task(HttpServer(listener, self._answer).serve(), name="metrics")

    async def stop(self) -> None:
        """Close."""
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)

    async def _answer(self, request: Request) -> Response:
        match request.path:
            case "/metrics":
                return Response(200, generate_latest(self._registry), CONTENT_TYPE_LATEST)
            case "/live":
                return Response(200)
            case "/ready":
                return Response(200 if self._ready() else 503)
        return Response(404)
