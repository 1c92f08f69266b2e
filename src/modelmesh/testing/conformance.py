"""The contract of a runtime, as checks that any runtime can be put through, whatever it is written in.

    python -m modelmesh.testing.conformance --target 127.0.0.1:8085 --type sklearn --path /models/iris.joblib

or, in a test of your own:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_conformance(check):
        await run_check(check, Subject("127.0.0.1:8085", model_type="text", model_path="/models/m1"))

A check asks `runtimeStatus` first, which empties the runtime. Nothing else may use the runtime meanwhile.
Source: the contract of ModelMesh's `mmesh.ModelRuntime`, and what its sidecar does when it is broken.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.values.status import Status

Call = Callable[["grpc.aio.Channel", tuple[tuple[str, str | bytes], ...]], Awaitable[object]]
"""One inference call over a channel with this metadata; raises `grpc.aio.AioRpcError`."""


class Skipped(Exception):  # noqa: N818 - no error
    """The check does not apply to this runtime; the message says why."""


class Check(Protocol):
    """One check: an async function whose name says what must hold, and whose docstring says why."""

    __name__: str

    def __call__(self, client: "Client", /) -> Awaitable[None]:
        """Run it. Raises AssertionError or Skipped."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """A running runtime, and how to use it.

    Attributes:
        target: gRPC target of its management service.
        model_type, model_path, model_key: Of a model that loads, in a few seconds. It is loaded under many ids.
        broken_path: Of a model of that type whose load fails every time; empty: not checked.
        infer: An inference call that succeeds for that model; None: not checked.
        infer_target: Where to infer, if elsewhere.
        start_timeout_s: How long the runtime may answer STARTING.
    """

    target: str
    model_type: str = ""
    model_path: str = ""
    model_key: str = ""
    broken_path: str = ""
    infer: Call | None = None
    infer_target: str = ""
    start_timeout_s: float = 180.0


class Client:
    """What checks speak through."""

    def __init__(self, subject: Subject, channel: "grpc.aio.Channel", infer_channel: "grpc.aio.Channel") -> None:
        self.subject = subject
        self._channel = channel
        self._infer_channel = infer_channel
        self.status = pb.RuntimeStatusResponse()

    async def _call(self, method: str, request: Message, answer: Any, timeout_s: float) -> Any:
        rpc = self._channel.unary_unary(
            f"/mmesh.ModelRuntime/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return await rpc(request, timeout=timeout_s)

    async def ready(self) -> pb.RuntimeStatusResponse:
        """Ask `runtimeStatus` until READY."""
        deadline = time.monotonic() + self.subject.start_timeout_s
        while True:
            try:
                status = await self._call("runtimeStatus", pb.RuntimeStatusRequest(), pb.RuntimeStatusResponse, 30)
            except grpc.aio.AioRpcError as error:
                _demand(error.code() is grpc.StatusCode.UNAVAILABLE, f"runtimeStatus failed: {_text(error)}")
                status = pb.RuntimeStatusResponse()
            _demand(status.status != pb.RuntimeStatusResponse.FAILING, "the runtime says FAILING")
            if status.status == pb.RuntimeStatusResponse.READY:
                self.status = status
                return self.status
            _demand(time.monotonic() < deadline, f"not READY within {self.subject.start_timeout_s} s")
            await asyncio.sleep(0.1)

    async def load(self, model: str, *, path: str | None = None) -> pb.LoadModelResponse:
        """Load the subject's model under an id, within the load timeout the runtime reported."""
        subject = self.subject
        request = pb.LoadModelRequest(
            modelId=model,
            modelType=subject.model_type,
            modelPath=subject.model_path if path is None else path,
            modelKey=subject.model_key,
        )
        timeout_s = self.status.modelLoadingTimeoutMs / 1000
        loaded: pb.LoadModelResponse = await self._call("loadModel", request, pb.LoadModelResponse, timeout_s)
        return loaded

    async def unload(self, model: str) -> None:
        """Unload a model; NOT_FOUND is a success, as it is for the mesh."""
        try:
            await self._call("unloadModel", pb.UnloadModelRequest(modelId=model), pb.UnloadModelResponse, 60)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    async def size(self, model: str) -> int:
        """Ask `modelSize`."""
        answer = await self._call("modelSize", pb.ModelSizeRequest(modelId=model), pb.ModelSizeResponse, 30)
        return int(answer.sizeInBytes)

    async def predict_size(self, model: str) -> int:
        """Ask `predictModelSize` with the mesh's deadline."""
        subject = self.subject
        request = pb.PredictModelSizeRequest(
            modelId=model, modelType=subject.model_type, modelPath=subject.model_path, modelKey=subject.model_key
        )
        answer = await self._call("predictModelSize", request, pb.PredictModelSizeResponse, 0.5)
        return int(answer.sizeInBytes)

    async def learned_size(self, model: str) -> int:
        """Load a model and learn its size as the mesh does."""
        loaded = await self.load(model)
        return loaded.sizeInBytes or await self.size(model)

    async def infer(self, model: str, *, binary: bool = False) -> None:
        """Send an inference call for a model. Ids that no ASCII header can carry go as `mm-model-id-bin`."""
        if self.subject.infer is None:
            raise Skipped("no inference call was given")
        binary = binary or not (model.isascii() and model.isprintable())
        metadata = (("mm-model-id-bin", model.encode()),) if binary else (("mm-model-id", model),)
        await self.subject.infer(self._infer_channel, metadata)

    async def expect_gone(self, model: str) -> None:
        """Check by every call that can tell that a model is not loaded."""
        try:
            size_bytes = await self.size(model)
        except grpc.aio.AioRpcError as error:
            accepted = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}
            _demand(error.code() in accepted, f"modelSize of a model that is gone: {_text(error)}, not NOT_FOUND")
        else:
            raise AssertionError(f"modelSize of model {model!r}, which is gone, answers {size_bytes} bytes")
        if self.subject.infer is not None:
            await self._expect_not_found(model)

    async def _expect_not_found(self, model: str) -> None:
        try:
            await self.infer(model)
        except grpc.aio.AioRpcError as error:
            _demand(is_not_found(error), f"inference of a model that is not loaded: {_text(error)}, not NOT_FOUND")
        else:
            raise AssertionError(f"model {model!r} answers inference though it is not loaded")


def is_not_found(error: "grpc.aio.AioRpcError") -> bool:
    """Whether an inference error means "not loaded", in one of the forms the mesh understands."""
    code, text = error.code(), error.details() or ""
    triton = text.startswith("Request for unknown model") and text.endswith(
        (" is not found", " has no available versions")
    )
    mlserver = text.startswith("Model ") and text.endswith(" not found")
    return (
        code is grpc.StatusCode.NOT_FOUND
        or (code is grpc.StatusCode.UNAVAILABLE and triton)
        or (code is grpc.StatusCode.INVALID_ARGUMENT and mlserver)
    )


# --- the checks -------------------------------------------------------------------------------


async def reports_usable_parameters(client: Client) -> None:
    """The mesh refuses to start with others."""
    status = client.status
    default_bytes = status.defaultModelSizeInBytes
    _demand(default_bytes > 0, "defaultModelSizeInBytes is 0")
    least_bytes = max(2 * default_bytes, min(512 * 1024 * 1024, 10 * default_bytes))
    _demand(status.capacityInBytes >= least_bytes, f"capacityInBytes {status.capacityInBytes} is below {least_bytes}")
    _demand(status.maxLoadingConcurrency >= 1, "maxLoadingConcurrency is 0")
    _demand(status.modelLoadingTimeoutMs >= 100, f"modelLoadingTimeoutMs {status.modelLoadingTimeoutMs} is below 100")


async def is_ready_again(client: Client) -> None:
    """A mesh that restarts asks again."""
    await client.ready()


async def loads_and_learns_the_size(client: Client) -> None:
    """Either the load's answer or `modelSize` says the size; the mesh places models by it."""
    size_bytes = await client.learned_size("conformance-1")
    _demand(size_bytes > 0, "neither loadModel nor modelSize say the model's size")
    _demand(size_bytes <= client.status.capacityInBytes, f"the model takes {size_bytes} bytes, more than the capacity")


async def answers_model_size(client: Client) -> None:
    """After a lost connection the mesh asks `modelSize` to learn whether models are still there."""
    await client.load("conformance-1")
    try:
        _demand(await client.size("conformance-1") > 0, "modelSize of a loaded model answers 0")
    except grpc.aio.AioRpcError as error:
        _demand(error.code() is grpc.StatusCode.UNIMPLEMENTED, f"modelSize of a loaded model: {_text(error)}")
        raise Skipped("modelSize is not implemented: after a lost connection all models are loaded again") from None


async def says_the_same_size_twice(client: Client) -> None:
    """The mesh remembers sizes. A tenth more or less is fine."""
    first = await client.learned_size("conformance-1")
    await client.unload("conformance-1")
    second = await client.learned_size("conformance-1")
    _demand(abs(first - second) <= max(first, second) / 10, f"{first} bytes at the first load, {second} at the second")


async def loads_a_loaded_model_again(client: Client) -> None:
    """A mesh whose earlier answer was lost repeats the call."""
    await client.load("conformance-1")
    await client.load("conformance-1")


async def loads_one_model_at_once(client: Client) -> None:
    """Simultaneous loads of one id all succeed."""
    await asyncio.gather(*(client.load("conformance-1") for _ in range(4)))


async def loads_several_models_at_once(client: Client) -> None:
    """As many as the runtime says that it can."""
    count = min(client.status.maxLoadingConcurrency, 4)
    await asyncio.gather(*(client.load(f"conformance-{number}") for number in range(count)))
    for number in range(count):
        await client.unload(f"conformance-{number}")


async def takes_any_id(client: Client) -> None:
    """Ids are free text."""
    for model in ("folder/model 1", "modèle-é-模型", "x" * 200, "../up"):
        await client.load(model)
        if client.subject.infer is not None:
            await client.infer(model, binary=True)
        await client.unload(model)
        await client.expect_gone(model)


async def unloads(client: Client) -> None:
    """After the answer the model no longer exists, and inference says NOT_FOUND so that the mesh loads it elsewhere."""
    await client.load("conformance-1")
    await client.unload("conformance-1")
    await client.expect_gone("conformance-1")


async def unloads_only_the_model_named(client: Client) -> None:
    """Two ids with one path are two models."""
    await client.load("conformance-1")
    await client.load("conformance-2")
    await client.unload("conformance-1")
    await client.expect_gone("conformance-1")
    await client.load("conformance-2")
    if client.subject.infer is not None:
        await client.infer("conformance-2")


async def unloads_an_unknown_model(client: Client) -> None:
    """OK or NOT_FOUND: the mesh unloads after every failed load."""
    await client.unload("conformance-never-loaded")


async def loads_during_an_unload(client: Client) -> None:
    """Whichever comes first, a load that was answered after an unload leaves the model loaded."""
    await client.load("conformance-1")
    unload = asyncio.create_task(client.unload("conformance-1"))
    await asyncio.sleep(0)
    await asyncio.gather(unload, client.load("conformance-1"))
    await client.load("conformance-1")
    if client.subject.infer is not None:
        await client.infer("conformance-1")


async def survives_a_cancelled_load(client: Client) -> None:
    """The mesh cancels a load at its timeout and unloads; later loads must work."""
    load = asyncio.create_task(client.load("conformance-1"))
    await asyncio.sleep(0.01)
    load.cancel()
    await asyncio.wait([load])
    await client.unload("conformance-1")
    await client.expect_gone("conformance-1")
    await client.load("conformance-1")


async def drops_everything_when_ready(client: Client) -> None:
    """READY means empty: the mesh starts with nothing loaded."""
    await client.load("conformance-1")
    await client.load("conformance-2")
    await client.ready()
    await client.expect_gone("conformance-1")
    await client.expect_gone("conformance-2")


async def predicts_a_size_or_says_it_cannot(client: Client) -> None:
    """UNIMPLEMENTED is fine; an answer has to come within 500 ms and be more than nothing."""
    await client.load("conformance-1")  # what is imported at the first load is not the prediction's fault
    await client.unload("conformance-1")
    try:
        size_bytes = await client.predict_size("conformance-1")
    except grpc.aio.AioRpcError as error:
        _demand(error.code() is grpc.StatusCode.UNIMPLEMENTED, f"predictModelSize: {_text(error)}")
        raise Skipped("predictModelSize is not implemented") from None
    _demand(size_bytes > 0, "predictModelSize answers 0")


async def says_why_a_load_fails(client: Client) -> None:
    """The message is what people see in the model's status; the runtime must continue after it."""
    if not client.subject.broken_path:
        raise Skipped("no broken model was given")
    for _ in range(2):
        try:
            await client.load("conformance-broken", path=client.subject.broken_path)
        except grpc.aio.AioRpcError as error:
            text = error.details() or ""
            _demand(bool(text.strip()), f"the load of a broken model fails {error.code()} without a message")
            _demand("Traceback" not in text, f"a traceback is no message: {text}")
            vague = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED}
            _demand(error.code() not in vague, f"{_text(error)}: {error.code()} says nothing about the model")
        else:
            raise AssertionError("a broken model was loaded")
    await client.unload("conformance-broken")
    await client.load("conformance-1")


async def infers_by_either_header(client: Client) -> None:
    """The model id comes as `mm-model-id`, or as `mm-model-id-bin` where it is not ASCII."""
    await client.load("conformance-1")
    await client.infer("conformance-1")
    await client.infer("conformance-1", binary=True)


async def infers_at_the_same_time(client: Client) -> None:
    """Calls for one model run side by side."""
    await client.load("conformance-1")
    await asyncio.gather(*(client.infer("conformance-1") for _ in range(16)))


async def does_not_know_other_models(client: Client) -> None:
    """NOT_FOUND makes the mesh load the model; any other error goes to the client."""
    if client.subject.infer is None:
        raise Skipped("no inference call was given")
    await client._expect_not_found("conformance-never-loaded")  # noqa: SLF001 - same file


async def limits_concurrency_only_with_a_limit(client: Client) -> None:
    """With limitModelConcurrency each load's answer has to carry a limit."""
    if not client.status.limitModelConcurrency:
        raise Skipped("limitModelConcurrency is not set")
    loaded = await client.load("conformance-1")
    _demand(loaded.maxConcurrency >= 1, "limitModelConcurrency is set, but maxConcurrency of the load is 0")


CHECKS: tuple[Check, ...] = (
    reports_usable_parameters,
    is_ready_again,
    loads_and_learns_the_size,
    answers_model_size,
    says_the_same_size_twice,
    loads_a_loaded_model_again,
    loads_one_model_at_once,
    loads_several_models_at_once,
    takes_any_id,
    unloads,
    unloads_only_the_model_named,
    unloads_an_unknown_model,
    loads_during_an_unload,
    survives_a_cancelled_load,
    drops_everything_when_ready,
    predicts_a_size_or_says_it_cannot,
    says_why_a_load_fails,
    infers_by_either_header,
    infers_at_the_same_time,
    does_not_know_other_models,
    limits_concurrency_only_with_a_limit,
)
"""Every check, in an order to read in."""


# --- running them -----------------------------------------------------------------------------


@asynccontextmanager
async def connected(subject: Subject) -> Any:
    """A client whose runtime is READY, and so empty; it is emptied again afterwards."""
    async with grpc.aio.insecure_channel(subject.target) as channel:
        infer_target = subject.infer_target or subject.target
        async with grpc.aio.insecure_channel(infer_target) as infer_channel:
            client = Client(subject, channel, infer_channel)
            await client.ready()
            yield client
            await client.ready()


async def run_check(check: Check, subject: Subject) -> None:
    """Run one check.

    Raises:
        AssertionError: The runtime breaks the contract; the message says how.
        Skipped: It does not apply.
    """
    async with connected(subject) as client:
        try:
            await check(client)
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"{check.__name__}: an unexpected error: {_text(error)}") from error


async def run_all(subject: Subject) -> dict[str, str]:
    """Run every check; the verdict by name: `ok`, `skipped: …` or `FAILED: …`."""
    verdicts = {}
    for check in CHECKS:
        try:
            await run_check(check, subject)
        except Skipped as reason:
            verdicts[check.__name__] = f"skipped: {reason}"
        except AssertionError as failure:
            verdicts[check.__name__] = f"FAILED: {failure}"
        else:
            verdicts[check.__name__] = "ok"
    return verdicts


def _demand(holds: bool, failure: str) -> None:  # noqa: FBT001 - reads as an assertion, and stays on under -O
    if not holds:
        raise AssertionError(failure)


def _text(error: "grpc.aio.AioRpcError") -> str:
    return f"{Status(error.code().value[0]).name} {error.details()!r}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a running runtime; 1 if it breaks the contract."""
    parser = argparse.ArgumentParser(
        prog="python -m modelmesh.testing.conformance", description="Check a running runtime against the contract."
    )
    parser.add_argument("--target", default="127.0.0.1:8085", help="its management address")
    parser.add_argument("--type", default="", help="type of a model that loads")
    parser.add_argument("--path", default="", help="path of a model that loads")
    parser.add_argument("--key", default="", help="key of a model that loads")
    parser.add_argument("--broken-path", default="", help="path of a model that does not load")
    chosen = parser.parse_args(arguments)
    subject = Subject(chosen.target, chosen.type, chosen.path, chosen.key, chosen.broken_path)
    verdicts = asyncio.run(run_all(subject))
    for name, verdict in verdicts.items():
        print(f"{name.replace('_', ' '):40} {verdict}")  # noqa: T201 - the program's output
    failed = sum(verdict.startswith("FAILED") for verdict in verdicts.values())
    skipped = sum(verdict.startswith("skipped") for verdict in verdicts.values())
    held = len(verdicts) - failed - skipped
    print(f"{held} hold, {skipped} skipped, {failed} failed")  # noqa: T201 - as above
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
