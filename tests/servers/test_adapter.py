"""What all adapters share, over a server in memory: nothing is left, nothing is believed that the server does not say."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest
from memory_server import MIB, Adapter, Client, MemoryFiles, MemoryServer, code_of, settings_in

from modelmesh.runtime.contract import ModelSource
from modelmesh.servers.adapter import AdapterRuntime
from modelmesh.servers.epochs import serve_lives
from modelmesh.servers.files import LocalFiles
from modelmesh.servers.sizes import Sizes

Start = Callable[..., Awaitable[Adapter]]


async def test_a_model_is_loaded_sized_and_gone_after_its_unload(start_adapter: Start) -> None:
    adapter = await start_adapter()
    assert await adapter.client.load("m") == 10 * MIB, "what it grew the server by, without what was imported for it"
    assert adapter.driver.loaded == {"m"}
    assert await adapter.client.size("m") == 10 * MIB
    await adapter.client.unload("m")
    assert adapter.nothing_is_left()
    assert (await code_of(adapter.client.size("m")))[0] == "NOT_FOUND"


async def test_status_has_the_limits_and_lists_only_inference_for_the_mesh(start_adapter: Start) -> None:
    adapter = await start_adapter(MEM_BUFFER_BYTES=str(24 * MIB), LOADING_CONCURRENCY="3", LOADTIME_TIMEOUT="90000")
    status = await adapter.client.status()
    assert status.status == status.READY
    assert (status.capacityInBytes, status.maxLoadingConcurrency) == (1000 * MIB, 3)
    assert (status.modelLoadingTimeoutMs, status.defaultModelSizeInBytes) == (90_000, 1_000_000)
    assert {name: list(info.idInjectionPath) for name, info in status.methodInfos.items()} == {"a.B/C": [1]}
    assert not status.allowAnyMethod, "the server's port answers its control calls too"
    assert status.runtimeVersion == "7"


async def test_ready_means_empty_also_of_what_another_adapter_had_loaded(start_adapter: Start) -> None:
    driver = MemoryServer(loaded={"old"})
    adapter = await start_adapter(driver)
    assert not driver.loaded
    await adapter.client.load("m")
    await adapter.client.status()
    assert adapter.nothing_is_left()


async def test_before_the_server_is_there_it_is_starting_and_loads_may_come_again(start_adapter: Start) -> None:
    adapter = await start_adapter(opened=False)
    status = await adapter.client.status()
    assert status.status == status.STARTING
    assert (await code_of(adapter.client.load("m")))[0] == "UNAVAILABLE"


async def test_a_load_that_the_server_refuses_leaves_nothing_and_says_why(start_adapter: Start) -> None:
    adapter = await start_adapter(MemoryServer(refuses="it is no model"))
    assert await code_of(adapter.client.load("m")) == ("INVALID_ARGUMENT", "it is no model")
    assert adapter.nothing_is_left()


async def test_a_cancelled_load_is_waited_for_and_taken_away_before_its_unload_is_answered(
    start_adapter: Start,
) -> None:
    """The old adapter could unload while the load was still copying, and left the model loaded."""
    driver = MemoryServer(load_gate=asyncio.Event())
    adapter = await start_adapter(driver)
    load = asyncio.create_task(adapter.client.load("m"))
    await driver.loading.wait()
    load.cancel()
    await asyncio.wait([load])
    unload = asyncio.create_task(adapter.client.unload("m"))
    assert (await code_of(adapter.client.size("m")))[0] == "NOT_FOUND"  # a call later, the unload has arrived
    assert not unload.done(), "the server is still at it"
    assert driver.load_gate is not None
    driver.load_gate.set()
    await unload
    assert adapter.nothing_is_left()
    driver.load_gate = None
    assert await adapter.client.load("m")
    assert driver.log == ["load m", "unload m", "load m"]


async def test_what_the_server_could_not_let_go_after_a_failed_load_is_tried_again_by_the_meshs_unload(
    start_adapter: Start,
) -> None:
    driver = MemoryServer(refuses="broken", stuck=True)
    adapter = await start_adapter(driver)
    assert (await code_of(adapter.client.load("m")))[0] == "INVALID_ARGUMENT"
    assert (await code_of(adapter.client.unload("m")))[0] == "INTERNAL"
    driver.stuck = False
    await adapter.client.unload("m")
    assert adapter.nothing_is_left()


async def test_an_unload_that_fails_keeps_the_model_and_its_files(start_adapter: Start) -> None:
    driver = MemoryServer()
    adapter = await start_adapter(driver)
    await adapter.client.load("m")
    driver.stuck = True
    assert (await code_of(adapter.client.unload("m")))[0] == "INTERNAL"
    assert list(adapter.runtime.root.iterdir())
    driver.stuck = False
    await adapter.client.unload("m")
    assert adapter.nothing_is_left()


async def test_an_unknown_model_is_unloaded_at_the_server_too(start_adapter: Start) -> None:
    adapter = await start_adapter()
    adapter.driver.loaded.add("stray")
    await adapter.client.unload("stray")
    assert not adapter.driver.loaded


async def test_a_model_that_the_server_has_lost_is_loaded_again_not_believed(start_adapter: Start) -> None:
    adapter = await start_adapter()
    await adapter.client.load("m")
    adapter.driver.loaded.clear()
    await adapter.client.load("m")
    assert adapter.driver.loaded == {"m"}


async def test_loads_and_unloads_of_one_model_run_in_order_and_those_of_others_beside(start_adapter: Start) -> None:
    driver = MemoryServer()
    adapter = await start_adapter(driver, LOADING_CONCURRENCY="4")
    await adapter.client.load("m")
    await asyncio.gather(adapter.client.unload("m"), adapter.client.load("m"), *(adapter.client.load(n) for n in "abc"))
    assert {"a", "b", "c"} <= driver.loaded
    await adapter.client.load("m")
    own = [line for line in driver.log if line.endswith(" m")]
    assert [line.partition(" ")[0] for line in own] == ["load", "unload"] * (len(own) // 2) + ["load"] * (len(own) % 2)


async def test_what_came_before_stands_in_no_ones_way(start_adapter: Start) -> None:
    adapter = await start_adapter(opened=False)
    adapter.runtime.root.mkdir(parents=True)
    (adapter.runtime.root / "m").mkdir()
    (adapter.runtime.root / "m" / "half").write_text("x")
    await adapter.runtime.open()
    await adapter.client.load("m")
    assert [path.name for path in (adapter.runtime.root / "m").iterdir()] == ["model"]


async def test_sizes_told_by_the_server_win_and_the_second_load_says_the_same(start_adapter: Start) -> None:
    driver = MemoryServer(told_bytes=33 * MIB)
    adapter = await start_adapter(driver)
    assert await adapter.client.load("m") == 33 * MIB
    driver.told_bytes = None
    driver.memory_bytes = None
    await adapter.client.unload("m")
    assert await adapter.client.load("m") == 33 * MIB


async def test_memory_that_the_server_kept_is_not_taken_for_a_small_model(start_adapter: Start) -> None:
    """MLServer gives nothing back: a second model moves into what the first one left, and grows it by nothing."""
    adapter = await start_adapter(MemoryServer(keeps_memory=True))
    assert await adapter.client.load("a", "one") == 10 * MIB
    await adapter.client.unload("a")
    assert await adapter.client.load("b", "two") == 10 * MIB, "between nothing and 10 MiB; its format says so much"
    assert await adapter.client.load("c", "three") == 10 * MIB, "with nothing left over it is measured again"


async def test_what_the_server_keeps_of_a_first_load_is_no_models(start_adapter: Start) -> None:
    """The file of a scikit-learn model makes MLServer import more of the package, and it stays when the model has left."""
    adapter = await start_adapter(MemoryServer(first_bytes=3 * MIB))
    assert await adapter.client.load("m") == 13 * MIB, "what it grew by; nothing else is known"
    await adapter.client.unload("m")
    assert await adapter.client.load("m") == 10 * MIB, "it shrank by that, and grew by that again"
    adapter.driver.model_bytes = 20 * MIB
    assert await adapter.client.load("other", "elsewhere") == 20 * MIB, "the server's own room is nobody's: it is exact"


async def test_a_model_that_mostly_lives_in_kept_room_is_what_it_was(start_adapter: Start) -> None:
    adapter = await start_adapter(MemoryServer(keeps_memory=True))
    for _ in range(3):
        assert await adapter.client.load("m") == 10 * MIB
        await adapter.client.unload("m")


async def test_a_pull_beside_a_load_does_not_keep_it_from_being_measured(start_adapter: Start) -> None:
    adapter = await start_adapter(LOADING_CONCURRENCY="2")
    adapter.files.gates["slow"] = asyncio.Event()
    pulled = asyncio.create_task(adapter.client.load("slow", "elsewhere"))
    await adapter.files.bringing.wait()
    adapter.driver.model_bytes = 21 * MIB
    assert await adapter.client.load("m") == 21 * MIB
    adapter.files.gates["slow"].set()
    assert await pulled == 21 * MIB


async def test_without_a_look_at_the_memory_files_times_a_factor_count(start_adapter: Start) -> None:
    adapter = await start_adapter(MemoryServer(memory_bytes=None), MODELSIZE_MULTIPLIER="1.5")
    assert await adapter.client.load("m") == 12 * MIB


@pytest.mark.parametrize(("loads_one_version", "disk_mib"), [(True, 2), (False, 10)])
async def test_of_a_folder_of_versions_the_one_that_is_loaded_counts(
    tmp_path: Path, *, loads_one_version: bool, disk_mib: int
) -> None:
    for version, mib in (("1", 8), ("3", 2)):
        file = tmp_path / "files" / "versions" / version / "model.onnx"
        file.parent.mkdir(parents=True)
        with file.open("wb") as opened:
            opened.truncate(mib * MIB)
    settings = settings_in(tmp_path, MODELSIZE_MULTIPLIER="1.5")
    driver = MemoryServer(memory_bytes=None, loads_one_version=loads_one_version)
    sizes = Sizes(settings.factor, settings.default_size_bytes)
    runtime = AdapterRuntime(driver, LocalFiles((tmp_path / "files",)), settings, sizes)
    await runtime.open()
    source = ModelSource("m", "onnx", "versions", "")
    assert await runtime.predict_size(source) == disk_mib * 3 * MIB // 2
    assert runtime.size(await runtime.load(source)) == disk_mib * 3 * MIB // 2
    file.unlink()
    file.parent.rmdir()
    (tmp_path / "files" / "versions" / "1" / "model.onnx").unlink()
    assert await runtime.predict_size(source) is None, "nothing is there to be predicted from"


# --- lives of the server --------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmesh.servers.epochs.CHECK_S", 0.01)
    monkeypatch.setattr("modelmesh.servers.epochs.OPEN_RETRY_S", 0.01)


@pytest.mark.parametrize("how", ["away", "anew"])
@pytest.mark.usefixtures("quick")
async def test_a_server_that_ended_is_told_by_a_lost_connection_and_comes_back_empty(
    how: str, tmp_path: Path, start_adapter: Start
) -> None:
    driver = MemoryServer()
    (tmp_path / "brought").mkdir()
    files = MemoryFiles(tmp_path / "brought")
    settings = settings_in(tmp_path)
    sizes = Sizes(settings.factor, settings.default_size_bytes)
    lives: list[AdapterRuntime] = []

    def life() -> AdapterRuntime:
        lives.append(AdapterRuntime(driver, files, settings, sizes))
        return lives[-1]

    stop = asyncio.Event()
    listen = f"unix://{tmp_path}/lives.sock"
    serving = asyncio.create_task(serve_lives(life, listen, stop))
    options = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 20)]
    async with grpc.aio.insecure_channel(listen, options=options) as channel:
        client = Client(channel)

        async def ready() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                status = await client.status()
                return bool(status.status == status.READY)
            return False

        async with asyncio.timeout(20):
            while not await ready():
                await asyncio.sleep(0.01)
            await client.load("m")
            driver.away = how == "away"
            driver.loaded.clear()
            while len(lives) == 1:
                await asyncio.sleep(0.01)
            driver.away = False
            while not await ready():
                await asyncio.sleep(0.01)
        assert (await code_of(client.size("m")))[0] == "NOT_FOUND"
        assert not list(lives[-1].root.iterdir())
        assert await client.load("m")
    stop.set()
    await serving
    assert not driver.loaded, "an adapter that stops leaves an empty server"
