"""Who waits for whom where not all models fit: nobody for ever, and nobody for what nobody asked for. Simulated clusters."""

import asyncio
from functools import partial
from random import Random

import cluster_stories

from modelmesh.testing.clock import VirtualClock
from modelmesh.testing.cluster import SimulatedCluster, ensure_loaded, register
from modelmesh.testing.model_paths import size_path
from modelmesh.values.status import Status

NAMES = ("a", "b", "c")
LOAD_MS = 2_000
UNLOAD_MS = 20

play = partial(cluster_stories.play, names=NAMES, seed=7)


async def register_all(cluster: SimulatedCluster, models: list[str]) -> None:
    for model in models:
        await register(cluster.instances["a"], model, path=size_path(100, LOAD_MS, UNLOAD_MS))


async def waited_ms(cluster: SimulatedCluster, model: str, *, via: str) -> int:
    """How long a call took; it must be answered."""
    clock = VirtualClock()
    began_ms = clock.monotonic_ms()
    assert (await cluster.call(model, via=via, timeout_ms=None)).status is Status.OK
    return clock.monotonic_ms() - began_ms


def test_no_models_callers_starve_under_more_loads_than_there_are_slots_for() -> None:
    """Calls for new models come twice as fast as models can be loaded: who came first is served first, within a load's time."""
    coming = [f"m{number}" for number in range(120)]

    async def story(cluster: SimulatedCluster) -> None:
        await register_all(cluster, coming)
        rng = Random(1)
        calls = []
        for model in coming:
            calls.append(asyncio.create_task(waited_ms(cluster, model, via=rng.choice(NAMES))))
            await asyncio.sleep(LOAD_MS / len(NAMES) / 2 / 1000)
        waits = await asyncio.gather(*calls)
        for number, wait_ms in enumerate(waits):
            # Of those before it half were loaded when it came; the others take their turns at three instances.
            fair_ms = (number / 2 / len(NAMES) + 1) * LOAD_MS
            assert wait_ms < fair_ms + 3 * LOAD_MS, (number, wait_ms, fair_ms)

    play(story, capacity_bytes=1_010, loading_concurrency=1)


def test_a_burst_of_models_that_are_called_once_does_not_make_the_hot_ones_wait() -> None:
    """Their callers find them ready: what is called once does not displace what is called all the time."""
    hot = [f"hot{number}" for number in range(20)]
    once = [f"once{number}" for number in range(90)]

    async def story(cluster: SimulatedCluster) -> None:
        await register_all(cluster, hot + once)
        rng = Random(2)

        async def call_hot(rounds: int) -> list[int]:
            calls = []
            for _ in range(rounds):
                calls += [asyncio.create_task(waited_ms(cluster, model, via=rng.choice(NAMES))) for model in hot]
                await asyncio.sleep(1)
            return list(await asyncio.gather(*calls))

        async def call_each_once() -> None:
            calls = []
            for model in once:
                calls.append(asyncio.create_task(waited_ms(cluster, model, via=rng.choice(NAMES))))
                await asyncio.sleep(0.5)
            await asyncio.gather(*calls)

        await call_hot(30)
        burst = asyncio.create_task(call_each_once())
        waits = await call_hot(60)
        await burst
        held_up = sum(wait_ms >= 100 for wait_ms in waits)
        assert held_up <= len(waits) // 50, f"{held_up} of {len(waits)} calls for hot models waited for a load"

    play(story, capacity_bytes=1_010, loading_concurrency=2)


def test_callers_do_not_wait_for_models_that_nobody_waits_for_at_any_instance() -> None:
    """Sixty preloads are queued at three instances; a call begins its load with the first slot that becomes free."""
    preloads = [f"preload{number}" for number in range(60)]

    async def story(cluster: SimulatedCluster) -> None:
        await register_all(cluster, [*preloads, "wanted", "wanted_too"])
        for number, model in enumerate(preloads):
            await ensure_loaded(cluster.instances[NAMES[number % 3]], model)
        await asyncio.sleep(1)
        queued = sum(instance.plane.cache.loads for instance in cluster.instances.values())
        assert queued > 30, "there is nothing to overtake"
        for model, via in (("wanted", "a"), ("wanted_too", "c")):
            assert await waited_ms(cluster, model, via=via) <= 2 * LOAD_MS + 2 * UNLOAD_MS + 100

    play(story, settles=False, capacity_bytes=3_000, loading_concurrency=1)
