"""What the runtime predicts of a model never loaded is asked while the claim is written: simulated clusters."""

import asyncio
from collections.abc import Awaitable, Callable

import cluster_stories
import pytest

from modelmesh.testing.clock import VirtualClock
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance, register, unregister
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.testing.model_paths import size_path
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import Memory
from modelmesh.values.records import CopyRecord
from modelmesh.values.status import Status

M = ModelId("m")


def play(story: Callable[[SimulatedCluster, SimulatedInstance], Awaitable[None]], *, predict_ms: int = 200) -> None:
    """A story on one instance of 1,000 bytes that takes models of which nothing is known for 100."""

    async def prepared(cluster: SimulatedCluster) -> None:
        runtime = FakeRuntime(
            VirtualClock(),
            capacity_bytes=1000,
            default_size_bytes=100,
            loading_concurrency=1,
            predicts=lambda size: size,
            predict_ms=predict_ms,
        )
        await story(cluster, await cluster.add("a", runtime=runtime))

    cluster_stories.play(prepared, seed=3)


async def claimed_bytes(cluster: SimulatedCluster) -> int | None:
    """Bytes in the key of the copy; None if there is no key."""
    found = await cluster.store.get(KEYS.copy(M, InstanceId("a")))
    return None if found is None else CopyRecord.decode(found.value).size.bytes


def test_the_claim_stands_on_a_guess_and_the_load_on_what_was_predicted() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(300, 100, 1))
        call = asyncio.ensure_future(cluster.call("m", via="a"))
        await asyncio.sleep(0.1)
        assert await claimed_bytes(cluster) == 100
        assert a.runtime.counts["load"] == 0
        await asyncio.sleep(0.15)
        assert a.runtime.counts["load"] == 1
        assert a.plane.cache.ledger.used == Memory(300)
        assert (await call).status is Status.OK
        await cluster.settled()
        assert await claimed_bytes(cluster) == 300

    play(story)


def test_a_model_that_turns_out_larger_than_the_instance_is_given_back() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(2000, 1, 1))
        answer = await cluster.call("m", via="a")
        assert "needs 2.0 KiB" in answer.message
        assert a.runtime.counts["load"] == 0
        assert await claimed_bytes(cluster) is None
        before = (await cluster.store.range(KEYS.copies)).revision
        again = await cluster.call("m", via="a")
        assert "needs 2.0 KiB" in again.message
        assert (await cluster.store.range(KEYS.copies)).revision == before, "what was predicted is not claimed again"

    play(story)


def test_another_instance_takes_what_is_too_large_here() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        b = await cluster.add("b", capacity_bytes=9000)
        await register(b, "big", path=size_path(8500, 1, 1))
        b.plane.cache.learned.predicted(ModelId("big"), Memory(8500))
        assert (await cluster.call("big", via="b")).status is Status.OK
        await asyncio.sleep(5)
        await register(a, "m", path=size_path(2000, 1, 1))
        assert (await cluster.call("m", via="a")).status is Status.OK
        assert a.runtime.counts["predict_size"] == 1
        assert cluster.holders("m") == ["b"]

    play(story)


def test_a_guess_refuses_nothing_that_the_runtime_says_is_small() -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        for number in range(8):
            await register(a, f"m{number}", path=size_path(100, 1, 1), kind="small")
            assert (await cluster.call(f"m{number}", via="a")).status is Status.OK
        a.plane.cache.learned.measured(ModelId("other"), "large", Memory(900))
        await register(a, "m", path=size_path(50, 1, 1), kind="large")
        registered = await a.plane.models.get(M)
        assert registered is not None
        ensured = await a.plane.requests.ensure(M, registered, last_use_ms=1, sync=True)
        assert ensured.instance == "a", ensured
        assert cluster.holders("m") == ["a"]

    play(story)


@pytest.mark.parametrize("after_ms", [1, 100])
def test_a_model_that_goes_while_its_size_is_asked_leaves_no_key(after_ms: int) -> None:
    async def story(cluster: SimulatedCluster, a: SimulatedInstance) -> None:
        await register(a, "m", path=size_path(100, 1, 1))
        call = asyncio.ensure_future(cluster.call("m", via="a"))
        await asyncio.sleep(after_ms / 1000)
        await unregister(a, "m")
        assert (await call).status is Status.NOT_FOUND
        await asyncio.sleep(1)
        assert await claimed_bytes(cluster) is None
        assert a.runtime.counts["load"] == 0

    play(story)
