"""Labels and constraints decide where models may be, also of copies that stand already: simulated clusters."""

import asyncio

import cluster_stories
import pytest
from cluster_stories import Story

from modelmesh.control.view.records import UnreadableRecordError
from modelmesh.management.explain import explain
from modelmesh.policy.constraints import TypeConstraint, TypeConstraints
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

GPU = TypeConstraints({"deep": TypeConstraint(required=("gpu",))})


def play(story: Story) -> None:
    """A story of three instances, of which b has a label."""

    async def prepared(cluster: SimulatedCluster) -> None:
        await cluster.add("a")
        await cluster.add("b", labels=("gpu",))
        await cluster.add("c")
        await story(cluster)

    cluster_stories.play(prepared, seed=4)


def constrain(cluster: SimulatedCluster, constraints: TypeConstraints) -> None:
    for instance in cluster.instances.values():
        instance.plane.constrain(constraints)


def test_a_model_is_loaded_where_its_type_may_be_whoever_is_called() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        constrain(cluster, GPU)
        for number in range(5):
            await register(cluster.instances[InstanceId("a")], f"m{number}", kind="deep")
            answer = await cluster.call(f"m{number}", via="abc"[number % 3])
            assert answer.status is Status.OK
            assert cluster.holders(f"m{number}") == ["b"]

    play(story)


def test_copies_that_stand_wrong_after_a_change_move_without_a_failed_call() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        models = [f"m{number}" for number in range(6)]
        for number, model in enumerate(models):
            await register(cluster.instances[InstanceId("a")], model, kind="deep")
            await cluster.call(model, via="abc"[number % 3])
        assert any("b" not in cluster.holders(model) for model in models)
        constrain(cluster, GPU)
        for second in range(20):
            for model in models:
                assert (await cluster.call(model, via="abc"[second % 3])).status is Status.OK
            await asyncio.sleep(1)
        assert [cluster.holders(model) for model in models] == [["b"]] * 6

    play(story)


def test_a_record_that_became_unreadable_meanwhile_is_looked_at_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(cluster: SimulatedCluster) -> None:
        asked: list[ModelId] = []

        async def malformed(model: ModelId) -> None:
            asked.append(model)
            raise UnreadableRecordError(f"the record of {model} cannot be read")

        await register(cluster.instances[InstanceId("a")], "m", kind="deep")
        await cluster.call("m", via="a")
        (holder,) = cluster.holders("m")
        assert holder != "b"
        with monkeypatch.context() as patched:
            patched.setattr(cluster.instances[InstanceId(holder)].plane.models, "get", malformed)
            constrain(cluster, GPU)
            await asyncio.sleep(4)
            assert asked == [ModelId("m")]
            assert cluster.crashes == []
        await asyncio.sleep(15)
        assert cluster.holders("m") == ["b"]

    play(story)


def test_without_a_place_they_serve_on_and_explain_says_which_label_is_missing_where() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "old", kind="deep")
        await cluster.call("old", via="a")
        constrain(cluster, TypeConstraints({"deep": TypeConstraint(required=("gpu", "big"))}))
        await asyncio.sleep(40)
        assert (await cluster.call("old", via="c")).status is Status.OK
        await register(cluster.instances[InstanceId("a")], "new", kind="deep")
        answer = await cluster.call("new", via="c")
        assert answer.status is Status.INTERNAL
        assert answer.message == (
            "There are no running instances that meet the label requirements of type deep: [gpu, big]"
        )
        explained = await explain(cluster.instances[InstanceId("c")].plane, ModelId("new"), dry_run=False)
        assert [(place.instance_id, place.detail) for place in explained.places] == [
            ("a", "type deep requires [gpu, big]"),
            ("b", "type deep requires [big]"),
            ("c", "type deep requires [gpu, big]"),
        ]


def test_the_error_of_a_type_that_no_instance_takes_ends_with_what_controllers_match_on() -> None:
    """The old controller gives unknown types a label that nobody has, and looks at the end of the text."""

    async def story(cluster: SimulatedCluster) -> None:
        constrain(cluster, TypeConstraints({"_default": TypeConstraint(required=("_no_runtime",))}))
        await register(cluster.instances[InstanceId("a")], "new", kind="unknown")
        answer = await cluster.call("new", via="c")
        assert answer.message.endswith("[_no_runtime]")

    play(story)

    play(story)


def test_copies_of_one_model_stand_in_different_zones() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=11)
        try:
            for name, zone in (("a", "x"), ("b", "x"), ("c", "x"), ("d", "y")):
                await cluster.add(name, zone=zone)
            a = cluster.instances[InstanceId("a")]
            for number in range(4):
                model = ModelId(f"m{number}")
                await register(a, model)
                await cluster.call(model, via="abcd"[number])
                registered = await a.plane.models.get(model)
                assert registered is not None
                await a.plane.requests.add_copy(model, registered, last_use_ms=a.plane.clock.now_ms())
                await asyncio.sleep(1)
                zones = {cluster.instances[name].plane.identity.zone for name in cluster.holders(model)}
                assert zones == {"x", "y"}
        finally:
            await cluster.stop()

    run_virtual(main())
