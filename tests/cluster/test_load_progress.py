"""Loads that tell how far they are: waited for while they move on, and not without end. Simulated clusters."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import cluster_stories

from modelmesh.policy.load_patience import MOST_TIMEOUTS
from modelmesh.testing.clock import VirtualClock
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, register
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.testing.model_paths import size_path
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

M = ModelId("m")
TIMEOUT_MS = 5_000


def play(story: Callable[[SimulatedCluster, SimulatedInstance], Awaitable[None]], *, tells: bool = True) -> None:
    """A story on one instance whose runtime says that a load takes five seconds at most."""

    async def prepared(cluster: SimulatedCluster) -> None:
        runtime = FakeRuntime(
            VirtualClock(), capacity_bytes=10_000_000, default_size_bytes=1_000_000, load_timeout_ms=TIMEOUT_MS
        )
        runtime.tells = tells
        await story(cluster, await cluster.add("a", runtime=runtime))

    cluster_stories.play(prepared, seed=5)


def events(instance: SimulatedInstance, kind: str) -> list[tuple[str, str]]:
    return [(one.reason, one.detail) for one in instance.plane.journal.history if one.kind == kind]


def test_a_load_that_moves_on_may_take_longer_than_the_time_out() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(1_000_000, 40_000, 1))
        assert (await cluster.call("m", via="a", timeout_ms=60_000)).status is Status.OK
        assert a.runtime.load_counts[M] == 1
        told = events(a, "load_progress")
        assert told[0] == ("fetching", "fetching, 24.4 KiB of 976.6 KiB")
        assert 3 <= len(told) <= 8, "once for each stage, and each ten seconds"
        remembered = [one for one in a.plane.recall.history(M).events if one.kind == "load_progress"]
        assert len(remembered) <= 2, "a long load does not push out what came before"
        assert sum(one.times for one in remembered) == len(told)
        assert a.plane.cache.loading() == []

    play(story)


def test_without_progress_the_time_out_is_what_it_was() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(1_000_000, 40_000, 1))
        answer = await cluster.call("m", via="a", timeout_ms=60_000)
        assert "Load of model m timed out after 5sec" in answer.message
        assert not events(a, "load_progress")

    play(story, tells=False)


def test_a_load_that_stands_still_ends_one_time_out_after_its_last_progress() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(1_000_000, 40_000, 1))
        call = asyncio.ensure_future(cluster.call("m", via="a", timeout_ms=60_000))
        await asyncio.sleep(12)
        assert not call.done()
        (now,) = a.plane.cache.loading()
        assert now.bytes_total == 1_000_000
        assert 200_000 < now.bytes_done < 400_000
        a.runtime.stalled.add(M)
        began = asyncio.get_running_loop().time()
        answer = await call
        assert TIMEOUT_MS / 1000 - 1.5 <= asyncio.get_running_loop().time() - began <= TIMEOUT_MS / 1000 + 1.5
        assert re.search(r"it moved on last at: fetching, [23]\d\d\.\d KiB of 976\.6 KiB", answer.message)
        assert answer.message.startswith("Load of model m timed out after ") or "timed out after 1" in answer.message

    play(story)


def test_no_load_is_waited_for_without_end() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(1_000_000, 10 * MOST_TIMEOUTS * TIMEOUT_MS, 1))
        began = asyncio.get_running_loop().time()
        answer = await cluster.call("m", via="a", timeout_ms=10 * MOST_TIMEOUTS * TIMEOUT_MS)
        assert "timed out" in answer.message
        took_ms = (asyncio.get_running_loop().time() - began) * 1000
        assert abs(took_ms - MOST_TIMEOUTS * TIMEOUT_MS) < 2_000

    play(story)


def test_a_runtime_that_dies_meanwhile_ends_the_load_at_once() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(1_000_000, 40_000, 1))
        call = asyncio.ensure_future(cluster.call("m", via="a", timeout_ms=60_000))
        await asyncio.sleep(8)
        a.runtime.restart()
        async with asyncio.timeout(50):
            await call

    play(story)
