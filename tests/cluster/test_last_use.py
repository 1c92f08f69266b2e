"""A record says when its model was last used, without a write per use. Simulated clusters."""

import asyncio

from modelmesh.testing.clock import EPOCH_MS, VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.values.ids import ModelId
from modelmesh.values.records import ModelRecord

HOUR_MS = 3_600_000


async def record(cluster: SimulatedCluster, model: str) -> ModelRecord:
    item = await cluster.store.get(KEYS.model(ModelId(model)))
    assert item is not None
    return ModelRecord.decode(item.value)


def test_a_model_in_use_is_written_every_few_hours() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        try:
            a = await cluster.add("a")
            await register(a, "m")
            registered_ms = (await record(cluster, "m")).last_use_ms
            written = {registered_ms}
            for _ in range(9):
                await cluster.call("m", via="a")
                # Records are looked at once a minute. The rest of the hour the clock is put forward by.
                await asyncio.sleep(120)
                written.add((await record(cluster, "m")).last_use_ms)
                a.set_skew(a.clock.skew_ms + HOUR_MS - 120_000)
            # Registered as used six hours ago, so written once within an hour, and once more within seven.
            assert len(written) == 3
            assert a.clock.now_ms() - max(written) < 8 * HOUR_MS
        finally:
            await cluster.stop()

    run_virtual(main())


def test_an_eviction_writes_the_last_use() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        try:
            a = await cluster.add("a")
            for number in range(11):
                await register(a, f"m{number}")
                await cluster.call(f"m{number}", via="a")
                await asyncio.sleep(10)
            gone = next(f"m{number}" for number in range(11) if not cluster.holders(f"m{number}"))
            used = await record(cluster, gone)
            assert EPOCH_MS <= used.last_use_ms <= VirtualClock().now_ms()
            assert used.last_unload_ms == 0  # as the old system: only where several copies remain
        finally:
            await cluster.stop()

    run_virtual(main())
