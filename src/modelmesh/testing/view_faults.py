"""What fails with what instances know: histories that are gone, settings that come and go."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from modelmesh.ports import Delete, Put, Transaction
from modelmesh.testing.cluster import KEYS
from modelmesh.testing.world import World

SETTING = f"{KEYS.config}scaleup_rpm_threshold"
UNKNOWN_SETTING = f"{KEYS.config}nobody_knows_this"

MEANWHILE_S = 3
"""No instance is cut off for longer than an instance may be without being noticed."""


class ViewFaults:
    """Faults of what is seen.

    Args:
        world: What they happen to.
        meanwhile: Something that changes in between.
    """

    def __init__(self, world: World, meanwhile: Callable[[], Awaitable[bool | None]]) -> None:
        self._world = world
        self._meanwhile = meanwhile
        self.kinds: Mapping[str, Callable[[], Awaitable[bool | None]]] = {
            "relist": self._relist,
            "setting_changed": self._change_setting,
        }

    async def _relist(self) -> bool:
        """Some lose the store for a moment, and what they missed is compacted before they are back."""
        rng, names = self._world.rng, list(self._world.cluster.instances)
        lost = [self._world.stores[name] for name in rng.sample(names, rng.randint(1, len(names)))]
        for store in lost:
            store.pause()
        await asyncio.sleep(rng.uniform(0.1, 2))
        if len(lost) < len(names):
            with suppress(TimeoutError):
                async with asyncio.timeout(MEANWHILE_S):
                    await self._meanwhile()
        await self._change_setting()
        await asyncio.sleep(rng.uniform(0.1, 5))
        for store in lost:
            await store.compact()
            store.break_watches()
            if not self._world.store_paused:
                store.resume()
        return True

    async def _change_setting(self) -> None:
        """A setting is put, made nonsense, or deleted."""
        rng = self._world.rng
        key = rng.choice((SETTING, SETTING, UNKNOWN_SETTING))
        value = rng.choice((b"1500", b"2500", b"none", b"-1", None, None))
        change = Delete(key) if value is None else Put(key, value)
        await self._world.memory.transact(Transaction(compares=(), then=(change,)))
