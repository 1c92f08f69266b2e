"""Keys and copies that somebody drove apart come together again: simulated clusters."""

import asyncio

from modelmesh.ports import Delete, Put, Transaction, TransactionResult
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import CopyRecord, CopyState, FailureKind, FailureRecord


def test_a_key_that_nobody_stands_behind_goes_within_seconds() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        try:
            a = await cluster.add("a")
            await cluster.add("b")
            await register(a, "m")
            record = CopyRecord(CopyState.LOADED, 1, LoadId(7), Memory(100), Revision(0))
            key = KEYS.copy(ModelId("m"), InstanceId("a"))
            await cluster.store.transact(Transaction((), then=(Put(key, record.encode(), a.plane.membership.lease),)))
            await asyncio.sleep(25)
            assert await cluster.store.get(key) is None
            assert [event.model for event in cluster.story if event.kind == "orphan_key"] == ["m"]
        finally:
            await cluster.stop()

    run_virtual(main())


def test_deleting_a_key_by_hand_unloads_and_deleting_it_unseen_lists_it_again() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        try:
            a = await cluster.add("a")
            await register(a, "m")
            await cluster.call("m", via="a")
            await asyncio.sleep(1)
            key = KEYS.copy(ModelId("m"), InstanceId("a"))
            await cluster.store.transact(Transaction((), then=(Delete(key),)))
            await asyncio.sleep(1)
            assert cluster.holders("m") == []  # an order to unload
            await cluster.call("m", via="a")
            await asyncio.sleep(1)
            a.plane.cache.key_deleted = lambda *_: None  # type: ignore[method-assign]  # the order is not heard
            await cluster.store.transact(Transaction((), then=(Delete(key),)))
            await asyncio.sleep(25)
            assert await cluster.store.get(key) is not None
            assert cluster.holders("m") == ["a"]
        finally:
            await cluster.stop()

    run_virtual(main())


def test_failures_of_models_that_are_gone_are_removed_by_few_transactions_however_many_there_are() -> None:
    """Up to 64 transactions in a row held up the leader's round, and they were always about the same 64 models."""

    async def main() -> None:
        cluster = SimulatedCluster()
        try:
            store = FaultyStore(cluster.store, VirtualClock())
            a = await cluster.add("a", store=store)
            until_ms = a.clock.now_ms() + 3_600_000
            failure = FailureRecord(FailureKind.BAD_MODEL, "no", 1, a.clock.now_ms(), until_ms, Revision(1)).encode()
            kept, gone = [f"kept{number:03}" for number in range(80)], [f"gone{number:03}" for number in range(40)]
            for model in kept:
                await register(a, model)
            for model in [*kept, *gone]:
                key = KEYS.failure(ModelId(model), InstanceId("x"))
                await cluster.store.transact(Transaction((), then=(Put(key, failure),)))
            sent = []
            transact = store.transact

            async def counted(transaction: Transaction) -> TransactionResult:
                sent.append(transaction)
                return await transact(transaction)

            store.transact = counted  # type: ignore[method-assign]
            await asyncio.sleep(30)
            left = await cluster.store.range(KEYS.failures)
            assert [item.key for item in left.items] == [KEYS.failure(ModelId(m), InstanceId("x")) for m in kept]
            assert len(sent) <= 10
        finally:
            await cluster.stop()

    run_virtual(main())
