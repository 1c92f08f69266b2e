"""`FakeRuntime`: the port `ports.Runtime` in memory, on an injected clock. No I/O, no chance of its own."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Literal

from modelmesh.ports import Clock, ModelSource, RuntimeCallError, RuntimeLoaded, RuntimeState, RuntimeStatus
from modelmesh.testing.model_paths import MIB, ModelScript, script_of
from modelmesh.values import bounds
from modelmesh.values.ids import ModelId
from modelmesh.values.load_progress import LoadProgress, LoadStage
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status


class FakeRuntime:
    """A runtime whose every answer a test decides. Attributes may be changed at any time.

    Model paths `SIZE_<bytes>_<loadMs>_<unloadMs>` and `FAIL_<message>` work as in the example runtime; for other
    paths `script` decides.

    Args:
        clock: All waiting goes through it.
        random: Draws what paths leave open.
        script: Size and times of a model whose path does not say; None draws them.
        start_ms: How long it answers STARTING, from its creation and from each `restart`.
        overflow: What happens to a load past the capacity: it succeeds, is refused with RESOURCE_EXHAUSTED, or
            kills the runtime (out of memory).

    Attributes:
        counts: Calls by port method.
        load_counts: Loads that began, by model.
        loaded: Sizes of what is loaded, in the order of loading.
        peak_bytes: Most bytes that were ever loaded at once, loads and unloads that run included.
        hung: Port methods that take calls and never answer them, whatever comes later, but for its death.
        garbage: Port methods whose answers are malformed: they raise what `GrpcRuntime` raises then.
        failures: Errors for the next calls, by method, each used once.
        load_failures: Errors for every load of a model.
        reported_size: What the runtime says for a true size; lies if told to.
        answers_size: Whether a load's answer has the size, or `measure_size` must be asked.
        paths: From where each loaded model was loaded.
        crashes: Told at once when it dies: connections to it break.
        at_work: Awaited by every load; what it raises the load does.
        slowdown: Loads take so many times longer.
        problems: Misuse by the instance: a load of a model whose load runs already.
        predicts: What `predict_size` answers: nothing (UNIMPLEMENTED), or the true size through this function.
        predict_ms: How long it takes to.
        tells: Whether `progress` says how far a load is: its bytes come evenly over its time.
        stalled: Models whose loads continue, and tell no more progress.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        capacity_bytes: int = 1024 * MIB,
        default_size_bytes: int = 50 * MIB,
        loading_concurrency: int = 6,
        load_timeout_ms: int = 90_000,
        max_concurrency: int = 0,
        start_ms: int = 0,
        never_ready: bool = False,
        failing: bool = False,
        random: Random | None = None,
        script: Callable[[ModelSource], ModelScript] | None = None,
        reported_size: Callable[[int], int] = lambda size_bytes: size_bytes,
        predicts: Callable[[int], int] | None = None,
        predict_ms: int = 0,
        answers_size: bool = True,
        measure_ms: int = 0,
        overflow: Literal["allow", "refuse", "crash"] = "allow",
    ) -> None:
        self.clock = clock
        self.capacity_bytes = capacity_bytes
        self.default_size_bytes = default_size_bytes
        self.loading_concurrency = loading_concurrency
        self.load_timeout_ms = load_timeout_ms
        self.max_concurrency = max_concurrency
        self.start_ms = start_ms
        self.never_ready = never_ready
        self.failing = failing
        self.script = script
        self.reported_size = reported_size
        self.predicts = predicts
        self.predict_ms = predict_ms
        self.answers_size = answers_size
        self.measure_ms = measure_ms
        self.overflow = overflow
        self.counts: Counter[str] = Counter()
        self.load_counts: Counter[ModelId] = Counter()
        self.loaded: dict[ModelId, int] = {}
        self.paths: dict[ModelId, str] = {}
        self.crashes: Callable[[], None] = lambda: None
        self.at_work: Callable[[FakeRuntime, ModelId], Awaitable[None]] | None = None
        self.slowdown = 1.0
        self.problems: list[str] = []
        self.peak_bytes = 0
        self.garbage: set[str] = set()
        self.hung: set[str] = set()
        self._thawed: asyncio.Event | None = None
        self.failures: dict[str, list[RuntimeCallError]] = {}
        self.load_failures: dict[ModelId, RuntimeCallError] = {}
        self._random = random or Random(0)  # noqa: S311 - draws test data
        self._scripts: dict[ModelId, ModelScript] = {}
        self._moving: dict[ModelId, int] = {}
        self._load_calls: dict[ModelId, None] = {}
        self._locks: dict[ModelId, asyncio.Lock] = {}
        self._ready_ms = clock.monotonic_ms() + start_ms
        self._down = False
        self._life = 0
        self._closed = False
        self._crashed: asyncio.Future[None] | None = None
        self._gate: asyncio.Event | None = None
        self.tells = False
        self.stalled: set[ModelId] = set()
        self._begun: dict[ModelId, tuple[int, int, int]] = {}
        """Of loads that run: when they began, how long they take, how many bytes they bring."""

    # --- knobs --------------------------------------------------------------------------------

    def crash(self) -> None:
        """Die: all models are gone, running and later calls fail UNAVAILABLE until `restart`."""
        self._down = True
        self.thaw()
        self._life += 1
        self.crashes()
        self.loaded.clear()
        self._moving.clear()
        if self._crashed is not None and not self._crashed.done():
            self._crashed.set_result(None)
        self._crashed = None

    def restart(self) -> None:
        """Be back, empty; STARTING for `start_ms`. Crashes first if it runs."""
        if not self._down:
            self.crash()
        self._down = False
        self._ready_ms = self.clock.monotonic_ms() + self.start_ms

    def freeze(self) -> None:
        """Stand still, as a stopped process does."""
        self._thawed = self._thawed or asyncio.Event()

    def thaw(self) -> None:
        """Go on, with what was asked meanwhile."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    async def turn(self) -> None:
        """Wait while it hangs. Raises RuntimeCallError if it dies meanwhile."""
        if self._thawed is not None:
            await self._race(self._thawed.wait())

    @property
    def frozen(self) -> bool:
        """Whether it hangs."""
        return self._thawed is not None

    def vanish(self, model: ModelId) -> None:
        """Lose one model without being told to."""
        self.loaded.pop(model, None)

    def hold_loads(self) -> None:
        """Let no load end until `release_loads`."""
        self._gate = self._gate or asyncio.Event()

    def release_loads(self) -> None:
        """Let held loads continue."""
        if self._gate is not None:
            self._gate.set()
            self._gate = None

    def fail_next(self, method: str, status: Status, message: str = "scripted failure") -> None:
        """Fail the next call of a port method (`load`, `unload`, …); several queue up."""
        self.failures.setdefault(method, []).append(RuntimeCallError(status, message))

    def models(self) -> dict[ModelId, int]:
        """True bytes of each model that is loaded, being loaded or being unloaded."""
        return self.loaded | self._moving

    def used_bytes(self) -> int:
        """True bytes of what is loaded, being loaded and being unloaded."""
        return sum(self.loaded.values()) + sum(self._moving.values())

    @property
    def life(self) -> int:
        """Grows each time it dies."""
        return self._life

    @property
    def down(self) -> bool:
        """Whether it crashed and was not restarted."""
        return self._down

    # --- the port -----------------------------------------------------------------------------

    async def status(self) -> RuntimeStatus:
        """As scripted; a READY answer drops every loaded model, as existing runtimes do."""
        await self._begin("status")
        if self.failing:
            return RuntimeStatus(RuntimeState.FAILING)
        if self.never_ready or self.clock.monotonic_ms() < self._ready_ms:
            return RuntimeStatus(RuntimeState.STARTING)
        self.loaded.clear()
        return RuntimeStatus.decoded(
            RuntimeState.READY,
            capacity_bytes=self.capacity_bytes,
            default_size_bytes=self.default_size_bytes,
            loading_concurrency=self.loading_concurrency,
            load_timeout_ms=self.load_timeout_ms,
            limits_concurrency=self.max_concurrency > 0,
            version="fake",
        )

    async def answers(self) -> None:
        """At once."""
        await self._begin("answers")

    async def load(self, source: ModelSource) -> RuntimeLoaded:
        """Load; a second load of a loaded model answers at once, one of a loading model joins."""
        if source.model in self._load_calls:
            self.problems.append(f"a second load of {source.model} began while one ran")
        self._load_calls[source.model] = None
        try:
            await self._begin("load")
            life = self._life
            async with self._lock(source.model):
                self._check_alive(life)
                if source.model not in self.loaded:
                    await self._load(source)
                size_bytes = self.loaded.get(source.model, 0)
        finally:
            self._load_calls.pop(source.model, None)
        return RuntimeLoaded.decoded(
            size_bytes=self.reported_size(size_bytes) if self.answers_size else 0, max_concurrency=self.max_concurrency
        )

    async def _load(self, source: ModelSource) -> None:
        model = source.model
        self.load_counts[model] += 1
        if source.path.startswith(("SIZE_", "FAIL_")) or self.script is None:
            script = script_of(source.path, self._random)
        else:
            script = self.script(source)
        if self.used_bytes() + script.size_bytes > self.capacity_bytes and self.overflow != "allow":
            if self.overflow == "crash":
                self.crash()
                raise RuntimeCallError(Status.UNAVAILABLE, "the runtime ran out of memory", lost=True)
            free_bytes = self.capacity_bytes - self.used_bytes()
            raise RuntimeCallError(
                Status.RESOURCE_EXHAUSTED, f"model {model!r} needs {script.size_bytes} bytes, {free_bytes} are free"
            )
        self._moving[model] = script.size_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes())
        load_ms = round(script.load_ms * self.slowdown)
        self._begun[model] = (self.clock.monotonic_ms(), load_ms, script.size_bytes)
        try:
            await self._sleep(load_ms)
            if self.at_work is not None:
                await self.at_work(self, model)
            if self._gate is not None:
                await self._race(self._gate.wait())
            if model in self.load_failures:
                error = self.load_failures[model]
                raise RuntimeCallError(error.status, error.message)
            if script.failure is not None and self.load_counts[model] == 1:
                raise RuntimeCallError(Status.INTERNAL, script.failure)
        finally:
            self._moving.pop(model, None)
            self._begun.pop(model, None)
        self.loaded[model] = script.size_bytes
        self.paths[model] = source.path
        self._scripts[model] = script

    async def unload(self, model: ModelId) -> None:
        """Unload; unknown models succeed, whichever way the runtime says it."""
        await self._begin("unload")
        life = self._life
        async with self._lock(model):
            self._check_alive(life)
            size_bytes = self.loaded.pop(model, None)
            if size_bytes is None:
                return  # a runtime that says NOT_FOUND looks the same through the port
            self._moving[model] = size_bytes
            try:
                await self._sleep(self._scripts[model].unload_ms)
            finally:
                self._moving.pop(model, None)

    async def predict_size(self, source: ModelSource) -> Memory | None:
        """The true size through `predicts`; None without it, and for paths that do not say a size."""
        try:
            await self._begin("predict_size")
            await self._sleep(self.predict_ms)
        except RuntimeCallError as error:
            if error.lost:
                raise
            return None
        if self.predicts is None:
            return None
        if source.path.startswith("SIZE_"):
            return Memory(self.predicts(script_of(source.path, self._random).size_bytes))
        return Memory(self.predicts(self.script(source).size_bytes)) if self.script else None

    async def measure_size(self, model: ModelId) -> Memory:
        """The true size through `reported_size`."""
        await self._begin("measure_size")
        await self._sleep(self.measure_ms)
        if model not in self.loaded:
            raise RuntimeCallError(Status.NOT_FOUND, f"model {model!r} is not loaded")
        return Memory(bounds.BYTES.clamp(self.reported_size(self.loaded[model])))

    async def progress(self, model: ModelId) -> LoadProgress | None:
        """The share of its bytes that is the share of its time; None without `tells`."""
        try:
            await self._begin("progress")
        except RuntimeCallError:
            return None
        if not self.tells or model not in self._begun:
            return None
        began_ms, load_ms, size_bytes = self._begun[model]
        passed_ms = 0 if model in self.stalled else min(load_ms, self.clock.monotonic_ms() - began_ms)
        if passed_ms == load_ms:
            return LoadProgress(LoadStage.LOADING, bytes_done=size_bytes, bytes_total=size_bytes)
        stage, done = LoadStage.FETCHING, size_bytes * passed_ms // load_ms
        return LoadProgress(stage, bytes_done=done, bytes_total=size_bytes)

    async def close(self) -> None:
        """Later calls fail UNAVAILABLE."""
        self._closed = True

    # --- inside -------------------------------------------------------------------------------

    def _lock(self, model: ModelId) -> asyncio.Lock:
        return self._locks.setdefault(model, asyncio.Lock())

    async def _begin(self, method: str) -> None:
        self.counts[method] += 1
        if self._down or self._closed:
            raise RuntimeCallError(Status.UNAVAILABLE, "the runtime is down", unprocessed=True)
        await self.clock.sleep(0)
        await self.turn()
        if method in self.hung:
            await self._race(asyncio.Event().wait())
        queued = self.failures.get(method)
        if queued:
            raise queued.pop(0)
        if method in self.garbage:
            raise RuntimeCallError(Status.INTERNAL, f"the runtime's answer to {method} is malformed")

    def _check_alive(self, life: int) -> None:
        """A call that waited belongs to the life it began in."""
        if life != self._life:
            raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)

    async def _sleep(self, ms: int) -> None:
        if ms > 0:
            await self._race(self.clock.sleep(ms))

    async def _race(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Wait, but fail as soon as the runtime crashes."""
        if self._crashed is None:
            self._crashed = asyncio.get_running_loop().create_future()
        crashed = self._crashed
        task: asyncio.Task[object] = asyncio.ensure_future(waiting)
        try:
            pending: list[asyncio.Future[Any]] = [task, crashed]
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if crashed.done():
                raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)
            task.result()
        finally:
            task.cancel()
