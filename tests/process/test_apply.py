"""`modelmesh apply` against a running mesh."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from conftest import StartMesh, eventually
from test_commands import CLI, command

pytestmark = pytest.mark.process


def manifest(name: str, path: str, *, kind: str = "example") -> str:
    return f"""
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
  annotations: {{serving.kserve.io/deploymentMode: ModelMesh}}
spec:
  predictor:
    model:
      modelFormat: {{name: {kind}}}
      storage: {{path: {path}}}
---
"""


async def vmodels(*at: str) -> dict[str, str]:
    status, output, error = await command("vmodels", "list", "--json", *at)
    assert status == 0, error
    return {one["vmodel"]: one["active"] for one in json.loads(output)["vmodels"]}


async def test_models_of_files_are_created_moved_kept_and_pruned(start_mesh: StartMesh, tmp_path: Path) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    file = tmp_path / "models.yaml"
    file.write_text(manifest("a", "first") + manifest("b", "p"))

    status, output, _ = await command("apply", "-f", str(tmp_path), "--dry-run", *at)
    assert (status, output.splitlines()[-1]) == (0, "would be: 2 created")
    assert not await vmodels(*at), "a dry run changes nothing"

    status, output, error = await command("apply", "-f", str(tmp_path), *at)
    assert (status, output.splitlines()[-1]) == (0, "2 created"), error
    first = await vmodels(*at)
    assert {name: model.partition("__isvc-")[0] for name, model in first.items()} == {"a": "a", "b": "b"}
    assert await mesh.state(first["a"]) == "NOT_LOADED", "loaded at the first call"
    assert (await mesh.predict("", metadata=[("mm-vmodel-id", "a")])).results

    assert (await command("apply", "-f", str(file), *at))[:2] == (0, "2 kept\n")

    file.write_text(manifest("a", "second"))
    status, output, _ = await command("apply", "-f", str(file), "--prune", "--wait", "--json", *at)
    steps = {change["vmodel"]: change["step"] for change in json.loads(output)["changes"]}
    assert (status, steps) == (0, {"a": "move", "b": "delete"})
    second = await vmodels(*at)
    assert list(second) == ["a"]
    assert second["a"] != first["a"]
    assert await mesh.state(second["a"]) == "LOADED", "it was in use, so it moved when the new one was loaded"

    async def gone() -> bool:
        return await mesh.state(first["a"]) == "NOT_FOUND"

    await eventually(gone)


async def test_a_file_with_a_problem_changes_nothing_and_every_problem_is_said(
    start_mesh: StartMesh, tmp_path: Path
) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    (tmp_path / "a.yaml").write_text(manifest("a", "p") + manifest("b", "{x: 1}"))
    (tmp_path / "b.yml").write_text(manifest("c", "p").replace("modelFormat", "modelFromat"))
    status, output, error = await command("apply", "-f", str(tmp_path), "--prune", *at)
    assert status == 1, output
    assert "spec.predictor.model.storage.path: must be a text, is a mapping" in error
    assert "spec.predictor.model.modelFromat: is not a field; did you mean modelFormat?" in error
    assert "nothing was changed" in error
    assert not await vmodels(*at)
    assert (await command("vmodels", "set", "a", "by-hand", "--type", "example", *at))[0] == 0
    (tmp_path / "a.yaml").write_text(manifest("a", "p"))
    status, _, error = await command("apply", "-f", str(tmp_path / "a.yaml"), *at)
    assert status == 1
    assert "is the name of a vmodel that was set by hand already" in error
    assert (await vmodels(*at))["a"] == "by-hand"


async def test_a_model_that_does_not_load_is_an_exit_status_and_a_reason(start_mesh: StartMesh, tmp_path: Path) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    file = tmp_path / "models.yaml"
    file.write_text(manifest("a", "FAIL_no such file") + manifest("b", "p"))
    status, _, error = await command("apply", "-f", str(file), "--load", "--wait", *at)
    assert status == 1
    assert "no such file" in error
    assert set(await vmodels(*at)) == {"a", "b"}, "the others are set all the same"


async def test_watched_files_are_applied_when_they_change(start_mesh: StartMesh, tmp_path: Path) -> None:
    mesh = await start_mesh()
    at = ["--address", mesh.cluster.instances[0].endpoint]
    file = tmp_path / "models.yaml"
    file.write_text("")
    process = await asyncio.create_subprocess_exec(
        *CLI, "apply", "-f", str(tmp_path), "--watch", "--prune", *at, stdout=sys.stderr, stderr=sys.stderr
    )
    try:
        for names in (("a", "b"), ("b",)):
            file.write_text("".join(manifest(name, "p") for name in names))

            async def applied(names: tuple[str, ...] = names) -> bool:
                return set(await vmodels(*at)) == set(names)

            await eventually(applied, within=20)
        file.write_text("a: [")  # it goes on after a file that cannot be read
        file.write_text(manifest("c", "p"))

        async def mended() -> bool:
            return set(await vmodels(*at)) == {"c"}

        await eventually(mended, within=20)
        assert process.returncode is None
    finally:
        process.terminate()
        await process.wait()


async def test_manifests_come_from_standard_input_too(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    process = await asyncio.create_subprocess_exec(
        *CLI,
        *("apply", "-f", "-", "--address", mesh.cluster.instances[0].endpoint),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(manifest("a", "p").encode())
    assert (process.returncode, output.decode().splitlines()[-1]) == (0, "1 created")
