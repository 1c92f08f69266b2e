"""Clients people use, unchanged: grpcio with reflection and health, tritonclient, and grpc-go."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import joblib
import numpy as np
import pytest
from conftest import PREDICT, StartMesh
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tritonclient import grpc as triton

from modelmesh._proto import example_predictor_pb2 as predictor_pb
from modelmesh.instance.local_cluster import LocalCluster

pytestmark = pytest.mark.process


async def test_reflection_tells_our_services_and_those_of_the_runtime(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    await mesh.register("m", load=True, sync=True)
    endpoint = mesh.cluster.instances[0].endpoint
    await asyncio.to_thread(explore, endpoint)


def explore(endpoint: str) -> None:
    """What grpcurl does: list, describe, call, with nothing but the endpoint."""
    with grpc.insecure_channel(endpoint) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert services >= {
            "mmesh.ModelMesh",
            "modelmesh.v1.Admin",
            "grpc.health.v1.Health",
            "inference.GRPCInferenceService",
            "mmesh.ExamplePredictor",
        }
        pool = DescriptorPool(database)
        for service, method, fields, metadata, wanted in [
            ("mmesh.ModelMesh", "getModelStatus", {"modelId": "m"}, [], "status: LOADED"),
            ("mmesh.ExamplePredictor", "predict", {"text": "x"}, [("mm-model-id", "m")], "by model m"),
            ("modelmesh.v1.Admin", "ListModels", {}, [], 'id: "m"'),
        ]:
            found = pool.FindServiceByName(service).FindMethodByName(method)
            call = channel.unary_unary(
                f"/{service}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(found.output_type).FromString,
            )
            answer = call(GetMessageClass(found.input_type)(**fields), metadata=metadata, timeout=5)
            assert wanted in str(answer)
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == serving
        watch = health.Watch(health_pb2.HealthCheckRequest(service="mmesh.ModelMesh"), timeout=5)
        assert next(watch).status == serving
        watch.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# As the old controller configures it, which names neither ModelReady nor the calls that are about no model.
OLD_METHODS = {"inference.GRPCInferenceService/ModelInfer": {"idExtractionPath": [1]}}


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="nothing configured"),
        pytest.param(
            {"MM_DATAPLANE_CONFIG": json.dumps({"rpcConfigs": OLD_METHODS, "allowOtherRpcs": True})},
            id="as the old controller configures it",
        ),
    ],
)
async def test_tritonclient_talks_to_a_mesh_of_built_in_runtimes(tmp_path: Path, environment: dict[str, str]) -> None:
    features, labels = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(features, labels)
    folder = tmp_path / "models"
    folder.mkdir()
    joblib.dump(model, folder / "iris.joblib")
    other = LogisticRegression(max_iter=500).fit(features, 2 - labels)
    joblib.dump(other, folder / "other.joblib")

    def runtime(_: int, listen: str) -> list[str]:
        command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--listen", listen, "--models", str(folder)]
        return [*command, "--capacity", "64MiB", "--default-size", "6MiB"]

    cluster = LocalCluster(2, runtime, folder=tmp_path / "state", environment=environment)
    try:
        await cluster.start()
        for instance in cluster.instances:
            await asyncio.to_thread(infer, instance.endpoint, features[:5], model)
            if not environment:  # else the message names the model, whatever the headers say
                await asyncio.to_thread(infer_versions, instance.endpoint, features[:5], model, other)
    finally:
        await cluster.stop()


def infer(endpoint: str, rows: np.ndarray, model: LogisticRegression) -> None:
    from modelmesh._proto import model_mesh_pb2 as pb
    from modelmesh.cli.client import connect

    with connect(endpoint) as client:
        info = pb.ModelInfo(type="sklearn", path="iris.joblib")
        request = pb.RegisterModelRequest(modelId="iris", modelInfo=info)
        client.call("mmesh.ModelMesh/registerModel", request, pb.ModelStatusInfo)
    headers = {"mm-model-id": "iris"}
    with triton.InferenceServerClient(endpoint) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata().name == "modelmesh"
        assert client.is_model_ready("iris"), "the id is in the message"
        assert client.get_model_metadata("iris").name == "iris"
        metadata = client.get_model_metadata("iris", headers=headers)
        tensor = triton.InferInput(metadata.inputs[0].name, list(rows.shape), "FP64")
        tensor.set_data_from_numpy(rows)
        result = client.infer("iris", [tensor], headers=headers)
    np.testing.assert_array_equal(result.as_numpy("label"), model.predict(rows))
    np.testing.assert_allclose(result.as_numpy("probabilities"), model.predict_proba(rows), rtol=1e-9)


def infer_versions(endpoint: str, rows: np.ndarray, model: LogisticRegression, other: LogisticRegression) -> None:
    """A version of a vmodel is chosen by the field that the client has for it; the runtime does not see it."""
    from modelmesh._proto import admin_pb2, model_mesh_pb2
    from modelmesh.cli.client import connect

    with connect(endpoint) as client:
        for name in ("iris", "other"):
            info = model_mesh_pb2.ModelInfo(type="sklearn", path=f"{name}.joblib")
            request = model_mesh_pb2.SetVModelRequest(
                vModelId="flowers", targetModelId=name, modelInfo=info, force=True
            )
            client.call("mmesh.ModelMesh/setVModel", request, model_mesh_pb2.VModelStatusInfo)
        labels = admin_pb2.SetLabelsRequest(vmodel_id="flowers", labels=[admin_pb2.Label(label="one", model_id="iris")])
        client.call("modelmesh.v1.Admin/SetLabels", labels, admin_pb2.VModel)
    tensor = triton.InferInput("input", list(rows.shape), "FP64")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(endpoint) as client:
        for version, expected in (("one", model), ("stable", other)):
            result = client.infer("flowers", [tensor], model_version=version, headers={"mm-vmodel-id": "flowers"})
            np.testing.assert_array_equal(result.as_numpy("label"), expected.predict(rows), err_msg=version)


async def test_a_go_client_unchanged(start_mesh: StartMesh, tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        if os.environ.get("CI") == "true":
            pytest.fail("a grpc-go client must be tried in CI, and there is no Go: install Go 1.26 or later")
        pytest.skip("NOT CHECKED: a grpc-go client needs Go 1.26 or later, which was not found")
    folder = Path(__file__).parents[2] / "examples" / "03-write-a-runtime" / "go"
    client = tmp_path / "client"
    await asyncio.to_thread(subprocess.run, [go, "build", "-o", client, "./client"], cwd=folder, check=True)
    mesh = await start_mesh(2)
    await mesh.register("m")
    request = predictor_pb.PredictRequest(text="from Go").SerializeToString().hex()

    async def run(endpoint: str, model: str) -> "subprocess.CompletedProcess[str]":
        command = [client, endpoint, model, f"/{PREDICT}", request]
        return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)

    for instance in mesh.cluster.instances:  # a load, and a hop or a copy
        done = await run(instance.endpoint, "m")
        assert done.returncode == 0, done.stderr
        status, answer = done.stdout.split()
        assert status == "SERVING"
        assert predictor_pb.PredictResponse.FromString(bytes.fromhex(answer)).results
    unknown = await run(mesh.cluster.instances[0].endpoint, "nobody")
    assert "code = NotFound desc = model not found" in unknown.stderr
