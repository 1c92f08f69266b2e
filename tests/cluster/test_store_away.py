"""Whether an instance stays ready while it has no store: simulated clusters."""

import asyncio

from modelmesh.policy.readiness import STORE_AWAY_MS, ReadinessReason
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.testing.store import FaultyStore
from modelmesh.values.status import Status

LEASE_S = 10


def test_an_instance_that_alone_lost_the_store_is_not_ready_until_it_is_back() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        try:
            store = FaultyStore(cluster.store, VirtualClock())
            a, b = await cluster.add("a", store=store), await cluster.add("b")
            await register(a, "m")
            await cluster.call("m", via="a")
            store.pause()
            await asyncio.sleep(LEASE_S)
            assert a.plane.readiness() is ReadinessReason.READY, "the store may only have restarted"
            await asyncio.sleep(STORE_AWAY_MS / 1000 + LEASE_S)
            assert a.plane.readiness() is ReadinessReason.STORE_AWAY
            assert b.plane.readiness() is ReadinessReason.READY
            assert (await cluster.call("m", via="a")).status is Status.OK, "what is loaded is served all the same"
            store.resume()
            await asyncio.sleep(LEASE_S)
            assert a.plane.readiness() is ReadinessReason.READY
        finally:
            await cluster.stop()

    run_virtual(main())


def test_instances_that_lost_the_store_together_stay_ready() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        try:
            stores = [FaultyStore(cluster.store, VirtualClock()) for _ in "ab"]
            instances = [await cluster.add(name, store=store) for name, store in zip("ab", stores, strict=True)]
            for store in stores:
                store.pause()
            await asyncio.sleep(120)
            assert [instance.plane.readiness() for instance in instances] == [ReadinessReason.READY] * 2
        finally:
            await cluster.stop()

    run_virtual(main())
