"""Numbers at their extremes, from runtimes and in the store: they cost nobody more than what they are about."""

import asyncio
from collections.abc import Sequence

import pytest

from modelmesh.ports import Put, Transaction
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.testing.dataplane import SimulatedDataPlane
from modelmesh.values.dataplane import Route
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status


@pytest.mark.parametrize("said", [2**29, 2**31 - 1, 2**32 - 1])
def test_a_runtime_that_takes_any_number_of_calls_at_a_time(said: int) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        instance = await cluster.add("a")
        instance.runtime.max_concurrency = said
        instance.runtime.restart()
        instance.dataplane.runtime_link(up=True)
        await asyncio.sleep(2)
        await register(instance, "m")
        answer = await cluster.call("m", via="a", timeout_ms=5_000)
        assert answer.status is Status.OK, answer
        await cluster.settled()
        await cluster.stop()

    run_virtual(main())


@pytest.mark.parametrize("value", [b'{"state":"loaded","load":-1}', b'{"state":"loaded","load":%d}' % 2**64])
def test_a_key_that_holds_no_number_of_a_load_ends_nobody(value: bytes) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        await register(a, "m")
        for owner in ("a", "b", "gone"):
            key = KEYS.copy(ModelId("m"), InstanceId(owner))
            await cluster.store.transact(Transaction(compares=(), then=(Put(key, value),)))
        await cluster.add("b")
        for name in ("a", "b"):
            answer = await cluster.call("m", via=name, timeout_ms=5_000)
            assert answer.status is Status.OK, answer
        told = [event for event in cluster.story if event.kind == "unreadable_key"]
        assert any("load is" in event.detail for event in told)
        await cluster.stop()

    run_virtual(main())


def test_a_step_that_fails_takes_its_copy_with_it_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    set_routes = SimulatedDataPlane.set_routes

    def refuse_bad(self: SimulatedDataPlane, routes: Sequence[tuple[ModelId, Route | None]]) -> None:
        for model, route in routes:
            if model == "bad" and route is not None and route.local is not None and route.local.ready:
                raise OverflowError("no place for this")
        set_routes(self, routes)

    monkeypatch.setattr(SimulatedDataPlane, "set_routes", refuse_bad)

    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        instance = await cluster.add("a", loading_concurrency=1)
        for model in ("bad", "good"):
            await register(instance, model)
        for _ in range(3):
            answer = await cluster.call("bad", via="a", timeout_ms=20_000)
            assert answer.status not in {Status.OK, Status.DEADLINE_EXCEEDED}, answer
        answer = await cluster.call("good", via="a", timeout_ms=5_000)
        assert answer.status is Status.OK, answer
        await cluster.settled()
        assert list(instance.runtime.models()) == ["good"]
        assert instance.plane.cache.ledger.used == Memory(100)
        assert any(event.reason == "step_failed" for event in cluster.story)
        await cluster.stop()

    run_virtual(main())
