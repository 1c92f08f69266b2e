"""One model or one call cannot end more than two runtimes before that is remembered, and others go on."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from modelmesh.ports import ModelSource, RuntimeCallError, RuntimeLoaded
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, infer_after, register, set_vmodel
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

POISON = "poison"
RESTART_S = 1.0


class Deaths:
    """Runtimes that end when they load the poison (or are called with it), and come back after a second."""

    def __init__(self, cluster: SimulatedCluster, *, by: str) -> None:
        self.cluster = cluster
        self.by = by
        self.count = 0
        self._restarts: list[asyncio.Task[None]] = []

    def die(self, runtime: FakeRuntime) -> None:
        self.count += 1
        runtime.crash()
        self._restarts.append(asyncio.create_task(self._restart(runtime)))

    async def _restart(self, runtime: FakeRuntime) -> None:
        await asyncio.sleep(RESTART_S)
        runtime.restart()
        next(
            instance for instance in self.cluster.instances.values() if instance.runtime is runtime
        ).dataplane.runtime_link(up=True)

    async def infer(self, runtime: FakeRuntime, model: ModelId, payload: object) -> object:
        if self.by == "call" and payload == POISON:
            await asyncio.sleep(0.01)
            self.die(runtime)
            raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)
        return await infer_after(lambda: 2)(runtime, model, payload)

    def poison(self, runtime: FakeRuntime) -> None:
        """Its methods of that name end it."""
        if self.by == "call":
            return
        original: Callable = getattr(runtime, self.by)

        async def dies(what: ModelSource | ModelId) -> RuntimeLoaded | int | None:
            model = what.model if isinstance(what, ModelSource) else what
            if model == POISON and not runtime.down:
                await asyncio.sleep(0.02)
                self.die(runtime)
                raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)
            return await original(what)

        setattr(runtime, self.by, dies)


async def cluster_of(instances: int, *, by: str) -> tuple[SimulatedCluster, Deaths]:
    cluster = SimulatedCluster(seed=1)
    deaths = Deaths(cluster, by=by)
    for number in range(instances):
        instance = await cluster.add(f"i{number}", infer=deaths.infer)
        instance.runtime.answers_size = by != "measure_size"
        deaths.poison(instance.runtime)
    first = cluster.instances[InstanceId("i0")]
    for model in ["good-0", "good-1", "good-2", POISON]:
        await register(first, model)
    return cluster, deaths


@pytest.mark.parametrize("by", ["load", "predict_size", "measure_size", "call"])
@pytest.mark.parametrize("instances", [1, 3, 6])
def test_calls_for_a_poisoned_model_end_two_runtimes_and_the_next_are_told_why(by: str, instances: int) -> None:
    async def main() -> tuple[int, list, Counter[str]]:
        cluster, deaths = await cluster_of(instances, by=by)
        good: Counter[str] = Counter()
        answers = []
        for turn in range(40):
            via = f"i{turn % instances}"
            answers.append(await cluster.call(POISON, via=via, payload=POISON))
            answer = await cluster.call(f"good-{turn % 3}", via=via)
            good[answer.status.name] += 1
            await asyncio.sleep(0.3)
        await cluster.stop()
        return deaths.count, answers, good

    count, answers, good = run_virtual(main())
    assert count == 2
    # A model is called while it is measured, and its first calls may be answered.
    assert by == "measure_size" or all(answer.status is not Status.OK for answer in answers)
    assert answers[-1].status is Status.INTERNAL
    assert "is not loaded for" in answers[-1].message
    assert "as runtimes ended that had it" in answers[-1].message
    if instances > 2:
        assert good.keys() == {"OK"}


def test_many_callers_at_once_end_no_more() -> None:
    async def main() -> int:
        cluster, deaths = await cluster_of(6, by="load")
        await asyncio.gather(*(cluster.call(POISON, via=f"i{number % 6}") for number in range(60)))
        await cluster.stop()
        return deaths.count

    assert run_virtual(main()) == 2


def test_a_vmodel_that_moves_to_a_poisoned_model_loads_it_at_two_instances_at_most() -> None:
    """As many copies as the active model has were loaded at once: four runtimes ended together."""

    async def main() -> int:
        cluster, deaths = await cluster_of(6, by="load")
        first = cluster.instances[InstanceId("i0")]
        await set_vmodel(first, "name", "good-0")
        registered = await first.plane.models.get(ModelId("good-0"))
        await cluster.call("good-0", via="i0")
        for _ in range(3):
            await first.plane.requests.add_copy(ModelId("good-0"), registered, last_use_ms=first.clock.now_ms())
            await asyncio.sleep(1)
        assert len(cluster.holders("good-0")) == 4
        await set_vmodel(first, "name", POISON)
        await asyncio.sleep(60)
        await cluster.stop()
        return deaths.count

    assert run_virtual(main()) == 2


def test_a_model_that_loaded_beside_a_poisoned_one_is_cleared_by_its_next_load() -> None:
    """All that were loading are suspected; each is then loaded alone, and only one of them ends its runtime."""

    async def main() -> tuple[int, list[Status]]:
        cluster, deaths = await cluster_of(3, by="load")
        for instance in cluster.instances.values():
            instance.runtime.loading_concurrency = 6
            instance.plane._runtime_reported(replace(instance.plane.cache.parameters, loading_slots=6))
        calls = [asyncio.create_task(cluster.call(model, via="i0")) for model in (POISON, "good-0", "good-1")]
        await asyncio.gather(*calls)
        answers = []
        for turn in range(6):
            answers.append((await cluster.call(f"good-{turn % 2}", via=f"i{turn % 3}")).status)
            await cluster.call(POISON, via="i1")
            await asyncio.sleep(2)
        await cluster.stop()
        return deaths.count, answers

    count, answers = run_virtual(main())
    assert count == 2
    assert answers == [Status.OK] * 6


def test_a_popular_model_is_not_blamed_for_a_runtime_that_is_restarted() -> None:
    """It has calls under way whenever a runtime ends, wherever that is."""

    async def main() -> list[Status]:
        cluster, deaths = await cluster_of(3, by="load")
        for turn in range(300):
            await cluster.call("good-0", via=f"i{turn % 3}")
        answers = []
        for turn in range(9):
            calls = [asyncio.create_task(cluster.call("good-0", via=f"i{turn % 3}")) for _ in range(3)]
            await asyncio.sleep(0.001)
            for name in cluster.holders("good-0"):
                deaths.die(cluster.instances[name].runtime)
            answers += [answer.status for answer in await asyncio.gather(*calls)]
            await asyncio.sleep(2)
            for more in range(120):
                answers.append((await cluster.call("good-0", via=f"i{more % 3}")).status)
        await cluster.stop()
        return answers

    assert set(run_virtual(main())) == {Status.OK}


class Hangs:
    """Runtimes that stop answering under a call with the poison; restarted after a time, if at all."""

    def __init__(self, cluster: SimulatedCluster, *, restarted_after_s: float | None) -> None:
        self.cluster = cluster
        self.count = 0
        self._restarted_after_s = restarted_after_s
        self._restarts: list[asyncio.Task[None]] = []

    async def infer(self, runtime: FakeRuntime, model: ModelId, payload: object) -> object:
        if payload == POISON:
            self.count += 1
            runtime.freeze()
            if self._restarted_after_s is not None:
                self._restarts.append(asyncio.create_task(self._restart(runtime, self._restarted_after_s)))
        return await infer_after(lambda: 2)(runtime, model, payload)

    async def _restart(self, runtime: FakeRuntime, after_s: float) -> None:
        await asyncio.sleep(after_s)
        runtime.restart()
        next(
            instance for instance in self.cluster.instances.values() if instance.runtime is runtime
        ).dataplane.runtime_link(up=True)


@pytest.mark.parametrize("restarted_after_s", [30.0, None])
def test_a_model_under_whose_calls_two_runtimes_hung_and_did_not_recover_rests(
    restarted_after_s: float | None,
) -> None:
    """Each call hung two runtimes, and nothing was remembered."""

    async def main() -> tuple[int, list, set[Status]]:
        cluster = SimulatedCluster(seed=1)
        hangs = Hangs(cluster, restarted_after_s=restarted_after_s)
        for number in range(6):
            await cluster.add(f"i{number}", infer=hangs.infer)
        first = cluster.instances[InstanceId("i0")]
        for model in ("good-0", "good-1", "good-2", POISON):
            await register(first, model)
        await cluster.call(POISON, via="i0", payload=POISON, timeout_ms=20_000)
        # Until the runtimes were restarted, or are taken to have ended.
        await asyncio.sleep(20 if restarted_after_s else 130)
        answers = []
        good: set[Status] = set()
        for turn in range(8):
            answers.append(await cluster.call(POISON, via=f"i{turn % 2 + 4}", payload=POISON, timeout_ms=20_000))
            good.add((await cluster.call(f"good-{turn % 3}", via="i0")).status)
            await asyncio.sleep(5)
        await cluster.stop()
        return hangs.count, answers, good

    count, answers, good = run_virtual(main())
    assert count == 2
    assert {answer.status for answer in answers} == {Status.INTERNAL}
    assert "is not loaded for" in answers[-1].message
    assert good == {Status.OK}


def test_a_runtime_that_answers_again_within_two_minutes_blames_nobody() -> None:
    """Some runtimes answer nothing while they work at a long call."""

    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        hangs = Hangs(cluster, restarted_after_s=None)
        instance = await cluster.add("a", infer=hangs.infer)
        await register(instance, POISON)
        for _ in range(3):
            call = asyncio.create_task(cluster.call(POISON, via="a", payload=POISON, timeout_ms=300_000))
            await asyncio.sleep(100)
            instance.runtime.thaw()
            assert (await call).status in {Status.OK, Status.UNAVAILABLE}
            await asyncio.sleep(60)
        assert not instance.plane.state.model(ModelId(POISON)).failures
        assert (await cluster.call(POISON, via="a")).status is Status.OK
        await cluster.stop()

    run_virtual(main())
