"""What callers need for each method of ours."""

from collections.abc import Mapping
from typing import Any

import pytest

from modelmesh._proto import admin_pb2 as admin
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.adapters.credentials import KeySets
from modelmesh.control.tasks import Tasks
from modelmesh.management.access import Access
from modelmesh.management.calls import Call, Caller, CallError, CallServer, Method
from modelmesh.management.rights import NEEDS, Need
from modelmesh.management.services import serve
from modelmesh.policy.access import AccessRules, Grant
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance, register, set_vmodel
from modelmesh.values.access import Identity, Kind, Listener, Verb
from modelmesh.values.ids import Token
from modelmesh.values.status import Status

VMODEL = (Kind.VMODEL,)
EITHER = (Kind.VMODEL, Kind.MODEL)


def access_at(instance: SimulatedInstance, *grants: Grant) -> Access:
    clock = VirtualClock()
    tasks = Tasks(lambda what, error: pytest.fail(f"{what}: {error}"))
    access = Access(dataplane=instance.plane.dataplane, clock=clock, tasks=tasks, keys=KeySets(clock).keys)
    access.use(AccessRules(grants=grants))
    return access


def call_by(name: str, access: Access) -> Call:
    return Call(Token(0), "", {}, send=lambda _: None, caller=Caller(Identity(name), Listener.GRPC, access))


def test_every_method_that_clients_may_call_has_its_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        instance = await cluster.add("i1")
        served: set[str] = set()

        class Remembers(CallServer):
            def __init__(self, *, methods: Mapping[str, Method], **rest: Any) -> None:
                super().__init__(methods=methods, **rest)
                served.update(methods)

        monkeypatch.setattr("modelmesh.management.services.CallServer", Remembers)
        serve(
            instance.plane,
            access=access_at(instance),
            ready=lambda: True,
            ask_runtime=lambda _: pytest.fail("nobody asks"),
            failed=lambda method, error: pytest.fail(f"{method}: {error}"),
        )
        assert {method for method in served if not method.startswith("modelmesh.v1.Peer/")} == set(NEEDS)
        await cluster.stop()

    run_virtual(main())


@pytest.mark.parametrize(
    ("method", "request_", "needs"),
    [
        (
            "mmesh.ModelMesh/registerModel",
            mesh.RegisterModelRequest(modelId="m", loadNow=True),
            (Need(Verb.REGISTER, "m"), Need(Verb.LOAD, "m")),
        ),
        (
            "mmesh.ModelMesh/setVModel",
            mesh.SetVModelRequest(vModelId="v", targetModelId="m"),
            (Need(Verb.REGISTER, "v", VMODEL), Need(Verb.REGISTER, "m")),
        ),
        (
            "modelmesh.v1.Admin/SetSplit",
            admin.SetSplitRequest(vmodel_id="v", split=[admin.Share(model_id="m", percent=5)]),
            (Need(Verb.ADMIN, "v", VMODEL), Need(Verb.ADMIN, "m")),
        ),
        (
            "modelmesh.v1.Admin/SetVModels",
            admin.SetVModelsRequest(requests=[mesh.SetVModelRequest(vModelId="v", targetModelId="m")]),
            (Need(Verb.REGISTER, "v", VMODEL), Need(Verb.REGISTER, "m")),
        ),
        ("modelmesh.v1.Admin/WatchEvents", admin.WatchEventsRequest(), (Need(Verb.STATUS, None),)),
        ("modelmesh.v1.Admin/WatchEvents", admin.WatchEventsRequest(model_id="m"), (Need(Verb.STATUS, "m"),)),
        ("modelmesh.v1.Admin/ListInstances", admin.ListInstancesRequest(), (Need(Verb.STATUS, None),)),
        ("modelmesh.v1.Admin/Explain", admin.ExplainRequest(model_id="x"), (Need(Verb.STATUS, "x", EITHER),)),
    ],
)
def test_what_a_call_needs(method: str, request_: object, needs: tuple[Need, ...]) -> None:
    assert tuple(NEEDS[method](request_)) == needs


def test_listings_leave_out_what_a_caller_may_not_see_and_explain_looks_at_what_the_name_is() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        instance = await cluster.add("i1")
        for model in ("a1", "a2", "b1"):
            await register(instance, model)
        await set_vmodel(instance, "v", "b1")
        access = access_at(
            instance,
            Grant(("reader",), frozenset({Verb.INFER}), models=("a*", "v")),
            Grant(("caller",), frozenset({Verb.INFER}), vmodels=("v",)),
        )
        reader, caller = call_by("reader", access), call_by("caller", access)
        listed = await instance.admin.list_models(reader, admin.ListModelsRequest())
        assert [model.id for model in listed.models] == ["a1", "a2"]
        assert not (await instance.admin.list_models(caller, admin.ListModelsRequest())).models
        assert (await instance.admin.explain(caller, admin.ExplainRequest(model_id="v"))).vmodel_id == "v"
        with pytest.raises(CallError) as refused:  # a right to a model of that name is none to the vmodel
            await instance.admin.explain(reader, admin.ExplainRequest(model_id="v"))
        assert (refused.value.status, refused.value.message) == (
            Status.PERMISSION_DENIED,
            "reader may not ask for the status of vmodel v",
        )
        await cluster.stop()

    run_virtual(main())


def test_a_denial_names_the_verb_and_the_model_and_not_what_exists() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=1)
        instance = await cluster.add("i1")
        access = access_at(instance, Grant(("p",), frozenset({Verb.LOAD}), models=("m",)))
        call = call_by("p", access)
        call.require(Need(Verb.LOAD, "m"), Need(Verb.STATUS, "m"), Need(Verb.STATUS, "m", EITHER))
        for need, said in [
            (Need(Verb.REGISTER, "m"), "p may not register model m"),
            (Need(Verb.LOAD, "v", VMODEL), "p may not load vmodel v"),
            (Need(Verb.LOAD, "x", EITHER), "p may not load vmodel or model x"),
            (Need(Verb.STATUS, None), "p may not ask for the status of all models"),
            (Need(Verb.ADMIN, "m"), "p may not administer model m"),
        ]:
            with pytest.raises(CallError, match=f"^{said}$"):
                call.require(Need(Verb.LOAD, "m"), need)
        await cluster.stop()

    run_virtual(main())
