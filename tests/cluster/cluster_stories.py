"""Stories of simulated clusters, on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from modelmesh.ports import RuntimeCallError
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, infer_after, register, set_vmodel
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

Story = Callable[[SimulatedCluster], Awaitable[None]]


def play(story: Story, *, seed: int = 1, names: Iterable[str] = "", settles: bool = True, **options: Any) -> None:
    """Run a story with a cluster of its own.

    Args:
        names: Instances that are there when the story begins.
        settles: The cluster must settle when the story has ended, and is checked then.
        options: Of each of these instances, as `SimulatedCluster.add` takes them.
    """

    async def main() -> None:
        cluster = SimulatedCluster(seed=seed)
        try:
            for name in names:
                await cluster.add(name, **options)
            await story(cluster)
            if settles:
                await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())


@dataclass
class VModelWorld:
    """A cluster where the vmodel v is the model a. How models answer can be set: later, or with an error."""

    cluster: SimulatedCluster
    slow_ms: dict[str, int] = field(default_factory=dict)
    fails: dict[str, Status] = field(default_factory=dict)

    async def begin(self, names: Iterable[str], models: Iterable[str]) -> None:
        """Start instances, register models, and set v."""
        for name in names:
            await self.cluster.add(name, infer=self.infer)
        for model in models:
            await register(self.first, model)
        await set_vmodel(self.first, "v", "a")

    async def infer(self, runtime: FakeRuntime, model: ModelId, payload: object) -> object:
        """As the fake runtime does, later or with an error."""
        await asyncio.sleep(self.slow_ms.get(model, 0) / 1000)
        if model in self.fails:
            raise RuntimeCallError(self.fails[model], "so it was told")
        return await infer_after()(runtime, model, payload)

    @property
    def first(self) -> SimulatedInstance:
        """The instance that started first."""
        return next(iter(self.cluster.instances.values()))
