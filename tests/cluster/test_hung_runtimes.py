"""A runtime that takes calls and answers none: nobody waits for it without end, and that is said."""

import asyncio

from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

M = ModelId("m")


def test_an_unload_that_hangs_is_told_of_and_tried_again_and_callers_go_elsewhere() -> None:
    """It kept the copy, its bytes and all who wanted the model back, for ever and without a word."""

    async def main() -> None:
        cluster = SimulatedCluster()
        a = await cluster.add("a")
        await register(a, "m", load=True)
        await asyncio.sleep(1)
        a.runtime.hung.add("unload")
        a.plane.cache.key_deleted(M, a.plane.state.revision)
        await asyncio.sleep(1)
        await cluster.add("b")
        began_ms = a.clock.monotonic_ms()
        answer = await cluster.call("m", via="a", timeout_ms=120_000)
        assert answer.status is Status.OK
        assert answer.served_by == "b"
        assert a.clock.monotonic_ms() - began_ms < 20_000
        await asyncio.sleep(300)
        failed = [event for event in cluster.story if event.kind == "unload_failed"]
        assert len(failed) >= 2
        assert failed[0].reason == "deadline_exceeded"
        assert a.runtime.counts["unload"] >= 3
        a.runtime.hung.clear()
        await asyncio.sleep(120)
        assert M not in a.plane.cache.states()
        assert a.plane.cache.ledger.used_bytes == 0
        await cluster.stop()

    run_virtual(main())


def test_a_status_and_a_size_that_are_not_answered_are_asked_again() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        a = await cluster.add("a")
        await register(a, "m")
        a.runtime.answers_size = False
        a.runtime.hung |= {"measure_size", "predict_size"}
        assert (await cluster.call("m", via="a")).status is Status.OK
        await asyncio.sleep(31)
        assert any(event.kind == "not_measured" for event in cluster.story)
        a.runtime.hung = {"status"}
        a.runtime.restart()
        a.dataplane.runtime_link(up=False)
        a.dataplane.runtime_link(up=True)
        await asyncio.sleep(60)
        assert a.runtime.counts["status"] >= 3
        a.runtime.hung.clear()
        await asyncio.sleep(15)
        assert (await cluster.call("m", via="a")).status is Status.OK
        await cluster.stop()

    run_virtual(main())
