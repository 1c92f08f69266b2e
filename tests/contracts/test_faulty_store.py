"""The faults of the store that tests and the simulator use."""

import asyncio
import heapq
import itertools

import pytest

from modelmesh.adapters.store.sqlite import MEMORY, SqliteStore
from modelmesh.ports import CompactedError, LeaseNotFoundError, Put, StoreUnavailableError, Transaction
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import Revision


class ManualClock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.ms = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep(self, ms: int) -> None:
        if ms <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.ms + ms, next(self._order), future))
        await future

    async def advance(self, ms: int) -> None:
        until = self.ms + ms
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            self.ms, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle()
        self.ms = until


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def inner():
    store = SqliteStore(MEMORY)
    yield store
    await store.close()


@pytest.fixture
def faulty(inner, clock) -> FaultyStore:
    return FaultyStore(inner, clock)


def put(store, key: str, lease: int = 0):
    return store.transact(Transaction((), (Put(key, b"v", lease),)))


async def test_without_faults_it_is_the_store_inside(faulty, inner):
    result = await put(faulty, "a")
    assert await faulty.get("a") == await inner.get("a")
    assert (await faulty.range("")).items == (await inner.range("")).items
    watch = faulty.watch("", start=result.revision)
    assert [change.item.key for change in await anext(watch)] == ["a"]
    await watch.aclose()
    lease = await faulty.grant(1000)
    await faulty.keep_alive(lease)
    await faulty.revoke(lease)


async def test_a_paused_store_fails_every_call_after_the_timeout_and_does_nothing(faulty, inner, clock):
    lease = await faulty.grant(1000)
    faulty.pause()
    calls = [
        asyncio.ensure_future(call)
        for call in (
            faulty.get("a"),
            faulty.range(""),
            put(faulty, "a"),
            faulty.grant(1000),
            faulty.keep_alive(lease),
            faulty.revoke(lease),
            anext(faulty.watch("", start=Revision(1))),
        )
    ]
    await clock.advance(3_499)
    assert not any(call.done() for call in calls)
    await clock.advance(1)
    for call in calls:
        with pytest.raises(StoreUnavailableError):
            await call
    faulty.resume()
    assert await inner.get("a") is None
    await faulty.keep_alive(lease)


async def test_a_watch_survives_a_short_pause_and_not_a_long_one(faulty, inner, clock):
    watch = faulty.watch("", start=Revision(1))
    waiting = asyncio.ensure_future(anext(watch))
    await settle()
    faulty.pause()
    await put(inner, "a")
    await clock.advance(3_000)
    assert not waiting.done()
    faulty.resume()
    assert [change.item.key for change in await waiting] == ["a"]
    waiting = asyncio.ensure_future(anext(watch))
    await settle()
    faulty.pause()
    await put(inner, "b")
    await clock.advance(3_500)
    with pytest.raises(StoreUnavailableError):
        await waiting


async def test_lag_delays_each_change_by_the_same_time(faulty, inner, clock):
    faulty.watch_lag_ms = 100
    seen: list[tuple[int, str]] = []

    async def watch() -> None:
        async for batch in faulty.watch("", start=Revision(1)):
            seen.extend((clock.ms, change.item.key) for change in batch)

    watching = asyncio.ensure_future(watch())
    await settle()
    for key in ("a", "b", "c"):
        await put(inner, key)
        await clock.advance(10)
    await clock.advance(1_000)
    assert seen == [(100, "a"), (110, "b"), (120, "c")]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_latency_comes_before_the_call_is_performed(faulty, inner, clock):
    faulty.latency_ms = 50
    call = asyncio.ensure_future(put(faulty, "a"))
    await clock.advance(49)
    assert await inner.get("a") is None
    await clock.advance(1)
    assert (await call).succeeded


async def test_a_lost_answer_is_of_a_call_that_happened(faulty, inner, clock):
    faulty.loses_answers = True
    call = asyncio.ensure_future(put(faulty, "a"))
    await clock.advance(3_500)
    with pytest.raises(StoreUnavailableError):
        await call
    assert await inner.get("a") is not None


async def test_broken_watches_can_be_opened_again_where_they_were(faulty, inner):
    watch = faulty.watch("", start=Revision(1))
    waiting = asyncio.ensure_future(anext(watch))
    await settle()
    faulty.break_watches()
    with pytest.raises(StoreUnavailableError):
        await waiting
    result = await put(inner, "a")
    assert [change.item.key for change in await anext(faulty.watch("", start=result.revision))] == ["a"]


async def test_compaction_is_seen_by_new_watches_and_listings_only(faulty, inner):
    first = (await put(faulty, "a")).revision
    watch = faulty.watch("", start=first)
    await anext(watch)
    last = (await put(faulty, "b")).revision
    await faulty.compact()
    assert [change.item.key for change in await anext(watch)] == ["b"]
    await watch.aclose()
    with pytest.raises(CompactedError):
        await anext(faulty.watch("", start=last))
    with pytest.raises(CompactedError):
        await faulty.range("", revision=first)
    assert len((await faulty.range("", revision=last)).items) == 2


async def test_only_leases_granted_here_run_out(faulty, inner, clock):
    other = FaultyStore(inner, clock)
    mine, others = await faulty.grant(10_000), await other.grant(10_000)
    await put(faulty, "mine", mine)
    await put(other, "others", others)
    await faulty.expire_leases()
    assert [item.key for item in (await inner.range("")).items] == ["others"]
    with pytest.raises(LeaseNotFoundError):
        await faulty.keep_alive(mine)
    await other.keep_alive(others)


async def test_an_emptied_store_is_empty_for_all(faulty, inner, clock):
    other = FaultyStore(inner, clock)
    for _ in range(5):
        await put(faulty, "a")
    await faulty.empty()
    assert await other.get("a") is None
    assert (await put(other, "a")).revision == 2


async def test_one_instance_is_cut_off_alone(inner, clock):
    cut, fine = FaultyStore(inner, clock), FaultyStore(inner, clock)
    cut.pause()
    await put(fine, "a")
    call = asyncio.ensure_future(cut.get("a"))
    await clock.advance(3_500)
    with pytest.raises(StoreUnavailableError):
        await call
