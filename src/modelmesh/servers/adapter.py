"""A model server as a runtime: loads, measures and unloads its models through its driver.

The order of loads and unloads of one model, joined loads and given-up loads are `modelmesh.runtime.loaded`'s. Here is what
that does not know: files, and a server that may hold models that were not requested.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelmesh.runtime.contract import ModelRuntime, ModelSource
from modelmesh.runtime.errors import RuntimeFault, describe
from modelmesh.runtime.load_progress import LoadsAtWork
from modelmesh.servers.driver import LOAD_BOUND_S, Driver, ServerAwayError
from modelmesh.servers.files import Brought, Files
from modelmesh.servers.layout import Given, Layout, empty, remove, write_layout
from modelmesh.servers.names import folder_name, format_of
from modelmesh.servers.schema import Schema, read_schema
from modelmesh.servers.settings import AdapterSettings
from modelmesh.servers.sizes import Growth, Reason, Sizes, Slack, judge
from modelmesh.servers.tree import Tree, listed, scan
from modelmesh.servers.versions import chosen_version
from modelmesh.values.load_progress import LoadProgress

_log = logging.getLogger("modelmesh.servers")


@dataclass(slots=True)
class Placed:
    """A model that the server has loaded. `format` and `content` name its size among what is known of sizes."""

    id: str
    folder: Path
    size_bytes: int
    format: str
    content: str


@dataclass(slots=True)
class _Turns:
    """Loads and unloads that run, so that each knows whether it was alone."""

    running: int = 0
    begun: int = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        self.running += 1
        self.begun += 1
        try:
            yield
        finally:
            self.running -= 1


class AdapterRuntime(ModelRuntime[Placed]):
    """One life of a server. When the server ends, this ends with it, and another one begins empty.

    Args:
        driver: The server's.
        files: Pulls the models' files.
        settings: Limits, and where models stand.
        sizes: What is known of sizes; outlives the server.
    """

    def __init__(self, driver: Driver, files: Files, settings: AdapterSettings, sizes: Sizes) -> None:
        self.name = f"modelmesh-adapter-{driver.name.lower()}"
        self.version = settings.version
        self.capacity_bytes = settings.capacity_bytes
        self.default_size_bytes = settings.default_size_bytes
        self.loading_concurrency = settings.loading_concurrency
        self.load_timeout_ms = settings.load_timeout_ms
        self.limits_concurrency = settings.concurrency_limit > 0
        self.driver = driver
        self.root = settings.root / driver.folder
        self._files = files
        self._sizes = sizes
        self._limit = settings.concurrency_limit
        self._ready = False
        self._ended = asyncio.Event()
        self._slack = Slack()
        self._sees_memory = False
        self._prepared: set[str] = set()
        self._turns = _Turns()
        self._locks: dict[str, asyncio.Lock] = {}
        self._placed: set[str] = set()
        self._at_work = LoadsAtWork()

    # --- the server's life --------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Whether the server takes loads, and holds nothing from before."""
        return self._ready

    async def open(self) -> None:
        """Wait for nothing: ask the server whether it is there, and empty it.

        Raises:
            RuntimeFault: It is not there, or does not release a model; ask again later.
            OSError: The folder of its models cannot be emptied.
        """
        version = await self.driver.ready()
        for model_id in await self.driver.leftovers(self.root):
            _log.debug("unloading %r, which %s may hold from before", model_id, self.driver.name)
            await self.driver.unload(model_id, self._folder(model_id))
        await asyncio.to_thread(empty, self.root)
        await self._files.clear()
        memory = await self.driver.memory()
        self._slack, self._sees_memory = Slack(), memory is not None
        self.version = version or self.version
        self._ready = True
        seen = "its memory cannot be seen from here" if memory is None else f"it takes {memory} bytes"
        _log.info("%s %s is ready and empty; %s", self.driver.name, version, seen)

    def end(self) -> None:
        """The server has ended, and all its models: from now on an unload only removes files."""
        self._ready = False
        self._ended.set()

    # --- loading ------------------------------------------------------------------------------

    async def load(self, source: ModelSource) -> Placed:
        """Pull the files, lay them out, let the server load them, and measure. Cancelled, it leaves nothing.

        Raises:
            RuntimeFault: With the status for the cause; nothing is left of the model.
        """
        async with self._alone_with(source.id):
            with self._at_work.one(source.id) as report:
                brought = await self._files.bring(source, report)
                self._at_work.loading(source.id)
                async with self._turns.one():  # a pull beside it does not disturb what is measured
                    return await self._place(source, brought)

    def progress(self, model_id: str) -> LoadProgress | None:
        """As the pull reports, then that the server loads."""
        return self._at_work.get(model_id)

    async def _place(self, source: ModelSource, brought: Brought) -> Placed:
        folder = self._folder(source.id)
        before = None
        try:
            before = await self._memory()
            placed = await self._load(source, brought, folder)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._leave_nothing(source.id, folder, before)))
            raise
        self._placed.add(source.id)
        return placed

    async def _load(self, source: ModelSource, brought: Brought, folder: Path) -> Placed:
        model_format = format_of(source.type, source.key)
        tree, schema = await asyncio.to_thread(_look, brought, tuple(self.driver.texts))
        layout = self.driver.layout(Given(source.id, model_format, tree, schema, str(folder)))
        await self._prepare(model_format)
        await asyncio.to_thread(_write, folder, layout)
        before, begun = await self._memory(), self._turns.begun
        await self._undisturbed(self.driver.load(source.id, folder))
        reported = await self.driver.size(source.id)
        after = await self._memory() if reported is None else None
        growth = None
        if before is not None and after is not None and self._was_alone(begun):
            growth = Growth(before, after, self._slack.left_bytes)
        disk_bytes = self._loaded_bytes(tree) or brought.size_bytes
        predicted = self._sizes.predicted(model_format, disk_bytes)
        known = self._sizes.known(model_format, brought.content)
        freed = self._sizes.freed(model_format, brought.content)
        size = judge(predicted, reported=reported, growth=growth, known=known, freed=freed)
        self._sizes.learn(model_format, brought.content, disk_bytes, size)
        self._slack.moved_in(size.size_bytes, growth)
        if size.reason is Reason.SETTLED:
            self._slack.not_a_models((known or 0) - size.size_bytes)
        _log.info("loaded %r: %d bytes (%s)", source.id, size.size_bytes, size.reason.value)
        return Placed(source.id, folder, size.size_bytes, model_format, brought.content)

    async def _prepare(self, model_format: str) -> None:
        """Once for each format: what the server imports is not the first model's size."""
        if model_format in self._prepared:
            return
        self._prepared.add(model_format)
        try:
            await self._undisturbed(self.driver.prepare(model_format, self.root))
        except ServerAwayError:
            self._prepared.discard(model_format)
            raise

    async def _undisturbed(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the server do something; given up, wait until it is done with it.

        No server stops in the middle: MLServer, cancelled, keeps a model that is never ready.
        """
        running = asyncio.ensure_future(work)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            ended = asyncio.ensure_future(self._ended.wait())
            await asyncio.wait([running, ended], timeout=LOAD_BOUND_S, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            running.cancel()
            running.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def _leave_nothing(self, model_id: str, folder: Path, before: int | None) -> None:
        try:
            await self._let_go(model_id, folder)
            after = await self._memory()
            if before is not None and after is not None:
                self._slack.moved_out(max(0, after - before), freed=0)
        except (RuntimeFault, OSError) as error:
            _log.error("after its load, which failed, %r cannot be taken away: %s", model_id, describe(error))

    # --- sizes --------------------------------------------------------------------------------

    def size(self, model: Placed) -> int:
        """As measured."""
        return model.size_bytes

    async def predict_size(self, source: ModelSource) -> int | None:
        """From the size of its files, if it is known without pulling them."""
        sizes = await self._files.sizes(source)
        disk_bytes = self._loaded_bytes(listed(sizes)) or sum(sizes.values())
        return self._sizes.predicted(format_of(source.type, source.key), disk_bytes) if disk_bytes else None

    def _loaded_bytes(self, tree: Tree) -> int:
        """Of the version that the server loads of several; 0: it loads all there is."""
        version = chosen_version(tree)[1] if self.driver.loads_one_version else ""
        return tree.size_bytes(version) if version else 0

    def max_concurrency(self, model: Placed) -> int:
        """As it is set for all models."""
        del model
        return max(1, self._limit)

    async def _memory(self) -> int | None:
        return await self.driver.memory() if self._sees_memory and not self._ended.is_set() else None

    def _was_alone(self, begun: int) -> bool:
        return self._turns.running == 1 and self._turns.begun == begun

    # --- leaving ------------------------------------------------------------------------------

    async def unload(self, model: Placed) -> None:
        """Let the server unload the model, then remove the files.

        Raises:
            RuntimeFault: The server still has it.
        """
        async with self._alone_with(model.id), self._turns.one():
            before, begun = await self._memory(), self._turns.begun
            await self._let_go(model.id, model.folder)
            after = await self._memory()
            if before is None or after is None or not self._was_alone(begun):
                self._slack.moved_out(model.size_bytes, freed=0)
                return
            self._slack.moved_out(model.size_bytes, freed=before - after)
            self._sizes.left(model.format, model.content, before - after)

    async def clear_away(self, model_id: str) -> None:
        """Unload a model that is not loaded as far as we know; the server may know better.

        Raises:
            RuntimeFault: The server still has it.
        """
        async with self._alone_with(model_id), self._turns.one():
            if model_id not in self._placed:
                await self._let_go(model_id, self._folder(model_id))

    async def _let_go(self, model_id: str, folder: Path) -> None:
        if not self._ended.is_set():
            await self.driver.unload(model_id, folder)
        await asyncio.to_thread(remove, folder)
        await self._files.drop(model_id)
        self._placed.discard(model_id)

    @asynccontextmanager
    async def _alone_with(self, model_id: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(model_id, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._locks.get(model_id) is lock:
                del self._locks[model_id]

    def _folder(self, model_id: str) -> Path:
        return self.root / folder_name(model_id)


def _look(brought: Brought, texts: tuple[str, ...]) -> tuple[Tree, Schema | None]:
    schema = None if brought.schema is None else read_schema(brought.schema)
    return scan(brought.path, texts=texts), schema


def _write(folder: Path, layout: Layout) -> None:
    write_layout(folder, layout)
