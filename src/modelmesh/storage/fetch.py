"""Fetch the files of a plan to the disk: many at once, large ones in parts, resumed where a read broke."""

import asyncio
import ctypes
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from modelmesh.storage.disk_cache import Filling
from modelmesh.storage.errors import StorageError, next_step
from modelmesh.storage.listing import Limits, Plan, SourceFile, too_many
from modelmesh.storage.names import shown
from modelmesh.storage.progress import Progress, Report, Stage
from modelmesh.storage.source import Source
from modelmesh.values.status import Status

MIB = 1024 * 1024
REPORT_EVERY_S = 0.1
SMALL_BYTES = 2 * MIB
"""A file up to this size is in memory until it is whole, and is written, synced and named in one go."""

GROWTH_BYTES = 64 * MIB
"""Room that is asked for at a time while the size of a file is not known."""

T = TypeVar("T")

_Put = Callable[[bytes, int], Awaitable[None]]
"""Takes a piece that belongs at an offset."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How a process pulls. All pulls of a `Fetcher` share the streams.

    Attributes:
        streams: Reads at once. Each holds some MiB.
        part_bytes: A large file is read in parts of this size at once.
        parts_from_bytes: Files from this size on are large. Smaller ones go faster in one stream.
        attempts: Reads of one part with less than a MiB each, before it is given up.
        first_wait_s, longest_wait_s: Between two attempts; doubled each time, drawn between half and all of it.
    """

    streams: int = 16
    part_bytes: int = 16 * MIB
    parts_from_bytes: int = 64 * MIB
    attempts: int = 5
    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0


@dataclass(slots=True)
class _Opened:
    """A file that is being written. Open from its first part to its last."""

    file: SourceFile
    part: str
    target: str
    left: int
    fd: int = -1

    def open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(self.part, flags, 0o644)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class _Read:
    """Bytes `start` to `end` of a file; None: to its end, wherever that is."""

    opened: _Opened
    start: int
    end: int | None

    @property
    def is_small(self) -> bool:
        """Whether it is a whole file that is written in one go."""
        size = self.opened.file.size_bytes
        return self.start == 0 and size is not None and self.end == size <= SMALL_BYTES


@dataclass(slots=True)
class Tracker:
    """Counts what arrived and reports it, seldom enough. `clock`: seconds, never going back."""

    plan: Plan
    report: Report
    share_progress: Callable[[int], None]
    clock: Callable[[], float]
    stage: Stage = Stage.FETCHING
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    _reported_at: float = field(default=float("-inf"))

    def add(self, size_bytes: int, files: int = 0) -> None:
        """More arrived; below zero: some of it must be read again."""
        self.bytes_done += size_bytes
        self.files_done += files
        now = self.clock()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self.report_now()

    def enter(self, stage: Stage) -> None:
        """Another stage begins."""
        self.stage = stage
        self.report_now()

    def report_now(self) -> None:
        """Report now."""
        self.share_progress(self.bytes_done)
        total = max(self.bytes_total, self.bytes_done)
        self.report(Progress(self.stage, self.bytes_done, total, self.files_done, len(self.plan.files)))


class Fetcher:
    """Fetches for any number of pulls at once.

    Args:
        transfer: Bounds of all of them together.
        limits: Of one model.
        rng: Spreads the waits between attempts.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        transfer: Transfer,
        limits: Limits,
        *,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transfer = transfer
        self._limits = limits
        self._rng = rng or Random()  # noqa: S311 - spreads waits, guards nothing
        self._sleep = sleep
        self._streams = asyncio.Semaphore(transfer.streams)
        self._disk = ThreadPoolExecutor(transfer.streams, thread_name_prefix="pull")

    def close(self) -> None:
        """Let the threads go."""
        self._disk.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, source: Source, plan: Plan, filling: Filling, tracker: Tracker) -> None:
        """Fetch every file of a plan that is not there yet.

        Raises:
            StorageError: As the source; DATA_LOSS: the content does not match the digest.
            OSError: The disk does not do it.
        """
        tracker.bytes_total = plan.size_bytes
        todo = [file for file in plan.files if not self._is_there(file, filling, tracker)]
        tracker.report_now()
        folders = {(filling.files / file.name).parent for file in todo}
        await self._in_thread(lambda: _make(folders))
        reads = self._reads(todo, filling, ranged=source.ranged)
        opened: list[_Opened] = []

        async def work() -> None:
            for read in reads:
                if not read.is_small and (not opened or opened[-1] is not read.opened):
                    opened[:] = [file for file in opened if file.left]
                    opened.append(read.opened)
                async with self._streams:
                    await self._one(source, read, filling, tracker)

        try:
            await all_or_none([work() for _ in range(self._transfer.streams)])
        finally:
            for file in opened:
                file.close()
        tracker.report_now()

    def _is_there(self, file: SourceFile, filling: Filling, tracker: Tracker) -> bool:
        """A killed process had completed it, by its name."""
        try:
            there = (filling.files / file.name).stat().st_size == file.size_bytes
        except OSError:
            return False
        if there:
            tracker.bytes_done += file.size_bytes or 0
            tracker.files_done += 1
        return there

    def _reads(self, files: list[SourceFile], filling: Filling, *, ranged: bool) -> Iterator[_Read]:
        """What to read, file by file, so that few are open at a time."""
        size, bound = self._transfer.part_bytes, self._transfer.parts_from_bytes
        token = secrets.token_hex(
            4
        )  # no other part has this name, also if two processes write into one folder by error
        for number, file in enumerate(files):
            # Texts, for making a Path costs as much as writing a small file.
            part, target = f"{filling.parts}/{number}.{token}", f"{filling.files}/{file.name}"
            if not ranged or file.size_bytes is None or file.size_bytes < bound:
                yield _Read(_Opened(file, part, target, 1), 0, file.size_bytes)
                continue
            starts = range(0, file.size_bytes, size)
            opened = _Opened(file, part, target, len(starts))
            for start in starts:
                yield _Read(opened, start, min(start + size, file.size_bytes))

    async def _one(self, source: Source, read: _Read, filling: Filling, tracker: Tracker) -> None:
        opened = read.opened
        if read.is_small:
            pieces: list[bytes] = []

            async def keep(piece: bytes, at: int) -> None:
                if at == 0:  # also of a read that began again
                    pieces.clear()
                pieces.append(piece)

            end = await self._stream(source, read, filling, tracker, keep)
            await self._in_thread(lambda: _store(opened, pieces, end))
            tracker.add(0, 1)
            return
        if opened.fd < 0:
            opened.open()

        async def write(piece: bytes, at: int) -> None:
            await self._in_thread(lambda: _write(opened.fd, piece, at))

        end = await self._stream(source, read, filling, tracker, write)
        await self._in_thread(lambda: begin_to_sync(opened.fd, read.start, end))
        opened.left -= 1
        if opened.left == 0:
            await self._in_thread(lambda: _complete(opened, end))
            tracker.add(0, 1)

    async def _stream(self, source: Source, read: _Read, filling: Filling, tracker: Tracker, put: _Put) -> int:
        """Read to the end, beginning again where it broke; returns where it ended."""
        file, at, since, failed = read.opened.file, read.start, read.start, 0
        while True:
            try:
                async with aclosing(source.read(file, at, read.end)) as pieces:
                    async for piece in pieces:
                        if read.end is not None and at + len(piece) > read.end:
                            raise _changed(file, tracker.plan, "it is longer than its store reported")
                        if read.end is None:
                            await self._grow(at + len(piece), filling, tracker)
                        await put(piece, at)
                        at += len(piece)
                        tracker.add(len(piece))
                if read.end is None or at == read.end:
                    return at
                raise _short(file, tracker.plan, at)
            except StorageError as error:
                failed = failed + 1 if at - since < MIB else 1
                if not error.may_pass or failed >= self._transfer.attempts:
                    raise
                if not source.ranged:
                    tracker.add(read.start - at)
                    at = read.start
                since = at
                await self._sleep(self._wait_s(failed, error.retry_after_s))

    def _wait_s(self, failed: int, asked_s: float) -> float:
        longest = min(self._transfer.first_wait_s * 2.0 ** (failed - 1), self._transfer.longest_wait_s)
        return max(longest * self._rng.uniform(0.5, 1.0), min(asked_s, self._transfer.longest_wait_s))

    async def _grow(self, at: int, filling: Filling, tracker: Tracker) -> None:
        """Keep room for a file of unknown size."""
        if at > self._limits.max_bytes:
            raise StorageError(
                Status.RESOURCE_EXHAUSTED,
                f"{tracker.plan.location}: has more than the {self._limits.max_bytes} bytes of one model; store less in one file",
            )
        known = tracker.plan.size_bytes
        await filling.reserve(known + -(-at // GROWTH_BYTES) * GROWTH_BYTES)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do something on the disk. A cancellation waits for it: its descriptor is not closed under it."""
        future = asyncio.get_running_loop().run_in_executor(self._disk, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise


def _make(folders: Iterable[Path]) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def _write(fd: int, piece: bytes, at: int) -> None:
    view = memoryview(piece)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], at + done)


def _store(opened: _Opened, pieces: Iterable[bytes], size_bytes: int) -> None:
    """Write a file that is whole in memory."""
    opened.open()
    try:
        at = 0
        for piece in pieces:
            _write(opened.fd, piece, at)
            at += len(piece)
        _complete(opened, size_bytes)
    finally:
        opened.close()


_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def begin_to_sync(fd: int, start: int, end: int) -> None:
    """Have the kernel begin to write a part to the disk, so that the sync of the whole file waits less. A hint: it may fail."""
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(start), ctypes.c_int64(end - start), _SYNC_FILE_RANGE_WRITE)


def _complete(opened: _Opened, size_bytes: int) -> None:
    """Check what arrived, sync it, give it its name."""
    file = opened.file
    found = os.fstat(opened.fd).st_size
    expected = size_bytes if file.size_bytes is None else file.size_bytes
    if found != expected:
        raise StorageError(Status.DATA_LOSS, f"{shown(file.name)}: {found} of {expected} bytes arrived; pull again")
    if file.digest:
        check_digest(Path(opened.part), file, found)
    os.fsync(opened.fd)
    os.fchmod(opened.fd, 0o444)
    opened.close()
    os.rename(opened.part, opened.target)  # noqa: PTH104 - texts


def check_digest(path: Path, file: SourceFile, size_bytes: int) -> None:
    """Compare a file with the digest that its store has.

    Raises:
        StorageError: DATA_LOSS: they differ.
    """
    kind, _, wanted = file.digest.partition(":")
    if kind == "git-sha1":
        running = hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)
    else:
        running = hashlib.new(kind)
    with path.open("rb", buffering=0) as content:
        while piece := content.read(MIB):
            running.update(piece)
    if running.hexdigest() != wanted:
        raise StorageError(
            Status.DATA_LOSS,
            f"{shown(file.name)}: the content does not match its store ({kind} differs); pull again",
        )


def check_count(plan: Plan, files: int, limits: Limits) -> None:
    """Bound what came out of archives. Raises StorageError: RESOURCE_EXHAUSTED."""
    if files > limits.max_files:
        raise too_many(plan.location, limits)


async def all_or_none(work: list[Awaitable[None]]) -> None:
    """Run all; when one fails, end the others before its error continues."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    failed = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    if failed:
        raise failed[0]


def _short(file: SourceFile, plan: Plan, at: int) -> StorageError:
    return StorageError(
        Status.UNAVAILABLE,
        f"{plan.location}: {shown(file.name)} ended after {at} of {file.size_bytes} bytes{next_step(Status.UNAVAILABLE)}",
    )


def _changed(file: SourceFile, plan: Plan, why: str) -> StorageError:
    text = f"{plan.location}: {shown(file.name)} changed while it was pulled: {why}{next_step(Status.ABORTED)}"
    return StorageError(Status.ABORTED, text)
