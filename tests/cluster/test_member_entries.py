"""An instance writes its entry when others would decide differently, and else seldom. Simulated clusters."""

import asyncio

from cluster_stories import play

from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.values.ids import InstanceId


def test_an_idle_copy_costs_an_entry_at_times() -> None:
    """What it is worth falls all the time."""

    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances["a"], "m")
        await cluster.call("m", via="a")
        written = set()
        for _ in range(600):
            await asyncio.sleep(1)
            entry = await cluster.store.get(KEYS.member(InstanceId("a")))
            assert entry is not None
            written.add(entry.mod_revision)
        assert len(written) <= 600 / 15

    play(story, names="a")
