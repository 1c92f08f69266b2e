"""Leases and watches: what every store promises of them, tried on each."""

import asyncio
import contextlib

import pytest
from store_operations import collect, keys_of, put, run, shown

from modelmesh.adapters.store.etcd import EtcdStore
from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.ports import (
    Change,
    ChangeKind,
    CompactedError,
    Delete,
    KeyValue,
    LeaseNotFoundError,
    Put,
    Store,
    StoreUnavailableError,
    Transaction,
)
from modelmesh.values.ids import Revision

# --- leases ---


async def test_revoking_a_lease_deletes_its_keys_in_one_revision(store: Store):
    lease = await store.grant(10_000)
    assert lease > 0
    await run(store, Put("copies/1", lease=lease), Put("copies/2", lease=lease), Put("registry/1"))
    before = await put(store, "members/i", lease=lease)
    item = await store.get("members/i")
    assert item is not None
    assert item.lease == lease
    await store.revoke(lease)
    assert await keys_of(store, "") == ["registry/1"]
    (changes,) = await collect(store.watch("", start=Revision(before + 1)), 3)
    assert sorted(shown(changes)) == [
        ("delete", "copies/1", b""),
        ("delete", "copies/2", b""),
        ("delete", "members/i", b""),
    ]
    assert {change.item.mod_revision for change in changes} == {before + 1}


async def test_a_lease_is_kept_alive_until_it_is_revoked(store: Store):
    lease = await store.grant(10_000)
    await store.keep_alive(lease)
    await store.keep_alive(lease)
    await store.revoke(lease)
    with pytest.raises(LeaseNotFoundError):
        await store.keep_alive(lease)
    await store.revoke(lease)


async def test_leases_are_distinct(store: Store):
    leases = await asyncio.gather(*(store.grant(10_000) for _ in range(10)))
    assert len(set(leases)) == 10
    await put(store, "a", lease=leases[0])
    await store.revoke(leases[1])
    assert await keys_of(store, "") == ["a"]


async def test_a_put_under_a_lease_that_is_gone_writes_nothing_at_all(store: Store):
    gone, alive = await store.grant(10_000), await store.grant(10_000)
    await store.revoke(gone)
    with pytest.raises(LeaseNotFoundError):
        await run(store, Put("a"), Put("b", lease=alive), Transaction((), (Put("c", lease=gone),)))
    with pytest.raises(LeaseNotFoundError):
        await run(store, Put("d", lease=gone))
    assert await keys_of(store, "") == []


async def test_a_put_without_its_lease_takes_the_key_out_of_it(store: Store):
    lease = await store.grant(10_000)
    await put(store, "a", lease=lease)
    await put(store, "b", lease=lease)
    await run(store, Put("a", keep_value=True))
    await store.revoke(lease)
    assert await keys_of(store, "") == ["a"]


async def test_a_key_moves_to_another_lease(store: Store):
    old, new = await store.grant(10_000), await store.grant(10_000)
    await put(store, "a", lease=old)
    await put(store, "a", lease=new)
    await store.revoke(old)
    assert await keys_of(store, "") == ["a"]
    await store.revoke(new)
    assert await keys_of(store, "") == []


# --- watching ---


async def test_a_watch_tells_the_past_and_then_the_present(store: Store):
    first = await put(store, "p/1", b"1")
    await put(store, "q/1")
    await run(store, Delete("p/1"), Put("p/2", b"2"))
    watch = store.watch("p/", start=first)
    seen: list[Change] = []
    async with contextlib.aclosing(watch):  # type: ignore[type-var]
        while len(seen) < 3:
            seen += await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await put(store, "q/2")
        last = await put(store, "p/3", b"3")
        seen += await waiting
    assert shown(seen[:1]) == [("put", "p/1", b"1")]
    assert sorted(shown(seen[1:3])) == [("delete", "p/1", b""), ("put", "p/2", b"2")]
    assert seen[3] == Change(ChangeKind.PUT, KeyValue("p/3", b"3", last, last, 1))
    assert [change.item.mod_revision for change in seen] == [first, first + 2, first + 2, last]


async def test_a_watch_may_start_in_the_future(store: Store):
    now = await put(store, "a")
    watching = asyncio.ensure_future(collect(store.watch("", start=Revision(now + 2)), 1))
    await asyncio.sleep(0)
    await put(store, "b")
    await put(store, "c")
    assert shown((await watching)[0]) == [("put", "c", b"v")]


async def test_a_batch_holds_whole_revisions_only(store: Store):
    """Many revisions of many keys each, watched late and watched live: no revision is ever split."""
    start = (await put(store, "start")) + 1

    async def write() -> None:
        for i in range(60):
            await run(store, *(Put(f"p/{j}", f"{i}".encode() * 20) for j in range(50)))

    live = asyncio.ensure_future(collect(store.watch("p/", start=Revision(start)), 3000))
    await write()
    for batches in (await live, await collect(store.watch("p/", start=Revision(start)), 3000)):
        revisions = [[change.item.mod_revision for change in batch] for batch in batches]
        assert [r for batch in revisions for r in batch] == [start + i for i in range(60) for _ in range(50)]
        for batch in revisions:
            assert all(batch.count(revision) == 50 for revision in dict.fromkeys(batch))


async def test_many_watches_each_see_their_prefix(store: Store):
    start = Revision((await put(store, "start")) + 1)
    watching = [asyncio.ensure_future(collect(store.watch(f"p/{i}/", start=start), 2)) for i in range(20)]
    await asyncio.sleep(0)
    for j in range(2):
        for i in range(20):
            await put(store, f"p/{i}/{j}")
    for i, batches in enumerate(await asyncio.gather(*watching)):
        assert [change.item.key for batch in batches for change in batch] == [f"p/{i}/0", f"p/{i}/1"]


async def test_what_is_compacted_is_an_error_and_what_is_not_is_there(store: SqliteStore | EtcdStore):
    first = await put(store, "a", b"1")
    await put(store, "a", b"2")
    await run(store, Put("a", b"3"), Put("b", b"v"))
    at = await put(store, "a", b"4")
    await store.compact(at)
    await put(store, "a", b"5")
    with pytest.raises(CompactedError):
        await collect(store.watch("", start=first), 1)
    with pytest.raises(CompactedError):
        await store.range("", revision=first)
    assert [item.value for item in (await store.range("", revision=at)).items] == [b"4", b"v"]
    assert shown((await collect(store.watch("", start=Revision(at + 1)), 1))[0]) == [("put", "a", b"5")]


async def test_a_revision_that_has_not_been_is_not_kept_either(store: Store):
    now = await put(store, "a")
    for revision in (now + 100, 0):
        with pytest.raises(CompactedError):
            await store.range("", revision=Revision(revision))


async def test_closing_ends_watches_and_refuses_calls(store: Store):
    now = await put(store, "a")
    watch = store.watch("", start=now)
    await anext(watch)
    watching = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await watching
    with pytest.raises(StoreUnavailableError):
        await store.get("a")
    with pytest.raises(StoreUnavailableError):
        await collect(store.watch("", start=now), 1)
