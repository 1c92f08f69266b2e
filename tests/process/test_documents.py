"""What an operator's documents do to running instances: constraints, data-plane configuration, static registration."""

import asyncio
import json
import os
from pathlib import Path

import grpc
import pytest
from conftest import PREDICT, Info, StartMesh, eventually

pytestmark = pytest.mark.process


def swap(folder: Path, name: str, text: str) -> None:
    """Replace a file as Kubernetes does: a new folder, and a link that points to it at once."""
    fresh = folder / f"..{os.urandom(4).hex()}"
    fresh.mkdir(parents=True)
    (fresh / name).write_text(text)
    link = folder / "..data.next"
    link.symlink_to(fresh.name)
    link.replace(folder / "..data")
    if not (folder / name).is_symlink():
        (folder / name).symlink_to(f"..data/{name}")


async def test_methods_are_allowed_and_refused_as_the_file_says_and_a_bad_file_changes_nothing(
    start_mesh: StartMesh, tmp_path: Path
) -> None:
    folder = tmp_path / "config"
    rules = {"rpcConfigs": {PREDICT: {"idExtractionPath": [1]}}, "allowOtherRpcs": False}
    swap(folder, "dataplane.json", json.dumps(rules))
    mesh = await start_mesh(environment={"MM_DATAPLANE_CONFIG_PATH": str(folder / "dataplane.json")})
    await mesh.register("m")
    assert (await mesh.predict("", name="m")).results  # the id is in the message
    swap(folder, "dataplane.json", '{"rpcConfigs": {"no method": {}}}')

    async def refused() -> bool:
        return "document_refused" in mesh.log()

    await eventually(refused)
    assert (await mesh.predict("", name="m")).results
    swap(folder, "dataplane.json", '{"allowOtherRpcs": false}')

    async def unimplemented() -> bool:
        try:
            await mesh.predict("m")
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNIMPLEMENTED
        return False

    await eventually(unimplemented)
    assert await mesh.state("m") == "LOADED"  # our own services are not concerned


async def test_copies_follow_a_change_of_constraints(start_mesh: StartMesh, tmp_path: Path) -> None:
    document = tmp_path / "constraints.json"
    document.write_text('{"example": {"required": ["left"]}}')
    mesh = await start_mesh(
        2,
        environment={"MM_TYPE_CONSTRAINTS_PATH": str(document)},
        own_environment={1: {"MM_LABELS": "left"}, 2: {"MM_LABELS": "right"}},
    )
    await mesh.register("m")
    await mesh.predict("m", via=1)
    assert [copy.location for copy in (await mesh.status("m")).modelCopyInfos] == ["instance-1"]
    document.write_text('{"example": {"required": ["right"]}}')

    async def moved() -> bool:
        return [copy.location for copy in (await mesh.status("m")).modelCopyInfos] == ["instance-2"]

    await eventually(moved, within=20)
    await mesh.predict("m")


async def test_static_models_are_registered_and_loaded_before_the_instance_is_ready(start_mesh: StartMesh) -> None:
    static = [
        {"modelId": "m", "modelInfo": {"type": "example"}, "ensureLoaded": True},
        {"modelId": "target", "modelInfo": {"type": "example"}, "vModelId": "v", "unknown": "ignored"},
    ]
    mesh = await start_mesh(environment={"MM_AUTO_REGISTER_MODELS": json.dumps(static)})
    assert (await mesh.state("m"), await mesh.state("target")) == ("LOADED", "NOT_LOADED")
    answer = await mesh.predict("", metadata=[("mm-vmodel-id", "v")])
    assert answer.results
    assert (await mesh.ensure_loaded("m")).status == Info.LOADED


@pytest.mark.parametrize(
    ("name", "value", "said_so"),
    [
        (
            "MM_AUTO_REGISTER_MODELS",
            '[{"modelId": "bad", "modelInfo": {"type": "example", "path": "FAIL_on purpose"}, "ensureLoaded": true}]',
            "static model bad is LOADING_FAILED: INTERNAL: on purpose",
        ),
        ("MM_AUTO_REGISTER_MODELS", '[{"modelId": "m"}]', "MM_AUTO_REGISTER_MODELS: 0.modelInfo: Field required"),
        ("MM_TYPE_CONSTRAINTS", "not JSON", "MM_TYPE_CONSTRAINTS: the document: Invalid JSON"),
        ("MM_TYPE_CONSTRAINTS_PATH", "/nowhere", "MM_TYPE_CONSTRAINTS_PATH: [Errno 2]"),
        (
            "MM_DATAPLANE_CONFIG",
            '{"rpcconfigs": {}}',
            "MM_DATAPLANE_CONFIG: rpcconfigs: Extra inputs are not permitted",
        ),
        (
            "MM_DATAPLANE_CONFIG",
            '{"rpcConfigs": {"a/b": {"idExtractionPath": [0]}}}',
            "idExtractionPath.0: Input should be greater",
        ),
    ],
)
async def test_a_document_that_cannot_be_used_ends_the_start_and_is_named(
    start_mesh: StartMesh, tmp_path: Path, name: str, value: str, said_so: str
) -> None:
    message = tmp_path / "termination"
    with pytest.raises(Exception, match="instance-1"):
        await start_mesh(environment={name: value, "LL_TERMINATION_MSG_PATH": str(message)})
    text = await asyncio.to_thread(message.read_text)
    assert text.startswith("Service startup failed: ")
    assert said_so in text
