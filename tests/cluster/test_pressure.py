"""More is asked than fits or can be loaded: who waits, who is told when to come back. Simulated clusters."""

import asyncio
import base64
from collections.abc import Iterator
from functools import partial

import cluster_stories
from google.rpc import error_details_pb2, status_pb2

from modelmesh._proto import admin_pb2
from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.requests.answers import retry_later
from modelmesh.management.calls import Call
from modelmesh.policy.attempt import RETRY_AFTER_MS
from modelmesh.policy.victims import HeldCopy, Victim
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, infer_after, register
from modelmesh.testing.model_paths import size_path
from modelmesh.values.ids import InstanceId, ModelId, Token
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status

NO_CALL = Call(Token(0), "", {}, send=lambda _: None)
Info = pb.ModelStatusInfo


play = partial(cluster_stories.play, names="a", seed=12)


def details(wire: bytes) -> status_pb2.Status:
    return status_pb2.Status.FromString(base64.b64decode(wire + b"=" * (-len(wire) % 4)))


def loads(cluster: SimulatedCluster, model: str) -> int:
    return sum(event.kind == "load_started" and event.model == model for event in cluster.story)


def test_a_queued_load_that_nobody_wants_any_more_is_dropped() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        await register(a, "slow", path=size_path(100, 60_000, 1))
        await register(a, "m")
        slow = asyncio.ensure_future(cluster.call("slow", via="a", timeout_ms=None))
        await asyncio.sleep(1)
        answer = await cluster.call("m", via="a", timeout_ms=500)
        assert answer.status is Status.DEADLINE_EXCEEDED
        await asyncio.sleep(15)
        assert "m" not in a.plane.cache.states()
        assert loads(cluster, "m") == 0
        assert (await slow).status is Status.OK

    play(story, loading_concurrency=1)


def test_a_caller_with_short_deadlines_who_comes_again_keeps_its_place_in_the_queue() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        await register(a, "slow", path=size_path(100, 20_000, 1))
        await register(a, "m")
        slow = asyncio.ensure_future(cluster.call("slow", via="a", timeout_ms=None))
        await asyncio.sleep(1)
        for _ in range(30):
            if (await cluster.call("m", via="a", timeout_ms=500)).status is Status.OK:
                break
            await asyncio.sleep(0.5)
        assert loads(cluster, "m") == 1
        await slow

    play(story, loading_concurrency=1)


def test_a_copy_stays_a_while_though_others_want_its_room() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        for number in range(4):
            await register(a, f"m{number}", path=size_path(450, 2_000, 1))
        running = True
        served = 0

        async def caller(number: int) -> None:
            nonlocal served
            while running:
                answer = await cluster.call(f"m{number}", via="a", timeout_ms=None)
                assert answer.status is Status.OK
                served += 1
                await asyncio.sleep(0.05)

        callers = [asyncio.ensure_future(caller(number)) for number in range(4)]
        await asyncio.sleep(60)
        running = False
        await asyncio.gather(*callers)
        # Two fit. Each load of 2 s is followed by half a second at least in which the copy serves 20 calls a second.
        assert served >= 8 * (sum(loads(cluster, f"m{number}") for number in range(4)) - 2)

    play(story, loading_concurrency=4)


def test_a_caller_for_whom_no_memory_becomes_free_is_told_when_to_come_back() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        await register(a, "pinned", path=size_path(900, 3_000, 1))
        await cluster.call("pinned", via="a")
        await a.admin.set_copies(NO_CALL, admin_pb2.SetCopiesRequest(model_id="pinned", pinned=True))
        await register(a, "m", path=size_path(500, 10, 1))
        answer = await cluster.call("m", via="a", timeout_ms=None)
        assert answer.status is Status.RESOURCE_EXHAUSTED
        trailers = dict(answer.trailers)
        assert 3_000 <= int(trailers["grpc-retry-pushback-ms"]) <= 4_500
        assert "needs 500 B; 900 B of the 1000 B of instance a hold pinned models" in answer.message
        detail = details(trailers["grpc-status-details-bin"])
        assert (detail.code, detail.message) == (8, answer.message)

    play(story)


def test_a_model_that_fits_only_without_the_reserve_is_loaded_and_victims_are_not_looked_for_without_end() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        await register(a, "large", path=size_path(980, 10, 1))
        await register(a, "m")
        assert (await cluster.call("m", via="a")).status is Status.OK
        assert (await cluster.call("large", via="a")).status is Status.OK
        looks = count_looks(a)
        await asyncio.sleep(10)
        assert a.plane.cache.ready() == ("large",)
        assert looks == []

    play(story)


def test_victims_are_looked_for_ever_more_seldom_while_none_may_leave() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        await register(a, "busy", path=size_path(800, 10, 1))
        await cluster.call("busy", via="a")
        running = asyncio.ensure_future(cluster.call("busy", via="a", timeout_ms=None))
        await asyncio.sleep(1)
        await register(a, "m", path=size_path(500, 10, 1))
        waiting = asyncio.ensure_future(cluster.call("m", via="a", timeout_ms=None))
        looks = count_looks(a)
        await asyncio.sleep(20)
        assert 90 <= len(looks) <= 110
        assert (await running).status is Status.OK
        assert (await waiting).status is Status.OK

    play(story, infer=infer_after(lambda: 40_000))


def count_looks(instance: SimulatedInstance) -> list[int]:
    """The needs for which victims are looked for from now on, in bytes."""
    looks: list[int] = []
    victims = instance.plane.decider.victims

    def counted(copies: Iterator[HeldCopy], *, need: Memory, forced: bool) -> tuple[Victim, ...]:
        looks.append(need)
        return victims(copies, need=need, forced=forced)

    instance.plane.decider.victims = counted  # type: ignore[method-assign]
    return looks


def test_the_retry_delay_is_what_grpc_clients_understand() -> None:
    failure = retry_later(Status.RESOURCE_EXHAUSTED, "full", 2_345)
    detail = details(dict(failure.trailers)["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert detail.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 2_345


def test_who_asks_for_it_tries_again_what_has_failed_and_calls_do_not() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        await register(a, "m")
        for name in "ab":
            cluster.instances[InstanceId(name)].runtime.fail_next("load", Status.INTERNAL, "not yet there")
        assert (await cluster.call("m", via="a")).status is Status.INTERNAL
        failed = loads(cluster, "m")
        assert failed == 2
        assert (await cluster.call("m", via="b")).status is Status.INTERNAL
        assert loads(cluster, "m") == failed
        await asyncio.sleep(RETRY_AFTER_MS / 1000)
        again = Call(NO_CALL.token, NO_CALL.method, {"mm-retry": b"true"}, send=NO_CALL.send)
        status = await a.models.ensure_loaded(again, pb.EnsureLoadedRequest(modelId="m", sync=True))
        assert status.status == Info.LOADED
        assert loads(cluster, "m") == failed + 1
        assert (await cluster.call("m", via="b")).status is Status.OK

    play(story, names="ab")


def test_no_load_elsewhere_is_begun_that_cannot_end_in_time() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a, b = (cluster.instances[InstanceId(name)] for name in "ab")
        await register(a, "m", path=size_path(100, 5_000, 1))
        for instance in (a, b):  # both know how long it takes
            instance.plane.cache.learned.loaded(ModelId("m"), Memory(100), 5_000)
        for instance in (a, b):
            instance.runtime.fail_next("load", Status.INTERNAL, "corrupt")
        began = asyncio.get_running_loop().time()
        answer = await cluster.call("m", via="a", timeout_ms=4_000)
        assert answer.status is Status.DEADLINE_EXCEEDED
        assert "no time is left for another load" in answer.message
        assert asyncio.get_running_loop().time() - began < 1
        assert loads(cluster, "m") == 1

    play(story, names="ab")


def reserve_after_loads(*, load_ms: int, unload_ms: int) -> int:
    """Of 10,000 bytes that take 20 models, after each of 40 was loaded once."""
    reserves = []

    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        for number in range(40):
            model = f"m{number}"
            await register(a, model, path=size_path(500, load_ms, unload_ms))
            assert (await cluster.call(model, via="a", timeout_ms=None)).status is Status.OK
        await asyncio.sleep(5)
        reserves.append(a.plane.cache.ledger.reserve.bytes)

    play(story, capacity_bytes=10_000, default_size_bytes=500, loading_concurrency=8)
    return reserves[0]


def test_the_reserve_is_kept_where_unloads_are_slow_beside_loads() -> None:
    assert reserve_after_loads(load_ms=2_000, unload_ms=400) == 1_000
    assert reserve_after_loads(load_ms=2_000, unload_ms=100) == 100
