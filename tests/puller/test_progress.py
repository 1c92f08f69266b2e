"""How far a load is, as the puller reports it: the pull first, then what the runtime behind it says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from puller_kit import Pod, Telling, pod, refused

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.policy.load_patience import furthest, moved_on
from modelmesh.values.load_progress import LoadProgress, LoadStage


@asynccontextmanager
async def loading(mesh: Pod) -> AsyncIterator[grpc.aio.Channel]:
    """While the runtime loads `mod`, whose files are there."""
    mesh.runtime.gate.clear()
    async with mesh.channel() as channel:
        request = pb.LoadModelRequest(modelId="mod", modelPath="m/model", modelKey='{"storage_key": "web"}')
        load = asyncio.ensure_future(mesh.begin(channel, "loadModel", request, pb.LoadModelResponse))
        await mesh.runtime.entered.wait()
        yield channel
        mesh.runtime.gate.set()
        await load


async def test_what_the_runtime_reports_of_a_load_is_passed_on(tmp_path: Path) -> None:
    """With the bytes of the pull, so that each report of the runtime is progress for the mesh, whose time-out counts from it."""
    runtime = Telling()
    async with pod(tmp_path, runtime=runtime) as mesh:
        async with loading(mesh) as channel:
            seen = [await mesh.progress(channel)]
            for runtime.told in (
                LoadProgress(LoadStage.LOADING, 3, 100),
                LoadProgress(LoadStage.LOADING, 60, 100, 1, 2),
                LoadProgress(LoadStage.PUBLISHING, 100, 100, 2, 2),
            ):
                seen.append(await mesh.progress(channel))
        assert seen == [
            LoadProgress(LoadStage.LOADING, 7, 7, 1, 1),
            LoadProgress(LoadStage.LOADING, 10, 107, 1, 1),
            LoadProgress(LoadStage.LOADING, 67, 107, 2, 3),
            LoadProgress(LoadStage.PUBLISHING, 107, 107, 3, 3),
        ]
        last = None
        for one in seen:
            assert moved_on(last, one)
            last = furthest(last, one)
        assert "progress mod" in runtime.calls
        async with mesh.channel() as channel:
            assert (await refused(mesh.progress(channel))).code().name == "NOT_FOUND"


async def test_a_runtime_that_reports_nothing_is_asked_once_and_its_load_is_one(tmp_path: Path) -> None:
    async with pod(tmp_path) as mesh:
        asked = []
        call = mesh.puller.upstream._channel.unary_unary  # the connection is the puller's own affair

        def counted(path: str, **more: object) -> object:
            asked.append(path)
            return call(path, **more)

        mesh.puller.upstream._channel.unary_unary = counted  # type: ignore[method-assign]
        async with loading(mesh) as channel:
            for _ in range(3):
                assert await mesh.progress(channel) == LoadProgress(LoadStage.LOADING, 7, 7, 1, 1)
        assert asked.count("/modelmesh.v1.RuntimeEvents/LoadProgress") == 1
