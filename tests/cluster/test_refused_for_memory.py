"""A load for which the books have room and the runtime has none: what is loaded beside it is larger than was predicted."""

import asyncio
from collections.abc import Awaitable, Callable

from modelmesh.ports import RuntimeCallError
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, register
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.testing.model_paths import size_path
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status

LATE_MS = 5_000
"""A prediction that takes longer than it is waited for."""


def play(story: Callable[[SimulatedCluster, SimulatedInstance], Awaitable[None]], *, answers_size: bool = True) -> None:
    """A story on one instance of 1,000 bytes that takes models of which nothing is known for 100, and two at a time."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        runtime = FakeRuntime(
            VirtualClock(),
            capacity_bytes=1000,
            default_size_bytes=100,
            loading_concurrency=2,
            predicts=lambda size: size,
            answers_size=answers_size,
            measure_ms=300,
            overflow="refuse",
        )
        try:
            await story(cluster, await cluster.add("a", runtime=runtime))
            await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())


async def fill(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
    """Two models of 300 bytes."""
    for number in range(2):
        await register(a, f"m{number}", path=size_path(300, 1, 1), kind="known")
        assert (await cluster.call(f"m{number}", via="a")).status is Status.OK
        await asyncio.sleep(5)


def loads_again(a: SimulatedInstance) -> int:
    """Loads that were made once more."""
    return sum(event.kind == "load_again" for event in a.plane.journal.history)


def test_it_is_loaded_when_the_size_of_the_load_beside_it_is_known() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await fill(cluster, a)
        await register(a, "late", path=size_path(300, 2_000, 1), kind="other")
        await register(a, "next", path=size_path(250, 1, 1), kind="known")
        a.runtime.predict_ms = LATE_MS
        late = asyncio.ensure_future(cluster.call("late", via="a"))
        await asyncio.sleep(1.5)
        assert a.plane.cache.ledger.granted == Memory(100)
        a.runtime.predict_ms = 0
        assert (await cluster.call("next", via="a")).status is Status.OK
        assert (await late).status is Status.OK
        assert loads_again(a) == 1

    play(story)


def test_what_was_measured_late_makes_room_too() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await fill(cluster, a)
        await register(a, "late", path=size_path(300, 100, 1), kind="other")
        await register(a, "next", path=size_path(250, 1, 1), kind="known")
        a.runtime.predict_ms = LATE_MS
        assert (await cluster.call("late", via="a")).status is Status.OK
        a.runtime.predict_ms = 0
        assert (await cluster.call("next", via="a")).status is Status.OK
        assert loads_again(a) == 1

    play(story, answers_size=False)


def test_its_own_size_was_not_known() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await fill(cluster, a)
        await register(a, "m", path=size_path(450, 1, 1), kind="other")
        a.runtime.failures["predict_size"] = [RuntimeCallError(Status.UNAVAILABLE, "busy")]
        assert (await cluster.call("m", via="a")).status is Status.OK
        assert loads_again(a) == 1
        assert a.plane.cache.ledger.used == Memory(750)

    play(story)


def test_a_model_that_has_no_memory_alone_is_not_loaded_again() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(900, 1, 1))
        a.runtime.capacity_bytes = 800
        answer = await cluster.call("m", via="a")
        assert answer.status is Status.INTERNAL
        assert "needs 900 bytes, 800 are free" in answer.message
        assert a.runtime.load_counts[ModelId("m")] == 1

    play(story)


def test_a_refusal_that_no_size_explains_evicts_nothing() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await fill(cluster, a)
        await register(a, "m", path=size_path(90, 1, 1))
        a.runtime.capacity_bytes = 50
        answer = await cluster.call("m", via="a")
        assert answer.status is Status.INTERNAL
        assert a.runtime.load_counts[ModelId("m")] == 1
        await asyncio.sleep(5)
        assert len(a.runtime.loaded) == 2
        a.runtime.capacity_bytes = 1000

    play(story)
