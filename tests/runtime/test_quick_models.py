"""Calls that the native core answers itself: the same answers as those that pass through Python, and no longer than the model is there."""

import contextlib
import gc
import sys
import weakref

import grpc
import numpy as np
import pytest

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import Batching, ModelRuntime, ModelSignature, RequestError, TensorSpec, inference
from modelmesh.runtime.pace import LONG_WAIT_US, LOOKED_AT, MOST_SLOW
from modelmesh.tensors import LITTLE

SIGNATURE = ModelSignature(
    (TensorSpec("x", "FP32", (-1, 2), ("FP64", "BYTES", "BF16")),), (TensorSpec("y", "FP32", (-1, 2)),)
)


class Model:
    """What a path stands for."""

    def __init__(self, path):
        self.path = path
        self.pause = None


class Echo(ModelRuntime[Model]):
    """Answers its inputs, or what the path says."""

    def __init__(self):
        self.models = {}

    def load(self, source):
        made = self.models[source.id] = Model(source.path)
        return made

    def unload(self, model):
        self.models = {id_: other for id_, other in self.models.items() if other is not model}

    def signature(self, model):
        return SIGNATURE if model.path == "signed" else ModelSignature()

    def batching(self, model):
        return Batching(4) if model.path == "batched" else None

    def infer(self, model, inputs, parameters):
        return answered(model, inputs, parameters)


class Slowly(Echo):
    """The same, never on the event loop as a plain method."""

    async def infer(self, model, inputs, parameters):
        return answered(model, inputs, parameters)


ANSWERS = {
    "list": {"y": [[1.5, 2.5]]},
    "nothing": None,
    "scalar": {"y": np.float32(3), "z": np.array(4.0)},
    "strided": {"y": np.arange(12, dtype=np.float32).reshape(3, 4).T, "z": np.arange(9)[::2]},
    "big-endian": {"y": np.arange(3, dtype=">i4")},
    "text": {"y": np.array(["a", "bc"]), "z": np.array([1])},
    "complex": {"y": np.array([1j])},
    "many": {"y": np.zeros(2**22)},
}
RAISED = {"refuses": RequestError("no, thank you"), "breaks": KeyError("a bug"), "stops": StopIteration()}


def answered(model, inputs, parameters):
    if model.pause is not None:
        model.pause()
    for array in inputs.values():
        assert not array.flags.writeable
        assert array.flags.c_contiguous
        assert array.flags.aligned
    if model.path in RAISED:
        raise RAISED[model.path]
    if model.path == "exits":
        sys.exit(3)
    if model.path in ANSWERS:
        return ANSWERS[model.path]
    if model.path == "signed":
        return {"y": np.asarray(inputs["x"], np.float64) if inputs["x"].dtype.kind == "f" else np.ones(1)}
    return {**inputs, **{f"p_{name}": np.array([str(value)]) for name, value in parameters.items()}}


class Served:
    """One runtime and a channel to it."""

    def __init__(self, runtime, channel):
        self.runtime = runtime
        self._channel = channel

    async def load(self, model, path=""):
        load = self._channel.unary_unary(
            "/mmesh.ModelRuntime/loadModel",
            request_serializer=pb.LoadModelRequest.SerializeToString,
            response_deserializer=pb.LoadModelResponse.FromString,
        )
        await load(pb.LoadModelRequest(modelId=model, modelPath=path), timeout=10)

    async def unload(self, model):
        unload = self._channel.unary_unary(
            "/mmesh.ModelRuntime/unloadModel",
            request_serializer=pb.UnloadModelRequest.SerializeToString,
            response_deserializer=pb.UnloadModelResponse.FromString,
        )
        await unload(pb.UnloadModelRequest(modelId=model), timeout=10)

    async def infer(self, request, metadata=()):
        """The bytes of the answer; else its status and details."""
        call = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        message = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            return await call(message, timeout=10, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()

    async def quicken(self, model, asked=None):
        """Calls until the native core answers."""
        for _ in range(50 * LOOKED_AT):
            await self.infer(asked or tensor("FP32", [1, 2], model=model))
            if self.quick_answers(model):
                return
        raise AssertionError("its calls are quick, and still pass through Python")

    def quick_answers(self, model):
        return self.runtime.inferences[0].quick_ids.get(model, False)


@pytest.fixture
async def serve_one(served, monkeypatch):
    async with contextlib.AsyncExitStack() as channels:

        class Watched(inference.Inference):
            """Knows which models are quick."""

            def __init__(self, runtime, *arguments, **more):
                super().__init__(runtime, *arguments, **more)
                self.quick_ids = {}
                runtime.inferences = [self]

            def _place(self, use):
                super()._place(use)
                self.quick_ids[use.id] = use.pace.on_loop and use.batching is None

        monkeypatch.setattr(inference, "Inference", Watched)

        async def start(runtime, **more):
            server = await served(runtime, listen="127.0.0.1:0", **more)
            options = [("grpc.max_receive_message_length", -1)]
            channel = await channels.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
            return Served(runtime, channel)

        yield start


def tensor(datatype, shape, data=None, model="m", name="x", **more):
    request = oip.ModelInferRequest(model_name=model, **more)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    width = np.dtype(LITTLE[datatype]).itemsize if datatype in LITTLE else 2
    request.raw_input_contents.append(bytes(int(np.prod(shape)) * width) if data is None else data)
    return request


def asked():
    """Requests by what they are, with their metadata."""
    cases = {f"{datatype}": tensor(datatype, [2, 3], id="7", model_version="2") for datatype in LITTLE}
    cases |= {
        "no axis": tensor("FP32", []),
        "no element": tensor("FP64", [0, 3]),
        "texts": tensor("BYTES", [2], b"\1\0\0\0a\2\0\0\0bc"),
        "BF16": tensor("BF16", [2], b"\x80\x3f\0\0"),
        "odd": tensor("INT8", [2, 3], b"\x80\1\2\3\4\x7f"),
        "unknown datatype": tensor("FP8", [1], b"1"),
        "short": tensor("FP32", [2], bytes(7)),
        "negative": tensor("FP32", [-1], bytes(4)),
        "enormous": tensor("FP32", [2**31, 2**31], bytes(4)),
        "not loaded": tensor("FP32", [1], model="other"),
        "garbage": b"\x0a\xff\xff",
        "empty": oip.ModelInferRequest(),
    }
    typed = oip.ModelInferRequest(model_name="m")
    typed.inputs.add(name="x", datatype="INT64", shape=[1]).contents.int64_contents.append(5)
    mixed = tensor("FP32", [1])
    mixed.inputs[0].contents.fp32_contents.append(1)
    missing = tensor("FP32", [1])
    missing.inputs.add(name="z", datatype="FP32", shape=[1])
    twice = tensor("FP32", [1])
    twice.inputs.append(twice.inputs[0])
    twice.raw_input_contents.append(bytes(4))
    two = tensor("FP32", [1])
    two.inputs.add(name="é", datatype="INT16", shape=[2])
    two.raw_input_contents.append(bytes(4))
    parameters = tensor("FP32", [1])
    parameters.parameters["top"].int64_param = 3
    wanted = oip.ModelInferRequest.FromString(two.SerializeToString())
    wanted.outputs.add(name="é")
    unknown = tensor("FP32", [1])
    unknown.outputs.add(name="nothing")
    return cases | {
        "typed": typed,
        "mixed": mixed,
        "missing": missing,
        "twice": twice,
        "two": two,
        "parameters": parameters,
        "wanted": wanted,
        "unknown output": unknown,
    }


@pytest.fixture
async def both(serve_one):
    """A runtime whose calls the core answers, and one of which it answers none."""
    return await serve_one(Echo()), await serve_one(Slowly())


async def test_every_request_has_the_same_answer(both):
    for one in both:
        await one.load("m")
    await both[0].quicken("m")
    for name, request in asked().items():
        for metadata in ((), (("mm-model-id", "m"),), (("mm-model-id-bin", b"\xff"),), (("mm-model-id", "other"),)):
            quick, plain = [await one.infer(request, metadata) for one in both]
            assert quick == plain, (name, metadata)
    assert both[0].quick_answers("m")


@pytest.mark.parametrize(
    "path",
    ["refuses", "breaks", "list", "nothing", "scalar", "strided", "big-endian", "text", "complex", "many"],
)
async def test_every_outcome_is_answered_the_same(serve_one, path):
    quick, plain = (
        await serve_one(Echo(), max_message_bytes=1 << 20),
        await serve_one(Slowly(), max_message_bytes=1 << 20),
    )
    for one in (quick, plain):
        await one.load("m")
        await one.quicken("m") if one is quick else None
        one.runtime.models["m"].path = path
    request = tensor("FP32", [1, 2], id="7")
    assert await quick.infer(request) == await plain.infer(request)


@pytest.mark.parametrize(
    ("path", "said"), [("stops", "RuntimeError: StopIteration"), ("exits", "RuntimeError: SystemExit: 3")]
)
async def test_what_would_end_the_event_loop_is_answered(serve_one, path, said):
    one = await serve_one(Echo())
    await one.load("m")
    await one.quicken("m")
    one.runtime.models["m"].path = path
    assert await one.infer(tensor("FP32", [1])) == (grpc.StatusCode.INTERNAL, said)


async def test_requests_are_checked_against_the_signature(both):
    for one in both:
        await one.load("m", "signed")
    await both[0].quicken("m")
    extra = tensor("FP32", [1, 2])
    extra.inputs.add(name="z", datatype="FP32", shape=[1])
    extra.raw_input_contents.append(bytes(4))
    for request in (
        tensor("FP32", [3, 2]),
        tensor("FP64", [1, 2]),
        tensor("FP32", [3]),
        tensor("FP32", [3, 3]),
        tensor("INT8", [3, 2]),
        tensor("FP32", [1, 2], name="z"),
        tensor("BYTES", [0, 2], b""),
        extra,
    ):
        quick, plain = [await one.infer(request) for one in both]
        assert quick == plain, request


async def test_a_model_that_leaves_is_not_called_again(serve_one):
    one = await serve_one(Echo())
    await one.load("m", "first")
    await one.quicken("m")
    gone = weakref.ref(one.runtime.models["m"])
    await one.unload("m")
    assert await one.infer(tensor("FP32", [1])) == (
        grpc.StatusCode.NOT_FOUND,
        "model 'm' is not loaded at this runtime",
    )
    gc.collect()
    assert gone() is None
    await one.load("m", "refuses")
    assert await one.infer(tensor("FP32", [1])) == (grpc.StatusCode.INVALID_ARGUMENT, "no, thank you")


async def test_a_model_that_becomes_slow_goes_back_to_threads(serve_one):
    import threading
    import time

    one = await serve_one(Echo())
    await one.load("m")
    await one.quicken("m")
    threads = []

    def pause():
        threads.append(threading.get_ident())
        time.sleep(1.1 * LONG_WAIT_US / 1e6)

    one.runtime.models["m"].pause = pause
    for _ in range(MOST_SLOW + 1):
        assert isinstance(await one.infer(tensor("FP32", [1])), bytes)
    assert set(threads[:MOST_SLOW]) == {threading.get_ident()}
    assert threads[MOST_SLOW] != threading.get_ident()


async def test_a_model_that_takes_batches_is_not_called_within_the_turn(serve_one):
    one = await serve_one(Echo())
    await one.load("m", "batched")
    for _ in range(4 * LOOKED_AT):
        await one.infer(tensor("FP32", [1, 2]))
    assert not one.quick_answers("m")
