"""One thing that raises takes nothing else with it; a loop that cannot go on takes the whole instance, and says so."""

import asyncio
from collections.abc import Callable

import pytest

from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.control.duties.rounds import Rounds
from modelmesh.control.requests.journeys import Requests
from modelmesh.control.view.observe import Observer
from modelmesh.policy.readiness import ReadinessReason
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance, register, set_vmodel
from modelmesh.testing.store import FaultyStore
from modelmesh.values.dataplane import AttemptFailed, Cancelled, LinkBack, Missed, Outcome
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId, Token
from modelmesh.values.status import Status


class MistakeError(Exception):
    """One that we have made."""


def mistake(*_: object, **__: object) -> None:
    raise MistakeError("ours")


def test_a_log_that_cannot_be_written_while_the_store_is_away_leaves_the_view_true() -> None:
    """Standard error on a full disk: minutes later the instance decided on a view that stood still."""

    async def main() -> None:
        memory = SqliteStore(":memory:", expires_leases=True)
        store = FaultyStore(memory, VirtualClock())
        cluster = SimulatedCluster(seed=1, store=memory)
        a = await cluster.add("a", store=store)
        b = await cluster.add("b")

        def full_disk(_: Event) -> None:
            raise OSError("no space left on device")

        a.plane.journal.subscribe(full_disk)
        store.pause()
        await asyncio.sleep(30)
        store.resume()
        await asyncio.sleep(15)
        await register(b, "m", load=True)
        await asyncio.sleep(2)
        assert a.plane.state.revision == (await memory.range(KEYS.base)).revision
        assert (await cluster.call("m", via="a")).status is Status.OK
        assert [event.kind for event in cluster.story].count("sink_failed") == 1, "told once, and to the others"
        await cluster.stop()

    run_virtual(main())


def test_an_event_that_cannot_be_worked_at_takes_none_of_its_batch_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        seen: list[Token] = []
        monkeypatch.setattr(a.plane.requests, "missed", mistake)
        monkeypatch.setattr(a.plane.requests, "cancelled", seen.append)
        missed = Missed(Token(1), ModelId("m"), None, "", None, None, (), None, balanced=False)
        a.plane.receive([missed, LinkBack(InstanceId("nobody")), Cancelled(Token(2)), missed, Cancelled(Token(3))])
        assert seen == [2, 3]
        assert len(cluster.crashes) == 2
        await cluster.stop()

    run_virtual(main())


@pytest.mark.parametrize("where", ["_resolution", "missed", "_act"])
def test_a_request_that_meets_a_mistake_is_answered(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(Requests, where, mistake)

    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        await register(a, "m")
        answer = await cluster.call("m", via="a", timeout_ms=5_000)
        assert answer.status is Status.INTERNAL
        assert "MistakeError" in answer.message
        assert a.dataplane.held_calls() == ()
        await cluster.stop()

    run_virtual(main())


def test_a_duty_that_raises_keeps_none_of_the_others_from_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        monkeypatch.setattr(a.plane.scaler, "tick", mistake)
        await asyncio.sleep(20)
        monkeypatch.undo()
        assert a.plane.ready
        failed = [event for event in cluster.story if event.kind == "duty_failed"]
        assert {event.kind for event in failed} == {"duty_failed"}
        assert a.plane.census.models is not None, "the leader's duties come after it"
        await cluster.stop()

    run_virtual(main())


def dies(monkeypatch: pytest.MonkeyPatch, times: int) -> Callable[[], int]:
    """The rounds end so often by a mistake. Returns how often they began."""
    run = Rounds.run
    began = [0]

    async def ending(self: Rounds) -> None:
        began[0] += 1
        if began[0] <= times:
            await asyncio.sleep(0.01)
            raise MistakeError("ours")
        await run(self)

    monkeypatch.setattr(Rounds, "run", ending)
    return lambda: began[0]


def test_a_loop_that_ends_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    began = dies(monkeypatch, 3)

    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        await asyncio.sleep(10)
        assert began() == 4
        assert a.plane.ready
        assert a.plane.supervisor.alive()
        await cluster.stop()

    run_virtual(main())


def test_a_loop_that_ends_over_and_over_ends_the_instance_which_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    dies(monkeypatch, 1000)

    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        assert a.plane.ready
        async with asyncio.timeout(60):
            await a.plane.supervisor.ended.wait()
        assert a.plane.readiness() is ReadinessReason.BROKEN
        assert not a.plane.supervisor.alive()
        assert "go round" in (a.plane.supervisor.broken or "")
        assert (await cluster.store.range(KEYS.members)).items == (), "it keeps its lease"
        assert [event.reason for event in cluster.story if event.kind == "broken"] == ["go_round"]
        await cluster.stop()

    run_virtual(main())


def test_what_is_fed_and_raises_is_replaced_by_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a, b = await cluster.add("a"), await cluster.add("b")
        listed: list[bool] = []
        listing = Observer._list

        async def noted(self: Observer, **given: bool) -> None:
            listed.append(self is a.plane.observer)
            await listing(self, **given)

        monkeypatch.setattr(Observer, "_list", noted)
        viewed = a.plane.routing.update
        monkeypatch.setattr(a.plane.routing, "update", mistake)
        await register(b, "m")
        registered = await b.plane.models.get(ModelId("m"))
        assert registered is not None
        await b.plane.requests.ensure(ModelId("m"), registered, last_use_ms=1, sync=True, balanced=True)
        await asyncio.sleep(0.05)
        monkeypatch.setattr(a.plane.routing, "update", viewed)
        await asyncio.sleep(3)
        assert True in listed
        route = a.dataplane.route(ModelId("m"))
        assert route is not None
        assert route.remote
        await cluster.stop()

    run_virtual(main())


def test_a_loop_that_hangs_is_no_life(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: Rounds) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a: SimulatedInstance = await cluster.add("a")
        await asyncio.sleep(2)
        monkeypatch.setattr(Rounds, "_turn", hang)
        await asyncio.sleep(2)
        assert a.plane.supervisor.alive()
        await asyncio.sleep(400)
        assert not a.plane.supervisor.alive()
        assert not a.plane.ready
        await cluster.stop()

    run_virtual(main())


def test_a_name_that_the_data_plane_does_not_take_sends_no_call_round_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a, b = await cluster.add("a"), await cluster.add("b")
        await register(a, "m", load=True)
        await set_vmodel(a, "name", "m")
        monkeypatch.setattr(b.dataplane, "set_vmodels", mistake)
        answer = await cluster.call("name", via="b", vmodel=True)
        assert answer.status is Status.UNAVAILABLE
        monkeypatch.undo()
        await asyncio.sleep(2)
        assert (await cluster.call("name", via="b", vmodel=True)).status is Status.OK, "it is told again"
        await cluster.stop()

    run_virtual(main())


def test_an_instance_that_has_given_up_may_be_told_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes while it ends by itself."""
    dies(monkeypatch, 1000)

    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        async with asyncio.timeout(60):
            await a.plane.supervisor.ended.wait()
        await a.plane.drain(1_000)
        await cluster.stop()

    run_virtual(main())


def test_calls_that_end_runtimes_are_judged_though_the_first_judgement_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        a = await cluster.add("a")
        await register(a, "m", load=True)
        looked = a.plane.cache.look_at_usage
        monkeypatch.setattr(a.plane.cache, "look_at_usage", mistake)
        call = asyncio.create_task(cluster.call("m", via="a"))
        await asyncio.sleep(0)
        lost = AttemptFailed(
            Token(99),
            ModelId("m"),
            None,
            InstanceId("a"),
            a.plane.cache.copy(ModelId("m")).load_id,  # type: ignore[union-attr]
            Outcome.LOST,
            replayable=False,
            status=Status.UNAVAILABLE,
            message="the runtime died",
            begun=True,
        )
        a.plane.receive([lost])
        await asyncio.sleep(0.5)
        monkeypatch.setattr(a.plane.cache, "look_at_usage", looked)
        await asyncio.sleep(3)
        await call
        assert a.plane.state.model(ModelId("m")).failures, "nothing is remembered of it"
        await cluster.stop()

    run_virtual(main())
