"""OpenVINO Model Server's adapter through a mesh of two instances, beside a double over the `openvino` package.

The server itself is in no package registry: `make test-servers SERVERS=ovms` runs `ovms_double.py`, which keeps to its documented
interface and loads real models with the library that the server is made of.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import onnx
import pytest
import pytest_asyncio
from onnx import TensorProto, helper, numpy_helper
from real_kit import (
    MIB,
    ROOT,
    Beings,
    Pair,
    Served,
    conformance,
    keep,
    manage,
    pair,
    path_of,
    python_of,
    ready,
    served,
    serves_again,
)

from modelmesh._proto import model_runtime_pb2 as runtime_pb

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

WIDTH = 1_000_000
"""Of the layer inside: 24 MB of weights."""
ROWS = np.array([[1.0, 2.0, 3.0]], np.float32)


def write_model(path: Path, factor: int) -> None:
    """`y = factor * x`, through two large matrices that are almost all zeros."""
    first, second = np.zeros((3, WIDTH), np.float32), np.zeros((WIDTH, 3), np.float32)
    first[:, :3], second[:3] = np.eye(3) * factor, np.eye(3)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for factor in range(1, 7):
        write_model(folder / f"times-{factor}.onnx", factor)
    write_model(folder / "versions" / "1" / "model.onnx", 1)
    write_model(folder / "versions" / "3" / "model.onnx", 9)
    (folder / "broken.onnx").write_bytes(onnx.load(folder / "times-1.onnx").SerializeToString()[:1000])
    return folder


def environment(ports: Beings) -> Mapping[str, str]:
    return {
        **path_of("ovms"),
        "PYTHONPATH": str(ROOT / "src"),
        "MALLOC_TRIM_THRESHOLD_": "1048576",
        "RUNTIME_PORT": str(ports.http),  # the adapter's: that of the REST service
        "MODEL_CONFIG_FILE": str(ports.folder / "_config.json"),
    }


def command(ports: Beings) -> list[str]:
    double = Path(__file__).with_name("ovms_double.py")
    options = [
        "--config",
        str(ports.folder / "_config.json"),
        "--rest_port",
        str(ports.http),
        "--port",
        str(ports.grpc),
    ]
    return [python_of("ovms"), str(double), *options]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    settings = {"LOADING_CONCURRENCY": "2", "DEFAULT_MODELSIZE": str(10 * MIB)}
    async with served(
        tmp_path_factory.mktemp("mesh"),
        models,
        "ovms",
        command,
        environment,
        capacity_bytes=160 * MIB,
        settings=settings,
    ) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with pair(tmp_path_factory.mktemp("alone"), models, "ovms", command, environment) as started:
        yield started


@pytest.fixture
def channel(alone: Pair) -> Iterator[grpc.aio.Channel]:
    return grpc.aio.insecure_channel(alone.target)


async def test_models_that_do_not_all_fit_answer_rightly_leave_and_come_back(mesh: Served, models: Path) -> None:
    for factor in range(1, 7):
        await mesh.register(f"times-{factor}", "onnx", models / f"times-{factor}.onnx")
    for _ in range(2):
        for factor in range(1, 7):
            found = await mesh.infer(f"times-{factor}", ROWS, via=1 + factor % 2)
            np.testing.assert_array_equal(found, ROWS * factor)
    held = [await mesh.server_has(number, f"times-{factor}") for number in mesh.ports for factor in range(1, 7)]
    assert 0 < sum(held) < 12, held


async def test_the_highest_version_of_a_folder_and_its_metadata(mesh: Served, models: Path) -> None:
    await mesh.register("versions", "onnx", models / "versions")
    np.testing.assert_array_equal(await mesh.infer("versions", ROWS), ROWS * 9)
    found = await mesh.metadata("versions")
    assert [(one.name, one.datatype, list(one.shape)) for one in found.inputs] == [("x", "FP32", [-1, 3])]


async def test_a_model_that_does_not_load_says_its_own_words_and_others_load(mesh: Served, models: Path) -> None:
    await mesh.register("broken", "onnx", models / "broken.onnx")
    with pytest.raises(grpc.aio.AioRpcError, match=r"broken.*LOADING: UNKNOWN"):
        await mesh.infer("broken", ROWS)
    await mesh.register("beside", "onnx", models / "times-2.onnx")
    np.testing.assert_array_equal(await mesh.infer("beside", ROWS), ROWS * 2)


async def test_a_server_that_is_killed_comes_back(mesh: Served, models: Path) -> None:
    await mesh.register("survivor", "onnx", models / "times-3.onnx")
    await mesh.infer("survivor", ROWS)
    (number,) = [number for number in mesh.ports if await mesh.server_has(number, "survivor")]
    os.kill(mesh.server(number).pid, signal.SIGKILL)

    async def answered(via: int) -> bool:
        np.testing.assert_array_equal(await mesh.infer("survivor", ROWS, via=via, timeout=20), ROWS * 3)
        return True

    await serves_again(mesh, number, answered)


async def test_a_size_is_what_the_server_grew_by(alone: Pair, channel: grpc.aio.Channel, models: Path) -> None:
    await ready(channel)
    request = runtime_pb.LoadModelRequest(modelId="m", modelType="mt:onnx", modelPath=str(models / "times-2.onnx"))
    sizes = []
    for _ in range(3):
        sizes.append((await manage(channel, request)).sizeInBytes)
        await manage(channel, runtime_pb.UnloadModelRequest(modelId="m"))
    assert all(20 * MIB < size < 150 * MIB for size in sizes), sizes


async def test_conformance(alone: Pair, channel: grpc.aio.Channel, models: Path) -> None:
    await ready(channel)
    subject = {
        "model_type": "mt:onnx",
        "model_path": str(models / "times-5.onnx"),
        "broken_path": str(models / "broken.onnx"),
    }
    verdicts = await conformance(alone.target, alone.ports, subject, ROWS, "x")
    keep(
        "ovms",
        {"server": "OpenVINO Model Server, a double of its interface", "version": "", "formats": {"onnx": verdicts}},
    )
    failed = {name: verdict for name, verdict in verdicts.items() if verdict.startswith("FAILED")}
    assert not failed, failed
