"""What callers wait for where models do not all fit: simulated clusters."""

import asyncio

from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.testing.model_paths import size_path
from modelmesh.testing.sizing import Fleet, serve
from modelmesh.testing.workload import Defaults, drawn
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.priority import Priority
from modelmesh.values.status import Status

GIB = 1 << 30


def test_loads_do_not_pile_up_where_the_oldest_copy_is() -> None:
    """Adaptive eviction keeps old copies that are worth it: their instance got every load, while others were idle."""
    workload = drawn(
        "zipf", requests=1500, rate=2.0, seed=3, defaults=Defaults(model_bytes=GIB // 2, load_speed=200 << 20)
    )
    one_big = serve(workload, Fleet(1, 48 * GIB, 6), seed=3)
    served = serve(workload, Fleet(3, 16 * GIB, 2), seed=3)
    assert served.failed == 0
    assert served.mean_wait_ms <= 1.3 * one_big.mean_wait_ms
    assert served.slow_wait_ms <= 1.5 * one_big.slow_wait_ms


def test_a_load_that_waits_goes_to_an_instance_that_is_idle() -> None:
    """All loads were seen to be short. One takes a minute, and what was queued behind it did, too."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=4)
        clock = VirtualClock()
        try:
            for name in "ab":
                await cluster.add(name, loading_concurrency=1)
            first = cluster.instances[InstanceId("a")]
            for model, load_ms in {**{f"s{number}": 100 for number in range(12)}, "long": 60_000, "short": 500}.items():
                await register(first, model, path=size_path(10, load_ms, 1))
            for number in range(6):
                await cluster.call(f"s{number}", via="a")
            long = asyncio.ensure_future(cluster.call("long", via="a", timeout_ms=100_000))
            short = asyncio.ensure_future(cluster.call("short", via="a"))
            await asyncio.sleep(0.05)
            began_ms = clock.monotonic_ms()
            queued = [asyncio.ensure_future(cluster.call(f"s{number}", via="b")) for number in range(6, 12)]
            answers = await asyncio.gather(short, *queued)
            assert {answer.status for answer in answers} == {Status.OK}
            assert clock.monotonic_ms() - began_ms < 10_000
            assert [event for event in cluster.story if event.kind == "sent_on"]
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)
        finally:
            await cluster.stop()

    run_virtual(main())


def test_preloads_leave_a_slot_to_callers_and_a_caller_begins_at_once() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5)
        try:
            for name in "abcd":
                await cluster.add(name, loading_concurrency=1, capacity_bytes=10_000)
            first = cluster.instances[InstanceId("a")]
            for number in range(40):
                await register(first, f"m{number:02}", path=size_path(10, 20_000, 1))
                await asyncio.sleep(0.01)
            await asyncio.sleep(125)
            busy = [name for name, instance in cluster.instances.items() if instance.plane.cache.loads]
            assert len(busy) == 3
            clock = VirtualClock()
            for model in ("m00", "m01", "m02"):  # used longest ago: their preloads come last
                began_ms = clock.monotonic_ms()
                answer = await cluster.call(model, via="a")
                assert answer.status is Status.OK
                assert clock.monotonic_ms() - began_ms < 20_500
        finally:
            await cluster.stop()

    run_virtual(main())


def test_explain_says_where_a_waiting_load_stands_now_and_why() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5)
        try:
            a = await cluster.add("a", loading_concurrency=1)
            for model, load_ms in {"first": 1_000, "second": 10_000, "third": 1_000}.items():
                await register(a, model, path=size_path(10, load_ms, 1))
            calls = []
            for model in ("first", "second", "third", "third"):
                calls.append(asyncio.ensure_future(cluster.call(model, via="a")))
                await asyncio.sleep(0.1)

            def standing() -> tuple[str, str]:
                (event,) = (
                    event for event in a.plane.recall.history(ModelId("second")).events if event.kind == "queued"
                )
                return event.reason, event.detail

            reason, detail = standing()
            assert reason == "callers_per_load_time"
            assert detail.startswith("1 before it, 1 at work in 1 slots, 1 callers")
            await asyncio.sleep(1)
            reason, detail = standing()
            assert detail.startswith("0 before it")
            assert [answer.status for answer in await asyncio.gather(*calls)] == [Status.OK] * 4
        finally:
            await cluster.stop()

    run_virtual(main())


def test_a_load_that_a_higher_class_waits_for_goes_first_also_where_another_instance_sends_its_calls() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=6)
        try:
            a = await cluster.add("a", loading_concurrency=1)
            await cluster.add("b", loading_concurrency=1)
            classes = {"usual": Priority.NORMAL, "backlog": Priority.LOW, "urgent": Priority.HIGH}
            for model in ("first", *classes):
                await register(a, model, path=size_path(10, 5_000, 1))
            cluster.instances[InstanceId("b")].plane.cache.drain()
            await asyncio.sleep(5)
            answered: list[str] = []

            async def call(model: str, via: str, priority: Priority = Priority.NORMAL) -> None:
                answer = await cluster.call(model, via=via, priority=priority)
                assert (answer.status, answer.served_by) == (Status.OK, "a")
                answered.append(model)

            calls = [asyncio.ensure_future(call("first", "a"))]
            await asyncio.sleep(0.1)
            for model, priority in classes.items():
                calls.append(asyncio.ensure_future(call(model, "b", priority)))
                await asyncio.sleep(0.1)
            (event,) = (event for event in a.plane.recall.history(ModelId("urgent")).events if event.kind == "queued")
            assert event.detail.startswith("0 before it, 1 at work in 1 slots, 1 callers (highest class: high)")
            await asyncio.gather(*calls)
            assert answered == ["first", "urgent", "usual", "backlog"]
        finally:
            await cluster.stop()

    run_virtual(main())
