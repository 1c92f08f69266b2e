"""What the console is told, and what it may ask."""

import json
from typing import Any

import pytest
from test_access_rights import access_at, call_by

from modelmesh._proto import console_pb2 as pb
from modelmesh.management.admin import Admin
from modelmesh.management.calls import Call, CallError
from modelmesh.management.console import ADMIN, EVENTS, EVENTS_SENT, MESH, Console
from modelmesh.management.models import Models
from modelmesh.management.overview import SHOWN_COPIES
from modelmesh.management.splits import Splits
from modelmesh.management.vmodel_counts import CountCalls
from modelmesh.management.vmodels import VModelCalls
from modelmesh.policy.access import Grant
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, ensure_loaded, register, set_vmodel
from modelmesh.values.access import Verb
from modelmesh.values.ids import Token
from modelmesh.values.status import Status

NO_CALL = Call(Token(0), "", {}, send=lambda _: None)


def at(instance: SimulatedInstance) -> Console:
    plane = instance.plane
    models = Models(plane)
    methods = {
        **models.methods(),
        **VModelCalls(plane, models).methods(),
        **Admin(plane).methods(),
        **Splits(plane, models).methods(),
        **CountCalls(plane).methods(),
    }
    return Console(plane, methods)


async def look(console: Console, since: int = 0) -> tuple[int, dict[str, Any]]:
    answer = await console.look(NO_CALL, pb.LookRequest(since=since))
    return answer.last, json.loads(answer.json)


async def ask(console: Console, method: str, call: Call = NO_CALL, **body: Any) -> Any:
    return json.loads((await console.ask(call, pb.AskRequest(method=method, json=json.dumps(body)))).json)


def test_instances_their_memory_loads_and_events() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5)
        one = await cluster.add("i1", capacity_bytes=100_000, load_ms=10)
        await cluster.add("i2", capacity_bytes=100_000, load_ms=10)
        console = at(one)
        first, told = await look(console)
        assert [entry["id"] for entry in told["instances"]] == ["i1", "i2"]
        assert told["instance"] == "i1"
        assert told["loads"] == []
        for number in range(SHOWN_COPIES + 10):
            await register(one, f"m{number}")
            await ensure_loaded(one, f"m{number}", sync=True)
        await one.plane.clock.sleep(2_000)
        last, told = await look(console, first)
        loaded = sum(len(entry["models"]) + entry["others"][0] for entry in told["instances"])
        assert loaded == SHOWN_COPIES + 10
        assert all(len(entry["models"]) <= SHOWN_COPIES for entry in told["instances"])
        assert {event["kind"] for event in told["events"]} >= {"registered"}
        assert told["events"][-1]["n"] == last
        again, told = await look(console, last)
        assert (again, told["events"]) == (last, [])
        # A page that comes back from before a restart has seen numbers that were not given yet.
        assert (await look(console, 10**9))[1]["events"][-1]["n"] == last
        await cluster.stop()

    run_virtual(main())


def test_events_are_bounded() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5)
        one = await cluster.add("i1")
        console = at(one)
        for number in range(EVENTS + 500):
            one.plane.journal.note("registered", f"m{number}")
        last, told = await look(console)
        assert len(told["events"]) == EVENTS_SENT
        assert (told["events"][-1]["n"], told["events"][-1]["model"]) == (last, f"m{EVENTS + 499}")
        await cluster.stop()

    run_virtual(main())


def test_what_is_asked_is_answered_as_the_services_answer() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5)
        one = await cluster.add("i1")
        console = at(one)
        await register(one, "a")
        await set_vmodel(one, "v", "a")
        assert [model["id"] for model in (await ask(console, "ListModels", page_size=10))["models"]] == ["a"]
        assert (await ask(console, "ListVModels"))["vmodels"][0]["active_model_id"] == "a"
        assert (await ask(console, "Explain", model_id="a", dry_run=True))["plan"]["instance_id"] == "i1"
        assert (await ask(console, "Fit", size_bytes=10))["plan"]["instance_id"] == "i1"
        assert (await ask(console, "ensureLoaded", modelId="a"))["status"] in {"LOADING", "LOADED"}
        for method, body, status in [
            ("registerModel", "{}", Status.NOT_FOUND),
            ("", "{}", Status.NOT_FOUND),
            ("ListModels", "[", Status.INVALID_ARGUMENT),
            ("ListModels", '{"no_such_field": 1}', Status.INVALID_ARGUMENT),
            ("ListModels", '{"page_size": "many"}', Status.INVALID_ARGUMENT),
            ("ListModels", " " * 70_000, Status.INVALID_ARGUMENT),
            ("Explain", '{"model_id": "nothing"}', Status.NOT_FOUND),
        ]:
            with pytest.raises(CallError) as refused:
                await console.ask(NO_CALL, pb.AskRequest(method=method, json=body))
            assert refused.value.status is status, (method, body)
        assert set(console._methods) == {*ADMIN, *MESH}
        await cluster.stop()

    run_virtual(main())


def test_a_page_may_do_what_its_caller_may() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=5)
        one = await cluster.add("i1")
        console = at(one)
        await register(one, "a")
        await register(one, "b")
        access = access_at(one, Grant(("reader",), frozenset({Verb.STATUS}), models=("a",)))
        reader = call_by("reader", access)
        assert [model["id"] for model in (await ask(console, "ListModels", reader))["models"]] == ["a"]
        for method, body, said in [
            ("SetCopies", {"model_id": "a", "minimum": 1}, "reader may not administer model a"),
            ("UnloadModel", {"model_id": "a"}, "reader may not load model a"),
            ("Explain", {"model_id": "b"}, "reader may not ask for the status of vmodel or model b"),
            ("Fit", {"size_bytes": 5}, "reader may not ask for the status of all models"),
        ]:
            with pytest.raises(CallError, match=said):
                await ask(console, method, reader, **body)
        await cluster.stop()

    run_virtual(main())
