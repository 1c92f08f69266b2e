"""The main job with real processes: the native core, real stores, real sockets."""

import asyncio

import grpc
import pytest
from conftest import Mesh, StartMesh, eventually

pytestmark = pytest.mark.process


async def test_a_model_is_registered_loaded_called_and_unregistered(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    unknown = await mesh.status("i don't exist")
    assert (unknown.status, list(unknown.errors)) == (0, [])
    assert (await mesh.register("myModel", load=True)).status in {2, 3}
    answer = await mesh.predict("myModel", "predict me!")
    assert answer.results[0].category == "classification for predict me! by model myModel"
    assert answer.results[0].confidence == 1.0
    info = await mesh.status("myModel")
    assert (info.status, list(info.errors), len(info.modelCopyInfos)) == (3, [], 1)
    await mesh.unregister("myModel")
    await mesh.unregister("myModel")
    assert await mesh.state("myModel") == "NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.predict("myModel")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "model not found")

    async def unloaded() -> bool:
        return not mesh.runtimes[0].loaded

    await eventually(unloaded)


async def test_fifty_first_calls_through_three_instances_cause_one_load(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(3, load_ms=300)
    await mesh.register("m")
    answers = await asyncio.gather(*(mesh.predict("m", f"call {n}", via=n % 3) for n in range(50)))
    for n, answer in enumerate(answers):
        assert answer.results[0].category == f"classification for call {n} by model m"
    assert mesh.loads("m") == 1
    # Warm calls enter anywhere too, and nothing more is loaded.
    await asyncio.gather(*(mesh.predict("m", via=n % 3) for n in range(300)))
    assert mesh.loads("m") == 1


async def test_a_failed_load_is_told_with_its_message(start_mesh: StartMesh) -> None:
    """Acceptance 1 of `spec/request-path.md` 18."""
    mesh = await start_mesh()
    info = await mesh.register("m", "FAIL_the file is broken", load=True, sync=True)
    for answer in (info, await mesh.status("m")):
        assert answer.status == 4
        assert len(answer.errors) == 1
        assert answer.errors[0].endswith("the file is broken")
        assert [copy.copyStatus for copy in answer.modelCopyInfos] == [4]
        assert answer.modelCopyInfos[0].location == "instance-1"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.predict("m")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details().endswith("the file is broken")
    assert mesh.loads("m") == 1


async def test_a_runtime_unavailable_is_told_and_loads_no_more_copies(start_mesh: StartMesh) -> None:
    """Acceptance 3: from either ingress, the old text, and no additional copy."""
    mesh = await start_mesh(2)
    await mesh.register("m", load=True, sync=True)
    for via in (0, 1):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.predict("m", "test:error:code=UNAVAILABLE:message=Fake prediction error message", via=via)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == (
            "ModelRuntime UNAVAILABLE: mmesh.ExamplePredictor/predict: UNAVAILABLE: Fake prediction error message"
        )
    info = await mesh.status("m")
    assert (info.status, list(info.errors), len(info.modelCopyInfos)) == (3, [], 1)
    assert mesh.loads("m") == 1


@pytest.mark.parametrize("imitation", ["plain", "triton", "mlserver"])
async def test_a_model_unloaded_behind_our_back_is_loaded_again(start_mesh: StartMesh, imitation: str) -> None:
    """Acceptance 4, also for the answers of Triton and MLServer."""
    mesh = await start_mesh(2, not_found=imitation)
    await mesh.register("m", load=True, sync=True)
    for via in (0, 1, 0):
        for runtime in mesh.runtimes:
            runtime.loaded.clear()
        answer = await mesh.predict("m", via=via)
        assert answer.results[0].category == "classification for hello by model m"


async def test_a_call_overtakes_loads_that_nobody_waits_for(start_mesh: StartMesh) -> None:
    """Acceptance 5: one load slot; A and B are asked for, then C is called: C is served before B is loaded."""
    mesh = await start_mesh(loading_concurrency=1)
    for model in "ABC":
        await mesh.register(model, "SIZE_1000000_200_0")
    await mesh.ensure_loaded("A")
    await mesh.ensure_loaded("B")
    await mesh.predict("C")
    states = {model: await mesh.state(model) for model in "ABC"}
    assert states == {"A": "LOADED", "B": "LOADING", "C": "LOADED"}


async def test_the_original_eviction_story(start_mesh: StartMesh) -> None:
    """Acceptance 6: 1 GiB, 50 MiB models, unload takes a second; the reserve lets loads begin meanwhile."""
    mesh = await start_mesh(loading_concurrency=6)
    fifty = f"SIZE_{50 << 20}_20_1000"
    for n in range(18):
        await mesh.register(f"m{n}", fifty, load=True, sync=True)
        await asyncio.sleep(0.01)
    assert [await mesh.state(f"m{n}") for n in range(18)] == ["LOADED"] * 18
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await mesh.register("m18", fifty, load=True, sync=True)).status == 3
    assert loop.time() - began < 0.9  # it does not wait for the unload
    assert await mesh.state("m0") == "NOT_LOADED"
    assert await mesh.state("m1") == "LOADED"
    assert (await mesh.register("m19", fifty, load=True, sync=True)).status == 3
    assert [await mesh.state(f"m{n}") for n in (1, 2)] == ["NOT_LOADED", "LOADED"]
    assert (await mesh.register("m20", fifty, load=True, sync=True)).status == 3
    assert await mesh.state("m2") == "NOT_LOADED"
    assert loop.time() - began > 0.9  # this one waited for the first unload
    assert (await mesh.ensure_loaded("m0")).status == 2
    big = await mesh.register("big", f"SIZE_{160 << 20}_20_10", load=True, sync=True)
    assert big.status == 3

    async def evicted() -> bool:
        return [await mesh.state(f"m{n}") for n in (3, 4, 5, 6)] == ["NOT_LOADED"] * 4

    await eventually(evicted)
    assert await mesh.state("m7") == "LOADED"


async def test_ten_registrations_on_a_full_cache_evict_ten(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(loading_concurrency=6)
    fifty = f"SIZE_{50 << 20}_20_300"
    for n in range(18):
        await mesh.register(f"m{n}", fifty, load=True, sync=True)
        await asyncio.sleep(0.01)
    answers = await asyncio.gather(*(mesh.register(f"m{n}", fifty, load=True, sync=True) for n in range(18, 28)))
    assert [answer.status for answer in answers] == [3] * 10
    states = [await mesh.state(f"m{n}") for n in range(28)]
    assert states == ["NOT_LOADED"] * 10 + ["LOADED"] * 18


async def test_methods_that_are_not_allowed_are_refused_at_the_door(start_mesh: StartMesh) -> None:
    """Acceptance 9: also before anything is loaded."""
    mesh = await start_mesh(method_infos={"mmesh.ExamplePredictor/predict": []})
    await mesh.register("m")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.predict("m", method="mmesh.ExamplePredictor/multiPredict")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.predict("m", method="mmesh.ModelRuntime/unloadModel")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert mesh.loads("m") == 0
    await mesh.predict("m")


async def test_two_megabytes_through_the_other_instance(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(2)
    await mesh.register("m", load=True, sync=True)
    text = "x" * 2_000_000
    for n in range(20):
        answer = await mesh.predict("m", text, via=n % 2, timeout=2)
        assert answer.results[0].category == f"classification for {text} by model m"


async def test_ids_and_their_errors(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    await mesh.register("m", load=True, sync=True)
    await mesh.register("größe/ 1", load=True, sync=True)
    utf8 = [("mm-model-id-bin", "größe/ 1".encode())]
    assert (await mesh.predict("", metadata=utf8)).results[0].confidence == 1.0
    for metadata, text in [
        ([], "must include mm-model-id header"),
        ([("mm-model-id", "")], "provided model-id header must be non-empty"),
        ([("mm-model-id", "m"), ("mm-vmodel-id", "v")], "must include only one of model id and vmodel id"),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.predict("", metadata=metadata)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, text)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.predict("", metadata=[("mm-vmodel-id", "nobody")])
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "vmodel not found")


async def test_a_restarted_cluster_still_knows_its_models(start_mesh: StartMesh) -> None:
    """SQLite keeps registrations; copies of the process before are forgotten."""
    mesh = await start_mesh()
    await mesh.register("m", load=True, sync=True)
    instance = mesh.cluster.instances[0]
    assert instance.mesh is not None
    await instance.mesh.stop()
    mesh.runtimes[0].loaded.clear()
    await mesh.cluster.start_mesh(instance)
    await mesh.cluster.wait_ready(instance)
    assert await mesh.state("m") == "NOT_LOADED"
    assert (await mesh.predict("m")).results[0].confidence == 1.0


async def test_calls_beyond_what_may_wait_for_a_copy_are_refused(start_mesh: StartMesh) -> None:
    async def refused(mesh: Mesh) -> int:
        await mesh.register("m", load=True, sync=True)
        calls = await asyncio.gather(*(mesh.predict("m") for _ in range(6)), return_exceptions=True)
        errors = [call for call in calls if isinstance(call, grpc.aio.AioRpcError)]
        assert {(error.code(), error.details()) for error in errors} <= {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "Model queue overload")
        }
        return len(errors)

    runtime = {"max_concurrency": 1, "predict_ms": 300}
    bounded = await start_mesh(environment={"MM_MAX_INFLIGHT_PER_MODEL_COPY": "3"}, **runtime)
    assert await refused(bounded) == 3
    unbounded = await start_mesh(environment={"MM_MAX_INFLIGHT_PER_MODEL_COPY": "-1"}, **runtime)
    assert await refused(unbounded) == 0
