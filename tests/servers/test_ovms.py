"""OpenVINO Model Server: layouts, and the adapter's configuration, reloads and status against a double of its REST API."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from trees import tree_of

from modelmesh.servers.driver import ServerAwayError, ServerError
from modelmesh.servers.layout import Given
from modelmesh.servers.ovms import Ovms, layout


@pytest.mark.parametrize(
    ("model_format", "path", "files", "link", "target"),
    [
        ("onnx", "model.x", None, "1/model.onnx", "model.x"),
        ("openvino_ir", "model.xml", None, "1/model.xml", "model.xml"),
        ("onnx", "dir", ("model.onnx",), "1", "dir"),
        ("onnx", "dir", ("2/model.onnx", "6/model.onnx"), "6", "dir/6"),
        ("openvino_ir", "dir", ("1/m.xml", "5/m.xml", "5/m.bin"), "5", "dir/5"),
        ("openvino_ir", "dir", ("m.xml", "m.bin", "mapping_config.json"), "1", "dir"),
        ("openvino_ir", "dir/5", ("m.xml",), "1", "dir/5"),
    ],
)
def test_a_model_is_linked_as_it_always_was(model_format, path, files, link, target) -> None:
    given = Given("m", model_format, tree_of(f"/models/m/{path}", files), None, "/x")
    assert layout(given).links == {link: f"/models/m/{target}"}
    assert not layout(given).files


class Double:
    """Reads the file when it is told to; a model whose folder is not there fails, and what left is UNLOADING for two looks."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self.loaded: set[str] = set()
        self.failed: set[str] = set()
        self.leaving: dict[str, int] = {}
        self.reloads = 0
        self.versions: dict[str, list[str]] = {}
        self.gate: asyncio.Event | None = None
        self.broken = False

    async def reload(self, _: web.Request) -> web.Response:
        self.reloads += 1
        wanted = {
            one["config"]["name"]: Path(one["config"]["base_path"])
            for one in json.loads(self._config.read_text())["model_config_list"]
        }
        if self.gate is not None:
            await self.gate.wait()
        for name in self.loaded - wanted.keys():
            self.loaded.discard(name)
            self.leaving[name] = 2
        self.failed = {name for name, path in wanted.items() if not path.is_dir()}
        self.loaded |= wanted.keys() - self.failed
        if self.failed:
            return web.json_response({"error": "Reloading config failed"}, status=400)
        return web.json_response(self._status(), status=201)

    async def config(self, _: web.Request) -> web.Response:
        return web.Response(text="garbage") if self.broken else web.json_response(self._status())

    def _status(self) -> dict:
        states = dict.fromkeys(self.loaded, ("AVAILABLE", "OK", ""))
        states |= dict.fromkeys(self.failed, ("LOADING", "UNKNOWN", "no model there"))
        for name in list(self.leaving):
            states[name] = ("UNLOADING" if self.leaving[name] else "END", "OK", "")
            self.leaving[name] = max(0, self.leaving[name] - 1)
        return (
            {
                name: {
                    "model_version_status": [
                        {"version": "1", "state": state, "status": {"error_code": code, "error_message": message}}
                    ]
                }
                for name, (state, code, message) in states.items()
            }
            | {"empty": {"model_version_status": []}}
            | {
                name: {
                    "model_version_status": [{"version": str(n), "state": state} for n, state in enumerate(found, 1)]
                }
                for name, found in self.versions.items()
            }
        )


@pytest.fixture
async def double(tmp_path: Path) -> AsyncIterator[tuple[Double, Ovms]]:
    config = tmp_path / "model_config_list.json"
    server = Double(config)
    app = web.Application()
    app.add_routes([web.post("/v1/config/reload", server.reload), web.get("/v1/config", server.config)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield server, Ovms(runner.addresses[0][1], config)
    await runner.cleanup()


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


async def test_models_are_loaded_by_the_file_and_leave_when_the_server_has_let_go(double, tmp_path: Path) -> None:
    server, driver = double
    assert json.loads((tmp_path / "model_config_list.json").read_text()) == {"model_config_list": []}
    await driver.ready()
    await driver.load("a", folder(tmp_path, "a"))
    await driver.load("b", folder(tmp_path, "b"))
    assert server.loaded == {"a", "b"}
    assert await driver.holds("a")
    await driver.unload("a", tmp_path / "a")
    assert server.leaving == {"a": 0}, "the old adapter answered before the server knew"
    assert not await driver.holds("a")
    assert await driver.holds("b")
    await driver.unload("never", tmp_path / "never")


async def test_a_model_that_fails_says_why_and_takes_no_other_with_it(double, tmp_path: Path) -> None:
    server, driver = double
    await driver.load("good", folder(tmp_path, "good"))
    with pytest.raises(ServerError, match="no model there"):
        await driver.load("bad", tmp_path / "nothing")
    assert await driver.holds("good")
    await driver.load("later", folder(tmp_path, "later"))
    assert server.loaded == {"good", "later"}
    assert not server.failed, "the file names it no more"


async def test_loads_that_come_during_a_reload_share_the_next(double, tmp_path: Path) -> None:
    server, driver = double
    server.gate = asyncio.Event()
    folders = {name: folder(tmp_path, name) for name in "abcd"}
    loads = [asyncio.create_task(driver.load(name, path)) for name, path in folders.items()]
    while not server.reloads:
        await asyncio.sleep(0)
    server.gate.set()
    await asyncio.gather(*loads)
    assert server.loaded == set("abcd")
    assert server.reloads <= 2


async def test_any_version_that_is_available_will_do(double, tmp_path: Path) -> None:
    """The old adapter looked at the first only."""
    server, driver = double
    server.versions["m"] = ["END", "AVAILABLE"]
    await driver.load("m", folder(tmp_path, "m"))
    assert await driver.holds("m")
    server.versions["m"] = ["END", "LOADING"]
    assert not await driver.holds("m")


async def test_the_file_is_never_seen_half_written(double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may read it at any time."""
    _, driver = double
    written: list[Path] = []
    write = Path.write_text

    def noted(path: Path, *more: object, **options: object) -> int:
        written.append(path)
        return write(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", noted)
    await driver.load("a", folder(tmp_path, "a"))
    config = tmp_path / "model_config_list.json"
    assert written
    assert config not in written, "it is written beside, and renamed"
    assert [one["config"]["name"] for one in json.loads(config.read_text())["model_config_list"]] == ["a"]


async def test_one_who_goes_away_takes_no_reload_from_others(double, tmp_path: Path) -> None:
    server, driver = double
    server.gate = asyncio.Event()
    first = asyncio.create_task(driver.load("first", folder(tmp_path, "first")))
    while not server.reloads:
        await asyncio.sleep(0)
    gone, stays = (asyncio.create_task(driver.load(name, folder(tmp_path, name))) for name in ("gone", "stays"))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    server.gate.set()
    await asyncio.gather(first, stays)
    assert server.loaded == {"first", "stays"}, "the file of the next reload has not named it"


async def test_a_file_that_was_removed_is_written_again(double, tmp_path: Path) -> None:
    _, driver = double
    (tmp_path / "model_config_list.json").unlink()
    await driver.ready()
    assert (tmp_path / "model_config_list.json").exists()


async def test_a_server_that_is_away_or_talks_nonsense_is_said(double, tmp_path: Path) -> None:
    server, driver = double
    server.broken = True
    with pytest.raises(ServerError, match="no JSON"):
        await driver.ready()
    with pytest.raises(ServerAwayError, match="does not answer"):
        await Ovms(1, tmp_path / "other.json").ready()


async def test_what_an_earlier_adapter_loaded_is_left_over(double, tmp_path: Path) -> None:
    server, driver = double
    await driver.load("a", folder(tmp_path, "a"))
    server.leaving["long-gone"] = 0
    assert await driver.leftovers(tmp_path) == ["a"]
