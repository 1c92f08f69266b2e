"""The embedded puller: files of any location in a folder for each model, and its errors as a load's."""

from pathlib import Path

import pytest
from memory_server import settings_in

from modelmesh.runtime.contract import ModelSource
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.servers.pulled_files import pulled_files
from modelmesh.storage.progress import silent


async def test_files_are_brought_dropped_and_cleared(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "model"
    kept.mkdir(parents=True)
    (kept / "weights").write_bytes(b"12345")
    (tmp_path / "kept" / "schema.json").write_text("{}")
    settings = settings_in(tmp_path)
    key = f'{{"model_type":{{"name":"a"}},"schema_path":"file://{tmp_path}/kept/schema.json"}}'
    async with pulled_files(settings, (tmp_path / "kept",)) as files:
        one = await files.bring(ModelSource("one", "t", f"file://{kept}", key), silent)
        assert one.path == settings.root / "one" / "model"
        assert (one.path / "weights").read_bytes() == b"12345"
        assert one.size_bytes == 5
        assert one.schema is not None
        assert one.schema.read_text() == "{}"
        other = await files.bring(ModelSource("other", "t", f"file://{kept}", ""), silent)
        assert other.content == one.content, "sizes are kept by content"
        assert await files.sizes(ModelSource("x", "t", f"file://{kept}", "")) == {"weights": 5}
        await files.drop("one")
        await files.drop("one")
        assert not (settings.root / "one").exists()
        (settings.root / "stray").mkdir()
        (settings.root / "_mlserver_models").mkdir()
        await files.clear()
        assert [path.name for path in settings.root.iterdir() if not path.name.startswith("_")] == []
        assert (settings.root / "_mlserver_models").is_dir(), "an adapter's own folder is not the puller's"
        assert (kept / "weights").exists()


@pytest.mark.parametrize(
    ("path", "key", "code"),
    [
        ("file:///etc/passwd", "", {"PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}),
        ("gopher://x", "", {"INVALID_ARGUMENT"}),
        ("a/b", "no json", {"INVALID_ARGUMENT"}),
        ("a/b", '{"storage_key": "missing"}', {"FAILED_PRECONDITION"}),
        ("a/b", "{}", {"INVALID_ARGUMENT"}),
    ],
)
async def test_what_cannot_be_had_is_a_loads_error_and_leaves_nothing(
    path: str, key: str, code: set[str], tmp_path: Path
) -> None:
    settings = settings_in(tmp_path)
    async with pulled_files(settings, (tmp_path,)) as files:
        with pytest.raises(RuntimeFault) as caught:
            await files.bring(ModelSource("m", "t", path, key), silent)
    assert caught.value.status.name in code
    assert not (settings.root / "m").exists()
