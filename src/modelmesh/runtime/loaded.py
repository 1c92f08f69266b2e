"""The models a runtime holds: loads, unloads, and how many bytes they take.

All of it runs on one event loop; only the author's plain methods run in threads. A model is here from the start of its
load to the end of its unload, as one `_Entry` with the states LOADING → READY → LEAVING, or LEAVING → STUCK when the
author's `unload` raised (the next unload tries again).

    accounted = size of ready, leaving and stuck models + what running loads have reserved ≤ capacity
"""

import asyncio
import contextlib
import ctypes
import enum
import gc
import inspect
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Generic

from modelmesh.runtime.contract import Batching, M, ModelRuntime, ModelSignature, ModelSource
from modelmesh.runtime.errors import CapacityError, LoadEndedError, LoadError, ModelNotLoadedError
from modelmesh.runtime.pace import Pace
from modelmesh.values.status import Status

if TYPE_CHECKING:  # numpy comes with the extras
    from modelmesh.runtime.batches import Batcher

_log = logging.getLogger("modelmesh.runtime")

REMEMBERED_SIZES = 10_000
"""Measured sizes kept for models that were unloaded: enough for a busy runtime, about 2 MB."""


async def call(pool: Executor, function: Callable[..., Any], *arguments: object) -> Any:
    """Call an author's method: on the loop if it is `async def`, else in a thread of `pool`.

    Cancelled, it returns when the method has ended: a thread cannot be stopped, and what it uses has to stay. A
    method whose thread has not begun never runs.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    work = _Work(function, arguments)
    running = pool.submit(work)
    ended = asyncio.wrap_future(running)
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        if not running.cancel():
            ended.add_done_callback(_retrieve)
            await asyncio.wait([ended])
        raise
    result = work.take()
    return await result if inspect.isawaitable(result) else result


def call_now(function: Callable[..., Any], *arguments: object) -> Any:
    """Call an author's plain method here, so that any exception can be answered.

    asyncio cannot carry StopIteration (the caller would wait forever), and SystemExit, or a panic of an extension, would end the
    event loop and with it every other model.
    """
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError("StopIteration") from error
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


class _Work:
    """A plain method to be called once, and what it returned.

    A thread of a pool may hold what it ran, with arguments and result, for a while after the answer is there. Such a
    thread would keep a model past the collection that follows its unload, so nothing is left here to be held.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self._todo: list[tuple[Callable[..., Any], tuple[object, ...]]] = [(function, arguments)]
        self._results: list[Any] = []

    def __call__(self) -> None:
        function, arguments = self._todo.pop()
        self._results.append(call_now(function, *arguments))

    def take(self) -> Any:
        return self._results.pop()


class _State(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"
    STUCK = "stuck"


class _Entry(Generic[M]):
    """One model. `model` and `signature` are set iff the state is not LOADING."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.state = _State.LOADING
        self.size_bytes = 0
        self.model: M | None = None
        self.signature = ModelSignature()
        self.pace = Pace()
        self.batching: Batching | None = None
        self.batcher: Batcher | None = None
        self.is_async = False
        self.max_concurrency = 0
        self.waiting = 0
        """Callers that wait for the load; without any it is given up."""
        self.given_up = False
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.loading: asyncio.Task[None] | None = None
        self.author: asyncio.Task[Any] | None = None
        self.leaving: asyncio.Task[None] | None = None


class Use(Generic[M]):
    """A loaded model in use by one call: it is not unloaded before the `with` block ends. `model` is valid in the block."""

    __slots__ = ("_entry", "model", "signature")

    def __init__(self, entry: _Entry[M]) -> None:
        self._entry = entry
        self.signature = entry.signature

    def __enter__(self) -> "Use[M]":
        entry = self._entry
        self.model: M = entry.model  # type: ignore[assignment]  # M may itself be None
        entry.in_flight += 1
        entry.idle.clear()
        return self

    def __exit__(self, *_: object) -> None:
        del self.model  # a traceback may outlive the call; it must not keep the model alive
        entry = self._entry
        entry.in_flight -= 1
        if not entry.in_flight:
            entry.idle.set()

    @property
    def id(self) -> str:
        """Of the model."""
        return self._entry.source.id

    @property
    def pace(self) -> Pace:
        """Where its calls run."""
        return self._entry.pace

    @property
    def stays(self) -> bool:
        """Whether it is not about to be unloaded."""
        return self._entry.state is _State.READY

    @property
    def batching(self) -> Batching | None:
        """How its requests are put together."""
        return self._entry.batching

    @property
    def is_async(self) -> bool:
        """Whether its `infer` is called on the event loop, and awaited."""
        return self._entry.is_async

    def again(self) -> "Use[M]":
        """Use the same model beyond this use. Begin it while this one lasts."""
        return Use(self._entry)

    def batcher(self, make: Callable[[Batching], "Batcher"]) -> "Batcher | None":
        """What puts its requests together, made by the first of them; None: each runs alone."""
        if self._entry.batcher is None and self.batching is not None:
            self._entry.batcher = make(self.batching)
        return self._entry.batcher


class Loaded:
    """A load's answer: measured bytes, and the requests it takes at once (0: not limited)."""

    __slots__ = ("max_concurrency", "size_bytes")

    def __init__(self, size_bytes: int, max_concurrency: int) -> None:
        self.size_bytes = size_bytes
        self.max_concurrency = max_concurrency


class LoadedModels(Generic[M]):
    """Loads, keeps and unloads models through an author's runtime.

    Args:
        runtime: Whose methods are called.
        pool: Where its plain methods run. Needs a few threads more than `loading_concurrency`, so that an
            unload never waits for a load.
        grace_s: How long an unload waits for calls that still use the model.
        bounded: Whether a load that does not fit into the capacity is refused.
    """

    def __init__(
        self, runtime: ModelRuntime[M], pool: Executor, *, grace_s: float = 10.0, bounded: bool = True
    ) -> None:
        self._runtime = runtime
        self._pool = pool
        self._grace_s = grace_s
        self._bounded = bounded
        self._entries: dict[str, _Entry[M]] = {}
        self._turns = asyncio.Semaphore(max(1, runtime.loading_concurrency))
        self._freed = asyncio.Event()
        self._sizes: OrderedDict[ModelSource, int] = OrderedDict()
        self._predicted: OrderedDict[ModelSource, int] = OrderedDict()
        """Predictions that the mesh has."""
        self.on_leave: Callable[[str], None] | None = None
        """Called with the id of a model that is about to be unloaded: new calls must not find it any more."""

    # --- looking ------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """Ids of the models that can serve."""
        return [id_ for id_, entry in self._entries.items() if entry.state is _State.READY]

    def accounted_bytes(self) -> int:
        """Bytes taken by models and reserved by loads; at most the capacity, if that bounds them."""
        return sum(entry.size_bytes for entry in self._entries.values())

    def size(self, id_: str) -> int:
        """Bytes of a loaded model. Raises ModelNotLoadedError."""
        return self._ready(id_).size_bytes

    def use(self, id_: str) -> Use[M]:
        """Use a loaded model; it is not unloaded before the block ends.

        Raises:
            ModelNotLoadedError: It is not loaded, still loading, or already leaving.
        """
        return Use(self._ready(id_))

    def used(self, id_: str) -> Use[M]:
        """Use a model that a call of the caller's uses already, also if it is about to be unloaded. Raises as `use`."""
        entry = self._entries.get(id_)
        if entry is None or entry.state is _State.LOADING:
            raise ModelNotLoadedError(id_)
        return Use(entry)

    def _ready(self, id_: str) -> _Entry[M]:
        entry = self._entries.get(id_)
        if entry is None or entry.state is not _State.READY:
            raise ModelNotLoadedError(id_)
        return entry

    # --- loading ------------------------------------------------------------------------------

    async def load(self, source: ModelSource) -> Loaded:
        """Load a model, or join the load that runs; one that is loaded already answers at once.

        A load during an unload waits for it. The same id from another source: the newer source replaces the older.
        When the last caller is cancelled the load is given up.

        Raises:
            CapacityError: It does not fit.
            Exception: What the author's `load` raised.
        """
        while True:
            entry = self._entries.get(source.id)
            if entry is None:
                entry = self._entries[source.id] = _Entry(source)
                entry.loading = asyncio.create_task(self._run_load(entry), name=f"load {source.id}")
                entry.loading.add_done_callback(_retrieve)
            if entry.state is _State.READY and entry.source == source:
                return Loaded(entry.size_bytes, entry.max_concurrency)
            if entry.state is not _State.LOADING:
                await self._leave(entry)
                continue
            if entry.given_up or entry.source != source:
                await asyncio.wait([_task(entry.loading)])
                continue
            entry.waiting += 1
            try:
                await asyncio.shield(_task(entry.loading))
            except asyncio.CancelledError:
                if not _task(entry.loading).done() and entry.waiting == 1:
                    self._give_up(entry)
                raise
            finally:
                entry.waiting -= 1

    def _give_up(self, entry: _Entry[M]) -> None:
        entry.given_up = True
        if entry.author is not None and inspect.iscoroutinefunction(self._runtime.load):
            entry.author.cancel()  # a thread cannot be stopped; its model is unloaded when it ends

    async def _run_load(self, entry: _Entry[M]) -> None:
        source = entry.source
        try:
            async with self._turns:
                _check_wanted(entry)
                predicted_bytes = await self._expect(source)
                await self._reserve(entry, self._wanted_before(entry, predicted_bytes))
                entry.author = asyncio.ensure_future(call(self._pool, self._runtime.load, source))
                try:
                    entry.model = await entry.author
                except asyncio.CancelledError:
                    raise LoadEndedError(f"the load of model {source.id!r} was given up") from None
                finally:
                    entry.author = None
                try:
                    await self._accept(entry, predicted_bytes)
                except BaseException:
                    await self._discard(entry)
                    raise
        except BaseException:
            entry.model = None
            self._drop(entry)
            raise
        entry.state = _State.READY

    async def _accept(self, entry: _Entry[M], predicted_bytes: int) -> None:
        """Measure what was loaded and check that it may stay."""
        source, runtime, model = entry.source, self._runtime, entry.model
        measured_bytes = int(await call(self._pool, runtime.size, model))
        if measured_bytes > 0:
            _remember(self._sizes, source, measured_bytes)
        await self._reserve(entry, measured_bytes or predicted_bytes or runtime.default_size_bytes)
        entry.signature = await call(self._pool, runtime.signature, model)
        entry.batching = await call(self._pool, runtime.batching, model)
        infer = runtime.infer
        is_async = inspect.iscoroutinefunction(infer) or inspect.isasyncgenfunction(infer)
        entry.is_async = is_async or await call(self._pool, runtime.is_async, model)
        if runtime.limits_concurrency:
            entry.max_concurrency = max(1, await call(self._pool, runtime.max_concurrency, model))
        _check_wanted(entry)

    async def _discard(self, entry: _Entry[M]) -> None:
        try:
            await call(self._pool, self._runtime.unload, entry.model)
        except Exception:  # noqa: BLE001 - author code may raise anything; the error of the load is the answer
            _log.exception("model %s, which could not stay, could not be unloaded", entry.source.id)

    async def _reserve(self, entry: _Entry[M], size_bytes: int) -> None:
        """Account `size_bytes` for an entry, waiting only for bytes that are being given back already."""
        capacity_bytes = self._runtime.capacity_bytes
        while True:
            others_bytes = self.accounted_bytes() - entry.size_bytes
            leaving_bytes = sum(e.size_bytes for e in self._entries.values() if e.state is _State.LEAVING)
            if others_bytes + size_bytes <= capacity_bytes or not self._bounded:
                entry.size_bytes = size_bytes
                return
            if others_bytes - leaving_bytes + size_bytes > capacity_bytes:
                raise CapacityError(
                    entry.source.id,
                    wanted_bytes=size_bytes,
                    free_bytes=capacity_bytes - others_bytes,
                    capacity_bytes=capacity_bytes,
                )
            self._freed.clear()
            await self._freed.wait()

    def _wanted_before(self, entry: _Entry[M], predicted_bytes: int) -> int:
        """What a load has to find free before it begins.

        The mesh has made room for the size that it got, else for its own estimate. A size that it did not get does not refuse its
        load, which would fail there again and again: such a load takes the room that there is, and is measured.
        """
        capacity_bytes = self._runtime.capacity_bytes
        if entry.source in self._sizes or entry.source in self._predicted or predicted_bytes > capacity_bytes:
            return predicted_bytes
        others = (e for e in self._entries.values() if e is not entry and e.state is not _State.LEAVING)
        return min(predicted_bytes, max(0, capacity_bytes - sum(e.size_bytes for e in others)))

    async def tell_size(self, source: ModelSource) -> int | None:
        """As `predict_size`, for the mesh, which makes room for this size."""
        size_bytes = await self.predict_size(source)
        if size_bytes is not None:
            _remember(self._predicted, source, size_bytes)
        return size_bytes

    async def predict_size(self, source: ModelSource) -> int | None:
        """What this model took when it was last loaded here, else the author's prediction."""
        known = self._sizes.get(source)
        if known is not None:
            return known
        predicted: int | None = await call(self._pool, self._runtime.predict_size, source)
        return predicted if predicted and predicted > 0 else None

    async def _expect(self, source: ModelSource) -> int:
        """Bytes to reserve for a load; 0 if it is not known: the size is checked after the load anyway."""
        try:
            return await self.predict_size(source) or 0
        except Exception as error:  # noqa: BLE001 - the load itself will report the error
            _log.debug("no predicted size of model %s: %s", source.id, error)
            return 0

    # --- unloading ----------------------------------------------------------------------------

    async def unload(self, id_: str) -> bool:
        """Unload a model; False if it was not there. A running load ends first.

        It is not found by new calls at once; calls that use it have `grace_s` to end.

        Raises:
            Exception: What the author's `unload` raised; the model stays accounted, and a repeat tries again.
        """
        entry = self._entries.get(id_)
        if entry is None:
            return False
        if entry.state is _State.LOADING:
            await asyncio.wait([_task(entry.loading)])
        if self._entries.get(id_) is entry:  # the load may have failed, and a later one begun
            await self._leave(entry)
        return True

    async def purge(self) -> None:
        """Unload everything and give up all loads; returns when nothing is left.

        Raises:
            LoadError: A model could not be unloaded.
        """
        while self._entries:
            for entry in list(self._entries.values()):
                if entry.state is _State.LOADING:
                    self._give_up(entry)
            leaving = [self.unload(id_) for id_ in list(self._entries)]
            results = await asyncio.gather(*leaving, return_exceptions=True)
            failed = [result for result in results if isinstance(result, Exception)]
            if failed:
                raise LoadError(f"models are left that could not be unloaded: {failed[0]}", status=Status.INTERNAL)

    async def _leave(self, entry: _Entry[M]) -> None:
        if entry.state is not _State.LEAVING:
            entry.state = _State.LEAVING
            if self.on_leave is not None:
                self.on_leave(entry.source.id)
            entry.leaving = asyncio.create_task(self._run_unload(entry), name=f"unload {entry.source.id}")
            entry.leaving.add_done_callback(_retrieve)
        await asyncio.shield(_task(entry.leaving))

    async def _run_unload(self, entry: _Entry[M]) -> None:
        try:
            await asyncio.wait_for(entry.idle.wait(), self._grace_s)
        except TimeoutError:
            _log.warning("model %s is unloaded though %d calls still use it", entry.source.id, entry.in_flight)
        try:
            await call(self._pool, self._runtime.unload, entry.model)
        except BaseException:
            entry.state = _State.STUCK
            self._freed.set()
            raise
        entry.model = entry.batcher = None
        entry.signature = ModelSignature()
        await asyncio.get_running_loop().run_in_executor(self._pool, free_memory)
        self._drop(entry)

    def _drop(self, entry: _Entry[M]) -> None:
        entry.size_bytes = 0
        if self._entries.get(entry.source.id) is entry:
            del self._entries[entry.source.id]
        self._freed.set()


def free_memory() -> None:
    """Collect cycles, and give free heap pages back to the system where the C library can (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def _check_wanted(entry: _Entry[Any]) -> None:
    if entry.given_up:
        raise LoadEndedError(f"the load of model {entry.source.id!r} was cancelled: no caller waits for it any more")


def _task(task: "asyncio.Task[None] | None") -> "asyncio.Task[None]":
    assert task is not None
    return task


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Look at an exception, so that one no caller waits for is not reported as never retrieved."""
    if not future.cancelled():
        future.exception()


def _remember(sizes: OrderedDict[ModelSource, int], source: ModelSource, size_bytes: int) -> None:
    sizes[source] = size_bytes
    sizes.move_to_end(source)
    if len(sizes) > REMEMBERED_SIZES:
        sizes.popitem(last=False)
