"""A runtime that takes calls and answers none: nobody waits for it without end, and that is said."""

import asyncio

from modelmesh.policy.readiness import ReadinessReason
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import RuntimeInfer, SimulatedCluster, SimulatedInstance, infer_after, register
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import Memory
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
        assert a.plane.cache.ledger.used == Memory(0)
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


async def two_copies(
    cluster: SimulatedCluster, infer: RuntimeInfer | None = None
) -> tuple[SimulatedInstance, SimulatedInstance]:
    """Two instances with a copy of "m" each."""
    a, b = await cluster.add("a", infer=infer), await cluster.add("b", infer=infer)
    await register(a, "m")
    for instance in (a, b):
        instance.plane.scaler.cut_off(instance.clock.now_ms())  # which would let one of them go
    await asyncio.sleep(3)
    assert (await cluster.call("m", via="a")).status is Status.OK
    registered = await a.plane.models.get(M)
    assert registered is not None
    assert await a.plane.requests.add_copy(M, registered, last_use_ms=a.clock.now_ms())
    await asyncio.sleep(1)
    await cluster.settled()
    assert cluster.holders("m") == ["a", "b"]
    return a, b


def test_a_runtime_that_stands_still_leaves_the_rotation_and_no_call_fails_by_it() -> None:
    """Every second call failed although a healthy copy stood elsewhere, and both instances said that they were ready."""

    async def main() -> None:
        cluster = SimulatedCluster()
        a, b = await two_copies(cluster)
        a.runtime.freeze()
        calls = [
            asyncio.create_task(cluster.call("m", via=via, timeout_ms=20_000)) for _ in range(10) for via in ("a", "b")
        ]
        await asyncio.sleep(9)
        assert a.plane.readiness() is ReadinessReason.RUNTIME_AWAY
        assert b.plane.ready
        answers = await asyncio.gather(*calls)
        assert {answer.status for answer in answers} == {Status.OK}
        assert {answer.served_by for answer in answers} == {"b"}
        route = b.dataplane.route(M)
        assert route is not None and route.remote == (), "others send it nothing"  # noqa: PT018
        later = await asyncio.gather(*(cluster.call("m", via=via, timeout_ms=500) for _ in range(5) for via in "ab"))
        assert {answer.status for answer in later} == {Status.OK}, "nobody waits to find out again"
        a.runtime.thaw()
        await asyncio.sleep(5)
        assert a.plane.ready
        assert cluster.holders("m") == ["a", "b"], "it has lost nothing"
        assert a.runtime.load_counts[M] == 1
        assert not a.plane.state.model(M).failures, "nobody is blamed"
        assert {(await cluster.call("m", via="a")).served_by for _ in range(20)} == {"a", "b"}
        await cluster.settled()
        await cluster.stop()

    run_virtual(main())


def test_a_runtime_that_stands_still_without_calls_is_found_out_too() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        a = await cluster.add("a")
        a.runtime.freeze()
        await asyncio.sleep(9)
        assert not a.plane.ready
        assert [event.kind for event in cluster.story].count("runtime_hung") == 1
        a.runtime.thaw()
        await asyncio.sleep(5)
        assert a.plane.ready
        await cluster.stop()

    run_virtual(main())


def test_a_runtime_whose_calls_take_a_minute_is_not_hung() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        a = await cluster.add("a", infer=infer_after(lambda: 60_000))
        await register(a, "m", load=True)
        answer = await cluster.call("m", via="a", timeout_ms=90_000)
        assert answer.status is Status.OK
        assert not answer.held
        assert a.plane.ready
        assert all(event.kind != "runtime_hung" for event in cluster.story)
        await cluster.stop()

    run_virtual(main())


def test_a_call_that_has_moved_once_stays_where_it_is() -> None:
    """Runtimes that do nothing else while they work at a long call look hung; the call is not sent round among them."""

    wait_ms = 1

    async def main() -> None:
        nonlocal wait_ms
        cluster = SimulatedCluster()
        a, b = await two_copies(cluster, infer_after(lambda: wait_ms))
        wait_ms = 60_000
        a.runtime.freeze()
        call = asyncio.create_task(a.dataplane.call(M, balanced=True, timeout_ms=120_000))
        await asyncio.sleep(10)
        assert b.dataplane.in_flight(M) == 1
        b.runtime.freeze()
        await asyncio.sleep(20)
        assert not b.plane.ready
        b.runtime.thaw()
        answer = await call
        assert answer.status is Status.OK
        assert answer.served_by == "b"
        await cluster.stop()

    run_virtual(main())


def test_a_runtime_that_stands_still_and_then_dies_has_lost_its_models() -> None:
    async def main() -> None:
        cluster = SimulatedCluster()
        a, _ = await two_copies(cluster)
        a.runtime.freeze()
        await asyncio.sleep(9)
        a.runtime.restart()
        await asyncio.sleep(0.1)
        a.dataplane.runtime_link(up=True)
        await asyncio.sleep(10)
        assert a.plane.ready
        assert a.runtime.counts["status"] >= 2
        assert (await cluster.call("m", via="a")).status is Status.OK
        await cluster.settled()
        await cluster.stop()

    run_virtual(main())
