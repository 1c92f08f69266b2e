"""Bugs as faults: unexpected exceptions."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random

from modelmesh.testing.cluster import SimulatedInstance
from modelmesh.testing.raising import Raising
from modelmesh.testing.world import World
from modelmesh.values.ids import InstanceId

CHANCES = (0.002, 0.01, 0.05)
HOPELESS = 0.9
"""So often that no loop can continue: the instance must say so, and end."""


class RaisingFaults:
    """Raises at instances for a while.

    Args:
        world: What they happen to.
        start: Starts another instance.
    """

    def __init__(self, world: World, start: Callable[[], Awaitable[None]]) -> None:
        self._world = world
        self._start = start
        self._raising: dict[InstanceId, Raising] = {}
        world.cluster.prepare = self._prepare
        self.kinds: Mapping[str, Callable[[], Awaitable[bool | None]]] = {
            "raises": self._raise,
            "raises_always": self._raise_always,
        }

    def _prepare(self, instance: SimulatedInstance) -> None:
        rng = Random(self._world.rng.getrandbits(32))  # noqa: S311 - a simulation
        self._raising[instance.plane.identity.instance] = Raising(instance, rng)

    async def _raise(self) -> bool:
        """Now and then, anywhere."""
        name = self._world.some()
        if name in self._world.hopeless:
            return False
        raising = self._raising[name]
        raising.chance = self._world.rng.choice(CHANCES)
        await asyncio.sleep(self._world.rng.uniform(1, 10))
        if name not in self._world.hopeless:
            raising.chance = 0
        return True

    async def _raise_always(self) -> None:
        """Until the instance gives up; then it ends, and another one is started."""
        name = self._world.some()
        instance = self._world.cluster.instances[name]
        raising = self._raising[name]
        raising.chance = HOPELESS
        self._world.hopeless.add(name)
        try:
            async with asyncio.timeout(120):
                await instance.plane.supervisor.ended.wait()
        except TimeoutError:
            assert name not in self._world.cluster.instances, f"{name} raises all the time and does not give up"
        finally:
            raising.chance = 0
        if self._world.cluster.instances.get(name) is instance:
            assert not instance.plane.ready, f"{name} cannot go on and says that it is ready"
            await asyncio.sleep(self._world.rng.uniform(0.1, 2))
        if self._world.cluster.instances.get(name) is instance:
            await self._world.crash(name)
            await self._start()
