"""An instance whose watch fell behind lists again: everything that the watch feeds is as the store has it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.control.view.observe import Observer
from modelmesh.ports import Delete, Put, Store, StoreUnavailableError, Transaction, TransactionResult
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance, register, set_vmodel, unregister
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import ModelId, Revision, VModelId
from modelmesh.values.status import Status

CONFIG = f"{KEYS.config}scaleup_rpm_threshold"


class Lagging:
    """`a` sees everything; `b` loses the store, and comes back when its watch is past what is kept."""

    def __init__(self) -> None:
        self.memory = SqliteStore(":memory:", expires_leases=True)
        self.cut_off = FaultyStore(self.memory, VirtualClock())
        self.cluster = SimulatedCluster(seed=1, store=self.memory)
        self.a: SimulatedInstance
        self.b: SimulatedInstance

    async def begin(self) -> None:
        self.a = await self.cluster.add("a")
        self.b = await self.cluster.add("b", store=self.cut_off)
        for model in ("old", "new"):
            await register(self.a, model, path="first")

    async def put(self, key: str, value: bytes) -> None:
        await self.memory.transact(Transaction(compares=(), then=(Put(key, value),)))

    async def delete(self, key: str) -> None:
        await self.memory.transact(Transaction(compares=(), then=(Delete(key),)))

    async def answered(self, name: str, *, vmodel: bool = True) -> object:
        answer = await self.cluster.call(name, via="b", vmodel=vmodel)
        assert answer.status is Status.OK, answer
        assert isinstance(answer.payload, tuple)
        return answer.payload[0]

    async def behind(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(1)
        self.cut_off.pause()
        await meanwhile()
        await asyncio.sleep(4)
        await self.cut_off.compact()
        self.cut_off.break_watches()
        self.cut_off.resume()
        await asyncio.sleep(5)
        relisted = {event.instance for event in self.cluster.story if event.kind == "store_compacted"}
        assert relisted == {"b"}, "nothing was listed again"


def lagging(play: Callable[[Lagging], Awaitable[None]]) -> None:
    async def main() -> None:
        world = Lagging()
        await world.begin()
        await play(world)
        await world.cluster.stop()

    run_virtual(main())


def test_a_vmodel_that_moved_meanwhile() -> None:
    async def play(world: Lagging) -> None:
        await set_vmodel(world.a, "name", "old")
        assert await world.answered("name") == "old"
        await world.behind(lambda: set_vmodel(world.a, "name", "new"))
        assert await world.answered("name") == "new"

    lagging(play)


def test_a_vmodel_that_was_deleted_meanwhile() -> None:
    async def play(world: Lagging) -> None:
        await set_vmodel(world.a, "name", "old")
        assert await world.answered("name") == "old"
        await world.behind(lambda: world.delete(KEYS.vmodel(VModelId("name"))))
        assert (await world.cluster.call("name", via="b", vmodel=True)).status is Status.NOT_FOUND

    lagging(play)


def test_whoever_waits_for_a_vmodel_to_change_is_woken() -> None:
    async def play(world: Lagging) -> None:
        await set_vmodel(world.a, "name", "old")
        assert await world.answered("name") == "old"
        waiting = world.b.plane.vmodels.next_change(VModelId("name"))
        await world.behind(lambda: set_vmodel(world.a, "name", "new"))
        assert waiting.done()

    lagging(play)


def test_a_setting_that_was_deleted_meanwhile() -> None:
    async def play(world: Lagging) -> None:
        default = world.b.plane.scaler.limits.rate
        await world.put(CONFIG, b"777")
        await asyncio.sleep(1)
        assert world.b.plane.scaler.limits.rate == 777
        await world.behind(lambda: world.delete(CONFIG))
        assert world.b.plane.scaler.limits.rate == default

    lagging(play)


def test_a_model_that_is_remembered_and_was_registered_again_meanwhile() -> None:
    """Its record was read for a call, and its copy is elsewhere: nobody tells `b` but the listing."""

    async def play(world: Lagging) -> None:
        assert await world.answered("old", vmodel=False) == "old"
        await world.b.plane.models.get(ModelId("old"))

        async def again() -> None:
            await unregister(world.a, "old")
            await register(world.a, "old", path="second")

        await world.behind(again)
        cached = world.b.plane.models.cached(ModelId("old"))
        assert cached is None or cached.record.path == "second"

    lagging(play)


def test_a_model_that_is_held_and_was_unregistered_meanwhile_answers_nothing_once_the_view_is_there() -> None:
    async def play(world: Lagging) -> None:
        registered = await world.b.plane.models.get(ModelId("old"))
        assert registered is not None
        await world.b.plane.requests.ensure(ModelId("old"), registered, last_use_ms=1, sync=True, balanced=True)
        assert world.cluster.holders("old") == ["b"]
        seen: list[bool] = []
        before = world.b.plane.state.load

        def load(*args: object, **named: object) -> object:
            changed = before(*args, **named)
            asyncio.get_running_loop().call_soon(
                lambda: seen.append(world.b.plane.cache.copy(ModelId("old")) is not None)
            )
            return changed

        world.b.plane.state.load = load
        await world.behind(lambda: unregister(world.a, "old"))
        assert seen == [False]

    lagging(play)


class Overtaken(FaultyStore):
    """Its reads can be answered late, while its watch is not: they travel apart."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, VirtualClock())
        self.late: asyncio.Event | None = None

    async def transact(self, transaction: Transaction) -> TransactionResult:
        result = await super().transact(transaction)
        if self.late is not None and transaction.then and not isinstance(transaction.then[0], Put | Delete):
            await self.late.wait()
        return result


def test_a_record_that_was_read_before_a_change_and_came_after_it_is_not_remembered() -> None:
    """1. the record is read; 2. it changes, and the watch says so; 3. the answer of the read comes."""

    async def main() -> None:
        memory = SqliteStore(":memory:", expires_leases=True)
        store = Overtaken(memory)
        cluster = SimulatedCluster(seed=1, store=memory)
        a, b = await cluster.add("a"), await cluster.add("b", store=store)
        for model in ("old", "new"):
            await register(a, model)
        await set_vmodel(a, "name", "old")
        await asyncio.sleep(1)
        store.late = asyncio.Event()
        call = asyncio.create_task(cluster.call("name", via="b", vmodel=True))
        await asyncio.sleep(0.1)
        await set_vmodel(a, "name", "new")
        await asyncio.sleep(0.1)
        store.late.set()
        store.late = None
        answer = await call
        assert answer.payload is not None
        assert (await cluster.call("name", via="b", vmodel=True)).payload[0] == "new"
        cached = b.plane.vmodel_records.cached(VModelId("name"))
        assert cached is not None
        assert cached.record.active == "new"
        await cluster.stop()

    run_virtual(main())


def test_another_store_that_cannot_be_listed_at_once_is_listed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was met, and the listing after that failed: what is known must not stay that of the old store."""
    failures: Iterator[bool] = iter([True])
    listing = Observer._list

    async def fail_once(self: Observer, **named: bool) -> None:
        if named.get("replaced") and next(failures, False):
            raise StoreUnavailableError("not now")
        await listing(self, **named)

    async def main() -> None:
        memory = SqliteStore(":memory:", expires_leases=True)
        store = FaultyStore(memory, VirtualClock())
        cluster = SimulatedCluster(seed=1, store=store)
        a = await cluster.add("a")
        for number in range(200):
            await register(a, f"m-{number}")
        monkeypatch.setattr(Observer, "_list", fail_once)
        await store.empty()
        store.break_watches()
        await asyncio.sleep(10)
        now = (await memory.range(KEYS.base)).revision
        assert a.plane.state.revision == now > Revision(0)
        await cluster.stop()

    run_virtual(main())
