"""The demo's models, served by the built-in runtime, answer what they answer locally."""

import importlib.util
import sys
from pathlib import Path

import grpc
import pytest

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import ModelSource, serve
from modelmesh.runtime.files import FileRuntime

FILE = Path(__file__).parents[2] / "examples" / "01-real-models" / "models.py"


@pytest.fixture(scope="module")
def zoo():
    spec = importlib.util.spec_from_file_location("model_zoo", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_zoo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def manifest(zoo, tmp_path_factory):
    lines = []
    made = zoo.build(tmp_path_factory.mktemp("zoo"), lines.append)
    assert len(lines) == len(made.models)
    return made


def test_the_zoo_is_varied(manifest):
    assert len(manifest.models) >= 24
    assert len({model.kind for model in manifest.models}) >= 6
    assert sum(model.type == "onnx" for model in manifest.models) >= 8
    assert len({model.dataset for model in manifest.models}) >= 5
    assert len({model.id for model in manifest.models}) == len(manifest.models)


def test_a_complete_folder_is_left_as_it_is(zoo, manifest):
    lines = []
    assert zoo.build(manifest.folder, lines.append) == manifest
    assert "already" in lines[0]


def test_the_same_seed_gives_the_same_models(zoo, manifest, tmp_path):
    for recipe in zoo.RECIPES[:10]:
        model = zoo._make(recipe, tmp_path)
        assert model == next(known for known in manifest.models if known.id == model.id)
        assert (tmp_path / model.path).read_bytes() == (manifest.folder / model.path).read_bytes()


async def test_every_model_answers_what_it_answers_locally(zoo, manifest):
    server = await serve(FileRuntime(models=manifest.folder), listen="127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        load = channel.unary_unary(
            "/mmesh.ModelRuntime/loadModel",
            request_serializer=pb.LoadModelRequest.SerializeToString,
            response_deserializer=pb.LoadModelResponse.FromString,
        )
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        for model in manifest.models:
            await load(pb.LoadModelRequest(modelId=model.id, modelType=model.type, modelPath=model.path))
            for row in range(len(model.rows)):
                answer = await infer(zoo.request_for(model, row, request_id=str(row)))
                assert zoo.compare(model, row, answer) is None
                assert oip.ModelInferResponse.FromString(answer).id == str(row)
    await server.stop(0)


async def test_a_wrong_answer_is_noticed(zoo, manifest):
    model = next(one for one in manifest.models if one.id == "iris-logistic-regression")
    answer = oip.ModelInferResponse()
    assert "no output 'label'" in zoo.compare(model, 0, answer.SerializeToString())
    wrong = model.outputs["label"][0] + 1
    answer.outputs.add(name="label", datatype="INT64", shape=[1]).contents.int64_contents.append(wrong)
    assert f"label is {wrong}" in zoo.compare(model, 0, answer.SerializeToString())


def test_predicted_sizes_are_near_the_measured_ones(manifest):
    runtime = FileRuntime(models=manifest.folder)
    for model in manifest.models:
        source = ModelSource(model.id, model.type, model.path)
        predicted, measured = runtime.predict_size(source), runtime.load(source).size_bytes
        assert measured / 2.5 <= predicted <= max(4 * measured, measured + 100_000), model.id
