"""`modelmesh.v1.Admin/Explain` against simulated clusters: the answer names causes at whatever instance they happened."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelmesh._proto import admin_pb2 as pb
from modelmesh.cli.explain import lines
from modelmesh.management.calls import Call, CallError
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.testing.model_paths import size_path
from modelmesh.values.ids import InstanceId, ModelId, Token
from modelmesh.values.status import Status

NO_CALL = Call(Token(0), "", {}, send=lambda _: None)


def play(story: Callable[[SimulatedCluster], Awaitable[None]], *, names: str = "ab", seed: int = 3) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=seed)
        try:
            for name in names:
                await cluster.add(name)
            await story(cluster)
        finally:
            await cluster.stop()

    run_virtual(main())


async def explain(
    cluster: SimulatedCluster, model: str, *, via: str = "a", dry_run: bool = False
) -> pb.ExplainResponse:
    request = pb.ExplainRequest(model_id=model, dry_run=dry_run)
    return await cluster.instances[InstanceId(via)].admin.explain(NO_CALL, request)


def kinds(answer: pb.ExplainResponse) -> list[tuple[str, str]]:
    return [(event.instance_id, event.kind) for event in answer.events]


def test_a_load_is_told_with_its_reason_whoever_is_asked() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        await cluster.call("m", via="a")
        (holder,) = cluster.holders("m")
        for via in "ab":
            answer = await explain(cluster, "m", via=via)
            assert (holder, "loaded") in kinds(answer)
            assert {place.instance_id: place.verdict for place in answer.places}[holder] == "holds"
            assert answer.size_is_measured is (via == holder)
            assert not answer.silent_instance_ids

    play(story)


def test_what_left_and_for_whom() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for number in range(11):
            await register(cluster.instances[InstanceId("a")], f"m{number}")
            await cluster.call(f"m{number}", via="a")
            await asyncio.sleep(5)
        gone = next(f"m{number}" for number in range(11) if not cluster.holders(f"m{number}"))
        told = await explain(cluster, gone)
        victim = next(event for event in told.events if event.kind == "victim")
        assert victim.cause_model_id == "m9"
        made_room = await explain(cluster, "m9")
        assert ("victim", gone) in [(event.kind, event.model_id) for event in made_room.events]

    play(story, names="a")


def test_a_dry_run_names_the_victims_and_nothing_happens() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        for number in range(9):
            await register(a, f"m{number}")
            await cluster.call(f"m{number}", via="a")
            await asyncio.sleep(5)
        await register(a, "new")
        before = a.plane.cache.states()
        answer = await explain(cluster, "new", dry_run=True)
        assert (answer.plan.instance_id, answer.plan.refusal, answer.plan.evict_bytes) == ("a", "", 100)
        predicted = [victim.model_id for victim in answer.plan.victims]
        assert a.plane.cache.states() == before
        await cluster.call("new", via="a")
        await asyncio.sleep(1)
        assert predicted == [model for model in before if not cluster.holders(model)]
        text = "\n".join(lines(answer, now_s=VirtualClock().now_ms() / 1000, dry_run=True))
        assert "one more copy would go to a" in text
        assert f"    {predicted[0]}: 100 B" in text

    play(story, names="a")


def test_a_dry_run_asks_the_instance_it_would_go_to() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        await cluster.call("m", via="a")
        (holder,) = cluster.holders("m")
        answer = await explain(cluster, "m", via=holder, dry_run=True)
        assert answer.plan.instance_id != holder
        assert answer.plan.evict_bytes == 0
        for name in cluster.instances:
            if name != holder:
                cluster.network.cut(InstanceId(holder), name)
        cut = await explain(cluster, "m", via=holder, dry_run=True)
        assert list(cut.silent_instance_ids) == [name for name in cluster.instances if name != holder]
        assert "does not answer" in cut.plan.refusal

    play(story)


def test_a_failure_is_told_with_how_long_it_is_believed() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        for name in "ab":
            cluster.instances[InstanceId(name)].runtime.fail_next("load", Status.INTERNAL, "corrupt file")
        assert (await cluster.call("m", via="a")).status is Status.INTERNAL
        answer = await explain(cluster, "m", via="b", dry_run=True)
        assert [place.verdict for place in answer.places] == ["failed", "failed"]
        assert "corrupt file" in answer.places[0].detail
        assert answer.plan.instance_id == ""
        assert "corrupt file" in answer.plan.refusal
        assert [kind for _, kind in kinds(answer)].count("load_failed") == 2

    play(story)


def test_an_unknown_model_is_an_error_that_says_what_to_do() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        with pytest.raises(CallError, match="model nobody is not registered") as raised:
            await explain(cluster, "nobody")
        assert raised.value.status is Status.NOT_FOUND

    play(story)


def test_where_no_place_is_left_the_answer_says_where_to_look() -> None:
    nowhere = pb.ExplainResponse(plan=pb.Plan(refusal="Nowhere available to load model m"))
    assert lines(nowhere, now_s=0, dry_run=True)[-2:] == [
        "no instance can load one more copy: Nowhere available to load model m",
        "  the reason of each instance is shown above",
    ]


def test_what_happens_again_and_again_is_one_entry_with_a_count() -> None:
    """A client that retried pushed everything else out of what is remembered."""

    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        await register(a, "m")
        await cluster.call("m", via="a")
        for _ in range(100):
            a.plane.journal.note("gave_up", ModelId("m"), "nowhere", "no room")
            a.plane.journal.note("sent", ModelId("m"), "placed_elsewhere", "to b")
        answer = await explain(cluster, "m")
        repeated = {event.kind: event.times for event in answer.events if event.times > 1}
        assert (repeated["gave_up"], repeated["sent"]) == (100, 100)
        assert "loaded" in {event.kind for event in answer.events}
        assert "[100 times, this is the last]" in "\n".join(lines(answer, now_s=0, dry_run=False))

    play(story)


def test_a_dry_run_asks_the_runtime_how_large_the_model_is() -> None:
    """It said that a model fits which the load then refused as too large."""

    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        await register(a, "huge", path=size_path(2_000, 10, 1))
        answer = await explain(cluster, "huge", dry_run=True)
        assert (answer.size_bytes, answer.size_source) == (2_000, "predicted")
        assert not answer.plan.instance_id
        assert "needs 2.0 KiB" in answer.plan.refusal

    play(story)
