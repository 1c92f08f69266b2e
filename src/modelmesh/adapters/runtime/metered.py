"""A runtime whose answers are timed."""

import time

from modelmesh.machines.meter import Meter
from modelmesh.ports import ModelSource, Runtime, RuntimeCallError, RuntimeLoaded, RuntimeStatus
from modelmesh.values.ids import ModelId
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.memory import Memory


class MeteredRuntime:
    """Passes every call on (`ports.Runtime`) and counts what it took, in fractions of milliseconds."""

    def __init__(self, runtime: Runtime, meter: Meter) -> None:
        self._runtime = runtime
        self._meter = meter
        self._unloading: dict[ModelId, float] = {}

    async def status(self) -> RuntimeStatus:
        """Pass on."""
        return await self._runtime.status()

    async def answers(self) -> None:
        """Pass on."""
        await self._runtime.answers()

    async def load(self, source: ModelSource) -> RuntimeLoaded:
        """Pass on; counted if it succeeds. Failures are counted from the journal, time-outs among them."""
        began = time.perf_counter()
        loaded = await self._runtime.load(source)
        self._observe("modelmesh_loadmodel_milliseconds", began, source.model)
        if loaded.size:
            self._sized(source.model, loaded.size)
        return loaded

    async def unload(self, model: ModelId) -> None:
        """Pass on; the time is that since the first attempt."""
        began = self._unloading.setdefault(model, time.perf_counter())
        try:
            await self._runtime.unload(model)
        except RuntimeCallError:
            self._meter.count("modelmesh_unloadmodel_attempt_failure")
            raise
        del self._unloading[model]
        self._observe("modelmesh_unloadmodel_milliseconds", began, model)

    async def predict_size(self, source: ModelSource) -> Memory | None:
        """Pass on."""
        return await self._runtime.predict_size(source)

    async def measure_size(self, model: ModelId) -> Memory:
        """Pass on."""
        began = time.perf_counter()
        size = await self._runtime.measure_size(model)
        self._observe("modelmesh_model_sizing_milliseconds", began, model)
        self._sized(model, size)
        return size

    async def progress(self, model: ModelId) -> LoadProgress | None:
        """Pass on."""
        return await self._runtime.progress(model)

    async def close(self) -> None:
        """Pass on."""
        await self._runtime.close()

    def _sized(self, model: ModelId, size: Memory) -> None:
        self._meter.observe("modelmesh_loaded_model_size_bytes", size.bytes, model=model)

    def _observe(self, name: str, began: float, model: ModelId) -> None:
        self._meter.observe(name, (time.perf_counter() - began) * 1000, model=model)
