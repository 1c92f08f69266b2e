"""`mmesh.ModelMesh`, rule by rule: `spec/api-config-tests.md` 1.4."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.view.store_identity import StoreReplacedError
from modelmesh.management.calls import Call, CallError
from modelmesh.management.models import HOUR_MS, LONGEST_ID
from modelmesh.ports import Put, StoreUnavailableError, Transaction
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import ModelId, Token
from modelmesh.values.records import ModelRecord
from modelmesh.values.status import Status

Info = pb.ModelStatusInfo


class Service:
    """The handlers of one simulated instance, called as clients do."""

    def __init__(self, instance: SimulatedInstance, cluster: SimulatedCluster) -> None:
        self.instance = instance
        self.cluster = cluster

    async def _call(self, name: str, request, **headers: str):
        method = self.instance.models.methods()[f"mmesh.ModelMesh/{name}"]
        assert method.unary is not None
        encoded = {key.replace("_", "-"): value.encode() for key, value in headers.items()}
        return await method.unary(Call(Token(0), name, encoded, send=lambda _: None), request)

    async def register(self, model="m", kind="t", path="p", key="", **rest):
        info = pb.ModelInfo(type=kind, path=path, key=key)
        return await self._call("registerModel", pb.RegisterModelRequest(modelId=model, modelInfo=info, **rest))

    async def unregister(self, model="m"):
        return await self._call("unregisterModel", pb.UnregisterModelRequest(modelId=model))

    async def status(self, model="m"):
        return await self._call("getModelStatus", pb.GetStatusRequest(modelId=model))

    async def ensure(self, model="m", **rest):
        return await self._call("ensureLoaded", pb.EnsureLoadedRequest(modelId=model, **rest))

    async def record(self, model="m") -> ModelRecord:
        item = await self.cluster.store.get(KEYS.model(ModelId(model)))
        assert item is not None
        return ModelRecord.decode(item.value)


def play(story: Callable[[Service], Awaitable[None]], *, instances=1, **options) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        try:
            for number in range(instances):
                await cluster.add(f"i{number}", **options)
            await story(Service(next(iter(cluster.instances.values())), cluster))
            await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())


async def refused(work: Awaitable[object]) -> tuple[Status, str]:
    with pytest.raises(CallError) as caught:
        await work
    return caught.value.status, caught.value.message


def test_registering() -> None:
    async def story(service: Service) -> None:
        assert (await service.register()).status == Info.NOT_LOADED
        assert (await service.register()).status == Info.NOT_LOADED
        different = (Status.ALREADY_EXISTS, "Model already exists with different attribute values")
        assert await refused(service.register(kind="other")) == different
        assert await refused(service.register(path="other")) == different
        assert await refused(service.register(key="other")) == different

    play(story)


def test_what_is_wrong_is_said() -> None:
    async def story(service: Service) -> None:
        empty = (Status.INVALID_ARGUMENT, "must provide non-empty modelId")
        for call in (service.register, service.unregister, service.status, service.ensure):
            assert await refused(call("")) == empty
        no_type = (Status.INVALID_ARGUMENT, "Must provide non-empty model type string")
        assert await refused(service.register(kind="")) == no_type
        status, _ = await refused(service.register("x" * (LONGEST_ID + 1)))
        assert status is Status.INVALID_ARGUMENT
        assert await refused(service.ensure("nobody")) == (Status.NOT_FOUND, "model not found")

    play(story)


def test_an_unknown_model_has_a_status_and_can_be_unregistered() -> None:
    async def story(service: Service) -> None:
        info = await service.status("nobody")
        assert (info.status, list(info.errors)) == (Info.NOT_FOUND, [])
        await service.unregister("nobody")

    play(story)


def test_the_first_last_use() -> None:
    """Given: capped to now. Not given: an hour ago with loadNow, six hours ago without."""

    async def story(service: Service) -> None:
        now_ms = VirtualClock().now_ms()
        await service.register("given", lastUsedTime=5)
        await service.register("future", lastUsedTime=now_ms + 10**9)
        await service.register("cold")
        await service.register("warm", loadNow=True, sync=True)
        assert (await service.record("given")).last_use_ms == 5
        assert (await service.record("future")).last_use_ms == now_ms
        assert (await service.record("cold")).last_use_ms == now_ms - 6 * HOUR_MS
        assert (await service.record("warm")).last_use_ms == pytest.approx(now_ms - HOUR_MS, abs=100)

    play(story)


def test_registering_again_raises_the_last_use_when_it_is_an_hour_newer() -> None:
    async def story(service: Service) -> None:
        now_ms = VirtualClock().now_ms()
        await service.register(lastUsedTime=now_ms - 3 * HOUR_MS)
        await service.register(lastUsedTime=now_ms - 2 * HOUR_MS)
        assert (await service.record()).last_use_ms == now_ms - 3 * HOUR_MS
        await service.register(lastUsedTime=now_ms - HOUR_MS)
        assert (await service.record()).last_use_ms == now_ms - HOUR_MS

    play(story)


def test_loading_now_waits_only_if_asked_to() -> None:
    async def story(service: Service) -> None:
        assert (await service.register("a", loadNow=True)).status == Info.LOADING
        assert (await service.status("a")).status == Info.LOADING
        assert (await service.register("b", loadNow=True, sync=True)).status == Info.LOADED
        assert (await service.ensure("b")).status == Info.LOADED
        assert (await service.ensure("a", sync=True)).status == Info.LOADED

    play(story, load_ms=500)


def test_the_status_of_a_copy_is_the_true_one_and_says_where_it_is() -> None:
    async def story(service: Service) -> None:
        await service.register("m", loadNow=True)
        info = await service.status()
        assert [copy.copyStatus for copy in info.modelCopyInfos] == [Info.LOADING]
        await service.ensure(sync=True)
        info = await service.status()
        assert [(copy.copyStatus, bool(copy.location)) for copy in info.modelCopyInfos] == [(Info.LOADED, True)]
        assert not info.errors

    play(story, instances=3, load_ms=500)


def test_a_failed_load_is_an_answer_with_its_messages_newest_first() -> None:
    async def story(service: Service) -> None:
        info = await service.register("m", path="FAIL_it is broken", loadNow=True, sync=True)
        assert info.status == Info.LOADING_FAILED
        assert len(info.errors) == 3  # it was tried at three instances
        assert all(error.endswith("it is broken") for error in info.errors)
        times = [copy.time for copy in info.modelCopyInfos]
        assert times == sorted(times, reverse=True)
        assert (await service.status()).status == Info.LOADING_FAILED

    play(story, instances=4)


def test_a_model_that_a_vmodel_refers_to_cannot_be_unregistered() -> None:
    async def story(service: Service) -> None:
        record = ModelRecord("t", references=1)
        await service.cluster.store.transact(Transaction((), (Put(KEYS.model(ModelId("m")), record.encode()),)))
        assert await refused(service.unregister()) == (Status.FAILED_PRECONDITION, "Model m has referents")

    play(story)


def test_a_record_of_the_old_system_is_served_and_keeps_what_it_does_not_know() -> None:
    async def story(service: Service) -> None:
        old = b'{"type":"t","mPath":"p","encKey":"k","instanceIds":{"x-1":5},"failedIn":{"y":6},"lu":7,"new":[1]}'
        await service.cluster.store.transact(Transaction((), (Put(KEYS.model(ModelId("m")), old),)))
        assert (await service.register(path="p", key="k")).status == Info.NOT_LOADED
        record = await service.record()
        assert record.extras == {"instanceIds": {"x-1": 5}, "failedIn": {"y": 6}, "new": [1]}
        assert (await service.ensure(sync=True)).status == Info.LOADED

    play(story)


def test_a_malformed_record_is_told_and_hurts_nobody_else() -> None:
    async def story(service: Service) -> None:
        await service.cluster.store.transact(Transaction((), (Put(KEYS.model(ModelId("m")), b"[not a record"),)))
        status, message = await refused(service.status())
        assert status is Status.INTERNAL
        assert "the record of m cannot be read" in message
        assert await refused(service.register()) == (status, message)
        assert (await service.register("other")).status == Info.NOT_LOADED

    play(story)


def test_registered_again_with_another_path_never_answers_from_the_old_copy() -> None:
    async def story(service: Service) -> None:
        await service.register("m", path="SIZE_100_5_300", loadNow=True, sync=True)
        await service.unregister()
        await service.register("m", path="SIZE_200_5_5")
        assert (await service.ensure(sync=True)).status == Info.LOADED
        assert service.instance.runtime.loaded == {"m": 200}

    play(story)


def test_the_old_names_are_accepted() -> None:
    async def story(service: Service) -> None:
        methods = service.instance.models.methods()
        for legacy in ("mmesh.ModelMesh/addModel", "com.ibm.watson.tas.proto.TasRuntime/addModel"):
            assert methods[legacy].unary == methods["mmesh.ModelMesh/registerModel"].unary
        for legacy in ("mmesh.ModelMesh/deleteModel", "com.ibm.watson.tas.proto.TasRuntime/deleteModel"):
            assert methods[legacy].unary == methods["mmesh.ModelMesh/unregisterModel"].unary
        assert "com.ibm.watson.tas.proto.TasRuntime/getModelStatus" in methods

    play(story)


def test_while_the_store_is_away_known_models_answer_and_the_rest_is_unavailable() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        memory = cluster.store
        faulty = FaultyStore(memory, VirtualClock())
        try:
            service = Service(await cluster.add("a", store=faulty), cluster)
            await service.register("m", loadNow=True, sync=True)
            faulty.pause()
            assert (await service.status("m")).status == Info.LOADED
            assert (await cluster.call("m", via="a")).status is Status.OK
            for call in (service.register("other"), service.status("other"), service.unregister("m")):
                with pytest.raises(StoreUnavailableError):
                    await call
            cold = await cluster.call("other", via="a")
            assert cold.status is Status.UNAVAILABLE
            assert 1_000 <= int(dict(cold.trailers)["grpc-retry-pushback-ms"]) <= 1_500
            await asyncio.sleep(30)
            assert (await cluster.call("m", via="a")).status is Status.OK
            faulty.resume()
            await asyncio.sleep(5)
            assert (await service.register("other")).status == Info.NOT_LOADED
            assert (await cluster.call("other", via="a")).status is Status.OK
            await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())


def test_what_stands_in_an_emptied_store_is_not_believed_before_it_was_listed() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        faulty = FaultyStore(cluster.store, VirtualClock())
        try:
            service = Service(await cluster.add("a", store=faulty), cluster)
            await service.register("before")
            await faulty.empty()
            await service.register("m")
            with pytest.raises(StoreReplacedError):
                await service.register("m")
        finally:
            await cluster.stop()

    run_virtual(main())


def test_an_emptied_store_unloads_nothing_and_is_put_right() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        faulty = FaultyStore(cluster.store, VirtualClock())
        try:
            service = Service(await cluster.add("a", store=faulty), cluster)
            await service.register("m", loadNow=True, sync=True)
            await faulty.empty()
            faulty.break_watches()
            await asyncio.sleep(10)
            assert (await cluster.call("m", via="a")).status is Status.OK
            assert service.instance.runtime.load_counts[ModelId("m")] == 1
            assert (await service.record()).path == "p"
            await asyncio.sleep(30)
            await cluster.settled()
        finally:
            await cluster.stop()

    run_virtual(main())
