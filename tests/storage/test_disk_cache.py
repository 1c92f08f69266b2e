"""The disk cache: budget, what stays and what goes, several processes, and all that can happen to a folder."""

import asyncio
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from aiohttp import web
from conftest import MIB, make_puller, nothing_left, tree
from doubles import Files, serving

from modelmesh.storage import Limits, Location, Progress, Puller, Stage, StorageError, cache_folder, parse_location
from modelmesh.storage.cache_folder import CacheFolder
from modelmesh.values.status import Status

BODY = os.urandom(MIB)
PULLING = str(Path(__file__).parent / "pulling.py")


def files(**sizes: int) -> Files:
    return Files({f"/{name}": Random(name).randbytes(size) for name, size in sizes.items()})


async def pull(puller: Puller, url: str) -> bytes:
    with await puller.pull(parse_location(url)) as pulled:
        return pulled.path.read_bytes()


def names(puller: Puller, served: Files) -> set[str]:
    """Which of the served files are in the cache."""
    found = {path.read_bytes() for path in (puller.cache.folder / "entries").glob("*/files/*")}
    return {name.strip("/") for name, content in served.files.items() if content in found}


def uses(puller: Puller) -> int:
    return len(list((puller.cache.folder / "locks").glob("*.use")))


def age(puller: Puller, *, by_s: int) -> None:
    """As if so long had passed: whoever is used after it is used later, whatever the clock's grain."""
    for path in (puller.cache.folder / "locks").glob("*.use"):
        found = path.stat()
        os.utime(path, (found.st_atime, found.st_mtime - by_s))


async def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    served = files(a=400, b=400, c=400)
    async with make_puller(tmp_path / "cache", budget=1000) as puller, serving(served) as url:
        for name in ("a", "b", "a"):
            await pull(puller, f"{url}/{name}")
            age(puller, by_s=10)
        await pull(puller, f"{url}/c")
        assert names(puller, served) == {"a", "c"}
        assert puller.cache.usage().used_bytes == 800
        assert uses(puller) == 2
        assert list((puller.cache.folder / "trash").iterdir()) == []


async def test_what_is_held_stays_and_its_holders_are_told(tmp_path: Path) -> None:
    served = files(a=400, b=400, c=400)
    async with make_puller(tmp_path / "cache", budget=1000) as puller, serving(served) as url:
        held = [await puller.pull(parse_location(f"{url}/{name}")) for name in ("a", "b")]
        with pytest.raises(StorageError) as error:
            await pull(puller, f"{url}/c")
        assert error.value.code is Status.RESOURCE_EXHAUSTED
        assert "800 are held" in str(error.value)
        assert "budget of 1000 bytes" in str(error.value)
        assert names(puller, served) == {"a", "b"}
        held[0].release()
        held[0].release()
        await pull(puller, f"{url}/c")
        assert names(puller, served) == {"b", "c"}
        held[1].release()


async def test_nothing_goes_for_what_would_not_fit_anyway(tmp_path: Path) -> None:
    served = files(a=400, b=400, big=1001)
    async with make_puller(tmp_path / "cache", budget=1000) as puller, serving(served) as url:
        await pull(puller, f"{url}/a")
        await pull(puller, f"{url}/b")
        with pytest.raises(StorageError, match="1001 bytes do not fit") as error:
            await pull(puller, f"{url}/big")
        assert error.value.code is Status.RESOURCE_EXHAUSTED
        assert names(puller, served) == {"a", "b"}
        assert served.sent < 2000  # the first byte of `big` at most


async def test_files_are_not_to_be_written_to(puller: Puller) -> None:
    async with serving(files(a=10)) as url:
        with await puller.pull(parse_location(f"{url}/a")) as pulled:
            assert pulled.path.stat().st_mode & 0o777 == 0o444


async def test_a_damaged_entry_is_pulled_again(puller: Puller) -> None:
    served = files(a=400)
    async with serving(served) as url:
        await pull(puller, f"{url}/a")
        (damaged,) = (puller.cache.folder / "entries").glob("*/files/a")
        damaged.chmod(0o644)
        damaged.write_bytes(b"short")
        assert await pull(puller, f"{url}/a") == served.files["/a"]


@pytest.mark.parametrize("what", ["entries", "locks", "partial", "trash", ""])
async def test_a_folder_that_is_emptied_is_filled_again(puller: Puller, what: str) -> None:
    served = files(a=400, b=400)
    async with serving(served) as url:
        held = await puller.pull(parse_location(f"{url}/a"))
        shutil.rmtree(puller.cache.folder / what)
        assert await pull(puller, f"{url}/b") == served.files["/b"]
        assert await pull(puller, f"{url}/a") == served.files["/a"]
        held.release()


@pytest.mark.parametrize("what", ["partial", "locks", ""])
async def test_a_folder_that_is_emptied_during_a_pull(puller: Puller, what: str) -> None:
    emptied = []

    async def empty(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Range") != "bytes=0-0" and not emptied:
            emptied.append(1)
            shutil.rmtree(puller.cache.folder / what)
        return None

    served = Files({"/a": BODY}, faults=[empty])
    async with serving(served) as url:
        assert await pull(puller, f"{url}/a") == BODY
    assert emptied


async def test_a_folder_that_is_emptied_all_the_time(puller: Puller) -> None:
    async def empty(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Range") != "bytes=0-0":
            shutil.rmtree(puller.cache.folder, ignore_errors=True)
        return None

    async with serving(Files({"/a": b"a" * 100}, faults=[empty])) as url:
        with pytest.raises(StorageError, match="was emptied 3 times") as error:
            await pull(puller, f"{url}/a")
    assert error.value.code is Status.UNAVAILABLE


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Status.RESOURCE_EXHAUSTED),
        (errno.EDQUOT, Status.RESOURCE_EXHAUSTED),
        (errno.EROFS, Status.FAILED_PRECONDITION),
        (errno.EIO, Status.FAILED_PRECONDITION),
        (errno.EMFILE, Status.UNAVAILABLE),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) and value in errno.errorcode else "",
)
async def test_a_disk_that_fails_while_it_is_written(
    puller: Puller, monkeypatch: pytest.MonkeyPatch, number: int, code: Status
) -> None:
    write, count = os.pwrite, []

    def failing(fd: int, content: bytes, at: int) -> int:
        count.append(1)
        if len(count) > 5:
            raise OSError(number, os.strerror(number))
        return write(fd, content, at)

    async with serving(Files({"/a": BODY})) as url:
        monkeypatch.setattr(os, "pwrite", failing)
        with pytest.raises(StorageError) as error:
            await pull(puller, f"{url}/a")
    await puller.cache.close()
    assert error.value.code is code
    assert str(puller.cache.folder) in str(error.value)
    assert nothing_left(puller.cache)


async def test_a_disk_without_room_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmesh.storage.cache_folder._free_bytes", lambda _folder: 500)
    served = files(a=400, b=600, big=2000)
    async with make_puller(tmp_path / "cache", budget=10_000) as puller, serving(served) as url:
        await pull(puller, f"{url}/a")
        with pytest.raises(StorageError, match="the disk has 500 bytes free") as error:
            await pull(puller, f"{url}/big")
        assert error.value.code is Status.RESOURCE_EXHAUSTED
        assert names(puller, served) == {"a"}
        await pull(puller, f"{url}/b")
        assert names(puller, served) == {"b"}


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with make_puller(tmp_path / "file" / "cache") as puller, serving(files(a=1)) as url:
        with pytest.raises(StorageError) as error:
            await pull(puller, f"{url}/a")
    assert error.value.code is Status.FAILED_PRECONDITION


async def test_many_at_once_fetch_once_and_all_get_it(puller: Puller) -> None:
    served = Files({"/a": BODY})
    async with serving(served) as url:
        reports: list[Progress] = []
        location = parse_location(f"{url}/a")
        pulled = await asyncio.gather(*(puller.pull(location, reports.append) for _ in range(50)))
        assert all(one.path.read_bytes() == BODY for one in pulled)
        assert served.sent <= len(BODY) + 50
        assert puller.cache.usage().held_bytes == len(BODY)
        for one in pulled:
            one.release()
        assert puller.cache.usage().held_bytes == 0
    assert {report.stage for report in reports} >= {Stage.WAITING, Stage.FETCHING, Stage.READY}


async def test_one_who_goes_away_while_others_wait_does_not_take_it_from_them(puller: Puller) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Range") != "bytes=0-0":
            arrived.set()
            await go_on.wait()
        return None

    async with serving(Files({"/a": BODY}, faults=[hold])) as url:
        location = parse_location(f"{url}/a")
        first = asyncio.ensure_future(puller.pull(location))
        await arrived.wait()
        second = asyncio.ensure_future(puller.pull(location))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        with await second as pulled:
            assert pulled.path.read_bytes() == BODY


async def run(*arguments: object) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, PULLING, *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.process
async def test_processes_share_a_folder_and_fetch_once(tmp_path: Path) -> None:
    served = Files({"/a": BODY, "/b": BODY[::-1]})
    async with serving(served) as url:
        results = await asyncio.gather(*(run(tmp_path / "cache", 10 * MIB, f"{url}/a", f"{url}/b") for _ in range(3)))
    assert results == [(0, f"ready {MIB}\nready {MIB}\n")] * 3
    assert served.sent <= 2 * MIB + 100


def pulled_by_hand(cache: CacheFolder, name: str) -> None:
    """A pull of 300 bytes, up to the moment before it is published."""
    cache.reserve(name, 300)
    (cache.partial(name) / "files").mkdir()
    (cache.partial(name) / "files" / "a").write_bytes(bytes(300))


def publish_when_a_manifest_is_read(cache: CacheFolder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process ends its pull after the pulls were listed and before the entries were."""
    read = json.loads

    def publish_meanwhile(text: bytes) -> object:
        monkeypatch.setattr(cache_folder.json, "loads", read)
        cache.publish(name, None)
        return read(text)

    monkeypatch.setattr(cache_folder.json, "loads", publish_meanwhile)


@pytest.mark.parametrize("moment", ["while it is written", "while others look"])
def test_a_pull_counts_at_every_moment_in_which_it_becomes_an_entry(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = CacheFolder(tmp_path)
    cache.make()

    used = []
    if moment == "while it is written":
        sync = cache_folder.sync_folder
        monkeypatch.setattr(
            cache_folder, "sync_folder", lambda folder: (used.append(cache.usage().used_bytes), sync(folder))
        )
        pulled_by_hand(cache, "new")
        cache.publish("new", None)
    else:
        pulled_by_hand(cache, "old")
        cache.publish("old", None)
        pulled_by_hand(cache, "new")
        publish_when_a_manifest_is_read(cache, "new", monkeypatch)
        used.append(cache.usage().used_bytes - 300)
    assert set(used) == {300}
    assert cache.usage().used_bytes in {300, 600}
    assert not (tmp_path / "entries" / "new" / "reserved").exists()


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda cache: cache.make_room("next", 300, 700), {"new"}),
        (lambda cache: cache.make_room("next", 700, 700), set()),
        (lambda cache: cache.trim(300), {"new"}),
        (lambda cache: cache.trim(0), set()),
    ],
    ids=["room for some", "room for all", "trimmed", "emptied"],
)
def test_a_pull_that_becomes_an_entry_while_room_is_made_does_not_count_as_removed(
    make: Callable[[CacheFolder], None], left: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process's pull is the first to go; one that ended is the last."""
    cache = CacheFolder(tmp_path)
    cache.make()
    pulled_by_hand(cache, "old")
    cache.publish("old", None)
    os.close(os.open(cache.use_lock("old"), os.O_CREAT, 0o600))
    os.utime(cache.use_lock("old"), (1, 1))
    pulled_by_hand(cache, "new")
    publish_when_a_manifest_is_read(cache, "new", monkeypatch)
    make(cache)
    assert {path.name for path in (tmp_path / "entries").iterdir()} == left
    assert cache.usage().used_bytes == 300 * len(left)


@pytest.mark.process
async def test_processes_that_need_more_than_fits_keep_the_budget(tmp_path: Path) -> None:
    served = Files({f"/{number}": Random(number).randbytes(300_000) for number in range(6)})
    async with serving(served) as url:
        uris = [f"{url}/{number}" for number in range(6)]
        results = await asyncio.gather(
            *(run(tmp_path / "cache", 1_000_000, *Random(seed).sample(uris, 6)) for seed in range(3))
        )
    for code, said in results:
        assert code == 0
        assert set(said.splitlines()) <= {"ready 300000", "failed RESOURCE_EXHAUSTED"}
    found = [path.stat().st_size for path in (tmp_path / "cache" / "entries").glob("*/files/*")]
    assert sum(found) <= 1_000_000


@pytest.mark.process
@pytest.mark.timeout(180)
async def test_killed_at_any_moment_nothing_wrong_has_its_final_name(tmp_path: Path) -> None:
    """Each time after another number of answers; what stays is whole, within the budget, and gone on with."""
    contents = {
        f"/m{number}": Random(number).randbytes(size) for number, size in enumerate((1, 90_000, 700_000, 0, 300_000))
    }
    digests = {hashlib.sha256(content).digest() for content in contents.values()}
    victim: list[asyncio.subprocess.Process] = []
    left = [0]

    async def kill(_request: web.Request) -> web.StreamResponse | None:
        left[0] -= 1
        if left[0] == 0:
            victim[0].kill()
        return None

    served = Files(contents, faults=[kill])
    async with serving(served) as url:
        for round_ in range(8):
            left[0] = 2 + 2 * round_ + (round_ % 2)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                PULLING,
                str(tmp_path / "cache"),
                "1200000",
                *(f"{url}{name}" for name in contents),
                stdout=asyncio.subprocess.DEVNULL,
            )
            victim[:] = [process]
            await process.wait()
            entries = list((tmp_path / "cache" / "entries").glob("*/files/*"))
            assert all(hashlib.sha256(path.read_bytes()).digest() in digests for path in entries)
            assert sum(path.stat().st_size for path in entries) <= 1_200_000
            if round_ % 4 == 3:
                shutil.rmtree(tmp_path / "cache" / "entries")
        left[0] = -1
        code, said = await run(tmp_path / "cache", 1_200_000, *(f"{url}{name}" for name in contents))
    assert (code, said.split()) == (
        0,
        ["ready", "1", "ready", "90000", "ready", "700000", "ready", "0", "ready", "300000"],
    )
    assert list((tmp_path / "cache" / "trash").iterdir()) == []
    assert list((tmp_path / "cache" / "partial").iterdir()) == []


async def test_what_a_dead_process_completed_is_not_fetched_again(tmp_path: Path) -> None:
    """A folder of two files: one was complete when the process died."""
    from doubles import Hub

    repository = {"first": b"f" * 1000, "second": b"s" * 1000}
    hub = Hub({"org/repo": {"main": repository}}, large_from=10**9)
    async with serving(hub) as url:
        location = parse_location("hf://org/repo").with_settings({"endpoint_url": url})
        async with make_puller(tmp_path / "cache") as puller:
            plan = await puller.plan(location)
            partial = tmp_path / "cache" / "partial" / plan.content_id
            (partial / "files").mkdir(parents=True)
            (partial / "parts").mkdir()
            (partial / "files" / "first").write_bytes(repository["first"])
            (partial / "parts" / "0.abcd").write_bytes(b"half")
            (partial / "reserved").write_text("2000")
            with await puller.pull(location) as pulled:
                assert tree(pulled.path) == repository
    (resolved,) = (request.path for request in hub.requests if "/resolve/" in request.path)
    assert resolved.endswith("/second")


async def test_clocks_that_jump_cost_nothing_but_the_order(tmp_path: Path) -> None:
    served = files(a=400, b=400, c=400)
    async with make_puller(tmp_path / "cache", budget=1000) as puller, serving(served) as url:
        await pull(puller, f"{url}/a")
        age(puller, by_s=-(10**9))  # used in the far future
        await pull(puller, f"{url}/b")
        age(puller, by_s=10**10)  # before there were computers
        assert await pull(puller, f"{url}/c") == served.files["/c"]
        assert puller.cache.usage().used_bytes == 800


async def test_a_hundred_thousand_files_are_more_than_a_model_has(tmp_path: Path) -> None:
    from modelmesh.storage.listing import SourceFile, make_plan

    location = Location(parse_location("s3://bkt/m").kind, "bkt", "m")
    many = [SourceFile(f"{number // 1000}/{number}", str(number), 1, "t") for number in range(100_000)]
    plan = make_plan(location, many, is_file=False, endpoint="", unknown="", limits=Limits())
    assert len(plan.files) == 100_000
    with pytest.raises(StorageError, match="more than the 100000 files"):
        make_plan(
            location, [*many, SourceFile("x", "x", 1, "t")], is_file=False, endpoint="", unknown="", limits=Limits()
        )
