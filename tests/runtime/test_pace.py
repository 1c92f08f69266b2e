"""Where the calls of a model run: on the loop while they are quick, else in threads."""

import threading

import grpc
import numpy as np
import pytest

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import ModelRuntime, RequestError
from modelmesh.runtime.pace import LONG_WAIT_US, LOOKED_AT, MOST_SLOW, QUICK_US, SLOW_US, Pace


def noted(pace, *times_us):
    for took_us in times_us:
        pace.note(took_us, took_us)
    return pace.on_loop


class TestPace:
    def test_quick_calls_move_to_the_loop_after_the_trial(self):
        pace = Pace()
        assert not noted(pace, *[QUICK_US] * (LOOKED_AT - 1))
        assert noted(pace, QUICK_US)

    def test_half_of_them_are_enough_if_none_of_the_others_is_slow(self):
        assert noted(Pace(), *[QUICK_US, SLOW_US] * (LOOKED_AT // 2))
        assert not noted(Pace(), *[QUICK_US, SLOW_US, SLOW_US] * LOOKED_AT)

    def test_calls_that_are_slow_now_and_then_stay_in_threads(self):
        slow = [SLOW_US + 1] * MOST_SLOW
        assert not noted(Pace(), *[1.0] * (LOOKED_AT - MOST_SLOW), *slow)

    def test_a_model_that_became_slow_goes_back_and_has_a_longer_trial(self):
        pace = Pace()
        noted(pace, *[1.0] * LOOKED_AT)
        assert noted(pace, *[SLOW_US + 1] * (MOST_SLOW - 1))
        assert not noted(pace, SLOW_US + 1)
        assert not noted(pace, *[1.0] * (4 * LOOKED_AT - 1))
        assert noted(pace, 1.0)

    def test_a_few_slow_calls_among_many_do_not_add_up_for_ever(self):
        pace = Pace()
        noted(pace, *[1.0] * LOOKED_AT)
        for _ in range(10):
            assert noted(pace, *[1.0] * (LOOKED_AT - 1), SLOW_US + 1)

    def test_turns_of_other_processes_are_not_its_fault_and_waits_are(self):
        pace = Pace()
        noted(pace, *[1.0] * LOOKED_AT)
        for _ in range(LOOKED_AT):
            pace.note(LONG_WAIT_US, 1.0)
        assert pace.on_loop
        for _ in range(MOST_SLOW):
            pace.note(LONG_WAIT_US + 1, 1.0)
        assert not pace.on_loop

    def test_only_slow_calls_need_to_be_told_with_how_many_there_were(self):
        told, all_told = Pace(), Pace()
        for pace in (told, all_told):
            noted(pace, *[1.0] * LOOKED_AT)
        for calls in (3, 1, LOOKED_AT, 5, 1):
            told.note(SLOW_US + 1, SLOW_US + 1, calls=calls)
            noted(all_told, *[1.0] * (calls - 1), SLOW_US + 1)
            assert told.on_loop
            assert all_told.on_loop
        told.note(SLOW_US + 1, SLOW_US + 1)
        assert not told.on_loop
        assert not noted(all_told, SLOW_US + 1)

    def test_one_that_cannot_run_there_never_does(self):
        pace = Pace()
        pace.never_on_loop = True
        assert not noted(pace, *[1.0] * LOOKED_AT)


class Where(ModelRuntime[str]):
    """Answers with the thread that it ran in. `x` below 0 is refused."""

    def load(self, source):
        return source.path

    def infer(self, model, inputs, parameters):
        if inputs["x"][0] < 0:
            raise RequestError("below 0")
        return {"thread": np.array([threading.get_ident()])}


class Later(Where):
    """A plain method that returns an awaitable."""

    def infer(self, model, inputs, parameters):
        async def later():
            return {"thread": np.array([threading.get_ident()])}

        return later()


@pytest.fixture
async def infer(served, request):
    server = await served(request.param(), listen="127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        load = channel.unary_unary(
            "/mmesh.ModelRuntime/loadModel",
            request_serializer=pb.LoadModelRequest.SerializeToString,
            response_deserializer=pb.LoadModelResponse.FromString,
        )
        await load(pb.LoadModelRequest(modelId="m"))
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelInferResponse.FromString,
        )

        async def answered(value=1, compression=None):
            request = oip.ModelInferRequest(model_name="m", id="7")
            request.inputs.add(name="x", datatype="INT64", shape=[1]).contents.int64_contents.append(value)
            answer = await call(request, timeout=10, compression=compression)
            assert answer.id == "7"
            return answer.outputs[0].contents.int64_contents[0]

        async def until_on_loop():
            for _ in range(50 * LOOKED_AT):
                if await answered() == threading.get_ident():
                    return
            raise AssertionError("its calls are quick, and it is still in threads")

        yield answered, until_on_loop


@pytest.mark.parametrize("infer", [Where], indirect=True)
async def test_a_quick_model_moves_to_the_loop_and_answers_the_same(infer):
    answered, until_on_loop = infer
    assert await answered() != threading.get_ident()
    await until_on_loop()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await answered(-1)
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "below 0")
    assert await answered(compression=grpc.Compression.Gzip), "a compressed request is answered, in a thread"


@pytest.mark.parametrize("infer", [Later], indirect=True)
async def test_a_method_that_returns_an_awaitable_is_never_called_on_the_loop_as_a_plain_one(infer):
    answered, _ = infer
    for _ in range(2 * LOOKED_AT):
        assert await answered() == threading.get_ident(), "its second half runs on the loop"
