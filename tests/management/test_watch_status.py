"""`modelmesh.v1.Admin/WatchStatus` and `SetVModels`, against simulated clusters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.control.view import touched
from modelmesh.management import batches, watch_status
from modelmesh.management.batches import Batches
from modelmesh.management.calls import Call, CallError
from modelmesh.management.watch_status import WatchStatus
from modelmesh.ports import StoreUnavailableError
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, ensure_loaded, register
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import Token
from modelmesh.values.status import Status

V, M = mesh.VModelStatusInfo, mesh.ModelStatusInfo
Update = pb.StatusUpdate


class Reader:
    """A caller of WatchStatus that acknowledges what it reads."""

    def __init__(self, watching: WatchStatus, request: pb.WatchStatusRequest, *, acknowledges: bool = True) -> None:
        self.answers: list[Update] = []
        self._requests: asyncio.Queue[pb.WatchStatusRequest | None] = asyncio.Queue()
        self._requests.put_nowait(request)
        self._acknowledges = acknowledges
        call = Call(Token(0), "", {}, send=self._take)
        self.task = asyncio.ensure_future(watching.watch(call, self._asked()))

    def _take(self, answer: Update) -> None:
        self.answers.append(answer)
        if self._acknowledges:
            self.acknowledge(answer.number)

    def acknowledge(self, number: int) -> None:
        self._requests.put_nowait(pb.WatchStatusRequest(acknowledged=number))

    async def _asked(self) -> AsyncIterator[pb.WatchStatusRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    def half_close(self) -> None:
        self._requests.put_nowait(None)

    @property
    def vmodels(self) -> dict[str, mesh.VModelStatusInfo]:
        """What a reader that takes in every answer knows."""
        known: dict[str, mesh.VModelStatusInfo] = {}
        for answer in self.answers:
            known |= {one.id: one.status for one in answer.vmodels}
        return {name: status for name, status in known.items() if status.status != V.NOT_FOUND}

    @property
    def models(self) -> dict[str, mesh.ModelStatusInfo]:
        return {one.id: one.status for answer in self.answers for one in answer.models}

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Story:
    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.watching = WatchStatus(self.first.plane)
        self.readers: list[Reader] = []

    @property
    def first(self) -> SimulatedInstance:
        return next(iter(self.cluster.instances.values()))

    def watch(self, *owners: str, acknowledges: bool = True, **request: object) -> Reader:
        asked = pb.WatchStatusRequest(owners=owners, **request)
        self.readers.append(Reader(self.watching, asked, acknowledges=acknowledges))
        return self.readers[-1]

    async def set(self, name: str, target: str, *, owner: str = "isvc", load: bool = False, path: str = "") -> V:
        request = wanted(name, target, owner=owner, load=load, path=path)
        return await self.first.vmodels.set_vmodel(quiet(), request)

    async def delete(self, name: str) -> None:
        await self.first.vmodels.delete_vmodel(quiet(), mesh.DeleteVModelRequest(vModelId=name))


def quiet() -> Call:
    return Call(Token(0), "", {}, send=lambda _: None)


def wanted(
    name: str, target: str, *, owner: str = "isvc", load: bool = False, path: str = "", sync: bool = False
) -> mesh.SetVModelRequest:
    info = mesh.ModelInfo(type="fake", path=path)
    return mesh.SetVModelRequest(
        vModelId=name,
        targetModelId=target,
        owner=owner,
        modelInfo=info,
        loadNow=load,
        autoDeleteTargetModel=True,
        sync=sync,
    )


def play(story: Callable[[Story], Awaitable[None]], *, instances: int = 1, store: FaultyStore | None = None) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5, store=store)
        try:
            for number in range(instances):
                await cluster.add(f"i{number}")
            told = Story(cluster)
            await story(told)
            for reader in told.readers:
                await reader.stop()
            assert not any(instance.plane.touched._subscribers for instance in cluster.instances.values())
        finally:
            await cluster.stop()

    run_virtual(main())


def test_a_reader_gets_everything_and_then_each_change() -> None:
    async def story(s: Story) -> None:
        await s.set("a", "a-1")
        await s.set("b", "b-1", load=True)
        await asyncio.sleep(1)
        reader = s.watch()
        await asyncio.sleep(1)
        assert [answer.part for answer in reader.answers] == [Update.SNAPSHOT, Update.SNAPSHOT_END]
        known = reader.vmodels
        assert {name: status.activeModelStatus.status for name, status in known.items()} == {
            "a": M.NOT_LOADED,
            "b": M.LOADED,
        }
        assert known["a"].owner == "isvc"

        await s.set("c", "c-1")
        await s.delete("a")
        await ensure_loaded(s.first, "c-1", sync=True)
        await asyncio.sleep(1)
        assert set(reader.vmodels) == {"b", "c"}
        assert reader.vmodels["c"].activeModelStatus.status == M.LOADED
        assert all(answer.part == Update.CHANGES for answer in reader.answers[2:])

    play(story)


def test_what_it_sends_is_what_get_vmodel_status_answers() -> None:
    async def story(s: Story) -> None:
        reader = s.watch()
        await s.set("v", "old", load=True)
        await asyncio.sleep(1)
        for target, transition in (("new", V.DEFINED), ("broken", V.TRANSITION_FAILED)):
            if target == "broken":
                for instance in s.cluster.instances.values():
                    instance.runtime.fail_next("load", Status.INTERNAL, "broken file")
            await s.set("v", target, load=True)
            await asyncio.sleep(10)
            answer = await s.first.vmodels.vmodel_status(quiet(), mesh.GetVModelStatusRequest(vModelId="v"))
            assert answer.status == transition
            assert reader.vmodels["v"] == answer

    play(story, instances=2)


def test_only_the_owners_that_were_asked_for_are_told() -> None:
    async def story(s: Story) -> None:
        await s.set("a", "a-1")
        await s.set("b", "b-1", owner="ksp")
        await s.set("c", "c-1", owner="by-hand")
        reader = s.watch("isvc", "ksp")
        await s.set("d", "d-1", owner="by-hand")
        await asyncio.sleep(1)
        assert set(reader.vmodels) == {"a", "b"}

    play(story)


def test_models_are_told_if_asked_for() -> None:
    async def story(s: Story) -> None:
        await register(s.first, "m1")
        reader, without = s.watch(models=True), s.watch()
        await asyncio.sleep(1)
        await register(s.first, "m2", load=True)
        await s.first.models.unregister(quiet(), mesh.UnregisterModelRequest(modelId="m1"))
        await asyncio.sleep(1)
        assert {name: info.status for name, info in reader.models.items()} == {"m1": M.NOT_FOUND, "m2": M.LOADED}
        assert not without.models

    play(story)


def test_a_stream_continues_where_another_ended_also_at_another_instance() -> None:
    async def story(s: Story) -> None:
        for number in range(5):
            await s.set(f"v{number}", f"m{number}")
        before = s.watch()
        await asyncio.sleep(1)
        await before.stop()
        await s.set("v1", "m1b")
        await s.delete("v2")
        await ensure_loaded(s.first, "m3", sync=True)
        await asyncio.sleep(1)
        s.watching = WatchStatus(s.cluster.instances["i1"].plane)
        after = s.watch(revision=before.answers[-1].revision)
        await asyncio.sleep(1)
        assert all(answer.part == Update.CHANGES for answer in after.answers)
        told = {one.id: one.status.status for answer in after.answers for one in answer.vmodels}
        told.pop("v4", None)  # at the last revision that the reader has: it may be told again
        assert told == {"v1": V.DEFINED, "v2": V.NOT_FOUND, "v3": V.DEFINED}
        await s.set("v4", "m4b")
        await asyncio.sleep(1)
        assert after.vmodels["v4"].targetModelId == "m4b"

    play(story, instances=2)


@pytest.mark.parametrize("revision", [1, 10**15])
def test_a_revision_that_is_not_known_gets_everything(revision: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touched, "REMEMBERED", 2)

    async def story(s: Story) -> None:
        for number in range(5):
            await s.set(f"v{number}", f"m{number}")
        await asyncio.sleep(1)
        reader = s.watch(revision=revision)
        await asyncio.sleep(1)
        assert [answer.part for answer in reader.answers] == [Update.SNAPSHOT, Update.SNAPSHOT_END]
        assert len(reader.vmodels) == 5

    play(story)


def test_a_reader_that_does_not_acknowledge_gets_four_answers_and_is_given_up() -> None:
    async def story(s: Story) -> None:
        for number in range(6):
            await s.set(f"v{number}", f"m{number}")
        reader = s.watch(acknowledges=False)
        for number in range(20):
            await s.set("v0", f"m0-{number}")
            await asyncio.sleep(1)
        assert len(reader.answers) == watch_status.WINDOW
        assert not reader.task.done()
        reader.acknowledge(reader.answers[-1].number)
        await asyncio.sleep(1)
        # What changed eighteen times meanwhile is sent once, as it is now.
        assert len(reader.answers) == watch_status.WINDOW + 1
        assert reader.vmodels["v0"].targetModelId == "m0-19"
        for number in range(10):
            await s.set("v1", f"m1-{number}")
            await asyncio.sleep(1)
        await asyncio.sleep(watch_status.READ_BOUND_S)
        error = reader.task.exception()
        assert isinstance(error, CallError)
        assert error.status is Status.RESOURCE_EXHAUSTED

    play(story)


def test_without_changes_the_stream_shows_that_it_works() -> None:
    async def story(s: Story) -> None:
        reader = s.watch()
        await asyncio.sleep(3 * watch_status.SILENCE_S + 1)
        assert [(answer.part, len(answer.vmodels)) for answer in reader.answers[1:]] == [(Update.CHANGES, 0)] * 3

    play(story)


def test_there_are_few_readers_and_a_place_is_free_again() -> None:
    async def story(s: Story) -> None:
        readers = [s.watch() for _ in range(watch_status.STREAMS)]
        refused = s.watch()
        await asyncio.sleep(1)
        error = refused.task.exception()
        assert isinstance(error, CallError)
        assert error.status is Status.RESOURCE_EXHAUSTED
        await readers[0].stop()
        again = s.watch()
        await asyncio.sleep(1)
        assert not again.task.done()

    play(story)


def test_a_store_that_is_away_ends_the_stream_and_it_continues_later() -> None:
    store = FaultyStore(SqliteStore(":memory:", expires_leases=True), VirtualClock())

    async def story(s: Story) -> None:
        await s.set("v", "m")
        reader = s.watch()
        await asyncio.sleep(1)
        store.pause()
        await asyncio.sleep(1)
        failing = s.watch(revision=reader.answers[-1].revision)
        await asyncio.sleep(10)
        assert isinstance(failing.task.exception(), StoreUnavailableError)
        store.resume()
        await asyncio.sleep(5)
        after = s.watch(revision=reader.answers[-1].revision)
        await s.set("v", "m2")
        await asyncio.sleep(1)
        assert after.vmodels["v"].targetModelId == "m2"

    play(story, store=store)


def test_a_large_mesh_is_sent_in_parts() -> None:
    async def story(s: Story) -> None:
        for number in range(250):
            await s.set(f"v{number:03}", "m")
        reader = s.watch()
        await asyncio.sleep(1)
        assert [len(answer.vmodels) for answer in reader.answers] == [100, 100, 50, 0]
        assert len(reader.vmodels) == 250

    play(story)


# --- SetVModels ---------------------------------------------------------------------------------------


def batch(s: Story, *requests: mesh.SetVModelRequest) -> Awaitable[pb.SetVModelsResponse]:
    return Batches(s.first.models, s.first.vmodels).set_vmodels(quiet(), pb.SetVModelsRequest(requests=requests))


def test_a_batch_says_of_each_vmodel_how_it_went() -> None:
    async def story(s: Story) -> None:
        await s.set("taken", "m", owner="by-hand")
        answer = await batch(
            s,
            wanted("a", "a-1"),
            wanted("taken", "t-1"),
            wanted("", "x"),
            *(wanted(f"v{n}", f"m{n}") for n in range(40)),
        )
        results = answer.results
        assert [result.vmodel_id for result in results] == ["a", "taken", "", *(f"v{n}" for n in range(40))]
        assert [result.code for result in results[:3]] == [
            Status.OK,
            Status.ALREADY_EXISTS,
            Status.INVALID_ARGUMENT,
        ]
        assert results[0].status.activeModelId == "a-1"
        assert results[1].message
        assert {result.code for result in results[3:]} == {Status.OK}

    play(story)


def test_a_batch_is_bounded_and_unambiguous() -> None:
    async def story(s: Story) -> None:
        for requests, said in (
            ([wanted(f"v{n}", "m") for n in range(batches.MOST_VMODELS + 1)], "501 vmodels"),
            ([wanted("v", "m"), wanted("v", "n")], "twice"),
            ([wanted("v", "m", sync=True)], "sync"),
        ):
            with pytest.raises(CallError, match=said) as caught:
                await batch(s, *requests)
            assert caught.value.status is Status.INVALID_ARGUMENT

    play(story)


def test_a_store_that_is_away_is_said_of_each_vmodel() -> None:
    store = FaultyStore(SqliteStore(":memory:", expires_leases=True), VirtualClock())

    async def story(s: Story) -> None:
        store.pause()
        answer = await batch(s, wanted("a", "m"), wanted("b", "m"))
        assert [result.code for result in answer.results] == [Status.UNAVAILABLE] * 2
        store.resume()

    play(story, store=store)
