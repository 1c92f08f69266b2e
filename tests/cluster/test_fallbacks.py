"""The fallback of a vmodel on a simulated cluster: it answers where the wanted model is cold or fails."""

import asyncio
from collections.abc import Awaitable, Callable

import cluster_stories
from cluster_stories import VModelWorld

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.copies.entry import DropReason
from modelmesh.management.calls import Call
from modelmesh.management.labels import Labels
from modelmesh.management.vmodel_counts import CountCalls
from modelmesh.ports import RuntimeCallError
from modelmesh.testing.attempts import Answer
from modelmesh.testing.cluster import SimulatedCluster, set_rollout
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.values.ids import InstanceId, ModelId, Token
from modelmesh.values.status import Status


class World(VModelWorld):
    """A cluster where v is a, and its fallback is small."""

    async def call(self) -> Answer:
        return await self.cluster.call("v", via="a", vmodel=True)

    def told(self) -> list[tuple[str, str]]:
        return [(event.reason, event.detail) for event in self.cluster.story if event.kind == "fell_back"]


def play(story: Callable[[World], Awaitable[None]]) -> None:
    async def prepared(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        await world.begin("abc", ("a", "b", "small"))
        labels = Labels(world.first.plane, world.first.models)
        request = pb.SetFallbackRequest(vmodel_id="v", model_id="small")
        await labels.set_fallback(Call(Token(0), "", {}, send=lambda _: None), request)
        await asyncio.sleep(1)
        await story(world)

    cluster_stories.play(prepared, seed=7)


def test_a_model_whose_calls_fail() -> None:
    async def story(world: World) -> None:
        assert (await world.call()).fallback is None
        for status in (Status.INTERNAL, Status.UNAVAILABLE):
            world.fails["a"] = status
            answer = await world.call()
            assert (answer.status, answer.fallback) == (Status.OK, "small"), answer
            assert world.cluster.holders("small"), "it was loaded for the call"
        world.fails["small"] = Status.INTERNAL
        answer = await world.call()
        assert answer.status is Status.INTERNAL
        assert answer.message == "ModelRuntime UNAVAILABLE: so it was told", "the caller hears of the wanted model"
        world.fails.clear()
        assert (await world.call()).fallback is None
        assert {reason for reason, _ in world.told()} == {"failed"}
        assert world.told()[0][1] == "v: small answers, as the model ended with INTERNAL: so it was told"

    play(story)


def test_a_model_that_cannot_be_loaded() -> None:
    async def story(world: World) -> None:
        for instance in world.cluster.instances.values():
            instance.runtime.load_failures[ModelId("a")] = RuntimeCallError(Status.INTERNAL, "no such file")
        for _ in range(3):
            answer = await world.call()
            assert (answer.status, answer.fallback) == (Status.OK, "small"), answer
            await asyncio.sleep(2)
        (reason, detail), *_ = world.told()
        assert reason == "failed"
        assert detail.endswith("no such file")
        assert world.told()[-1] == ("cold", "v: small answers")

    play(story)


def test_a_model_that_rests_because_it_ends_runtimes() -> None:
    async def story(world: World) -> None:
        restarts: list[asyncio.Task[None]] = []

        async def restart(runtime: FakeRuntime) -> None:
            await asyncio.sleep(1)
            runtime.restart()
            found = next(one for one in world.cluster.instances.values() if one.runtime is runtime)
            found.dataplane.runtime_link(up=True)

        async def dies(runtime: FakeRuntime, model: ModelId) -> None:
            if model == "a":
                runtime.crash()
                restarts.append(asyncio.create_task(restart(runtime)))
                raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)

        for instance in world.cluster.instances.values():
            instance.runtime.at_work = dies
        answers = []
        for _ in range(12):
            answers.append(await world.call())
            await asyncio.sleep(2)
        assert [(answer.status, answer.fallback) for answer in answers[-3:]] == 3 * [(Status.OK, "small")]
        assert len(restarts) == 2
        assert any("is not loaded for" in detail for reason, detail in world.told() if reason == "failed")

    play(story)


def test_a_rollout_of_a_model_that_fails_is_rolled_back_though_the_fallback_answers() -> None:
    async def story(world: World) -> None:
        await set_rollout(world.first, "v", "b", (50,))
        world.fails["b"] = Status.INTERNAL
        for _ in range(400):
            answer = await world.call()
            assert answer.status is Status.OK
            await asyncio.sleep(0.1)
        (told,) = [event.detail for event in world.cluster.story if event.kind == "rollout_rolled_back"]
        assert "more than 1 more per 100 calls are not allowed" in told

    play(story)


def test_a_rollout_of_a_model_that_cannot_be_loaded_any_more_is_rolled_back() -> None:
    """The fallback answers its calls, so none of them is counted, and the step stood for ever."""

    async def story(world: World) -> None:
        assert (await world.cluster.call("small", via="a")).status is Status.OK
        await set_rollout(world.first, "v", "b", (50,), minimum_calls=100_000, minimum_ms=120_000)
        for instance in world.cluster.instances.values():
            instance.runtime.load_failures[ModelId("b")] = RuntimeCallError(Status.INTERNAL, "no such file")
            instance.plane.cache.drop(ModelId("b"), DropReason.UNLOAD_ASKED)
        await asyncio.sleep(5)
        assert not world.cluster.holders("b")
        counting = CountCalls(world.cluster.instances[InstanceId("c")].plane)

        async def verdict() -> str:
            request = pb.CountVModelRequest(vmodel_id="v")
            answer = await counting.count_vmodel(Call(Token(0), "", {}, send=lambda _: None), request)
            return answer.verdict

        assert "100000 of each are compared" in await verdict(), "no call has come yet"

        def rolled_back() -> list[str]:
            return [event.detail for event in world.cluster.story if event.kind == "rollout_rolled_back"]

        for seconds in range(240):
            answer = await world.call()
            assert answer.status is Status.OK
            if seconds == 60:
                told = await verdict()
                assert told.startswith("no copy of b is loaded, and its loads have failed for ")
                assert "no such file" in told
            if seconds < 100:
                assert not rolled_back()
            await asyncio.sleep(1)
        (told,) = rolled_back()
        assert told.startswith("v: no copy of b is loaded, and its loads have failed for 12")
        assert told.endswith("no such file")

    play(story)
