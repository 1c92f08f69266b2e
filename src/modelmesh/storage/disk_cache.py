"""The disk cache: model files, stored once per node within a size limit, shared by processes."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from modelmesh.storage.cache_folder import CacheFolder, Entry, Usage
from modelmesh.storage.errors import StorageError, of_os_error
from modelmesh.storage.file_locks import FileLock, lock
from modelmesh.storage.listing import Plan
from modelmesh.storage.progress import Progress, Report, Stage, silent
from modelmesh.values.status import Status

ATTEMPTS = 3
"""How often a pull begins again when its folder is emptied meanwhile."""


class Held:
    """Files that stay for as long as this is held. `release` it, or leave the context.

    Attributes:
        folder: Of the files; complete, and not to be written to.
        size_bytes: Sum of the files.
        files: How many.
    """

    def __init__(self, cache: CacheFolder | None, content_id: str, entry: Entry, lock_: FileLock | None) -> None:
        self._cache = cache
        self._id = content_id
        self._lock = lock_
        self.folder = entry.folder
        self.size_bytes = entry.size_bytes
        self.files = entry.files

    def release(self) -> None:
        """Let the files go when room is needed; once is enough."""
        if self._lock is not None and self._cache is not None:
            self._cache.touch(self._id)
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.release()


class Filling:
    """A pull under way, as the one who fetches sees it.

    Attributes:
        files: Folder of what is complete; what an earlier process completed is there already.
        parts: Folder for what is not; emptied when the pull ends.
    """

    def __init__(self, cache: "DiskCache", content_id: str, partial: Path, size_bytes: int) -> None:
        self._cache = cache
        self._id = content_id
        self._partial = partial
        self._reserved = size_bytes
        self.files = partial / "files"
        self.parts = partial / "parts"

    async def reserve(self, size_bytes: int) -> None:
        """Keep room for so many bytes in all; less than before changes nothing.

        Raises:
            StorageError: RESOURCE_EXHAUSTED: they do not fit.
        """
        if size_bytes > self._reserved:
            await self._cache.reserve(self._id, size_bytes)
            self._reserved = size_bytes

    def share_progress(self, done_bytes: int) -> None:
        """Report the progress to other processes that wait for these files."""
        with contextlib.suppress(OSError):
            (self._partial / "done").write_bytes(str(done_bytes).encode())


Fill = Callable[[Filling], Awaitable[None]]
"""Puts all files of a plan into `Filling.files`. Raises StorageError or OSError."""


class DiskCache:
    """A folder of model files with a byte budget.

    What is complete is found by its content id; what is missing is filled in by one process, for which the others wait.
    What is held is never removed; of the rest the longest unused is removed first. A file that has its final name is whole: it
    was written under another, synced, and renamed.

    Args:
        folder: Made if it is not there. Any number of processes on one machine may share it; those that do should agree on
            the budget.
        budget_bytes: Of all files together.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        self._disk = CacheFolder(folder)
        self._removing: set[asyncio.Future[None]] = set()
        self._opened = False

    @asynccontextmanager
    async def hold(self, plan: Plan, fill: Fill, report: Report = silent) -> AsyncIterator[Held]:
        """The files of a plan, for as long as the context lasts; as `acquire`."""
        with await self.acquire(plan, fill, report) as held:
            yield held

    async def acquire(self, plan: Plan, fill: Fill, report: Report = silent) -> Held:
        """The files of a plan: those that are here, else those that `fill` fetches.

        Args:
            plan: What is wanted.
            fill: Fetches the files; called if they are not here and no other load fetches them.
            report: Called while another load fetches them.

        Raises:
            StorageError: What `fill` raised; RESOURCE_EXHAUSTED: no room; FAILED_PRECONDITION: the disk cannot be written.
        """
        try:
            for _ in range(ATTEMPTS):
                with contextlib.suppress(FileNotFoundError):  # removed between two looks
                    held = await self._attempt(plan, fill, report)
                    if held is not None:
                        return held
        except OSError as error:
            raise of_os_error(error, f"the disk cache {self.folder}") from error
        raise StorageError(
            Status.UNAVAILABLE,
            f"the disk cache {self.folder} was emptied {ATTEMPTS} times while {plan.location} was pulled; stop what empties it",
        )

    async def present(self, plan: Plan) -> bool:
        """Whether a plan's files are here. A hint: they may be removed at any time."""
        return await asyncio.to_thread(self._disk.entry, plan.content_id) is not None

    def usage(self) -> Usage:
        """What is in the folder.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            self._disk.make()
            return self._disk.usage()
        except OSError as error:
            raise of_os_error(error, f"the disk cache {self.folder}") from error

    async def reserve(self, content_id: str, size_bytes: int) -> None:
        """Make room for a pull and keep it. For `Filling`.

        Raises:
            StorageError: RESOURCE_EXHAUSTED: there is none.
            OSError: The disk cannot be written.
        """
        with await lock(self._disk.structure):
            self._disk.make_room(content_id, size_bytes, self.budget_bytes)
            self._disk.reserve(content_id, size_bytes)
        await asyncio.to_thread(self._disk.empty_trash)

    async def trim(self, keep_bytes: int) -> None:
        """Remove what is not held until at most so many bytes are left, as far as possible.

        Raises:
            StorageError: The folder cannot be read.
        """
        try:
            self._disk.make()
            with await lock(self._disk.structure):
                self._disk.trim(keep_bytes)
            await asyncio.to_thread(self._disk.empty_trash)
        except OSError as error:
            raise of_os_error(error, f"the disk cache {self.folder}") from error

    async def close(self) -> None:
        """Wait for what is being removed."""
        await asyncio.gather(*self._removing, return_exceptions=True)

    async def _attempt(self, plan: Plan, fill: Fill, report: Report) -> Held | None:
        """None: the folder was emptied meanwhile."""
        self._disk.make()
        if not self._opened:
            self._opened = True
            await asyncio.to_thread(self._disk.empty_trash)
        use = await lock(self._disk.use_lock(plan.content_id), shared=True)
        try:
            entry = await self._entry(plan)
            if entry is None:
                entry = await self._filled(plan, fill, report)
            if entry is None:
                use.release()
                return None
            self._disk.touch(plan.content_id)
            return Held(self._disk, plan.content_id, entry, use)
        except BaseException:
            use.release()
            raise

    async def _entry(self, plan: Plan) -> Entry | None:
        if len(plan.files) < 100:  # a hop to a thread costs more than looking
            return self._disk.entry(plan.content_id)
        return await asyncio.to_thread(self._disk.entry, plan.content_id)

    async def _filled(self, plan: Plan, fill: Fill, report: Report) -> Entry | None:
        """Pull, or wait for the one who does."""
        total = plan.size_bytes

        def waiting() -> None:
            try:
                done = int((self._disk.partial(plan.content_id) / "done").read_bytes() or b"0")
            except (OSError, ValueError):
                done = 0
            report(Progress(Stage.WAITING, min(done, total), total, 0, len(plan.files)))

        with await lock(self._disk.pull_lock(plan.content_id), waiting=waiting) as pull:
            entry = await self._entry(plan)
            if entry is not None:
                return entry
            partial = self._disk.partial(plan.content_id)
            try:
                await self.reserve(plan.content_id, total)
                filling = Filling(self, plan.content_id, partial, total)
                await asyncio.to_thread(_prepare, filling, keep=not plan.unpacks)
                await fill(filling)
                expected = None if plan.unpacks else {file.name: file.size_bytes for file in plan.files}
                entry = await _to_its_end(lambda: self._disk.publish(plan.content_id, expected))
                pull.remove_and_release()
            except FileNotFoundError:
                if partial.exists():
                    self._discard(partial)
                    raise
                return None
            except BaseException:
                self._discard(partial)
                raise
            return entry

    def _discard(self, folder: Path) -> None:
        """Leave nothing of a pull that failed: out of sight at once, off the disk soon."""
        with contextlib.suppress(OSError):
            if self._disk.discard(folder) is not None:
                removing = asyncio.ensure_future(asyncio.to_thread(self._disk.empty_trash))
                self._removing.add(removing)
                removing.add_done_callback(self._removing.discard)


def _prepare(filling: Filling, *, keep: bool) -> None:
    """Keep what an earlier process completed, and nothing that it did not."""
    if not keep and filling.files.exists():
        shutil.rmtree(filling.files)
    if filling.parts.exists():
        shutil.rmtree(filling.parts)
    filling.files.mkdir(exist_ok=True)
    filling.parts.mkdir()


async def _to_its_end(publish: Callable[[], Entry]) -> Entry:
    """Publish in a thread. A cancellation waits for it: half a rename cannot be taken back."""
    task = asyncio.ensure_future(asyncio.to_thread(publish))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()
        raise
