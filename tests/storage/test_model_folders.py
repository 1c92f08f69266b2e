"""A folder for each model. Source: spec/runtime-adapters.md 2.5 to 2.7."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from conftest import make_puller, tree
from doubles import Files, serving

from modelmesh.storage import ModelFolders, Places, StorageError
from modelmesh.values.status import Status


@pytest.fixture
async def folders(tmp_path: Path) -> AsyncIterator[ModelFolders]:
    root = tmp_path / "models"
    claims = tmp_path / "claims"
    (claims / "claim" / "deep").mkdir(parents=True)
    (claims / "claim" / "deep" / "a").write_bytes(b"abc")
    served = Files({"/base/m/model": b"content", "/base/s/model": b"{}", "/base/s/schema.json": b"{}"})
    async with serving(served) as url, make_puller(root / "_cache", places=Places(claims)) as puller:
        configs = {
            "web": json.dumps({"type": "http", "url": f"{url}/base"}),
            "claim": json.dumps({"type": "pvc", "name": "claim"}),
        }
        made = ModelFolders(root, puller, configs.get)
        made.served = served  # type: ignore[attr-defined]
        yield made


async def test_a_model_and_its_schema_are_where_the_runtime_looks(folders: ModelFolders) -> None:
    key = json.dumps({"storage_key": "web", "schema_path": "s/schema.json", "model_type": {"name": "onnx"}, "new": 1})
    local = await folders.bring("mod-1", "m/model", key)
    assert local.path == folders.root / "mod-1" / "model"
    assert local.path.read_bytes() == b"content"
    assert json.loads(local.key) == {
        "model_type": {"name": "onnx"},
        "disk_size_bytes": 7,
        "schema_path": f"{folders.root}/mod-1/schema.json",
    }
    # Links lead somewhere in every container that has the volume, wherever it has it.
    moved = folders.root.rename(folders.root.with_name("elsewhere"))
    assert (moved / "mod-1" / "model").read_bytes() == b"content"


async def test_a_schema_of_the_models_name(folders: ModelFolders) -> None:
    local = await folders.bring("m", "m/model", json.dumps({"storage_key": "web", "schema_path": "s/model"}))
    assert local.schema == folders.root / "m" / "_schema.json"
    assert (local.path.read_bytes(), local.schema.read_bytes()) == (b"content", b"{}")


async def test_a_claim_is_linked_by_the_name_of_the_path(folders: ModelFolders) -> None:
    """The link had the name of what the path led to, so that linked models broke; loading twice failed."""
    (folders._puller.cache.folder.parents[1] / "claims" / "claim" / "latest").symlink_to("deep")
    for _ in range(2):
        local = await folders.bring("m", "latest", json.dumps({"storage_key": "claim"}))
        assert local.path == folders.root / "m" / "latest"
        assert tree(local.path) == {"a": b"abc"}
        assert json.loads(local.key) == {"disk_size_bytes": 3}
    await folders.drop("m")
    assert (folders._puller.cache.folder.parents[1] / "claims" / "claim" / "deep" / "a").exists()


async def test_dropped_files_may_go_and_come_back_without_fetching(folders: ModelFolders) -> None:
    key = json.dumps({"storage_key": "web"})
    await folders.bring("a", "m/model", key)
    assert folders.left() == ["a"]
    assert folders._puller.cache.usage().held_bytes == 7
    await folders.drop("a")
    await folders.drop("a")
    await folders.drop("never")
    assert folders.left() == []
    assert folders._puller.cache.usage().held_bytes == 0
    sent = folders.served.sent  # type: ignore[attr-defined]
    await folders.bring("b", "m/model", key)
    assert folders.served.sent - sent <= 1  # type: ignore[attr-defined]


async def test_a_pull_that_fails_leaves_no_folder(folders: ModelFolders) -> None:
    with pytest.raises(StorageError) as error:
        await folders.bring("m", "m/gone", json.dumps({"storage_key": "web"}))
    assert error.value.code is Status.NOT_FOUND
    with pytest.raises(StorageError):
        await folders.bring("m", "m/model", json.dumps({"storage_key": "web", "schema_path": "s/gone"}))
    assert folders.left() == []
    assert folders._puller.cache.usage().held_bytes == 0


async def test_a_load_that_fails_takes_the_old_folder_with_it(folders: ModelFolders) -> None:
    key = json.dumps({"storage_key": "web"})
    await folders.bring("m", "m/model", key)
    with pytest.raises(StorageError):
        await folders.bring("m", "m/gone", key)
    assert folders.left() == []


async def test_a_cancelled_load_leaves_nothing(folders: ModelFolders) -> None:
    arrived = asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse | None:
        arrived.set()
        await asyncio.sleep(3600)
        return None

    folders.served.faults.append(hang)  # type: ignore[attr-defined]
    task = asyncio.ensure_future(folders.bring("m", "m/model", json.dumps({"storage_key": "web"})))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert folders.left() == []


@pytest.mark.parametrize("model", ["../../evil", "/evil", "a/../../evil"])
async def test_ids_stay_below_the_root(folders: ModelFolders, model: str) -> None:
    local = await folders.bring(model, "m/model", json.dumps({"storage_key": "web"}))
    assert local.folder == folders.root / "evil"
    await folders.drop(model)
    assert folders.left() == []


@pytest.mark.parametrize("model", ["", "..", "/", "_cache", "_cache/entries", "a/../_cache", "a\0b"])
async def test_ids_that_are_no_folder(folders: ModelFolders, model: str) -> None:
    for call in (folders.bring(model, "m/model", json.dumps({"storage_key": "web"})), folders.drop(model)):
        with pytest.raises(StorageError) as error:
            await call
        assert error.value.code is Status.INVALID_ARGUMENT


async def test_what_an_earlier_process_left_is_named_and_dropped(folders: ModelFolders) -> None:
    folders.root.mkdir()
    (folders.root / "file").touch()
    (folders.root / "folder" / "sub").mkdir(parents=True)
    (folders.root / "link").symlink_to("/etc")
    (folders.root / "_cache").mkdir(exist_ok=True)
    assert folders.left() == ["file", "folder", "link"]
    for name in folders.left():
        await folders.drop(name)
    assert os.listdir(folders.root) == ["_cache"]
    assert Path("/etc/passwd").exists()


async def test_how_much_a_model_will_be(folders: ModelFolders) -> None:
    assert (await folders.plan("m/model", json.dumps({"storage_key": "web"}))).size_bytes == 7
