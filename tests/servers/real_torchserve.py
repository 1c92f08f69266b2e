"""TorchServe, the real one, through a mesh of two instances. `make test-servers SERVERS=torchserve` runs this."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from real_kit import (
    MIB,
    ROOT,
    TOOLS,
    Beings,
    Pair,
    Served,
    keep,
    manage,
    pair,
    python_of,
    ready,
    served,
    serves_again,
)

from modelmesh._proto import model_runtime_pb2 as runtime_pb
from modelmesh._proto import torchserve_management_pb2 as management_pb
from modelmesh.instance.local_cluster import free_port
from modelmesh.servers.memory import descendants, resident_tree
from modelmesh.testing.conformance import Subject, run_all

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

BALLAST_BYTES = 24 * MIB
PREDICT = "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"

HANDLER = """
import torch

ballast = None


def handle(data, context):
    global ballast
    if ballast is None:
        ballast = torch.ones({ballast} // 4)
        {extra}
    if data is None:
        return None
    return [str(int(float(one["x"].decode()) * {factor})) for one in data]
"""


def write_archive(path: Path, factor: int, *, extra: str = "pass") -> None:
    manifest = {
        "runtime": "python",
        "archiverVersion": "0.12.0",
        "model": {"modelName": path.stem, "handler": "handler.py", "modelVersion": "1.0"},
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("handler.py", HANDLER.format(ballast=BALLAST_BYTES, factor=factor, extra=extra))
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))


@dataclass
class Predictions:
    """`PredictionsRequest`: name = 1, input (a map of bytes) = 3; names and values below 128 bytes."""

    x: int

    def SerializeToString(self) -> bytes:  # noqa: N802 - as messages have it
        value = str(self.x).encode()
        entry = b"\x0a\x01x\x12" + bytes([len(value)]) + value
        return b"\x1a" + bytes([len(entry)]) + entry


class Prediction:
    """`PredictionResponse`: prediction = 1."""

    @staticmethod
    def FromString(raw: bytes) -> int:  # noqa: N802 - as messages have it
        assert raw[:1] == b"\x0a"
        return int(raw[2 : 2 + raw[1]])


async def predict(mesh: Served, model: str, x: int, *, via: int = 1, timeout: float = 60) -> int:
    channel, headers = mesh.channels[via - 1], [("mm-model-id", model)]
    found: int = await mesh.call(PREDICT, Predictions(x), Prediction, channel=channel, headers=headers, timeout=timeout)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for factor in range(1, 5):
        write_archive(folder / f"times-{factor}.mar", factor)
    write_archive(folder / "broken.mar", 1, extra='raise ValueError("it will not be")')
    (folder / "no.mar").write_bytes(b"no archive")
    return folder


@dataclass(frozen=True)
class Ports:
    """What TorchServe listens on besides its management service; workers take the numbers from `workers` on."""

    inference: int
    workers: int


_ports: dict[int, Ports] = {}


def environment(beings: Beings) -> Mapping[str, str]:
    # Workers listen on sockets named by these numbers, 9000 and on by default, in one folder for the whole machine.
    own = _ports.setdefault(beings.grpc, Ports(free_port(), 10_000 + 200 * len(_ports)))
    return {
        "PATH": f"{TOOLS / 'torchserve' / 'bin'}:{os.environ['PATH']}",
        "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={beings.folder / '_temporary'}",
        "TMPDIR": str(beings.folder / "_temporary"),  # where it notes that it runs: one in a folder
        "LOG_LOCATION": str(beings.folder / "_logs"),
        "METRICS_LOCATION": str(beings.folder / "_logs"),
        "TS_GRPC_MANAGEMENT_PORT": str(beings.grpc),
        "TS_GRPC_INFERENCE_PORT": str(own.inference),
        "TS_INFERENCE_ADDRESS": f"http://127.0.0.1:{free_port()}",
        "TS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{beings.http}",
        "TS_METRICS_ADDRESS": f"http://127.0.0.1:{beings.metrics}",
        "TS_INITIAL_WORKER_PORT": str(own.workers),
    }


def inference_port(beings: Beings) -> int:
    """Where it takes inference calls, once `environment` was asked for."""
    return _ports[beings.grpc].inference


def command(beings: Beings) -> list[str]:
    """As the shipped runtime starts it, when the adapter has written the configuration; without the launcher in Python, which
    ends without its server when it is told to."""
    config = beings.folder / "_torchserve_models" / "mmconfig.properties"
    packages = TOOLS / "torchserve" / "lib" / "python3.11" / "site-packages"
    java = (
        f"java -Dmodel_server_home={packages} -cp '.:{packages}/ts/frontend/*' org.pytorch.serve.ModelServer"
        f" --python {TOOLS / 'torchserve' / 'bin' / 'python'} -f {config} -s {config.parent} -ncs"
    )
    wait = f"mkdir -p {beings.folder}/_temporary; while [ ! -e {config} ]; do sleep 0.1; done"
    return ["/bin/sh", "-c", f"{wait}; exec {java}"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("mesh")
    capacity = 620 * MIB  # of models that take some 250 MiB each, with their interpreter and torch
    settings = {"LOADING_CONCURRENCY": "2", "DEFAULT_MODELSIZE": str(20 * MIB)}
    async with served(
        folder,
        models,
        "torchserve",
        command,
        environment,
        capacity_bytes=capacity,
        settings=settings,
        data_port=inference_port,
    ) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with pair(tmp_path_factory.mktemp("alone"), models, "torchserve", command, environment) as started:
        yield started


@pytest.fixture
def channel(alone: Pair) -> Iterator[grpc.aio.Channel]:
    return grpc.aio.insecure_channel(alone.target)


async def held(mesh: Served, number: int) -> list[str]:
    method = "org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels"
    answer = await mesh.call(
        method,
        management_pb.ListModelsRequest(limit=100),
        management_pb.ManagementResponse,
        channel=mesh.servers[number],
    )
    return sorted(one["modelName"] for one in json.loads(answer.msg)["models"])


async def test_models_that_do_not_all_fit_answer_rightly_leave_and_come_back(mesh: Served, models: Path) -> None:
    for factor in range(1, 5):
        await mesh.register(f"times-{factor}", "pytorch-mar", models / f"times-{factor}.mar")
    for _ in range(2):
        for factor in range(1, 5):
            assert await predict(mesh, f"times-{factor}", 7, via=1 + factor % 2) == 7 * factor
    holding = {number: len(await held(mesh, number)) for number in mesh.ports}
    assert max(holding.values()) <= 2, holding
    assert sum(holding.values()) >= 2, holding


async def test_a_model_that_does_not_load_says_its_own_words(mesh: Served, models: Path) -> None:
    for name in ("broken", "no"):
        await mesh.register(name, "pytorch-mar", models / f"{name}.mar")
        with pytest.raises(grpc.aio.AioRpcError, match=f"TorchServe: .*{name}") as caught:
            await predict(mesh, name, 1)
        assert "rpc error" not in str(caught.value.details())
    for number in mesh.ports:
        assert not {"broken", "no"} & set(await held(mesh, number))


async def test_a_server_that_is_killed_comes_back(mesh: Served, models: Path) -> None:
    await mesh.register("survivor", "pytorch-mar", models / "times-3.mar")
    await predict(mesh, "survivor", 1)
    (number,) = [number for number in mesh.ports if "survivor" in await held(mesh, number)]
    for process in (*descendants(mesh.server(number).pid), mesh.server(number).pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    async def answered(via: int) -> bool:
        return await predict(mesh, "survivor", 2, via=via, timeout=20) == 6

    await serves_again(mesh, number, answered)


# --- one server and its adapter, without a mesh -------------------------------------------------


def load_request(model: str, path: Path) -> runtime_pb.LoadModelRequest:
    return runtime_pb.LoadModelRequest(modelId=model, modelType="mt:pytorch-mar:0", modelPath=str(path))


def workers(alone: Pair) -> list[int]:
    return [
        process
        for process in descendants(alone.server.pid)
        if b"model_service_worker" in Path(f"/proc/{process}/cmdline").read_bytes()
    ]


async def test_sizes_are_the_workers_and_an_unload_is_answered_when_they_have_ended(
    alone: Pair, channel: grpc.aio.Channel, models: Path
) -> None:
    await ready(channel)
    for _ in range(3):
        size = (await manage(channel, load_request("m", models / "times-2.mar"))).sizeInBytes
        taken = sum(resident_tree(process) or 0 for process in workers(alone))
        assert abs(size - taken) <= 0.15 * taken, (size, taken)
        assert size > BALLAST_BYTES
        await manage(channel, runtime_pb.UnloadModelRequest(modelId="m"))
        assert not workers(alone)


async def test_a_cancelled_load_leaves_no_worker(alone: Pair, channel: grpc.aio.Channel, models: Path) -> None:
    await ready(channel)
    for delay_s in (0.0, 0.1, 1.0):
        load = asyncio.create_task(manage(channel, load_request("given-up", models / "times-4.mar")))
        await asyncio.sleep(delay_s)
        load.cancel()
        await asyncio.wait([load])
        await manage(channel, runtime_pb.UnloadModelRequest(modelId="given-up"))
        assert not workers(alone)
        assert not list(alone.ports.folder.glob("_torchserve_models/given-up*"))


async def test_the_built_in_runtime_serves_torchscript_with_the_same_torch(tmp_path: Path) -> None:
    script = Path(__file__).with_name("torchscript_models.py")
    done = await asyncio.to_thread(
        subprocess.run,
        [python_of("torchserve"), str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    found = json.loads(done.stdout)
    assert found["scale"] == [[12, 15, 18, 21]] * 2
    assert found["pair"] == {"output_0": [12, 12], "output_1": [2, 2]}
    assert found["numbered"] == [2, 2]
    assert found["size"] == 48
    assert found["predicted"] is True
    said = {
        "shape": "INVALID_ARGUMENT: the model cannot take these inputs: 'x' [2, 2] (mat1 and mat2",
        "bytes": "INVALID_ARGUMENT: the model cannot take these inputs: 'x' [1] (can't convert",
        "words": "forward takes 'words', a List[str], which cannot be sent",
        "weights": "weights.ts: is no TorchScript model that can be loaded here (PytorchStreamReader",
        "cut": "cut.ts: is no TorchScript model that can be loaded here (PytorchStreamReader",
        "untrusted": "PERMISSION_DENIED",
    }
    for what, text in said.items():
        assert text in found[what], found


async def test_conformance(alone: Pair, channel: grpc.aio.Channel, models: Path) -> None:
    await ready(channel)

    async def infer(server: Any, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        headers = dict(metadata)
        model = headers.get("mm-model-id") or headers["mm-model-id-bin"]
        name = model if isinstance(model, bytes) else model.encode()
        own = b"\x0a" + bytes([len(name)]) + name if len(name) < 128 else None
        assert own is not None
        call = server.unary_unary(f"/{PREDICT}", None, Prediction.FromString)
        assert await call(own + Predictions(2).SerializeToString(), metadata=metadata, timeout=30) == 4

    subject = {
        "model_type": "mt:pytorch-mar:0",
        "model_path": str(models / "times-2.mar"),
        "broken_path": str(models / "no.mar"),
    }
    target = f"127.0.0.1:{inference_port(alone.ports)}"
    verdicts = await run_all(Subject(alone.target, infer=infer, infer_target=target, **subject))
    keep("torchserve", {"server": "TorchServe", "version": "0.12.0", "formats": {"pytorch-mar": verdicts}})
    failed = {name: verdict for name, verdict in verdicts.items() if verdict.startswith("FAILED")}
    for verdict in failed.values():  # what TorchServe says of a model that it does not know
        assert "inference of a model that is not loaded: INTERNAL" in verdict, failed
