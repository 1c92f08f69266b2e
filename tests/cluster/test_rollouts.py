"""A model is rolled out on a simulated cluster: it is promoted or rolled back, whoever leads."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import cluster_stories
from cluster_stories import VModelWorld

from modelmesh.control.duties.counting import of_rollouts
from modelmesh.testing.cluster import KEYS, SimulatedCluster, set_rollout
from modelmesh.values.ids import InstanceId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.rollout import Rollout, RolloutState
from modelmesh.values.status import Status

V = VModelId("v")
STATE, STEP, SHARE = (f"modelmesh_rollout_{what}" for what in ("state", "step", "share"))
STEPS = (10, 40)


@dataclass
class World(VModelWorld):
    """A cluster where v is a, and b is to be rolled out."""

    calling: bool = True

    async def call(self) -> None:
        """Twenty calls a second, everywhere."""
        number = 0
        running: set[asyncio.Task[object]] = set()
        while self.calling:
            names = list(self.cluster.instances)
            task: asyncio.Task[object] = asyncio.ensure_future(
                self.cluster.call("v", via=names[number % len(names)], vmodel=True)
            )
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            await asyncio.sleep(0.05)
        await asyncio.gather(*running)

    async def record(self) -> VModelRecord:
        (item,) = (await self.cluster.store.range(KEYS.vmodel(V))).items
        return VModelRecord.decode(item.value)

    async def rollout(self) -> Rollout:
        rollout = (await self.record()).rollout
        assert rollout is not None
        return rollout

    async def until(self, condition: Callable[[VModelRecord], bool], *, within_s: int) -> VModelRecord:
        for _ in range(within_s * 2):
            record = await self.record()
            if condition(record):
                return record
            await asyncio.sleep(0.5)
        raise AssertionError(f"after {within_s} s: {await self.record()}")

    def told(self, kind: str) -> list[str]:
        return [event.detail for event in self.cluster.story if event.kind == kind]


def play(story: Callable[[World], Awaitable[None]], *, names: str = "abc") -> None:
    async def prepared(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        await world.begin(names, ("a", "b"))
        callers = asyncio.ensure_future(world.call())
        await asyncio.sleep(2)
        await story(world)
        world.calling = False
        await callers

    cluster_stories.play(prepared, seed=5)


def test_a_model_that_answers_as_well_is_promoted_step_by_step() -> None:
    async def story(world: World) -> None:
        answer = await set_rollout(world.first, "v", "b", STEPS)
        assert [(share.model_id, share.percent) for share in answer.split] == [("b", 10)]
        assert world.cluster.holders("b"), "it was loaded first"
        record = await world.until(lambda record: record.active == "b", within_s=180)
        assert (record.target, record.split) == ("b", ())
        assert (await world.rollout()).state is RolloutState.PROMOTED
        (step,) = world.told("rollout_step")
        assert step.startswith("v: 40 % of the calls; 0 of ")
        (promoted,) = world.told("rollout_promoted")
        assert "calls of b failed" in promoted
        assert len(world.told("vmodel_moved")) == 1

    play(story)


def test_a_model_that_fails_is_rolled_back_at_once() -> None:
    async def story(world: World) -> None:
        await set_rollout(world.first, "v", "b", STEPS)
        await asyncio.sleep(10)
        world.fails["b"] = Status.INTERNAL
        record = await world.until(lambda record: not record.split, within_s=30)
        assert record.active == record.target == "a"
        assert (await world.rollout()).state is RolloutState.ROLLED_BACK
        (told,) = world.told("rollout_rolled_back")
        assert "more than 1 more per 100 calls are not allowed" in told

    play(story)


def test_a_model_that_is_slower_is_rolled_back() -> None:
    async def story(world: World) -> None:
        world.slow_ms["b"] = 50
        await set_rollout(world.first, "v", "b", STEPS)
        record = await world.until(lambda record: not record.split, within_s=90)
        assert record.active == "a"
        assert (await world.rollout()).why.endswith("50 % longer are allowed")
        assert not world.told("rollout_step")

    play(story)


def test_without_calls_nothing_is_decided() -> None:
    async def story(world: World) -> None:
        world.calling = False
        await asyncio.sleep(2)
        await set_rollout(world.first, "v", "b", STEPS)
        await asyncio.sleep(90)
        rollout = await world.rollout()
        assert (rollout.running, rollout.step) == (True, 0)

    play(story)


def test_a_new_leader_goes_on_with_what_was_counted() -> None:
    async def story(world: World) -> None:
        # Calls enough for the step come before the leader dies, and none after that.
        await set_rollout(world.first, "v", "b", STEPS, minimum_ms=30_000)
        await asyncio.sleep(25)
        world.calling = False
        await asyncio.sleep(1)
        assert (await world.rollout()).step == 0
        await world.cluster.crash("a")
        await world.until(lambda record: record.rollout is not None and record.rollout.step == 1, within_s=60)

    play(story)


def test_two_that_believe_to_lead_do_not_skip_a_step() -> None:
    async def story(world: World) -> None:
        await set_rollout(world.first, "v", "b", STEPS)
        fence = world.first.plane.leader.fence()
        assert fence is not None
        # Each looks at the same time, as if it were the leader; the record has changed for all but the first that writes.
        for _ in range(40):
            await asyncio.gather(*(one.plane.rollouts.look(V, fence) for one in world.cluster.instances.values()))
            await asyncio.sleep(2)
        assert (await world.record()).active == "b"
        assert len(world.told("rollout_step")) == 1
        assert len(world.told("rollout_promoted")) == 1

    play(story)


def test_an_instance_that_does_not_answer_holds_it_up_but_not_a_roll_back() -> None:
    async def story(world: World) -> None:
        await set_rollout(world.first, "v", "b", STEPS)
        world.cluster.network.cut(InstanceId("a"), InstanceId("b"))
        await asyncio.sleep(60)
        assert (await world.rollout()).step == 0
        world.fails["b"] = Status.INTERNAL
        await world.until(lambda record: not record.split, within_s=30)
        world.cluster.network.heal(InstanceId("a"), InstanceId("b"))

    play(story)


def test_the_leader_reports_state_step_and_share() -> None:
    async def story(world: World) -> None:
        def reported() -> list[dict[str, dict[tuple[str, ...], float]]]:
            found = [of_rollouts(one.plane.rollouts.shown) for one in world.cluster.instances.values()]
            return [{name: dict(values) for name, values in one.items()} for one in found if one[STEP]]

        await set_rollout(world.first, "v", "b", STEPS)
        await asyncio.sleep(1)
        states = {("v", "b", "running"): True, ("v", "b", "promoted"): False, ("v", "b", "rolled_back"): False}
        assert reported() == [{STATE: states, STEP: {("v", "b"): 1}, SHARE: {("v", "b"): 10}}]
        await world.until(lambda record: record.rollout is not None and record.rollout.step == 1, within_s=90)
        await asyncio.sleep(1)
        assert [one[SHARE] for one in reported()] == [{("v", "b"): 40}]
        world.fails["b"] = Status.INTERNAL
        await world.until(lambda record: not record.split, within_s=30)
        await asyncio.sleep(1)
        states = {("v", "b", "running"): False, ("v", "b", "promoted"): False, ("v", "b", "rolled_back"): True}
        ended = {STATE: states, STEP: {("v", "b"): 2}, SHARE: {("v", "b"): 0}}
        assert reported() == [ended]
        world.calling = False
        await asyncio.sleep(1)
        await world.cluster.crash("a")
        await asyncio.sleep(90)
        assert reported() == [ended], "a new leader finds it"
        await set_rollout(world.first, "v", "")
        await asyncio.sleep(1)
        assert not reported()

    play(story)


def test_a_rollout_is_ended_by_hand() -> None:
    async def story(world: World) -> None:
        await set_rollout(world.first, "v", "b", STEPS)
        answer = await set_rollout(world.first, "v", "")
        assert not answer.split
        assert not answer.HasField("rollout")
        await asyncio.sleep(30)
        assert not any(len(one.plane.rollouts.tasks) for one in world.cluster.instances.values())

    play(story)
