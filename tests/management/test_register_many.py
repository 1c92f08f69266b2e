"""Many models in one call, with an answer for each."""

import pytest
from test_access_rights import access_at, call_by

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.management.batches import MOST_MODELS, Batches
from modelmesh.management.calls import Call, CallError
from modelmesh.policy.access import Grant
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster
from modelmesh.values.access import Verb
from modelmesh.values.ids import ModelId, Token
from modelmesh.values.status import Status

NO_CALL = Call(Token(0), "", {}, send=lambda _: None)


def wanted(model: str, kind: str = "t", *, sync: bool = False) -> mesh.RegisterModelRequest:
    return mesh.RegisterModelRequest(modelId=model, modelInfo=mesh.ModelInfo(type=kind), sync=sync)


async def register(
    batches: Batches, *requests: mesh.RegisterModelRequest, call: Call = NO_CALL
) -> dict[str, tuple[int, str]]:
    answer = await batches.register_models(call, pb.RegisterModelsRequest(requests=requests))
    assert [one.model_id for one in answer.results] == [request.modelId for request in requests]
    return {one.model_id: (one.code, one.message) for one in answer.results}


def test_each_model_is_answered_for_itself() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=2)
        one = await cluster.add("i1")
        batches = Batches(one.models, one.vmodels)
        told = await register(batches, *(wanted(f"m{number}") for number in range(1_000)))
        assert set(told.values()) == {(0, "")}
        told = await register(batches, wanted("m1"), wanted("m2", "other"), wanted(""), wanted("new"))
        assert told["m1"] == told["new"] == (0, "")
        assert told["m2"] == (Status.ALREADY_EXISTS, "Model already exists with different attribute values")
        assert told[""][0] == Status.INVALID_ARGUMENT
        assert await one.models.read(ModelId("new"), fresh=True) is not None
        assert await register(batches) == {}
        await cluster.stop()

    run_virtual(main())


def test_a_call_that_is_none_registers_nothing() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=2)
        one = await cluster.add("i1")
        batches = Batches(one.models, one.vmodels)
        for requests, said in [
            ([wanted("a"), wanted("a")], "a model is in the call twice"),
            ([wanted("a", sync=True)], "`sync` is for single calls"),
            ([wanted(str(number)) for number in range(MOST_MODELS + 1)], "10001 models in one call, 10000 are allowed"),
        ]:
            with pytest.raises(CallError, match=said):
                await register(batches, *requests)
        assert await one.models.read(ModelId("a"), fresh=True) is None
        await cluster.stop()

    run_virtual(main())


def test_what_a_caller_may_not_register_does_not_stop_the_others() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=2)
        one = await cluster.add("i1")
        batches = Batches(one.models, one.vmodels)
        access = access_at(one, Grant(("p",), frozenset({Verb.REGISTER}), models=("mine-*",)))
        told = await register(batches, wanted("mine-1"), wanted("yours"), call=call_by("p", access))
        assert told == {"mine-1": (0, ""), "yours": (Status.PERMISSION_DENIED, "p may not register model yours")}
        await cluster.stop()

    run_virtual(main())
