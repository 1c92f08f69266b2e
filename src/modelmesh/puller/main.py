"""The puller as a program: start, serve in front of the runtime across its restarts, stop."""

import asyncio
import contextlib
import json
import logging
import signal
import sys

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.puller.metrics import MetricsPage, PullerMetrics
from modelmesh.puller.service import PullerService
from modelmesh.puller.settings import PullerSettings
from modelmesh.puller.upstream import SERVICE, Upstream
from modelmesh.runtime import load_progress
from modelmesh.runtime.grpc_server import GrpcServer
from modelmesh.runtime.introspection import Health, Reflection
from modelmesh.storage import ConfigFolder, DiskCache, ModelFolders, Places, Puller

_log = logging.getLogger("modelmesh.puller")

MAX_MESSAGE_BYTES = 4 << 20
"""Of a management call: its texts are bounded far below."""
GRACE_S = 10.0
"""How long a stop waits for loads and unloads; what still runs is cancelled, which leaves nothing of it."""


class Serving:
    """A puller that listens. `address`: where."""

    def __init__(self, settings: PullerSettings) -> None:
        self._settings = settings
        keeps = settings.cache_bytes if settings.cache_bytes is not None else sys.maxsize
        self._puller = Puller(DiskCache(settings.cache, keeps), places=Places(claims=settings.claims))
        folders = ModelFolders(
            settings.root, self._puller, ConfigFolder(settings.storage_configs), keeps=settings.cache_bytes is not None
        )
        self.upstream = Upstream(settings.runtime)
        self.metrics = PullerMetrics(self._puller.cache)
        self.service = PullerService(folders, self.upstream, settings.factor, self.metrics)
        self._server: GrpcServer | None = None
        self._health: Health | None = None
        self._port = settings.port

    @property
    def address(self) -> str:
        """Where the mesh calls."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The port is taken.
        """
        self._health = Health([SERVICE])
        self._health.set_serving(serving=self.upstream.connected)
        descriptors = [pb.DESCRIPTOR.services_by_name["ModelRuntime"], load_progress.DESCRIPTOR]
        methods = self.service.methods() | load_progress.progress_methods(self.service.progress)
        methods |= self._health.methods() | Reflection(descriptors).methods()
        server = GrpcServer(methods, max_message_bytes=MAX_MESSAGE_BYTES)
        try:
            self._port = int((await server.listen(self.address)).rpartition(":")[2])
        except OSError:
            await server.stop(0)
            raise
        self._server = server
        _log.info("pulling for the runtime at %s, at %s", self.upstream.target, self.address)

    async def live(self) -> None:
        """One life of the runtime after the other, until cancelled.

        When the runtime is another one, our connections are dropped too: the mesh then asks again what is loaded.
        """
        while True:
            await self.upstream.until_ready()
            self._tell(serving=True)
            await self.service.forget_lost()
            await self.upstream.until_lost()
            self._tell(serving=False)
            if await self.upstream.has_restarted(self.service.loaded):
                _log.warning(
                    "the runtime at %s has ended; connections to it and to us are opened again", self.upstream.target
                )
                await self._drop_connections()

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """End: calls have `grace_s`, then they are cancelled."""
        if self._health is not None:
            self._health.close()
        if self._server is not None:
            await self._server.stop(grace_s)
        await self.upstream.close()
        await self._puller.close()

    async def _drop_connections(self) -> None:
        if self._health is not None:
            self._health.close()
        assert self._server is not None
        await self._server.stop(0)
        await self.start()

    def _tell(self, *, serving: bool) -> None:
        if self._health is not None:
            self._health.set_serving(serving=serving)


async def serve_puller(settings: PullerSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        OSError: A port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = Serving(settings)
    await serving.start()
    page = None
    if settings.metrics_port:
        page = MetricsPage(serving.metrics, settings.metrics_port, lambda: serving.upstream.connected)
    living = asyncio.ensure_future(serving.live())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([living, stopping], return_when=asyncio.FIRST_COMPLETED)
        _log.info("stopping")
    finally:
        for task in (living, stopping):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await living
        await serving.stop()
        if page is not None:
            await page.stop()


class JsonLines(logging.Formatter):
    """Log lines as JSON objects."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "ts": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logs(*, plain: bool) -> None:
    """Logs on standard error, for people or for programs."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(text if plain else JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
