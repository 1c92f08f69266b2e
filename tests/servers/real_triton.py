"""Triton, the real one with its Python backend, through a mesh of two instances. `make test-servers` runs this."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from real_kit import (
    MIB,
    TOOLS,
    Beings,
    Pair,
    Served,
    conformance,
    keep,
    manage,
    pair,
    ready,
    served,
    serves_again,
)

from modelmesh._proto import model_runtime_pb2 as runtime_pb
from modelmesh.servers.memory import descendants, resident_tree

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

PACKAGES = TOOLS / "triton" / "lib" / "python3.11" / "site-packages"
BALLAST_BYTES = 24 * MIB
ROWS = np.array([[1.0, 2.0, 3.0]], np.float32)

MODEL = """
import sys
sys.path.insert(0, {packages!r})
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.ballast = np.ones({ballast} // 8)
        {extra}

    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", (x * {factor}).astype(np.float32))]))
        return answers
"""

CONFIG = """
name: "whatever it was called"
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 3 ] } ]
"""


def write_model(folder: Path, factor: int, *, extra: str = "pass", native: bool = True) -> None:
    version = folder / "1" if native else folder
    version.mkdir(parents=True)
    text = MODEL.format(packages=str(PACKAGES), ballast=BALLAST_BYTES, factor=factor, extra=extra)
    (version / "model.py").write_text(text)
    if native:
        (folder / "config.pbtxt").write_text(CONFIG)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for factor in range(1, 7):
        write_model(folder / f"times-{factor}", factor)
    write_model(folder / "described", 9, native=False)
    write_model(folder / "broken", 1, extra='raise ValueError("it will not be")')
    (folder / "schema.json").write_text(
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],'
        ' "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]}'
    )
    return folder


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_backends(tmp_path_factory.mktemp("triton"))


def copy_backends(folder: Path) -> Path:
    """The backends, with the stub for the Python of its environment."""
    server = PACKAGES / "pytriton" / "tritonserver"
    folder = folder / "backends"
    shutil.copytree(server / "backends", folder)
    stub = "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / "3.11" / stub, folder / "python" / stub)
    (folder / "python" / stub).chmod(0o755)
    return folder


def environment(_: Beings) -> Mapping[str, str]:
    return {
        "LD_LIBRARY_PATH": f"{PACKAGES / 'nvidia_pytriton.libs'}:{PACKAGES / 'pytriton' / 'tritonserver' / 'external_libs'}"
    }


def command_with(backends: Path):
    def command(ports: Beings) -> list[str]:
        (ports.folder / "_triton_models").mkdir(exist_ok=True)
        return [
            str(PACKAGES / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={ports.folder}/_triton_models",
            f"--backend-directory={backends}",
            "--model-control-mode=explicit",
            "--strict-readiness=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={ports.grpc}",
            "--http-address=127.0.0.1",
            f"--http-port={ports.http}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={ports.metrics}",
            f"--backend-config=python,shm-region-prefix-name=m{ports.grpc}",
        ]

    return command


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(models: Path, backends: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("mesh")
    capacity = 220 * MIB  # of models that take some 80 MiB each, with their interpreter
    settings = {"LOADING_CONCURRENCY": "2", "DEFAULT_MODELSIZE": str(10 * MIB)}
    async with served(
        folder, models, "triton", command_with(backends), environment, capacity_bytes=capacity, settings=settings
    ) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(models: Path, backends: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with pair(tmp_path_factory.mktemp("alone"), models, "triton", command_with(backends), environment) as started:
        yield started


@pytest.fixture
def channel(alone: Pair) -> Iterator[grpc.aio.Channel]:
    return grpc.aio.insecure_channel(alone.target)


async def test_models_that_do_not_all_fit_answer_rightly_leave_and_come_back(mesh: Served, models: Path) -> None:
    for factor in range(1, 7):
        await mesh.register(f"times-{factor}", "python", models / f"times-{factor}")
    for _ in range(2):
        for factor in range(1, 7):
            found = await mesh.infer(f"times-{factor}", ROWS, via=1 + factor % 2)
            np.testing.assert_array_equal(found, ROWS * factor)
    held = {
        number: [await mesh.server_has(number, f"times-{factor}") for factor in range(1, 7)] for number in mesh.ports
    }
    assert all(sum(names) < 5 for names in held.values()), held
    for number in mesh.ports:
        resident = resident_tree(mesh.server(number).pid)
        assert resident is not None
        assert resident < 220 * MIB + 200 * MIB, resident // MIB


async def test_metadata_and_shapes_are_the_configurations(mesh: Served, models: Path) -> None:
    await mesh.register("described", "python", models / "described", schema_path=str(models / "schema.json"))
    np.testing.assert_array_equal(await mesh.infer("described", ROWS), ROWS * 9)
    found = await mesh.metadata("described")
    assert [(one.name, one.datatype, list(one.shape)) for one in found.inputs] == [("x", "FP32", [-1, 3])]
    with pytest.raises(grpc.aio.AioRpcError, match="unexpected shape for input"):
        await mesh.infer("described", ROWS[:, :2])


async def test_a_model_that_does_not_load_says_its_own_words(mesh: Served, models: Path) -> None:
    await mesh.register("broken", "python", models / "broken")
    with pytest.raises(grpc.aio.AioRpcError, match="it will not be"):
        await mesh.infer("broken", ROWS)


async def test_a_server_that_is_killed_comes_back(mesh: Served, models: Path) -> None:
    await mesh.register("survivor", "python", models / "times-3")
    await mesh.infer("survivor", ROWS)
    (number,) = [number for number in mesh.ports if await mesh.server_has(number, "survivor")]
    os.kill(mesh.server(number).pid, signal.SIGKILL)

    async def answered(via: int) -> bool:
        np.testing.assert_array_equal(await mesh.infer("survivor", ROWS, via=via, timeout=20), ROWS * 3)
        return True

    await serves_again(mesh, number, answered)


# --- one server and its adapter, without a mesh -------------------------------------------------


def load_request(model: str, path: Path) -> runtime_pb.LoadModelRequest:
    return runtime_pb.LoadModelRequest(modelId=model, modelType="mt:python", modelPath=str(path))


async def test_an_unload_is_answered_when_the_models_process_has_ended(
    alone: Pair, channel: grpc.aio.Channel, models: Path
) -> None:
    """Triton answers an unload at once, and the process lives on for a second: freed memory that was none."""
    await ready(channel)
    for _ in range(3):
        before = set(descendants(alone.server.pid))
        size = (await manage(channel, load_request("m", models / "times-2"))).sizeInBytes
        own = set(descendants(alone.server.pid)) - before
        assert own
        taken = sum(resident_tree(process) or 0 for process in own)
        assert abs(size - taken) <= 0.15 * taken, (size, taken)
        assert size > BALLAST_BYTES
        await manage(channel, runtime_pb.UnloadModelRequest(modelId="m"))
        assert not own & set(descendants(alone.server.pid))


async def test_a_cancelled_load_leaves_no_process(alone: Pair, channel: grpc.aio.Channel, models: Path) -> None:
    await ready(channel)
    for delay_s in (0.0, 0.02, 0.2, 0.5):
        load = asyncio.create_task(manage(channel, load_request("given-up", models / "times-4")))
        await asyncio.sleep(delay_s)
        load.cancel()
        await asyncio.wait([load])
        await manage(channel, runtime_pb.UnloadModelRequest(modelId="given-up"))
        assert not descendants(alone.server.pid)
        assert not list(alone.ports.folder.glob("_triton_models/*"))


async def test_conformance(alone: Pair, channel: grpc.aio.Channel, models: Path) -> None:
    await ready(channel)
    subject = {
        "model_type": "mt:python",
        "model_path": str(models / "times-5"),
        "broken_path": str(models / "broken"),
    }
    verdicts = await conformance(alone.target, alone.ports, subject, ROWS, "x")
    version = (await manage(channel, runtime_pb.RuntimeStatusRequest())).runtimeVersion
    keep("triton", {"server": "Triton", "version": version, "formats": {"python": verdicts}})
    failed = {name: verdict for name, verdict in verdicts.items() if verdict.startswith("FAILED")}
    assert set(failed) <= {"takes_any_id"}, failed
    assert "names models by their folders" in verdicts["takes_any_id"]
