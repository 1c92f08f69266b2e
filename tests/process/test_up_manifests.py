"""`modelmesh up -f`: models of manifests on the built-in runtime, followed when the files change."""

import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
from test_apply import manifest, vmodels
from test_up import ROW, iris, up

__all__ = ["iris"]
pytestmark = pytest.mark.process


async def test_models_are_served_under_their_names_and_follow_the_manifests(tmp_path: Path, iris: Path) -> None:
    shutil.copy(iris, tmp_path / "iris.joblib")
    file = tmp_path / "models.yaml"
    file.write_text(manifest("flowers", "iris.joblib", kind="sklearn"))
    async with up("-f", str(file)) as running:
        at = ["--address", f"127.0.0.1:{running.port}"]
        names = await vmodels(*at)
        assert list(names) == ["flowers"]
        answer = await running.infer(names["flowers"], ROW)
        assert np.frombuffer(answer.raw_output_contents[0], "<i8").tolist() == [0]

        file.write_text(manifest("renamed", "iris.joblib", kind="sklearn"))
        await running.says("create renamed")
        await running.says("delete flowers")
        assert list(await vmodels(*at)) == ["renamed"]

        file.write_text(manifest("renamed", "iris.joblib", kind="sklearn").replace("modelFormat", "modelFromat"))
        await running.says("did you mean modelFormat?")
        assert list(await vmodels(*at)) == ["renamed"], "a file with a problem changes nothing"


async def test_files_elsewhere_are_not_loaded(tmp_path: Path, iris: Path) -> None:
    (tmp_path / "manifests").mkdir()
    file = tmp_path / "manifests" / "models.yaml"
    file.write_text(manifest("outside", str(iris), kind="sklearn"))
    async with up("-f", str(file)) as running:
        model = (await vmodels("--address", f"127.0.0.1:{running.port}"))["outside"]
        with pytest.raises(grpc.aio.AioRpcError, match="outside of the models' folder"):
            await running.infer(model, ROW)


async def test_every_problem_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("a", "p", kind="fortran"))
    async with up("-f", str(tmp_path), ready=False) as running:
        await running.says("no declared runtime takes fortran")
        assert await running.process.wait() == 1
    (tmp_path / "a.yaml").write_text(manifest("a", "{x: 1}", kind="sklearn"))
    async with up("-f", str(tmp_path), ready=False) as running:
        await running.says("spec.predictor.model.storage.path: must be a text")
        assert await running.process.wait() == 1
