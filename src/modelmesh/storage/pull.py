"""Pull: list, plan, fetch, publish. The entry point of this package."""

import asyncio
import os
import secrets
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from modelmesh.storage.archives import Stopped, Unpacking, unpack
from modelmesh.storage.cache_folder import Entry
from modelmesh.storage.disk_cache import DiskCache, Filling, Held
from modelmesh.storage.errors import StorageError
from modelmesh.storage.fetch import Fetcher, Tracker, Transfer
from modelmesh.storage.listing import Limits, Plan
from modelmesh.storage.locations import Kind, Location
from modelmesh.storage.progress import Progress, Report, Stage, silent
from modelmesh.storage.source import Source
from modelmesh.values.status import Status

REPLANS = 3
"""How often a pull begins again because the files changed under it."""


@dataclass(frozen=True, slots=True)
class Places:
    """What of this machine may be pulled from.

    Attributes:
        claims: Folder of mounted claims: `pvc://claim/…` is `claims/claim/…`. None: there are none.
        folders: What `file:///…` may be in, links followed.
    """

    claims: Path | None = None
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Pulled:
    """Files that are here, and stay until they are released. Leave the context, or call `release`.

    Attributes:
        path: The file, or the folder, that the location names; an archive's is the folder of its contents.
        size_bytes: Of all files.
        files: How many.
        plan: What was pulled.
    """

    path: Path
    size_bytes: int
    files: int
    plan: Plan
    held: Held

    def release(self) -> None:
        """The files may go; once is enough."""
        self.held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.release()


SourceOpener = Callable[[Location], Source]


_NOWHERE = Places()
_LIMITS = Limits()
_TRANSFER = Transfer()


class Puller:
    """Pulls the files of any location into a disk cache.

    One for a process, on one event loop: all pulls share its connections' bound. Use it as a context, or `close` it.

    Args:
        cache: Where files go that are not on this machine already.
        places: What of this machine may be used.
        limits: Of one model.
        transfer: How much at once.
        environ: Credentials of locations that have none of their own.
        opener: For tests.
        clock: Seconds, never going back; for tests.
    """

    def __init__(
        self,
        cache: DiskCache,
        *,
        places: Places = _NOWHERE,
        limits: Limits = _LIMITS,
        transfer: Transfer = _TRANSFER,
        environ: Mapping[str, str] | None = None,
        opener: SourceOpener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache = cache
        self.limits = limits
        self._open = opener or (
            lambda location: open_source(location, places, os.environ if environ is None else environ)
        )
        self._fetcher = Fetcher(transfer, limits)
        self._clock = clock

    async def plan(self, location: Location) -> Plan:
        """What a pull would fetch; nothing is fetched. `Plan.size_bytes` has their size.

        Raises:
            StorageError: As `pull`.
        """
        source = self._open(location)
        try:
            return await source.plan(self.limits, secrets.token_hex(16))
        finally:
            await source.close()

    async def pull(self, location: Location, report: Report = silent) -> Pulled:
        """The files of a location: from the cache where they are the same as in the store, else fetched.

        Cancelled, it leaves nothing behind. While others use the same files it waits for them.

        Args:
            location: Of any kind.
            report: Called with the progress.

        Raises:
            StorageError: NOT_FOUND: nothing is there. RESOURCE_EXHAUSTED: it does not fit. And all others.
        """
        report(Progress(Stage.LISTING))
        for attempt in range(REPLANS):
            source = self._open(location)
            try:
                plan = await source.plan(self.limits, secrets.token_hex(16))
                if plan.folder is not None:
                    entry = Entry(plan.folder, plan.size_bytes, len(plan.files))
                    held = Held(None, plan.content_id, entry, None)
                else:
                    held = await self.cache.acquire(plan, self._fill(source, plan, report), report)
            except StorageError as error:
                if error.code is not Status.ABORTED or attempt + 1 == REPLANS:
                    raise error.of(str(location)) from error.__cause__
                continue
            finally:
                await source.close()
            report(Progress(Stage.READY, held.size_bytes, held.size_bytes, held.files, held.files))
            return Pulled(_path(plan, held), held.size_bytes, held.files, plan, held)
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """End; pulls must have ended."""
        self._fetcher.close()
        await self.cache.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    def _fill(self, source: Source, plan: Plan, report: Report) -> Callable[[Filling], Awaitable[None]]:
        async def fill(filling: Filling) -> None:
            tracker = Tracker(plan, report, filling.share_progress, self._clock)
            await self._fetcher.fetch(source, plan, filling, tracker)
            if plan.unpacks:
                tracker.enter(Stage.UNPACKING)
                await self._unpack(plan, filling, tracker)
            tracker.enter(Stage.PUBLISHING)

        return fill

    async def _unpack(self, plan: Plan, filling: Filling, tracker: Tracker) -> None:
        """Put the contents of archives in their place."""
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def room(size_bytes: int) -> None:
            wanted = filling.reserve(plan.size_bytes + size_bytes)
            asyncio.run_coroutine_threadsafe(wanted, loop).result()

        def wrote(size_bytes: int) -> None:
            loop.call_soon_threadsafe(tracker.add, size_bytes)

        work = Unpacking(plan.location.text, self.limits, room, wrote, stop)
        task = asyncio.ensure_future(asyncio.to_thread(_unpack_all, plan, filling, work))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([task])
            with suppress(Stopped, StorageError, OSError):
                task.result()
            raise


def _unpack_all(plan: Plan, filling: Filling, work: Unpacking) -> None:
    into = filling.parts / "unpacked"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for file in plan.files:
        packed = filling.files / file.name
        if file.unpack:
            unpack(packed, file.name, into, work, layer_below=file.layer_below)
        else:
            target = into / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            packed.rename(target)
    if not any(into.iterdir()):
        raise StorageError(Status.NOT_FOUND, f"{plan.location}: nothing is in the archive")
    shutil.rmtree(filling.files)
    into.rename(filling.files)


def _path(plan: Plan, held: Held) -> Path:
    if plan.folder is not None:
        return plan.folder
    return held.folder / plan.files[0].name if plan.is_file and not plan.unpacks else held.folder


def open_source(location: Location, places: Places, environ: Mapping[str, str]) -> Source:
    """The source for a location. What it needs is imported now.

    Raises:
        StorageError: The location cannot be opened here; see the sources.
    """
    match location.kind:
        case Kind.S3 | Kind.GS | Kind.AZ:
            from modelmesh.storage.sources.objects import ObjectSource  # noqa: PLC0415 - imports obstore

            return ObjectSource(location, environ)
        case Kind.HTTP:
            from modelmesh.storage.sources.http import HttpSource  # noqa: PLC0415 - imports aiohttp

            return HttpSource(location, environ)
        case Kind.HF:
            from modelmesh.storage.sources.hub import HubSource  # noqa: PLC0415 - imports aiohttp

            return HubSource(location, environ)
        case Kind.OCI:
            from modelmesh.storage.sources.oci import OciSource  # noqa: PLC0415 - imports aiohttp

            return OciSource(location, environ)
        case Kind.PVC | Kind.FILE:
            from modelmesh.storage.sources.folders import FolderSource  # noqa: PLC0415 - as the others

            return FolderSource(location, claims=places.claims, folders=places.folders)
