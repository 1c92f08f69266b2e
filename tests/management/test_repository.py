"""The repository extension of the Open Inference Protocol over simulated clusters: what is where, load, unload."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.management.admin import Admin
from modelmesh.management.calls import Call, CallError
from modelmesh.management.repository import Repository
from modelmesh.management.splits import Splits
from modelmesh.ports import RuntimeCallError
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, register, set_vmodel
from modelmesh.values.ids import ModelId, Token
from modelmesh.values.status import Status

NO_CALL = Call(Token(0), "", {}, send=lambda _: None)
Story = Callable[[SimulatedCluster, list[Repository]], Awaitable[None]]


def at(instance: SimulatedInstance) -> Repository:
    plane, models = instance.plane, instance.models
    return Repository(plane, models, Admin(plane), Splits(plane, models))


def play(story: Story) -> None:
    """Two instances with the models a, b and bad (which cannot be loaded), and the vmodel v, that is a."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=7)
        members = [await cluster.add(name) for name in ("i1", "i2")]
        for instance in members:
            instance.runtime.load_failures[ModelId("bad")] = RuntimeCallError(Status.INVALID_ARGUMENT, "it is corrupt")
        for model in ("a", "b", "bad"):
            await register(members[0], model)
        await set_vmodel(members[0], "v", "a")
        await story(cluster, [at(instance) for instance in members])
        await cluster.stop()

    run_virtual(main())


async def index(repository: Repository, *, ready: bool = False) -> dict[str, tuple[str, str]]:
    answer = await repository.index(NO_CALL, pb.RepositoryIndexRequest(ready=ready))
    return {model.name: (model.state, model.reason) for model in answer.models}


async def load(repository: Repository, name: str) -> None:
    await repository.load(NO_CALL, pb.RepositoryModelLoadRequest(model_name=name))


async def unload(repository: Repository, name: str) -> None:
    await repository.unload(NO_CALL, pb.RepositoryModelUnloadRequest(model_name=name))


async def becomes(repository: Repository, name: str, state: str) -> None:
    async with asyncio.timeout(60):
        while (await index(repository))[name][0] != state:
            await asyncio.sleep(0.1)


def test_what_is_loaded_at_one_instance_is_ready_at_all_and_unload_keeps_it_registered() -> None:
    async def story(cluster: SimulatedCluster, repositories: list[Repository]) -> None:
        one, other = repositories
        idle = ("UNAVAILABLE", "not loaded; the first call loads it")
        assert await index(one) == {"a": idle, "b": idle, "bad": idle, "v": idle}
        await load(one, "v")
        for repository in repositories:
            await becomes(repository, "a", "READY")
            assert await index(repository, ready=True) == {"a": ("READY", ""), "v": ("READY", "")}
        await unload(other, "a")
        for repository in repositories:
            await becomes(repository, "v", "UNAVAILABLE")
            assert (await index(repository))["a"] == idle
        assert (await cluster.call("a", via="i2")).status == Status.OK

    play(story)


def test_a_load_that_fails_says_why_and_the_index_does_too() -> None:
    async def story(_: SimulatedCluster, repositories: list[Repository]) -> None:
        with pytest.raises(CallError, match="it is corrupt") as caught:
            await load(repositories[0], "bad")
        assert caught.value.status == Status.INTERNAL
        state, reason = (await index(repositories[0]))["bad"]
        assert state == "UNAVAILABLE"
        assert "it is corrupt" in reason

    play(story)


def test_what_cannot_be_done_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(_: SimulatedCluster, repositories: list[Repository]) -> None:
        one = repositories[0]
        for call in (load(one, "nobody"), unload(one, "nobody")):
            with pytest.raises(CallError, match="model nobody is not registered") as caught:
                await call
            assert caught.value.status == Status.NOT_FOUND
        with pytest.raises(CallError, match="non-empty model_name"):
            await load(one, "")
        request = pb.RepositoryModelLoadRequest(model_name="a")
        request.parameters["config"].string_param = "{}"
        with pytest.raises(CallError, match="there are no parameters"):
            await one.load(NO_CALL, request)
        with pytest.raises(CallError, match="it has no name"):
            await one.index(NO_CALL, pb.RepositoryIndexRequest(repository_name="mine"))
        monkeypatch.setattr("modelmesh.management.repository.MOST", 3)
        with pytest.raises(CallError, match="ListModels lists them page by page"):
            await index(one)
        assert await index(one, ready=True) == {}

    play(story)
