"""`mmesh.ModelMesh`, the vmodel half, against simulated clusters: `spec/cluster-state.md` 10."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.copies.entry import DropReason
from modelmesh.control.settings import ControlLimits
from modelmesh.management import vmodels
from modelmesh.management.calls import Call, CallError
from modelmesh.ports import StoreUnavailableError
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import InstanceId, ModelId, Token, VModelId
from modelmesh.values.records import ModelRecord, VModelRecord
from modelmesh.values.status import Status

V = pb.VModelStatusInfo
M = pb.ModelStatusInfo


class Vmodels:
    """The vmodel calls of a cluster, entering at its first instance."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster

    @property
    def calls(self):
        return next(iter(self.cluster.instances.values())).vmodels

    async def _call(self, name: str, request):
        method = self.calls.methods()[f"mmesh.ModelMesh/{name}"]
        return await method.unary(Call(Token(0), name, {}, send=lambda _: None), request)

    async def set(self, target: str, vmodel: str = "v", *, kind: str = "", **rest):
        info = {"modelInfo": pb.ModelInfo(type=kind)} if kind else {}
        return await self._call("setVModel", pb.SetVModelRequest(vModelId=vmodel, targetModelId=target, **info, **rest))

    async def delete(self, vmodel: str = "v", owner: str = ""):
        return await self._call("deleteVModel", pb.DeleteVModelRequest(vModelId=vmodel, owner=owner))

    async def status(self, vmodel: str = "v", owner: str = ""):
        return await self._call("getVModelStatus", pb.GetVModelStatusRequest(vModelId=vmodel, owner=owner))

    async def references(self, model: str) -> int | None:
        item = await self.cluster.store.get(KEYS.model(ModelId(model)))
        return ModelRecord.decode(item.value).references if item is not None else None

    async def record(self, vmodel: str = "v") -> VModelRecord:
        item = await self.cluster.store.get(KEYS.vmodel(VModelId(vmodel)))
        assert item is not None
        return VModelRecord.decode(item.value)


def play(story: Callable[[Vmodels], Awaitable[None]], *, instances: int = 1, seed: int = 5, **options) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=seed)
        try:
            for number in range(instances):
                await cluster.add(f"i{number}", **options)
            await story(Vmodels(cluster))
            await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())


async def raises(status: Status, message: str, call: Awaitable[object]) -> None:
    with pytest.raises(CallError) as caught:
        await call
    assert (caught.value.status, caught.value.message) == (status, message)


def test_a_vmodel_is_created_and_resolves() -> None:
    async def story(v: Vmodels) -> None:
        answer = await v.set("m", kind="fake")
        assert (answer.status, answer.activeModelId, answer.targetModelId) == (V.DEFINED, "m", "m")
        assert answer.activeModelStatus.status == M.NOT_LOADED
        called = await v.cluster.call("v", via="i0", vmodel=True, payload="hello")
        assert (called.status, called.payload) == (Status.OK, ("m", "hello"))
        assert await v.references("m") == 1

    play(story)


def test_an_unknown_vmodel_is_not_found() -> None:
    async def story(v: Vmodels) -> None:
        called = await v.cluster.call("v", via="i0", vmodel=True)
        assert (called.status, called.message) == (Status.NOT_FOUND, "vmodel not found")
        answer = await v.status()
        assert (answer.status, answer.activeModelId, answer.targetModelId) == (V.NOT_FOUND, "", "")

    play(story)


def test_bad_input_is_named() -> None:
    async def story(v: Vmodels) -> None:
        await raises(Status.INVALID_ARGUMENT, "Must provide vModelId", v.set("m", vmodel=""))
        await raises(Status.INVALID_ARGUMENT, "Must provide target modelId for vmodel v", v.set(""))
        await raises(Status.NOT_FOUND, "Target model m not found", v.set("m"))
        request = pb.SetVModelRequest(vModelId="v", targetModelId="m", modelInfo=pb.ModelInfo(path="p"))
        message = "Must provide non-empty model type string"
        await raises(Status.INVALID_ARGUMENT, message, v._call("setVModel", request))
        await v.set("m", kind="fake")
        message = "Target model m already exists with different attribute values"
        await raises(Status.ALREADY_EXISTS, message, v.set("m", kind="other"))

    play(story)


def test_load_now_loads_and_sync_waits() -> None:
    async def story(v: Vmodels) -> None:
        answer = await v.set("m", kind="fake", loadNow=True, sync=True)
        assert answer.activeModelStatus.status == M.LOADED

    play(story)


def test_a_vmodel_moves_when_the_target_has_as_many_copies_as_the_active_model() -> None:
    async def story(v: Vmodels) -> None:
        await v.set("m1", kind="fake", loadNow=True, sync=True)
        plane = next(iter(v.cluster.instances.values())).plane
        registered = await plane.models.get(ModelId("m1"))
        assert await plane.requests.add_copy(ModelId("m1"), registered, last_use_ms=1)
        await asyncio.sleep(2)
        assert len(v.cluster.holders("m1")) == 2
        answer = await v.set("m2", kind="fake", sync=True)
        assert (answer.status, answer.activeModelId) == (V.DEFINED, "m2")
        moved = next(event for event in v.cluster.story if event.kind == "vmodel_moved")
        assert moved.reason == "parity"
        assert "2 of 2 copies" in moved.detail
        assert (await v.references("m1"), await v.references("m2")) == (0, 1)

    play(story, instances=3)


def test_an_auto_deleted_model_goes_when_nothing_refers_to_it() -> None:
    async def story(v: Vmodels) -> None:
        await v.set("m1", kind="fake", autoDeleteTargetModel=True, loadNow=True, sync=True)
        await v.set("m2", kind="fake", autoDeleteTargetModel=True, sync=True)
        assert (await v.references("m1"), await v.references("m2")) == (None, 1)
        await v.delete()
        assert await v.references("m2") is None
        assert (await v.status()).status == V.NOT_FOUND

    play(story)


def test_a_referenced_model_cannot_be_unregistered() -> None:
    async def story(v: Vmodels) -> None:
        await v.set("m", kind="fake")
        instance = next(iter(v.cluster.instances.values()))
        call = Call(Token(0), "unregisterModel", {}, send=lambda _: None)
        await raises(
            Status.FAILED_PRECONDITION,
            "Model m has referents",
            instance.models.unregister(call, pb.UnregisterModelRequest(modelId="m")),
        )

    play(story)


def test_force_twice_and_back_again_leaks_no_reference() -> None:
    async def story(v: Vmodels) -> None:
        await v.set("m1", kind="fake")
        await v.set("m2", kind="fake", force=True)
        await v.set("m2", force=True)
        await v.set("m1")
        await v.set("m1", vmodel="w")
        assert (await v.references("m1"), await v.references("m2")) == (2, 0)
        await v.delete()
        assert (await v.references("m1"), await v.references("m2")) == (1, 0)

    play(story)


def test_a_target_that_cannot_be_loaded_fails_the_transition_and_a_good_one_mends_it() -> None:
    async def story(v: Vmodels) -> None:
        await v.set("m1", kind="fake", loadNow=True, sync=True)
        for instance in v.cluster.instances.values():
            instance.runtime.fail_next("load", Status.INTERNAL, "broken file")
        answer = await v.set("m2", kind="fake", sync=True)
        assert (answer.status, answer.activeModelId, answer.targetModelId) == (V.TRANSITION_FAILED, "m1", "m2")
        assert answer.targetModelStatus.status == M.LOADING_FAILED
        assert list(answer.targetModelStatus.errors) == ["INTERNAL: broken file"]
        called = await v.cluster.call("v", via="i0", vmodel=True)
        assert called.payload == ("m1", None)
        answer = await v.set("m3", kind="fake", sync=True)
        assert (answer.status, answer.activeModelId) == (V.DEFINED, "m3")
        assert await v.references("m2") == 0

    play(story)


def test_a_vmodel_moves_in_a_full_instance_where_its_model_is_the_least_used() -> None:
    async def story(v: Vmodels) -> None:
        others = [f"m{number}" for number in range(8)]
        await v.set("old", kind="fake")
        for model in others:
            await register(v.cluster.instances[InstanceId("i0")], model)
        for minute in range(30):
            # The record of the old model still says when it was registered: that is before the last use of any other.
            if minute < 20:
                await v.cluster.call("v", via="i0", vmodel=True)
            for model in others:
                await v.cluster.call(model, via="i0")
            await asyncio.sleep(60)
        assert all(v.cluster.holders(model) for model in ["old", *others])
        await v.set("new", kind="fake")
        for _ in range(10):
            if (await v.status()).activeModelId == "new":
                break
            await asyncio.sleep(30)
        assert (await v.status()).activeModelId == "new"
        assert all(v.cluster.holders(model) for model in ["new", *others])

    play(story)


def test_a_failed_transition_is_tried_again_when_the_failure_is_forgotten() -> None:
    async def story(v: Vmodels) -> None:
        await v.set("m1", kind="fake", loadNow=True, sync=True)
        next(iter(v.cluster.instances.values())).runtime.fail_next("load", Status.INTERNAL, "not yet there")
        assert (await v.set("m2", kind="fake", sync=True)).status == V.TRANSITION_FAILED
        await asyncio.sleep(40)
        answer = await v.status()
        assert (answer.status, answer.activeModelId) == (V.DEFINED, "m2")

    play(story, limits=ControlLimits(failure_expiry_ms=30_000))


def test_calls_through_a_vmodel_that_moves_all_succeed() -> None:
    async def story(v: Vmodels) -> None:
        await v.set("m0", kind="fake", autoDeleteTargetModel=True, loadNow=True, sync=True)
        answers = []
        moving = True

        async def caller(via: str) -> None:
            while moving:
                answers.append(await v.cluster.call("v", via=via, vmodel=True))

        callers = [asyncio.ensure_future(caller(f"i{number}")) for number in range(3)]
        for version in range(1, 8):
            await v.set(f"m{version}", kind="fake", autoDeleteTargetModel=True, sync=True)
        await asyncio.sleep(1)
        moving = False
        await asyncio.gather(*callers)
        assert len(answers) > 300
        assert {answer.status for answer in answers} == {Status.OK}
        assert answers[-1].payload == ("m7", None)

    play(story, instances=3)


def test_setters_at_once_leave_exact_references() -> None:
    async def story(v: Vmodels) -> None:
        for model in ("m0", "m1", "m2"):
            await register(next(iter(v.cluster.instances.values())), model)
        await asyncio.gather(
            *(v.set(f"m{number % 3}", vmodel=f"v{number % 4}", force=number % 2 == 0) for number in range(24)),
            *(v.delete(f"v{number % 4}") for number in range(6)),
        )
        await asyncio.sleep(5)
        named = dict.fromkeys(("m0", "m1", "m2"), 0)
        for item in (await v.cluster.store.range(KEYS.vmodels)).items:
            record = VModelRecord.decode(item.value)
            for model in {record.active, record.target}:
                named[model] += 1
        assert {model: await v.references(model) for model in named} == named

    play(story)


def test_a_new_leader_goes_on_with_the_transition_of_the_old_one() -> None:
    async def story(v: Vmodels) -> None:
        await v.set("m1", kind="fake")
        await v.cluster.call("m1", via="i1")
        while v.cluster.holders("m1") == ["i0"]:  # the story needs its copy elsewhere
            await v.cluster.instances[InstanceId("i0")].models.read(ModelId("m1"))
            v.cluster.instances[InstanceId("i0")].plane.cache.drop(ModelId("m1"), DropReason.MOVED)
            await asyncio.sleep(1)
            await v.cluster.call("m1", via="i1")
        for instance in v.cluster.instances.values():
            instance.runtime.hold_loads()
        await v.set("m2", kind="fake")
        await asyncio.sleep(1)
        await v.cluster.crash("i0")
        for instance in v.cluster.instances.values():
            instance.runtime.release_loads()
        await asyncio.sleep(30)
        assert (await v.record()).active == "m2"

    play(story, instances=3)


def test_a_read_only_instance_changes_no_vmodel() -> None:
    async def story(v: Vmodels) -> None:
        await raises(Status.UNAVAILABLE, "model-mesh is in read-only mode", v.set("m", kind="fake"))

    play(story, limits=ControlLimits(read_only=True))


def test_without_the_store_a_vmodel_call_says_so() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5)
        store = FaultyStore(cluster.store, VirtualClock())
        await cluster.add("i0", store=store)
        v = Vmodels(cluster)
        store.pause()
        with pytest.raises(StoreUnavailableError):
            await v.set("m", kind="fake")
        store.resume()
        await cluster.stop()

    run_virtual(main())


def test_waiting_for_a_move_is_bounded_and_the_move_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmodels, "SYNC_BOUND_MS", 10_000)  # less than the load may take

    async def story(v: Vmodels) -> None:
        await v.set("m1", kind="fake", loadNow=True, sync=True)
        (instance,) = v.cluster.instances.values()
        instance.runtime.hold_loads()
        began = asyncio.get_running_loop().time()
        slow = v.set("m2", kind="fake", sync=True)
        await raises(Status.DEADLINE_EXCEEDED, "vmodel v is still moving to m2 after 10 s", slow)
        assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=1)
        assert (await v.status()).status == V.TRANSITIONING
        instance.runtime.release_loads()
        await asyncio.sleep(30)
        assert (await v.record()).active == "m2"

    play(story)


def test_a_writer_that_others_always_overtake_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(v: Vmodels) -> None:
        (instance,) = v.cluster.instances.values()

        async def overtaken(*_: object, **__: object) -> None:
            return None

        monkeypatch.setattr(instance.plane.vmodels, "write", overtaken)
        message = "vmodel v keeps changing under the call; repeat it"
        await raises(Status.ABORTED, message, v.set("m", kind="fake"))

    play(story)
