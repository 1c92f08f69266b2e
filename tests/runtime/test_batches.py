"""Dynamic batches: which requests go together, when, and whose error is whose."""

import asyncio
import logging
import threading

import grpc.aio
import numpy as np
import pytest

from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import Batching, ModelRuntime, ModelSource, RequestError
from modelmesh.runtime.batches import (
    Asked,
    Batcher,
    Last,
    NoBatchError,
    begins_in_s,
    divided,
    kind_of,
    rows_of,
    together,
)
from modelmesh.runtime.files import FileRuntime


def waiting(rows=1, kind="a", since_s=0.0, **inputs):
    loop = asyncio.new_event_loop()
    answer = loop.create_future()
    loop.close()
    request = Asked(inputs, {}, since_s, answer)
    request.rows, request.kind = rows, kind
    return request


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


class TestRules:
    def test_rows_are_those_that_all_inputs_have(self):
        assert rows_of({"a": ones(3, 2), "b": ones(3)}) == 3
        assert rows_of({"a": ones(3, 2), "b": ones(2)}) == 0
        assert rows_of({"a": np.float32(1), "b": ones(2)}) == 0
        assert rows_of({}) == 0
        assert rows_of({"a": ones(0, 2)}) == 0

    @pytest.mark.parametrize(
        ("inputs", "parameters"),
        [
            ({"b": ones(1, 2)}, {}),
            ({"a": ones(1, 3)}, {}),
            ({"a": ones(1, 2, dtype=np.float64)}, {}),
            ({"a": ones(1, 2), "b": ones(1)}, {}),
            ({"a": ones(1, 2)}, {"top": 3}),
        ],
    )
    def test_other_names_types_shapes_or_parameters_are_another_kind(self, inputs, parameters):
        kind = kind_of({"a": ones(1, 2)}, {})
        assert kind == kind_of({"a": ones(5, 2)}, {})
        assert kind != kind_of(inputs, parameters)

    def test_those_of_the_first_kind_go_together_in_their_order_as_far_as_they_fit(self):
        first, other, second, large, third = (
            waiting(2), waiting(1, "b"), waiting(3), waiting(9), waiting(1),
        )  # fmt: skip
        assert together([first, other, second, large, third], 8) == [first, second, third]
        assert together([other, first], 8) == [other]
        assert together([large, third], 8) == [large], "larger than a batch: alone, and not refused"

    def test_what_has_no_rows_is_alone(self):
        none, one = waiting(0), waiting(1)
        assert together([none, one], 8) == [none]
        assert together([one, none], 8) == [one]

    @pytest.mark.parametrize(
        ("rows", "running", "begins"),
        [(1, 0, 0.003), (1, 1, None), (8, 0, 0.0), (8, 1, 0.0), (8, 2, None), (0, 1, 0.0), (0, 2, None)],
    )
    def test_a_full_batch_takes_any_thread_and_another_waits_for_those_that_run(self, rows, running, begins):
        batching = Batching(8, max_wait_ms=5)
        chosen = [waiting(rows, since_s=1.0)]
        found = begins_in_s(chosen, batching, now_s=1.002, running=running, at_once=2, waiting=1)
        assert found == (None if begins is None else pytest.approx(begins))

    def test_nobody_waits_longer_than_permitted(self):
        chosen = [waiting(1, since_s=1.0)]
        assert begins_in_s(chosen, Batching(8, max_wait_ms=5), now_s=9.0, running=0, at_once=1, waiting=1) == 0.0

    @pytest.mark.parametrize(
        ("crowd", "now_s", "begins"), [(1, 5.0, 0.0), (3, 5.0, 0.0), (4, 5.0, 0.01), (4, 5.004, 0.006), (4, 5.02, 0.0)]
    )
    def test_a_batch_lingers_for_those_that_were_answered_just_now(self, crowd, now_s, begins):
        """As many as wait, more than wait; then the time for it is over."""
        last = Last(ended_s=5.0, took_s=0.1, crowd=crowd)
        found = begins_in_s(
            [waiting(1, since_s=4.99)] * 3, Batching(8), now_s=now_s, running=0, at_once=1, waiting=3, last=last
        )
        assert found == pytest.approx(begins)

    def test_joined_and_divided(self):
        requests = [waiting(2, a=ones(2, 3)), waiting(1, a=2 * ones(1, 3))]
        arrays = requests[0].joined(requests)
        assert arrays["a"].tolist() == [[1, 1, 1], [1, 1, 1], [2, 2, 2]]
        assert not arrays["a"].flags.writeable
        parts = divided({"y": arrays["a"][:, 0], "z": arrays["a"]}, [2, 1])
        assert [part["y"].tolist() for part in parts] == [[1, 1], [2]]
        assert [part["z"].shape for part in parts] == [(2, 3), (1, 3)]

    @pytest.mark.parametrize("output", [ones(2), np.float32(1)])
    def test_outputs_with_other_rows_cannot_be_divided(self, output):
        with pytest.raises(NoBatchError, match="output 'y' has shape"):
            divided({"y": output}, [2, 1])

    @pytest.mark.parametrize("wrong", [(0, 0), (1, -1), (1, 10_001), (1, float("nan"))])
    def test_limits_that_make_no_sense(self, wrong):
        with pytest.raises(ValueError, match="max_rows of at least 1"):
            Batching(*wrong)


class Doubler(ModelRuntime[str]):
    """Doubles; keeps the number of rows of each call. `gate` holds its calls up."""

    def __init__(self, batching):
        self.calls, self.gate = [], threading.Event()
        self.gate.set()
        self._batching = batching

    def load(self, source):
        return source.path

    def batching(self, model):
        return self._batching

    def infer(self, model, inputs, parameters):
        self.gate.wait(30)
        rows = inputs["x"]
        self.calls.append(len(rows))
        if (rows < 0).any():
            raise RequestError("a negative number")
        return {"y": np.array([2.0]) if model == "mean" else rows * 2}


async def ask(channel, value, *, rows=1):
    request = oip.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP64", shape=[rows, 1])
    request.raw_input_contents.append(np.full((rows, 1), float(value)).tobytes())
    rpc = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=oip.ModelInferRequest.SerializeToString,
        response_deserializer=oip.ModelInferResponse.FromString,
    )
    answer = await rpc(request, timeout=30)
    return np.frombuffer(answer.raw_output_contents[0]).tolist()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
async def doubler(served):
    runtime = Doubler(Batching(8))
    server = await served(runtime, listen="127.0.0.1:0", inference_threads=1)
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield runtime, server.models, channel


async def held_up(runtime, models, channel, values):
    """One call that is held up in the model, and those of `values` behind it; the gate is open then."""
    runtime.gate.clear()
    first = asyncio.create_task(ask(channel, 100))
    entry = models._entries["m"]
    await until(lambda: entry.batcher is not None and entry.batcher._running)
    rest = [asyncio.create_task(ask(channel, value)) for value in values]
    await until(lambda: len(entry.batcher._waiting) == len(values))
    return first, rest


class TestServed:
    async def test_what_waits_is_answered_by_one_call(self, doubler):
        runtime, models, _ = doubler
        await models.load(ModelSource("m"))
        first, rest = await held_up(*doubler, range(8))
        runtime.gate.set()
        assert await first == [200.0]
        assert await asyncio.gather(*rest) == [[2.0 * value] for value in range(8)]
        assert runtime.calls == [1, 8]

    async def test_an_error_is_that_of_its_own_request_only(self, doubler):
        runtime, models, _ = doubler
        await models.load(ModelSource("m"))
        _, rest = await held_up(*doubler, [1, -1, 2])
        runtime.gate.set()
        good, bad, other = await asyncio.gather(*rest, return_exceptions=True)
        assert (good, other) == ([2.0], [4.0])
        assert (bad.code(), bad.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "a negative number")

    async def test_a_model_that_answers_for_all_rows_at_once_takes_no_batches_any_more(self, doubler, caplog):
        runtime, models, channel = doubler
        await models.load(ModelSource("m", path="mean"))
        _, rest = await held_up(*doubler, [1, 2])
        with caplog.at_level(logging.WARNING, "modelmesh.runtime"):
            runtime.gate.set()
            assert await asyncio.gather(*rest) == [[2.0], [2.0]]
        assert "model m takes no batches any more: output 'y' has shape [1] for 2 rows" in caplog.text
        assert models._entries["m"].batcher.is_off
        assert await ask(channel, 1) == [2.0]

    async def test_a_caller_that_goes_takes_nobody_along(self, doubler):
        runtime, models, _ = doubler
        await models.load(ModelSource("m"))
        _, rest = await held_up(*doubler, [1, 2, 3])
        rest[1].cancel()
        await until(lambda: models._entries["m"].in_flight == 4)  # the first, its batch, and two
        runtime.gate.set()
        assert await rest[0] == [2.0]
        assert await rest[2] == [6.0]
        assert runtime.calls == [1, 2]

    async def test_a_model_whose_callers_have_gone_stays_until_its_batch_has_ended(self, doubler):
        runtime, models, _ = doubler
        await models.load(ModelSource("m"))
        first, _ = await held_up(*doubler, [])
        first.cancel()
        await until(lambda: models._entries["m"].in_flight == 1)
        unload = asyncio.create_task(models.unload("m"))
        await asyncio.sleep(0)
        assert not unload.done()
        runtime.gate.set()
        assert await unload
        assert models.ids() == []


async def test_a_lone_request_waits_as_long_as_its_model_permits_and_others_come_along():
    async def run(inputs, parameters):
        del parameters
        calls.append(len(inputs["x"]))
        return {"y": inputs["x"]}

    calls = []
    batcher = Batcher("m", run, Batching(2, max_wait_ms=10_000), at_once=1)
    one = asyncio.create_task(batcher.infer({"x": ones(1)}, {}))
    await asyncio.sleep(0)
    assert calls == []
    await asyncio.gather(one, batcher.infer({"x": ones(1)}, {}))
    assert calls == [2]
    batcher = Batcher("m", run, Batching(2, max_wait_ms=1), at_once=1)
    await batcher.infer({"x": ones(1)}, {})
    assert calls == [2, 1]


async def test_files_whose_first_axis_is_open_take_the_batches_of_the_runtime(trained, served):
    runtime = FileRuntime(models=trained, batching=Batching(64))
    server = await served(runtime, listen="127.0.0.1:0")
    await server.models.load(ModelSource("iris", path="iris.onnx"))
    await server.models.load(ModelSource("plain", path="iris.joblib"))
    assert server.models._entries["iris"].batching == Batching(64)
    assert server.models._entries["plain"].batching == Batching(64)
    rows = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    async with grpc.aio.insecure_channel(server.address) as channel:
        rpc = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelInferResponse.FromString,
        )

        async def probabilities(part):
            request = oip.ModelInferRequest(model_name="iris", raw_input_contents=[part.tobytes()])
            request.inputs.add(name="X", datatype="FP32", shape=part.shape)
            answer = await rpc(request, timeout=30)
            return np.frombuffer(answer.raw_output_contents[1], np.float32).reshape(-1, 3)

        whole = await probabilities(rows)
        parts = await asyncio.gather(*(probabilities(rows[at : at + 1]) for at in range(40)))
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)


async def test_a_python_model_says_its_batches(tmp_path, served):
    folder = tmp_path / "m"
    folder.mkdir()
    text = "from modelmesh.runtime import Batching\n\n\nclass Model:\n    batching = {}\n\n    def __init__(self, folder):\n        pass\n\n    def infer(self, inputs, parameters):\n        return inputs\n"
    (folder / "model.py").write_text(text.format("Batching(32, 1.5)"))
    server = await served(FileRuntime(models=tmp_path), listen="127.0.0.1:0")
    await server.models.load(ModelSource("m", type="python", path="m"))
    assert server.models._entries["m"].batching == Batching(32, 1.5)
    (folder / "model.py").write_text(text.format("7"))
    with pytest.raises(Exception, match="its batching is a int, not a Batching"):
        await server.models.load(ModelSource("n", type="python", path="m"))
