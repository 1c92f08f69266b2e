"""What the embedded store promises beyond the port."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modelmesh.adapters.store.sqlite import MEMORY, SqliteStore, StoreFileError
from modelmesh.adapters.store.sqlite_tables import Tables
from modelmesh.ports import (
    CompactedError,
    Compare,
    Delete,
    LeaseNotFoundError,
    Put,
    StoreUnavailableError,
    Transaction,
)
from modelmesh.values.ids import Revision


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def bytes_of(path: str) -> bytes:
    return Path(path).read_bytes()


def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


async def put(store: SqliteStore, key: str, value: bytes = b"v", lease: int = 0) -> Revision:
    return (await store.transact(Transaction((), (Put(key, value, lease),)))).revision


async def test_what_was_acknowledged_is_there_after_a_restart(path):
    store = SqliteStore(path)
    first = await put(store, "a", b"1")
    last = await put(store, "a", b"2")
    await store.close()
    store = SqliteStore(path)
    item = await store.get("a")
    assert item is not None
    assert (item.value, item.create_revision, item.mod_revision, item.version) == (b"2", first, last, 2)
    assert store.orphans == ()
    assert (await store.range("")).revision == last
    assert (await store.range("", revision=first)).items[0].value == b"1"
    assert await put(store, "b") == last + 1
    await store.close()


async def test_keys_of_an_earlier_process_are_deleted_at_open_and_the_watch_says_so(path):
    store = SqliteStore(path)
    old_lease = await store.grant(10_000)
    await put(store, "registry/m", b"record")
    await put(store, "copies/m/i", b"loading", old_lease)
    last = await put(store, "members/i", b"me", old_lease)
    await store.close()

    store = SqliteStore(path)
    assert [(item.key, item.value) for item in store.orphans] == [("copies/m/i", b"loading"), ("members/i", b"me")]
    assert [item.key for item in (await store.range("")).items] == ["registry/m"]
    watch = store.watch("", start=Revision(last + 1))
    changes = await anext(watch)
    await watch.aclose()
    assert [(change.kind.value, change.item.key) for change in changes] == [
        ("delete", "copies/m/i"),
        ("delete", "members/i"),
    ]
    assert {change.item.mod_revision for change in changes} == {last + 1}
    new_lease = await store.grant(10_000)
    assert new_lease != old_lease
    with pytest.raises(LeaseNotFoundError):
        await store.keep_alive(old_lease)
    await store.close()


async def test_a_killed_process_loses_nothing_it_acknowledged(path):
    """It writes and prints each number after the acknowledgement, until it is killed in the middle."""
    program = """
import asyncio, sys
from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.ports import Put, Transaction
async def main():
    store = SqliteStore(sys.argv[1])
    for i in range(1_000_000):
        await store.transact(Transaction((), (Put("n", str(i).encode()),)))
        print(i, flush=True)
asyncio.run(main())
"""
    process = start(program, path)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 100:
            process.send_signal(signal.SIGKILL)
            break
    acknowledged = [int(line), *map(int, process.stdout.read().split())][-1]
    process.wait()
    process.stdout.close()
    store = SqliteStore(path)
    item = await store.get("n")
    assert item is not None
    assert int(item.value) >= acknowledged
    await store.close()


async def test_a_second_process_is_refused_by_name(path):
    store = SqliteStore(path)
    program = "import sys; from modelmesh.adapters.store.sqlite import SqliteStore; SqliteStore(sys.argv[1])"
    second = await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, stderr=asyncio.subprocess.PIPE)
    _, errors = await second.communicate()
    assert second.returncode != 0
    assert f"{path} is in use by another instance; stop that one" in errors.decode()
    with pytest.raises(StoreFileError, match="in use"):
        SqliteStore(path)
    await put(store, "a")
    await store.close()
    store = SqliteStore(path)
    assert await store.get("a") is not None
    await store.close()


async def test_a_file_of_another_version_is_left_as_it_is(path):
    store = SqliteStore(path)
    await put(store, "a")
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = bytes_of(path)
    with pytest.raises(StoreFileError, match=r"has format 99, .* reads format 1; use the version that wrote it"):
        SqliteStore(path)
    assert bytes_of(path) == before


async def test_another_programs_database_is_left_as_it_is(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE keys (a)")
        connection.commit()
    before = bytes_of(path)
    with pytest.raises(StoreFileError, match="another program"):
        SqliteStore(path)
    assert bytes_of(path) == before


def test_a_file_that_is_no_database_is_left_as_it_is(path):
    Path(path).write_text("Dear diary, this is not a database at all.\n" * 100)
    before = bytes_of(path)
    with pytest.raises(StoreFileError, match="is no store file"):
        SqliteStore(path)
    assert bytes_of(path) == before


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StoreFileError, match=r"nowhere/store.* does its folder exist"):
        SqliteStore(str(tmp_path / "nowhere" / "store"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreFileError):
        SqliteStore(str(tmp_path / "store"))


async def test_history_is_bounded_and_what_is_dropped_is_compacted(path):
    store = SqliteStore(path, history_revisions=100)
    first = await put(store, "a")
    for i in range(1_500):
        last = await put(store, "n", str(i).encode())
    with pytest.raises(CompactedError):
        await store.range("", revision=first)
    kept = Revision(last - 100)
    assert (await store.range("n", revision=kept)).items[0].mod_revision == kept
    await store.close()
    store = SqliteStore(path, history_revisions=100)
    with pytest.raises(CompactedError):
        await anext(store.watch("", start=first))
    watch = store.watch("", start=kept)
    assert (await anext(watch))[0].item.mod_revision == kept
    await watch.aclose()
    await store.close()


@pytest.mark.parametrize("where", ["file", "memory"])
async def test_a_watch_that_falls_far_behind_catches_up_without_gaps(path, where):
    """Beyond what is kept in memory it reads the file; it must not notice the difference."""
    store = SqliteStore(path if where == "file" else MEMORY)
    start = await put(store, "n", b"start")
    watch = store.watch("", start=start)
    seen = [change.item.mod_revision for change in await anext(watch)]
    for _ in range(200):
        result = await store.transact(Transaction((), tuple(Put(f"k/{i}") for i in range(100))))
    while seen[-1] < result.revision:
        seen += [change.item.mod_revision for change in await anext(watch)]
    await watch.aclose()
    assert seen == [start, *(start + 1 + i for i in range(200) for _ in range(100))]
    await store.close()


async def test_sixteen_callers_share_commits(path, monkeypatch):
    """The thread is held up until all have asked; then one commit serves them."""
    store = SqliteStore(path)
    start = await put(store, "start")
    commits = []
    commit = Tables.commit
    monkeypatch.setattr(Tables, "commit", lambda tables: commits.append(tables.revision) or commit(tables))
    held = threading.Event()
    store._jobs.put((lambda _: held.wait(5), asyncio.get_running_loop().create_future()))  # type: ignore[union-attr]
    writing = [asyncio.ensure_future(put(store, f"k/{i}")) for i in range(16)]
    await asyncio.sleep(0)
    held.set()
    assert sorted(await asyncio.gather(*writing)) == [start + 1 + i for i in range(16)]
    assert len(commits) <= 2
    assert commits[-1] == start + 16
    await store.close()


async def test_a_caller_that_gives_up_harms_nobody(path):
    store = SqliteStore(path)
    tasks = [asyncio.ensure_future(put(store, f"k/{i}")) for i in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await put(store, "after") > 0
    assert len((await store.range("k/")).items) >= 10
    await store.close()


async def test_a_disk_that_hangs_is_unavailable_and_then_catches_up(path, monkeypatch):
    monkeypatch.setattr("modelmesh.adapters.store.sqlite.TIMEOUT_S", 0.05)
    store = SqliteStore(path)
    store._jobs.put((lambda _: time.sleep(0.3), asyncio.get_running_loop().create_future()))  # type: ignore[union-attr]
    with pytest.raises(StoreUnavailableError, match="did not answer within"):
        await put(store, "a")
    monkeypatch.setattr("modelmesh.adapters.store.sqlite.TIMEOUT_S", 3.5)
    await put(store, "b")
    assert [item.key for item in (await store.range("")).items] == ["a", "b"]
    await store.close()


@pytest.mark.parametrize("where", ["file", "memory"])
async def test_a_write_that_fails_leaves_no_trace(path, where, monkeypatch):
    """The disk is full at commit: the caller learns it, no revision is used up, no watch hears of it."""
    store = SqliteStore(path if where == "file" else MEMORY)
    before = await put(store, "a")
    lease = await store.grant(10_000)
    await put(store, "leased", lease=lease)

    def full(_self):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("modelmesh.adapters.store.sqlite_tables.Tables.commit", full)
    with pytest.raises(StoreUnavailableError, match="disk is full"):
        await put(store, "b")
    with pytest.raises(StoreUnavailableError, match="disk is full"):
        await store.revoke(lease)
    monkeypatch.undo()
    await store.keep_alive(lease)
    assert await put(store, "c") == before + 2
    assert [item.key for item in (await store.range("")).items] == ["a", "c", "leased"]
    await store.close()


async def test_in_memory_a_call_is_done_when_it_returns():
    """No call gives up the event loop, so the order of calls is the order of everything."""
    store = SqliteStore(MEMORY)
    coroutine = store.transact(Transaction((), (Put("a"),)))
    with pytest.raises(StopIteration):
        coroutine.send(None)
    await store.close()


async def test_leases_run_out_only_when_asked_to():
    patient, strict = SqliteStore(MEMORY), SqliteStore(MEMORY, expires_leases=True)
    for store in (patient, strict):
        await put(store, "a", lease=await store.grant(20))
    kept = await strict.grant(10_000)
    await put(strict, "b", lease=kept)
    watch = strict.watch("a", start=Revision(3))
    assert [change.kind.value for change in (await anext(watch))] == ["delete"]
    await watch.aclose()
    assert [item.key for item in (await strict.range("")).items] == ["b"]
    assert [item.key for item in (await patient.range("")).items] == ["a"]
    await strict.expire(kept)
    with pytest.raises(LeaseNotFoundError):
        await strict.keep_alive(kept)
    await patient.close()
    await strict.close()


async def test_keeping_a_lease_alive_moves_its_end():
    store = SqliteStore(MEMORY, expires_leases=True)
    lease = await store.grant(100)
    await put(store, "a", lease=lease)
    for _ in range(4):
        await asyncio.sleep(0.05)
        await store.keep_alive(lease)
    assert await store.get("a") is not None
    await store.close()


async def test_an_emptied_store_starts_again_and_old_watches_stay_silent():
    store = SqliteStore(MEMORY)
    lease = await store.grant(10_000)
    for _ in range(5):
        last = await put(store, "a", lease=lease)
    watch = store.watch("", start=Revision(last + 1))
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await store.empty()
    assert (await store.range("")) == (await store.range("", revision=Revision(1)))
    with pytest.raises(LeaseNotFoundError):
        await store.keep_alive(lease)
    assert await put(store, "b") == 2
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    fresh = store.watch("", start=Revision(1))
    assert [change.item.key for change in await anext(fresh)] == ["b"]
    await store.close()


async def test_the_same_calls_give_the_same_store(path):
    """A hundred mixed operations on a file and in memory leave the same keys and the same history."""

    async def drive(store: SqliteStore):
        lease = await store.grant(10_000)
        for i in range(100):
            key = f"k/{i * 7 % 13}"
            await store.transact(
                Transaction(
                    (Compare(key, "version", "<", 3),),
                    (Put(key, str(i).encode(), lease if i % 2 else 0),),
                    (Delete(key),),
                )
            )
        await store.revoke(lease)
        watch = store.watch("", start=Revision(1))
        changes = [change async for batch in _until(watch, (await store.range("")).revision) for change in batch]
        answer = (await store.range("")).items, changes
        await store.close()
        return answer

    assert await drive(SqliteStore(path)) == await drive(SqliteStore(MEMORY))


async def _until(watch, revision):
    async with contextlib.aclosing(watch):
        async for batch in watch:
            yield batch
            if batch[-1].item.mod_revision >= revision:
                return
