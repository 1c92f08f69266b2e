"""Keys and copies that somebody drove apart come together again: simulated clusters."""

import asyncio

from modelmesh.ports import Delete, Put, Transaction
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.records import CopyRecord, CopyState


def test_a_key_that_nobody_stands_behind_goes_within_seconds() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        try:
            a = await cluster.add("a")
            await cluster.add("b")
            await register(a, "m")
            record = CopyRecord(CopyState.LOADED, 1, LoadId(7), 100, Revision(0))
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
