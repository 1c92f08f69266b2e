"""The simulator notices a call to a runtime that is waited for without end."""

import asyncio
from collections.abc import Awaitable

import pytest

from modelmesh.control.copies import bounded_runtime
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.world import World

HUNG_S = 30


def played() -> None:
    """Calls of all kinds hang, one after the other, beside traffic; then the cluster must come to rest."""

    async def main() -> None:
        world = next(drawn for seed in range(100) if len((drawn := World.drawn(seed)).artefacts) > 30)
        await world.add()
        for artefact in world.artefacts.values():
            await world.register(artefact)

        async def traffic() -> None:
            for turn in range(10_000):
                model = list(world.artefacts)[turn % len(world.artefacts)]
                await world.cluster.call(model, via=world.some(), timeout_ms=5_000)
                await asyncio.sleep(0.1)

        calls = asyncio.create_task(traffic())
        for method in ("unload", "load", "measure_size", "predict_size"):
            for instance in world.cluster.instances.values():
                instance.runtime.hung = {method}
            await asyncio.sleep(HUNG_S)
        for instance in world.cluster.instances.values():
            instance.runtime.hung.clear()
        calls.cancel()
        await world.cluster.settled(within_ms=90_000)
        await world.close()

    run_virtual(main())


def test_as_it_is_the_cluster_comes_to_rest() -> None:
    played()


def test_an_unload_that_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def without(_: int, call: Awaitable, message: str):
        del message
        return await call

    monkeypatch.setattr(bounded_runtime, "_within", without)
    with pytest.raises(AssertionError, match="unloading"):
        played()
