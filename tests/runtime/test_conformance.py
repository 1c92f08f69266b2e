"""Every runtime of ours keeps the contract: built in, scripted, and the examples."""

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from modelmesh._proto import example_predictor_pb2, open_inference_pb2
from modelmesh.runtime import serve
from modelmesh.runtime.files import FileRuntime
from modelmesh.testing.conformance import CHECKS, Skipped, Subject, run_check
from modelmesh.testing.scripted_runtime import ScriptedError, ScriptedRuntime
from modelmesh.values.status import Status

EXAMPLES = Path(__file__).parents[2] / "examples" / "03-write-a-runtime"


def text_calls(method, request, answer):
    """An inference call by bytes, for services whose modules need not be imported."""

    async def infer(channel, metadata):
        rpc = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
        assert answer(await rpc(request, metadata=metadata, timeout=10))

    return infer


def iris(rows=1):
    request = open_inference_pb2.ModelInferRequest(model_name="ignored")
    tensor = request.inputs.add(name="input", datatype="FP64", shape=[rows, 4])
    tensor.contents.fp64_contents.extend([5.1, 3.5, 1.4, 0.2] * rows)
    return request


@asynccontextmanager
async def built_in(trained, tmp_path, kind):
    path, request = ("iris.joblib", iris()) if kind == "sklearn" else ("iris.onnx", iris())
    if kind == "onnx":
        request.inputs[0].name, request.inputs[0].datatype = "X", "FP32"
        request.inputs[0].contents.Clear()
        request.inputs[0].contents.fp32_contents.extend([5.1, 3.5, 1.4, 0.2])
    server = await serve(FileRuntime(models=trained), listen=f"unix://{tmp_path}/r.sock")
    yield Subject(
        server.address,
        kind,
        path,
        broken_path="cut." + path.partition(".")[2],
        infer=text_calls(
            "/inference.GRPCInferenceService/ModelInfer",
            request.SerializeToString(),
            lambda data: (
                open_inference_pb2.ModelInferResponse.FromString(data).outputs[0].name == "label" or kind == "onnx"
            ),
        ),
    )
    await server.stop(0)


def predict_text(data):
    return example_predictor_pb2.PredictResponse.FromString(data).results[0].confidence == 1.0


@asynccontextmanager
async def scripted(trained, tmp_path, kind):
    del trained, kind
    async with ScriptedRuntime(listen=[f"unix://{tmp_path}/m.sock", "127.0.0.1:0"], max_concurrency=2) as runtime:
        runtime.load_failures["conformance-broken"] = ScriptedError(Status.INVALID_ARGUMENT, "this file is broken")
        yield Subject(
            runtime.address,
            "example",
            "SIZE_1000000_5_5",
            broken_path="SIZE_1_0_0",
            infer=text_calls(
                "/mmesh.ExamplePredictor/predict",
                example_predictor_pb2.PredictRequest(text="hello").SerializeToString(),
                predict_text,
            ),
            infer_target=runtime.serving_address,
        )


@asynccontextmanager
async def program(command, cwd, env=None):
    """A program of ours, ended by SIGTERM; its end has to be a clean one."""
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, env=env, stderr=subprocess.PIPE)
    try:
        yield
        assert process.returncode is None, f"the runtime ended: {(await process.stderr.read()).decode()}"
    finally:
        if process.returncode is None:
            process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0, errors.decode()


def classify(text):
    """ClassifyRequest{text=1} and the label of its answer, by hand: the examples' own modules are not imported."""
    data = text.encode()
    return bytes([0x0A, len(data)]) + data


def example_subject(target, tmp_path):
    model = tmp_path / "words.json"
    model.write_text('{"sport": ["ball", "team"], "money": ["bank", "price"]}')
    (tmp_path / "broken.json").write_text('{"sport": ')
    return Subject(
        target,
        "words",
        str(model),
        broken_path=str(tmp_path / "broken.json"),
        infer=text_calls(
            "/classifier.Classifier/Classify",
            classify("the price of the ball at the bank"),
            lambda data: b"money" in data,
        ),
    )


@asynccontextmanager
async def example_python(trained, tmp_path, kind):
    del trained, kind
    target = f"unix://{tmp_path}/p.sock"
    source = str(Path(__file__).parents[2] / "src")
    async with program(
        [sys.executable, "runtime.py", "--listen", target], EXAMPLES / "python", {**os.environ, "PYTHONPATH": source}
    ):
        yield example_subject(target, tmp_path)


@pytest.fixture(scope="session")
def go_binary(tmp_path_factory):
    go = shutil.which("go")
    if go is None:
        if os.environ.get("CI") == "true":
            pytest.fail("the Go example must be checked in CI, and there is no Go: install Go 1.26 or later")
        pytest.skip("NOT CHECKED: the Go example needs Go 1.26 or later, which was not found")
    binary = tmp_path_factory.mktemp("go") / "runtime"
    subprocess.run([go, "build", "-o", binary, "."], cwd=EXAMPLES / "go", check=True, timeout=300)
    return binary


@asynccontextmanager
async def example_go(trained, tmp_path, kind):
    target = f"unix://{tmp_path}/g.sock"
    async with program([trained, "--listen", target], tmp_path):
        yield example_subject(target, tmp_path)


async def conforms(check, subject):
    try:
        await run_check(check, subject)
    except Skipped as reason:
        if "was given" in str(reason):  # the suite is always given everything
            raise


def named(check):
    return check.__name__


@pytest.mark.parametrize("check", CHECKS, ids=named)
@pytest.mark.parametrize("kind", ["sklearn", "onnx"])
async def test_the_built_in_runtime_conforms(check, kind, trained, tmp_path):
    async with built_in(trained, tmp_path, kind) as subject:
        await conforms(check, subject)


@pytest.mark.parametrize("check", CHECKS, ids=named)
async def test_the_scripted_runtime_conforms(check, tmp_path):
    async with scripted(None, tmp_path, None) as subject:
        await conforms(check, subject)


@pytest.mark.process
@pytest.mark.examples
async def test_the_python_example_conforms(tmp_path):
    async with example_python(None, tmp_path, None) as subject:
        for check in CHECKS:
            await conforms(check, subject)


@pytest.mark.process
@pytest.mark.examples
@pytest.mark.timeout(330)
async def test_the_go_example_conforms(go_binary, tmp_path):
    async with example_go(go_binary, tmp_path, None) as subject:
        for check in CHECKS:
            await conforms(check, subject)


class TestTheSuiteItself:
    """A suite that lets broken runtimes pass is worth nothing."""

    @pytest.mark.parametrize(
        ("broken", "check", "message"),
        [
            ({"capacity_bytes": 1}, "reports_usable_parameters", "capacityInBytes 1 is below"),
            ({"loading_concurrency": 0}, "reports_usable_parameters", "maxLoadingConcurrency is 0"),
            ({"reported_size": lambda _: 0}, "loads_and_learns_the_size", "neither loadModel nor modelSize"),
            ({"predicts": lambda _: 0}, "predicts_a_size_or_says_it_cannot", "predictModelSize answers 0"),
            ({"failing": True}, "is_ready_again", "FAILING"),
        ],
    )
    async def test_finds_a_broken_runtime(self, broken, check, message):
        async with ScriptedRuntime(**broken) as runtime:
            with pytest.raises(AssertionError, match=message):
                await run_check(
                    next(one for one in CHECKS if one.__name__ == check),
                    Subject(runtime.address, model_path="SIZE_1000_0_0"),
                )

    async def test_finds_models_that_stay_after_an_unload(self):
        class Sticky(ScriptedRuntime):
            async def _unload(self, model):
                return model in self.loaded

        async with Sticky() as runtime:
            check = next(one for one in CHECKS if one.__name__ == "unloads")
            with pytest.raises(AssertionError, match="which is gone, answers 1000 bytes"):
                await run_check(check, Subject(runtime.address, model_path="SIZE_1000_0_0"))

    async def test_finds_a_load_that_fails(self):
        async with ScriptedRuntime() as runtime:
            runtime.load_failures["conformance-1"] = ScriptedError(Status.INTERNAL, "no")
            check = next(one for one in CHECKS if one.__name__ == "unloads")
            with pytest.raises(AssertionError, match="an unexpected error: INTERNAL 'no'") as caught:
                await run_check(check, Subject(runtime.address, model_path="SIZE_1000_0_0"))
            assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
